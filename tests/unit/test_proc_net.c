// SPDX-License-Identifier: MIT
/* The parsers of /proc/net, on texts recorded from programs with such sockets, and on damaged ones. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
/* after the four above */
#include <cmocka.h>

#include "lib/kernel/proc/proc.h"
#include "tests/unit/proc_text.h"

static const char *addr_text(int family, const uint8_t *addr)
{
	static char buf[INET6_ADDRSTRLEN];

	assert_non_null(inet_ntop(family, addr, buf, sizeof(buf)));
	return buf;
}

static bool has(const struct proc_groups *g, const char *device, const char *addr)
{
	for (size_t i = 0; i < g->v.n; i++)
		if (!strcmp(g->v.v[i].device, device) && !strcmp(addr_text(g->v.v[i].family, g->v.v[i].addr), addr))
			return true;
	return false;
}

static void groups(void **state)
{
	CLEAN struct text t = load("net-igmp");
	struct proc_groups g;

	assert_int_equal(proc_parse_igmp(*state, t.p, t.n, &g), 0);
	assert_true(has(&g, "lo", "224.0.0.1") && has(&g, "lo", "239.1.2.5") && has(&g, "verylongname123", "224.0.0.1"));
	assert_int_equal(g.v.v[0].ifindex, 1);
	assert_int_equal(g.v.v[0].family, AF_INET);
}

static void groups6(void **state)
{
	CLEAN struct text t = load("net-igmp6");
	struct proc_groups g;

	assert_int_equal(proc_parse_igmp6(*state, t.p, t.n, &g), 0);
	assert_true(has(&g, "v0", "ff15::77") && has(&g, "v0", "ff12::78") && has(&g, "verylongname123", "ff02::1"));
	assert_false(has(&g, "lo", "ff15::77"));
	assert_int_equal(g.v.v[0].family, AF_INET6);
}

static void sockets(void **state)
{
	CLEAN struct text t = load("net-raw");
	struct proc_sockets s;

	assert_int_equal(proc_parse_sockets(*state, t.p, t.n, &s), 0);
	assert_int_equal(s.v.n, 3);
	assert_string_equal(addr_text(s.v.v[0].family, s.v.v[0].local), "127.0.0.2");
	assert_int_equal(s.v.v[0].local_port, 1);
	assert_int_equal(s.v.v[0].state, 7);
	assert_string_equal(addr_text(s.v.v[2].family, s.v.v[2].peer), "127.0.0.1");
	assert_int_equal(s.v.v[2].peer_port, 0);
	assert_int_equal(s.v.v[2].state, 1);
	assert_int_equal(s.v.v[1].ino, s.v.v[2].ino + 1);
}

static void sockets6(void **state)
{
	CLEAN struct text t = load("net-raw6");
	struct proc_sockets s;

	assert_int_equal(proc_parse_sockets(*state, t.p, t.n, &s), 0);
	assert_int_equal(s.v.n, 1);
	assert_string_equal(addr_text(s.v.v[0].family, s.v.v[0].peer), "::1");
	assert_int_equal(s.v.v[0].local_port, 58);
}

static void ping_sockets(void **state)
{
	CLEAN struct text t = load("net-icmp");
	struct proc_sockets s;

	assert_int_equal(proc_parse_sockets(*state, t.p, t.n, &s), 0);
	assert_int_equal(s.v.n, 2);
	assert_true(s.v.v[0].local_port == 4711 || s.v.v[1].local_port == 4711);
}

static void parse(const char *name, const struct text *t)
{
	struct arena *a = arena_new();
	struct proc_groups g;
	struct proc_sockets s;

	assert_non_null(a);
	if (!strcmp(name, "net-igmp"))
		proc_parse_igmp(a, t->p, t->n, &g);
	else if (!strcmp(name, "net-igmp6"))
		proc_parse_igmp6(a, t->p, t->n, &g);
	else
		proc_parse_sockets(a, t->p, t->n, &s);
	arena_free(a);
}

static void damaged_texts(void **state)
{
	static const char *const names[] = { "net-igmp", "net-igmp6", "net-raw", "net-raw6", "net-icmp" };
	uint32_t seed = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		CLEAN struct text t = load(names[i]);

		for (size_t n = 0; n < t.n; n++) {
			CLEAN struct text cut = text_of(t.p, n);

			parse(names[i], &cut);
		}
		for (int k = 0; k < 300; k++) {
			CLEAN struct text bad = text_of(t.p, t.n);

			for (int j = 0; j < 4; j++) {
				seed = seed * 1664525u + 1013904223u;
				bad.p[(seed >> 8) % bad.n] = (char)seed;
			}
			parse(names[i], &bad);
		}
	}
}

/* A table that is not of the form is refused, not half read. */
static void other_forms(void **state)
{
	struct proc_groups g;
	struct proc_sockets s;

	assert_int_equal(proc_parse_sockets(*state, "head\n  1: 0100007F 00000000:0000\n", 32, &s), -1);
	assert_int_equal(proc_parse_igmp(*state, "head\n\t\t010000E0\n", 16, &g), -1);
	assert_int_equal(proc_parse_igmp6(*state, "1 lo ff02\n", 10, &g), -1);
	assert_int_equal(proc_parse_igmp6(*state, "", 0, &g), 0);
	assert_int_equal(g.v.n, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(groups), T(groups6), T(sockets), T(sockets6), T(ping_sockets), T(damaged_texts), T(other_forms),
	};

	return cmocka_run_group_tests_name("proc_net", tests, NULL, NULL);
}
