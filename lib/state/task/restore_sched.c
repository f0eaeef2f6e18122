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

static int wanted(struct op *op, const struct snap_thread *t, struct sched_attr *want)
{
	const ThreadCoreEntry *tc = t->core->thread_core;
	const SchedExtra *x = t->extra ? t->extra->sched : NULL;
	uint32_t policy = tc->has_sched_policy ? tc->sched_policy & ~RESET_ON_FORK_IN_POLICY : 0;

	*want = (struct sched_attr){ .size = SCHED_ATTR_SIZE_VER0, .sched_policy = policy };
	want->sched_nice = tc->has_sched_policy && tc->has_sched_nice ? tc->sched_nice : 0;
	want->sched_priority = tc->has_sched_policy && tc->has_sched_prio ? tc->sched_prio : 0;
	if (tc->has_sched_policy && (tc->sched_policy & RESET_ON_FORK_IN_POLICY))
		want->sched_flags = SCHED_FLAG_RESET_ON_FORK;
	want->sched_runtime = x && x->has_runtime ? x->runtime : 0;
	if (policy == SCHED_DEADLINE && x && x->has_deadline && x->has_period) {
		want->sched_deadline = x->deadline;
		want->sched_period = x->period;
		want->sched_flags |= x->has_flags ? x->flags & (SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN) : 0;
	}
	if ((policy == POLICY_FIFO || policy == POLICY_RR) != (want->sched_priority != 0) || want->sched_nice < -20 ||
	    want->sched_nice > 19 || (policy == SCHED_DEADLINE && !want->sched_deadline))
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->tid, .kind = "scheduling"),
			       "the scheduling of thread %d makes no sense in the image", t->tid);
	return 0;
}

static bool has_policy(pid_t tid, const struct sched_attr *want)
{
	struct sched_attr now = { .size = sizeof(now) };

	return sys_sched_getattr(tid, &now, sizeof(now), 0) == 0 && now.sched_policy == want->sched_policy &&
	       getpriority(PRIO_PROCESS, (id_t)tid) == want->sched_nice && now.sched_priority == want->sched_priority &&
	       (now.sched_flags & SCHED_FLAG_RESET_ON_FORK) == want->sched_flags &&
	       (!want->sched_runtime || now.sched_runtime == want->sched_runtime);
}

static int set_policy(struct op *op, const struct snap_thread *t, pid_t tid)
{
	struct sched_attr want;
	int r = wanted(op, t, &want);

	if (r || has_policy(tid, &want))
		return r;
	/* The policies that do not go by it keep a nice value, too, for the day they are left. */
	if (setpriority(PRIO_PROCESS, (id_t)tid, want.sched_nice) == 0 && sys_sched_setattr(tid, &want, 0) == 0)
		return 0;
	if (errno == EBUSY && want.sched_policy == SCHED_DEADLINE)
		return op_errno(op, EBUSY,
				AT(.pid = tid, .kind = "scheduling",
				   .hint = "the processors have no room for its deadlines: end other SCHED_DEADLINE threads"),
				"give thread %d its %lu ns of every %lu ns (SCHED_DEADLINE)", tid,
				(unsigned long)want.sched_runtime, (unsigned long)want.sched_period);
	return op_errno(op, errno, AT(.pid = tid, .kind = "scheduling", .hint = "this needs CAP_SYS_NICE"),
			"give thread %d its scheduling policy %u, nice %d, priority %u", tid, want.sched_policy, want.sched_nice,
			want.sched_priority);
}

static void set_clamps(struct op *op, const SchedExtra *x, pid_t tid)
{
	struct sched_attr now = { .size = sizeof(now) }, want = {
		.size = SCHED_ATTR_SIZE_VER1,
		.sched_flags = SCHED_FLAG_KEEP_POLICY | SCHED_FLAG_KEEP_PARAMS | SCHED_FLAG_UTIL_CLAMP_MIN | SCHED_FLAG_UTIL_CLAMP_MAX,
	};

	if (!x || !x->has_util_min || !x->has_util_max || sys_sched_getattr(tid, &now, sizeof(now), 0) < 0 ||
	    (now.sched_util_min == x->util_min && now.sched_util_max == x->util_max))
		return;
	want.sched_util_min = x->util_min;
	want.sched_util_max = x->util_max;
	if (sys_sched_setattr(tid, &want, 0) < 0)
		log_warn(op, "thread %d: the clamps of its utilisation (%u to %u) cannot be set here: %s", tid, x->util_min,
			 x->util_max, strerror(errno));
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
	int r = set_policy(op, t, tid);

	if (r || !t->extra)
		return r;
	set_clamps(op, t->extra->sched, tid);
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
	return write(fd, text, (size_t)len) == len ? 0 : -errno; /* not all of these files know pwrite() */
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
	r = t->extra && t->extra->has_autogroup_nice && t->ps->sid == t->ps->pid ?
		    proc_value(pid, "autogroup", t->extra->autogroup_nice, false) : 0;
	if (r)
		log_warn(op, "task %d: the nice value of its autogroup cannot be set: %s", pid, strerror(-r));
	r = tc->has_loginuid && tc->loginuid != UINT32_MAX ? proc_value(pid, "loginuid", tc->loginuid, false) : 0;
	if (r && r != -ENOENT)
		log_warn(op, "task %d: its login uid cannot be set: %s", pid, strerror(-r));
}
