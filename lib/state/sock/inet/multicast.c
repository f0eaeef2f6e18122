/* SPDX-License-Identifier: MIT */
/*
 * Multicast groups that a socket is a member of. The kernel lists the groups of each device, not those of a socket; but it
 * tells the filter that a socket has for a group on a device, and so whether it is a member. Each socket is asked for each.
 */
#include <arpa/inet.h>
#include <net/if.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet/inet.h"

#define SOURCES_FIRST 16u
#define SOURCES_MAX (1u << 16)

static size_t addr_size(int family)
{
	return family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
}

static void put_addr(struct sockaddr_storage *to, int family, const uint8_t *addr)
{
	union inet_addr a = { .any.sa_family = (sa_family_t)family };

	memcpy(family == AF_INET6 ? (void *)&a.v6.sin6_addr : &a.v4.sin_addr, addr, addr_size(family));
	memset(to, 0, sizeof(*to));
	memcpy(to, &a, sizeof(a));
}

static const uint8_t *get_addr(const struct sockaddr_storage *s)
{
	return s->ss_family == AF_INET6 ? (const uint8_t *)&((const struct sockaddr_in6 *)(const void *)s)->sin6_addr :
					  (const uint8_t *)&((const struct sockaddr_in *)(const void *)s)->sin_addr;
}

static int level_of(int family)
{
	return family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

/* ------------------------------------------------------------------------------------------------------- dump */

/* *@ret: NULL: it is no member. */
static int ask(struct op *op, int fd, const struct proc_group *g, struct group_filter **ret)
{
	uint32_t room = SOURCES_FIRST;
	struct group_filter *f;
	socklen_t n;

	*ret = NULL;
	do {
		n = (socklen_t)GROUP_FILTER_SIZE(room);
		f = op_alloc(op, n);
		if (!f)
			return CKPT_E_NOMEM;
		f->gf_interface = g->ifindex;
		f->gf_numsrc = room;
		put_addr(&f->gf_group, g->family, g->addr);
		if (getsockopt(fd, level_of(g->family), MCAST_MSFILTER, f, &n) < 0)
			return 0;
		if (f->gf_numsrc <= room)
			*ret = f;
		room = f->gf_numsrc; /* how many there are, whatever fitted */
	} while (!*ret && room <= SOURCES_MAX);
	return 0;
}

static int note(struct op *op, struct inet_seen *u, const struct proc_group *g, const struct group_filter *f)
{
	InetSkExtra *x = u->extra;
	MulticastEntry *m = msg_new(op, MulticastEntry, multicast_entry), **more;
	size_t n = addr_size(g->family);

	more = op_alloc(op, (x->n_groups + 1) * sizeof(*more));
	if (!m || !more)
		return CKPT_E_NOMEM;
	if (x->n_groups)
		memcpy(more, x->groups, x->n_groups * sizeof(*more));
	x->groups = more;
	x->groups[x->n_groups++] = m;
	u->noted = true;
	m->family = (uint32_t)g->family;
	m->ifindex = g->ifindex;
	m->ifname = arena_strdup(op->arena, g->device);
	m->group = (ProtobufCBinaryData){ n, arena_memdup(op->arena, g->addr, n) };
	msg_set(m, mode, f->gf_fmode);
	m->sources = op_alloc(op, f->gf_numsrc * sizeof(*m->sources));
	if (!m->ifname || !m->group.data || !m->sources)
		return op_nomem(op);
	for (uint32_t i = 0; i < f->gf_numsrc; i++) {
		m->sources[i] = (ProtobufCBinaryData){ n, arena_memdup(op->arena, get_addr(&f->gf_slist[i]), n) };
		if (!m->sources[i].data)
			return op_nomem(op);
		m->n_sources++;
	}
	return 0;
}

static int ask_all(struct op *op, int fd, struct inet_seen *u, const struct proc_groups *groups)
{
	struct group_filter *f;
	int r = 0;

	for (size_t i = 0; !r && i < groups->v.n; i++) {
		r = ask(op, fd, &groups->v.v[i], &f);
		if (!r && f)
			r = note(op, u, &groups->v.v[i], f);
	}
	return r;
}

int multicast_dump(struct op *op, struct inet_state *is, int fd, struct inet_seen *u)
{
	const InetSkEntry *m = u->msg;
	int r = 0;

	if (m->type == SOCK_STREAM) /* they cannot be members */
		return 0;
	if (!is->groups_listed)
		r = proc_read_groups(op, "igmp", &is->groups) ?: proc_read_groups(op, "igmp6", &is->groups6);
	is->groups_listed = true;
	/* One of IPv6 may have both kinds, unless it is raw. */
	if (!r && (m->family == AF_INET || m->type != SOCK_RAW))
		r = ask_all(op, fd, u, &is->groups);
	if (!r && m->family == AF_INET6)
		r = ask_all(op, fd, u, &is->groups6);
	return r;
}

/* ---------------------------------------------------------------------------------------------------- restore */

int multicast_read(struct op *op, const struct inet_sk *sk)
{
	for (size_t i = 0; sk->x && i < sk->x->n_groups; i++) {
		const MulticastEntry *m = sk->x->groups[i];
		size_t n = addr_size((int)m->family);
		bool bad = (m->family != AF_INET && m->family != AF_INET6) ||
			   (m->family == AF_INET6 && sk->m->family != AF_INET6) ||
			   m->group.len != n || !m->ifname || !*m->ifname || strlen(m->ifname) >= IF_NAMESIZE ||
			   (m->mode != MCAST_INCLUDE && m->mode != MCAST_EXCLUDE) || (m->mode == MCAST_INCLUDE && !m->n_sources) ||
			   m->n_sources > SOURCES_MAX;

		for (size_t k = 0; !bad && k < m->n_sources; k++)
			bad = m->sources[k].len != n;
		if (bad)
			return image_bad(op, "ckpt-extra: %s: it is a member of something that is no multicast group",
					 inet_what(op, sk));
	}
	return 0;
}

static const char *group_text(struct op *op, const MulticastEntry *m)
{
	char text[INET6_ADDRSTRLEN];
	const char *ret = inet_ntop((int)m->family, m->group.data, text, sizeof(text)) ? arena_strdup(op->arena, text) : NULL;

	return ret ? ret : "?";
}

/* Only what these send. */
static int join_sources(int fd, const MulticastEntry *m, uint32_t ifindex)
{
	struct group_source_req q = { .gsr_interface = ifindex };

	put_addr(&q.gsr_group, (int)m->family, m->group.data);
	for (size_t i = 0; i < m->n_sources; i++) {
		put_addr(&q.gsr_source, (int)m->family, m->sources[i].data);
		if (setsockopt(fd, level_of((int)m->family), MCAST_JOIN_SOURCE_GROUP, &q, sizeof(q)) < 0)
			return -1;
	}
	return 0;
}

/* All but what these send. */
static int join_group(int fd, const MulticastEntry *m, uint32_t ifindex)
{
	struct group_req q = { .gr_interface = ifindex };
	struct group_source_req not = { .gsr_interface = ifindex };
	int level = level_of((int)m->family);

	put_addr(&q.gr_group, (int)m->family, m->group.data);
	if (setsockopt(fd, level, MCAST_JOIN_GROUP, &q, sizeof(q)) < 0)
		return -1;
	not.gsr_group = q.gr_group;
	for (size_t i = 0; i < m->n_sources; i++) {
		put_addr(&not.gsr_source, (int)m->family, m->sources[i].data);
		if (setsockopt(fd, level, MCAST_BLOCK_SOURCE, &not, sizeof(not)) < 0)
			return -1;
	}
	return 0;
}

int multicast_join(struct op *op, const struct inet_sk *sk)
{
	for (size_t i = 0; sk->x && i < sk->x->n_groups; i++) {
		const MulticastEntry *m = sk->x->groups[i];
		uint32_t ifindex = if_nametoindex(m->ifname);

		if (!ifindex)
			return op_fail(op, CKPT_E_CHANGED, AT(.kind = "socket", .hint = "the device must be there"),
				       "%s: it is a member of multicast group %s on device %s, which is not there",
				       inet_what(op, sk), group_text(op, m), m->ifname);
		if ((m->mode == MCAST_INCLUDE ? join_sources : join_group)(sk->f->fd, m, ifindex) < 0)
			return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot join multicast group %s on device %s",
					inet_what(op, sk), group_text(op, m), m->ifname);
	}
	return 0;
}
