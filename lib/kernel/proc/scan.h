/* SPDX-License-Identifier: MIT */
/*
 * A cursor over text that is not NUL-terminated, and the few steps that the parsers of /proc are made of. A step that
 * does not find what it wants returns false; numbers that do not fit are not found. Written by hand because smaps of a
 * large process is tens of megabytes, where sscanf() would take longer than the kernel.
 */
#ifndef CKPT_KERNEL_PROC_SCAN_H
#define CKPT_KERNEL_PROC_SCAN_H

#include "lib/base/base.h"

struct scan {
	const char *p, *end;
};

#define SCAN(text, len) ((struct scan){ (text), (text) + (len) })
#define SCAN_LEN(s) ((size_t)((s)->end - (s)->p))

static inline bool scan_end(const struct scan *s)
{
	return s->p >= s->end;
}

/* The next line, without its newline. False at the end of the text. */
static inline bool scan_line(struct scan *s, struct scan *line)
{
	const char *nl;

	if (scan_end(s))
		return false;
	nl = memchr(s->p, '\n', SCAN_LEN(s));
	line->p = s->p;
	line->end = nl ? nl : s->end;
	s->p = nl ? nl + 1 : s->end;
	return true;
}

static inline void scan_blanks(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t'))
		s->p++;
}

static inline bool scan_char(struct scan *s, char c)
{
	if (scan_end(s) || *s->p != c)
		return false;
	s->p++;
	return true;
}

static inline bool scan_lit_n(struct scan *s, const char *lit, size_t n)
{
	if (SCAN_LEN(s) < n || memcmp(s->p, lit, n) != 0)
		return false;
	s->p += n;
	return true;
}
/* The literal string @lit. */
#define scan_lit(s, lit) scan_lit_n((s), "" lit, sizeof(lit) - 1)

/* Up to @stop (which is skipped) or to the end. */
static inline struct scan scan_until(struct scan *s, char stop)
{
	const char *q = scan_end(s) ? NULL : memchr(s->p, stop, SCAN_LEN(s));
	struct scan out = { s->p, q ? q : s->end };

	s->p = q ? q + 1 : s->end;
	return out;
}

/* The next run of characters that are not blank, after blanks. False if there is none. */
static inline bool scan_word(struct scan *s, struct scan *word)
{
	scan_blanks(s);
	word->p = s->p;
	while (s->p < s->end && *s->p != ' ' && *s->p != '\t')
		s->p++;
	word->end = s->p;
	return word->p < word->end;
}

static inline bool scan_is(const struct scan *s, const char *word)
{
	size_t n = strlen(word);

	return SCAN_LEN(s) == n && memcmp(s->p, word, n) == 0;
}

static inline int scan_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 99;
}

static inline bool scan_number(struct scan *s, unsigned base, uint64_t *out)
{
	const char *p = s->p;
	uint64_t v = 0;

	for (; p < s->end && scan_digit(*p) < base; p++) {
		uint64_t d = (uint64_t)scan_digit(*p);

		if (v > (UINT64_MAX - d) / base)
			return false;
		v = v * base + d;
	}
	if (p == s->p)
		return false;
	s->p = p;
	*out = v;
	return true;
}

/* The same for base 16, where a shift is enough: this one is hot. */
static inline bool scan_hex(struct scan *s, uint64_t *out)
{
	const char *p = s->p;
	uint64_t v = 0;
	int d;

	for (; p < s->end && (d = scan_digit(*p)) < 16; p++) {
		if (v >> 60)
			return false;
		v = v << 4 | (uint64_t)d;
	}
	if (p == s->p)
		return false;
	s->p = p;
	*out = v;
	return true;
}

static inline bool scan_u64(struct scan *s, uint64_t *out)
{
	return scan_number(s, 10, out);
}

static inline bool scan_u32(struct scan *s, unsigned base, uint32_t *out)
{
	uint64_t v;

	if (!scan_number(s, base, &v) || v > UINT32_MAX)
		return false;
	*out = (uint32_t)v;
	return true;
}

static inline bool scan_s64(struct scan *s, int64_t *out)
{
	bool minus = scan_char(s, '-');
	uint64_t v;

	if (!scan_number(s, 10, &v) || v > (uint64_t)INT64_MAX + minus)
		return false;
	*out = minus ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

static inline bool scan_int(struct scan *s, int *out)
{
	int64_t v;

	if (!scan_s64(s, &v) || v < INT32_MIN || v > INT32_MAX)
		return false;
	*out = (int)v;
	return true;
}

/* Copies into a fixed buffer; what does not fit is cut. */
static inline void scan_copy(const struct scan *s, char *buf, size_t n)
{
	size_t len = MIN(SCAN_LEN(s), n - 1);

	memcpy(buf, s->p, len);
	buf[len] = 0;
}

#endif
