/* SPDX-License-Identifier: MIT */
/* The checksum of IP, TCP and UDP (RFC 1071), for packets of our own making. */
#ifndef CKPT_STATE_SOCK_CHECKSUM_H
#define CKPT_STATE_SOCK_CHECKSUM_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>

/* Ones' complement sum of bytes in the order of the network; parts of an even length can be added up one by one. */
static inline uint64_t checksum_add(uint64_t sum, const void *p, size_t n)
{
	const uint8_t *b = p;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)b[i] << 8 | b[i + 1];
	return n % 2 ? sum + ((uint32_t)b[n - 1] << 8) : sum;
}

/* What goes into the header, in network order. */
static inline uint16_t checksum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

#endif
