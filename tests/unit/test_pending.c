/* SPDX-License-Identifier: MIT */
/*
 * Connections in the queue of a listener: taken out, put back, and used by both ends. In a network namespace of its own.
 * Needs root (skipped otherwise).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/state/sock/tcp/pending.h"

#define MAX_CLIENTS 8

static const struct ckpt_opts no_opts = { .sz = sizeof(no_opts) };
static struct ckpt_stats stats;
static struct op op;
static struct pending_door door = PENDING_DOOR_INIT;

static int setup(void **state)
{
	(void)state;
	op = (struct op){ .arena = arena_new(), .opts = &no_opts, .stats = &stats };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	arena_free(op.arena);
	return 0;
}

/* -------------------------------------------------------------------------------------------------- both ends */

struct ends {
	int listener, n;
	int client[MAX_CLIENTS];
	size_t sent[MAX_CLIENTS];
};

static void address(int family, const char *text, union inet_addr *a)
{
	*a = (union inet_addr){ .any.sa_family = (sa_family_t)family };
	assert_int_equal(inet_pton(family, text, family == AF_INET6 ? (void *)&a->v6.sin6_addr : &a->v4.sin_addr), 1);
}

static void listen_at(struct ends *e, int family, const char *where, int backlog, union inet_addr *a)
{
	socklen_t n = sizeof(*a);

	address(family, where, a);
	e->listener = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_true(e->listener >= 0);
	assert_int_equal(bind(e->listener, &a->any, inet_addr_len(a)), 0);
	assert_int_equal(listen(e->listener, backlog), 0);
	assert_int_equal(getsockname(e->listener, &a->any, &n), 0);
}

static uint8_t byte_of(int client, size_t at)
{
	return (uint8_t)(at * 7 % 251 + (size_t)client);
}

/* As much of @bytes as goes in. */
static void fill(struct ends *e, int i, size_t bytes)
{
	uint8_t b[4096];
	size_t done = 0;

	for (int tries = 0; done < bytes && tries < 20;) {
		size_t n = MIN(bytes - done, sizeof(b));
		ssize_t k;

		for (size_t j = 0; j < n; j++)
			b[j] = byte_of(i, done + j);
		k = send(e->client[i], b, n, MSG_DONTWAIT);
		if (k < 0)
			usleep(2000);
		tries = k < 0 ? tries + 1 : 0;
		done += k > 0 ? (size_t)k : 0;
	}
	e->sent[i] = done;
}

static void connect_client(struct ends *e, int i, int family, const union inet_addr *to, size_t bytes)
{
	e->client[i] = socket(family, SOCK_STREAM, 0);
	assert_int_equal(connect(e->client[i], &to->any, inet_addr_len(to)), 0);
	fill(e, i, bytes);
}

/* What can have arrived has. */
static void wait_for(struct ends *e)
{
	for (int i = 0; i < 1000 && pending_count(e->listener) < e->n; i++)
		usleep(1000);
	assert_int_equal(pending_count(e->listener), e->n);
	usleep(60000); /* late acknowledgements */
}

static void turn(struct ends *e, struct pending_pool *pool)
{
	struct pending_turn t = { .listener = e->listener, .take = true, .n = (size_t)e->n };

	assert_int_equal(pending_pool_new(&op, pool, MAX_CLIENTS, 64u << 20), 0);
	t.conns = pool->conns;
	assert_int_equal(pending_turn_run(&op, &door, pool, &t), 0);
	if (t.done != t.n)
		fail_msg("connection %zu: cannot %s: %s", t.done, t.fault.step, strerror(t.fault.err));
	assert_int_equal(pending_count(e->listener), e->n);
}

/* Accepts the next one; it must be that of client @i. */
static int accept_one(struct ends *e, int i)
{
	union inet_addr want, got, wire;
	struct timeval tv = { .tv_sec = 5 };
	socklen_t n = sizeof(want), m = sizeof(got);
	int fd = accept4(e->listener, &got.any, &m, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(getsockname(e->client[i], &want.any, &n), 0);
	inet_addr_on_wire(&got, &wire);
	assert_int_equal(inet_addr_port(&wire), inet_addr_port(&want));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(e->client[i], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static void receive(int fd, int i, size_t want)
{
	uint8_t b[65536];
	size_t done = 0;

	while (done < want) {
		ssize_t k = recv(fd, b, MIN(sizeof(b), want - done), 0);

		if (k <= 0)
			fail_msg("%zu of %zu bytes: %s", done, want, k ? strerror(errno) : "end");
		for (ssize_t j = 0; j < k; j++)
			if (b[j] != byte_of(i, done + (size_t)j))
				fail_msg("byte %zu is wrong", done + (size_t)j);
		done += (size_t)k;
	}
}

/* Everything that was sent comes, and both directions go on. */
static void use(struct ends *e, int i)
{
	int fd = accept_one(e, i);
	char b[8] = "";

	receive(fd, i, e->sent[i]);
	assert_int_equal(send(e->client[i], "more", 4, 0), 4);
	assert_int_equal(recv(fd, b, 4, MSG_WAITALL), 4);
	assert_memory_equal(b, "more", 4);
	assert_int_equal(send(fd, "back", 4, 0), 4);
	assert_int_equal(recv(e->client[i], b, 4, MSG_WAITALL), 4);
	assert_memory_equal(b, "back", 4);
	close(fd);
}

static void end(struct ends *e, struct pending_pool *pool)
{
	for (int i = 0; i < e->n; i++)
		close(e->client[i]);
	close(e->listener);
	pending_pool_free(pool);
}

static void round_trip(int family, const char *at, int client_family, const char *to, size_t bytes, int n, int turns)
{
	struct ends e = { .n = n };
	struct pending_pool pool = { 0 };
	union inet_addr a, b;

	listen_at(&e, family, at, n, &a);
	address(client_family, to, &b);
	if (client_family == AF_INET6)
		b.v6.sin6_port = a.v6.sin6_port; /* at the same place in both families */
	else
		b.v4.sin_port = a.v4.sin_port;
	for (int i = 0; i < n; i++)
		connect_client(&e, i, client_family, &b, bytes);
	wait_for(&e);
	for (int i = 0; i < turns; i++) {
		pending_pool_free(&pool);
		turn(&e, &pool);
	}
	for (int i = 0; i < n; i++)
		use(&e, i);
	end(&e, &pool);
}

static void test_empty(void **state)
{
	(void)state;
	round_trip(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1", 0, 5, 1);
}

static void test_data(void **state)
{
	(void)state;
	round_trip(AF_INET, "0.0.0.0", AF_INET, "127.0.0.1", 1, 2, 1);
	round_trip(AF_INET, "0.0.0.0", AF_INET, "127.0.0.1", 33333, 3, 1);
}

static void test_v6(void **state)
{
	(void)state;
	round_trip(AF_INET6, "::1", AF_INET6, "::1", 0, 2, 1);
	round_trip(AF_INET6, "::", AF_INET6, "::1", 33333, 3, 1);
}

static void test_mapped(void **state)
{
	(void)state;
	round_trip(AF_INET6, "::", AF_INET, "127.0.0.1", 33333, 3, 1);
}

/* The window is closed: all that a connection takes before anybody accepts it. */
static void test_full(void **state)
{
	(void)state;
	round_trip(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1", 64u << 20, 2, 1);
	round_trip(AF_INET6, "::1", AF_INET6, "::1", 64u << 20, 1, 1);
}

static void test_many_turns(void **state)
{
	(void)state;
	round_trip(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1", 50000, 3, 20);
}

/* ------------------------------------------------------------------------------------------------ their states */

static void test_fin(void **state)
{
	struct ends e = { .n = 3 };
	struct pending_pool pool;
	union inet_addr a;
	char b;

	(void)state;
	listen_at(&e, AF_INET, "127.0.0.1", 8, &a);
	for (int i = 0; i < e.n; i++) {
		connect_client(&e, i, AF_INET, &a, (size_t)i * 20000);
		shutdown(e.client[i], SHUT_WR);
	}
	wait_for(&e);
	turn(&e, &pool);
	for (int i = 0; i < e.n; i++) {
		int fd = accept_one(&e, i);

		assert_true(pool.conns[i].fin);
		receive(fd, i, e.sent[i]);
		assert_int_equal(recv(fd, &b, 1, 0), 0);
		assert_int_equal(send(fd, "x", 1, 0), 1);
		assert_int_equal(recv(e.client[i], &b, 1, 0), 1);
		close(fd);
		assert_int_equal(recv(e.client[i], &b, 1, 0), 0);
	}
	end(&e, &pool);
}

/* The peer has reset it: whoever accepts it reads what came before, and then the error. Those around it are not touched. */
static void test_reset(void **state)
{
	struct linger hard = { .l_onoff = 1 };
	struct ends e = { .n = 3 };
	struct pending_pool pool;
	union inet_addr a, b;
	socklen_t n = sizeof(b);
	uint8_t byte;
	int fd;

	(void)state;
	listen_at(&e, AF_INET, "127.0.0.1", 8, &a);
	for (int i = 0; i < e.n; i++)
		connect_client(&e, i, AF_INET, &a, 1000);
	wait_for(&e);
	setsockopt(e.client[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(e.client[1]);
	turn(&e, &pool);
	use(&e, 0);
	fd = accept4(e.listener, &b.any, &n, 0);
	assert_true(fd >= 0);
	receive(fd, 1, 1000);
	assert_int_equal(recv(fd, &byte, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(fd);
	e.client[1] = -1;
	use(&e, 2);
	end(&e, &pool);
}

/* What a connection inherits, and what must not change for the listener. */
static void test_inherited(void **state)
{
	struct ends e = { .n = 2 };
	struct pending_pool pool;
	struct tcp_info before = { 0 }, after = { 0 };
	union inet_addr a;
	int one = 1, idle = 77, size, now, locks = -1, fd;
	socklen_t n = sizeof(int), len = sizeof(before);

	(void)state;
	listen_at(&e, AF_INET, "127.0.0.1", 5, &a);
	setsockopt(e.listener, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(e.listener, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	getsockopt(e.listener, SOL_SOCKET, SO_RCVBUF, &size, &n);
	for (int i = 0; i < e.n; i++)
		connect_client(&e, i, AF_INET, &a, 1u << 20);
	wait_for(&e);
	getsockopt(e.listener, IPPROTO_TCP, TCP_INFO, &before, &len);
	turn(&e, &pool);
	getsockopt(e.listener, IPPROTO_TCP, TCP_INFO, &after, &len);
	assert_int_equal(before.tcpi_sacked, after.tcpi_sacked);
	assert_int_equal(getsockopt(e.listener, SOL_SOCKET, SO_RCVBUF, &now, &n), 0);
	assert_int_equal(now, size);
	assert_int_equal(getsockopt(e.listener, SOL_SOCKET, SO_BUF_LOCK, &locks, &n), 0);
	assert_int_equal(locks, 0);
	fd = accept_one(&e, 0);
	len = sizeof(after);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &len), 0);
	assert_int_equal(after.tcpi_options & 7, pool.conns[0].opt_mask & 7);
	assert_int_equal(after.tcpi_snd_wscale, pool.conns[0].snd_wscale);
	assert_int_equal(after.tcpi_rcv_wscale, pool.conns[0].rcv_wscale);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &now, &n), 0);
	assert_int_equal(now, 77);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &now, &n), 0);
	assert_int_equal(now, 1);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_MARK, &now, &n), 0);
	assert_int_equal(now, 0);
	close(fd);
	end(&e, &pool);
}

static void set_sysctl(const char *name, const char *value)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
	fd = open(path, O_WRONLY);
	assert_int_equal(write(fd, value, 1), 1);
	close(fd);
}

/* Switched off since the connection was made: it goes on without. Before that the kernel refused it, and said nothing to the peer. */
static void test_options_off(void **state)
{
	struct ends e = { .n = 1 };
	struct pending_pool pool;
	union inet_addr a;

	(void)state;
	listen_at(&e, AF_INET, "127.0.0.1", 5, &a);
	connect_client(&e, 0, AF_INET, &a, 1000);
	wait_for(&e);
	set_sysctl("tcp_sack", "0");
	set_sysctl("tcp_timestamps", "0");
	turn(&e, &pool);
	set_sysctl("tcp_sack", "1");
	set_sysctl("tcp_timestamps", "1");
	use(&e, 0);
	end(&e, &pool);
}

/* Without SYN cookies it does not work, which the first try says, before anything is touched. */
static void test_no_cookies(void **state)
{
	struct pending_door d = PENDING_DOOR_INIT;
	const char *why = "";

	(void)state;
	set_sysctl("tcp_syncookies", "0");
	assert_int_equal(pending_door_open(&op, &d, &why), 1);
	set_sysctl("tcp_syncookies", "1");
	assert_non_null(strstr(why, "tcp_syncookies"));
	assert_int_equal(d.prog, -1);
	assert_int_equal(pending_door_open(&op, &d, &why), 0);
	pending_door_close(&d);
}

/* Of several listeners at one port, the one that had it gets it back. */
static void test_reuseport(void **state)
{
	struct ends e[2] = { { .n = 0 }, { .n = 0 } };
	struct pending_pool pool;
	union inet_addr a;
	socklen_t n = sizeof(a);
	int one = 1, client[12], total = 0;

	(void)state;
	address(AF_INET, "127.0.0.1", &a);
	for (int i = 0; i < 2; i++) {
		e[i].listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		setsockopt(e[i].listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		assert_int_equal(bind(e[i].listener, &a.any, sizeof(a.v4)), 0);
		assert_int_equal(getsockname(e[i].listener, &a.any, &n), 0);
		assert_int_equal(listen(e[i].listener, 32), 0);
	}
	for (int i = 0; i < 12; i++) {
		client[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(client[i], &a.any, sizeof(a.v4)), 0);
	}
	usleep(20000);
	for (int i = 0; i < 2; i++) {
		e[i].n = MIN(pending_count(e[i].listener), MAX_CLIENTS);
		total += pending_count(e[i].listener);
	}
	assert_int_equal(total, 12);
	for (int i = 0; i < 2; i++) {
		struct pending_turn t = { .listener = e[i].listener, .take = true, .n = (size_t)e[i].n };
		int had = pending_count(e[i].listener);

		assert_int_equal(pending_pool_new(&op, &pool, MAX_CLIENTS, 1u << 20), 0);
		t.conns = pool.conns;
		assert_int_equal(pending_turn_run(&op, &door, &pool, &t), 0);
		assert_int_equal(t.done, t.n);
		assert_int_equal(pending_count(e[i].listener), had);
		pending_pool_free(&pool);
	}
	for (int i = 0; i < 12; i++)
		close(client[i]);
	close(e[0].listener);
	close(e[1].listener);
}

/* ------------------------------------------------------------------------------------------------- the parser */

struct types {
	struct btf_header h;
	uint32_t types[64];
	char strings[32];
};

static void make_types(struct types *t)
{
	static const uint32_t types[] = {
		/* 1: an int */ 1, BTF_KIND_INT << 24, 4, 32,
		/* 2: a structure of two */ 1, BTF_KIND_STRUCT << 24 | 2, 8, 1, 1, 0, 1, 1, 32,
		/* 3: a prototype without parameters */ 0, BTF_KIND_FUNC_PROTO << 24, 1,
		/* 4 */ 5, BTF_KIND_FUNC << 24 | 1, 3,
		/* 5: the one that is looked for */ 11, BTF_KIND_FUNC << 24 | 1, 3,
	};

	*t = (struct types){ .h = { .magic = BTF_MAGIC, .version = 1, .hdr_len = sizeof(t->h), .type_len = sizeof(types),
				    .str_off = sizeof(t->types), .str_len = 17 } };
	memcpy(t->types, types, sizeof(types));
	memcpy(t->strings, "\0int\0other\0mine\0", 17);
}

static void test_types(void **state)
{
	struct types t;

	(void)state;
	make_types(&t);
	assert_int_equal(pending_btf_func(&t, sizeof(t), "mine"), 5);
	assert_int_equal(pending_btf_func(&t, sizeof(t), "other"), 4);
	assert_int_equal(pending_btf_func(&t, sizeof(t), "int"), 0); /* no function */
	assert_int_equal(pending_btf_func(&t, sizeof(t), "min"), 0);
	/* damaged */
	for (size_t n = 0; n < sizeof(t) - sizeof(t.strings) + 17; n++) {
		_cleanup_free_ void *part = malloc(n ? n : 1); /* to the byte */

		memcpy(part, &t, n);
		assert_int_equal(pending_btf_func(part, n, "mine"), -1);
	}
	t.types[1] = 31u << 24;
	assert_int_equal(pending_btf_func(&t, sizeof(t), "mine"), -1);
	make_types(&t);
	t.types[5] = BTF_KIND_STRUCT << 24 | 0xffff;
	assert_int_equal(pending_btf_func(&t, sizeof(t), "mine"), -1);
	make_types(&t);
	t.h.type_off = UINT32_MAX;
	assert_int_equal(pending_btf_func(&t, sizeof(t), "mine"), -1);
}

/* ------------------------------------------------------------------------------------------- what images say */

struct image {
	InetSkEntry m;
	InetSkExtra x;
	PendingConnection c, *list[1];
	TcpStreamEntry t;
	union inet_addr local, peer;
	struct snap_file f;
	struct inet_sk sk;
	struct ckpt_opts opts;
};

static void make_image(struct image *g)
{
	*g = (struct image){ .m = INET_SK_ENTRY__INIT, .x = INET_SK_EXTRA__INIT, .c = PENDING_CONNECTION__INIT,
			     .t = TCP_STREAM_ENTRY__INIT, .opts = { .sz = sizeof(g->opts), .tcp_established = true } };
	address(AF_INET, "10.0.0.1", &g->local);
	address(AF_INET, "10.0.0.2", &g->peer);
	g->local.v4.sin_port = htons(80);
	g->peer.v4.sin_port = htons(4000);
	g->m.family = AF_INET;
	g->m.type = SOCK_STREAM;
	g->m.proto = IPPROTO_TCP;
	g->m.state = INET_LISTEN;
	g->c.local = (ProtobufCBinaryData){ .len = sizeof(g->local.v4), .data = (void *)&g->local };
	g->c.peer = (ProtobufCBinaryData){ .len = sizeof(g->peer.v4), .data = (void *)&g->peer };
	g->c.state = INET_ESTABLISHED;
	g->c.stream = &g->t;
	g->c.has_in_queue = 1;
	g->c.in_queue = (ProtobufCBinaryData){ .len = 5, .data = (uint8_t *)(uintptr_t)"hello" };
	g->t.inq_len = 5;
	g->t.mss_clamp = 1460;
	g->list[0] = &g->c;
	g->x.pending = g->list;
	g->x.n_pending = 1;
	g->sk = (struct inet_sk){ .f = &g->f, .m = &g->m, .x = &g->x, .local = g->local };
}

static int read_image(struct image *g)
{
	int r;

	op.opts = &g->opts;
	r = pending_read(&op, &g->sk);
	ckpt_err_free(TAKE_PTR(op.err));
	op.opts = &no_opts;
	return r;
}

#define LIE(change)                                               \
	do {                                                      \
		make_image(&g);                                   \
		change;                                           \
		assert_int_equal(read_image(&g), CKPT_E_IMAGE);   \
	} while (0)

static void test_images(void **state)
{
	struct image g;
	netlock_tuples tuples = { 0 };

	(void)state;
	make_image(&g);
	assert_int_equal(read_image(&g), 0);
	assert_int_equal(pending_tuples(&op, &g.sk, &tuples), 0);
	assert_int_equal(tuples.n, 1);
	assert_int_equal(tuples.v[0].local_port, 80);
	assert_int_equal(tuples.v[0].peer_port, 4000);
	g.opts.tcp_established = false;
	assert_int_equal(read_image(&g), CKPT_E_INVAL);
	g.opts.skip_in_flight = true;
	assert_int_equal(read_image(&g), 0);
	LIE(g.m.state = INET_CLOSE);
	LIE(g.m.type = SOCK_DGRAM);
	LIE(g.m.proto = IPPROTO_MPTCP);
	LIE(g.c.local.len = 1);
	LIE(g.c.peer.len = sizeof(g.peer.v4) - 1);
	LIE(g.c.peer.len = 4096);
	LIE(g.local.any.sa_family = AF_UNIX);
	LIE(g.local.any.sa_family = g.peer.any.sa_family = AF_INET6; g.c.local.len = g.c.peer.len = sizeof(g.peer.v6));
	LIE(g.local.v4.sin_port = htons(81));
	LIE(g.peer.v4.sin_port = 0);
	LIE(g.c.state = INET_SYN_RECV);
	LIE(g.c.state = 77);
	LIE(g.t.inq_len = 6);
	LIE(g.c.has_in_queue = 0);
	LIE(g.t.outq_len = 1);
	LIE(g.t.snd_wscale = 15);
	LIE(g.t.rcv_wscale = UINT32_MAX);
	LIE(g.t.mss_clamp = 65536);
}

/* ---------------------------------------------------------------------------------------------------------- */

static bool own_network(void)
{
	struct ifreq lo = { .ifr_name = "lo" };
	int fd;
	bool ok;

	if (unshare(CLONE_NEWNET) < 0)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	lo.ifr_flags = IFF_UP;
	ok = ioctl(fd, SIOCSIFFLAGS, &lo) == 0;
	close(fd);
	return ok;
}

int main(void)
{
	const struct CMUnitTest parser[] = {
		cmocka_unit_test(test_types),
		cmocka_unit_test_setup_teardown(test_images, setup, teardown),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty), cmocka_unit_test(test_data), cmocka_unit_test(test_v6), cmocka_unit_test(test_mapped),
		cmocka_unit_test(test_full), cmocka_unit_test(test_many_turns), cmocka_unit_test(test_fin), cmocka_unit_test(test_reset),
		cmocka_unit_test(test_inherited), cmocka_unit_test(test_options_off), cmocka_unit_test(test_no_cookies),
		cmocka_unit_test(test_reuseport),
	};
	const char *why = "it needs root";
	int r = cmocka_run_group_tests_name("reading", parser, NULL, NULL);

	if (r)
		return r;
	setup(NULL);
	if (geteuid() != 0 || !own_network() || pending_door_open(&op, &door, &why) != 0) {
		printf("skipped: %s\n", why);
		return 77;
	}
	r = cmocka_run_group_tests(tests, NULL, NULL);
	pending_door_close(&door);
	teardown(NULL);
	return r;
}
