/* SPDX-License-Identifier: MIT */
/*
 * Peers that getpeername() does not know, since they have no port: raw and ICMP sockets are often connected so. sock_diag(7)
 * lists UDP sockets; the others show in /proc/net.
 */
#include "lib/kernel/proc/read.h"
#include "lib/state/sock/inet/inet.h"

static int list_file(struct op *op, struct inet_state *is, const char *name)
{
	struct proc_sockets socks;
	int r = proc_read_sockets(op, name, &socks);

	for (size_t i = 0; !r && i < socks.v.n; i++)
		if (!index_find(&is->unlisted, KEY(socks.v.v[i].ino)))
			r = index_add(op, &is->unlisted, KEY(socks.v.v[i].ino), &socks.v.v[i]);
	return r;
}

/* NULL: not there. */
static int find(struct op *op, struct inet_state *is, uint32_t ino, const struct proc_socket **ret)
{
	int r = 0;

	if (!is->unlisted_read)
		r = list_file(op, is, "raw") ?: list_file(op, is, "raw6") ?: list_file(op, is, "icmp") ?:
		    list_file(op, is, "icmp6");
	is->unlisted_read = true;
	*ret = r ? NULL : index_find(&is->unlisted, KEY(ino));
	return r;
}

static void set_peer(struct inet_seen *u, const uint8_t *addr)
{
	if (u->msg->family == AF_INET6)
		memcpy(&u->peer.v6.sin6_addr, addr, sizeof(u->peer.v6.sin6_addr));
	else
		memcpy(&u->peer.v4.sin_addr, addr, sizeof(u->peer.v4.sin_addr));
	u->connected = true;
}

int inet_read_portless_peer(struct op *op, struct inet_state *is, struct inet_seen *u)
{
	const struct proc_socket *k = NULL;
	InetSkEntry *m = u->msg;
	int r = 0;

	if (m->type == SOCK_STREAM || u->connected)
		return 0;
	if (m->type == SOCK_RAW || m->proto == IPPROTO_ICMP || m->proto == IPPROTO_ICMPV6)
		r = find(op, is, m->ino, &k);
	if (r)
		return r;
	if (k && k->state == INET_ESTABLISHED && k->family == (int)m->family)
		set_peer(u, k->peer);
	else if (u->entry && u->entry->state == INET_ESTABLISHED)
		set_peer(u, m->family == AF_INET6 ? (const uint8_t *)&u->entry->peer.v6.sin6_addr :
						    (const uint8_t *)&u->entry->peer.v4.sin_addr);
	if (!u->connected)
		return 0;
	m->state = INET_ESTABLISHED;
	return inet_addr_put(op, &u->peer, &m->n_dst_addr, &m->dst_addr, &m->dst_port);
}
