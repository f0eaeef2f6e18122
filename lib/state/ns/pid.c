/* SPDX-License-Identifier: MIT */
/*
 * PID namespaces. With its init, the root of the tree, everybody in one ends: also a process that was put there from outside
 * (runc exec, nsenter), which is no child of anybody in the tree. Such a one must not be lost by a checkpoint without a word.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/ns/core.h"
#include "lib/state/pids.h"

#define STAT_MAX 512

/* The first process that is in the namespace and not in the tree. */
struct stranger {
	const struct snapshot *s;
	int pidfd; /* -1: there is none */
	char comm[64];
};

static bool in_tree(const struct snapshot *s, pid_t number)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].pid == number)
			return true;
	return false;
}

/* Of a process that has ended there is nothing to lose. */
static bool is_alive(int proc, const char *name, char comm[64])
{
	char path[32], text[STAT_MAX];
	struct proc_stat st;
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%.16s/stat", name);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, text, sizeof(text)) : -1;
	if (n <= 0 || proc_parse_stat(text, (size_t)n, &st) != 0 || st.state == 'Z' || st.state == 'X')
		return false;
	memcpy(comm, st.comm, sizeof(st.comm));
	return true;
}

static int open_proc(struct op *op)
{
	_cleanup_close_ int fs = fsopen("proc", FSOPEN_CLOEXEC), mount = -1;
	int dir = -1;

	if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mount >= 0)
		dir = openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir >= 0 ? dir : op_errno(op, errno, AT(.kind = "namespace"), "look into the PID namespace of the tree");
}

/* In the namespace, with a /proc of it: that lists those who are there, and nobody else. */
static int find_stranger(struct op *op, void *arg)
{
	struct stranger *who = arg;
	int proc = open_proc(op);
	DIR *dir = proc >= 0 ? fdopendir(proc) : NULL;
	struct dirent *e;
	int r;

	if (proc < 0)
		return proc;
	if (!dir) {
		close(proc);
		return op_nomem(op);
	}
	errno = 0;
	while (who->pidfd < 0 && (e = readdir(dir))) {
		pid_t number = atoi(e->d_name);

		if (number > 0 && number != getpid() && !in_tree(who->s, number) && is_alive(proc, e->d_name, who->comm))
			who->pidfd = sys_pidfd_open(number, 0);
		errno = 0;
	}
	r = errno ? op_errno(op, errno, AT(.kind = "namespace"), "list the processes in the PID namespace of the tree") : 0;
	closedir(dir);
	return r;
}

/* What we call the process of a pidfd; 0: it has ended. */
static pid_t host_number(struct op *op, int pidfd)
{
	struct proc_fdinfo info;
	struct proc_pidfd p;

	if (proc_read_fdinfo(op, getpid(), pidfd, &info) != 0 || proc_parse_pidfd(info.rest, info.rest_len, &p) != 0) {
		op_forget(op);
		return 0;
	}
	return MAX(p.pid, 0);
}

static int pid_dump(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct stranger who = { .s = s, .pidfd = -1 };
	_cleanup_close_ int pidfd = -1;
	pid_t host;
	int r;

	/* Those that are below it are seen from there, too. */
	if (ns != ns_own(s, NS_PID))
		return 0;
	r = pids_run_inside(op, s, find_stranger, &who);
	pidfd = who.pidfd;
	if (r || pidfd < 0)
		return r;
	host = host_number(op, pidfd);
	if (op->opts->leave_running || op->opts->leave_stopped) {
		log_warn(op, "process %d (%s) is in the PID namespace of the tree, and not in the tree: it is not in the checkpoint",
			 host, who.comm);
		return 0;
	}
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = host, .kind = "namespace",
			  .hint = "let what was started in the container from outside (exec, nsenter) end first"),
		       "process %d (%s) is in the PID namespace of the tree, but not in the tree: it would end with it", host, who.comm);
}

int pidns_write_keys(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->ns && i < s->ns->v.n && !r; i++) {
		const struct snap_ns *ns = s->ns->v.v[i];
		PidnsEntry m = PIDNS_ENTRY__INIT;

		if (ns->kind != NS_PID || !ns->ext_key)
			continue;
		m.ext_key = (char *)(uintptr_t)ns->ext_key;
		r = img_write_one(op, s->dir, IMG_PIDNS, ns->id, &m.base);
	}
	return r;
}

const struct ns_content ns_pid = { .dump = pid_dump };
