/* SPDX-License-Identifier: MIT */
/* Credentials of a thread: from the image to the plan. Where they are ours already, the restorer has nothing to do. */
#include <sys/capability.h>
#include <sys/prctl.h>

#include "lib/state/ns/ns.h"
#include "lib/state/task/plan_build.h"

static uint64_t cap_words(const uint32_t *w, size_t n)
{
	return (n > 0 ? w[0] : 0) | (uint64_t)(n > 1 ? w[1] : 0) << 32;
}

static bool same_groups(const struct proc_status *self, const CredsEntry *e)
{
	return self->n_groups == e->n_groups && (!e->n_groups || !memcmp(self->groups, e->groups, e->n_groups * sizeof(*e->groups)));
}

static bool same(const struct plan_build *b, const CredsEntry *e, const struct plan_creds *c)
{
	const struct proc_status *s = &b->host->self;

	return s->uid[0] == c->uid && s->uid[1] == c->euid && s->uid[2] == c->suid && s->uid[3] == c->fsuid &&
	       s->gid[0] == c->gid && s->gid[1] == c->egid && s->gid[2] == c->sgid && s->gid[3] == c->fsgid &&
	       same_groups(s, e) && s->cap_inh == c->inheritable && s->cap_prm == c->permitted && s->cap_eff == c->effective &&
	       s->cap_bnd == c->bounding && s->cap_amb == c->ambient && b->host->securebits == c->securebits;
}

static uint64_t known_caps(uint32_t *last)
{
	unsigned cap = 0;

	while (cap < 63 && prctl(PR_CAPBSET_READ, cap + 1) >= 0)
		cap++;
	*last = cap;
	return cap == 63 ? UINT64_MAX : (1ull << (cap + 1)) - 1;
}

static int lacking(struct plan_build *b, pid_t tid, uint64_t caps)
{
	int cap = __builtin_ctzll(caps);
	char *name = cap_to_name(cap);
	int r = op_fail(b->op, CKPT_E_PERM, AT(.pid = tid, .kind = "credentials", .hint = "restore with the privileges the program had"),
			"thread %d had %s, which we do not have and so cannot give it", tid, name ?: "a capability");

	if (name)
		cap_free(name);
	return r;
}

static int check_caps(struct plan_build *b, pid_t tid, struct plan_creds *c)
{
	const struct proc_status *have = &b->host->self;
	const struct snap_ns *own = ns_own(b->s, NS_USER); /* its first process has them all */
	uint64_t known = known_caps(&c->last_cap), all = c->permitted | c->inheritable | c->bounding | c->effective | c->ambient;

	if (all & ~known)
		log_warn(b->op, "thread %d had capabilities this kernel does not know; they are left out", tid);
	c->inheritable &= known;
	c->permitted &= known;
	c->effective &= known;
	c->bounding &= known;
	c->ambient &= known;
	if (c->permitted & ~have->cap_prm && !own)
		return lacking(b, tid, c->permitted & ~have->cap_prm);
	if (c->bounding & ~have->cap_bnd && !own)
		log_warn(b->op, "thread %d: our capability bounding set is smaller than its was, and cannot be enlarged", tid);
	if ((c->effective & ~c->permitted) || (c->ambient & ~(c->permitted & c->inheritable)))
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = tid, .kind = "credentials"),
			       "the capabilities of thread %d contradict each other in the image", tid);
	return 0;
}

int plan_creds(struct plan_build *b, const struct snap_thread *t, struct plan_creds *c)
{
	const CredsEntry *e = t->core->thread_core->creds;
	int r;

	if (!e)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = t->tid, .kind = "credentials"),
			       "the credentials of thread %d are missing from the image", t->tid);
	*c = (struct plan_creds){
		.uid = e->uid, .euid = e->euid, .suid = e->suid, .fsuid = e->fsuid,
		.gid = e->gid, .egid = e->egid, .sgid = e->sgid, .fsgid = e->fsgid,
		.securebits = e->secbits,
		.no_new_privs = e->has_no_new_privs && e->no_new_privs,
		.inheritable = cap_words(e->cap_inh, e->n_cap_inh),
		.permitted = cap_words(e->cap_prm, e->n_cap_prm),
		.effective = cap_words(e->cap_eff, e->n_cap_eff),
		.bounding = cap_words(e->cap_bnd, e->n_cap_bnd),
		.ambient = cap_words(e->cap_amb, e->n_cap_amb),
	};
	if (b->host->self.no_new_privs && !c->no_new_privs)
		return op_fail(b->op, CKPT_E_PERM, AT(.pid = t->tid, .kind = "credentials"),
			       "we run with no_new_privs and thread %d did not: the flag cannot be taken back", t->tid);
	/* In a user namespace of its own the same numbers are others. */
	if (!ns_own(b->s, NS_USER) && same(b, e, c))
		return 0;
	r = check_caps(b, t->tid, c);
	if (r)
		return r;
	c->change = 1;
	c->keep_groups = ns_groups_denied(b->s);
	b->creds_change = true;
	return plan_put_array(b, e->groups, e->n_groups, sizeof(*e->groups), &c->groups);
}
