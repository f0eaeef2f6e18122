/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the parsers of /proc share: an arena as their state, and texts in buffers of their exact size. It is
 * included after cmocka.h and proc.h.
 */
#ifndef CKPT_TESTS_PROC_TEXT_H
#define CKPT_TESTS_PROC_TEXT_H

struct text {
	char *p;
	size_t n;
};

static int setup(void **state)
{
	*state = arena_new();
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	arena_free(*state);
	return 0;
}

/* A buffer of exactly @n bytes, so that a sanitizer sees a read past it. */
static struct text text_of(const char *p, size_t n)
{
	struct text t = { malloc(n ? n : 1), n };

	assert_non_null(t.p);
	memcpy(t.p, p, n);
	return t;
}

static struct text load(const char *name)
{
	char path[512], buf[64 << 10];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/tests/unit/fixtures/proc/%s", CKPT_SOURCE_DIR, name);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	assert_true(n > 0 && n < sizeof(buf));
	return text_of(buf, n);
}

#define CLEAN _cleanup_(text_done)
static void text_done(struct text *t)
{
	free(t->p);
}

#endif
