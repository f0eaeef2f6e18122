/* SPDX-License-Identifier: MIT */
/*
 * Seccomp modes and filters. The image keeps filters in one array; a thread names the filter to be installed first (the
 * oldest), and each filter names the next newer one. ptrace counts from the oldest, too.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>

#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define MAX_INSNS 4096
#define MAX_FILTERS 1024

static bool notifies(const struct sock_filter *f, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (BPF_CLASS(f[i].code) == BPF_RET && BPF_RVAL(f[i].code) == BPF_K &&
		    (f[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
			return true;
	return false;
}

/* The @index-th filter. Returns 0, 1 when there is none, or a failure. */
static int get_filter(struct op *op, const struct tracee *tr, size_t index, SeccompFilter **ret)
{
	struct __ptrace_seccomp_metadata meta = { .filter_off = index };
	struct sock_filter insns[MAX_INSNS];
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tr->tid, index, insns);
	SeccompFilter *f;

	if (n < 0 && errno == ENOENT)
		return 1;
	if (n < 0 || n > MAX_INSNS)
		return op_errno(op, n < 0 ? errno : E2BIG, AT(.pid = tr->tid, .kind = "seccomp"),
				"read seccomp filter %zu of thread %d", index, tr->tid);
	if (notifies(insns, (size_t)n))
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = tr->tid, .kind = "seccomp listener",
				  .hint = "a supervised program cannot be separated from its supervisor"),
			       "a seccomp filter of thread %d asks a listener (SECCOMP_RET_USER_NOTIF)", tr->tid);
	f = msg_new(op, SeccompFilter, seccomp_filter);
	if (!f)
		return CKPT_E_NOMEM;
	f->filter.len = (size_t)n * sizeof(insns[0]);
	f->filter.data = arena_memdup(op->arena, insns, f->filter.len);
	if (!f->filter.data)
		return op_nomem(op);
	if (ptrace(PTRACE_SECCOMP_GET_METADATA, tr->tid, sizeof(meta), &meta) > 0 && meta.flags)
		msg_set(f, flags, (uint32_t)meta.flags);
	*ret = f;
	return 0;
}

static bool equal_filters(const SeccompFilter *a, const SeccompFilter *b)
{
	return a->filter.len == b->filter.len && a->flags == b->flags &&
	       !memcmp(a->filter.data, b->filter.data, a->filter.len);
}

/* Threads mostly have the very chain that another thread has. Returns its first index, or -1. */
static long find_chain(const SeccompEntry *e, SeccompFilter *const *chain, size_t n)
{
	for (size_t first = 0; first + n <= e->n_seccomp_filters; first++) {
		size_t i = 0;

		while (i < n && equal_filters(e->seccomp_filters[first + i], chain[i]) &&
		       e->seccomp_filters[first + i]->has_prev == (i + 1 < n))
			i++;
		if (i == n)
			return (long)first;
	}
	return -1;
}

static int add_chain(struct op *op, SeccompEntry *e, SeccompFilter **chain, size_t n)
{
	SeccompFilter **all = op_alloc(op, (e->n_seccomp_filters + n) * sizeof(*all));
	size_t first = e->n_seccomp_filters;

	if (!all)
		return CKPT_E_NOMEM;
	if (first)
		memcpy(all, e->seccomp_filters, first * sizeof(*all));
	for (size_t i = 0; i < n; i++) {
		all[first + i] = chain[i];
		if (i + 1 < n)
			msg_set(chain[i], prev, (uint32_t)(first + i + 1));
	}
	e->seccomp_filters = all;
	e->n_seccomp_filters = first + n;
	return 0;
}

int seccomp_dump(struct op *op, struct task_dump *d, const struct tracee *tr, ThreadCoreEntry *tc)
{
	SeccompEntry *e = d->s->seccomp;
	SeccompFilter *chain[MAX_FILTERS];
	size_t n = 0;
	long at;
	int r = 0;

	if (tr->status.seccomp == SECCOMP_MODE_STRICT)
		msg_set(tc, seccomp_mode, SECCOMP_MODE__strict);
	if (tr->status.seccomp != SECCOMP_MODE_FILTER)
		return 0;
	while (n < MAX_FILTERS && !(r = get_filter(op, tr, n, &chain[n])))
		n++;
	if (r < 0)
		return r;
	at = find_chain(e, chain, n);
	if (at < 0) {
		at = (long)e->n_seccomp_filters;
		r = add_chain(op, e, chain, n);
		if (r < 0)
			return r;
	}
	msg_set(tc, seccomp_mode, SECCOMP_MODE__filter);
	msg_set(tc, seccomp_filter, (uint32_t)at);
	return 0;
}
