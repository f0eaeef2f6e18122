/* SPDX-License-Identifier: MIT */
/*
 * What the files of this folder share. A mount is its message and where it stands: in the tree of its namespace, and among
 * those that show the same file system.
 *
 * A file system is made, or taken from outside, once: a base (bases.c). Every mount of it is a clone of a part of that. And
 * mounts that tell each other of what is mounted on them are a sharing group (groups.c), put together when all trees stand.
 */
#ifndef CKPT_STATE_MOUNT_CORE_H
#define CKPT_STATE_MOUNT_CORE_H

#include "lib/image/image.h"
#include "lib/state/mount/mount.h"

/* What there is to be known of a file system's kind: fstype.c. */
enum {
	MNT_FS_KERNELS = 1,   /* what is in it is the kernel's: it is mounted anew, whatever part of it was mounted */
	MNT_FS_SINGLE = 2,    /* there is one of it: options given at a mount would change it for the whole machine */
	MNT_FS_CONTENT = 4,   /* lives in memory: what is in it goes into the checkpoint */
	MNT_FS_LEFT_OUT = 8,  /* neither dumped nor refused */
	MNT_FS_EMPTY = 16,    /* there must be nothing in it */
	MNT_FS_LATE = 32,     /* its options name folders of the tree: mounted when those are there */
	MNT_FS_REFUSED = 64,
	MNT_FS_DEVICE = 128,  /* on a disk, or unknown: nothing that we could make */
};
struct mnt_fs {
	const char *name;
	uint32_t type; /* enum fstype of the images */
	unsigned traits;
};
/* By the kernel's name; never NULL: what is unknown is the row for UNSUPPORTED. */
const struct mnt_fs *mnt_fs_named(const char *name);
const struct mnt_fs *mnt_fs_of(uint32_t type); /* NULL: no such number */

struct mnt_base;
struct mnt_group;
struct mnt_ns;

/* Restore: a name of something deleted, which is there until it is mounted. */
struct mnt_made {
	int folder;
	const char *name;
	bool dir;
};

struct mnt {
	MntEntry *e;
	const struct mnt_fs *fs;
	const char *fsname; /* the kernel's; restore: NULL where the image does not say */
	struct mnt_ns *ns;
	struct mnt *parent; /* NULL: the root of the namespace */
	ARRAY(struct mnt *) children;
	struct mnt_base *base;
	struct mnt_group *group; /* NULL: private */
	const char *ext_path;	 /* restore: external, and this is where it comes from; dump: only whether */
	bool auto_ext;		 /* dump: it was found to be external */
	int fd;			 /* restore: a clone of the base that becomes this mount, and is it then; else -1 */
	int target;		 /* and the place on the parent where it belongs; else -1 */
	ARRAY(struct mnt_made) made; /* for it to be cloned from */
	bool placed;
};

/* A file system, or a part of it. */
struct mnt_base {
	enum { MNT_BASE_ROOT, MNT_BASE_EXT, MNT_BASE_NEW } kind; /* --root; from outside by a key; mounted anew */
	struct mnt *of;	  /* the first mount of it, whose options count */
	const char *root; /* what of the file system it shows: other mounts show the same or less */
	int fd;		  /* restore; -1 until it exists */
	int outside;	  /* restore: a clone that is still in the sharing group of where it came from; -1: there is none */
	unsigned slot;	  /* name of its place while trees are built */
	/* What is in it, open: an errand in a user namespace might not be allowed to. */
	struct img_out *out; /* dump */
	int archive;	     /* restore; -1 */
	uint64_t archive_at, archive_len;
};

struct mnt_group {
	uint32_t shared, master; /* 0: none */
	struct mnt_group *from;	 /* whose slaves they are; NULL: nobody's, or of somebody outside */
	bool sorted;
	bool outside;		 /* shared with, or slaves of, mounts outside of the tree: by way of @of */
	struct mnt *of;		 /* one of its mounts; whichever shows most */
	ARRAY(struct mnt *) v;
	int fd;			 /* restore: a mount that is a member and nothing else; -1 */
};

struct mnt_ns {
	struct snap_ns *ns;
	struct mnt *root;
	ARRAY(struct mnt *) v; /* dump: as in mountinfo */
	struct fs_view view;
};

/* A terminal of a devpts that had to exist for a mount of its file (/dev/console): the master side. */
struct mnt_pty {
	const struct mnt_base *base;
	uint32_t index;
	int fd;
};

struct mount_state {
	ARRAY(struct mnt_ns *) nss; /* the first is that of the root task, if that has one of its own */
	ARRAY(struct mnt *) all;    /* by number, after mnt_trees() */
	ARRAY(struct mnt_base *) bases;
	ARRAY(struct mnt_group *) groups;
	ARRAY(struct mnt_pty) ptys;
	struct mnt_ns joined;	    /* a mount namespace that is there already; its view is open */
	struct proc_mounts *here;   /* dump: mounts of our own namespace; NULL: not read yet */
	bool foreign;		    /* restore: the images were written by another engine */
	int proc;		    /* our /proc, for errands */
};

/* ---- flags.c: between words, bits of mount(2) and bits of mount_setattr(2) */
/* Per-mount options and propagation as the image has them; and those of the superblock, of which the rest is *@rest (arena). */
uint32_t mnt_flags(const char *options);
int mnt_sb_flags(struct op *op, const char *sb_options, uint32_t *flags, char **rest);
struct mount_attr;
void mnt_attr(uint32_t flags, struct mount_attr *attr); /* everything but propagation */

/* ---- tree.c */
int mnt_begin(struct op *op, struct snapshot *s); /* s->mounts, with the namespaces of the tree's own; dump.c */
struct mnt *mnt_add(struct op *op, struct mount_state *st, struct mnt_ns *ns, MntEntry *e);
struct mnt *mnt_find(const struct mount_state *st, uint32_t mnt_id);
/* Parents, children, roots of all namespaces; @code is that of the failure if they are no trees. */
int mnt_trees(struct op *op, struct mount_state *st, int code);
/* What is left of @path below @folder: "" if they are the same, NULL if it is not below it. */
const char *mnt_below(const char *path, const char *folder);
/* Whether there is another mount on top of it, or on a folder that leads to it. */
bool mnt_hidden(const struct mnt *m);
/* "mount 12 (tmpfs on /a/b)", in the arena; never NULL. */
const char *mnt_name(struct op *op, const struct mnt *m);
#define MNT_AT(h) AT(.kind = "mount", .hint = (h))

/* ---- external.c */
#define MNT_EXT_AUTO "CRIU:AUTOGENERATED"
#define MNT_EXT_DEVICE "CRIU:EXTERNAL_DEV"
#define MNT_EXT_NO_ROOT "CRIU:NO_ROOT"
bool mnt_ext_auto(const struct op *op, char flag); /* --external mnt[]:FLAG; 0: in any form */
int mnt_ext_dump(struct op *op, struct mount_state *st);    /* marks them */
int mnt_ext_restore(struct op *op, struct mount_state *st); /* finds where they come from */

/* ---- bases.c, groups.c */
int mnt_bases(struct op *op, struct mount_state *st, int code); /* refuses mounts of which there is none */
int mnt_groups(struct op *op, struct mount_state *st, int code);

/* ---- read.c: of what an image says, in this order */
int mnt_check_entry(struct op *op, struct mnt *m); /* each by itself */
int mnt_check(struct op *op, struct mount_state *st);

/* ---- tmpfs.c */
int mnt_tmpfs_dump(struct op *op, struct snapshot *s, struct mnt_ns *n);
int mnt_tmpfs_find(struct op *op, struct snapshot *s, struct mnt_base *b); /* restore: opens its image */
int mnt_tmpfs_fill(struct op *op, const struct mnt_base *b, int root);

/* ---- make*.c: in errands. They belong to the namespace that is being filled. */
#define MNT_WITHIN (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
struct mnt_make {
	struct snapshot *s;
	struct mount_state *st;
	struct mnt_ns *ns;
	int old;     /* root of the copy of our own mounts, which goes in the end */
	int scratch; /* a file system in memory: bases are mounted in it */
	bool old_way; /* without mount_setattr(2) and MOVE_MOUNT_SET_GROUP: make_old.c */
};
int mnt_make_base(struct op *op, struct mnt_make *k, struct mnt_base *b);
int mnt_make_clone(struct op *op, struct mnt_make *k, struct mnt *m); /* m->fd, and the targets of its children */
/* Of a mount in its place: flags and propagation by mount(2). */
int mnt_old_furnish(struct op *op, const struct mnt *m);
int mnt_old_groups(struct op *op, const struct mnt_make *k); /* what can be had; refuses the rest */
int mnt_old_private(int fd);				     /* and writable */
/* Not in an errand: */
int mnt_make_group(struct op *op, const struct mnt_group *g);
void mnt_unmake(struct mnt *m);				      /* any number of times */
int mnt_make_settle(struct op *op, const struct mnt_base *b); /* nothing is written to it any more */

#endif
