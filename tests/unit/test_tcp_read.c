// SPDX-License-Identifier: MIT
/* What images may say of TCP connections, the arithmetic of their numbers, and segments of our own making. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>

#include "lib/state/sock/tcp/tcp.h"

static TcpStreamEntry good(void)
{
	TcpStreamEntry m = TCP_STREAM_ENTRY__INIT;

	m.inq_len = 10;
	m.inq_seq = 1010;
	m.outq_len = 30;
	m.outq_seq = 5030;
	m.opt_mask = TCP_HAS_TIMESTAMPS | TCP_HAS_SACK | TCP_HAS_SCALES;
	m.snd_wscale = 7;
	m.mss_clamp = 1460;
	m.has_rcv_wscale = m.has_timestamp = m.has_unsq_len = true;
	m.has_snd_wl1 = m.has_snd_wnd = m.has_max_window = m.has_rcv_wnd = m.has_rcv_wup = true;
	m.rcv_wscale = 9;
	m.snd_wl1 = 1000;
	m.snd_wnd = m.max_window = m.rcv_wnd = 64000;
	m.rcv_wup = 1010;
	return m;
}

/* ------------------------------------------------------------------------------------------------------- numbers */

static void test_numbers(void **state)
{
	static const struct {
		uint32_t state, rcv, snd;
		bool fin_in, fin_out, acked;
		uint32_t outq;
	} of[] = {
		{ INET_ESTABLISHED, 1000, 5000, false, false, false, 30 }, { INET_CLOSE_WAIT, 999, 5000, true, false, false, 30 },
		{ INET_FIN_WAIT1, 1000, 4999, false, true, false, 30 },	   { INET_FIN_WAIT2, 1000, 5029, false, true, true, 0 },
		{ INET_LAST_ACK, 999, 4999, true, true, false, 30 },	   { INET_CLOSING, 999, 4999, true, true, false, 30 },
		{ INET_CLOSE, 999, 5029, true, true, true, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(of); i++) {
		TcpStreamEntry m = good();
		struct tcp_shape s;

		m.outq_len = of[i].outq;
		assert_null(tcp_shape_of(of[i].state, &m, &s));
		assert_int_equal(s.rcv_start, of[i].rcv);
		assert_int_equal(s.snd_start, of[i].snd);
		assert_int_equal(s.fin_in, of[i].fin_in);
		assert_int_equal(s.fin_out, of[i].fin_out);
		assert_int_equal(s.fin_acked, of[i].acked);
		assert_int_equal(s.fin_sent, of[i].fin_out);
		assert_int_equal(s.sent, of[i].outq);
		assert_int_equal(s.unsent, 0);
	}
}

static void test_connecting(void **state)
{
	TcpStreamEntry m = good();
	struct tcp_shape s;

	(void)state;
	m.inq_len = m.outq_len = 0;
	assert_null(tcp_shape_of(INET_SYN_SENT, &m, &s));
	assert_int_equal(s.snd_start, 5029);
	assert_false(s.fin_out || s.fin_in);
}

/* Numbers go round, in both directions. */
static void test_around_zero(void **state)
{
	TcpStreamEntry m = good();
	struct tcp_shape s;

	(void)state;
	m.inq_seq = 5;
	m.outq_seq = 20;
	m.rcv_wup = 5;
	m.snd_wl1 = UINT32_MAX - 3;
	assert_null(tcp_shape_of(INET_LAST_ACK, &m, &s));
	assert_int_equal(s.rcv_start, (uint32_t)-6);
	assert_int_equal(s.snd_start, (uint32_t)-11);
}

/* An end that was not sent is behind what was not; it may have been counted. */
static void test_unsent(void **state)
{
	TcpStreamEntry m = good();
	struct tcp_shape s;

	(void)state;
	m.unsq_len = 12;
	assert_null(tcp_shape_of(INET_FIN_WAIT1, &m, &s));
	assert_true(s.sent == 18 && s.unsent == 12 && s.fin_out && !s.fin_sent);
	m.unsq_len = 31;
	assert_null(tcp_shape_of(INET_FIN_WAIT1, &m, &s));
	assert_true(s.sent == 0 && s.unsent == 30 && !s.fin_sent);
	assert_non_null(tcp_shape_of(INET_ESTABLISHED, &m, &s));
}

/* ---------------------------------------------------------------------------------------------------------- lies */

#define LIE(change)                                                                                       \
	do {                                                                                              \
		TcpStreamEntry m = good();                                                                \
		change;                                                                                   \
		if (!tcp_shape_of(INET_ESTABLISHED, &m, &s))                                              \
			fail_msg("believed: %s", #change);                                                \
	} while (0)

static void test_lies(void **state)
{
	struct tcp_shape s;
	TcpStreamEntry whole = good();

	(void)state;
	LIE(m.has_unsq_len = false);
	LIE(m.unsq_len = 31);
	LIE(m.inq_len = UINT32_MAX);
	LIE(m.outq_len = 1u << 31);
	LIE(m.opt_mask |= 1u << 20);
	LIE(m.mss_clamp = 0);
	LIE(m.mss_clamp = 65536);
	LIE(m.has_rcv_wscale = false);
	LIE(m.rcv_wscale = 15);
	LIE(m.snd_wscale = 15);
	LIE(m.has_timestamp = false);
	LIE(m.has_snd_wl1 = false);
	LIE(m.has_snd_wnd = false);
	LIE(m.has_max_window = false);
	LIE(m.has_rcv_wnd = false);
	LIE(m.has_rcv_wup = false);
	LIE(m.max_window = 63999);
	LIE(m.rcv_wnd = UINT32_MAX);
	LIE(m.snd_wl1 = m.inq_seq + m.rcv_wnd + 1);
	LIE(m.rcv_wup = m.inq_seq + 1);
	assert_null(tcp_shape_of(INET_ESTABLISHED, &whole, &s));
	/* What was acknowledged is queued no more; what asks to be connected has nothing yet. */
	assert_non_null(tcp_shape_of(INET_FIN_WAIT2, &whole, &s));
	assert_non_null(tcp_shape_of(INET_CLOSE, &whole, &s));
	assert_non_null(tcp_shape_of(INET_SYN_SENT, &whole, &s));
	for (uint32_t i = 0; i < 40; i++)
		if (i == INET_SYN_RECV || i == INET_TIME_WAIT || i == INET_LISTEN || !i || i > INET_CLOSING)
			assert_non_null(tcp_shape_of(i, &whole, &s));
}

/* Without scales and timestamps their fields need not be there; without windows none of them. */
static void test_plain(void **state)
{
	TcpStreamEntry m = good();
	struct tcp_shape s;

	(void)state;
	m.opt_mask = 0;
	m.has_rcv_wscale = m.has_timestamp = false;
	m.has_snd_wl1 = m.has_snd_wnd = m.has_max_window = m.has_rcv_wnd = m.has_rcv_wup = false;
	assert_null(tcp_shape_of(INET_ESTABLISHED, &m, &s));
}

/* --------------------------------------------------------------------------------------------------- whole images */

struct env {
	char dir[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	InetSkEntry *m;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));
	struct snap_file *f;
	InetSkEntry *m;

	if (!e)
		return -1;
	strcpy(e->dir, "/tmp/test-tcp-XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->dir;
	e->opts.tcp_established = true;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	*state = e;
	if (!files_state(&e->op, &e->s))
		return -1;
	f = file_new(&e->op, &e->s, &file_inet);
	f->fd = -1;
	f->msg->isk = e->m = m = msg_new(&e->op, InetSkEntry, inet_sk_entry);
	m->id = f->id;
	m->ino = 0xbeef;
	m->family = AF_INET;
	m->type = SOCK_STREAM;
	m->proto = IPPROTO_TCP;
	m->state = INET_ESTABLISHED;
	m->fown = msg_new(&e->op, FownEntry, fown_entry);
	m->opts = msg_new(&e->op, SkOptsEntry, sk_opts_entry);
	m->n_src_addr = m->n_dst_addr = 1;
	m->src_addr = m->dst_addr = op_alloc(&e->op, 16);
	m->src_addr[0] = htonl(INADDR_LOOPBACK);
	m->src_port = 1234;
	m->dst_port = 5678;
	return img_dir_create(&e->op, &e->s.dir);
}

static int teardown(void **state)
{
	struct env *e = *state;

	files_restore_done(&e->op, &e->s, false);
	img_dir_abort(&e->op, e->s.dir);
	img_dir_close(e->s.dir);
	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	rmdir(e->dir);
	free(e);
	return 0;
}

static void write_stream(struct env *e, const TcpStreamEntry *m, size_t payload)
{
	const char bytes[64] = "";
	struct img_out *out;

	assert_int_equal(img_create(&e->op, e->s.dir, IMG_TCP_STREAM, 0xbeef, &out), 0);
	assert_int_equal(img_write(&e->op, out, &m->base), 0);
	assert_int_equal(img_write_payload(&e->op, out, bytes, payload), 0);
	assert_int_equal(img_close(&e->op, out), 0);
}

static void expect(struct env *e, const char *word)
{
	assert_int_equal(file_inet.read(&e->op, &e->s), CKPT_E_IMAGE);
	if (!strstr(ckpt_err_message(e->op.err), word))
		fail_msg("'%s' does not say '%s'", ckpt_err_message(e->op.err), word);
}

static void test_image_missing(void **state)
{
	expect(*state, "tcp-stream-beef.img is missing");
}

static void test_image_cut(void **state)
{
	TcpStreamEntry m = good();

	write_stream(*state, &m, 39);
	expect(*state, "tcp-stream-beef.img");
}

/* More is promised than there is memory for: it is not believed before it was seen. */
static void test_image_promises(void **state)
{
	TcpStreamEntry m = good();

	m.inq_len = 1u << 30;
	write_stream(*state, &m, 40);
	expect(*state, "tcp-stream-beef.img");
}

static void test_image_wrong(void **state)
{
	TcpStreamEntry m = good();

	m.max_window = 1;
	write_stream(*state, &m, 40);
	expect(*state, "larger than it ever was");
}

static void test_listens_with_peer(void **state)
{
	struct env *e = *state;

	e->m->state = INET_LISTEN;
	expect(e, "listens, and has a peer");
}

static void test_without_peer(void **state)
{
	struct env *e = *state;

	e->m->dst_port = 0;
	expect(e, "a connection to nobody");
}

static void test_without_port(void **state)
{
	struct env *e = *state;

	e->m->src_port = 0;
	expect(e, "without a port");
}

static void test_image_good(void **state)
{
	struct env *e = *state;
	TcpStreamEntry m = good();

	write_stream(e, &m, 40);
	assert_int_equal(file_inet.read(&e->op, &e->s), 0);
}

/* ------------------------------------------------------------------------------------------------------- segments */

static uint16_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i += 2)
		sum += (uint32_t)p[i] << 8 | (i + 1 < n ? p[i + 1] : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void test_segment_v4(void **state)
{
	struct segment g = { .seq = 0x01020304, .ack = 0x05060708, .window = 0x1122, .fin = true };
	uint8_t b[SEGMENT_MAX];

	(void)state;
	g.from.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(0xc0000201) };
	g.to.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(40000), .sin_addr.s_addr = htonl(0x7f000001) };
	assert_int_equal(segment_build(&g, b), 40);
	assert_int_equal(b[0], 0x45);
	assert_memory_equal(b + 12, "\xc0\x00\x02\x01\x7f\x00\x00\x01\x00\x50\x9c\x40\x01\x02\x03\x04\x05\x06\x07\x08\x50\x11\x11\x22", 24);
	assert_int_equal(sum16(b, 20, 0), 0xffff);
	assert_int_equal(sum16(b + 12, 28, IPPROTO_TCP + 20), 0xffff);
	/* With the option it is longer, and as right. */
	g.fin = false;
	g.stamped = true;
	g.tsval = 0xdeadbeef;
	assert_int_equal(segment_build(&g, b), 52);
	assert_memory_equal(b + 32, "\x80\x10", 2);
	assert_memory_equal(b + 40, "\x01\x01\x08\x0a\xde\xad\xbe\xef\x00\x00\x00\x00", 12);
	assert_int_equal(sum16(b + 12, 40, IPPROTO_TCP + 32), 0xffff);
}

static void test_segment_v6(void **state)
{
	struct segment g = { .seq = UINT32_MAX, .ack = 1, .fin = true };
	uint8_t b[SEGMENT_MAX];

	(void)state;
	g.from.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(443) };
	g.to.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(50000) };
	inet_pton(AF_INET6, "2001:db8::1", &g.from.v6.sin6_addr);
	inet_pton(AF_INET6, "fe80::1234:5678:9abc:def0", &g.to.v6.sin6_addr);
	assert_int_equal(segment_build(&g, b), 60);
	assert_memory_equal(b, "\x60\x00\x00\x00\x00\x14\x06", 7);
	assert_int_equal(sum16(b + 8, 52, IPPROTO_TCP + 20), 0xffff);
	g.to.v4 = (struct sockaddr_in){ .sin_family = AF_INET };
	assert_int_equal(segment_build(&g, b), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers), cmocka_unit_test(test_connecting), cmocka_unit_test(test_around_zero),
		cmocka_unit_test(test_unsent), cmocka_unit_test(test_lies), cmocka_unit_test(test_plain), TEST(image_missing),
		TEST(image_cut), TEST(image_promises), TEST(image_wrong), TEST(listens_with_peer), TEST(without_peer), TEST(without_port),
		TEST(image_good), cmocka_unit_test(test_segment_v4), cmocka_unit_test(test_segment_v6),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
