// SPDX-License-Identifier: MIT
/* What sock_diag(7) tells of IPv4 and IPv6 sockets: of the kernel's own messages, and of made up and damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/tcp.h>
#include <sys/stat.h>

#include "lib/state/sock/inet/inet.h"

struct env {
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct inet_state is;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	free(e);
	return 0;
}

/* ------------------------------------------------------------------------------------------- the kernel's own */

static uint32_t inode(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint32_t)st.st_ino;
}

static union inet_addr name_of(int fd)
{
	union inet_addr a = { 0 };
	socklen_t n = sizeof(a);

	assert_int_equal(getsockname(fd, &a.any, &n), 0);
	return a;
}

static void await_state(int fd, uint8_t state)
{
	struct tcp_info info = { 0 };

	while (info.tcpi_state != state) {
		socklen_t n = sizeof(info);

		assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n), 0);
	}
}

static const struct inet_entry *entry(struct env *e, int family, uint32_t proto, int fd)
{
	const struct inet_entry *ret;

	assert_int_equal(inet_entry_of(&e->op, &e->is, family, proto, inode(fd), &ret), 0);
	return ret;
}

static void tells_of_connections(void **state)
{
	struct env *e = *state;
	union inet_addr a = { .v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), waiting = socket(AF_INET, SOCK_STREAM, 0), s;
	const struct inet_entry *x;
	const struct inet_listing *all;
	bool found = false;

	assert_int_equal(bind(l, &a.any, sizeof(a.v4)), 0);
	assert_int_equal(listen(l, 5), 0);
	a = name_of(l);
	assert_int_equal(connect(c, &a.any, sizeof(a.v4)), 0);
	s = accept(l, NULL, NULL);
	assert_true(s >= 0);
	assert_int_equal(send(c, "12345", 5, 0), 5);
	assert_int_equal(shutdown(c, SHUT_WR), 0);
	assert_int_equal(connect(waiting, &a.any, sizeof(a.v4)), 0);
	await_state(c, INET_FIN_WAIT2);
	x = entry(e, AF_INET, IPPROTO_TCP, l);
	assert_non_null(x);
	assert_int_equal(x->state, INET_LISTEN);
	assert_int_equal(x->rqueue, 1);
	assert_int_equal(x->wqueue, 5);
	assert_int_equal(inet_addr_port(&x->local), inet_addr_port(&a));
	x = entry(e, AF_INET, IPPROTO_TCP, c);
	assert_non_null(x);
	assert_int_equal(x->state, INET_FIN_WAIT2);
	assert_int_equal(x->shutdown, 2);
	assert_memory_equal(&x->peer.v4, &a.v4, sizeof(a.v4));
	x = entry(e, AF_INET, IPPROTO_TCP, s);
	assert_non_null(x);
	assert_int_equal(x->state, INET_CLOSE_WAIT);
	assert_int_equal(x->shutdown, 1);
	assert_int_equal(x->rqueue, 6); /* the FIN counts */
	assert_int_equal(x->uid, getuid());
	assert_false(x->keyed);
	assert_null(x->ulp);
	/* one that nobody has accepted */
	assert_int_equal(inet_listing(&e->op, &e->is, AF_INET, IPPROTO_TCP, &all), 0);
	a = name_of(waiting);
	for (size_t i = 0; i < all->all.n; i++)
		found |= !all->all.v[i]->ino && inet_addr_port(&all->all.v[i]->peer) == inet_addr_port(&a);
	assert_true(found);
	close(l), close(c), close(s), close(waiting);
}

static void asks_once(void **state)
{
	struct env *e = *state;
	union inet_addr a = { .v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	int before = socket(AF_INET, SOCK_DGRAM, 0), after;

	assert_int_equal(bind(before, &a.any, sizeof(a.v4)), 0);
	assert_true(shutdown(before, SHUT_RD) < 0); /* it says that it is not connected, and does it */
	if (!entry(e, AF_INET, IPPROTO_UDP, before))
		skip(); /* a kernel without the module */
	assert_int_equal(entry(e, AF_INET, IPPROTO_UDP, before)->shutdown, 1);
	after = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(bind(after, &a.any, sizeof(a.v4)), 0);
	assert_null(entry(e, AF_INET, IPPROTO_UDP, after));
	close(before), close(after);
}

static void knows_multipath(void **state)
{
	struct env *e = *state;
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int l = socket(AF_INET6, SOCK_STREAM, IPPROTO_MPTCP);
	const struct inet_entry *x;

	if (l < 0 || bind(l, (void *)&a, sizeof(a)) < 0 || listen(l, 3) < 0)
		skip();
	x = entry(e, AF_INET6, IPPROTO_MPTCP, l);
	assert_non_null(x);
	assert_int_equal(x->family, AF_INET6);
	assert_int_equal(x->state, INET_LISTEN);
	assert_memory_equal(&x->local.v6.sin6_addr, &a.sin6_addr, sizeof(a.sin6_addr));
	close(l);
}

/* ------------------------------------------------------------------------------------------------------ made up */

struct message {
	struct nlmsghdr h;
	struct inet_diag_msg m;
	_Alignas(NLA_ALIGNTO) uint8_t attrs[64];
};

/* One that is signed, shut down, and has a layer. */
static size_t make(struct message *x)
{
	static const uint8_t attrs[] = {
		5, 0, INET_DIAG_SHUTDOWN, 0, 0xff, 0, 0, 0, /* only two bits of it mean something */
		8, 0, INET_DIAG_MD5SIG, 0, 1, 2, 3, 4,
		12, 0, INET_DIAG_ULP_INFO, 0x80, 8, 0, INET_ULP_INFO_NAME, 0, 't', 'l', 's', 0,
	};

	*x = (struct message){ .m = { .idiag_family = AF_INET, .idiag_state = INET_ESTABLISHED, .idiag_inode = 77,
				      .id = { .idiag_sport = htons(80), .idiag_if = 3 } } };
	memcpy(x->attrs, attrs, sizeof(attrs));
	x->h.nlmsg_len = offsetof(struct message, attrs) + sizeof(attrs);
	return x->h.nlmsg_len;
}

static void reads_attributes(void **state)
{
	struct env *e = *state;
	struct inet_entry x;
	struct message m;
	size_t n = make(&m);

	assert_true(inet_diag_parse(&e->op, &m.h, n, &x));
	assert_int_equal(x.ino, 77);
	assert_int_equal(x.ifindex, 3);
	assert_int_equal(inet_addr_port(&x.local), 80);
	assert_int_equal(x.shutdown, 3);
	assert_true(x.keyed);
	assert_string_equal(x.ulp, "tls");
	m.m.idiag_family = AF_UNIX;
	assert_false(inet_diag_parse(&e->op, &m.h, n, &x));
}

/* Every length, every byte changed; the memory ends with the message, so that a step too far is seen. */
static void survives_damage(void **state)
{
	struct env *e = *state;
	struct inet_entry x;
	struct message m;
	size_t n = make(&m);

	for (size_t cut = 0; cut <= n; cut++) {
		struct nlmsghdr *copy = malloc(cut ? cut : 1);

		memcpy(copy, &m, cut);
		if (cut < offsetof(struct message, attrs) || cut < n)
			assert_false(inet_diag_parse(&e->op, copy, cut, &x));
		if (cut >= sizeof(*copy)) {
			copy->nlmsg_len = (uint32_t)cut;
			assert_int_equal(inet_diag_parse(&e->op, copy, cut, &x), cut >= offsetof(struct message, attrs));
		}
		free(copy);
	}
	for (size_t i = 0; i < n; i++)
		for (int v = 0; v < 256; v += 15) {
			uint8_t *copy = malloc(n);

			memcpy(copy, &m, n);
			copy[i] = (uint8_t)v;
			inet_diag_parse(&e->op, (void *)copy, n, &x);
			free(copy);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(tells_of_connections, setup, teardown),
		cmocka_unit_test_setup_teardown(asks_once, setup, teardown),
		cmocka_unit_test_setup_teardown(knows_multipath, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(survives_damage, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
