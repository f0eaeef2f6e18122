// SPDX-License-Identifier: MIT
/*
 * Any bytes as the images of sockets: entries of files.img, ckpt-extra, and tcp-stream images with their queues, put together from
 * pieces (a byte that chooses, two of length) and read by the half of a restore that reads and checks. No socket is made. What
 * the check lets through must be something that can be made.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/dir.h"
#include "lib/state/file/core.h"
#include "lib/state/sock/tcp/tcp.h"
#include "tests/fuzz/fuzz.h"

#define QUEUE_MAX (1u << 30)
#define FILES_MAX 64

enum { PIECE_FILE, PIECE_EXTRA, PIECE_STREAM, PIECE_N };

static char folder[] = "/tmp/fuzz-sockets-XXXXXX";

static void cleanup(void)
{
	rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!mkdtemp(folder))
		abort();
	atexit(cleanup);
	return 0;
}

#define MUST(cond) ((cond) ? (void)0 : broken(#cond))

static void broken(const char *what)
{
	fprintf(stderr, "not true: %s\n", what);
	abort();
}

/* ------------------------------------------------------------------------------------------------ images of pieces */

struct made {
	char names[FILES_MAX][64];
	unsigned n;
};

/* Opens an image at its end; a new one has its head. */
static int image(struct img_dir *dir, struct made *made, enum img_kind kind, uint64_t id)
{
	uint32_t head[2];
	char name[64];
	struct stat st;
	int fd;

	img_name(kind, id, name, sizeof(name));
	fd = openat(img_dir_fd(dir), name, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		abort();
	if (st.st_size)
		return fd;
	if (made->n == FILES_MAX) {
		close(fd);
		unlinkat(img_dir_fd(dir), name, 0);
		return -1;
	}
	memcpy(made->names[made->n++], name, sizeof(name));
	if (write(fd, head, img_put_head(kind, head)) < 0)
		abort();
	return fd;
}

/* A message with its length, then the rest; @len 0: there is no message. */
static void append(int fd, const uint8_t *data, uint32_t len, size_t n)
{
	if (fd < 0)
		return;
	if ((len && write(fd, &len, sizeof(len)) < 0) || write(fd, data, n) < 0)
		abort();
	close(fd);
}

static void write_piece(struct img_dir *dir, struct made *made, unsigned what, const uint8_t *data, size_t n)
{
	if (what == PIECE_FILE)
		append(image(dir, made, IMG_FILES, 0), data, (uint32_t)n, n);
	else if (what == PIECE_EXTRA)
		append(image(dir, made, IMG_EXTRA, 0), data, (uint32_t)n, n);
	else if (n > 1)
		append(image(dir, made, IMG_TCP_STREAM, data[0]), data + 1, 0, n - 1);
}

static void write_images(struct img_dir *dir, struct made *made, const uint8_t *data, size_t size)
{
	for (size_t at = 0; at + 3 <= size;) {
		size_t n = MIN((size_t)(data[at + 1] | data[at + 2] << 8), size - at - 3);

		write_piece(dir, made, data[at] % PIECE_N, data + at + 3, n);
		at += 3 + n;
	}
}

/* ------------------------------------------------------------------------------------------------------ what is read */

static void check_shape(const struct inet_sk *sk)
{
	const struct tcp_shape *h = &sk->shape;
	const TcpStreamEntry *m = sk->stream;
	uint8_t sum = 0;

	MUST((uint64_t)h->sent + h->unsent == m->outq_len);
	MUST(h->rcv_start + m->inq_len + h->fin_in == m->inq_seq);
	MUST(m->inq_len <= QUEUE_MAX && m->outq_len <= QUEUE_MAX);
	MUST(!h->fin_acked || (h->fin_sent && !m->outq_len));
	MUST(h->fin_out || !h->fin_sent);
	for (uint32_t i = 0; i < m->inq_len; i++)
		sum += ((const uint8_t *)sk->inq)[i];
	for (uint32_t i = 0; i < m->outq_len; i++)
		sum += ((const uint8_t *)sk->outq)[i];
	*(volatile uint8_t *)&sum;
}

static void check(struct op *op, struct snapshot *s)
{
	struct inet_state *is = inet_state(op, s);

	for (size_t i = 0; is && i < is->socks.n; i++) {
		const struct inet_sk *sk = is->socks.v[i];

		MUST(strlen(inet_what(op, sk)) > 0);
		MUST(sk->local.any.sa_family == sk->m->family && sk->peer.any.sa_family == sk->m->family);
		if (sk->stream)
			check_shape(sk);
	}
}

static void read_images(struct op *op, struct img_dir *dir)
{
	struct snapshot s = { .dir = dir };
	struct img_in *in = NULL;
	ProtobufCMessage *msg;

	if (img_open(op, dir, IMG_EXTRA, 0, &in) == 0) {
		if (img_read(op, in, &msg) == 0)
			s.extra = (CkptExtraEntry *)msg;
		img_in_close(in);
	}
	if (files_read(op, &s) == 0)
		check(op, &s);
}

/* The first byte: --tcp-close, --tcp-established. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { 0 };
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	struct made made = { .n = 0 };
	struct img_dir *dir;

	if (!size || !op.arena) {
		arena_free(op.arena);
		return 0;
	}
	opts.images_dir = folder;
	opts.tcp_close = data[0] & 1;
	opts.tcp_established = data[0] & 2;
	if (img_dir_create(&op, &dir) < 0)
		abort();
	write_images(dir, &made, data + 1, size - 1);
	read_images(&op, dir);
	for (unsigned i = 0; i < made.n; i++)
		unlinkat(img_dir_fd(dir), made.names[i], 0);
	img_dir_close(dir);
	arena_free(op.arena);
	ckpt_err_free(op.err);
	return 0;
}

/* ------------------------------------------------------------------------------------------------------------ seeds */

struct seed {
	uint8_t *buf;
	size_t n, cap;
};

static void put(struct seed *s, const void *data, size_t n)
{
	if (s->n + n > s->cap)
		abort();
	memcpy(s->buf + s->n, data, n);
	s->n += n;
}

static void put_piece(struct seed *s, uint8_t what, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t head[3] = { what, (uint8_t)n, (uint8_t)(n >> 8) };

	put(s, head, sizeof(head));
	if (s->n + n > s->cap)
		abort();
	s->n += protobuf_c_message_pack(m, s->buf + s->n);
}

static void put_stream(struct seed *s, uint8_t ino, const TcpStreamEntry *m, const char *queues)
{
	uint32_t len = (uint32_t)tcp_stream_entry__get_packed_size(m);
	size_t n = 1 + sizeof(len) + len + strlen(queues);
	uint8_t head[4] = { PIECE_STREAM, (uint8_t)n, (uint8_t)(n >> 8), ino };

	put(s, head, sizeof(head));
	put(s, &len, sizeof(len));
	if (s->n + len > s->cap)
		abort();
	s->n += tcp_stream_entry__pack(m, s->buf + s->n);
	put(s, queues, strlen(queues));
}

static uint32_t any_addr[4], peer_addr[4] = { 0x0100007f };

static InetSkEntry inet(uint32_t type, uint32_t proto, uint32_t state, uint32_t src, uint32_t dst, FownEntry *fown, SkOptsEntry *o)
{
	InetSkEntry m = INET_SK_ENTRY__INIT;

	m.id = m.ino = 1;
	m.family = AF_INET;
	m.type = type;
	m.proto = proto;
	m.state = state;
	m.src_port = src;
	m.dst_port = dst;
	m.n_src_addr = m.n_dst_addr = 1;
	m.src_addr = any_addr;
	m.dst_addr = dst ? peer_addr : any_addr;
	m.fown = fown;
	m.opts = o;
	return m;
}

static void put_inet(struct seed *s, InetSkEntry *m)
{
	FileEntry f = FILE_ENTRY__INIT;

	f.type = FD_TYPES__INETSK;
	f.id = m->id;
	f.isk = m;
	put_piece(s, PIECE_FILE, &f.base);
}

static TcpStreamEntry stream(uint32_t in, uint32_t out)
{
	TcpStreamEntry m = TCP_STREAM_ENTRY__INIT;

	m.inq_len = in;
	m.inq_seq = 5000;
	m.outq_len = out;
	m.outq_seq = 90000;
	m.opt_mask = TCP_HAS_TIMESTAMPS | TCP_HAS_SACK | TCP_HAS_SCALES;
	m.snd_wscale = 7;
	m.mss_clamp = 1460;
	msg_set(&m, rcv_wscale, 7);
	msg_set(&m, timestamp, 12345);
	msg_set(&m, unsq_len, out / 2);
	msg_set(&m, snd_wl1, 4990);
	msg_set(&m, snd_wnd, 65536);
	msg_set(&m, max_window, 65536);
	msg_set(&m, rcv_wnd, 65536);
	msg_set(&m, rcv_wup, 4990);
	return m;
}

/* With what the format has no place for. */
static void put_extra(struct seed *s)
{
	CkptExtraEntry x = CKPT_EXTRA_ENTRY__INIT;
	InetSkExtra sk = INET_SK_EXTRA__INIT, *socks[] = { &sk };
	SockOption o = SOCK_OPTION__INIT, *options[] = { &o };
	MulticastEntry g = MULTICAST_ENTRY__INIT, *groups[] = { &g };
	DatagramEntry d = DATAGRAM_ENTRY__INIT, *queue[] = { &d };
	uint8_t value[] = { 1, 0, 0, 0 }, group[] = { 224, 0, 0, 251 }, from[16] = { AF_INET, 0, 0, 53, 127, 0, 0, 1 };

	x.version = (char *)"0";
	sk.id = 1;
	o.name = 8;
	o.value = (ProtobufCBinaryData){ sizeof(value), value };
	g.family = AF_INET;
	g.ifindex = 1;
	g.group = (ProtobufCBinaryData){ sizeof(group), group };
	d.data = (ProtobufCBinaryData){ sizeof(value), value };
	d.has_from = true;
	d.from = (ProtobufCBinaryData){ sizeof(from), from };
	sk.n_options = sk.n_groups = sk.n_queue = 1;
	sk.options = options;
	sk.groups = groups;
	sk.queue = queue;
	x.n_inet_sockets = 1;
	x.inet_sockets = socks;
	put_piece(s, PIECE_EXTRA, &x.base);
}

static void put_listener(struct seed *s, InetSkEntry *m, const TcpStreamEntry *st)
{
	CkptExtraEntry x = CKPT_EXTRA_ENTRY__INIT;
	InetSkExtra sk = INET_SK_EXTRA__INIT, *socks[] = { &sk };
	PendingConnection p = PENDING_CONNECTION__INIT, *pending[] = { &p };
	uint8_t local[16] = { AF_INET, 0, 0, 80, 127, 0, 0, 1 }, peer[16] = { AF_INET, 0, 0x80, 1, 127, 0, 0, 1 };

	x.version = (char *)"0";
	sk.id = 1;
	p.local = (ProtobufCBinaryData){ sizeof(local), local };
	p.peer = (ProtobufCBinaryData){ sizeof(peer), peer };
	p.state = INET_ESTABLISHED;
	p.stream = (TcpStreamEntry *)(uintptr_t)st;
	p.has_in_queue = true;
	p.in_queue = (ProtobufCBinaryData){ st->inq_len, (uint8_t *)"received" };
	sk.n_pending = 1;
	sk.pending = pending;
	x.n_inet_sockets = 1;
	x.inet_sockets = socks;
	put_inet(s, m);
	put_piece(s, PIECE_EXTRA, &x.base);
}

static void put_netlink(struct seed *s, FownEntry *fown, SkOptsEntry *o)
{
	NetlinkSkEntry m = NETLINK_SK_ENTRY__INIT;
	CkptExtraEntry x = CKPT_EXTRA_ENTRY__INIT;
	NetlinkSkExtra sk = NETLINK_SK_EXTRA__INIT, *socks[] = { &sk };
	FileEntry f = FILE_ENTRY__INIT;

	m.id = 1;
	m.state = 7;
	m.n_groups = 1;
	m.groups = peer_addr;
	m.fown = fown;
	m.opts = o;
	f.type = FD_TYPES__NETLINKSK;
	f.id = 1;
	f.nlsk = &m;
	x.version = (char *)"0";
	sk.id = 1;
	sk.n_more_groups = 1;
	sk.more_groups = peer_addr;
	x.n_netlink_sockets = 1;
	x.netlink_sockets = socks;
	put_piece(s, PIECE_FILE, &f.base);
	put_piece(s, PIECE_EXTRA, &x.base);
}

static void put_packet(struct seed *s, FownEntry *fown, SkOptsEntry *o)
{
	PacketSockEntry m = PACKET_SOCK_ENTRY__INIT;
	PacketMclist mc = PACKET_MCLIST__INIT, *list[] = { &mc };
	PacketRing ring = PACKET_RING__INIT;
	FileEntry f = FILE_ENTRY__INIT;

	mc.index = 1;
	mc.type = 1;
	ring.block_size = 4096;
	ring.block_nr = 4;
	ring.frame_size = 2048;
	ring.frame_nr = 8;
	m.id = 1;
	m.type = SOCK_RAW;
	m.protocol = 3;
	m.ifindex = 1;
	m.fown = fown;
	m.opts = o;
	m.version = 1;
	m.n_mclist = 1;
	m.mclist = list;
	m.rx_ring = &ring;
	f.type = FD_TYPES__PACKETSK;
	f.id = 1;
	f.psk = &m;
	put_piece(s, PIECE_FILE, &f.base);
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const uint32_t states[] = { INET_ESTABLISHED, INET_SYN_SENT, INET_FIN_WAIT2, INET_CLOSE_WAIT, INET_LAST_ACK };
	struct seed s = { buf, 1, cap };
	FownEntry fown = FOWN_ENTRY__INIT;
	SkOptsEntry o = SK_OPTS_ENTRY__INIT;
	uint32_t state = states[i % ARRAY_SIZE(states)];
	InetSkEntry m = inet(SOCK_STREAM, IPPROTO_TCP, state, 80, 40000, &fown, &o);
	bool queues = state != INET_SYN_SENT;
	TcpStreamEntry st = stream(queues ? 8 : 0, queues && state != INET_FIN_WAIT2 ? 8 : 0);

	buf[0] = 2;
	if (i < ARRAY_SIZE(states)) {
		put_inet(&s, &m);
		put_stream(&s, 1, &st, queues ? "receivednot sent" : "");
	} else if (i == 5 || i == 6) {
		m = inet(i == 5 ? SOCK_DGRAM : SOCK_RAW, i == 5 ? IPPROTO_UDP : IPPROTO_ICMP, INET_CLOSE, i == 5 ? 53 : 1, 0, &fown, &o);
		put_inet(&s, &m);
		put_extra(&s);
	} else if (i == 7) {
		m = inet(SOCK_STREAM, IPPROTO_TCP, INET_LISTEN, 80, 0, &fown, &o);
		put_listener(&s, &m, &st);
	} else if (i == 8) {
		put_netlink(&s, &fown, &o);
	} else if (i == 9) {
		put_packet(&s, &fown, &o);
	} else {
		return 0;
	}
	return s.n;
}
