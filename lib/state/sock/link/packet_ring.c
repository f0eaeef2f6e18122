/* SPDX-License-Identifier: MIT */
/*
 * Rings of packet sockets: memory that the kernel and the program share. A mapping is always of all rings of a socket. Areas are
 * looked at before descriptors, so which socket one belongs to is said in the end.
 */
#include <linux/if_packet.h>
#include <sys/mman.h>

#include "lib/kernel/uapi.h"
#include "lib/state/mem/mem.h"
#include "lib/state/sock/link/link.h"
#include "lib/state/sock/link/ring.h"

/* --------------------------------------------------------------------------------------------------------- dump */

bool packet_ring_is(const struct proc_vma *v)
{
	return !strncmp(v->name, "socket:[", 8);
}

const char *packet_ring_obstacle(const struct proc_vma *v)
{
	if (v->perms[3] != 's')
		return "the rings of a packet socket are mapped privately, which is not supported";
	return v->pgoff ? "part of the rings of a packet socket was mapped elsewhere, or unmapped, which is not supported" : NULL;
}

int packet_ring_area(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *v, VmaEntry *e)
{
	struct link_state *ls = link_state(op, s);
	struct ring_area *slot = ls ? ARRAY_ADD(op->arena, &ls->areas) : NULL;

	if (!slot)
		return op_nomem(op);
	*slot = (struct ring_area){ .pid = pid, .ino = (uint32_t)v->inode, .e = e };
	e->status |= VMA_SOCKET;
	e->pgoff = v->pgoff;
	return 0;
}

static int dump_ring(struct op *op, const struct packet_diag_ring *ring, PacketRing **ret)
{
	PacketRing *m = ring ? msg_new(op, PacketRing, packet_ring) : NULL;

	if (!ring)
		return 0;
	if (!m)
		return CKPT_E_NOMEM;
	m->block_size = ring->pdr_block_size;
	m->block_nr = ring->pdr_block_nr;
	m->frame_size = ring->pdr_frame_size;
	m->frame_nr = ring->pdr_frame_nr;
	m->retire_tmo = ring->pdr_retire_tmo;
	m->sizeof_priv = ring->pdr_sizeof_priv;
	m->features = ring->pdr_features;
	*ret = m;
	return 0;
}

int packet_rings_dump(struct op *op, const struct packet_seen *seen, PacketSockEntry *m)
{
	return dump_ring(op, seen->rx, &m->rx_ring) ?: dump_ring(op, seen->tx, &m->tx_ring);
}

static uint64_t ring_len(const PacketRing *m)
{
	return m ? (uint64_t)m->block_size * m->block_nr : 0;
}

static int refuse(struct op *op, const struct ring_area *a, const char *hint, const char *why)
{
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = a->pid, .addr = a->e->start, .kind = "packet socket ring", .hint = hint),
		       "task %d: memory at %#lx-%#lx (socket:[%u]): %s", a->pid, a->e->start, a->e->end, a->ino, why);
}

int packet_rings_complete(struct op *op, struct snapshot *s)
{
	struct link_state *ls = s->file_state->link_sockets;

	for (size_t i = 0; ls && i < ls->areas.n; i++) {
		const struct ring_area *a = &ls->areas.v[i];
		const struct snap_file *f = index_find(&ls->packet_files, KEY(a->ino));

		if (!f)
			return refuse(op, a, "unmap it before the checkpoint",
				      "it is no packet socket's, or the socket has no descriptor in the tree");
		if (ring_len(f->msg->psk->rx_ring) + ring_len(f->msg->psk->tx_ring) != a->e->end - a->e->start)
			return refuse(op, a, NULL, "only part of its rings is mapped, which is not supported");
		a->e->shmid = f->id;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------------ restore */

/* How large a ring may be only the memory says; the kernel would try. */
const char *packet_ring_wrong(const PacketRing *m)
{
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * PAGE_SIZE;

	if (!m)
		return NULL;
	if (!m->block_size || m->block_size % PAGE_SIZE || m->block_size > INT32_MAX || !m->block_nr || !m->frame_size ||
	    !m->frame_nr)
		return "its ring makes no sense";
	return ring_len(m) > memory ? "its ring is larger than the memory of this machine" : NULL;
}

static int make_ring(struct op *op, const struct snap_file *f, int which, const PacketRing *m)
{
	const struct tpacket_req3 req = {
		.tp_block_size = m ? m->block_size : 0, .tp_block_nr = m ? m->block_nr : 0,
		.tp_frame_size = m ? m->frame_size : 0, .tp_frame_nr = m ? m->frame_nr : 0,
		.tp_retire_blk_tov = m ? m->retire_tmo : 0, .tp_sizeof_priv = m ? m->sizeof_priv : 0,
		.tp_feature_req_word = m ? m->features : 0,
	};
	socklen_t len = f->msg->psk->version == TPACKET_V3 ? sizeof(struct tpacket_req3) : sizeof(struct tpacket_req);

	if (!m || setsockopt(f->fd, SOL_PACKET, which, &req, len) == 0)
		return 0;
	return op_errno(op, errno, AT(.kind = "packet socket"),
			"packet socket (file id %u): cannot make its %s ring of %lu bytes", f->id,
			which == PACKET_RX_RING ? "receive" : "transmit", (unsigned long)ring_len(m));
}

int packet_rings_make(struct op *op, const struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;

	return make_ring(op, f, PACKET_RX_RING, m->rx_ring) ?: make_ring(op, f, PACKET_TX_RING, m->tx_ring);
}

int packet_rings_remake(struct op *op, const struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	const struct tpacket_req3 none = { 0 };
	socklen_t len = m->version == TPACKET_V3 ? sizeof(none) : sizeof(struct tpacket_req);

	if (setsockopt(f->fd, SOL_PACKET, PACKET_RX_RING, &none, len) < 0 ||
	    (m->tx_ring && setsockopt(f->fd, SOL_PACKET, PACKET_TX_RING, &none, len) < 0))
		return op_errno(op, errno, AT(.kind = "packet socket"), "packet socket (file id %u): cannot give its rings up",
				f->id);
	return packet_rings_make(op, f);
}
