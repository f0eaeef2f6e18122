/* SPDX-License-Identifier: MIT */
/* Errands in other namespaces, and views of other roots. Need root. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "lib/kernel/errand.h"
#include "lib/state/view.h"

static struct op *new_op(void)
{
	static struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op *op = calloc(1, sizeof(*op));

	op->arena = arena_new();
	op->opts = &opts;
	return op;
}

static void free_op(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
	free(op);
}

struct seen {
	char host[65];
	pid_t pid;
	uid_t uid;
	int fd;
	bool other_root;
};

static int look(struct op *op, void *arg)
{
	struct seen *s = arg;
	struct utsname u;

	uname(&u);
	snprintf(s->host, sizeof(s->host), "%s", u.nodename);
	s->pid = getpid();
	s->uid = getuid();
	s->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return op_alloc(op, 1000) ? 0 : CKPT_E_NOMEM;
}

static int say_no(struct op *op, void *arg)
{
	(void)arg;
	return op_fail(op, CKPT_E_BUSY, NULL, "no");
}

static int die(struct op *op, void *arg)
{
	(void)op;
	(void)arg;
	raise(SIGKILL);
	return 0;
}

static void here(void **state)
{
	const struct errand_where where = ERRAND_HERE;
	struct op *op = new_op();
	struct seen s = { 0 };

	(void)state;
	assert_int_equal(errand_run(op, &where, look, &s), 0);
	assert_int_not_equal(s.pid, getpid());
	assert_true(fcntl(s.fd, F_GETFD) >= 0); /* what it opened is open here */
	close(s.fd);
	assert_int_equal(errand_run(op, &where, say_no, NULL), CKPT_E_BUSY);
	assert_string_equal(ckpt_err_message(op->err), "no");
	op_forget(op);
	assert_int_equal(errand_run(op, &where, die, NULL), CKPT_E_SYS);
	free_op(op);
}

/* A process in namespaces of its own, until it is killed. */
static pid_t start_other(int flags)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (unshare(flags) < 0 || ((flags & CLONE_NEWUTS) && sethostname("elsewhere", 9) < 0))
			_exit(1);
		if (flags & CLONE_NEWPID) {
			pid_t init = fork();

			if (!init) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (write(ready[1], "", 1) != 1)
					_exit(1);
				pause();
			}
			close(ready[1]);
			waitpid(init, NULL, 0);
			_exit(0);
		}
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		close(ready[0]);
		waitpid(pid, NULL, 0);
		return 0;
	}
	close(ready[0]);
	return pid;
}

static int ns_of_pid(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void end_other(pid_t pid, const struct errand_where *w)
{
	const int fds[] = { w->user, w->pid, w->mnt, w->net, w->ipc, w->uts, w->cgroup };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void elsewhere(void **state)
{
	struct errand_where where = ERRAND_HERE;
	pid_t pid = geteuid() ? 0 : start_other(CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET);
	struct op *op = new_op();
	struct seen s = { 0 };
	struct utsname u;

	(void)state;
	if (!pid) {
		free_op(op);
		skip();
	}
	where.uts = ns_of_pid(pid, "uts");
	where.mnt = ns_of_pid(pid, "mnt");
	where.net = ns_of_pid(pid, "net");
	assert_int_equal(errand_run(op, &where, look, &s), 0);
	assert_string_equal(s.host, "elsewhere");
	close(s.fd);
	uname(&u);
	assert_string_not_equal(u.nodename, "elsewhere");
	end_other(pid, &where);
	free_op(op);
}

static void other_pids(void **state)
{
	struct errand_where where = ERRAND_HERE;
	pid_t pid = geteuid() ? 0 : start_other(CLONE_NEWPID);
	struct op *op = new_op();
	struct seen s = { 0 };

	(void)state;
	if (!pid) {
		free_op(op);
		skip();
	}
	where.pid = ns_of_pid(pid, "pid_for_children");
	assert_int_equal(errand_run(op, &where, look, &s), 0);
	close(s.fd);
	assert_true(s.pid > 1 && s.pid < 10);
	end_other(pid, &where);
	free_op(op);
}

static void no_namespace(void **state)
{
	struct errand_where where = ERRAND_HERE;
	struct op *op = new_op();
	struct seen s = { 0 };

	(void)state;
	where.net = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(errand_run(op, &where, look, &s) < 0);
	assert_non_null(strstr(ckpt_err_message(op->err), "enter the network namespace"));
	close(where.net);
	free_op(op);
}

static void views(void **state)
{
	char dir[] = "/tmp/ckpt-view-XXXXXX", path[256];
	const char *last;
	struct fs_view v = { 0 };
	struct stat st;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/etc", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/etc/name", dir);
	assert_int_equal(symlink("/etc/real", path), 0); /* absolute: below the root of the view */
	v.root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(view_open(&v, "/etc/name", O_RDONLY, 0) < 0 && errno == ENOENT);
	fd = view_open(&v, "/etc/real", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	fd = view_open(&v, "/etc/name", O_RDONLY | O_CLOEXEC, 0);
	assert_true(fd >= 0);
	close(fd);
	assert_true(view_open(&v, "/../../../../etc/passwd", O_RDONLY, 0) < 0);
	assert_int_equal(view_lstat(&v, "/etc/name", &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	fd = view_parent(&v, "/etc/name", &last);
	assert_true(fd >= 0);
	assert_string_equal(last, "name");
	assert_int_equal(unlinkat(fd, last, 0), 0);
	assert_int_equal(unlinkat(fd, "real", 0), 0);
	close(fd);
	assert_true(view_parent(&v, "/", &last) < 0 && errno == EINVAL);
	assert_true(view_parent(&v, "/etc/..", &last) < 0 && errno == EINVAL);
	fd = view_parent(&v, "/etc", &last);
	assert_string_equal(last, "etc");
	assert_int_equal(unlinkat(fd, last, AT_REMOVEDIR), 0);
	close(fd);
	close(v.root);
	assert_int_equal(rmdir(dir), 0);
}

/* What makes and removes names stays below the root, whatever a symbolic link says. */
static void names_in_views(void **state)
{
	char dir[] = "/tmp/ckpt-view-XXXXXX";
	struct fs_view v = { 0 };
	struct stat a, b;
	struct statfs fs;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	v.root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_false(view_is_ours(&v));
	assert_true(view_is_ours(NULL) && view_is_ours(&fs_view_ours));
	assert_int_equal(view_mkdir(&v, "/d", 0700), 0);
	assert_int_equal(view_symlink(&v, "/d", "/to"), 0);
	assert_int_equal(view_mknod(&v, "/to/one", S_IFREG | 0600, 0), 0);
	assert_int_equal(view_link(&v, "/d/one", "/to/two"), 0);
	assert_int_equal(view_stat(&v, "/to/two", &a), 0);
	assert_int_equal(view_lstat(&v, "/d/one", &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(view_statfs(&v, "/to", &fs), 0);
	fd = view_open(&v, "/d/one", O_PATH | O_CLOEXEC, 0);
	assert_int_equal(view_link_fd(&v, fd, "/d/three"), 0);
	close(fd);
	assert_true(view_mkdir(&v, "/none/x", 0700) < 0 && errno == ENOENT);
	assert_true(view_unlink(&v, "/") < 0 && errno == EINVAL);
	assert_int_equal(view_unlink(&v, "/to/one") | view_unlink(&v, "/d/two") | view_unlink(&v, "/d/three"), 0);
	assert_int_equal(view_unlink(&v, "/to"), 0); /* the link, not what it leads to */
	assert_int_equal(view_rmdir(&v, "/d"), 0);
	close(v.root);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(here),	       cmocka_unit_test(elsewhere), cmocka_unit_test(other_pids),
		cmocka_unit_test(no_namespace), cmocka_unit_test(views), cmocka_unit_test(names_in_views),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
