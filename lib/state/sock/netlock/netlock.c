/* SPDX-License-Identifier: MIT */
/*
 * The life of a network lock. A dump makes a table that its socket owns, so that a dump that dies leaves nothing; before the
 * commit the table is replaced, in one step of the kernel's, by one that nobody owns, and which the guardian knows of. A restore
 * leaves that one where it is until it has succeeded. Where there is none it owns one of its own meanwhile.
 */
#include "lib/inject/guardian.h"
#include "lib/state/msg.h"
#include "lib/state/ns/ns.h"
#include "lib/state/sock/netlock/netlock_parts.h"

#define RUN_ID_MAX 64

struct netlock {
	enum netlock_method method; /* of the dump */
	const struct guardian *guardian;
	const char *table;
	const struct netlock_tuple *v;
	size_t n;
	struct nft *nft; /* the owner of a table, which goes when this is closed; NULL: nobody owns it */
	bool made;	 /* dump: it is there; restore: rules of iptables are ours */
	bool theirs;	 /* restore: the dump's table is there */
};

/* ---------------------------------------------------------------------------------------------------- what is shared */

/* An undo's own failure is not to hide the one that led to it. */
static void warn(struct op *op, int r, const char *what)
{
	if (r < 0)
		log_warn(op, "%s: %s", what, op->err ? ckpt_err_message(op->err) : ckpt_code_name(r));
	op_forget(op);
}

/* It is in the name of something that gets deleted. */
static bool is_run_id(const char *id)
{
	size_t n = strlen(id);

	return n && n <= RUN_ID_MAX && strspn(id, "0123456789abcdefABCDEF-") == n;
}

int netlock_table(struct op *op, const struct snapshot *s, const char **ret)
{
	const char *id = s->inventory->dump_criu_run_id;

	if (id && !is_run_id(id))
		return op_fail(op, CKPT_E_IMAGE, NULL, "the inventory's run id is none");
	if (id)
		*ret = arena_printf(op->arena, NETLOCK_TABLE_PREFIX "%s", id);
	else
		*ret = arena_printf(op->arena, NETLOCK_TABLE_PREFIX "%d", s->tasks.n ? s->tasks.v[0].pid : 0);
	return *ret ? 0 : op_nomem(op);
}

static struct netlock *new(struct op *op, struct snapshot *s, enum netlock_method method, const struct netlock_tuple *v, size_t n)
{
	struct netlock *l = op_new(op, struct netlock);

	if (!l)
		return NULL;
	*l = (struct netlock){ .method = method, .guardian = s->guardian, .n = n, .v = arena_memdup(op->arena, v, n * sizeof(*v)) };
	if (!l->v)
		op_nomem(op);
	return l->v && netlock_table(op, s, &l->table) == 0 ? l : NULL;
}

static int note_removal(struct op *op, const struct netlock *l)
{
	_cleanup_(nft_batch_free) struct nft_batch b = NFT_BATCH_INIT;
	int r = netlock_nft_removal(op, &b, l->table);

	if (!r && guardian_note_lock(l->guardian, b.buf, b.len) < 0)
		return op_errno(op, errno, AT(.kind = "network lock"), "note the network lock in the journal");
	return r;
}

static int remove_table(struct op *op, const char *table)
{
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	int r = nft_open(op, &nft);

	return r ?: netlock_nft_remove(op, nft, table);
}

/* ------------------------------------------------------------------------------------------------------------ dump */

/* Kernels before 5.12 have tables without owners only: the guardian then has to remove it. */
static int take_unowned(struct op *op, struct netlock *l)
{
	int r = note_removal(op, l);

	r = r ?: netlock_nft_make(op, l->nft, l->table, l->v, l->n, 0, false);
	l->nft = nft_close(l->nft);
	return r;
}

static int take_nft(struct op *op, struct netlock *l)
{
	int r = nft_open(op, &l->nft);

	if (r)
		return r;
	r = netlock_nft_make(op, l->nft, l->table, l->v, l->n, NFT_TABLE_F_OWNER, false);
	if (r == CKPT_E_KERNEL) {
		op_forget(op);
		r = take_unowned(op, l);
	}
	if (r)
		l->nft = nft_close(l->nft);
	return r;
}

/* One family's rules, which the guardian is to have removed. */
static int note_rules(struct op *op, const struct netlock *l, int family)
{
	char *text = netlock_ipt_text(op, family, false, l->v, l->n), *program;
	int r;

	if (!text)
		return op->err ? CKPT_E_NOMEM : 0;
	r = netlock_ipt_program(op, family, &program);
	if (!r && guardian_note_rules(l->guardian, program, text, strlen(text)) < 0)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "network lock", .hint = "give --network-lock nftables"),
			       "%zu connections are too many for rules of iptables", l->n);
	return r;
}

static int take_ipt(struct op *op, struct netlock *l)
{
	int r = note_rules(op, l, AF_INET) ?: note_rules(op, l, AF_INET6);

	return r ?: netlock_ipt_add(op, l->v, l->n);
}

static enum netlock_method method_of(const struct ckpt_opts *o)
{
	switch (o->network_lock) {
	case CKPT_LOCK_IPTABLES:
		return NETLOCK_IPTABLES;
	case CKPT_LOCK_SKIP:
	case CKPT_LOCK_NONE:
		return NETLOCK_SKIP;
	default:
		return NETLOCK_NFTABLES;
	}
}

int netlock_take(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n, struct netlock **ret)
{
	enum netlock_method method = method_of(op->opts);
	uint64_t begin = now_ns();
	struct netlock *l;
	int r;

	*ret = NULL;
	if (!n)
		return 0;
	msg_set(s->inventory, network_lock_method, method);
	if (method == NETLOCK_SKIP) {
		log_warn(op, "packets of %zu TCP connections are not held: peers that send meanwhile will find them closed", n);
		return 0;
	}
	l = new(op, s, method, v, n);
	if (!l)
		return op->err ? ckpt_err_code(op->err) : CKPT_E_NOMEM;
	guardian_note_netns(s->guardian, ns_own(s, NS_NET) ? s->tasks.v[0].host : 0);
	r = method == NETLOCK_NFTABLES ? take_nft(op, l) : take_ipt(op, l);
	if (r) {
		guardian_drop_lock(l->guardian);
		return r;
	}
	l->made = true;
	*ret = l;
	log_info(op, "packets of %zu TCP connections are held (%s, %u us)", n, method == NETLOCK_NFTABLES ? l->table : "iptables",
		 (unsigned)((now_ns() - begin) / 1000));
	return 0;
}

int netlock_keep(struct op *op, struct netlock *l)
{
	int r;

	if (!l || !l->nft)
		return 0;
	r = note_removal(op, l);
	r = r ?: netlock_nft_make(op, l->nft, l->table, l->v, l->n, 0, true);
	if (r)
		guardian_drop_lock(l->guardian);
	else
		l->nft = nft_close(l->nft);
	return r;
}

void netlock_release(struct op *op, struct netlock **lock)
{
	struct netlock *l = TAKE_PTR(*lock);
	struct ckpt_err *first = op->err;

	if (!l)
		return;
	op->err = NULL;
	if (l->method == NETLOCK_IPTABLES)
		netlock_ipt_remove(op, l->v, l->n);
	else if (l->nft)
		warn(op, netlock_nft_remove(op, l->nft, l->table), "the network lock");
	else
		warn(op, remove_table(op, l->table), "the network lock could not be removed (nft delete table does it)");
	l->nft = nft_close(l->nft);
	guardian_drop_lock(l->guardian);
	op_forget(op);
	op->err = first;
}

/* --------------------------------------------------------------------------------------------------------- restore */

/* A table that goes with us, unless the dump's is there. */
static int adopt_nft(struct op *op, struct netlock *l)
{
	bool owned = false;
	int r = nft_open(op, &l->nft);

	r = r ?: netlock_nft_find(op, l->nft, l->table, &owned);
	if (!r && owned)
		r = op_fail(op, CKPT_E_BUSY, AT(.kind = "network lock", .hint = "wait for its end"),
			    "another dump or restore holds the packets of these connections (nftables table inet %s)", l->table);
	l->theirs = !r;
	if (r == 1)
		r = netlock_nft_make(op, l->nft, l->table, l->v, l->n, NFT_TABLE_F_OWNER, false);
	if (r || l->theirs)
		l->nft = nft_close(l->nft);
	return r;
}

/* The rules of the dump are there, or are not. One that vanishes with us does no harm beside them; else they have to do. */
static int adopt_ipt(struct op *op, struct netlock *l)
{
	int r = adopt_nft(op, l);

	if (r != CKPT_E_KERNEL)
		return r;
	op_forget(op);
	l->made = true;
	return netlock_ipt_add(op, l->v, l->n);
}

/* The dump wanted none, and ckpt lock may have made one since; or there was one, and the restore lets all connections go. */
static int adopt_installed(struct op *op, struct netlock *l)
{
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	bool owned;
	int r = nft_open(op, &nft);

	r = r ?: netlock_nft_find(op, nft, l->table, &owned);
	if (r)
		op_forget(op);
	l->theirs = !r;
	return r ? 1 : 0;
}

int netlock_adopt(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n, struct netlock **ret)
{
	uint32_t method = s->inventory->has_network_lock_method ? s->inventory->network_lock_method : NETLOCK_IPTABLES;
	struct netlock *l;
	int r;

	*ret = NULL;
	if (method > NETLOCK_SKIP)
		return op_fail(op, CKPT_E_IMAGE, NULL, "the inventory names a network lock (%u) that is not known", method);
	if (!n && method != NETLOCK_NFTABLES)
		return 0;
	l = new(op, s, method, v, n);
	if (!l)
		return op->err ? ckpt_err_code(op->err) : CKPT_E_NOMEM;
	if (!n || method == NETLOCK_SKIP)
		r = adopt_installed(op, l);
	else
		r = method == NETLOCK_NFTABLES ? adopt_nft(op, l) : adopt_ipt(op, l);
	if (r)
		return r > 0 ? 0 : r;
	*ret = l;
	log_info(op, "packets of %zu TCP connections are held, %s", n, l->theirs ? "since the dump" : "by a lock of this restore");
	return 0;
}

void netlock_done(struct op *op, struct netlock **lock, bool success)
{
	struct netlock *l = TAKE_PTR(*lock);
	struct ckpt_err *first = op->err;

	if (!l)
		return;
	op->err = NULL;
	if (l->nft)
		warn(op, netlock_nft_remove(op, l->nft, l->table), "the network lock");
	else if (success && l->theirs)
		warn(op, remove_table(op, l->table), "the network lock could not be removed (ckpt unlock does it)");
	if (l->method == NETLOCK_IPTABLES && l->made)
		netlock_ipt_remove(op, l->v, l->n);
	if (l->method == NETLOCK_IPTABLES && success) /* those of the dump */
		netlock_ipt_remove(op, l->v, l->n);
	l->nft = nft_close(l->nft);
	op->err = first;
}

/* ------------------------------------------------------------------------------------------------- by themselves */

int netlock_install(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n)
{
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	const char *table;
	bool owned;
	int r = netlock_table(op, s, &table);

	r = r ?: nft_open(op, &nft);
	r = r ?: netlock_nft_find(op, nft, table, &owned);
	if (r != 1)
		return r ?: 1;
	return netlock_nft_make(op, nft, table, v, n, 0, false);
}

static int remove_unowned(struct op *op, const char *table)
{
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	bool owned = false;
	int r = nft_open(op, &nft);

	r = r ?: netlock_nft_find(op, nft, table, &owned);
	if (!r && owned)
		return op_fail(op, CKPT_E_BUSY, AT(.kind = "network lock", .hint = "wait for its end; the lock then goes by itself"),
			       "a dump or restore that is at work owns nftables table inet %s", table);
	return r ?: netlock_nft_remove(op, nft, table);
}

/* A table may be there whatever the dump's method was: ckpt lock makes one. */
int netlock_remove(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n)
{
	bool rules = !s->inventory->has_network_lock_method || s->inventory->network_lock_method == NETLOCK_IPTABLES;
	const char *table;
	size_t left = n;
	int r = netlock_table(op, s, &table);

	r = r ?: remove_unowned(op, table);
	if (r == CKPT_E_KERNEL && rules) {
		op_forget(op);
		r = 1;
	}
	if (r >= 0 && rules)
		left = netlock_ipt_remove(op, v, n);
	return r == 1 && left < n ? 0 : r;
}

int netlock_remove_id(struct op *op, const char *id)
{
	const char *table = arena_printf(op->arena, NETLOCK_TABLE_PREFIX "%s", id);

	if (!is_run_id(id))
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "ckpt unlock --list shows those that are there"), "'%s' is no id of a lock", id);
	return table ? remove_unowned(op, table) : op_nomem(op);
}

struct list_arg {
	netlock_fn fn;
	void *arg;
};

static int on_any_table(struct op *op, void *arg, const struct nft_table_info *t)
{
	size_t prefix = strlen(NETLOCK_TABLE_PREFIX);
	const struct list_arg *l = arg;

	if (strncmp(t->name, NETLOCK_TABLE_PREFIX, prefix) || !is_run_id(t->name + prefix))
		return 0;
	return l->fn(op, l->arg, t->name + prefix, t->flags & NFT_TABLE_F_OWNER && t->owner);
}

int netlock_list(struct op *op, netlock_fn fn, void *arg)
{
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	struct list_arg l = { .fn = fn, .arg = arg };
	int r = nft_open(op, &nft);

	r = r ?: nft_tables(op, nft, NFPROTO_INET, on_any_table, &l);
	return r > 0 ? netlock_nft_refused(op, nft, r, "", "listing") : r;
}
