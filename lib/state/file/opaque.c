/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that look harmless, and have something that the kernel shows to nobody:
 * - pressure files open for writing: that is how a trigger is set, and its threshold cannot be read back;
 * - O_PATH descriptors of what has no name (a pipe, a socket): nothing leads to it but another descriptor.
 */
#include "lib/state/file/core.h"

#define FS_CGROUP 0x27e0ebu
#define FS_CGROUP2 0x63677270u

static bool ends_in(const char *s, const char *tail)
{
	size_t n = strlen(s), m = strlen(tail);

	return n >= m && strcmp(s + n - m, tail) == 0;
}

static bool may_have_trigger(const struct fd_view *v)
{
	if (v->info.flags & O_PATH || (v->info.flags & O_ACCMODE) == O_RDONLY)
		return false;
	if (v->fs_magic == FS_PROC)
		return strstr(v->link, "/pressure/") != NULL;
	return (v->fs_magic == FS_CGROUP || v->fs_magic == FS_CGROUP2) &&
	       (ends_in(v->link, ".pressure") || ends_in(v->link, "/cgroup.event_control"));
}

static bool is_nameless(const struct fd_view *v)
{
	return v->fd >= 0 && v->info.flags & O_PATH && v->link[0] != '/' && v->link[0] != '(' && v->fs_magic != FS_NSFS;
}

static bool opaque_match(const struct fd_view *v)
{
	return may_have_trigger(v) || is_nameless(v);
}

static int opaque_check(struct op *op, const struct fd_view *v)
{
	if (is_nameless(v))
		return file_refuse(op, v, "O_PATH descriptor", "the program must close it before the checkpoint",
				   "%s has no name by which it can be opened again", v->link);
	return file_refuse(op, v, "pressure trigger", "the program must close it before the checkpoint",
			   "%s is open for writing: what trigger was set by it is shown to nobody", v->link);
}

static int opaque_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	(void)s;
	(void)f;
	return opaque_check(op, v);
}

const struct file_kind file_opaque = {
	.name = "opaque",
	.type = FD_TYPES__UND,
	.match = opaque_match,
	.check = opaque_check,
	.dump = opaque_dump,
};
