/* SPDX-License-Identifier: MIT */
/* Resources from outside: --external names them at dump, --inherit-fd gives descriptors for them at restore. */
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

bool external_wanted(const struct op *op, const char *key)
{
	for (size_t i = 0; i < op->opts->external.n; i++)
		if (strcmp(op->opts->external.v[i], key) == 0)
			return true;
	return false;
}

/* "fd[N]:KEY"; the key, or NULL */
static const char *inherit_parse(const char *text, int *fd)
{
	char *end;
	long n;

	if (strncmp(text, "fd[", 3) != 0 || text[3] < '0' || text[3] > '9')
		return NULL;
	errno = 0;
	n = strtol(text + 3, &end, 10);
	if (errno || n > INT32_MAX || strncmp(end, "]:", 2) != 0 || !end[2])
		return NULL;
	*fd = (int)n;
	return end + 2;
}

int inherit_check(struct op *op)
{
	for (size_t i = 0; i < op->opts->inherit_fd.n; i++) {
		const char *text = op->opts->inherit_fd.v[i];
		int fd;

		if (!inherit_parse(text, &fd))
			return op_fail(op, CKPT_E_INVAL, AT(.hint = "the form is fd[N]:KEY"),
				       "--inherit-fd %s: not understood", text);
		if (fcntl(fd, F_GETFD) < 0)
			return op_fail(op, CKPT_E_INVAL, AT(AT_FD(fd)), "--inherit-fd %s: descriptor %d is not open", text,
				       fd);
	}
	return 0;
}

int inherit_find(const struct op *op, const char *key)
{
	for (size_t i = 0; i < op->opts->inherit_fd.n; i++) {
		const char *given;
		int fd;

		given = inherit_parse(op->opts->inherit_fd.v[i], &fd);
		if (given && strcmp(given, key) == 0)
			return fd;
	}
	return -1;
}
