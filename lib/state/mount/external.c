/* SPDX-License-Identifier: MIT */
/*
 * External mounts: what they show belongs to somebody outside. The image has a key instead, and who restores says what the
 * key stands for. Keys and places may have any characters, so options are not divided, but compared with what is asked for.
 */
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/mount/core.h"
#include "lib/state/msg.h"

/* What follows @name in "mnt[NAME]:REST" or "NAME:REST"; NULL: it is another one. */
static const char *rest_of(const char *option, const char *name, bool brackets)
{
	size_t n = strlen(name);

	if (brackets && strncmp(option, "mnt[", 4) != 0)
		return NULL;
	option += brackets ? 4 : 0;
	if (strncmp(option, name, n) != 0)
		return NULL;
	option += n;
	if (brackets && *option++ != ']')
		return NULL;
	return *option == ':' ? option + 1 : NULL;
}

static const char *find_option(const struct op *op, const char *name)
{
	const struct ckpt_strv *ext = &op->opts->external, *map = &op->opts->ext_mount_map;
	const char *rest = NULL;

	for (size_t i = 0; i < map->n && !rest; i++)
		rest = rest_of(map->v[i], name, false);
	for (size_t i = 0; i < ext->n && !rest; i++)
		rest = rest_of(ext->v[i], name, true);
	return rest;
}

bool mnt_ext_auto(const struct op *op, char flag)
{
	const struct ckpt_strv *ext = &op->opts->external, *map = &op->opts->ext_mount_map;

	for (size_t i = 0; i < ext->n; i++) {
		if (!flag && strcmp(ext->v[i], "mnt[]") == 0)
			return true;
		if (strncmp(ext->v[i], "mnt[]:", 6) == 0 && (!flag || strchr(ext->v[i] + 6, flag)))
			return true;
	}
	for (size_t i = 0; !flag && i < map->n; i++)
		if (strcmp(map->v[i], "auto") == 0)
			return true;
	return false;
}

/* ---------------------------------------------------------------------------------------------------- dump */

static bool covered(const struct mnt *m)
{
	for (size_t i = 0; i < m->children.n; i++)
		if (strcmp(m->children.v[i]->e->mountpoint, m->e->mountpoint) == 0)
			return true;
	return false;
}

static uint32_t dev_of(const struct proc_mount *p)
{
	return p->dev_major << 20 | p->dev_minor;
}

/* Where we have the same; NULL: nowhere. */
static const char *find_here(struct op *op, const struct mount_state *st, const struct mnt *m)
{
	const char *best = NULL, *rest = NULL;

	for (size_t i = st->here->v.n; i > 0 && !best; i--) {
		const struct proc_mount *p = &st->here->v.v[i - 1];

		if (dev_of(p) != m->e->root_dev)
			continue;
		rest = strcmp(m->e->root, p->root) == 0 ? "" : mnt_below(m->e->root, p->root);
		best = rest ? p->mountpoint : NULL;
	}
	if (!best || !*rest)
		return best;
	return arena_printf(op->arena, "%s/%s", strcmp(best, "/") ? best : "", rest);
}

static bool same_file(const struct mnt *m, const char *path)
{
	struct stat there, here;

	return view_lstat(&m->ns->view, m->e->mountpoint, &there) == 0 && lstat(path, &here) == 0 &&
	       there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

/* It listens to mounts outside: only what is external can do that again. */
static bool listens(const struct mount_state *st, const struct mnt *m)
{
	for (size_t i = 0; m->e->master_id && i < st->all.n; i++)
		if (st->all.v[i]->e->shared_id == m->e->master_id)
			return false;
	return m->e->master_id;
}

/* A file system that we see, too, and that is neither the kernel's nor that of the root. */
static void detect(struct op *op, struct mount_state *st, struct mnt *m)
{
	const struct mnt *root = st->nss.v[0]->root;
	const char *path;

	if (!listens(st, m) && ((m->fs->traits & MNT_FS_KERNELS && strcmp(m->e->root, "/") == 0) ||
				(m->e->root_dev == root->e->root_dev && mnt_below(m->e->root, root->e->root))))
		return;
	path = find_here(op, st, m);
	if (!path || !same_file(m, path))
		return;
	log_info(op, "%s is external: here it is %s", mnt_name(op, m), path);
	m->e->ext_key = MNT_EXT_AUTO;
	m->e->source = (char *)path;
	m->ext_path = path;
	m->auto_ext = true;
}

static bool shared_here(const struct mount_state *st, uint32_t id)
{
	for (size_t i = 0; i < st->here->v.n; i++)
		if ((uint32_t)st->here->v.v[i].shared_id == id)
			return true;
	return false;
}

/* Nobody sees what would be mounted on a hidden one, and there is no way to it by which it could be external. */
static void forget_master(struct op *op, const struct mount_state *st, struct mnt *m)
{
	if (m->e->shared_id || !m->parent || !listens(st, m) || !mnt_hidden(m))
		return;
	log_info(op, "%s is hidden, and will no longer be a slave of mounts outside", mnt_name(op, m));
	m->e->has_master_id = false;
	m->e->master_id = 0;
	m->e->flags &= ~(uint32_t)MS_SLAVE;
}

int mnt_ext_dump(struct op *op, struct mount_state *st)
{
	bool autos = mnt_ext_auto(op, 0);

	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i];
		const char *key = m->parent && !covered(m) ? find_option(op, m->e->mountpoint) : NULL;

		forget_master(op, st, m);
		if (key && !*key)
			return op_fail(op, CKPT_E_INVAL, MNT_AT("say --external mnt[PLACE]:KEY"), "%s is to be external, but has no key",
				       mnt_name(op, m));
		if (key) {
			m->e->ext_key = (char *)key;
			m->ext_path = "";
		} else if (autos && m->parent && !covered(m)) {
			detect(op, st, m);
		}
		if (m->ext_path && m->e->shared_id && !shared_here(st, m->e->shared_id))
			msg_set(m->e, internal_sharing, 1);
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------- restore */

int mnt_ext_restore(struct op *op, struct mount_state *st)
{
	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i];
		const char *key = m->e->has_ext_mount && m->e->ext_mount ? m->e->root : m->e->ext_key;

		if (!key)
			continue;
		if (strcmp(key, MNT_EXT_DEVICE) == 0)
			return op_fail(op, CKPT_E_UNSUPPORTED,
				       MNT_AT("mount the device, and dump the mount as --external mnt[PLACE]:KEY"),
				       "%s is of an external device", mnt_name(op, m));
		if (strcmp(key, MNT_EXT_AUTO) != 0) {
			m->ext_path = find_option(op, key);
			if (!m->ext_path)
				return op_fail(op, CKPT_E_INVAL,
					       MNT_AT(arena_printf(op->arena, "give it with --external 'mnt[%s]:PATH'", key)),
					       "%s is external, and nothing is said of its key %s", mnt_name(op, m), key);
		} else if (!mnt_ext_auto(op, 0)) {
			return op_fail(op, CKPT_E_INVAL, MNT_AT("restore with --external 'mnt[]'"),
				       "%s was found to be external by the dump", mnt_name(op, m));
		} else {
			m->ext_path = m->e->source;
			m->auto_ext = true;
		}
		if (m->auto_ext && m->ext_path[0] != '/')
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "mount"), "%s has no place outside", mnt_name(op, m));
	}
	return 0;
}
