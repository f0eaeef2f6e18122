// SPDX-License-Identifier: MIT
/* Reading /proc of living, dead and missing tasks, against what the system calls say about ourselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"

#define MANY 5000

struct env {
	struct op op;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	*state = e;
	return e->op.arena ? 0 : -1;
}

static int teardown(void **state)
{
	struct env *e = *state;

	op_forget(&e->op);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static void ourselves(void **state)
{
	struct env *e = *state;
	struct proc_status status, thread;
	struct proc_limit limits[16];
	struct proc_cgroups cgroups;
	struct proc_mounts mounts;
	struct proc_timers timers;
	struct proc_stat stat;
	struct rlimit limit;
	pid_t me = getpid();
	char *exe;

	assert_int_equal(proc_read_status(&e->op, me, &status), 0);
	assert_int_equal(status.pid, me);
	assert_int_equal(status.uid[1], geteuid());
	assert_true(status.has_mm);
	assert_int_equal(proc_read_task_status(&e->op, me, me, &thread), 0);
	assert_int_equal(thread.tgid, me);
	assert_int_equal(proc_read_stat(&e->op, me, &stat), 0);
	assert_int_equal(stat.ppid, getppid());
	assert_string_equal(stat.comm, status.name);
	assert_int_equal(proc_read_limits(&e->op, me, limits), 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	assert_int_equal(limits[RLIMIT_NOFILE].cur, limit.rlim_cur);
	assert_int_equal(proc_read_timers(&e->op, me, &timers), 0);
	assert_int_equal(timers.v.n, 0);
	assert_int_equal(proc_read_cgroup(&e->op, me, &cgroups), 0);
	assert_int_equal(proc_read_mountinfo(&e->op, me, &mounts), 0);
	assert_true(mounts.v.n > 0);
	assert_int_equal(proc_read_link(&e->op, me, "exe", &exe), 0);
	assert_non_null(strstr(exe, "test_proc_read"));
	assert_null(e->op.err);
}

static void many_areas(void **state)
{
	struct env *e = *state;
	char *base = mmap(NULL, MANY * 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct proc_maps maps, smaps;
	size_t found = 0;

	assert_true(base != MAP_FAILED);
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(mprotect(base + i * 2 * PAGE_SIZE, PAGE_SIZE, PROT_READ), 0);
	/* Enough text for the buffer to grow several times. */
	assert_int_equal(proc_read_maps(&e->op, getpid(), &maps), 0);
	assert_int_equal(proc_read_smaps(&e->op, getpid(), &smaps), 0);
	for (size_t i = 0; i < smaps.vmas.n; i++) {
		const struct proc_vma *v = &smaps.vmas.v[i];

		assert_true(v->has_vmflags);
		if (i)
			assert_true(v->start >= smaps.vmas.v[i - 1].end);
		found += v->start >= (uintptr_t)base && v->end <= (uintptr_t)base + MANY * 2 * PAGE_SIZE &&
			 v->end - v->start == PAGE_SIZE && (v->vmflags & VMF_RD);
	}
	assert_int_equal(found, MANY);
	assert_true(maps.vmas.n >= 2 * MANY - 1);
	munmap(base, MANY * 2 * PAGE_SIZE);
}

static void descriptors(void **state)
{
	struct env *e = *state;
	struct proc_fdinfo info;
	struct proc_numbers fds;
	bool found = false;
	char *link;
	int fd = open("/dev/null", O_RDWR | O_APPEND | O_CLOEXEC);
	char name[64];

	assert_true(fd >= 0);
	assert_int_equal(proc_list_numbers(&e->op, getpid(), "fd", &fds), 0);
	for (size_t i = 0; i < fds.v.n; i++) {
		found |= fds.v.v[i] == fd;
		if (i)
			assert_true(fds.v.v[i] > fds.v.v[i - 1]);
	}
	assert_true(found);
	assert_int_equal(proc_read_fdinfo(&e->op, getpid(), fd, &info), 0);
	assert_int_equal(info.flags & (O_ACCMODE | O_APPEND | O_CLOEXEC), O_RDWR | O_APPEND | O_CLOEXEC);
	snprintf(name, sizeof(name), "fd/%d", fd);
	assert_int_equal(proc_read_link(&e->op, getpid(), name, &link), 0);
	assert_string_equal(link, "/dev/null");
	close(fd);
	assert_int_equal(proc_read_fdinfo(&e->op, getpid(), fd, &info), PROC_GONE);
	assert_null(e->op.err);
}

static void *start_child(void *arg)
{
	pid_t *pid = arg;

	*pid = fork();
	if (*pid == 0) {
		pause();
		_exit(0);
	}
	pause(); /* the child is this thread's */
	return NULL;
}

static void children_of_all_threads(void **state)
{
	struct env *e = *state;
	volatile pid_t pids[2] = { 0, 0 };
	struct proc_numbers children;
	pthread_t thread;
	unsigned found = 0;

	pids[0] = fork();
	if (pids[0] == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(pthread_create(&thread, NULL, start_child, (void *)&pids[1]), 0);
	while (!pids[1])
		usleep(1000);
	assert_int_equal(proc_list_children(&e->op, getpid(), &children), 0);
	for (size_t i = 0; i < children.v.n; i++)
		found += children.v.v[i] == pids[0] || children.v.v[i] == pids[1];
	assert_int_equal(found, 2);
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	for (int i = 0; i < 2; i++) {
		kill(pids[i], SIGKILL);
		assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
	}
}

static void a_zombie_and_then_nobody(void **state)
{
	struct env *e = *state;
	struct proc_numbers tids;
	struct proc_status status;
	struct proc_maps maps;
	struct proc_stat stat;
	siginfo_t info;
	char *text;
	size_t len;
	pid_t pid = fork();

	if (pid == 0)
		_exit(7);
	assert_true(pid > 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(proc_read_status(&e->op, pid, &status), 0);
	assert_int_equal(status.state, 'Z');
	assert_int_equal(proc_read_stat(&e->op, pid, &stat), 0);
	assert_int_equal(stat.exit_code, 7 << 8);
	assert_int_equal(waitpid(pid, NULL, 0), pid);

	assert_int_equal(proc_read_status(&e->op, pid, &status), PROC_GONE);
	assert_int_equal(proc_read_smaps(&e->op, pid, &maps), PROC_GONE);
	assert_int_equal(proc_list_numbers(&e->op, pid, "task", &tids), PROC_GONE);
	assert_int_equal(proc_list_children(&e->op, pid, &tids), PROC_GONE);
	assert_int_equal(proc_read_link(&e->op, pid, "exe", &text), PROC_GONE);
	assert_int_equal(proc_read_file(&e->op, pid, "stat", &text, &len), PROC_GONE);
	assert_null(e->op.err);
}

static void a_file_that_the_kernel_lacks(void **state)
{
	struct env *e = *state;
	char *text;
	size_t len;

	assert_int_equal(proc_read_file(&e->op, getpid(), "no-such-file", &text, &len), CKPT_E_SYS);
	assert_int_equal(ckpt_err_pid(e->op.err), getpid());
	assert_non_null(strstr(ckpt_err_message(e->op.err), "no-such-file"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(ourselves), T(many_areas), T(descriptors), T(children_of_all_threads), T(a_zombie_and_then_nobody),
		T(a_file_that_the_kernel_lacks),
	};

	return cmocka_run_group_tests_name("proc_read", tests, NULL, NULL);
}
