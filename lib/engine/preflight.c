/* SPDX-License-Identifier: MIT */
#include "lib/engine/preflight.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/ns/ns.h"


struct subject {
	pid_t pid;
	struct proc_status status;
	bool there;
};

/* Each returns NULL, or an error value that the caller owns. They come in this order; some end the questions. */
typedef struct ckpt_err *(*check_fn)(struct op *op, const struct subject *s);

static struct ckpt_err *check_exists(struct op *op, const struct subject *s)
{
	(void)op;
	if (s->pid <= 0)
		return err_new(CKPT_E_INVAL, AT(.pid = s->pid, .hint = "name the root task with -t PID"),
			       "%d is not a process number", s->pid);
	if (!s->there)
		return err_new(CKPT_E_NO_PROCESS, AT(.pid = s->pid), "no process %d", s->pid);
	if (s->status.tgid != s->pid)
		return err_new(CKPT_E_INVAL, AT(.pid = s->pid, .hint = "name the process, not one of its threads"),
			       "%d is a thread of process %d", s->pid, s->status.tgid);
	return NULL;
}

static struct ckpt_err *check_alive(struct op *op, const struct subject *s)
{
	(void)op;
	if (s->status.state == 'Z' || s->status.state == 'X')
		return err_new(CKPT_E_NO_PROCESS, AT(.pid = s->pid, .kind = "zombie"),
			       "process %d (%s) has ended already: a zombie that its parent %d has not waited for", s->pid,
			       s->status.name, s->status.ppid);
	if (s->status.kernel_thread || !s->status.has_mm)
		return err_new(CKPT_E_UNSUPPORTED, AT(.pid = s->pid, .kind = "kernel thread"),
			       "process %d (%s) is a kernel thread", s->pid, s->status.name);
	return NULL;
}

static struct ckpt_err *check_not_ourselves(struct op *op, const struct subject *s)
{
	struct proc_status st;
	pid_t pid = getpid();

	if (pid == s->pid)
		return err_new(CKPT_E_INVAL, AT(.pid = pid, .hint = "a program checkpoints itself by ckpt_dump_self()"),
			       "process %d is the one that checkpoints", pid);
	while (pid > 1 && proc_read_status(op, pid, &st) == 0) {
		pid = st.ppid;
		if (pid == s->pid)
			return err_new(CKPT_E_INVAL,
				       AT(.pid = pid, .hint = "start the checkpoint from outside that tree, e.g. with setsid -f"),
				       "process %d (%s) is an ancestor of the one that checkpoints, which would stop itself", pid,
				       s->status.name);
	}
	op_forget(op);
	return NULL;
}

static struct ckpt_err *check_not_traced(struct op *op, const struct subject *s)
{
	struct proc_status by = { 0 };

	if (!s->status.tracer)
		return NULL;
	if (proc_read_status(op, s->status.tracer, &by) != 0)
		op_forget(op);
	return err_new(CKPT_E_BUSY, AT(.pid = s->pid, .kind = "ptrace", .hint = "detach the debugger or tracer first"),
		       "process %d (%s) is traced by process %d (%s)", s->pid, s->status.name, s->status.tracer, by.name);
}

static struct ckpt_err *check_privilege(struct op *op, const struct subject *s)
{
	char path[64];

	(void)op;
	/* Opening map_files and mem of somebody else's task is what needs most. */
	snprintf(path, sizeof(path), "/proc/%d/mem", s->pid);
	if (access(path, R_OK | W_OK) == 0 && geteuid() == 0)
		return NULL;
	return err_new(CKPT_E_PERM, AT(.pid = s->pid, .hint = "run as root (CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE)"),
		       "not enough privilege to checkpoint process %d (%s): CAP_SYS_PTRACE and CAP_SYS_ADMIN are needed", s->pid,
		       s->status.name);
}

/* Said now rather than by the restore, when the program is gone. */
static struct ckpt_err *check_session(struct op *op, const struct subject *s)
{
	struct proc_stat st;

	if (op->opts->shell_job)
		return NULL;
	if (proc_read_stat(op, s->pid, &st) != 0) {
		op_forget(op);
		return NULL;
	}
	if (st.session == s->pid)
		return NULL;
	return err_new(CKPT_E_UNSUPPORTED,
		       AT(.pid = s->pid, .kind = "session",
			  .hint = "use --shell-job (-j), at the restore too, where it joins the caller's session; or start the "
				  "program with setsid(1)"),
		       "process %d (%s) belongs to session %d, which it does not lead", s->pid, s->status.name, st.session);
}

/* Whether two names below /proc/PID/ns are of one namespace; also where one of them is not there. */
static bool same_ns(pid_t a, const char *name_a, pid_t b, const char *name_b)
{
	struct stat x, y;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", a, name_a);
	if (stat(path, &x) < 0)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", b, name_b);
	return stat(path, &y) < 0 || (x.st_ino == y.st_ino && x.st_dev == y.st_dev);
}

/* Children to come would live in another namespace than the process itself. */
static struct ckpt_err *check_namespaces(struct op *op, const struct subject *s)
{
	static const char *const names[][2] = { { "time", "time_for_children" } };

	(void)op;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!same_ns(s->pid, names[i][0], s->pid, names[i][1]))
			return err_new(CKPT_E_UNSUPPORTED, AT(.pid = s->pid, .kind = "namespace"),
				       "children of process %d (%s) would be in another %s namespace than it is, which is not supported",
				       s->pid, s->status.name, names[i][0]);
	return NULL;
}

/* The tree may have namespaces of its own, but of these only one of a kind. */
static struct ckpt_err *check_nested(const struct subject *s, pid_t root)
{
	for (unsigned k = 0; k < NS_N; k++)
		if (!ns_may_be_below(k) && !same_ns(s->pid, ns_info[k].name, root, ns_info[k].name))
			return err_new(CKPT_E_UNSUPPORTED, AT(.pid = s->pid, .kind = "namespace"),
				       "process %d (%s) is in another %s namespace than the root of the tree, which is not supported", s->pid,
				       s->status.name, ns_info[k].word);
	return NULL;
}

static struct ckpt_err *check_below(struct op *op, const struct subject *s)
{
	return check_nested(s, op->root ? op->root : s->pid);
}

/* What a thread has for itself where it usually shares the main thread's. NULL: nothing. */
static const char *own_of_thread(pid_t pid, pid_t tid)
{
	static const char *const ns[] = { "net", "uts", "ipc", "cgroup" };
	static const char *const names[] = { "a network namespace", "a UTS namespace", "an IPC namespace", "a cgroup namespace" };
	struct stat leaders, threads;
	char path[64];

	if (sys_kcmp(pid, tid, KCMP_FILES, 0, 0) > 0)
		return "a descriptor table";
	if (sys_kcmp(pid, tid, KCMP_FS, 0, 0) > 0)
		return "a working directory, root and umask";
	for (size_t i = 0; i < ARRAY_SIZE(ns); i++) {
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, ns[i]);
		if (stat(path, &leaders) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%d/ns/%s", pid, tid, ns[i]);
		if (stat(path, &threads) == 0 && threads.st_ino != leaders.st_ino)
			return names[i];
	}
	return NULL;
}

static struct ckpt_err *check_threads(struct op *op, const struct subject *s)
{
	struct proc_numbers tids = { 0 };

	if (s->status.threads < 2)
		return NULL;
	if (proc_list_numbers(op, s->pid, "task", &tids) != 0)
		op_forget(op);
	for (size_t i = 0; i < tids.v.n; i++) {
		const char *own = tids.v.v[i] == s->pid ? NULL : own_of_thread(s->pid, tids.v.v[i]);

		if (own)
			return err_new(CKPT_E_UNSUPPORTED, AT(.pid = s->pid, .kind = "thread"),
				       "thread %d of process %d (%s) has %s of its own, which is not supported", tids.v.v[i], s->pid,
				       s->status.name, own);
	}
	return NULL;
}

/* By its executable: a program may also run 32-bit code for a moment, which only a stopped one shows. */
static struct ckpt_err *check_bits(struct op *op, const struct subject *s)
{
	unsigned char ident[EI_NIDENT];
	_cleanup_close_ int fd = -1;
	char path[64];

	(void)op;
	snprintf(path, sizeof(path), "/proc/%d/exe", s->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, ident, sizeof(ident)) != (ssize_t)sizeof(ident) || memcmp(ident, ELFMAG, SELFMAG) != 0 ||
	    ident[EI_CLASS] != ELFCLASS32)
		return NULL;
	return err_new(CKPT_E_UNSUPPORTED,
		       AT(.pid = s->pid, .kind = "32-bit task", .hint = "only 64-bit programs can be checkpointed"),
		       "process %d is a 32-bit program", s->pid);
}

static const struct {
	check_fn fn;
	bool last_word; /* when it finds something, the other questions make no sense */
	bool root;	/* asked of the root of the tree only */
} checks[] = {
	{ check_exists, true },	       { check_alive, true },	   { check_not_ourselves, true }, { check_privilege, true },
	{ check_not_traced, false },   { check_namespaces, false }, { check_below, false },
	{ check_threads, false },
	{ check_bits, false },	       { check_session, false, true },
};

static int look_at(struct op *op, pid_t pid, struct subject *s)
{
	int r = 0;

	*s = (struct subject){ .pid = pid };
	if (pid > 0)
		r = proc_read_status(op, pid, &s->status);
	s->there = r == 0;
	return r < 0 ? r : 0;
}

int preflight(struct op *op, pid_t pid)
{
	struct subject s;
	int r = look_at(op, pid, &s);

	for (size_t i = 0; i < ARRAY_SIZE(checks) && !r; i++) {
		struct ckpt_err *e = checks[i].fn(op, &s);

		if (e) {
			op_forget(op);
			op->err = e;
			r = ckpt_err_code(e);
		}
	}
	return r;
}

int preflight_frozen(struct op *op, pid_t pid, pid_t root)
{
	struct subject s;
	struct ckpt_err *e = NULL;
	int r = look_at(op, pid, &s);

	if (!r)
		e = check_exists(op, &s) ?: check_namespaces(op, &s) ?: check_nested(&s, root) ?: check_threads(op, &s);
	if (e) {
		op_forget(op);
		op->err = e;
		r = ckpt_err_code(e);
	}
	return r;
}

int preflight_report(struct op *op, pid_t pid, bool root, ckpt_obstacle_fn fn, void *arg)
{
	struct subject s;
	int r = look_at(op, pid, &s), n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(checks) && !r; i++) {
		struct ckpt_err *e = root || !checks[i].root ? checks[i].fn(op, &s) : NULL;

		if (!e)
			continue;
		fn(arg, e);
		ckpt_err_free(e);
		n++;
		if (checks[i].last_word)
			break;
	}
	return r ?: n;
}
