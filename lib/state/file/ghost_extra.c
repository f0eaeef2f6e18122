/* SPDX-License-Identifier: MIT */
/*
 * What the format has no place for of a deleted file: extended attributes (access control lists are two of them) and the
 * nanoseconds of its times. They go to our own file beside the images.
 */
#include <sys/xattr.h>

#include "lib/state/file/core.h"

#define NAMES_MAX 65536 /* the kernel's limits of a list, and of a value */
#define VALUE_MAX 65536

/* The name under which the system calls for attributes reach @copy, which may be an O_PATH descriptor. */
static void own_name(int copy, char name[64])
{
	snprintf(name, 64, "/proc/self/fd/%d", copy);
}

static int add_xattr(struct op *op, GhostExtraEntry *m, const char *name, const void *value, size_t len)
{
	GhostXattrEntry *x = op_new(op, GhostXattrEntry);

	if (!x)
		return CKPT_E_NOMEM;
	ghost_xattr_entry__init(x);
	x->name = arena_strdup(op->arena, name);
	x->value.data = op_alloc(op, len + 1);
	if (!x->name || !x->value.data)
		return op_nomem(op);
	memcpy(x->value.data, value, len);
	x->value.len = len;
	m->xattrs[m->n_xattrs++] = x;
	return 0;
}

static int read_xattr(struct op *op, const struct fd_view *v, const char *path, GhostExtraEntry *m, const char *name)
{
	_cleanup_free_ char *value = malloc(VALUE_MAX);
	ssize_t n;

	if (!value)
		return op_nomem(op);
	n = getxattr(path, name, value, VALUE_MAX);
	if (n < 0 && errno == ENODATA)
		return 0;
	return n < 0 ? file_errno(op, v, "read an extended attribute") : add_xattr(op, m, name, value, (size_t)n);
}

static int read_xattrs(struct op *op, const struct fd_view *v, GhostExtraEntry *m)
{
	_cleanup_free_ char *names = malloc(NAMES_MAX);
	char path[64];
	size_t count = 0;
	ssize_t n;
	int r = 0;

	if (!names)
		return op_nomem(op);
	own_name(v->copy, path);
	n = listxattr(path, names, NAMES_MAX);
	if (n < 0 && (errno == EOPNOTSUPP || errno == EPERM))
		return 0;
	if (n < 0)
		return file_errno(op, v, "list the extended attributes");
	for (ssize_t i = 0; i < n; i++)
		count += names[i] == 0;
	m->xattrs = count ? op_alloc(op, count * sizeof(*m->xattrs)) : NULL;
	if (count && !m->xattrs)
		return CKPT_E_NOMEM;
	for (ssize_t i = 0; !r && i < n; i += (ssize_t)strlen(names + i) + 1)
		r = read_xattr(op, v, path, m, names + i);
	return r;
}

int ghost_extra_dump(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id)
{
	GhostExtraEntry *m = op_new(op, GhostExtraEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &s->file_state->ghost_extras) : NULL;
	if (!slot)
		return op_nomem(op);
	ghost_extra_entry__init(m);
	m->id = id;
	m->atime_nsec = (uint32_t)v->st.st_atim.tv_nsec;
	m->mtime_nsec = (uint32_t)v->st.st_mtim.tv_nsec;
	*slot = m;
	return read_xattrs(op, v, m);
}

/* ------------------------------------------------------------------------------------------- restore half */

const GhostExtraEntry *ghost_extra_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_ghosts; i++)
		if (s->extra->ghosts[i]->id == id)
			return s->extra->ghosts[i];
	return NULL;
}

/* Labels of the security module are those that new files get here, where the old ones are not allowed. */
static bool is_label(const char *name)
{
	return strncmp(name, "security.", 9) == 0 && strcmp(name, "security.capability") != 0;
}

int ghost_extra_apply(struct op *op, const struct snapshot *s, const struct snap_ghost *g, const char *own)
{
	const GhostExtraEntry *m = ghost_extra_of(s, g->id);

	for (size_t i = 0; m && i < m->n_xattrs; i++) {
		const GhostXattrEntry *x = m->xattrs[i];

		if (setxattr(own, x->name, x->value.data, x->value.len, 0) == 0)
			continue;
		if (!is_label(x->name))
			return op_errno(op, errno, AT(.kind = "deleted file"), "cannot set the attribute %s of %s", x->name, g->path);
		log_warn(op, "deleted file %s: its attribute %s cannot be set: %s", g->path, x->name, strerror(errno));
	}
	return 0;
}
