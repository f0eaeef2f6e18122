/* SPDX-License-Identifier: MIT */
/* Credentials of a thread. Everything but the secure bits is in /proc/PID/task/TID/status. */
#include "lib/state/msg.h"
#include "lib/state/task/task.h"

static int cap_words(struct op *op, uint64_t caps, size_t *n, uint32_t **words)
{
	uint32_t w[2] = { (uint32_t)caps, (uint32_t)(caps >> 32) };

	*n = 2;
	*words = arena_memdup(op->arena, w, sizeof(w));
	return *words ? 0 : op_nomem(op);
}

int creds_dump(struct op *op, const struct tracee *tr, const struct parasite_args *a, CredsEntry **ret)
{
	const struct proc_status *st = &tr->status;
	CredsEntry *c = msg_new(op, CredsEntry, creds_entry);
	int r;

	if (!c)
		return CKPT_E_NOMEM;
	c->uid = st->uid[0], c->euid = st->uid[1], c->suid = st->uid[2], c->fsuid = st->uid[3];
	c->gid = st->gid[0], c->egid = st->gid[1], c->sgid = st->gid[2], c->fsgid = st->gid[3];
	r = cap_words(op, st->cap_inh, &c->n_cap_inh, &c->cap_inh);
	r = r ?: cap_words(op, st->cap_prm, &c->n_cap_prm, &c->cap_prm);
	r = r ?: cap_words(op, st->cap_eff, &c->n_cap_eff, &c->cap_eff);
	r = r ?: cap_words(op, st->cap_bnd, &c->n_cap_bnd, &c->cap_bnd);
	r = r ?: cap_words(op, st->cap_amb, &c->n_cap_amb, &c->cap_amb);
	if (r)
		return r;
	c->groups = st->groups;
	c->n_groups = st->n_groups;
	if (a->securebits < 0)
		return op_errno(op, (int)-a->securebits, AT(.pid = tr->tid), "read the secure bits of thread %d", tr->tid);
	c->secbits = (uint32_t)a->securebits;
	if (st->no_new_privs)
		msg_set(c, no_new_privs, 1);
	*ret = c;
	return 0;
}
