// SPDX-License-Identifier: MIT
/* Datagrams of our own making: a receiver must find nothing wrong with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>

#include "lib/state/sock/inet/inject.h"

/* What a receiver adds up: ones' complement, 0xffff if all is well. */
static uint16_t sum(uint32_t s, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s += i % 2 ? b[i] : (uint32_t)b[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

static struct inject datagram(int family, uint8_t proto, const void *data, size_t n)
{
	struct inject d = { .from.any.sa_family = (sa_family_t)family, .to.any.sa_family = (sa_family_t)family, .proto = proto,
			    .tos = 0x28, .ttl = 7, .data = data, .n = n };

	if (family == AF_INET6) {
		d.from.v6.sin6_addr.s6_addr[0] = 0xfd;
		d.from.v6.sin6_addr.s6_addr[15] = 9;
		d.to.v6.sin6_addr = in6addr_loopback;
		d.from.v6.sin6_port = htons(1234);
		d.to.v6.sin6_port = htons(53);
	} else {
		d.from.v4.sin_addr.s_addr = htonl(0xc0a80102);
		d.to.v4.sin_addr.s_addr = htonl(0x7f000001);
		d.from.v4.sin_port = htons(1234);
		d.to.v4.sin_port = htons(53);
	}
	return d;
}

static void four(void **state)
{
	static uint8_t buf[INJECT_MAX], text[65535];

	(void)state;
	for (size_t n = 0; n < 70; n++) {
		struct inject d = datagram(AF_INET, IPPROTO_UDP, text, n);

		memset(text, (int)n * 37, sizeof(text));
		assert_int_equal(inject_build(&d, buf), 28 + n);
		assert_int_equal(sum(0, buf, 20), 0xffff);
		assert_int_equal(sum(sum(0, buf + 12, 8) + IPPROTO_UDP + 8 + (uint32_t)n, buf + 20, 8 + n), 0xffff);
		assert_int_equal(buf[1], 0x28);
		assert_int_equal(buf[8], 7);
		assert_int_equal(buf[20] << 8 | buf[21], 1234);
		assert_int_equal(buf[24] << 8 | buf[25], 8 + n);
		assert_memory_equal(buf + 28, text, n);
	}
}

static void six(void **state)
{
	static uint8_t buf[INJECT_MAX];
	struct inject d = datagram(AF_INET6, IPPROTO_UDP, "hello", 5);

	(void)state;
	assert_int_equal(inject_build(&d, buf), 53);
	assert_int_equal(sum(sum(0, buf + 8, 32) + IPPROTO_UDP + 13, buf + 40, 13), 0xffff);
	assert_int_equal(buf[0], 0x62);
	assert_int_equal(buf[1], 0x80);
}

/* UDP-Lite: no length, and all of it is covered. */
static void lite(void **state)
{
	static uint8_t buf[INJECT_MAX];
	struct inject d = datagram(AF_INET, IPPROTO_UDPLITE, "hello", 5);

	(void)state;
	assert_int_equal(inject_build(&d, buf), 33);
	assert_int_equal(buf[9], IPPROTO_UDPLITE);
	assert_int_equal(buf[24] << 8 | buf[25], 0);
	assert_int_equal(sum(sum(0, buf + 12, 8) + IPPROTO_UDPLITE + 13, buf + 20, 13), 0xffff);
}

/* A sum of 0 would say that there is none. */
static void zero_sum(void **state)
{
	static uint8_t buf[INJECT_MAX];
	uint8_t text[2] = { 0, 0 };
	struct inject d = datagram(AF_INET, IPPROTO_UDP, text, 2);
	uint16_t is;

	(void)state;
	inject_build(&d, buf);
	is = (uint16_t)(buf[26] << 8 | buf[27]);
	text[0] = (uint8_t)(is >> 8);
	text[1] = (uint8_t)is;
	inject_build(&d, buf);
	assert_int_equal(buf[26] << 8 | buf[27], 0xffff);
}

static void not_to_be_made(void **state)
{
	static uint8_t buf[INJECT_MAX], text[65535];
	struct inject mixed = datagram(AF_INET, IPPROTO_UDP, text, 5), too_long = datagram(AF_INET, IPPROTO_UDP, text, 65508);
	struct inject longest = datagram(AF_INET, IPPROTO_UDP, text, 65507);
	struct inject six_too_long = datagram(AF_INET6, IPPROTO_UDP, text, 65489);

	(void)state;
	mixed.to.any.sa_family = AF_INET6;
	assert_int_equal(inject_build(&mixed, buf), 0);
	assert_int_equal(inject_build(&too_long, buf), 0);
	assert_int_equal(inject_build(&six_too_long, buf), 0);
	assert_int_equal(inject_build(&longest, buf), 65535);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(four), cmocka_unit_test(six), cmocka_unit_test(lite), cmocka_unit_test(zero_sum),
		cmocka_unit_test(not_to_be_made),
	};

	return cmocka_run_group_tests_name("inject", tests, NULL, NULL);
}
