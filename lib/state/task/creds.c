/* SPDX-License-Identifier: MIT */
/* Credentials of a thread. Everything but the secure bits is in /proc/PID/task/TID/status. */
#include "lib/state/msg.h"
#include "lib/state/ns/ns.h"
#include "lib/state/task/lsm.h"
#include "lib/state/task/task.h"

static int cap_words(struct op *op, uint64_t caps, size_t *n, uint32_t **words)
{
	uint32_t w[2] = { (uint32_t)caps, (uint32_t)(caps >> 32) };

	*n = 2;
	*words = arena_memdup(op->arena, w, sizeof(w));
	return *words ? 0 : op_nomem(op);
}

/* As the tree's user namespace has them. */
static int numbers(struct op *op, const struct snapshot *s, const struct tracee *tr, CredsEntry *c)
{
	uint32_t *const users[] = { &c->uid, &c->euid, &c->suid, &c->fsuid }, *const groups[] = { &c->gid, &c->egid, &c->sgid, &c->fsgid };
	const struct proc_status *st = &tr->status;

	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		*users[i] = ns_uid_inside(s, st->uid[i]);
		*groups[i] = ns_gid_inside(s, st->gid[i]);
		if (*users[i] == (uint32_t)-1 || *groups[i] == (uint32_t)-1)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = tr->tid, .kind = "credentials"),
				       "thread %d has %s %u, which its user namespace has no number for", tr->tid,
				       *users[i] == (uint32_t)-1 ? "user" : "group", *users[i] == (uint32_t)-1 ? st->uid[i] : st->gid[i]);
	}
	return 0;
}

static int more_groups(struct op *op, const struct snapshot *s, const struct tracee *tr, CredsEntry *c)
{
	const struct proc_status *st = &tr->status;

	/* Those that all have from before the namespace was made, and cannot give up: in the place of their own. */
	if (ns_groups_denied(s))
		return 0;
	c->groups = op_alloc(op, (st->n_groups + 1) * sizeof(*c->groups));
	if (!c->groups)
		return CKPT_E_NOMEM;
	for (; c->n_groups < st->n_groups; c->n_groups++) {
		uint32_t id = ns_gid_inside(s, st->groups[c->n_groups]);

		if (id == (uint32_t)-1)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = tr->tid, .kind = "credentials"),
				       "thread %d is in group %u, which its user namespace has no number for", tr->tid,
				       st->groups[c->n_groups]);
		c->groups[c->n_groups] = id;
	}
	return 0;
}

int creds_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a, CredsEntry **ret)
{
	const struct proc_status *st = &tr->status;
	CredsEntry *c = msg_new(op, CredsEntry, creds_entry);
	int r;

	if (!c)
		return CKPT_E_NOMEM;
	r = numbers(op, d->s, tr, c) ?: more_groups(op, d->s, tr, c);
	r = r ?: cap_words(op, st->cap_inh, &c->n_cap_inh, &c->cap_inh);
	r = r ?: cap_words(op, st->cap_prm, &c->n_cap_prm, &c->cap_prm);
	r = r ?: cap_words(op, st->cap_eff, &c->n_cap_eff, &c->cap_eff);
	r = r ?: cap_words(op, st->cap_bnd, &c->n_cap_bnd, &c->cap_bnd);
	r = r ?: cap_words(op, st->cap_amb, &c->n_cap_amb, &c->cap_amb);
	if (r)
		return r;
	if (a->securebits < 0)
		return op_errno(op, (int)-a->securebits, AT(.pid = tr->tid), "read the secure bits of thread %d", tr->tid);
	c->secbits = (uint32_t)a->securebits;
	if (st->no_new_privs)
		msg_set(c, no_new_privs, 1);
	*ret = c;
	return lsm_dump(op, d->task->host, tr->tid, c);
}
