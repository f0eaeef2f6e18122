/* SPDX-License-Identifier: MIT */
/* Values of properties, from their files and to them. */
#include <fcntl.h>

#include "lib/state/cgroup/core.h"

int cg_read_value(struct op *op, int fd, const char *name, char **value)
{
	char buf[4096], *text = buf;
	_cleanup_free_ char *more = NULL;
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

	*value = NULL;
	if (n == (ssize_t)sizeof(buf) - 1) { /* devices */
		size_t at = 0;

		text = more = malloc(CG_VALUE_MAX);
		if (!more)
			return op_nomem(op);
		while ((n = pread(fd, more + at, CG_VALUE_MAX - 1 - at, (off_t)at)) > 0)
			at += (size_t)n;
		n = n < 0 ? n : (ssize_t)at;
	}
	if (n < 0 || memchr(text, '\0', (size_t)n))
		return 0;
	text[n] = '\0';
	cg_prop_normalize(name, text);
	*value = arena_strdup(op->arena, text);
	return *value ? 0 : op_nomem(op);
}

int cg_value(struct op *op, int dir, const char *name, char **value)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	*value = NULL;
	return fd < 0 ? 0 : cg_read_value(op, fd, name, value);
}

static int write_to(int fd, const char *text, size_t n)
{
	ssize_t done = write(fd, text, n);

	if (done >= 0 && done != (ssize_t)n)
		errno = EIO;
	return done == (ssize_t)n ? 0 : -1;
}

static int write_plain(int dir, const char *name, const char *value)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -1 : write_to(fd, value, strlen(value));
}

/* Calls @fn for each line that is not empty. */
static int each_line(const char *text, char end, int (*fn)(void *arg, const char *line, size_t n), void *arg)
{
	int r = 0;

	while (*text && !r) {
		const char *stop = strchr(text, end) ?: text + strlen(text);

		if (stop > text)
			r = fn(arg, text, (size_t)(stop - text));
		text = *stop ? stop + 1 : stop;
	}
	return r;
}

static int write_line(void *arg, const char *line, size_t n)
{
	return write_to(*(int *)arg, line, n);
}

/* What is allowed can only be added to: all is denied first. */
static int write_devices(int dir, const char *value)
{
	_cleanup_close_ int allow = -1;

	if (write_plain(dir, "devices.deny", "a") < 0)
		return -1;
	allow = openat(dir, "devices.allow", O_WRONLY | O_CLOEXEC);
	return allow < 0 ? -1 : each_line(value, '\n', write_line, &allow);
}

/* "lo 0": nothing was set for this device. */
static int write_priority(void *arg, const char *line, size_t n)
{
	if (n > 2 && !memcmp(line + n - 2, " 0", 2))
		return 0;
	return write_to(*(int *)arg, line, n);
}

static int write_priorities(int dir, const char *name, const char *value)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -1 : each_line(value, '\n', write_priority, &fd);
}

struct tokens {
	int fd;
	char sign;
	const char *but; /* not those that are in this list */
};

static int write_token(void *arg, const char *word, size_t n)
{
	const struct tokens *t = arg;
	char text[64];
	size_t len = (size_t)snprintf(text, sizeof(text), "%c%.*s", t->sign, (int)n, word);

	for (const char *at = t->but; (at = strstr(at, text + 1)); at += n)
		if ((at == t->but || at[-1] == ' ') && (!at[n] || at[n] == ' '))
			return 0;
	return len < sizeof(text) ? write_to(t->fd, text, len) : (errno = EINVAL, -1);
}

static int write_controllers(struct op *op, int dir, const char *name, const char *value, bool exact)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDWR | O_CLOEXEC);
	char *now = NULL;
	int r;

	if (fd < 0)
		return -1;
	if (cg_read_value(op, fd, name, &now) || !now) {
		op_forget(op);
		now = "";
	}
	r = each_line(value, ' ', write_token, &(struct tokens){ fd, '+', now });
	return r || !exact ? r : each_line(now, ' ', write_token, &(struct tokens){ fd, '-', value });
}

int cg_write_value(struct op *op, int dir, const char *name, const char *value, bool exact)
{
	if (!strcmp(name, "devices.list"))
		return write_devices(dir, value);
	if (!strcmp(name, "net_prio.ifpriomap"))
		return write_priorities(dir, name, value);
	if (!strcmp(name, "cgroup.subtree_control"))
		return write_controllers(op, dir, name, value, exact);
	/* One without a value is written as an empty line: an empty write is none. */
	return write_plain(dir, name, *value ? value : "\n");
}
