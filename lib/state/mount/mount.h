/* SPDX-License-Identifier: MIT */
/*
 * Mounts: the tree of mounts of each mount namespace of the tree's own. Without one, files are looked up where we look them
 * up ourselves, and there is nothing to be dumped.
 */
#ifndef CKPT_STATE_MOUNT_H
#define CKPT_STATE_MOUNT_H

#include "lib/state/ns/ns.h"
#include "lib/state/view.h"

/*
 * Where names of files on mount @mnt_id are looked up: the root of the mount namespace that has it. -1, or a mount that is in
 * none of them: that of the root task. Never NULL. From the end of mounts_dump_begin(), or of mounts_make().
 */
const struct fs_view *mounts_view(const struct snapshot *s, int32_t mnt_id);
/* Whether files carry the numbers of their mounts in the images: there is a mount namespace of the tree's own. */
bool mounts_own(const struct snapshot *s);
/* Dump: whether a file can be found again by its name: false where its mount is detached, or is in none of the namespaces. */
bool mounts_know(const struct snapshot *s, int32_t mnt_id);

/* ---- dump; host, all tasks frozen */
/* Reads the mounts of all namespaces, and opens their roots; refuses what cannot be restored. Before files are looked at. */
int mounts_dump_begin(struct op *op, struct snapshot *s);
/* mountpoints-*, and contents of file systems that live in memory. */
int mounts_dump_contents(struct op *op, struct snapshot *s); /* while the tree stands still */
int mounts_write(struct op *op, struct snapshot *s);

/* ---- restore */
int mounts_read(struct op *op, struct snapshot *s); /* and checks, also that everything external is given */
/* Fills the new mount namespaces: s->ns has their descriptors, nothing runs in them. A failure leaves nothing mounted outside. */
int mounts_make(struct op *op, struct snapshot *s);

/*
 * A terminal of which a mount shows the file (/dev/console) had to exist for that: the master side of number @index, of the
 * devpts that @mnt_id shows. -1: there is none. The caller's from then on, who closes it.
 */
int mounts_pty(struct snapshot *s, int32_t mnt_id, uint32_t index);

/* Dump and restore; never fails. */
void mounts_done(struct op *op, struct snapshot *s, bool success);

#endif
