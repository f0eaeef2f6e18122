/* SPDX-License-Identifier: MIT */
/* Threads: from the image to the plan; seccomp filters, which threads can have in common. */
#include <linux/seccomp.h>

#include "lib/state/task/lsm.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/nested.h"

#define BPF_INSTRUCTION 8
#define MAX_FILTERS 1024
#define NO_COMM "ckpt"

static int bad_filter(struct plan_build *b, pid_t tid)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = tid, .kind = "seccomp"),
		       "the seccomp filters of thread %d are damaged or missing in the image", tid);
}

/* An image's chain starts with the oldest filter; prev leads to the next newer one. */
static int plan_chain(struct plan_build *b, const struct snap_thread *t, struct plan_array *arr)
{
	const SeccompEntry *e = b->s->seccomp;
	uint32_t index = t->core->thread_core->seccomp_filter;
	struct plan_filter *v = op_alloc(b->op, MAX_FILTERS * sizeof(*v));
	size_t n = 0;

	if (!v)
		return CKPT_E_NOMEM;
	for (;;) {
		const SeccompFilter *f;
		int r;

		if (!e || index >= e->n_seccomp_filters || n >= MAX_FILTERS || n >= e->n_seccomp_filters)
			return bad_filter(b, t->tid);
		f = e->seccomp_filters[index];
		if (!f->filter.len || f->filter.len % BPF_INSTRUCTION || f->filter.len / BPF_INSTRUCTION > 4096)
			return bad_filter(b, t->tid);
		if (f->has_flags && (f->flags & SECCOMP_FILTER_FLAG_NEW_LISTENER))
			return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = t->tid, .kind = "seccomp"),
				       "thread %d has a seccomp filter with a listener, which is not supported yet", t->tid);
		v[n].len = (uint32_t)(f->filter.len / BPF_INSTRUCTION);
		v[n].flags = f->has_flags ? f->flags & ~(uint32_t)SECCOMP_FILTER_FLAG_TSYNC : 0;
		r = plan_put(b, f->filter.data, f->filter.len, &v[n].off);
		if (r)
			return r;
		n++;
		if (!f->has_prev)
			break;
		index = f->prev;
	}
	return plan_put_array(b, v, n, sizeof(*v), arr);
}

static uint32_t mode_of(const ThreadCoreEntry *tc)
{
	return tc->has_seccomp_mode ? (uint32_t)tc->seccomp_mode : 0;
}

static bool all_share(const struct snap_task *t)
{
	const ThreadCoreEntry *first = t->threads.v[0].core->thread_core;

	for (size_t i = 0; i < t->threads.n; i++) {
		const ThreadCoreEntry *tc = t->threads.v[i].core->thread_core;

		if (mode_of(tc) != 2 || tc->seccomp_filter != first->seccomp_filter)
			return false;
	}
	return true;
}

int plan_seccomp(struct plan_build *b, struct plan_thread *threads)
{
	const struct snap_task *t = b->task;
	bool share = all_share(t);

	PLAN(b)->share_filters = share;
	for (size_t i = 0; i < t->threads.n; i++) {
		uint32_t mode = mode_of(t->threads.v[i].core->thread_core);
		int r;

		threads[i].seccomp_mode = mode;
		if (!mode)
			continue;
		if (mode > 2)
			return bad_filter(b, t->threads.v[i].tid);
		if (mode == 1 || (share && i))
			continue;
		r = plan_chain(b, &t->threads.v[i], &threads[i].filters);
		if (r)
			return r;
	}
	return 0;
}

static int plan_thread_area(struct plan_build *b, const struct snap_thread *t, struct plan_array *arr)
{
	const ThreadInfoX86 *ti = t->core->thread_info;
	struct plan_user_desc v[3];
	size_t n = 0;

	for (size_t i = 0; i < ti->n_tls; i++) {
		const UserDescT *d = ti->tls[i];

		if (d->seg_not_present)
			continue;
		if (n == ARRAY_SIZE(v) || d->entry_number < 12 || d->entry_number > 14)
			return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = t->tid, .kind = "registers"),
				       "the descriptor table entries of thread %d are damaged in the image", t->tid);
		v[n++] = (struct plan_user_desc){
			d->entry_number, d->base_addr, d->limit,
			(uint32_t)d->seg_32bit | (uint32_t)d->contents_l << 1 | (uint32_t)d->contents_h << 2 |
				(uint32_t)d->read_exec_only << 3 | (uint32_t)d->limit_in_pages << 4 | (uint32_t)d->usable << 6,
		};
	}
	return plan_put_array(b, v, n, sizeof(*v), arr);
}

/* Numbers in several PID namespaces; one alone is its own. */
static int plan_numbers(struct plan_build *b, pid_t tid, struct plan_array *arr)
{
	int32_t v[NESTED_MAX + 1];
	size_t n = nested_numbers(b->s, tid, v);

	return n > 1 ? plan_put_array(b, v, n, sizeof(*v), arr) : 0;
}

static int plan_thread(struct plan_build *b, const struct snap_thread *t, struct plan_thread *p)
{
	const ThreadCoreEntry *tc = t->core->thread_core;
	const char *comm = tc->comm ?: t->core->tc ? t->core->tc->comm : NO_COMM;
	int r;

	p->tid = nested_seen(b->s, b->task, t->tid);
	snprintf(p->comm, sizeof(p->comm), "%s", tc->comm ?: comm);
	p->robust_list = tc->futex_rla;
	p->robust_len = tc->futex_rla_len;
	p->clear_tid = t->core->thread_info->clear_tid_addr;
	if (tc->sas && !(tc->sas->ss_flags & 2)) { /* SS_DISABLE */
		p->has_altstack = 1;
		p->altstack_sp = tc->sas->ss_sp;
		p->altstack_size = tc->sas->ss_size;
		p->altstack_flags = tc->sas->ss_flags & 0x80000000u; /* SS_AUTODISARM; SS_ONSTACK is not for setting */
	}
	if (tc->rseq_entry && tc->rseq_entry->rseq_abi_pointer) {
		p->has_rseq = 1;
		p->rseq = tc->rseq_entry->rseq_abi_pointer;
		p->rseq_len = tc->rseq_entry->rseq_abi_size;
		p->rseq_signature = tc->rseq_entry->signature;
	}
	p->pdeath_sig = tc->has_pdeath_sig ? tc->pdeath_sig : 0;
	p->timerslack_ns = t->extra && t->extra->has_timerslack_ns ? t->extra->timerslack_ns : 0;
	r = plan_signals(b, tc->signals_p, t->tid, &p->signals);
	r = r ?: plan_numbers(b, t->tid, &p->tids);
	r = r ?: plan_thread_area(b, t, &p->thread_area);
	return r ?: plan_creds(b, t, &p->creds);
}

int plan_threads(struct plan_build *b)
{
	const struct snap_task *t = b->task;
	struct plan_thread *v = op_alloc(b->op, t->threads.n * sizeof(*v));
	struct plan_array arr;
	int r = 0;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->threads.n && !r; i++)
		r = plan_thread(b, &t->threads.v[i], &v[i]) ?: lsm_plan(b, i);
	r = r ?: plan_seccomp(b, v);
	r = r ?: plan_put_array(b, v, t->threads.n, sizeof(*v), &arr);
	if (!r)
		PLAN(b)->threads = arr;
	return r;
}
