/* SPDX-License-Identifier: MIT */
/* Restore: why an address or a connection cannot be had, and who has it. */
#include "lib/state/sock/inet.h"

int inet_cannot_bind(struct op *op, const struct inet_sk *sk, int eno)
{
	const char *hint = NULL;

	if (eno == EADDRINUSE)
		hint = "end the program that has it first";
	else if (eno == EADDRNOTAVAIL)
		hint = "give the address to this host first (ip address add), or restore where it is";
	return op_errno(op, eno, AT(.kind = "socket", .hint = hint), "%s: cannot bind it", inet_what(op, sk));
}

int inet_cannot_connect(struct op *op, const struct inet_sk *sk, int eno)
{
	const char *hint = NULL;

	if (eno == ENETUNREACH || eno == EHOSTUNREACH || eno == ENETDOWN)
		hint = "the route to its peer must be there";
	else if (eno == EADDRNOTAVAIL)
		hint = "the same connection exists on this host";
	return op_errno(op, eno, AT(.kind = "socket", .hint = hint), "%s: cannot connect it to %s", inet_what(op, sk),
			inet_addr_text(op, &sk->peer));
}
