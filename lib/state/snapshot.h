/* SPDX-License-Identifier: MIT */
/*
 * A snapshot: the model of a process tree in memory, where both pipelines meet. It is the image messages and the
 * references between them, and nothing else: dump fills it from the kernel and writes it, restore reads and checks it
 * and makes the kernel look like it. Everything in it lives in the operation's arena.
 */
#ifndef CKPT_STATE_SNAPSHOT_H
#define CKPT_STATE_SNAPSHOT_H

#include "lib/state/chain.h"

struct fs_view; /* lib/state/view.h */

struct snap_thread {
	pid_t tid;  /* in the images, as snap_task.pid */
	pid_t host; /* dump */
	CoreEntry *core;
	ThreadExtra *extra; /* what the format has no place for (schema/ckpt-extra.proto); NULL if none was read */
};

/* Content of private memory of one task: entries ascending, and where the PRESENT pages lie in pages-@pages_id. */
struct snap_pagemap {
	uint32_t pages_id;
	ARRAY(PagemapEntry *) entries;
	uint64_t n_pages; /* PRESENT ones */
};

/* A part of it in one page image: lib/state/pieces.h. */
struct page_piece {
	uint64_t start;	 /* address, or offset in the object */
	uint64_t n_pages;
	uint64_t first;	 /* number of its first page in the source */
	uint32_t source; /* index in snapshot.sources, or PIECE_REMOTE */
	bool lazy;	 /* may come after the program runs */
};

/* Which file a source is. */
struct source_place {
	struct img_dir *dir;
	uint32_t pages_id;
};

struct pieces {
	ARRAY(struct page_piece) v; /* ascending, apart */
	uint64_t n_pages;
};

struct snap_task {
	pid_t pid;  /* in the images: its number in the PID namespace of the root task */
	pid_t host; /* dump: its number as we see it, for /proc and system calls */
	bool dead; /* a zombie: ps and threads[0].core->tc are all there is of it */
	PstreeEntry *ps;
	TaskKobjIdsEntry *ids;
	ARRAY(struct snap_thread) threads; /* [0] is the leader; its core has tc */
	bool *lazy_areas; /* restore: of mm->vmas, those whose pages may come after the program runs; NULL: it is no lazy one */
	MmEntry *mm; /* NULL of the dead, and of those who share an earlier task's memory (ids->vm_id) */
	TaskExtra *extra; /* may be NULL on restore */
	FsEntry *fs;
	ARRAY(FdinfoEntry *) fds;
	struct snap_pagemap pagemap;
};

/* One open file description, or a special reference (exe, cwd, root, mapped file). Key: id. */
struct snap_file {
	uint32_t id;
	FileEntry *msg;
	const struct file_kind *kind; /* lib/state/file/file.h */
	int fd;	     /* restore: our descriptor for it once it is open, else -1 */
	pid_t task;  /* restore: the first task that has it, 0: none was planned yet */
	int task_fd; /* under this number */
	void *priv;  /* the kind's own, in the arena */
};

/* Bytes queued in a pipe or FIFO. */
struct snap_pipe_data {
	PipeDataEntry *msg;
	void *bytes; /* msg->bytes of them */
	bool fifo;
};

/* A deleted file whose content travels in the checkpoint. */
struct snap_ghost {
	uint32_t id;
	GhostFileEntry *msg;
	int fd;		      /* dump: our descriptor of the deleted file; restore: image file */
	uint64_t offset, length; /* restore: where the unchunked content is in fd */
	char *path;	      /* restore: the name under which it was recreated meanwhile, NULL if not */
	const struct fs_view *view; /* and where it has that name */
};

/* A shared memory inode (memfd, MAP_SHARED|MAP_ANONYMOUS): content goes to pagemap-shmem-<shmid>. */
struct snap_shmem {
	MemfdInodeEntry *msg;
	int fd;			     /* dump: to read from; restore: the new inode */
	struct snap_pagemap pagemap; /* vaddr = offset in the object */
	struct pieces pieces;	     /* restore */
};

struct guardian;

struct snapshot {
	InventoryEntry *inventory;
	TimensEntry *timens;
	SeccompEntry *seccomp;
	CkptExtraEntry *extra; /* our own file, may be NULL on restore */
	ARRAY(struct snap_task) tasks; /* parents first */
	ARRAY(struct snap_file *) files;
	ARRAY(struct snap_pipe_data) pipes;
	ARRAY(struct snap_ghost) ghosts;
	ARRAY(RemapFilePathEntry *) remaps;
	ARRAY(struct snap_shmem *) shmems;
	ARRAY(FileLockEntry *) locks;
	ARRAY(TtyInfoEntry *) ttys;
	bool has_rings; /* there are io_urings */
	uint32_t next_file_id, next_pages_id; /* dump: start at 1 */
	struct img_dir *dir;
	struct chain chain; /* of parents of @dir */
	ARRAY(struct source_place) source_places; /* of the same index as the sources */
	ARRAY(struct pagein *) sources; /* restore: page images that were opened (lib/state/pieces.h) */
	uint32_t next_ns_id; /* dump: the next free one; 0 before the first */
	struct pids *pids; /* dump: numbers of processes (lib/state/pids.h); NULL: all are what we see */
	struct nested *nested; /* restore: numbers in nested PID namespaces (lib/state/ns/nested.h) */
	struct ns_state *ns; /* lib/state/ns; NULL: all namespaces are ours */
	struct ipc_state *ipc; /* lib/state/ipc; NULL at first */
	struct mount_state *mounts; /* lib/state/mount; NULL at first */
	struct net_state *net; /* lib/state/net; NULL at first */
	struct cgroup_state *cgroups; /* lib/state/cgroup; NULL at first */
	const struct guardian *guardian; /* dump (lib/inject/guardian.h); NULL: there is none */
	struct file_state *file_state; /* what the file layer keeps for itself (lib/state/file/core.h); NULL at first */
};

/* NULL if there is none. s->files is in the order of ids, always. */
struct snap_file *snapshot_file(const struct snapshot *s, uint32_t id);
/* The first task that has a descriptor of file @id, 0 if none has. */
pid_t snapshot_first_holder(const struct snapshot *s, uint32_t id);
/* Dump: marks the checkpoint with one of IMG_OWN_*, so that other readers refuse it. Any number of times. */
int snapshot_mark(struct op *op, struct snapshot *s, const char *what);

#endif
