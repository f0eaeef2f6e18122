/* SPDX-License-Identifier: MIT */
/* What the files of this folder share: the state of the layer in one operation, and the services of the core to kinds. */
#ifndef CKPT_STATE_FILE_CORE_H
#define CKPT_STATE_FILE_CORE_H

#include <fcntl.h>
#include <sys/resource.h>

#include "lib/state/file/file.h"
#include "lib/state/file/index.h"
#include "lib/state/file/shmem.h"
#include "lib/state/mount/mount.h"

/* f_type values; linux/magic.h of the distribution lacks some */
#define FS_PROC 0x9fa0u
#define FS_NSFS 0x6e736673u
#define FS_TMPFS 0x01021994u
#define FS_HUGETLBFS 0x958458f6u
#define FS_OVERLAY 0x794c7630u
#define FS_DEVPTS 0x1cd1u
#define FS_MQUEUE 0x19800202u
#define FS_SECRETMEM 0x5345434du
#define FS_PIDFS 0x50494446u

/* O_LARGEFILE and __O_TMPFILE as the kernel shows them: the C library has other values, or none. */
#define KFLAG_LARGEFILE 0100000u
#define KFLAG_TMPFILE 020000000u

#define POS_NONE UINT64_MAX

/* A name on disk that we made and that has to go again. */
struct made_name {
	const struct fs_view *view; /* in which it has that name */
	const char *path;
	bool dir;
	bool only_on_failure; /* stays after a success (link remaps of a dump) */
	bool only_on_success; /* stays after a failure (link remaps that were used by a restore) */
};

/* Restore: both ends of a pipe, or the helper end that keeps a FIFO from blocking. */
struct queue_ends {
	int r, w;
	bool taken_r, taken_w; /* given away as the descriptor of a file already */
};

struct queue; /* queue.c */

/* Restore: a descriptor of ours for mappings, programs and folders; tasks fetch it. */
struct shared_fd {
	int fd;
};

/* Dump: a descriptor that no task has, found in the queue of a socket. */
struct flight {
	const struct fd_view *carrier;
	int fd; /* ours, until the end: descriptors of tasks are compared with it */
	uint32_t *id;
	const struct snap_file *file;
};

/* The state of the file layer in one operation. */
struct file_state {
	ARRAY(struct made_name) made;
	/* dump */
	dev_t shm_dev;
	struct file_index known;    /* (dev, ino) -> struct known: open file descriptions */
	struct file_index specials; /* (dev, ino, mount) -> struct snap_file */
	struct file_index mappings; /* (dev, ino, name) -> struct known_mapping */
	struct file_index mapped;   /* (dev, ino) -> something, of each mapped file */
	struct file_index ghosts;   /* (dev, ino) -> struct snap_ghost */
	struct file_index shmems;   /* (dev, ino) -> struct snap_shmem */
	struct file_index queues;   /* (dev, ino) -> struct queue */
	struct file_index queue_ids; /* (id, is fifo) -> struct queue */
	ARRAY(struct queue *) all_queues;
	ARRAY(PacketPipeEntry *) packet_pipes;
	ARRAY(uint32_t) semaphores; /* file ids of eventfds that are */
	ARRAY(ForeignProcEntry *) foreign_procs;
	ARRAY(struct watched *) all_watched; /* outside.c: what others may have, too */
	struct file_index watched;	 /* (link text) -> struct watched */
	struct file_index watched_files; /* (file id) -> struct watched */
	bool tables_checked;
	ARRAY(struct proc_lock) leases; /* of the whole machine */
	bool leases_read;
	ARRAY(GhostExtraEntry *) ghost_extras;
	ARRAY(DeviceEntry *) devices;
	ARRAY(TunExtra *) tuns;
	ARRAY(struct flight) flights;
	size_t flights_done;
	struct unix_state *unix_sockets; /* lib/state/sock, dump and restore */
	struct inet_state *inet_sockets; /* the same */
	struct link_state *link_sockets; /* netlink and packet sockets; dump */
	ARRAY(struct watch_want *) wants; /* watch.c */
	/* restore */
	struct file_index remaps; /* (file id) -> RemapFilePathEntry */
	struct file_index ghost_ids; /* (ghost id) -> struct snap_ghost */
	struct file_index ends;	  /* (queue id, is fifo) -> struct queue_ends */
	ARRAY(struct queue_ends *) all_ends;
	struct file_index tmpfiles; /* (ghost id) -> RegFileEntry of the description that was made with O_TMPFILE */
	ARRAY(int) held;	  /* descriptors that keep things in being until the restore is through */
	struct file_index bytask; /* (file id) -> struct bytask: what a task opens itself */
	struct file_index shared; /* (file id, how it is opened) -> struct shared_fd */
	ARRAY(struct shared_fd *) all_shared;
	bool limit_raised;
	struct rlimit old_limit;
	struct tty_state *tty; /* tty/tty.h; NULL at first */
};

/* Never NULL unless out of memory (recorded). */
struct file_state *files_state(struct op *op, struct snapshot *s);

/* st_dev of the kernel's own tmpfs. */
int file_tmpfs_dev(struct op *op, dev_t *dev);

/* ---- for the dump halves */
/* A new description in the snapshot: an id and a message of the kind's type, nothing else filled in. */
struct snap_file *file_new(struct op *op, struct snapshot *s, const struct file_kind *kind);
/* The kind of a description; NULL if nothing recognises it. */
const struct file_kind *file_kind_of(const struct fd_view *v);
/* Records CKPT_E_UNSUPPORTED: "fd 7: KIND: sentence". @hint may be NULL. */
int file_refuse(struct op *op, const struct fd_view *v, const char *kind, const char *hint, const char *fmt, ...)
	PRINTF_LIKE(5, 6);
/* The same from an errno, for something that should not have failed. */
int file_errno(struct op *op, const struct fd_view *v, const char *what);
/* Owner for signals of the description (all zero for special references). NULL when out of memory. */
FownEntry *file_fown(struct op *op, const struct fd_view *v);
/* A description of our own of what @v is, so that its position can be moved freely. Returns the fd or -1 (errno). */
int file_reopen(int fd, int flags);
/* Takes @fd over, which was found in the queue of @carrier; *@id is its file id when all tasks were looked at. */
int file_flight(struct op *op, struct snapshot *s, const struct fd_view *carrier, int fd, uint32_t *id);
/* The number of the mount that an open file is on; -1: not known. */
int32_t file_mount(int fd);
int file_made(struct op *op, struct file_state *fs, const struct made_name *made);

/* Calls each kind's .done. */
void files_kinds_done(struct op *op, struct snapshot *s, bool success);
/* Removes the names that were made, as each of them says. Never fails. */
void files_remove_made(struct op *op, struct file_state *fs, bool success);

/* Writes an image of @n messages (generated ones: their first member is their base), none if there are none. */
int file_write_list(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, void *const *v, size_t n);

/* reg.c: the parts other kinds are made of */
int reg_examine(struct op *op, const struct fd_view *v);
int reg_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f);
/* Dumps a REG entry of its own for @v, for kinds that refer to one (FIFO, TTY). */
int reg_dump_ref(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t *id);
/* Path the kernel tells, without " (deleted)" where the thing is deleted. */
enum reg_where { REG_HERE, REG_GHOST, REG_UNLINKED };
int reg_locate(struct op *op, const struct fd_view *v, const char **path, enum reg_where *where);
/* The number of its mount, where the images have such numbers. */
void reg_note_mount(const struct snapshot *s, const struct fd_view *v, RegFileEntry *m);
/* Restore: where the name of an entry is looked up. */
const struct fs_view *reg_view(const struct snapshot *s, const RegFileEntry *m);
/* Position to record: POS_NONE where there is none. */
uint64_t reg_position(const struct fd_view *v);

/* device.c: may it be opened again? */
bool device_is_memory(dev_t rdev);
int device_check(struct op *op, const struct fd_view *v);
int device_note(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id);
int device_verify(struct op *op, const struct snapshot *s, const RegFileEntry *m, const struct stat *st);

/* ghost.c, remap.c */
uint64_t ghost_limit(const struct op *op);
int ghost_dump(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t file_id);
int ghost_write(struct op *op, struct snapshot *s, struct snap_ghost *g);
int ghost_extra_dump(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id);
/* Another name of it in the directory where it was; NULL: there is none. */
const char *remap_other_name(struct op *op, const struct fd_view *v, const char *path);
/* Can it be given a name? If not, it has none any more. Tries it, in the directory of @path. */
bool remap_can_link(struct op *op, const struct fd_view *v, const char *path);
int remap_dump_link(struct op *op, struct snapshot *s, const struct fd_view *v, const char *path, uint32_t file_id);
int remap_add(struct op *op, struct snapshot *s, uint32_t orig, uint32_t target, RemapType type);

/* queue.c: bytes queued in pipes and FIFOs */
int queue_dump(struct op *op, struct snapshot *s, const struct fd_view *v, bool fifo, uint32_t *id);

/* Puts down the lengths of queued packets, in packet_pipes. */
int queues_note_packets(struct op *op, struct snapshot *s);

/* dump.c: the description that @fd of any process is, if it was seen; NULL: none of the tree's, or it cannot be told. */
struct snap_file *file_find_description(const struct file_state *fs, dev_t dev, ino_t ino, pid_t pid, int fd);
/* The same for what an entry of an epoll descriptor of @pid watches; inode 0: it is not known. */
struct kcmp_epoll_slot;
struct snap_file *file_find_watched(const struct file_state *fs, dev_t dev, ino_t ino, pid_t pid,
				    const struct kcmp_epoll_slot *slot);

/* outside.c: what processes outside have, too. All tasks of the tree are in s->tasks. */
int outside_check_tables(struct op *op, struct snapshot *s);
int outside_watch(struct op *op, struct snapshot *s, const struct fd_view *v, const struct snap_file *f);
/* After all descriptors were looked at, while the tree stands still. */
int outside_warn(struct op *op, struct snapshot *s);
/* mapped.c: refuses memory that somebody outside has mapped, too. Then. */
int files_check_mapped(struct op *op, struct snapshot *s);

/* memfd.c */
bool memfd_is_shmem(const struct fd_view *v);

/* locks.c */
int locks_check(struct op *op, const struct fd_view *v);
int locks_dump(struct op *op, struct snapshot *s, const struct fd_view *v, bool seen_before);
int locks_check_mapped(struct op *op, struct snapshot *s, const struct fd_view *v);
int locks_apply(struct op *op, struct snapshot *s);

/* ext.c */
/* Is KEY among --external? */
bool external_wanted(const struct op *op, const char *key);
/* The descriptor given for @key by --inherit-fd, -1 if none. Still the caller's. */
int inherit_find(const struct op *op, const char *key);
/* Every --inherit-fd must be well-formed and open. */
int inherit_check(struct op *op);

/* ---- for the restore halves */
const struct file_kind *file_kind_of_type(FdTypes type);
/* The message of @kind in a file's entry, and its id: NULL if it is missing. */
const ProtobufCMessage *file_message(const FileEntry *m, const struct file_kind *kind);
const uint32_t *file_message_id(const FileEntry *m, const struct file_kind *kind);
/* Calls @add for each entry of an image that may be absent. */
typedef int (*file_add_fn)(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg);
int file_read_list(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, file_add_fn add, void *arg);
/* Opens @f if it is not open yet. */
int file_open(struct op *op, struct snapshot *s, struct snap_file *f);
/* Moves a descriptor out of the way of 0, 1, 2. Takes @fd over; -1 (errno) on failure or if @fd is -1. */
int file_high(int fd);
/* fcntl(F_SETFL) of the flags that can be changed, if they differ. */
int file_set_flags(int fd, uint32_t flags);
int image_bad(struct op *op, const char *fmt, ...) PRINTF_LIKE(2, 3);
struct reg_how {
	uint32_t flags; /* of open(2) */
	mode_t special; /* a type (S_IFIFO, S_IFCHR) that may be opened although opening it has effects */
};
/* Opens a REG entry, checked against the image, or takes the descriptor that --inherit-fd gives for it. */
int reg_open_as(struct op *op, struct snapshot *s, struct snap_file *f, const struct reg_how *how, int *fd);
/* Flags for open(2) from those of an entry: nothing that makes, empties or claims. */
uint32_t reg_open_flags(uint32_t flags);
/* procfile.c; IMG_ABSENT: the entry is no file of /proc/PID */
int procfile_open(struct op *op, struct snapshot *s, struct snap_file *f);
/* bytask.c */
struct bytask_what {
	pid_t pid;	  /* the process that must exist; one of the tree */
	bool thread;	  /* of its threads, not of the whole process */
	const struct fs_view *view;
	const char *path; /* in that; kept by pointer */
	const char *kind;
	uint32_t flags;	  /* of the entry */
	uint64_t pos;	  /* POS_NONE or 0: no seek */
};
/* Instead of opening: the tasks will. The kind's .plan is bytask_plan(). */
int bytask_open(struct op *op, struct snapshot *s, struct snap_file *f, const struct bytask_what *what);
/* A name as the task sees it, below its root directory; NULL: it lies outside. */
const char *file_path_in_task(const struct plan_build *b, const char *path);
int bytask_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first);
/* Makes the file of a remapped entry appear; the caller unlinks it after the open if it is temporary. */
struct appearance {
	const struct fs_view *view;
	const char *path;
	bool temporary;
	int fd; /* >= 0: it has no name; this descriptor, ours, is all there is */
};
int remap_appear(struct op *op, struct snapshot *s, const struct snap_file *f, struct appearance *how);
int ghost_appear(struct op *op, struct snapshot *s, struct snap_ghost *g, const struct fs_view *view, const char *name);
/* ghost_extra.c; @own: the name of a descriptor of it */
const GhostExtraEntry *ghost_extra_of(const struct snapshot *s, uint32_t id);
int ghost_extra_apply(struct op *op, const struct snapshot *s, const struct snap_ghost *g, const char *own);
int queue_make(struct op *op, struct snapshot *s, uint32_t id, struct queue_ends **ret);
int queue_fill(struct op *op, struct snapshot *s, uint32_t id, bool fifo, int w);
int shmem_create(struct op *op, struct snapshot *s, struct snap_shmem *sh);
void shmem_done(struct op *op, struct snap_shmem *sh, bool success);
struct snap_shmem *shmem_of(const struct snapshot *s, uint32_t inode_id);

extern const struct file_kind file_reg, file_eventfd, file_pipe, file_fifo, file_tty, file_memfd, file_unsupported;
extern const struct file_kind file_bpfmap, file_uring, file_tun;
extern const struct file_kind file_mqueue; /* lib/state/ipc/mqueue.c */
extern const struct file_kind file_procfile, file_nsfile, file_opaque;
extern const struct file_kind file_unix, file_inet;
extern const struct file_kind file_netlink, file_packet;
extern const struct file_kind file_epoll, file_signalfd, file_timerfd, file_pidfd, file_inotify, file_fanotify;

#endif
