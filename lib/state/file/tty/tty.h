/* SPDX-License-Identifier: MIT */
/*
 * Terminals: what the files of this folder share.
 *
 *   tty.c       the kind: which descriptors are terminals, their entries in files.img
 *   info.c      attributes of a terminal, from the kernel to tty-info.img and back
 *   pair.c      dump: which terminals are whole inside of the tree, and whose they are
 *   queue.c     bytes on their way: taken out and put back, at dump and restore
 *   keeper.c    dump: the process that does so, which outlives a killed engine
 *   images.c    tty-info.img, tty-data.img and what only our own file can hold; reading and checking
 *   make.c      restore: pseudo terminals are made again, under their numbers
 *   own.c       restore: the terminal of our caller, for a job of a shell
 *   session.c   restore: what tasks do themselves: controlling terminals, foreground groups, /dev/tty
 */
#ifndef CKPT_STATE_FILE_TTY_H
#define CKPT_STATE_FILE_TTY_H

#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

/* Indices of terminals that have no number of their own, as the format wants them. */
enum { INDEX_CONSOLE = 1002, INDEX_VT = 1004, INDEX_CTTY = 1006, INDEX_SERIAL = 1010, INDEX_EXTERNAL = 1013 };
#define PTY_INDEX_MAX 1000u
#define RDEV_TTY makedev(5, 0)
#define RDEV_CONSOLE makedev(5, 1)
#define RDEV_PTMX makedev(5, 2)

/* The kernel's, under its name: <asm/termbits.h> cannot be had beside <termios.h>. */
struct termios2 {
	uint32_t c_iflag, c_oflag, c_cflag, c_lflag;
	uint8_t c_line, c_cc[19];
	uint32_t c_ispeed, c_ospeed;
};
#define TTY_EXTPROC 0200000u

/* N_TTY processes so many bytes ahead; what comes then waits as it was written. */
#define TTY_PROCESSED_MAX 4095u
#define TTY_QUEUE_MAX (64u << 10)

/* A byte that was read from the input of a terminal in canonical mode: does a line end behind it? */
enum tty_mark {
	TTY_PLAIN, /* no, whatever it is */
	TTY_END,   /* yes: newline, EOL, EOL2 */
	TTY_EOF,   /* yes, and the byte, the end-of-file character, is not a part of it */
};

struct tty_queue {
	uint32_t n;
	uint8_t bytes[TTY_QUEUE_MAX];
	uint8_t marks[TTY_QUEUE_MAX];
};

/* One pseudo terminal whose queues are looked at: shared with the keeper. */
struct tty_job {
	int master;		  /* a copy */
	bool has_slave;		  /* is open */
	bool slave_closed;	  /* was opened once and is closed */
	const int *async;	  /* copies of descriptions of it that ask for SIGIO */
	size_t n_async;
	struct tty_queue input;	  /* readable at the slave */
	struct tty_queue output;  /* readable at the master */
	bool stopped;		  /* output, by ^S or TCOOFF */
	int err;		  /* errno of the first thing that went wrong */
	const char *step;	  /* and what it was */
};

/* A terminal of the checkpoint: a pseudo terminal, or (dump) one that is not ours. */
struct terminal {
	unsigned index;
	dev_t instance;		  /* dump: st_dev of its devpts */
	TtyInfoEntry *master, *slave; /* NULL: not in the tree */
	PtyExtraEntry *extra;	  /* NULL: none */
	TtyDataEntry *input, *output; /* NULL: empty */
	bool hung_up;		  /* its master is gone */
	bool orphan;		  /* its master is outside, and a new one will be made for whoever restores */
	bool has_ctty;		  /* dump: it is open as /dev/tty */
	/* dump */
	struct fd_view where;	  /* a descriptor of it, for messages */
	struct tty_job *job;
	mode_t slave_mode;
	ARRAY(int) async;
	/* dump: a copy of the master; restore: it, and a slave of our own */
	int master_fd, slave_fd;
	bool master_given;	  /* restore: some file has it */
};

/* dump: a descriptor that is /dev/tty. */
struct ctty_file {
	struct snap_file *file;
	struct fd_view where;
	int async; /* a copy, if it asks for SIGIO; else -1 */
	unsigned index;
	bool pty; /* else something else is its terminal */
};

struct tty_state {
	ARRAY(struct terminal *) all;
	ARRAY(struct ctty_file) cttys;
	ARRAY(TtyDataEntry *) data;
	ARRAY(PtyExtraEntry *) extras;
	ARRAY(CttyFileEntry *) ctty_entries;
	ARRAY(uint32_t) no_ctty;
	bool made; /* restore: pseudo terminals exist */
	/* restore: whose attributes we changed, -1 none */
	int own;
	struct termios2 own_old;
	bool own_resized; /* it has another size than the program's */
};

/* Never NULL unless out of memory (recorded). */
struct tty_state *tty_state(struct op *op, struct snapshot *s);

/* tty.c */
bool is_pty_slave(dev_t rdev);
unsigned pty_number(dev_t rdev);
char *tty_key(struct op *op, uint64_t rdev, uint64_t dev);
int tty_refuse_outside(struct op *op, const struct fd_view *v);

/* info.c */
int tty_get(int fd, struct termios2 *t);
int tty_set(int fd, const struct termios2 *t);
/* TIOCGLCKTRMIOS, which fills the first 36 bytes. */
int tty_get_locks(int fd, struct termios2 *t);
int tty_set_locks(int fd, const struct termios2 *t);
TtyInfoEntry *info_new(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id, TtyType type);
/* Attributes of the terminal behind v->copy; IMG_ABSENT if it was hung up. */
int info_read(struct op *op, const struct fd_view *v, TtyInfoEntry *m);
TtyInfoEntry *info_by_id(const struct snapshot *s, uint32_t id);
void termios_from(const TermiosEntry *m, struct termios2 *t);

/* Which entry tells of its session; NULL: none, it is not one of the tree's. */
const TtyInfoEntry *terminal_session(const struct terminal *t);

/* pair.c */
struct terminal *terminal_of(struct op *op, struct tty_state *ts, unsigned index, dev_t instance);
int tty_complete(struct op *op, struct snapshot *s);

/* queue.c; the first four run in the keeper too: system calls and plain computation only */
void tty_job_run(struct tty_job *j);
/* Fills the queues of a terminal that has empty ones; then it has @final. Returns 0 or an errno; *@step is what failed. */
int tty_queues_put(int master, int slave, const struct termios2 *final, const struct tty_queue *input,
		   const struct tty_queue *output, bool stopped, const char **step);

/* keeper.c */
int tty_queues_collect(struct op *op, struct snapshot *s);

/* images.c */
int tty_write(struct op *op, struct snapshot *s);
int tty_read(struct op *op, struct snapshot *s);
int tty_note_queues(struct op *op, struct tty_state *ts, struct terminal *t);

/* make.c */
/* All pseudo terminals of the checkpoint, and the descriptions of them. Once. */
int ptys_make(struct op *op, struct snapshot *s);
struct terminal *terminal_of_info(struct tty_state *ts, uint32_t info_id);
int pty_open_slave(struct op *op, const struct snapshot *s, const struct terminal *t, struct snap_file *f);

/* own.c */
int open_own(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info);
void own_done(struct tty_state *ts, bool success);

/* session.c */
int ctty_open(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info);
int tty_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first);

#endif
