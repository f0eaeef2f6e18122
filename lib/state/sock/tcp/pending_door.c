/* SPDX-License-Identifier: MIT */
/*
 * How a connection gets into the queue of a listener, with sequence numbers that are given: as a SYN cookie of ours. A last
 * segment of a handshake that never was comes in on the loopback device, where a small program (SCHED_CLS, by a kernel
 * function that Linux has since 6.9) tells the kernel that its cookie is good, and what the options of the SYN were. The
 * kernel then makes the connection as it does under a flood of SYNs. What waited to be read follows in segments of the same
 * way, then FIN or RST, if the peer has sent one. All these segments have the mark that the network lock lets pass.
 */
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <sys/syscall.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/tcp/pending.h"

#define TCX_INGRESS 46 /* BPF_TCX_INGRESS */
#define TCX_FIRST (1u << 3) /* BPF_F_BEFORE */
#define TCX_PASS_ON (-1)    /* TCX_NEXT */
#define TCX_DROPPED 2	    /* TCX_DROP */
#define ETHERNET 14	    /* what the loopback device puts before a packet */

#define OPT_TIMESTAMPS 1u
#define OPT_SACK 2u
#define OPT_WSCALE 4u
#define OPT_ECN 8u
#define OPT_USEC 64u /* since 6.7: timestamps in microseconds */

/* The kernel's struct bpf_tcp_req_attrs. */
struct req_attrs {
	uint32_t rcv_tsval, rcv_tsecr;
	uint16_t mss;
	uint8_t rcv_wscale, snd_wscale, ecn_ok, wscale_ok, sack_ok, tstamp_ok, usec_ts_ok, reserved[3];
};

/* What the program gets to know, and says. */
struct job {
	uint32_t protocol; /* of the packet that it is for; 0: none */
	uint32_t at;	   /* where TCP begins in it */
	uint32_t key[3];   /* ports, sequence and acknowledged number, as in the packet */
	struct req_attrs attrs;
	int32_t result;
	uint32_t hits;
};

/* ------------------------------------------------------------------------------------------------ the program */

static int sys_bpf(int cmd, union bpf_attr *a)
{
	return (int)syscall(SYS_bpf, cmd, a, sizeof(*a));
}

static int map_new(uint32_t type, uint32_t value_size)
{
	union bpf_attr a = { .map_type = type, .key_size = 4, .value_size = value_size, .max_entries = 1 };

	return sys_bpf(BPF_MAP_CREATE, &a);
}

/* Of the only element. */
static int map_call(int cmd, int map, const void *value)
{
	uint32_t zero = 0;
	union bpf_attr a = { .map_fd = (uint32_t)map, .key = (uintptr_t)&zero, .value = (uintptr_t)value };

	return sys_bpf(cmd, &a);
}

#define LEAVE 1000 /* jump offset that stands for the end */
#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
#define COPY(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE(d, o, s) INSN(BPF_STX | BPF_MEM | BPF_W, d, s, o, 0)
#define CALL(f) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define LEAVE_UNLESS(d, s) INSN(BPF_JMP32 | BPF_JNE | BPF_X, d, s, LEAVE, 0)
#define MAP(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define JOB(field) offsetof(struct job, field)
#define SKB(field) offsetof(struct __sk_buff, field)
#define SAME_KEY(i) LOAD(1, 10, -16 + 4 * (i)), LOAD(2, 7, JOB(key) + 4 * (i)), LEAVE_UNLESS(1, 2)
enum { KEY_ZERO = -4, KEY_COPY = -16 }; /* on the stack */

static int load_program(int job, int socks, int kfunc)
{
	struct bpf_insn code[] = {
		COPY(6, 1),
		LOAD(1, 6, SKB(mark)),
		INSN(BPF_JMP32 | BPF_JNE | BPF_K, 1, 0, LEAVE, (int)NETLOCK_MARK),
		/* r7: the job */
		INSN(BPF_ST | BPF_MEM | BPF_W, 10, 0, KEY_ZERO, 0),
		MAP(1, job), COPY(2, 10), ADD(2, KEY_ZERO), CALL(BPF_FUNC_map_lookup_elem),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, LEAVE, 0),
		COPY(7, 0),
		/* Is this packet meant? */
		LOAD(1, 6, SKB(protocol)), LOAD(2, 7, JOB(protocol)), LEAVE_UNLESS(1, 2),
		COPY(1, 6), LOAD(2, 7, JOB(at)), COPY(3, 10), ADD(3, KEY_COPY), SET(4, 12), CALL(BPF_FUNC_skb_load_bytes),
		INSN(BPF_JMP | BPF_JNE | BPF_K, 0, 0, LEAVE, 0),
		SAME_KEY(0), SAME_KEY(1), SAME_KEY(2),
		/* r8: the listener */
		MAP(1, socks), COPY(2, 10), ADD(2, KEY_ZERO), CALL(BPF_FUNC_map_lookup_elem),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, LEAVE, 0),
		COPY(8, 0),
		COPY(1, 6), COPY(2, 8), COPY(3, 7), ADD(3, JOB(attrs)), SET(4, sizeof(struct req_attrs)),
		INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, kfunc),
		COPY(9, 0),
		STORE(7, JOB(result), 9),
		/* Not a second time: what follows begins with the same numbers. */
		SET(1, 0), STORE(7, JOB(protocol), 1),
		LOAD(1, 7, JOB(hits)), ADD(1, 1), STORE(7, JOB(hits), 1),
		COPY(1, 8), CALL(BPF_FUNC_sk_release),
		/* What the kernel has not taken would be answered with a reset. */
		SET(0, TCX_DROPPED),
		INSN(BPF_JMP32 | BPF_JNE | BPF_K, 9, 0, 1, 0),
		SET(0, TCX_PASS_ON),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr a = { .prog_type = BPF_PROG_TYPE_SCHED_CLS, .insns = (uintptr_t)code, .insn_cnt = ARRAY_SIZE(code),
			     .license = (uintptr_t)"Dual MIT/GPL", .prog_name = "ckpt_pending" };

	for (size_t i = 0; i < ARRAY_SIZE(code); i++)
		if (code[i].off == LEAVE)
			code[i].off = (int16_t)(ARRAY_SIZE(code) - 2 - i - 1);
	return sys_bpf(BPF_PROG_LOAD, &a);
}

static int attach(int prog)
{
	union bpf_attr a = { .link_create = { .prog_fd = (uint32_t)prog, .target_ifindex = if_nametoindex("lo"),
					      .attach_type = TCX_INGRESS, .flags = TCX_FIRST } };

	return sys_bpf(BPF_LINK_CREATE, &a);
}

/* ----------------------------------------------------------------------------------------------- opening it */

/* 0 and up: the number; else -1, *@why. */
static int find_kfunc(const char **why)
{
	static const char path[] = "/sys/kernel/btf/vmlinux";
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint8_t *b = NULL;
	struct stat st;
	size_t n = 0;
	ssize_t k;
	int id;

	*why = "the kernel shows no type information (/sys/kernel/btf/vmlinux)";
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > 1 << 28)
		return -1;
	b = malloc((size_t)st.st_size);
	while (b && n < (size_t)st.st_size && (k = read(fd, b + n, (size_t)st.st_size - n)) > 0)
		n += (size_t)k;
	if (!b)
		return -1;
	id = pending_btf_func(b, n, "bpf_sk_assign_tcp_reqsk");
	*why = id < 0 ? "the type information of the kernel cannot be read" :
			"the kernel cannot put connections into a queue (bpf_sk_assign_tcp_reqsk, since Linux 6.9)";
	return id > 0 ? id : -1;
}

static int raw_socket(int family)
{
	int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW), mark = (int)NETLOCK_MARK, room = 1 << 20;

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0) {
		close_fd_p(&fd);
		return -1;
	}
	return fd;
}

static const char *say(struct op *op, const char *what, const char **why)
{
	*why = arena_printf(op->arena, "%s: %s", what, strerror(errno));
	return *why ? *why : what;
}

/* Into the queue of a listener of our own, and out again: with everything that may be in the way of it on this machine. */
static const char *try_it(const struct pending_door *d, struct pending_fault *fault)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, b = a;
	_cleanup_close_ int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), got = -1;
	_cleanup_close_ int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pending_conn c = { .state = INET_ESTABLISHED, .rcv_start = 0x12345678, .snd_next = 0x9abcdef0, .mss = 1460,
				  .snd_wnd = 65535 };
	socklen_t n = sizeof(a);
	int one = 1, queue = TCP_RECV_QUEUE;
	uint32_t seq = 0;

	if (listener < 0 || peer < 0 || bind(listener, (void *)&a, sizeof(a)) < 0 || bind(peer, (void *)&b, sizeof(b)) < 0 ||
	    getsockname(listener, (void *)&a, &n) < 0 || getsockname(peer, (void *)&b, &n) < 0 || listen(listener, 1) < 0)
		return "make sockets at 127.0.0.1";
	c.local.v4 = a;
	c.peer.v4 = b;
	if (pending_put(d, listener, 0, &c, NULL, fault) < 0) {
		errno = fault->err;
		return fault->step;
	}
	got = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (got < 0)
		return "accept a connection put in to try it";
	n = sizeof(seq);
	if (setsockopt(got, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)) < 0 || /* it is closed without a word */
	    setsockopt(got, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0 ||
	    getsockopt(got, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &n) < 0)
		return "read a connection";
	errno = EBADMSG;
	return seq == c.rcv_start ? NULL : "put a connection in with its numbers";
}

int pending_door_open(struct op *op, struct pending_door *d, const char **why)
{
	struct pending_fault fault;
	int kfunc = find_kfunc(why);
	const char *step = NULL;

	if (kfunc < 0)
		return 1;
	if ((d->job = map_new(BPF_MAP_TYPE_ARRAY, sizeof(struct job))) < 0 || (d->socks = map_new(BPF_MAP_TYPE_SOCKMAP, 8)) < 0)
		step = "make a BPF map";
	else if ((d->prog = load_program(d->job, d->socks, kfunc)) < 0)
		step = "load a BPF program";
	else if ((d->link = attach(d->prog)) < 0)
		step = "attach a BPF program to lo";
	else if ((d->raw4 = raw_socket(AF_INET)) < 0)
		step = "make a raw socket";
	else if ((d->raw6 = raw_socket(AF_INET6)) < 0 && errno != EAFNOSUPPORT)
		step = "make a raw IPv6 socket";
	step = step ?: try_it(d, &fault);
	if (!step)
		return 0;
	say(op, step, why);
	pending_door_close(d);
	return *why ? 1 : op_nomem(op);
}

void pending_door_close(struct pending_door *d)
{
	close_fd_p(&d->link);
	close_fd_p(&d->prog);
	close_fd_p(&d->socks);
	close_fd_p(&d->job);
	close_fd_p(&d->raw4);
	close_fd_p(&d->raw6);
	*d = (struct pending_door)PENDING_DOOR_INIT;
}

/* ---------------------------------------------------------------------------------------------- segments
 * From here on: system calls and plain computation only. */

#define SEGMENT_MAX 32256u /* bytes; with its overhead it fills what the kernel allocates for it */

struct segment {
	uint32_t seq, n;
	const uint8_t *bytes;
	bool fin, rst;
};

static uint32_t sum(const void *p, size_t n, uint32_t s)
{
	const uint8_t *b = p;

	for (; n > 1; n -= 2, b += 2)
		s += (uint32_t)b[0] << 8 | b[1];
	s += n ? (uint32_t)b[0] << 8 : 0;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

static size_t put_ip(const struct pending_conn *c, uint8_t *b, size_t tcp_len, uint32_t *pseudo)
{
	struct iphdr *v4 = (void *)b;
	struct ip6_hdr *v6 = (void *)b;

	*pseudo = (uint32_t)tcp_len + IPPROTO_TCP;
	if (c->local.any.sa_family == AF_INET) {
		*v4 = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 255, .protocol = IPPROTO_TCP, .tos = c->tos,
				      .tot_len = htons((uint16_t)(sizeof(*v4) + tcp_len)),
				      .saddr = c->peer.v4.sin_addr.s_addr, .daddr = c->local.v4.sin_addr.s_addr };
		*pseudo = sum(&v4->saddr, 8, *pseudo);
		return sizeof(*v4);
	}
	*v6 = (struct ip6_hdr){ .ip6_src = c->peer.v6.sin6_addr, .ip6_dst = c->local.v6.sin6_addr };
	v6->ip6_flow = htonl(6u << 28 | (uint32_t)c->tos << 20);
	v6->ip6_plen = htons((uint16_t)tcp_len);
	v6->ip6_nxt = IPPROTO_TCP;
	v6->ip6_hlim = 255;
	*pseudo = sum(&v6->ip6_src, 32, *pseudo);
	return sizeof(*v6);
}

static int send_segment(const struct pending_door *d, const struct pending_conn *c, const struct segment *s)
{
	uint8_t b[sizeof(struct ip6_hdr) + sizeof(struct tcphdr) + SEGMENT_MAX] = { 0 };
	uint32_t pseudo, window = c->snd_wnd >> (c->opt_mask & OPT_WSCALE ? c->snd_wscale : 0);
	size_t len = sizeof(struct tcphdr) + s->n, head = put_ip(c, b, len, &pseudo);
	struct tcphdr *t = (void *)(b + head);
	bool six = c->local.any.sa_family == AF_INET6;
	union inet_addr to = c->local;

	t->source = htons(inet_addr_port(&c->peer));
	t->dest = htons(inet_addr_port(&c->local));
	t->seq = htonl(s->seq);
	t->ack_seq = htonl(c->snd_next);
	t->doff = sizeof(*t) / 4;
	t->ack = 1;
	t->psh = s->n > 0;
	t->fin = s->fin;
	t->rst = s->rst;
	t->window = htons((uint16_t)MIN(window, 65535u));
	if (s->n)
		memcpy(t + 1, s->bytes, s->n);
	t->check = htons((uint16_t)~sum(t, len, pseudo));
	if (six)
		to.v6.sin6_port = 0; /* a protocol, there */
	return sendto(six ? d->raw6 : d->raw4, b, head + len, 0, &to.any, inet_addr_len(&to)) < 0 ? -1 : 0;
}

/* ------------------------------------------------------------------------------- what became of a connection */

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

int pending_count(int listener)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);

	/* The limit of the queue is in tcpi_sacked. */
	return getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 ? -1 : (int)info.tcpi_unacked;
}

struct diag_request {
	struct nlmsghdr h;
	struct inet_diag_req_v2 r;
};

static void diag_request(const struct pending_conn *c, uint32_t ifindex, struct diag_request *q)
{
	bool six = c->local.any.sa_family == AF_INET6;

	*q = (struct diag_request){ .h = { .nlmsg_len = sizeof(*q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
				    .r = { .sdiag_family = c->local.any.sa_family, .sdiag_protocol = IPPROTO_TCP,
					   .idiag_states = ~0u } };
	q->r.id.idiag_sport = htons(inet_addr_port(&c->local));
	q->r.id.idiag_dport = htons(inet_addr_port(&c->peer));
	memcpy(q->r.id.idiag_src, six ? (const void *)&c->local.v6.sin6_addr : &c->local.v4.sin_addr, six ? 16 : 4);
	memcpy(q->r.id.idiag_dst, six ? (const void *)&c->peer.v6.sin6_addr : &c->peer.v4.sin_addr, six ? 16 : 4);
	q->r.id.idiag_if = ifindex;
	q->r.id.idiag_cookie[0] = q->r.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
}

int pending_look_at(const struct pending_conn *c, uint32_t ifindex, uint32_t *state, uint32_t *queued)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	union {
		struct nlmsghdr h;
		uint8_t room[4096];
	} b;
	const struct inet_diag_msg *m = NLMSG_DATA(&b.h);
	struct diag_request q;
	ssize_t n;

	diag_request(c, ifindex, &q);
	if (fd < 0 || send(fd, &q, sizeof(q), 0) < 0)
		return -1;
	n = recv(fd, &b, sizeof(b), 0);
	if (n < (ssize_t)sizeof(b.h))
		return -1;
	*state = *queued = 0;
	if (b.h.nlmsg_type != SOCK_DIAG_BY_FAMILY || n < (ssize_t)NLMSG_LENGTH(sizeof(*m)) || m->idiag_state == INET_LISTEN)
		return 0;
	*state = m->idiag_state;
	*queued = m->idiag_rqueue;
	return 0;
}

/* ------------------------------------------------------------------------------------------- putting one in */

#define PATIENCE 2000 /* naps: segments come in at once, unless the machine is very busy */

static int failed(struct pending_fault *f, const char *step, int err)
{
	*f = (struct pending_fault){ .step = step, .err = err };
	return -1;
}

static void fill_job(const struct pending_conn *c, struct job *j)
{
	bool six = c->local.any.sa_family == AF_INET6;

	*j = (struct job){ .protocol = htons(six ? 0x86dd : 0x0800), .result = -EAGAIN };
	j->at = ETHERNET + (six ? sizeof(struct ip6_hdr) : sizeof(struct iphdr));
	j->key[0] = htonl((uint32_t)inet_addr_port(&c->peer) << 16 | inet_addr_port(&c->local));
	j->key[1] = htonl(c->rcv_start);
	j->key[2] = htonl(c->snd_next);
	j->attrs.mss = (uint16_t)MIN(MAX(c->mss, six ? 1220u : 536u), 65535u); /* less than that the kernel does not take */
	j->attrs.rcv_tsecr = c->timestamp;
	j->attrs.tstamp_ok = (c->opt_mask & OPT_TIMESTAMPS) != 0;
	j->attrs.usec_ts_ok = (c->opt_mask & OPT_USEC) != 0;
	j->attrs.sack_ok = (c->opt_mask & OPT_SACK) != 0;
	j->attrs.ecn_ok = (c->opt_mask & OPT_ECN) != 0;
	j->attrs.wscale_ok = (c->opt_mask & OPT_WSCALE) != 0;
	j->attrs.snd_wscale = (uint8_t)(j->attrs.wscale_ok ? c->snd_wscale : 0);
	j->attrs.rcv_wscale = (uint8_t)(j->attrs.wscale_ok ? c->rcv_wscale : 0);
}

/* 0: it is there; positive: the errno with which the kernel refused it. The first bytes come with it: of a connection whose peer
 * is gone, more could be in the way of a reset by our own kernel. */
static int try_job(const struct pending_door *d, int listener, const struct pending_conn *c, struct job *j, const uint8_t *bytes,
		   struct pending_fault *f)
{
	struct segment ack = { .seq = c->rcv_start, .bytes = bytes, .n = MIN(c->n, SEGMENT_MAX) };
	int before = pending_count(listener);

	if (map_call(BPF_MAP_UPDATE_ELEM, d->job, j) < 0 || send_segment(d, c, &ack) < 0)
		return failed(f, "send the segment that makes the connection", errno);
	for (unsigned i = 0; i < PATIENCE; i++, nap()) {
		if (map_call(BPF_MAP_LOOKUP_ELEM, d->job, j) < 0)
			return failed(f, "ask the BPF program", errno);
		if (j->hits && j->result)
			return -j->result;
		if (j->hits && pending_count(listener) > before)
			return 0;
	}
	return failed(f, j->hits ? "make the connection (is net.ipv4.tcp_syncookies 0, or the queue full?)" :
				   "get a segment through the loopback device (is it down, or is there a firewall?)", ETIMEDOUT);
}

/* Options that were switched off since (net.ipv4.tcp_sack...) the kernel does not take: without them, if need be. */
static int make_connection(const struct pending_door *d, int listener, const struct pending_conn *c, const uint8_t *bytes,
			   struct pending_fault *f)
{
	static const uint32_t without[] = { 0, OPT_SACK, OPT_TIMESTAMPS, OPT_SACK | OPT_TIMESTAMPS,
					    OPT_SACK | OPT_TIMESTAMPS | OPT_WSCALE };
	uint64_t fd = (uint64_t)listener;
	int r = EINVAL;

	if (map_call(BPF_MAP_UPDATE_ELEM, d->socks, &fd) < 0)
		return failed(f, "hand the listener to the BPF program", errno);
	for (size_t i = 0; r == EINVAL && i < ARRAY_SIZE(without); i++) {
		struct pending_conn less = *c;
		struct job j;

		less.opt_mask &= ~without[i];
		fill_job(&less, &j);
		r = try_job(d, listener, c, &j, bytes, f);
	}
	return r > 0 ? failed(f, "hand the connection to the kernel", r) : r;
}

/* What is not in it yet. Without the network lock the peer may be quicker than we are, with the same bytes, and more. */
static int fill_queue(const struct pending_door *d, uint32_t ifindex, const struct pending_conn *c, const uint8_t *bytes,
		      struct pending_fault *f)
{
	uint32_t off = MIN(c->n, SEGMENT_MAX), state, queued;

	for (unsigned waited = 0; off < c->n;) {
		struct segment s = { .seq = c->rcv_start + off, .n = MIN(c->n - off, SEGMENT_MAX), .bytes = bytes + off };
		struct segment old = { .seq = s.seq - 1, .n = 1, .bytes = bytes };

		if (send_segment(d, c, &s) < 0 || pending_look_at(c, ifindex, &state, &queued) < 0)
			return failed(f, "fill its queue", errno);
		if (!state)
			return c->state == INET_CLOSE ? 0 : failed(f, "fill its queue", ECONNRESET);
		if (queued == off && ++waited > PATIENCE)
			return failed(f, "fill its queue", ENOBUFS);
		if (queued == off) {
			/* The window is full: something old makes it look at it again. */
			send_segment(d, c, &old);
			nap();
		}
		off = queued;
	}
	return 0;
}

static int end_it(const struct pending_door *d, uint32_t ifindex, const struct pending_conn *c, struct pending_fault *f)
{
	struct segment s = { .seq = c->rcv_start + c->n, .fin = c->fin };
	uint32_t state, queued;
	bool reset = c->state == INET_CLOSE;

	if (c->fin && send_segment(d, c, &s) < 0)
		return failed(f, "send its end", errno);
	s = (struct segment){ .seq = c->rcv_start + c->n + c->fin, .rst = true };
	if (reset && send_segment(d, c, &s) < 0)
		return failed(f, "send its reset", errno);
	for (unsigned i = 0; i < PATIENCE; i++, nap()) {
		if (pending_look_at(c, ifindex, &state, &queued) < 0)
			return failed(f, "look at it", errno);
		if (reset ? !state : state == (c->fin ? INET_CLOSE_WAIT : INET_ESTABLISHED) && queued >= c->n + c->fin)
			return 0;
	}
	return failed(f, "bring it to its state", EPROTO);
}

/* The connection's own buffer, where it has much in it: the listener's may have become too small for that. */
struct buffer {
	int size, locks;
	bool changed;
};

static int widen(int listener, const struct pending_conn *c, struct buffer *old)
{
	int want = (int)MIN(MAX(c->rcvbuf / 2, 2 * (uint64_t)c->n + 65536), INT32_MAX / 2);
	socklen_t n = sizeof(int);

	if (getsockopt(listener, SOL_SOCKET, SO_RCVBUF, &old->size, &n) < 0 ||
	    getsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &old->locks, &n) < 0)
		return -1;
	if (c->n < 8192 || old->size / 2 >= want)
		return 0;
	old->changed = true;
	if (setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &want, sizeof(want)) < 0)
		return -1;
	return setsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &old->locks, sizeof(old->locks));
}

static void narrow(int listener, const struct buffer *old)
{
	int half = old->size / 2;

	if (!old->changed)
		return;
	setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof(half));
	setsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &old->locks, sizeof(old->locks));
}

int pending_put(const struct pending_door *d, int listener, uint32_t ifindex, const struct pending_conn *c, const uint8_t *bytes,
		struct pending_fault *fault)
{
	struct buffer old = { 0 };
	int ret;

	if (widen(listener, c, &old) < 0)
		ret = failed(fault, "make room for what waits in it", errno);
	else
		ret = make_connection(d, listener, c, bytes, fault);
	narrow(listener, &old);
	if (ret == 0)
		ret = fill_queue(d, ifindex, c, bytes, fault);
	return ret < 0 ? ret : end_it(d, ifindex, c, fault);
}
