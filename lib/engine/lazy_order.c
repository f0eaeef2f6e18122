/* SPDX-License-Identifier: MIT */
/*
 * The order in which a start touched its pages: a text of our own in the images folder, "ckpt-faults". After a line that
 * says what it is, each line has a task and the address of a page. It only says what is worth bringing first: whatever is in
 * it, no page is brought that is not in the checkpoint, and none is forgotten.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/engine/lazy.h"

#define HEAD "ckpt-faults 1\n"
#define MAX_FILE (256u << 20)
#define LINE 48

static bool number(const char **s, const char *end, unsigned base, uint64_t max, uint64_t *ret)
{
	const char *from = *s;
	uint64_t n = 0;

	for (; *s < end; (*s)++) {
		unsigned c = (unsigned char)**s, digit;

		digit = c - '0' < 10 ? c - '0' : (c | 32) - 'a' + 10;
		if (digit >= base || (c - '0' >= 10 && (c | 32) - 'a' > 5))
			break;
		if (n > (max - digit) / base)
			return false;
		n = n * base + digit;
	}
	*ret = n;
	return *s > from;
}

int lazy_order_parse(struct arena *a, const char *text, size_t n, struct lazy_order *ret, const char **why)
{
	const char *s = text, *end = text + n;

	if (n < strlen(HEAD) || memcmp(text, HEAD, strlen(HEAD)) != 0) {
		*why = "it is no list of first touches";
		return CKPT_E_IMAGE;
	}
	for (s += strlen(HEAD); s < end;) {
		struct lazy_touch *t;
		uint64_t pid, addr;

		*why = "a line is not a task and an address";
		if (!number(&s, end, 10, INT32_MAX, &pid) || s == end || *s++ != ' ' || !number(&s, end, 16, 1ull << 47, &addr) || s == end ||
		    *s++ != '\n')
			return CKPT_E_IMAGE;
		t = ARRAY_ADD(a, &ret->v);
		if (!t)
			return CKPT_E_NOMEM;
		*t = (struct lazy_touch){ (pid_t)pid, ALIGN_DOWN(addr, PAGE_SIZE) };
	}
	return 0;
}

int lazy_order_read(struct op *op, int dir, struct lazy_order **ret)
{
	_cleanup_close_ int fd = openat(dir, LAZY_ORDER_FILE, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct lazy_order *o = op_new(op, struct lazy_order);
	_cleanup_free_ char *text = NULL;
	const char *why = "it cannot be read";
	struct stat st;
	int r = CKPT_E_IMAGE;

	*ret = NULL;
	if (!o)
		return CKPT_E_NOMEM;
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MAX_FILE) {
		text = malloc((size_t)st.st_size + 1);
		if (text && pread(fd, text, (size_t)st.st_size, 0) == st.st_size)
			r = lazy_order_parse(op->arena, text, (size_t)st.st_size, o, &why);
	}
	if (r)
		log_warn(op, "%s is not used: %s", LAZY_ORDER_FILE, why);
	else
		*ret = o;
	return 0;
}

int lazy_order_write(struct op *op, int dir, const char *path, const struct lazy_order *o)
{
	_cleanup_free_ char *temp = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	int fd;

	if (asprintf(&temp, "%s.tmp", path) < 0)
		return op_nomem(op);
	fd = openat(dir, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	f = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!f)
		return op_errno(op, errno, NULL, "create %s", temp);
	fputs(HEAD, f);
	for (size_t i = 0; i < o->v.n; i++)
		fprintf(f, "%d %lx\n", o->v.v[i].pid, o->v.v[i].addr);
	if (fflush(f) != 0 || renameat(dir, temp, dir, path) < 0) {
		int eno = errno;

		unlinkat(dir, temp, 0);
		return op_errno(op, eno, NULL, "write %s", path);
	}
	return 0;
}
