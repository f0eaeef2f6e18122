// SPDX-License-Identifier: MIT
/* What fdinfo says of an io_uring: counters, then lists, whose lines are indented. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

enum { COUNTERS = 8 }; /* what must be there */

/* "\040" and the like, as the kernel writes blanks in paths. In place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++, to++) {
		*to = *s;
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
			*to = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		}
	}
	*to = 0;
}

/* "    2: /etc/passwd" */
static bool parse_file(struct arena *a, struct scan *s, struct proc_uring *out)
{
	struct proc_uring_file *f = ARRAY_ADD(a, &out->files);
	char *path;

	if (!f || !scan_u32(s, 10, &f->slot) || !scan_char(s, ':'))
		return false;
	scan_blanks(s);
	path = arena_strndup(a, s->p, SCAN_LEN(s));
	if (!path)
		return false;
	unescape(path);
	f->path = path;
	return true;
}

/* "    0: 0x557d9f2fa2b0/5000", "    1: <none>" */
static bool parse_buf(struct arena *a, struct scan *s, struct proc_uring *out)
{
	struct proc_uring_buf buf = { 0 }, *slot;

	if (!scan_u32(s, 10, &buf.slot) || !scan_char(s, ':'))
		return false;
	scan_blanks(s);
	if (scan_lit(s, "<none>"))
		return true;
	if (!scan_lit(s, "0x") || !scan_hex(s, &buf.addr) || !scan_char(s, '/') || !scan_u64(s, &buf.len))
		return false;
	slot = ARRAY_ADD(a, &out->bufs);
	if (slot)
		*slot = buf;
	return slot;
}

static uint32_t *counter(struct proc_uring *u, const struct scan *key)
{
	const struct {
		const char *name;
		uint32_t *at;
	} all[] = {
		{ "SqHead", &u->sq_head }, { "SqTail", &u->sq_tail }, { "CachedSqHead", &u->cached_sq_head },
		{ "CqHead", &u->cq_head }, { "CqTail", &u->cq_tail }, { "CachedCqTail", &u->cached_cq_tail },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (scan_is(key, all[i].name))
			return all[i].at;
	return NULL;
}

static bool parse_mask(struct scan *s, uint32_t *mask)
{
	return scan_lit(s, "0x") && scan_u32(s, 16, mask);
}

/* A line of a list, under @section. */
static bool parse_item(struct arena *a, const struct scan *section, struct scan *line, struct proc_uring *out)
{
	if (scan_is(section, "UserFiles"))
		return parse_file(a, line, out);
	if (scan_is(section, "UserBufs"))
		return parse_buf(a, line, out);
	if (scan_is(section, "PollList"))
		out->polls++;
	else if (scan_is(section, "CqOverflowList"))
		out->overflows++;
	else if (scan_is(section, "SQEs"))
		out->sqe_lines++;
	return true;
}

/* Whether the line that was an item has the words that only large entries have. */
static void note_width(const struct scan *section, const struct scan *line, struct proc_uring *out)
{
	if (scan_is(section, "SQEs"))
		out->big_sqes = out->big_sqes || memmem(line->p, SCAN_LEN(line), ", e0:0x", 7);
	else if (scan_is(section, "CQEs"))
		out->big_cqes = out->big_cqes || memmem(line->p, SCAN_LEN(line), ", extra1:", 9);
}

static bool parse_key(const struct scan *key, struct scan *line, struct proc_uring *out, unsigned *seen)
{
	uint32_t *at = counter(out, key);

	if (at) {
		++*seen;
		return scan_u32(line, 10, at);
	}
	if (scan_is(key, "SqMask")) {
		++*seen;
		return parse_mask(line, &out->sq_mask);
	}
	if (scan_is(key, "CqMask")) {
		++*seen;
		return parse_mask(line, &out->cq_mask);
	}
	if (scan_is(key, "SqThread"))
		return scan_int(line, &out->sq_thread);
	if (scan_is(key, "UserFiles"))
		return scan_u32(line, 10, &out->n_files);
	if (scan_is(key, "UserBufs"))
		return scan_u32(line, 10, &out->n_bufs);
	if (scan_is(key, "Personalities"))
		out->personalities = true;
	else if (scan_is(key, "NAPI"))
		out->napi = !scan_is(line, "disabled");
	return true;
}

int proc_parse_uring(struct arena *a, const char *text, size_t len, struct proc_uring *out)
{
	struct scan s = SCAN(text, len), line, section = SCAN(text, 0);
	unsigned seen = 0;

	memset(out, 0, sizeof(*out));
	out->sq_thread = -1;
	while (scan_line(&s, &line)) {
		bool item = SCAN_LEN(&line) && *line.p == ' ', ok;

		if (item) {
			note_width(&section, &line, out);
			scan_blanks(&line);
			ok = parse_item(a, &section, &line, out);
		} else {
			section = scan_until(&line, ':');
			scan_blanks(&line);
			ok = parse_key(&section, &line, out, &seen);
		}
		if (!ok)
			return -1;
	}
	return seen == COUNTERS ? 0 : -1;
}
