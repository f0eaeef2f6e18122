/* SPDX-License-Identifier: MIT */
/*
 * Open files: the core that every kind of descriptor hangs on. One file per kind (reg.c, pipe.c, tty.c ...), each with
 * its dump half and its restore half, each ending in one const struct file_kind; kinds.c lists them all.
 *
 * Dump: for each descriptor of a frozen task, and for each special reference, the core takes our own copy
 * (pidfd_getfd, /proc/PID/map_files, /proc/PID/{exe,cwd,root}), finds out whether the description is known already, and
 * otherwise asks the kinds in order which of them recognises it. Nothing runs inside the task.
 * Restore: all descriptions are opened once, in the engine, before the task exists; the task inherits them.
 */
#ifndef CKPT_STATE_FILE_H
#define CKPT_STATE_FILE_H

#include <sys/stat.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/snapshot.h"
#include "lib/state/view.h"

struct plan_build; /* lib/state/task/plan_build.h */

enum { CHECK_KEEP_UNIX, CHECK_KEEP_INET, CHECK_KEEP_N };

/* A descriptor as seen from outside, given to file_kind.match and .dump. */
struct fd_view {
	pid_t pid;	    /* as we see it */
	int fd;		    /* number in the task; -1 for a special reference */
	const char *what;   /* "fd", "exe", "cwd", "root", "mapping" */
	uint64_t addr;	    /* of the mapping */
	const char *link;   /* readlink of the /proc entry, " (deleted)" kept */
	struct stat st;	    /* of the thing itself */
	struct proc_fdinfo info; /* flags from it have O_CLOEXEC taken out; zero for special references */
	bool cloexec;
	int copy;	    /* our descriptor of the same description (for special references: O_PATH of the same inode);
			     * -1 in .check of a running task */
	uint32_t fs_magic;  /* f_type of the file system it is on */
	const uint8_t *build_id; /* of a mapping, where the kernel tells; build_id_known, but NULL: it has none */
	size_t build_id_len;
	bool build_id_known;
	const struct pids *pids; /* lib/state/pids.h: for numbers of processes that the kernel tells us; NULL in .check */
	dev_t shm_dev;	    /* st_dev of the kernel's own tmpfs, where memfds and shared anonymous memory are */
	int32_t mnt_id;	    /* of its mount; -1: not known */
	const struct fs_view *view; /* where its name is looked up */
	bool astray;	    /* no name of the tree leads to its mount: detached, or in another mount namespace */
	/* in .check: what the check of one socket leaves for those of the next ones, by CHECK_KEEP_*; NULL in a dump */
	void **keep;
	const struct fd_view *carrier; /* in flight: the socket in whose queue it is; pid and fd are then the engine's */
};

struct file_kind {
	const char *name;   /* the field's word: "reg", "pipe", "tty" */
	FdTypes type;
	/* Dump; host, task frozen (or running, for ckpt_check_task): link name and stat only. */
	bool (*match)(const struct fd_view *v);
	/* ckpt_check_task; host, task running: what .dump would refuse, as far as it can be seen without a copy, is refused
	 * here with op_fail() in the same words. NULL: nothing to refuse. */
	int (*check)(struct op *op, const struct fd_view *v);
	/* Dump; host, task frozen; may block. Fills f->msg (id and type are set by the core), and what hangs on it in the
	 * snapshot. Refuses with op_fail(CKPT_E_UNSUPPORTED, AT(pid, fd, kind, hint)). Must not change the target. */
	int (*dump)(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f);
	/*
	 * Dump; host, all tasks frozen, once, when .dump has seen all descriptors of all tasks: what can be said only then is
	 * said here (the other end is outside of the tree), and state that several descriptions share is collected. NULL:
	 * nothing. Must not change the target.
	 */
	int (*complete)(struct op *op, struct snapshot *s);
	/* offsetof(FileEntry, <the field of the type>): its id and its fown are found there. */
	size_t message;
	/* Dump; host: writes the images of its own that the kind has beside files.img, and fills s->extra. NULL: none. Once. */
	int (*write)(struct op *op, struct snapshot *s);
	/*
	 * Dump; host, all tasks frozen, everything is written, the commit comes next; only where the tree is then killed: what
	 * holds on until the restore (the network lock) is made to outlive us. A failure later on still ends in .done(false),
	 * which takes it back. NULL: nothing. Once.
	 */
	int (*keep)(struct op *op, struct snapshot *s);
	/*
	 * Dump; host, all tasks frozen; the folder is a checkpoint, and the tree is killed next: it cannot run any more, whatever
	 * becomes of us. For what nobody is to see of its end: connections go into repair mode, so that their close is silent.
	 * Never fails (warns). NULL: nothing. Once.
	 */
	void (*end)(struct op *op, struct snapshot *s);
	/*
	 * Dump; host: the frozen tasks are about to run again (or to be left stopped, as themselves): nothing of what was done
	 * to them, or to their peers, may last. Never fails. Before a failure's end, .done(false) does the same. NULL: nothing.
	 */
	void (*let_go)(struct op *op, struct snapshot *s);
	/* Restore; host: reads and checks those. All files and descriptors are known. NULL: none. Once. */
	int (*read)(struct op *op, struct snapshot *s);
	/* Restore; host, before any task exists: sets f->fd (O_CLOEXEC), with flags, position, contents and size. Called in
	 * the order of the plan (regular files after the ghosts they need, and so on). May leave f->fd at -1 if .plan has a
	 * task open it. NULL: the kind is not restored. */
	int (*open)(struct op *op, struct snapshot *s, struct snap_file *f);
	/*
	 * Restore; host, before any task exists: for each descriptor of each task that refers to @f. Plans the calls that the
	 * task has to make itself (plan_call()). @first: no task before this one has a descriptor of @f; with f->fd at -1
	 * this one opens it (PLAN_CALL_FD, in PLAN_BARE or PLAN_OPEN); the others get it from there. NULL: nothing to do.
	 */
	int (*plan)(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first);
	/*
	 * Restore; host: all tasks are complete and stand still; what the restore had to make for a while (names of deleted
	 * files) is gone. For what must not see any of that. The last thing that may fail. NULL: nothing. Once.
	 */
	int (*settle)(struct op *op, struct snapshot *s);
	/*
	 * Restore; host: all tasks still stand still, but would run on without us if we were killed. What the world could notice of
	 * a tree that is gone again is done here, as quickly as can be. May fail, too. NULL: nothing. Once.
	 */
	int (*open_up)(struct op *op, struct snapshot *s);
	/* Dump and restore; host: takes back what it did outside of images and tasks. Also after a failure half way, and
	 * when nothing was done. NULL: nothing. Once. */
	void (*done)(struct op *op, struct snapshot *s, bool success);
};

extern const struct file_kind *const file_kinds[]; /* kinds.c; ends in NULL */

/* ---- dump */
/* Before the tree is stopped: refuses what would hold us up in anything we open once it is. */
int files_preflight(struct op *op, pid_t root);
/* All descriptors of a frozen task: fills t->fds, s->files, s->pipes, s->ghosts, s->remaps, s->locks, s->ttys, s->shmems. */
int files_dump_task(struct op *op, struct snapshot *s, struct snap_task *t, int pidfd);
/* When all tasks were looked at: each kind's .complete. Before anything that takes long (pages). */
int files_dump_complete(struct op *op, struct snapshot *s);
/* exe, cwd, root: @what is the name in /proc/PID. *@id is the file id. */
int files_dump_special(struct op *op, struct snapshot *s, pid_t pid, const char *what, uint32_t *id);
/*
 * The file behind a mapping (through /proc/PID/map_files/START-END). Gives the file id (a REG entry, or a MEMFD entry:
 * *@is_shmem, also for MAP_SHARED|MAP_ANONYMOUS memory), and the access mode (O_RDONLY, O_RDWR) the link shows. Results
 * for one (dev, inode, mount) are remembered: this is called for each of 60,000 mappings.
 */
int files_dump_mapping(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *vma, uint32_t *id,
		       bool *is_shmem, uint32_t *fdflags);
/* Content of all shared memory objects (fills their pagemaps and writes pages-N), and of deleted files. After all tasks were looked at. */
int files_dump_contents(struct op *op, struct snapshot *s);
/* When everything is written, and the tree is killed as soon as that is certain: each kind's .keep. */
int files_dump_keep(struct op *op, struct snapshot *s);
/* When the folder is a checkpoint, and the tree, which cannot run any more, is killed next: each kind's .end. */
void files_dump_end(struct op *op, struct snapshot *s);
/* What was only kept to read from it, and each kind's .let_go. After files_dump_contents(), before the tree runs again: pipes
 * must see their ends. */
void files_dump_let_go(struct op *op, struct snapshot *s);
/* Writes files.img, fdinfo (per descriptor table: t->ids must be there), pipes-data, fifo-data, ghost-file-*, remap-fpath,
 * memfd, filelocks, tty-info, pagemap-shmem-*. Adds to s->extra, which must be there and be written afterwards. */
int files_write(struct op *op, struct snapshot *s);
/* Undo of what the dump did outside the images (link_remap files, peeked queues). Also called after a success that kills
 * the tree, except that then link-remap names stay. Never fails. */
void files_dump_done(struct op *op, struct snapshot *s, bool success);

/* For ckpt_check_task(): looks at every descriptor of a running task, reports obstacles (how many:
 * returned), changes nothing. */
int files_check_task(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg);

/* ---- restore */
/* Reads and checks all images named under files_write(). */
int files_read(struct op *op, struct snapshot *s);
/* Opens every description that a descriptor refers to (f->fd), recreating ghosts, link remaps, memfd inodes with their
 * contents. External resources and inherited descriptors as the options say. Verifies size, mode, build-id. */
int files_open(struct op *op, struct snapshot *s);
/* A descriptor (O_CLOEXEC, kept until files_restore_done()) fit for mmap of file @id, opened as @fdflags say. */
int files_open_mapping(struct op *op, struct snapshot *s, uint32_t id, uint32_t fdflags, int *fd);
/* O_PATH descriptor of a special reference (exe needs O_RDONLY for PR_SET_MM_MAP; cwd, root). Kept likewise. */
int files_open_special(struct op *op, struct snapshot *s, uint32_t id, const char *what, int *fd);
/* Leases of one task go into its plan; after files_open(). */
int locks_plan(struct plan_build *b);
/* Owner for signals (F_SETOWN, F_SETSIG) of a description: applied by the restorer, when the tasks exist. NULL: none. */
const FownEntry *files_fown(const struct snapshot *s, const struct snap_file *f);
/* When all tasks are complete: each kind's .settle. */
int files_settle(struct op *op, struct snapshot *s);
/* When they would run on without us: each kind's .open_up. */
int files_open_up(struct op *op, struct snapshot *s);
/* Applies seals that would have been in the way of the tasks' mappings (so: before the tasks run), removes temporary names,
 * closes our descriptors. After the tree exists, or after a failure. Never fails. */
void files_restore_done(struct op *op, struct snapshot *s, bool success);

#endif
