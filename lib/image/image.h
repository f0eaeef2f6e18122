/* SPDX-License-Identifier: MIT */
/*
 * The image folder: what lies on disk, as docs/format describes it. Files of one checkpoint are made in a folder, framed
 * and with the right magic, and become a checkpoint at img_dir_commit(): everything is on stable storage first, the
 * inventory comes last, under its name by rename. img_dir_abort() removes what was made and leaves the folder as it was.
 *
 * Readers believe nothing: lengths, magics and messages are checked, and failures name file and offset.
 */
#ifndef CKPT_IMAGE_IMAGE_H
#define CKPT_IMAGE_IMAGE_H

#include "lib/base/op.h"
#include "lib/image/schema.h" /* all generated messages */

/* One per row of the file-name table (docs/format); the order is that of lib/image/kinds.c. */
enum img_kind {
	IMG_INVENTORY, IMG_FDINFO, IMG_PAGEMAP, IMG_SHMEM_PAGEMAP, IMG_CORE, IMG_IDS, IMG_MM, IMG_PIPES_DATA, IMG_FIFO_DATA,
	IMG_PSTREE, IMG_FS, IMG_REMAP_FPATH, IMG_GHOST_FILE, IMG_MEMFD, IMG_TTY_INFO, IMG_TTY_DATA, IMG_FILE_LOCKS,
	IMG_PAGES, IMG_SECCOMP, IMG_FILES, IMG_TIMENS, IMG_CGROUP, IMG_CPUINFO, IMG_UTSNS, IMG_IPC_VAR, IMG_IPCNS_SHM,
	IMG_IPCNS_MSG, IMG_IPCNS_SEM, IMG_TCP_STREAM, IMG_MNTS, IMG_NETDEV, IMG_NETNS, IMG_IFADDR, IMG_ROUTE, IMG_ROUTE6,
	IMG_RULE, IMG_IPTABLES, IMG_IP6TABLES, IMG_NFTABLES, IMG_TMPFS_DEV, IMG_TMPFS, IMG_AUTOFS, IMG_BINFMT_MISC, IMG_SK_QUEUES,
	IMG_USERNS, IMG_NETNF_CT, IMG_NETNF_EXP, IMG_PIDNS, IMG_BPFMAP_DATA, IMG_APPARMOR,
	IMG_STATS_DUMP, IMG_STATS_RESTORE,
	IMG_SENT,  /* our own: "ckpt-sent-N", the pagemap of a task whose pages went to a page server: what later dumps build upon */
	IMG_EXTRA, /* our own: "ckpt-extra", one ckpt_extra_entry (schema/ckpt-extra.proto), ignored by other readers */
	IMG_BLOCKS, /* our own, too: "ckpt-blocks" (lib/image/block.h), and "ckpt-sums", one ckpt_sums_entry */
	IMG_SUMS,
	IMG_N_KINDS,
};

struct img_kind_info {
	const char *pattern; /* "core-%u.img" */
	const char *crit_magic; /* "CORE" */
	uint32_t magic;	     /* 0: raw */
	const ProtobufCMessageDescriptor *first; /* message of the first entry, NULL if raw */
	const ProtobufCMessageDescriptor *rest;	 /* of the others, NULL if there is only one entry */
	bool service;	     /* service head instead of the common one */
};
const struct img_kind_info *img_kind_info(enum img_kind kind);

struct img_dir;

/*
 * State that the format cannot express, and that other readers would restore wrongly without a word: a checkpoint that has
 * it says so by these names among the plugins of its inventory, and readers that do not have a plugin of the name refuse.
 */
#define IMG_OWN_SHARED_VM "ckpt-shared-memory"	/* processes that share an address space (CLONE_VM without CLONE_THREAD) */
#define IMG_OWN_SHARED_FS "ckpt-shared-folders" /* or their directories, or signal actions */
#define IMG_OWN_IO_URING "ckpt-io-uring"
#define IMG_OWN_SYSV_IPC "ckpt-sysv-ipc" /* objects of an IPC namespace that is not the tree's own: others leave them out */
#define IMG_OWN_PACKED "ckpt-packed-pages" /* page images are compressed, or have equal pages once */
#define IMG_OWN_PENDING "ckpt-pending-connections" /* TCP connections that wait to be accepted: others forget them */
#define IMG_OWN_NET_DEVICES "ckpt-net-devices" /* kinds of network devices that the format has no type for */
#define IMG_OWN_NET_FILTER "ckpt-packet-filter" /* rules of a network namespace that are not there as text */
#define IMG_OWN_BELOW "ckpt-namespaces-below" /* tasks have other namespaces than the root task */
#define IMG_OWN_NESTED_PIDNS "ckpt-nested-pid-namespaces"
#define IMG_OWN_MQUEUE "ckpt-mqueue"	 /* POSIX message queues: others look for the files, and miss the messages */

/* ---- writing */
/*
 * Opens the images folder of @op->opts for writing. Refuses, before anything is made: a missing or unwritable folder
 * (CKPT_E_SYS/PERM with a hint) and one that already holds a checkpoint (an inventory.img: CKPT_E_EXISTS).
 */
int img_dir_create(struct op *op, struct img_dir **ret);
int img_dir_fd(const struct img_dir *dir);
/* Its place among the dumps of this machine (gate.h); given up when the folder is committed, aborted or closed. */
struct gate *img_dir_gate(const struct img_dir *dir);
/* Bytes that fit on the folder's file system for us now. */
int img_dir_space(struct op *op, struct img_dir *dir, uint64_t *bytes);

struct img_out;
/* @id fills the pattern's number. The file is created with the first write (an image with nothing in it does not exist),
 * except with img_touch(). Buffered in memory; errors (ENOSPC) may surface at img_close(). */
int img_create(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_out **ret);
int img_write(struct op *op, struct img_out *out, const ProtobufCMessage *msg); /* one framed entry */
int img_write_payload(struct op *op, struct img_out *out, const void *p, size_t n);
int img_touch(struct op *op, struct img_out *out);
int img_close(struct op *op, struct img_out *out); /* flushes; NULL allowed */
/* create + write one message + close */
int img_write_one(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, const ProtobufCMessage *msg);

/* Total bytes of all files made so far. */
uint64_t img_dir_bytes(const struct img_dir *dir);
/* Syncs all files made (started for all, then waited for in a batch; skipped with opts->no_sync), writes and renames the
 * inventory, syncs the folder. After it returned 0 the folder is a checkpoint. */
int img_dir_commit(struct op *op, struct img_dir *dir, const InventoryEntry *inventory);
/*
 * A folder that pages are received into; the rest of the checkpoint comes from elsewhere, or is written there by a dump of
 * this machine at the same time. Refused: one that holds a checkpoint, one that another page server is receiving into.
 */
int img_dir_receive(struct op *op, struct img_dir **ret);
/* Everything received to stable storage, and hidden images to their names. After that, img_dir_abort() would be wrong. */
int img_dir_publish(struct op *op, struct img_dir *dir);
/* Removes every file made. Best effort, reports nothing. */
void img_dir_abort(struct op *op, struct img_dir *dir);

/* ---- page images, fast: io_uring and O_DIRECT where the file system takes them, plain calls where not */
struct pages_out;
/*
 * What the pages of the next page image are: those with PRESENT of @entries, which is the pagemap of @kind and @id, and stays
 * valid until pages_close(). To be said of every pagemap, also of those without pages: another host has to be told.
 * Whoever finds out while the pages are written (pages_create_open_end()) says so with pages_announce_more(), before each
 * pages_submit(), of what is submitted then.
 */
int pages_announce(struct op *op, struct img_dir *dir, enum img_kind kind, uint32_t id, PagemapEntry *const *entries, size_t n);
int pages_announce_more(struct op *op, struct img_dir *dir, PagemapEntry *const *entries, size_t n);
/* Pagemaps and page images go to another host, and must not be written here. */
bool pages_elsewhere(const struct img_dir *dir);
/* @bytes is the exact size the file will have: it is fallocate'd first. The ring lives in @dir and is shared. */
int pages_create(struct op *op, struct img_dir *dir, uint32_t pages_id, uint64_t bytes, struct pages_out **ret);
/* The same where the size is not known before the end. */
int pages_create_open_end(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pages_out **ret);
/* A free page-aligned buffer of *@cap bytes (>= 256 KiB); waits for one where all are in flight. */
int pages_buffer(struct op *op, struct pages_out *out, void **buf, size_t *cap);
/* Writes the first @len bytes (a multiple of the page size) of the buffer last given, after what was written before. */
int pages_submit(struct op *op, struct pages_out *out, size_t len);
/* The end of an image, all of which was submitted. It may still be on its way: the next image need not wait for this one. */
int pages_close(struct op *op, struct pages_out *out);
/* Waits for all images that were closed; every completion and size has been checked then. img_dir_commit() does it. */
int pages_settle(struct op *op, struct img_dir *dir);

/* ---- reading */
/* Opens the images folder for reading: CKPT_E_SYS when missing, CKPT_E_IMAGE "not a checkpoint" without inventory. The
 * inventory is read and checked (version, fdinfo_per_id, root_ids, no plugins asked for). */
int img_dir_open(struct op *op, struct img_dir **ret, InventoryEntry **inventory);
/*
 * The same, and this and all images that are read from it later must be what the folder's ckpt-sums says, where it has one:
 * CKPT_E_IMAGE if not. Not with opts->no_verify.
 */
int img_dir_open_verified(struct op *op, struct img_dir **ret, InventoryEntry **inventory);
/* The folder whatever is in it, and the one its link `parent` leads to (IMG_ABSENT: there is no link). */
int img_dir_open_any(struct op *op, struct img_dir **ret);
int img_dir_open_parent(struct op *op, const struct img_dir *child, struct img_dir **ret);
struct img_dir *img_dir_close(struct img_dir *dir); /* for both; NULL allowed; returns NULL */

struct img_in;
#define IMG_ABSENT 1 /* positive returns */
#define IMG_END 2
int img_open(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_in **ret);
/* The next entry, unpacked into the arena; the message type follows from the kind and the position. Returns 0, IMG_END. */
int img_read(struct op *op, struct img_in *in, ProtobufCMessage **msg);
/* The same for a type that the caller names (ghost chunks and the like). */
int img_read_as(struct op *op, struct img_in *in, const ProtobufCMessageDescriptor *type, ProtobufCMessage **msg);
/* Payload that follows an entry: into the arena. */
int img_read_payload(struct op *op, struct img_in *in, size_t n, void **p);
/* Everything that is left, as (fd, offset, length): for ghost contents. *@fd is a new descriptor, the caller's to close. */
int img_rest(struct op *op, struct img_in *in, int *fd, uint64_t *offset, uint64_t *length);
struct img_in *img_in_close(struct img_in *in);
/* Reads the only entry of a single-entry image. Returns 0, IMG_ABSENT. */
int img_read_one(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, ProtobufCMessage **msg);
/* Opens pages-N.img read-only (O_CLOEXEC) and tells its size. Returns 0, IMG_ABSENT. */
int img_open_pages(struct op *op, struct img_dir *dir, uint32_t pages_id, int *fd, uint64_t *size);

/* ---- common */
/* File name of an image, into @buf. */
const char *img_name(enum img_kind kind, uint64_t id, char *buf, size_t n);
/* Packs one entry in the framing (stats files): writes @kind to @dirfd/<its name> at once, unsynced. */
int img_write_at(struct op *op, int dirfd, enum img_kind kind, uint64_t id, const ProtobufCMessage *msg);

#endif
