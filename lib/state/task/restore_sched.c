/* SPDX-License-Identifier: MIT */
/*
 * What the engine sets on the new task from outside, when all of it stands still: scheduling of each thread, and the
 * values that live in /proc. What the task inherited from us and is right already is not touched.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>

#include "lib/kernel/sys.h"
#include "lib/state/task/plan_build.h"

#define RESET_ON_FORK_IN_POLICY 0x40000000u
#define POLICY_FIFO 1
#define POLICY_RR 2
#define IOPRIO_WHO_PROCESS 1
#define MAX_CPU_BYTES 1024

static int set_policy(struct op *op, const ThreadCoreEntry *tc, pid_t tid)
{
	struct sched_attr now = { .size = sizeof(now) }, want = { .size = SCHED_ATTR_SIZE_VER0 };
	uint32_t policy = tc->has_sched_policy ? tc->sched_policy & ~RESET_ON_FORK_IN_POLICY : 0;

	want.sched_policy = policy;
	want.sched_nice = tc->has_sched_policy && tc->has_sched_nice ? tc->sched_nice : 0;
	want.sched_priority = tc->has_sched_policy && tc->has_sched_prio ? tc->sched_prio : 0;
	if (tc->has_sched_policy && (tc->sched_policy & RESET_ON_FORK_IN_POLICY))
		want.sched_flags = SCHED_FLAG_RESET_ON_FORK;
	if ((policy == POLICY_FIFO || policy == POLICY_RR) != (want.sched_priority != 0) || want.sched_nice < -20 ||
	    want.sched_nice > 19)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = tid, .kind = "scheduling"),
			       "the scheduling of thread %d makes no sense in the image", tid);
	if (sys_sched_getattr(tid, &now, sizeof(now), 0) == 0 && now.sched_policy == policy &&
	    getpriority(PRIO_PROCESS, (id_t)tid) == want.sched_nice &&
	    now.sched_priority == want.sched_priority &&
	    (now.sched_flags & SCHED_FLAG_RESET_ON_FORK) == want.sched_flags)
		return 0;
	/* The policies that do not go by it keep a nice value, too, for the day they are left. */
	if (setpriority(PRIO_PROCESS, (id_t)tid, want.sched_nice) == 0 && sys_sched_setattr(tid, &want, 0) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = tid, .kind = "scheduling", .hint = "this needs CAP_SYS_NICE"),
			"give thread %d its scheduling policy %u, nice %d, priority %u", tid, policy, want.sched_nice,
			want.sched_priority);
}

/* The processors may be others here: then the thread runs where it may. */
static void set_affinity(struct op *op, const ThreadExtra *x, pid_t tid)
{
	uint8_t now[MAX_CPU_BYTES] = { 0 }, want[MAX_CPU_BYTES] = { 0 };

	if (!x->has_affinity || !x->affinity.len || x->affinity.len > sizeof(want))
		return;
	memcpy(want, x->affinity.data, x->affinity.len);
	if (sched_getaffinity(tid, sizeof(now), (cpu_set_t *)now) == 0 && !memcmp(now, want, sizeof(now)))
		return;
	if (sched_setaffinity(tid, sizeof(want), (const cpu_set_t *)want) < 0)
		log_warn(op, "thread %d: its processor affinity cannot be set here: %s", tid, strerror(errno));
}

int sched_restore(struct op *op, const struct snap_thread *t, pid_t tid)
{
	int r = set_policy(op, t->core->thread_core, tid);

	if (r || !t->extra)
		return r;
	set_affinity(op, t->extra, tid);
	if (t->extra->has_ioprio && sys_ioprio_get(IOPRIO_WHO_PROCESS, tid) != (int)t->extra->ioprio &&
	    sys_ioprio_set(IOPRIO_WHO_PROCESS, tid, (int)t->extra->ioprio) < 0)
		log_warn(op, "thread %d: its I/O priority cannot be set: %s", tid, strerror(errno));
	return 0;
}

static int proc_value(pid_t pid, const char *file, long want, bool hex)
{
	_cleanup_close_ int fd = -1;
	char path[64], text[32];
	ssize_t n;
	int len;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = pread(fd, text, sizeof(text) - 1, 0);
	if (n > 0) {
		text[n] = '\0';
		if (strtol(text, NULL, hex ? 16 : 10) == want)
			return 0;
	}
	len = snprintf(text, sizeof(text), hex ? "0x%lx" : "%ld", want);
	return pwrite(fd, text, (size_t)len, 0) == len ? 0 : -errno;
}

void proc_values_restore(struct op *op, const struct snap_task *t, pid_t pid)
{
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	int r = 0;

	if (tc->has_oom_score_adj)
		r = proc_value(pid, "oom_score_adj", tc->oom_score_adj, false);
	if (r)
		log_warn(op, "task %d: its oom_score_adj of %d cannot be set: %s", pid, tc->oom_score_adj, strerror(-r));
	r = t->extra && t->extra->has_coredump_filter ? proc_value(pid, "coredump_filter", t->extra->coredump_filter, true) : 0;
	if (r)
		log_warn(op, "task %d: its coredump_filter cannot be set: %s", pid, strerror(-r));
	r = tc->has_loginuid && tc->loginuid != UINT32_MAX ? proc_value(pid, "loginuid", tc->loginuid, false) : 0;
	if (r && r != -ENOENT)
		log_warn(op, "task %d: its login uid cannot be set: %s", pid, strerror(-r));
}
