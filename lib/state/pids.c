/* SPDX-License-Identifier: MIT */
#include "lib/state/pids.h"

#include "lib/kernel/proc/read.h"
#include "lib/state/ns/ns.h"

struct number {
	pid_t host, inside;
};

struct pids {
	size_t level; /* in the lists of /proc/PID/status: that of the root task's namespace; ours is 0 */
	struct arena *arena;
	ARRAY(struct number) v; /* ascending by host */
};

int pids_begin(struct op *op, pid_t root, struct pids **ret)
{
	struct proc_status st;
	int r = proc_read_status(op, root, &st);

	*ret = NULL;
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = root), "process %d ended meanwhile", root);
	if (st.nspid.n < 2)
		return 0;
	*ret = op_new(op, struct pids);
	if (!*ret)
		return CKPT_E_NOMEM;
	(*ret)->level = st.nspid.n - 1;
	(*ret)->arena = op->arena;
	return 0;
}

/* Where @host is, or belongs. */
static size_t place_of(const struct pids *p, pid_t host)
{
	size_t lo = 0, hi = p->v.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->v.v[mid].host < host)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static pid_t at_level(const struct proc_levels *l, size_t level)
{
	return level < l->n ? l->v[level] : 0;
}

static int add(struct op *op, struct pids *p, const struct proc_levels *l)
{
	struct number n = { at_level(l, 0), at_level(l, p->level) };
	size_t at = place_of(p, n.host);
	struct number *slot;

	if (n.host <= 0 || n.inside <= 0 || (at < p->v.n && p->v.v[at].host == n.host))
		return 0;
	slot = ARRAY_ADD(p->arena, &p->v);
	if (!slot)
		return op_nomem(op);
	memmove(&p->v.v[at + 1], &p->v.v[at], (p->v.n - 1 - at) * sizeof(n));
	p->v.v[at] = n;
	return 0;
}

int pids_add(struct op *op, struct pids *p, const struct proc_status *st)
{
	if (!p)
		return 0;
	return add(op, p, &st->nspid) ?: add(op, p, &st->nspgid) ?: add(op, p, &st->nssid);
}

int pids_add_task(struct op *op, struct pids *p, pid_t host)
{
	struct proc_status st;
	int r = p ? proc_read_status(op, host, &st) : 0;

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = host), "task %d ended meanwhile", host);
	return pids_add(op, p, &st);
}

pid_t pids_inside(const struct pids *p, pid_t host)
{
	size_t at = p ? place_of(p, host) : 0;

	if (!p)
		return host;
	return at < p->v.n && p->v.v[at].host == host ? p->v.v[at].inside : 0;
}

pid_t pids_host(const struct pids *p, pid_t inside)
{
	if (!p)
		return inside;
	for (size_t i = 0; i < p->v.n; i++)
		if (p->v.v[i].inside == inside)
			return p->v.v[i].host;
	return 0;
}

pid_t pids_of_status(const struct pids *p, const struct proc_status *st)
{
	return at_level(&st->nspid, p ? p->level : 0);
}

int pids_namespace(const struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_PID);

	return ns ? ns->fd : -1;
}

int pids_run_inside(struct op *op, const struct snapshot *s, int (*fn)(struct op *op, void *arg), void *arg)
{
	struct errand_where where = ERRAND_HERE;

	where.pid = s->pids ? pids_namespace(s) : -1;
	return where.pid < 0 ? fn(op, arg) : errand_run(op, &where, fn, arg);
}
