/* SPDX-License-Identifier: MIT */
/*
 * Tables of legacy iptables: the kernel hands out each as a whole, in the form in which it takes it back. The format holds the text
 * of iptables-save, which only the programs of iptables can write and read: a checkpoint with rules of that kind is marked.
 */
#include <net/if.h> /* before the kernel's */
#include <netinet/in.h>
#include <fcntl.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <sys/socket.h>

#include "lib/state/msg.h"
#include "lib/state/net/core.h"

#define HOOKS 5
#define ENTRIES_MAX (64u << 20)

static const struct family {
	int af, level;
	const char *names;
	size_t entry; /* bytes of an entry before its matches */
	size_t target, next, counters; /* offsets in it */
} families[] = {
	{ AF_INET, IPPROTO_IP, "/proc/thread-self/net/ip_tables_names", sizeof(struct ipt_entry), offsetof(struct ipt_entry, target_offset),
	  offsetof(struct ipt_entry, next_offset), offsetof(struct ipt_entry, counters) },
	{ AF_INET6, IPPROTO_IPV6, "/proc/thread-self/net/ip6_tables_names", sizeof(struct ip6t_entry), offsetof(struct ip6t_entry, target_offset),
	  offsetof(struct ip6t_entry, next_offset), offsetof(struct ip6t_entry, counters) },
};

static int open_raw(const struct family *f)
{
	return socket(f->af, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
}

/* -------------------------------------------------------------------------------------------------- entries */

static uint16_t u16_at(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* The length of the entry at @at; 0: there is none, or it is damaged. */
static size_t entry_len(const struct family *f, const uint8_t *v, size_t n, size_t at)
{
	size_t target, next;

	if (at >= n || n - at < f->entry)
		return 0;
	target = u16_at(v + at + f->target);
	next = u16_at(v + at + f->next);
	if (target < f->entry || next < target + sizeof(struct xt_entry_target) || next > n - at)
		return 0;
	return next;
}

/* It does nothing but let everything pass. */
static bool is_trivial(const struct family *f, const struct ipt_getinfo *info, const uint8_t *v)
{
	size_t at = 0, len;

	if (info->num_entries != (unsigned)__builtin_popcount(info->valid_hooks) + 1)
		return false;
	for (unsigned i = 0; i + 1 < info->num_entries && (len = entry_len(f, v, info->size, at)); i++, at += len) {
		const struct xt_standard_target *t = (const void *)(v + at + u16_at(v + at + f->target));

		if (t->target.u.user.name[0] || len < u16_at(v + at + f->target) + sizeof(*t) || t->verdict != -NF_ACCEPT - 1)
			return false;
	}
	return true;
}

/* ----------------------------------------------------------------------------------------------------- dump */

static int keep(struct op *op, struct net_ns *n, const struct family *f, const struct ipt_getinfo *info, const uint8_t *v)
{
	IptablesEntry *m = msg_new(op, IptablesEntry, iptables_entry), **list = op_alloc(op, (n->extra->n_iptables + 1) * sizeof(*list));

	if (!m || !list)
		return CKPT_E_NOMEM;
	m->family = (uint32_t)f->af;
	m->name = arena_strndup(op->arena, info->name, sizeof(info->name));
	m->valid_hooks = info->valid_hooks;
	m->num_entries = info->num_entries;
	m->n_hook_entry = m->n_underflow = HOOKS;
	m->hook_entry = arena_memdup(op->arena, info->hook_entry, sizeof(info->hook_entry));
	m->underflow = arena_memdup(op->arena, info->underflow, sizeof(info->underflow));
	m->entries.len = info->size;
	m->entries.data = (uint8_t *)(uintptr_t)v;
	if (!m->name || !m->hook_entry || !m->underflow)
		return op_nomem(op);
	if (n->extra->n_iptables)
		memcpy(list, n->extra->iptables, n->extra->n_iptables * sizeof(*list));
	list[n->extra->n_iptables++] = m;
	n->extra->iptables = list;
	return 0;
}

static int dump_table(struct op *op, struct net_ns *n, const struct family *f, int sk, const char *name)
{
	struct ipt_getinfo info = { 0 };
	struct ipt_get_entries *get;
	socklen_t len = sizeof(info);

	memcpy(info.name, name, strnlen(name, sizeof(info.name) - 1));
	if (getsockopt(sk, f->level, IPT_SO_GET_INFO, &info, &len) < 0)
		return op_errno(op, errno, AT(.kind = "packet filter"), "look at table %s of iptables", name);
	if (info.size > ENTRIES_MAX)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "packet filter"), "table %s of iptables has %u bytes", name, info.size);
	len = (socklen_t)(sizeof(*get) + info.size);
	get = op_alloc(op, len);
	if (!get)
		return CKPT_E_NOMEM;
	memcpy(get->name, info.name, sizeof(get->name));
	get->size = info.size;
	if (getsockopt(sk, f->level, IPT_SO_GET_ENTRIES, get, &len) < 0)
		return op_errno(op, errno, AT(.kind = "packet filter"), "read table %s of iptables", name);
	return is_trivial(f, &info, (uint8_t *)get->entrytable) ? 0 : keep(op, n, f, &info, (uint8_t *)get->entrytable);
}

static int dump_family(struct op *op, struct net_ns *n, const struct family *f)
{
	_cleanup_fclose_ FILE *names = fopen(f->names, "re");
	_cleanup_close_ int sk = names ? open_raw(f) : -1;
	char name[XT_TABLE_MAXNAMELEN + 1];
	int r = 0;

	if (sk < 0)
		return 0; /* the kernel has none */
	while (!r && fgets(name, sizeof(name), names)) {
		name[strcspn(name, "\n")] = 0;
		if (*name)
			r = dump_table(op, n, f, sk, name);
	}
	return r;
}

int net_iptables_dump(struct op *op, struct snapshot *s, struct net_ns *n)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(families) && !r; i++)
		r = dump_family(op, n, &families[i]);
	return r || !n->extra->n_iptables ? r : snapshot_mark(op, s, IMG_OWN_NET_FILTER);
}

/* ---------------------------------------------------------------------------------------------------- check */

static const struct family *family_of(const IptablesEntry *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (families[i].af == (int)m->family)
			return &families[i];
	return NULL;
}

static int check_table(struct op *op, const IptablesEntry *m)
{
	const struct family *f = family_of(m);
	size_t at = 0, len;
	uint32_t n = 0;

	if (!f || !*m->name || strlen(m->name) >= XT_TABLE_MAXNAMELEN || m->n_hook_entry != HOOKS || m->n_underflow != HOOKS ||
	    m->entries.len > ENTRIES_MAX)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "packet filter"), "ckpt-extra: a table of iptables makes no sense");
	for (; (len = entry_len(f, m->entries.data, m->entries.len, at)); at += len)
		n++;
	if (at != m->entries.len || n != m->num_entries)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "packet filter"), "ckpt-extra: table %s of iptables is damaged", m->name);
	return 0;
}

/* A line of iptables-save that restores nothing but what a new namespace is like anyway, or the other engine's lock. */
static bool is_idle_line(const char *line)
{
	static const char *const locks[] = { ":CRIU ", "-A INPUT -j CRIU", "-A OUTPUT -j CRIU", "-A CRIU " };

	if (!*line || *line == '#' || *line == '*' || !strcmp(line, "COMMIT"))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(locks); i++)
		if (!strncmp(line, locks[i], strlen(locks[i])))
			return true;
	return *line == ':' && strstr(line, " ACCEPT ");
}

/* Text of another engine. */
static int check_text(struct op *op, const struct net_ns *n, const struct nl_blob *b, const char *image)
{
	char *text = arena_strndup(op->arena, (char *)b->v, b->n), *save;

	if (!text)
		return op_nomem(op);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (!is_idle_line(line))
			return op_fail(op, CKPT_E_UNSUPPORTED,
				       AT(.kind = "packet filter", .hint = "restore without that image, and the rules afterwards (iptables-restore)"),
				       "%s-%u.img has rules of legacy iptables as text, which only its programs read: %.80s", image, n->ns->id, line);
	return 0;
}

int net_iptables_check(struct op *op, const struct net_ns *n)
{
	int r = 0;

	for (size_t i = 0; n->extra && i < n->extra->n_iptables && !r; i++)
		r = check_table(op, n->extra->iptables[i]);
	if (!r && !(n->extra && n->extra->n_iptables))
		r = check_text(op, n, &n->ipt_text, "iptables") ?: check_text(op, n, &n->ipt6_text, "ip6tables");
	return r;
}

/* -------------------------------------------------------------------------------------------------- restore */

static int set_counters(struct op *op, const struct family *f, int sk, const IptablesEntry *m)
{
	size_t size = sizeof(struct xt_counters_info) + m->num_entries * sizeof(struct xt_counters), at = 0, len;
	struct xt_counters_info *info = op_alloc(op, size);

	if (!info)
		return CKPT_E_NOMEM;
	memcpy(info->name, m->name, strlen(m->name));
	info->num_counters = m->num_entries;
	for (uint32_t i = 0; i < m->num_entries && (len = entry_len(f, m->entries.data, m->entries.len, at)); i++, at += len)
		memcpy(&info->counters[i], m->entries.data + at + f->counters, sizeof(struct xt_counters));
	if (setsockopt(sk, f->level, IPT_SO_SET_ADD_COUNTERS, info, (socklen_t)size) < 0)
		log_warn(op, "the counters of table %s of iptables begin at zero: %s", m->name, strerror(errno));
	return 0;
}

static int make_table(struct op *op, const IptablesEntry *m)
{
	const struct family *f = family_of(m);
	_cleanup_close_ int sk = open_raw(f);
	struct ipt_replace *replace = op_alloc(op, sizeof(*replace) + m->entries.len);
	struct ipt_getinfo info = { 0 };
	socklen_t len = sizeof(info);

	if (!replace)
		return CKPT_E_NOMEM;
	memcpy(info.name, m->name, strlen(m->name));
	if (sk < 0 || getsockopt(sk, f->level, IPT_SO_GET_INFO, &info, &len) < 0)
		return op_errno(op, errno, AT(.kind = "packet filter", .hint = "the kernel needs legacy iptables"), "restore table %s of iptables", m->name);
	memcpy(replace->name, m->name, strlen(m->name));
	replace->valid_hooks = m->valid_hooks;
	replace->num_entries = m->num_entries;
	replace->size = (unsigned)m->entries.len;
	memcpy(replace->hook_entry, m->hook_entry, sizeof(replace->hook_entry));
	memcpy(replace->underflow, m->underflow, sizeof(replace->underflow));
	replace->num_counters = info.num_entries;
	replace->counters = op_alloc(op, (info.num_entries + 1) * sizeof(struct xt_counters));
	if (!replace->counters)
		return CKPT_E_NOMEM;
	memcpy(replace->entries, m->entries.data, m->entries.len);
	if (setsockopt(sk, f->level, IPT_SO_SET_REPLACE, replace, (socklen_t)(sizeof(*replace) + m->entries.len)) < 0)
		return op_errno(op, errno, AT(.kind = "packet filter"), "restore table %s of iptables", m->name);
	return set_counters(op, f, sk, m);
}

int net_iptables_make(struct op *op, struct net_ns *n)
{
	int r = 0;

	/* The kernel lists the latest first. */
	for (size_t i = n->extra ? n->extra->n_iptables : 0; i-- > 0 && !r;)
		r = make_table(op, n->extra->iptables[i]);
	return r;
}
