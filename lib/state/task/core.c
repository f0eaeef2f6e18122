/* SPDX-License-Identifier: MIT */
/* The core image of each thread, put together from the kinds. */
#include <asm/ldt.h>
#include <ctype.h>
#include <signal.h>
#include <sys/ptrace.h>

#include "lib/inject/sud.h"
#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/arch/x86_64/tiles.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/msg.h"
#include "lib/state/pids.h"
#include "lib/state/task/confine.h"
#include "lib/state/task/task.h"

#define GDT_ENTRY_TLS_MIN 12
#define GDT_ENTRY_TLS_N 3
#define TASK_ALIVE 1
#define TASK_STOPPED 3
/* The dumping process's own cgroup set; everybody is recorded as being in it until cgroups are saved. */
#define ROOT_CG_SET 1

static int tls_dump(struct op *op, const struct tracee *tr, ThreadInfoX86 *info)
{
	info->tls = op_alloc(op, GDT_ENTRY_TLS_N * sizeof(*info->tls));
	if (!info->tls)
		return CKPT_E_NOMEM;
	for (int i = 0; i < GDT_ENTRY_TLS_N; i++) {
		struct user_desc u = { .seg_not_present = 1, .read_exec_only = 1 };
		UserDescT *e = msg_new(op, UserDescT, user_desc_t);

		if (!e)
			return CKPT_E_NOMEM;
		ptrace(PTRACE_GET_THREAD_AREA, tr->tid, (long)(GDT_ENTRY_TLS_MIN + i), &u);
		e->entry_number = (uint32_t)(GDT_ENTRY_TLS_MIN + i);
		e->base_addr = u.base_addr;
		e->limit = u.limit;
		e->seg_32bit = u.seg_32bit;
		e->contents_h = u.contents >> 1 & 1;
		e->contents_l = u.contents & 1;
		e->read_exec_only = u.read_exec_only;
		e->limit_in_pages = u.limit_in_pages;
		e->seg_not_present = u.seg_not_present;
		e->usable = u.useable;
		info->tls[info->n_tls++] = e;
	}
	return 0;
}

/* Whether a signal would interrupt the thread as soon as it runs. */
static bool signal_due(const struct tracee *tr)
{
	return ((tr->status.sig_pending | tr->status.shd_pending) & ~tr->status.sig_blocked) != 0;
}

/*
 * Registers with which the restored life makes an interrupted call again. A call with a restart block of which we know what
 * is left gets -EINTR, as the format wants it, and our restore goes on from there. Of the others those that have no
 * timeout, or an absolute one, can simply be made again.
 */
static void cook_regs(const struct tracee *tr, struct user_regs_struct *regs, const RestartEntry *restart)
{
	uint64_t nr = restart_original_call(tr);

	if (!restart && nr) {
		regs->rax = nr;
		regs->rip -= 2;
		return;
	}
	regs_cook_restart(regs, true, signal_due(tr));
}

static int registers_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
			  CoreEntry *core, ThreadExtra *extra)
{
	struct user_regs_struct regs = tr->regs;
	int r = rseq_dump(op, d, tr, &regs, core->thread_core);

	if (r)
		return r;
	if (regs.cs != 0x33)
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = d->task->host, .kind = "32-bit task",
				  .hint = "only 64-bit programs can be checkpointed"),
			       "thread %d runs 32-bit code", tr->tid);
	cook_regs(tr, &regs, extra->restart);
	if (x86_xstate_unsaved(tr->xstate, tr->xstate_len))
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = d->task->host, .kind = "processor state"),
			       "thread %d uses processor state %#lx that the image format cannot hold", tr->tid,
			       x86_xstate_unsaved(tr->xstate, tr->xstate_len));
	r = x86_regs_to_image(op, &regs, tr->xstate, tr->xstate_len, &core->thread_info);
	r = r ?: x86_tiles_to_image(op, tr->xstate, tr->xstate_len, extra);
	if (r)
		return r;
	if (a->tid_address < 0)
		return op_errno(op, (int)-a->tid_address, AT(.pid = tr->tid), "read the clear_child_tid address of thread %d",
				tr->tid);
	core->thread_info->clear_tid_addr = a->tid_address_value;
	return tls_dump(op, tr, core->thread_info);
}

static int thread_core_dump(struct op *op, struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
			    CoreEntry *core, ThreadExtra *extra)
{
	ThreadCoreEntry *tc = core->thread_core;
	uint64_t head = 0;
	size_t len = 0;
	int r;

	if (sys_get_robust_list(tr->tid, &head, &len) < 0)
		return op_errno(op, errno, AT(.pid = tr->tid), "read the robust futex list of thread %d", tr->tid);
	tc->futex_rla = head;
	tc->futex_rla_len = (uint32_t)len;
	tc->sas = msg_new(op, ThreadSasEntry, thread_sas_entry);
	tc->comm = arena_strdup(op->arena, tr->status.name);
	if (!tc->sas || !tc->comm)
		return op_nomem(op);
	if (a->sas_result < 0 || a->pdeath_result < 0)
		return op_errno(op, EINVAL, AT(.pid = tr->tid), "read the alternate stack of thread %d", tr->tid);
	tc->sas->ss_sp = a->ss_sp;
	tc->sas->ss_size = a->ss_size;
	tc->sas->ss_flags = (uint32_t)a->ss_flags;
	if (a->pdeath_signal)
		msg_set(tc, pdeath_sig, (uint32_t)a->pdeath_signal);
	msg_set(tc, cg_set, ROOT_CG_SET);
	r = creds_dump(op, d, tr, a, &tc->creds);
	r = r ?: sigqueue_dump(op, tr->tid, false, &tc->signals_p);
	r = r ?: sched_dump(op, d, tr, a, tc, extra);
	r = r ?: prctls_dump(op, d, tr, a, extra);
	r = r ?: numa_dump(op, a, extra);
	r = r ?: sud_dump(op, tr, extra);
	r = r ?: seccomp_dump(op, d, tr, tc);
	return r ?: restart_dump(op, d, tr, &extra->restart);
}

/* A number in a one-line /proc file; @fallback where the file is not there or does not say. */
static long read_number(struct op *op, pid_t pid, const char *file, int base, long fallback, bool *there)
{
	char *text, *end;
	size_t len;
	long v;

	*there = false;
	if (proc_read_file(op, pid, file, &text, &len) != 0) {
		op_forget(op);
		return fallback;
	}
	v = strtol(text, &end, base);
	if (end == text)
		return fallback;
	*there = true;
	return v;
}

static int tc_dump(struct op *op, struct task_dump *d, const struct parasite_args *a, CoreEntry *core, TaskExtra *extra)
{
	const struct tracee *leader = &d->target->threads.v[0];
	TaskCoreEntry *tc = core->tc;
	pid_t pid = d->task->host;
	bool there;
	long v;
	int r;

	tc->task_state = leader->stop_sig ? TASK_STOPPED : TASK_ALIVE;
	if (leader->stop_sig)
		msg_set(tc, stop_signo, (uint32_t)leader->stop_sig);
	tc->personality = (uint32_t)read_number(op, pid, "personality", 16, 0, &there);
	tc->flags = d->target->stat.flags;
	tc->blk_sigset = leader->sigmask;
	tc->comm = arena_strdup(op->arena, leader->status.name);
	if (!tc->comm)
		return op_nomem(op);
	v = read_number(op, pid, "loginuid", 10, 0, &there);
	if (there)
		msg_set(tc, loginuid, (uint32_t)v);
	v = read_number(op, pid, "oom_score_adj", 10, 0, &there);
	if (there)
		msg_set(tc, oom_score_adj, (int32_t)v);
	v = read_number(op, pid, "coredump_filter", 16, 0, &there);
	if (there)
		msg_set(extra, coredump_filter, (uint32_t)v);
	msg_set(tc, child_subreaper, a->subreaper_result == 0 && a->subreaper);
	if (a->membarrier > 0)
		msg_set(tc, membarrier_registration_mask, (uint32_t)a->membarrier);
	if (a->io_flusher == 1)
		msg_set(extra, io_flusher, 1);
	if (d->task->mm)
		prctls_dump_task(a, extra);
	autogroup_dump(op, d, extra);
	r = sigactions_dump(op, d, a, tc);
	r = r ?: sigqueue_dump(op, pid, true, &tc->signals_s);
	r = r ?: itimers_dump(op, a, &tc->timers);
	r = r ?: posix_timers_dump(op, d, tc->timers);
	return r ?: rlimits_dump(op, d, tc);
}

static int mm_fields(struct op *op, struct task_dump *d, const struct parasite_args *a)
{
	const struct proc_stat *st = &d->target->stat;
	MmEntry *mm = d->task->mm;

	mm->mm_start_code = st->start_code, mm->mm_end_code = st->end_code;
	mm->mm_start_data = st->start_data, mm->mm_end_data = st->end_data;
	mm->mm_start_stack = st->start_stack;
	mm->mm_start_brk = st->start_brk;
	mm->mm_brk = (uint64_t)a->brk;
	mm->mm_arg_start = st->arg_start, mm->mm_arg_end = st->arg_end;
	mm->mm_env_start = st->env_start, mm->mm_env_end = st->env_end;
	if (a->dumpable < 0)
		return op_errno(op, (int)-a->dumpable, AT(.pid = d->task->host), "read the dumpable flag");
	msg_set(mm, dumpable, (int32_t)a->dumpable);
	msg_set(mm, thp_disabled, a->thp_disable > 0);
	if (a->pkeys)
		msg_set(d->task->extra, pkeys, (uint32_t)a->pkeys);
	return 0;
}

static int dump_thread(struct op *op, struct task_dump *d, size_t i, struct parasite_args *a, TaskExtra *extra)
{
	struct tracee *tr = &d->target->threads.v[i];
	struct snap_thread *t = ARRAY_ADD(op->arena, &d->task->threads);
	int r;

	if (!t)
		return op_nomem(op);
	t->host = tr->tid;
	t->tid = pids_of_status(d->s->pids, &tr->status);
	t->core = msg_new(op, CoreEntry, core_entry);
	t->extra = msg_new(op, ThreadExtra, thread_extra);
	if (!t->core || !t->extra)
		return CKPT_E_NOMEM;
	t->core->mtype = CORE_ENTRY__MARCH__X86_64;
	t->core->thread_core = msg_new(op, ThreadCoreEntry, thread_core_entry);
	if (!t->core->thread_core)
		return CKPT_E_NOMEM;
	t->extra->tid = (uint32_t)t->tid;
	extra->threads[extra->n_threads++] = t->extra;
	r = peer_for(op, d, tr, d->peer, &a->peer);
	r = r ?: parasite_run(op, d->target, tr, d->parasite, a);
	r = r ?: confine_check(op, tr, a);
	r = r ?: x86_check_thread(op, tr);
	r = r ?: thread_core_dump(op, d, tr, a, t->core, t->extra);
	r = r ?: registers_dump(op, d, tr, a, t->core, t->extra);
	if (i)
		msg_set(t->core->thread_core, blk_sigset, tr->sigmask);
	return r;
}

/* The command line, for people, with blanks between the words. */
static char *cmdline(struct op *op, pid_t pid)
{
	char *text;
	size_t len;

	if (proc_read_file(op, pid, "cmdline", &text, &len) != 0) {
		op_forget(op);
		return NULL;
	}
	for (size_t i = 0; i + 1 < len; i++)
		if (!isprint((unsigned char)text[i]))
			text[i] = ' ';
	return text;
}

static int dump_threads(struct op *op, struct task_dump *d)
{
	TaskExtra *extra = d->task->extra;
	struct parasite_args *a = op_new(op, struct parasite_args);
	CoreEntry *core;
	int r = 0;

	if (!a)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < d->target->threads.n && !r; i++) {
		*a = (struct parasite_args){ .what = PARASITE_THREAD };
		if (i == 0) {
			a->what |= PARASITE_PROCESS;
			a->release_page = d->parasite->g.scratch;
			a->release_mask = d->parasite->g.scratch_absent;
		}
		r = dump_thread(op, d, i, a, extra);
		if (r || i)
			continue;
		core = d->task->threads.v[0].core;
		core->tc = msg_new(op, TaskCoreEntry, task_core_entry);
		r = core->tc ? tc_dump(op, d, a, core, extra) : CKPT_E_NOMEM;
		if (!r && d->task->mm)
			r = mm_fields(op, d, a);
		r = r ?: x86_dump_task(op, d, a);
		r = r ?: op_check_cancel(op);
	}
	return r;
}

int task_dump_core(struct op *op, struct task_dump *d)
{
	TaskExtra *extra = d->task->extra;
	int r;

	msg_set(extra, starttime, d->target->stat.starttime);
	extra->cmdline = cmdline(op, d->task->host);
	extra->threads = op_alloc(op, d->target->threads.n * sizeof(*extra->threads));
	if (!extra->threads)
		return CKPT_E_NOMEM;
	cookie_dump(op, d, extra);
	label_check(op, d->task->host);
	/* Where the address space is another task's, nobody has injected anything here. */
	r = sud_suspend(op, d->target, d->parasite->all);
	r = r ?: dump_threads(op, d);
	if (!d->task->mm)
		sud_resume(d->target, d->parasite->all);
	if (r || !d->task->mm)
		return r;
	return mlock_future_dump(op, d) ?: mbind_dump(op, d);
}
