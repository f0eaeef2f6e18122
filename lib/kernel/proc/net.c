// SPDX-License-Identifier: MIT
/* Tables of /proc/PID/net: multicast groups, and the sockets that no other interface lists. */
#include "lib/kernel/proc/proc.h"

#include <sys/socket.h>

#include "lib/kernel/proc/scan.h"

/* Here they are capitals in some files. */
static int digit(char c)
{
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : scan_digit(c);
}

/* "ff020000000000000000000000000001" */
static bool parse_bytes(struct scan *s, uint8_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++, s->p += 2) {
		int high = SCAN_LEN(s) < 2 ? 99 : digit(s->p[0]), low = high > 15 ? 99 : digit(s->p[1]);

		if (low > 15)
			return false;
		to[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

/* "0100007F": the memory of the number is the address. */
static bool parse_word(struct scan *s, uint8_t *to)
{
	uint8_t b[4];
	uint32_t word;

	if (!parse_bytes(s, b, sizeof(b)))
		return false;
	word = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
	memcpy(to, &word, sizeof(word));
	return true;
}

static bool parse_hex(struct scan *s, uint64_t *out)
{
	const char *from = s->p;

	for (*out = 0; !scan_end(s) && s->p - from < 16 && digit(*s->p) < 16; s->p++)
		*out = *out << 4 | (uint64_t)digit(*s->p);
	return s->p > from;
}

static struct proc_group *new_group(struct arena *a, struct proc_groups *out, int family, uint32_t ifindex, const char *device)
{
	struct proc_group *g = ARRAY_ADD(a, &out->v);

	if (g)
		*g = (struct proc_group){ .family = family, .ifindex = ifindex, .device = device };
	return g;
}

/* "4\teth0      :     1      V3", then "\t\t\t\t010000E0     1 0:00000000\t\t0" for each group */
int proc_parse_igmp(struct arena *a, const char *text, size_t len, struct proc_groups *out)
{
	struct scan s = SCAN(text, len), line, word;
	const char *device = NULL;
	uint32_t ifindex = 0;

	*out = (struct proc_groups){ 0 };
	if (!scan_line(&s, &line))
		return -1;
	while (scan_line(&s, &line)) {
		struct proc_group *g;

		if (*line.p != '\t') {
			if (!scan_u32(&line, 10, &ifindex) || !scan_word(&line, &word))
				return -1;
			/* A long name has its colon at once. */
			device = arena_strndup(a, word.p, SCAN_LEN(&word) - (word.end[-1] == ':'));
			if (!device)
				return -1;
			continue;
		}
		scan_blanks(&line);
		g = device ? new_group(a, out, AF_INET, ifindex, device) : NULL;
		if (!g || !parse_word(&line, g->addr))
			return -1;
	}
	return 0;
}

/* "4    eth0            ff020000000000000000000000000001     1 0000000C 0" */
int proc_parse_igmp6(struct arena *a, const char *text, size_t len, struct proc_groups *out)
{
	struct scan s = SCAN(text, len), line, word;

	*out = (struct proc_groups){ 0 };
	while (scan_line(&s, &line)) {
		struct proc_group *g;
		uint32_t ifindex;

		if (!scan_u32(&line, 10, &ifindex) || !scan_word(&line, &word))
			return -1;
		g = new_group(a, out, AF_INET6, ifindex, arena_strndup(a, word.p, SCAN_LEN(&word)));
		scan_blanks(&line);
		if (!g || !g->device || !parse_bytes(&line, g->addr, sizeof(g->addr)))
			return -1;
	}
	return 0;
}

/* "0100007F:0035", or four words before the colon */
static bool parse_address(struct scan *s, int *family, uint8_t *addr, uint16_t *port)
{
	struct scan word, digits;
	uint64_t number;
	size_t n;

	if (!scan_word(s, &word))
		return false;
	digits = scan_until(&word, ':');
	n = SCAN_LEN(&digits);
	if ((n != 8 && n != 32) || !parse_hex(&word, &number) || number > UINT16_MAX)
		return false;
	*family = n == 8 ? AF_INET : AF_INET6;
	*port = (uint16_t)number;
	for (size_t i = 0; i < n / 8; i++) {
		struct scan part = { digits.p + 8 * i, digits.p + 8 * i + 8 };

		if (!parse_word(&part, addr + 4 * i))
			return false;
	}
	return true;
}

/* "   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 27157 2 00000000b1b1d7ad 0" */
static bool parse_socket(struct scan *line, struct proc_socket *k)
{
	struct scan word;
	uint64_t number;
	int peer_family;

	*k = (struct proc_socket){ 0 };
	if (!scan_word(line, &word) || !parse_address(line, &k->family, k->local, &k->local_port) ||
	    !parse_address(line, &peer_family, k->peer, &k->peer_port) || peer_family != k->family)
		return false;
	scan_blanks(line);
	if (!parse_hex(line, &number) || !scan_word(line, &word))
		return false;
	k->state = (uint8_t)number;
	scan_until(&word, ':');
	if (!parse_hex(&word, &number))
		return false;
	k->queued = (uint32_t)number;
	for (int i = 0; i < 4; i++)
		if (!scan_word(line, &word))
			return false;
	scan_blanks(line);
	return scan_u64(line, &k->ino);
}

int proc_parse_sockets(struct arena *a, const char *text, size_t len, struct proc_sockets *out)
{
	struct scan s = SCAN(text, len), line;

	*out = (struct proc_sockets){ 0 };
	if (!scan_line(&s, &line))
		return -1;
	while (scan_line(&s, &line)) {
		struct proc_socket *k = ARRAY_ADD(a, &out->v);

		if (!k || !parse_socket(&line, k))
			return -1;
	}
	return 0;
}
