// SPDX-License-Identifier: MIT
/* Reading of /proc/PID files. Text is read into a buffer of its own, and only what was parsed out of it goes to the arena. */
#include "lib/kernel/proc/read.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

#define READ_MIN (16u << 10)
#define READ_STEP (256u << 10)
#define PROC_FILE_MAX (1ull << 30) /* more than any file of /proc: something is wrong then */
#define PATH_SIZE 128

struct text {
	char *p;
	size_t n;
};

static void text_done(struct text *t)
{
	free(t->p);
}
#define _cleanup_text_ _cleanup_(text_done)

static void path_of(char path[PATH_SIZE], pid_t pid, const char *file)
{
	snprintf(path, PATH_SIZE, "/proc/%d/%s", pid, file);
}

/* Reads until the end of file; 0 or an errno. */
static int read_all(int fd, struct text *t)
{
	size_t cap = READ_MIN;

	t->n = 0;
	t->p = malloc(cap);
	if (!t->p)
		return ENOMEM;
	for (;;) {
		ssize_t r = read(fd, t->p + t->n, cap - t->n - 1);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno;
		if (r == 0)
			break;
		t->n += (size_t)r;
		if (cap - t->n < READ_MIN / 2) {
			char *more = realloc(t->p, cap + MAX(cap, (size_t)READ_STEP));

			if (!more)
				return ENOMEM;
			t->p = more;
			cap += MAX(cap, (size_t)READ_STEP);
			if (cap > PROC_FILE_MAX)
				return EFBIG;
		}
	}
	t->p[t->n] = 0;
	return 0;
}

static bool task_exists(pid_t pid)
{
	char path[PATH_SIZE];

	path_of(path, pid, "");
	return access(path, F_OK) == 0;
}

/*
 * What an error of open or read means. A file directly below /proc/PID that is missing while the task exists is one that
 * this kernel does not have; something below that (a thread, a descriptor) is simply gone.
 */
static int failed(struct op *op, pid_t pid, const char *file, int eno)
{
	if (eno == ESRCH || (eno == ENOENT && (strchr(file, '/') || !task_exists(pid))))
		return PROC_GONE;
	return op_errno(op, eno, AT(.pid = pid), "cannot read /proc/%d/%s", pid, file);
}

static int read_text(struct op *op, pid_t pid, const char *file, struct text *t)
{
	_cleanup_close_ int fd = -1;
	char path[PATH_SIZE];
	int eno;

	path_of(path, pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return failed(op, pid, file, errno);
	eno = read_all(fd, t);
	return eno ? failed(op, pid, file, eno) : 0;
}

static int bad_form(struct op *op, pid_t pid, const char *file)
{
	return op_fail(op, CKPT_E_KERNEL, AT(.pid = pid, .hint = "this kernel may be newer than this version of libckpt"),
		       "/proc/%d/%s is not of the form that is known", pid, file);
}

int proc_read_file(struct op *op, pid_t pid, const char *file, char **text, size_t *len)
{
	_cleanup_text_ struct text t = { 0 };
	int r = read_text(op, pid, file, &t);

	if (r)
		return r;
	*text = arena_strndup(op->arena, t.p, t.n);
	if (!*text)
		return op_nomem(op);
	*len = t.n;
	return 0;
}

static int read_status(struct op *op, pid_t pid, const char *file, struct proc_status *out)
{
	_cleanup_text_ struct text t = { 0 };
	int r = read_text(op, pid, file, &t);

	if (r)
		return r;
	return proc_parse_status(op->arena, t.p, t.n, out) ? bad_form(op, pid, file) : 0;
}

int proc_read_status(struct op *op, pid_t pid, struct proc_status *out)
{
	return read_status(op, pid, "status", out);
}

int proc_read_task_status(struct op *op, pid_t pid, pid_t tid, struct proc_status *out)
{
	char file[64];

	snprintf(file, sizeof(file), "task/%d/status", tid);
	return read_status(op, pid, file, out);
}

int proc_read_stat(struct op *op, pid_t pid, struct proc_stat *out)
{
	_cleanup_text_ struct text t = { 0 };
	int r = read_text(op, pid, "stat", &t);

	if (r)
		return r;
	return proc_parse_stat(t.p, t.n, out) ? bad_form(op, pid, "stat") : 0;
}

int proc_read_limits(struct op *op, pid_t pid, struct proc_limit out[16])
{
	_cleanup_text_ struct text t = { 0 };
	int r = read_text(op, pid, "limits", &t);

	if (r)
		return r;
	return proc_parse_limits(t.p, t.n, out) ? bad_form(op, pid, "limits") : 0;
}

/* The parsers that have the same shape. */
#define READER(name, type, file_name, parse)                                        \
	int name(struct op *op, pid_t pid, struct type *out)                        \
	{                                                                           \
		_cleanup_text_ struct text t = { 0 };                               \
		int r = read_text(op, pid, file_name, &t);                          \
                                                                                    \
		if (r)                                                              \
			return r;                                                   \
		return parse(op->arena, t.p, t.n, out) ? bad_form(op, pid, file_name) : 0; \
	}
READER(proc_read_maps, proc_maps, "maps", proc_parse_maps)
READER(proc_read_smaps, proc_maps, "smaps", proc_parse_maps)
READER(proc_read_timers, proc_timers, "timers", proc_parse_timers)
READER(proc_read_cgroup, proc_cgroups, "cgroup", proc_parse_cgroup)
READER(proc_read_mountinfo, proc_mounts, "mountinfo", proc_parse_mountinfo)

/* PROC_GONE: the kernel was built without it. */
static int read_net(struct op *op, const char *name, char file[PATH_SIZE], struct text *t)
{
	snprintf(file, PATH_SIZE, "task/%d/net/%s", gettid(), name);
	return read_text(op, getpid(), file, t);
}

int proc_read_groups(struct op *op, const char *name, struct proc_groups *out)
{
	_cleanup_text_ struct text t = { 0 };
	char file[PATH_SIZE];
	int r = read_net(op, name, file, &t);

	*out = (struct proc_groups){ 0 };
	if (r)
		return r == PROC_GONE ? 0 : r;
	r = strcmp(name, "igmp") == 0 ? proc_parse_igmp(op->arena, t.p, t.n, out) : proc_parse_igmp6(op->arena, t.p, t.n, out);
	return r ? bad_form(op, getpid(), file) : 0;
}

int proc_read_sockets(struct op *op, const char *name, struct proc_sockets *out)
{
	_cleanup_text_ struct text t = { 0 };
	char file[PATH_SIZE];
	int r = read_net(op, name, file, &t);

	*out = (struct proc_sockets){ 0 };
	if (r)
		return r == PROC_GONE ? 0 : r;
	return proc_parse_sockets(op->arena, t.p, t.n, out) ? bad_form(op, getpid(), file) : 0;
}

int proc_read_fdinfo(struct op *op, pid_t pid, int fd, struct proc_fdinfo *out)
{
	_cleanup_text_ struct text t = { 0 };
	char file[64];
	int r;

	snprintf(file, sizeof(file), "fdinfo/%d", fd);
	r = read_text(op, pid, file, &t);
	if (r)
		return r;
	return proc_parse_fdinfo(op->arena, t.p, t.n, out) ? bad_form(op, pid, file) : 0;
}

static void closedir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

static int compare_ints(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

/* Only plain decimal numbers: "." and ".." and whatever else is there are not ours. */
static bool name_to_int(const char *name, int *out)
{
	char *end;
	long v;

	if (name[0] < '0' || name[0] > '9')
		return false;
	errno = 0;
	v = strtol(name, &end, 10);
	if (errno || *end || v > INT_MAX)
		return false;
	*out = (int)v;
	return true;
}

static int add_number(struct op *op, struct proc_numbers *out, int v)
{
	int *slot = ARRAY_ADD(op->arena, &out->v);

	if (!slot)
		return op_nomem(op);
	*slot = v;
	return 0;
}

int proc_list_numbers(struct op *op, pid_t pid, const char *dir, struct proc_numbers *out)
{
	_cleanup_(closedir_p) DIR *d = NULL;
	char path[PATH_SIZE];
	struct dirent *e;
	int v, r;

	memset(out, 0, sizeof(*out));
	path_of(path, pid, dir);
	d = opendir(path);
	if (!d)
		return failed(op, pid, dir, errno);
	while (errno = 0, (e = readdir(d))) {
		if (!name_to_int(e->d_name, &v))
			continue;
		r = add_number(op, out, v);
		if (r)
			return r;
	}
	if (errno)
		return failed(op, pid, dir, errno);
	if (out->v.n)
		qsort(out->v.v, out->v.n, sizeof(*out->v.v), compare_ints);
	return 0;
}

static int add_children(struct op *op, const struct text *t, struct proc_numbers *out)
{
	char *p = t->p, *end;

	for (;; p = end) {
		long v = strtol(p, &end, 10);
		int r;

		if (end == p)
			return 0;
		if (v <= 0 || v > INT_MAX)
			continue;
		r = add_number(op, out, (int)v);
		if (r)
			return r;
	}
}

int proc_list_children(struct op *op, pid_t pid, struct proc_numbers *out)
{
	struct proc_numbers tids;
	int r = proc_list_numbers(op, pid, "task", &tids);

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; !r && i < tids.v.n; i++) {
		_cleanup_text_ struct text t = { 0 };
		char file[64];

		snprintf(file, sizeof(file), "task/%d/children", tids.v.v[i]);
		r = read_text(op, pid, file, &t);
		if (r == PROC_GONE)
			r = 0; /* this thread only; its children went to another one */
		else if (!r)
			r = add_children(op, &t, out);
	}
	if (!r && out->v.n)
		qsort(out->v.v, out->v.n, sizeof(*out->v.v), compare_ints);
	return r;
}

int proc_read_link(struct op *op, pid_t pid, const char *file, char **target)
{
	char path[PATH_SIZE], buf[PATH_MAX + 1];
	ssize_t n;

	path_of(path, pid, file);
	n = readlink(path, buf, sizeof(buf));
	/* A link that is not there belongs to a task that is on its way out (or to the kernel). */
	if (n < 0 && errno == ENOENT)
		return PROC_GONE;
	if (n < 0)
		return failed(op, pid, file, errno);
	if ((size_t)n == sizeof(buf))
		return failed(op, pid, file, ENAMETOOLONG);
	*target = arena_strndup(op->arena, buf, (size_t)n);
	return *target ? 0 : op_nomem(op);
}
