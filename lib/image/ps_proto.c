// SPDX-License-Identifier: MIT
#include "lib/image/ps_proto.h"

/* No address of a program is above, with five levels of page tables; a file could be, but no memory. */
#define END_MAX (1ull << 57)
#define PID_MAX (1u << 22)

const char *ps_name(enum ps_command cmd)
{
	switch (cmd) {
	case PS_ADD:
		return "ADD";
	case PS_HOLE:
		return "HOLE";
	case PS_OPEN:
		return "OPEN";
	case PS_OPEN2:
		return "OPEN2";
	case PS_PARENT:
		return "PARENT";
	case PS_ADD_F:
		return "ADD_F";
	case PS_GET:
		return "GET";
	case PS_CLOSE:
		return "CLOSE";
	case PS_FORCE_CLOSE:
		return "FORCE_CLOSE";
	}
	return "?";
}

struct ps_wire ps_make(enum ps_command cmd, uint32_t flags, uint64_t dst_id, uint64_t start, uint64_t n_pages)
{
	return (struct ps_wire){ .cmd = (uint32_t)cmd | flags << 16, .nr_pages = n_pages, .vaddr = start, .dst_id = dst_id };
}

/* Old releases told more than task and shared memory apart. */
static uint32_t type_of(uint8_t type)
{
	switch (type) {
	case 1:
	case 10:
	case 11:
	case 16:
	case 17:
		return PS_TASK;
	case 2:
	case 27:
	case 28:
	case 29:
	case 32:
	case 33:
	case 34:
		return PS_SHMEM;
	default:
		return 0;
	}
}

static const char *parse_dst(uint64_t dst_id, struct ps_request *r)
{
	r->type = type_of(dst_id & 0xff);
	if (!r->type)
		return "it names memory of an unknown type";
	if (dst_id >> 8 > UINT32_MAX)
		return "the number of the memory it names is too large";
	r->id = (uint32_t)(dst_id >> 8);
	if (r->type == PS_TASK && (r->id == 0 || r->id > PID_MAX))
		return "it names a process by a number that none can have";
	return NULL;
}

static const char *parse_range(const struct ps_wire *w, struct ps_request *r)
{
	uint64_t end;

	if (w->vaddr % PAGE_SIZE)
		return "its address is not that of a page";
	if (w->nr_pages == 0)
		return "it has no pages";
	if (__builtin_mul_overflow(w->nr_pages, (uint64_t)PAGE_SIZE, &end) || __builtin_add_overflow(w->vaddr, end, &end) ||
	    end > END_MAX)
		return "its pages are beyond any address";
	r->start = w->vaddr;
	r->n_pages = w->nr_pages;
	return NULL;
}

static const char *check_flags(uint32_t flags)
{
	if (flags & ~(uint32_t)PS_F_ALL)
		return "it has flags that are not known";
	if (!(flags & PS_F_ALL))
		return "it does not say where its pages are";
	if ((flags & PS_F_PRESENT) && (flags & PS_F_PARENT))
		return "its pages are both with it and in the parent";
	return NULL;
}

static const char *parse_add(const struct ps_wire *w, uint32_t flags, struct ps_request *r)
{
	r->cmd = PS_ADD_F;
	r->flags = flags;
	return check_flags(flags) ?: parse_dst(w->dst_id, r) ?: parse_range(w, r);
}

const char *ps_parse(const struct ps_wire *w, struct ps_request *r)
{
	*r = (struct ps_request){ .cmd = (enum ps_command)(w->cmd & 0xffff) };
	switch ((uint32_t)r->cmd) {
	case PS_ADD:
		return parse_add(w, PS_F_PRESENT, r);
	case PS_HOLE:
		return parse_add(w, PS_F_PARENT, r);
	case PS_ADD_F:
		return parse_add(w, w->cmd >> 16, r);
	case PS_OPEN:
	case PS_OPEN2:
	case PS_PARENT:
		return parse_dst(w->dst_id, r);
	case PS_GET:
		r->type = PS_TASK;
		if (w->dst_id == 0 || w->dst_id > PID_MAX)
			return "it names a process by a number that none can have";
		r->id = (uint32_t)w->dst_id;
		return parse_range(w, r);
	case PS_CLOSE:
	case PS_FORCE_CLOSE:
		return NULL;
	}
	return "it is no command";
}

/* The first command of a session names memory and no pages. */
static bool opens(uint32_t cmd)
{
	return cmd == PS_OPEN || cmd == PS_OPEN2 || cmd == PS_PARENT;
}

static bool known(uint32_t cmd)
{
	return (cmd >= PS_ADD && cmd <= PS_GET) || cmd == PS_CLOSE || cmd == PS_FORCE_CLOSE;
}

const char *ps_foreign(const struct ps_wire *w, size_t n)
{
	const uint8_t *b = (const uint8_t *)w;

	if (n >= 3 && b[0] == 0x16 && b[1] == 3 && b[2] <= 4)
		return "the peer speaks TLS";
	if (n >= 4 && (opens(__builtin_bswap32(w->cmd)) || __builtin_bswap32(w->cmd) == PS_CLOSE))
		return "the peer has the other byte order";
	if (n >= 4 && !known(w->cmd & 0xffff))
		return "the peer sends what is no command";
	/* There, the number of pages has the place of our padding, and dst_id that of our address. */
	if (n >= PS_OLD_SIZE && opens(w->cmd & 0xffff) && w->padding == 0 && w->nr_pages == 0 && w->vaddr != 0)
		return "the peer sends commands of 24 bytes, as releases up to 4.1 of the format's engine do";
	return NULL;
}
