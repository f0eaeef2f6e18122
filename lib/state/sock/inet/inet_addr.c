/* SPDX-License-Identifier: MIT */
/* Addresses of IPv4 and IPv6 sockets. */
#include <arpa/inet.h>

#include "lib/state/sock/inet/inet.h"

socklen_t inet_addr_len(const union inet_addr *a)
{
	return a->any.sa_family == AF_INET6 ? sizeof(a->v6) : sizeof(a->v4);
}

uint16_t inet_addr_port(const union inet_addr *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

bool inet_addr_is_any(const union inet_addr *a)
{
	return a->any.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr) : a->v4.sin_addr.s_addr == INADDR_ANY;
}

const char *inet_addr_text(struct op *op, const union inet_addr *a)
{
	char text[INET6_ADDRSTRLEN], port[8] = "*";
	bool six = a->any.sa_family == AF_INET6;
	const void *from = six ? (const void *)&a->v6.sin6_addr : &a->v4.sin_addr;
	const char *ret;

	if (!inet_ntop(six ? AF_INET6 : AF_INET, from, text, sizeof(text)))
		return "an address";
	if (inet_addr_port(a))
		snprintf(port, sizeof(port), "%u", inet_addr_port(a));
	ret = arena_printf(op->arena, six ? "[%s]:%s" : "%s:%s", text, port);
	return ret ? ret : "an address";
}

int inet_addr_put(struct op *op, const union inet_addr *a, size_t *n, uint32_t **words, uint32_t *port)
{
	bool six = a->any.sa_family == AF_INET6;

	*n = six ? 4 : 1;
	*port = inet_addr_port(a);
	*words = arena_memdup(op->arena, six ? (const void *)&a->v6.sin6_addr : &a->v4.sin_addr, *n * sizeof(**words));
	return *words ? 0 : op_nomem(op);
}

bool inet_addr_get(int family, size_t n, const uint32_t *words, uint32_t port, union inet_addr *ret)
{
	if (port > UINT16_MAX || n != (family == AF_INET6 ? 4 : 1))
		return false;
	*ret = (union inet_addr){ 0 };
	ret->any.sa_family = (sa_family_t)family;
	if (family == AF_INET6) {
		ret->v6.sin6_port = htons((uint16_t)port);
		memcpy(&ret->v6.sin6_addr, words, sizeof(ret->v6.sin6_addr));
	} else {
		ret->v4.sin_port = htons((uint16_t)port);
		memcpy(&ret->v4.sin_addr, words, sizeof(ret->v4.sin_addr));
	}
	return true;
}

void inet_addr_on_wire(const union inet_addr *a, union inet_addr *ret)
{
	*ret = *a;
	if (a->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr))
		return;
	*ret = (union inet_addr){ .v4 = { .sin_family = AF_INET, .sin_port = a->v6.sin6_port } };
	memcpy(&ret->v4.sin_addr, &a->v6.sin6_addr.s6_addr[12], sizeof(ret->v4.sin_addr));
}
