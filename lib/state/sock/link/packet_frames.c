/* SPDX-License-Identifier: MIT */
/*
 * What is in the rings of packet sockets. The kernel fills the frames of a receive ring (with TPACKET_V3: its blocks) in turn, and
 * the program takes them in turn, so that both must be at the same place after a restore, and what the program has not given back
 * yet must be there: it may be in the middle of it. The kernel tells nobody where it is. In a receive ring the newest time
 * stamp tells, of a frame or block; in a transmit ring that was used nothing does.
 *
 * A new ring begins at its first frame. It is brought to where the old one was by packets of our own, through the loopback device,
 * before the socket is bound to anything else; their frames are then emptied.
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/link/link.h"

#define SAVED_MAX (16u << 20) /* bytes of a ring; packets beyond that are lost, as if the ring had been smaller */
#define ETHERTYPE 0x88b6      /* for experiments */
#define LARGE 60000u	      /* bytes of a packet that is to fill a block */
#define PATIENCE_MS 2000u
#define TRIES 8

struct view {
	char *base;
	size_t len;
	const PacketRing *ring;
	uint32_t version, n, per_block; /* n: frames, or blocks with TPACKET_V3 in a receive ring */
	bool blocks;
	size_t offset; /* of this ring in the mapping */
};

static uint64_t ring_len(const PacketRing *m)
{
	return m ? (uint64_t)m->block_size * m->block_nr : 0;
}

/* All rings of a socket in one mapping, as the kernel wants it. */
static bool view_map(struct view *w, int fd, const PacketSockEntry *m, int prot)
{
	w->len = ring_len(m->rx_ring) + ring_len(m->tx_ring);
	w->base = mmap(NULL, w->len, prot, MAP_SHARED, fd, 0);
	return w->base != MAP_FAILED;
}

static void view_of(struct view *w, const PacketSockEntry *m, bool receive)
{
	w->ring = receive ? m->rx_ring : m->tx_ring;
	w->offset = receive ? 0 : ring_len(m->rx_ring);
	w->version = m->version;
	w->blocks = receive && m->version == TPACKET_V3;
	w->per_block = w->blocks ? 1 : w->ring->block_size / w->ring->frame_size;
	w->n = w->ring->block_nr * w->per_block;
}

static void *slot(const struct view *w, uint32_t i)
{
	return w->base + w->offset + (size_t)(i / w->per_block) * w->ring->block_size +
	       (size_t)(i % w->per_block) * w->ring->frame_size;
}

static size_t slot_len(const struct view *w)
{
	return w->blocks ? w->ring->block_size : w->ring->frame_size;
}

static uint32_t *status(const struct view *w, uint32_t i)
{
	void *p = slot(w, i);

	if (w->blocks)
		return &((struct tpacket_block_desc *)p)->hdr.bh1.block_status;
	return w->version == TPACKET_V3 ? &((struct tpacket3_hdr *)p)->tp_status : p; /* of V1 it is a long, of which this is all */
}

static uint32_t read_status(const struct view *w, uint32_t i)
{
	return __atomic_load_n(status(w, i), __ATOMIC_ACQUIRE);
}

/* --------------------------------------------------------------------------------------------------------- dump */

/* When it was filled last; 0: never. Only how two of them compare counts. */
static int64_t stamp(const struct view *w, uint32_t i)
{
	const struct tpacket_hdr *h1 = slot(w, i);
	const struct tpacket2_hdr *h2 = slot(w, i);

	if (w->blocks)
		return (int64_t)((const struct tpacket_block_desc *)slot(w, i))->hdr.bh1.seq_num;
	return w->version == TPACKET_V1 ? h1->tp_sec * 1000000ll + h1->tp_usec : h2->tp_sec * 1000000000ll + h2->tp_nsec;
}

/* A block has its number from when the kernel begins with it. */
static uint32_t next_of(const struct view *w)
{
	bool used = false;
	uint32_t at = 0, next;

	for (uint32_t i = 0; i < w->n; i++)
		if (stamp(w, i) && (!used || stamp(w, i) >= stamp(w, at))) {
			used = true;
			at = i;
		}
	next = used ? (at + 1) % w->n : 0;
	if (!w->blocks || !used)
		return next;
	/* The kernel stands before a block of the program's: it must have one to begin with, and the newest packets go. */
	return read_status(w, at) & TP_STATUS_USER && !(read_status(w, next) & TP_STATUS_USER) ? next : at;
}

static PacketFrame *save(struct op *op, const struct view *w, uint32_t i)
{
	const struct tpacket_block_desc *d = slot(w, i);
	PacketFrame *m = msg_new(op, PacketFrame, packet_frame);

	if (!m)
		return NULL;
	m->index = i;
	m->data.len = w->blocks ? MIN(MAX(d->hdr.bh1.blk_len, sizeof(*d)), slot_len(w)) : slot_len(w);
	m->data.data = arena_memdup(op->arena, d, m->data.len);
	return m->data.data ? m : NULL;
}

/*
 * A block that the kernel has not passed on yet, as it would be if it did so now: the packets in it would be lost otherwise, and
 * these are the last ones. The kernel may be at one more at this moment: a packet is whole when it has its status. NULL: none is.
 */
static PacketFrame *save_open(struct op *op, const struct view *w, uint32_t i)
{
	PacketFrame *m = save(op, w, i);
	struct tpacket_hdr_v1 *h = m ? &((struct tpacket_block_desc *)m->data.data)->hdr.bh1 : NULL;
	struct tpacket3_hdr *last = NULL;
	uint32_t n = 0;

	if (!m)
		return NULL;
	for (uint64_t at = h->offset_to_first_pkt; n < h->num_pkts && at + sizeof(*last) <= m->data.len; n++) {
		struct tpacket3_hdr *p = (void *)(m->data.data + at);

		if (!(p->tp_status & TP_STATUS_USER) || !p->tp_next_offset || at + p->tp_next_offset > m->data.len)
			break;
		last = p;
		at += p->tp_next_offset;
	}
	h->num_pkts = n;
	if (!last)
		return m;
	h->blk_len = (uint32_t)((uint8_t *)last - m->data.data) + last->tp_next_offset;
	last->tp_next_offset = 0;
	h->ts_last_pkt.ts_sec = last->tp_sec;
	h->ts_last_pkt.ts_nsec = last->tp_nsec;
	h->block_status = TP_STATUS_USER | TP_STATUS_BLK_TMO;
	return m;
}

/* *next is the one after it then. */
static int add_open(struct op *op, const struct view *w, uint32_t *next, PacketSkExtra *x)
{
	uint32_t after = (*next + 1) % w->n;
	PacketFrame *m;

	if (!w->blocks || read_status(w, *next) & TP_STATUS_USER || read_status(w, after) & TP_STATUS_USER ||
	    !((struct tpacket_block_desc *)slot(w, *next))->hdr.bh1.num_pkts)
		return 0;
	m = save_open(op, w, *next);
	if (!m)
		return op_nomem(op);
	if (((struct tpacket_block_desc *)m->data.data)->hdr.bh1.num_pkts) {
		x->rx_frames[x->n_rx_frames++] = m;
		*next = after;
	}
	return 0;
}

/* The oldest first. */
static int save_all(struct op *op, const struct view *w, PacketSkExtra *x)
{
	uint32_t next = next_of(w);
	size_t saved = 0;
	int r = 0;

	x->rx_frames = op_alloc(op, w->n * sizeof(*x->rx_frames));
	if (!x->rx_frames)
		return CKPT_E_NOMEM;
	for (uint32_t k = w->blocks; k < w->n; k++) {
		uint32_t i = (next + k) % w->n;
		PacketFrame *m;

		if (!(read_status(w, i) & TP_STATUS_USER))
			continue;
		m = save(op, w, i);
		if (!m)
			return op_nomem(op);
		saved += m->data.len;
		if (saved > SAVED_MAX) {
			next = i;
			break;
		}
		x->rx_frames[x->n_rx_frames++] = m;
	}
	if (saved <= SAVED_MAX)
		r = add_open(op, w, &next, x);
	if (next || x->n_rx_frames)
		msg_set(x, rx_next, next);
	return r;
}

static uint32_t length(const struct view *w, uint32_t i)
{
	const struct tpacket_hdr *h1 = slot(w, i);
	const struct tpacket2_hdr *h2 = slot(w, i);
	const struct tpacket3_hdr *h3 = slot(w, i);

	return w->version == TPACKET_V1 ? h1->tp_len : w->version == TPACKET_V2 ? h2->tp_len : h3->tp_len;
}

/* A frame that was sent keeps its length. */
static int check_transmit(struct op *op, const struct fd_view *v, const struct view *w)
{
	bool used = false;

	for (uint32_t i = 0; i < w->n; i++) {
		if (read_status(w, i) & (TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING))
			return file_refuse(op, v, "packet socket", "try again when they are sent",
					   "frames in its transmit ring wait to be sent");
		used = used || read_status(w, i) || length(w, i);
	}
	return used ? file_refuse(op, v, "packet socket", "have the program send without a ring",
				  "its transmit ring was used, and the kernel does not tell which frame comes next")
		    : 0;
}

int packet_frames_dump(struct op *op, const struct fd_view *v, const PacketSockEntry *m, PacketSkExtra *x)
{
	struct view w;
	int r = 0;

	if (!m->rx_ring && !m->tx_ring)
		return 0;
	if (!view_map(&w, v->copy, m, PROT_READ))
		return file_errno(op, v, "look at its rings");
	if (m->tx_ring) {
		view_of(&w, m, false);
		r = check_transmit(op, v, &w);
	}
	if (!r && m->rx_ring) {
		view_of(&w, m, true);
		r = save_all(op, &w, x);
	}
	munmap(w.base, w.len);
	return r;
}

/* ------------------------------------------------------------------------------------------------------ restore */

struct feed {
	struct op *op;
	struct snap_file *f;
	struct view w;
	struct sockaddr_ll lo;
	int fd; /* that sends */
};

static int fail(struct feed *d, const char *what)
{
	return op_errno(d->op, errno, AT(.kind = "packet socket"), "packet socket (file id %u): cannot %s", d->f->id, what);
}

static int feed_begin(struct feed *d)
{
	struct ifreq ifr = { .ifr_name = "lo" };

	d->lo = (struct sockaddr_ll){ .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_halen = 6 };
	d->lo.sll_ifindex = (int)if_nametoindex("lo");
	d->fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (d->fd < 0 || ioctl(d->fd, SIOCGIFFLAGS, &ifr) < 0)
		return fail(d, "send packets to it through the loopback device");
	if (!(ifr.ifr_flags & IFF_UP))
		return op_fail(d->op, CKPT_E_CHANGED, AT(.kind = "packet socket", .hint = "ip link set lo up"),
			       "packet socket (file id %u): the loopback device is down, which it takes to bring its ring to "
			       "where it was", d->f->id);
	if (bind(d->f->fd, (const struct sockaddr *)&d->lo, sizeof(d->lo)) < 0)
		return fail(d, "bind it to the loopback device for a moment");
	return 0;
}

static int feed(struct feed *d, size_t len)
{
	static const char nothing[LARGE];

	return sendto(d->fd, nothing, len, 0, (const struct sockaddr *)&d->lo, sizeof(d->lo)) == (ssize_t)len
		       ? 0
		       : fail(d, "send packets to it through the loopback device");
}

static void pause_a_bit(void)
{
	const struct timespec ts = { .tv_nsec = 100000 };

	nanosleep(&ts, NULL);
}

static int lost(struct feed *d)
{
	return op_fail(d->op, CKPT_E_KERNEL,
		       AT(.kind = "packet socket", .hint = "does a rule drop packets on the loopback device?"),
		       "packet socket (file id %u): packets do not come through the loopback device, by which its ring is brought "
		       "to where it was", d->f->id);
}

static int await_frame(struct feed *d, uint32_t i)
{
	for (unsigned k = 0; k < PATIENCE_MS * 10; k++) {
		if (read_status(&d->w, i) & TP_STATUS_USER)
			return 0;
		pause_a_bit();
	}
	return lost(d);
}

static int feed_frames(struct feed *d, uint32_t until)
{
	int r = 0;

	for (uint32_t i = 0; i < until && !r; i++) {
		r = feed(d, 1);
		if (!r && (i % 64 == 63 || i + 1 == until))
			r = await_frame(d, i) ?: op_check_cancel(d->op);
	}
	return r;
}

static volatile struct tpacket_hdr_v1 *block(const struct view *w, uint32_t i)
{
	return &((struct tpacket_block_desc *)slot(w, i))->hdr.bh1;
}

static int feed_block(struct feed *d, uint32_t i)
{
	unsigned k = 0;
	int r = 0;

	while (!r && !(read_status(&d->w, i) & TP_STATUS_USER)) {
		uint32_t before = block(&d->w, i)->blk_len;

		r = feed(d, LARGE);
		while (!r && block(&d->w, i)->blk_len == before && !(read_status(&d->w, i) & TP_STATUS_USER)) {
			if (k++ == PATIENCE_MS * 10)
				return lost(d);
			pause_a_bit();
		}
	}
	return r;
}

/*
 * The packet that made the kernel go on to this block is in it: the first one of the program's is said to come behind that. 1:
 * the kernel has given the block away meanwhile.
 */
static int empty_block(const struct view *w, uint32_t i)
{
	volatile struct tpacket_hdr_v1 *h = block(w, i);

	if (h->num_pkts) {
		h->offset_to_first_pkt = h->blk_len;
		h->num_pkts = 0;
	}
	return read_status(w, i) & TP_STATUS_USER ? 1 : 0;
}

static int feed_blocks(struct feed *d, uint32_t until)
{
	int r = 0;

	for (uint32_t i = 0; i < until && !r; i++)
		r = feed_block(d, i) ?: op_check_cancel(d->op);
	return r ?: empty_block(&d->w, until);
}

static int bring(struct feed *d, uint32_t next)
{
	int r = d->w.blocks ? feed_blocks(d, next) : feed_frames(d, next);

	for (uint32_t i = 0; i < next && !r; i++)
		memset(slot(&d->w, i), 0, slot_len(&d->w));
	return r;
}

/*
 * Another dump is to find the place again. The kernel has numbered the blocks of the new ring from 1 on: those of the old one get
 * numbers before these. The frame before the next one tells the time, as if it had just been filled.
 */
static void put_frames(const struct view *w, const PacketSkExtra *x)
{
	uint32_t last = (x->rx_next + w->n - 1) % w->n;
	struct tpacket_hdr *h1 = slot(w, last);
	struct tpacket2_hdr *h2 = slot(w, last);

	if (w->version == TPACKET_V1)
		h1->tp_sec = (uint32_t)time(NULL);
	else if (!w->blocks)
		h2->tp_sec = (uint32_t)time(NULL);
	for (size_t i = 0; i < x->n_rx_frames; i++) {
		const PacketFrame *m = x->rx_frames[i];
		uint32_t before = (x->rx_next + w->n - m->index) % w->n;

		memcpy(slot(w, m->index), m->data.data, m->data.len);
		if (w->blocks)
			block(w, m->index)->seq_num = block(w, x->rx_next)->seq_num - before;
	}
}

/* Without an address nothing arrives. */
static int feed_end(struct feed *d)
{
	const struct sockaddr_ll none = { .sll_family = AF_PACKET };

	close_fd_p(&d->fd);
	return bind(d->f->fd, (const struct sockaddr *)&none, sizeof(none)) < 0 ? fail(d, "take it off the loopback device") : 0;
}

static int try_it(struct feed *d, const PacketSkExtra *x)
{
	const PacketSockEntry *m = d->f->msg->psk;
	int r = 0;

	if (!view_map(&d->w, d->f->fd, m, PROT_READ | PROT_WRITE))
		return fail(d, "map its rings");
	view_of(&d->w, m, true);
	if (x->rx_next) {
		r = feed_begin(d) ?: bring(d, x->rx_next);
		r = feed_end(d) ?: r;
	}
	if (!r)
		put_frames(&d->w, x);
	munmap(d->w.base, d->w.len);
	return r;
}

int packet_frames_restore(struct op *op, struct snap_file *f)
{
	struct feed d = { .op = op, .f = f, .fd = -1 };
	const PacketSkExtra *x = f->priv;
	int r = 1;

	if (!x || !x->has_rx_next)
		return 0;
	for (int i = 0; i < TRIES && r == 1; i++)
		r = (i ? packet_rings_remake(op, f) : 0) ?: try_it(&d, x);
	return r == 1 ? op_fail(op, CKPT_E_KERNEL, AT(.kind = "packet socket", .hint = "try again"),
				"packet socket (file id %u): its ring cannot be brought to where it was: the kernel is quicker "
				"than we are", f->id)
		      : r;
}

const char *packet_frames_wrong(const PacketSockEntry *m, const PacketSkExtra *x)
{
	struct view w = { 0 };

	if (!x->has_rx_next && !x->n_rx_frames)
		return NULL;
	if (!x->has_rx_next || !m->rx_ring || m->rx_ring->frame_size > m->rx_ring->block_size)
		return "what is in its ring makes no sense";
	view_of(&w, m, true);
	if (x->rx_next >= w.n || x->n_rx_frames > w.n || (!w.blocks && m->rx_ring->frame_nr != w.n))
		return "what is in its ring makes no sense";
	for (size_t i = 0; i < x->n_rx_frames; i++) {
		const PacketFrame *e = x->rx_frames[i];

		if (e->index >= w.n || e->data.len < sizeof(struct tpacket2_hdr) || e->data.len > slot_len(&w) ||
		    (w.blocks && (e->index == x->rx_next || e->data.len < sizeof(struct tpacket_block_desc))))
			return "what is in its ring makes no sense";
	}
	return NULL;
}
