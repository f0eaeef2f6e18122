/* SPDX-License-Identifier: MIT */
/*
 * What prctl(2) and arch_prctl(2) set and the image format has no place for. Most of it is inherited by fork, some by exec,
 * so that a new task begins with what we have ourselves: only what differs from that is set.
 */
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "lib/kernel/sys.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/task/task.h"

#define N_SPECULATION 3 /* misfeatures that we know */
#define THP_FLAGS_KNOWN 3u
#define MERGEABLE (1ull << MADV_MERGEABLE)

/* ------------------------------------------------------------------------------------------------------ dump */

/* "personality" of one thread of a task: hexadecimal. */
static bool thread_personality(struct op *op, pid_t pid, pid_t tid, uint32_t *v)
{
	char file[48], *text;
	size_t len;

	snprintf(file, sizeof(file), "task/%d/personality", tid);
	if (proc_read_file(op, pid, file, &text, &len) != 0) {
		op_forget(op);
		return false;
	}
	*v = (uint32_t)strtoul(text, NULL, 16);
	return true;
}

static int speculation_dump(struct op *op, const struct parasite_args *a, ThreadExtra *x)
{
	x->speculation = op_alloc(op, N_SPECULATION * sizeof(*x->speculation));
	if (!x->speculation)
		return CKPT_E_NOMEM;
	for (uint32_t i = 0; i < N_SPECULATION; i++) {
		SpeculationEntry *e;

		if (a->speculation[i] <= 0 || !(a->speculation[i] & PR_SPEC_PRCTL))
			continue; /* the processor or the kernel decides, not the thread */
		e = msg_new(op, SpeculationEntry, speculation_entry);
		if (!e)
			return CKPT_E_NOMEM;
		e->misfeature = i;
		e->value = (uint32_t)a->speculation[i];
		x->speculation[x->n_speculation++] = e;
	}
	return 0;
}

/* What the main thread has is in the task's own messages; the others have theirs here where it is another. */
static void differences_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
			     ThreadExtra *x)
{
	const struct snap_thread *leader = &d->task->threads.v[0];
	bool flusher = d->task->extra->has_io_flusher && d->task->extra->io_flusher;
	uint32_t v;

	if (tr->tid == leader->host)
		return;
	if ((a->io_flusher == 1) != flusher)
		msg_set(x, io_flusher, a->io_flusher == 1);
	if (thread_personality(op, d->task->host, tr->tid, &v) && v != leader->core->tc->personality)
		msg_set(x, personality, v);
}

int prctls_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a, ThreadExtra *x)
{
	/* Strict seccomp forbids the time stamp counter by itself. */
	if (tr->status.seccomp != SECCOMP_MODE_STRICT)
		msg_set(x, tsc, (uint32_t)a->tsc);
	if (a->mce_kill >= 0)
		msg_set(x, mce_kill, (uint32_t)a->mce_kill);
	if (a->cpuid >= 0)
		msg_set(x, cpuid_faults, a->cpuid == 0);
	differences_dump(op, d, tr, a, x);
	return speculation_dump(op, a, x);
}

void prctls_dump_task(const struct parasite_args *a, TaskExtra *x)
{
	if (a->mdwe > 0)
		msg_set(x, mdwe, (uint32_t)a->mdwe);
	if (a->memory_merge >= 0)
		msg_set(x, memory_merge, a->memory_merge == 1);
	if (a->thp_disable > 1)
		msg_set(x, thp_disable, (uint32_t)a->thp_disable);
}

/* --------------------------------------------------------------------------------------------------- restore */

static int bad(struct plan_build *b, pid_t tid, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = tid, .kind = "property"), "the %s of thread %d makes no sense in the image",
		       what, tid);
}

static int call_prctl(struct plan_build *b, size_t thread, uint32_t flags, const uint64_t args[5], const char *what)
{
	struct plan_call c = { .nr = __NR_prctl, .flags = flags };
	int r;

	memcpy(c.args, args, 5 * sizeof(*args));
	r = plan_thread_call(b, thread, &c, what);
	return r < 0 ? r : 0;
}

static int plan_speculation(struct plan_build *b, size_t thread, const ThreadExtra *x)
{
	static const char *const names[N_SPECULATION] = {
		"speculation control of store bypass", "speculation control of indirect branches", "flushing of the L1D cache",
	};
	int r = 0;

	for (size_t i = 0; i < x->n_speculation && !r; i++) {
		const SpeculationEntry *e = x->speculation[i];
		uint32_t want = e->value & ~(uint32_t)PR_SPEC_PRCTL;
		/* To flush a cache is a restriction, to speculate is none. */
		bool restricted = (want == PR_SPEC_ENABLE) == (e->misfeature == PR_SPEC_L1D_FLUSH);
		int own;

		if (e->misfeature >= N_SPECULATION || want > PR_SPEC_DISABLE_NOEXEC || (want & (want - 1)))
			return bad(b, (pid_t)x->tid, "speculation control");
		own = prctl(PR_GET_SPECULATION_CTRL, e->misfeature, 0, 0, 0);
		/* Another processor may have nothing to control there: then only a restriction is worth a word. */
		if (own == (int)e->value || own == PR_SPEC_NOT_AFFECTED || (!restricted && (own < 0 || !(own & PR_SPEC_PRCTL))))
			continue;
		r = call_prctl(b, thread, PLAN_CALL_MAY_FAIL,
			       (const uint64_t[5]){ PR_SET_SPECULATION_CTRL, e->misfeature, want }, names[e->misfeature]);
	}
	return r;
}

static int plan_cpuid(struct plan_build *b, size_t thread, const ThreadExtra *x)
{
	int own = sys_arch_prctl(ARCH_GET_CPUID, 0), r;

	if (!x->has_cpuid_faults || (own < 0 && !x->cpuid_faults) || own == !x->cpuid_faults)
		return 0;
	r = plan_thread_call(b, thread, &(struct plan_call){ .nr = __NR_arch_prctl, .args = { ARCH_SET_CPUID, !x->cpuid_faults } },
			     "CPUID faulting");
	return r < 0 ? r : 0;
}

static int plan_differences(struct plan_build *b, size_t thread, const ThreadExtra *x)
{
	int r = 0;

	if (x->has_io_flusher)
		r = call_prctl(b, thread, PLAN_CALL_MAY_FAIL, (const uint64_t[5]){ PR_SET_IO_FLUSHER, x->io_flusher },
			       "PR_SET_IO_FLUSHER");
	if (!r && x->has_personality) {
		r = plan_thread_call(b, thread, &(struct plan_call){ .nr = __NR_personality, .args = { x->personality } },
				     "personality of a thread");
		r = MIN(r, 0);
	}
	return r;
}

int plan_prctls(struct plan_build *b, size_t thread)
{
	const ThreadExtra *x = b->task->threads.v[thread].extra;
	int own = PR_TSC_ENABLE, r = 0;

	if ((x->has_tsc && x->tsc != PR_TSC_ENABLE && x->tsc != PR_TSC_SIGSEGV) || (x->has_mce_kill && x->mce_kill > PR_MCE_KILL_DEFAULT))
		return bad(b, (pid_t)x->tid, "time stamp counter or machine check policy");
	prctl(PR_GET_TSC, &own);
	if (x->has_tsc && (int)x->tsc != own)
		r = call_prctl(b, thread, 0, (const uint64_t[5]){ PR_SET_TSC, x->tsc }, "PR_SET_TSC");
	if (!r && x->has_mce_kill && (int)x->mce_kill != prctl(PR_MCE_KILL_GET, 0, 0, 0, 0))
		r = call_prctl(b, thread, 0, (const uint64_t[5]){ PR_MCE_KILL, PR_MCE_KILL_SET, x->mce_kill }, "PR_MCE_KILL");
	r = r ?: plan_speculation(b, thread, x);
	r = r ?: plan_cpuid(b, thread, x);
	return r ?: plan_differences(b, thread, x);
}

static int task_call(struct plan_build *b, uint32_t nr, uint32_t flags, uint64_t a, uint64_t c, uint64_t d, const char *what)
{
	int r = plan_call(b, PLAN_LAST, &(struct plan_call){ .nr = nr, .flags = flags, .args = { a, c, d } }, what);

	return r < 0 ? r : 0;
}

/* Turning it on makes every area mergeable; those that the program excepted were not. */
static int plan_merge(struct plan_build *b, const TaskExtra *x)
{
	const MmEntry *mm = b->task->mm;
	int own = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), r;

	if (!x->has_memory_merge || own == x->memory_merge || (own < 0 && !x->memory_merge))
		return 0;
	r = task_call(b, __NR_prctl, PLAN_CALL_MAY_FAIL, PR_SET_MEMORY_MERGE, x->memory_merge, 0, "PR_SET_MEMORY_MERGE");
	for (size_t i = 0; i < mm->n_vmas && !r && x->memory_merge; i++) {
		const VmaEntry *e = mm->vmas[i];

		if (!(e->status & 1) || (e->flags & MAP_SHARED) || (e->has_madv && (e->madv & MERGEABLE)))
			continue;
		r = task_call(b, __NR_madvise, PLAN_CALL_MAY_FAIL, e->start, e->end - e->start, MADV_UNMERGEABLE,
			      "MADV_UNMERGEABLE");
	}
	return r;
}

int plan_prctls_task(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	int r = plan_merge(b, x);

	if (x->has_thp_disable && (x->thp_disable & ~THP_FLAGS_KNOWN))
		return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .kind = "THP switch"),
			       "task %d has the THP switch %#x, which is not known here", b->task->pid, x->thp_disable);
	if (!r && x->has_thp_disable)
		r = task_call(b, __NR_prctl, PLAN_CALL_MAY_FAIL, PR_SET_THP_DISABLE, 1, x->thp_disable & ~1u, "PR_SET_THP_DISABLE");
	return r;
}
