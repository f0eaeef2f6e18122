/* SPDX-License-Identifier: MIT */
/*
 * Sockets: what their kinds share. Options and queues have the same images for all families. The rest is in folders:
 *   unix/     UNIX sockets
 *   inet/     IPv4 and IPv6 sockets without connections, and what those with one share with them
 *   tcp/      TCP connections, also those that nobody has accepted yet
 *   link/     netlink and packet sockets
 *   netlock/  packets of connections are held while their owner is away
 */
#ifndef CKPT_STATE_SOCK_H
#define CKPT_STATE_SOCK_H

#include <sys/socket.h>
#include <sys/un.h>

#include "lib/state/file/core.h"

/* The family of a socket, -1 if @fd is none. */
int sock_family(int fd);
/* The family of what @v is, through a copy for a moment where it has none; -1: no socket. */
int sock_family_of(const struct fd_view *v);
int sock_get_int(int fd, int name); /* of SOL_SOCKET; 0 where the kernel does not have it */
/* Refuses a socket of another network namespace than ours, which is that of the tree (ns_visit()). */
int sock_check_namespace(struct op *op, const struct fd_view *v, const char *kind);
/* Dump: the number of the tree's network namespace in the images; false: there is none. */
bool sock_ns_id(const struct snapshot *s, uint32_t *id);
/* Owner or mode of the socket itself are to be put down: they are those of whoever made it, unless changed. */
bool sock_has_owner(const struct fd_view *v);

/* ---- optlist.c: options, of all levels, that the format has no place for */
enum {
	SOCK_OPT_VARIES = 1 << 0,     /* its value may be shorter */
	SOCK_OPT_EARLY = 1 << 1,      /* it decides about bind() and connect() */
	SOCK_OPT_IDLE = 1 << 2,	      /* means something else, or cannot be set, while there is a connection */
	SOCK_OPT_ALWAYS = 1 << 3,     /* noted also where it is that of a new socket */
	SOCK_OPT_DEVICE = 1 << 4,     /* index of a network device: noted as its name */
	SOCK_OPT_BIG_ENDIAN = 1 << 5, /* which is in network order */
	SOCK_OPT_PACKETS = 1 << 6,    /* streams cannot set it: one that was accepted tells what its first packet was like */
};
#define SOCK_OPT_MAX 2048
struct sock_opt {
	int level, name;
	const char *text;
	uint16_t size;
	uint16_t flags;
};
const struct sock_opt *sock_opt_list(size_t *n);
const struct sock_opt *sock_opt_find(uint32_t level, uint32_t name); /* NULL: none of ours */

/* ---- opts.c: options of SOL_SOCKET, and those of that list */
struct sock_options {
	bool connected; /* in: what is SOCK_OPT_IDLE is left out */
	SkOptsEntry *opts;
	ARRAY(SockOption *) more; /* what the format has no place for, where it differs from a new socket's */
};
/* @fresh: those of a new socket of its family, type and protocol, asked for at the first; the caller keeps it. */
struct sock_fresh;
int sock_options_dump(struct op *op, const struct fd_view *v, struct sock_fresh **fresh, struct sock_options *ret);
/* Before it is bound: those of @more that decide about it. */
int sock_options_prepare(struct op *op, int fd, SockOption *const *more, size_t n_more, const char *what);
/* When the queues are filled: buffers may be smaller than what is in them, filters would drop it. */
int sock_options_apply(struct op *op, int fd, const SkOptsEntry *opts, SockOption *const *more, size_t n_more, const char *what);

/* ---- stand_in.c: system calls for which it counts who makes them, and where he stands */
enum stand_in_call {
	STAND_IN_BIND,	  /* fd: to addr, in directory @dir of root @root; leaves a descriptor of the file in result[0] */
	STAND_IN_PAIR,	  /* socketpair: result[0], [1] */
	STAND_IN_LISTEN,  /* fd */
	STAND_IN_CONNECT, /* fd: to addr, or to the file that @file refers to; @listener >= 0: accepted there, result[0] */
};

struct fs_view; /* lib/state/view.h */

struct stand_in_job {
	enum stand_in_call call;
	int fd, type, backlog;
	int listener, file;
	int root, dir;	   /* BIND: -1: ours */
	const struct fs_view *view; /* BIND: whose owner makes the file where we may not; NULL: nobody */
	bool make_parents; /* BIND: the folders of the name are made */
	bool unlink;	   /* BIND: the name goes again at once */
	bool optional;	   /* the others go on where this one fails */
	int move_dir;	   /* BIND: >= 0: the file is moved to @move_name in that directory */
	char move_name[256];
	struct sockaddr_un addr;
	socklen_t addr_len;
	/* what came out */
	int err;
	const char *step; /* what failed */
	int result[2];
};

/*
 * Makes the calls in a process that has the number, the ids and the groups of @who (NULL: ours), in order, until one fails.
 * If that number cannot be had, with another one: *@number_taken. The descriptors it makes are ours.
 */
int stand_in_run(struct op *op, const struct snapshot *s, const PeerCred *who, struct stand_in_job *const *jobs, size_t n,
		 bool *number_taken);
/* A process with the number @pid that does nothing until it is ended. -1 (errno): it cannot be had. */
pid_t stand_in_hold(const struct snapshot *s, pid_t pid);
void stand_in_end(pid_t pid);

/* ---- unix_diag.c: what sock_diag(7) tells of all UNIX sockets of our network namespace */
struct unix_diag {
	uint32_t ino;
	uint8_t type, state, shutdown;
	bool has_peer, has_file;
	uint32_t peer; /* inode; 0: it has none */
	uint32_t rqueue, wqueue;
	uint32_t file_ino, file_dev;
	const uint32_t *pending; /* of a listener: inodes of clients not accepted yet, oldest first; 0: closed again */
	size_t n_pending;
};
typedef int (*unix_diag_fn)(struct op *op, void *arg, const struct unix_diag *d);
/* Calls @fn for each, with what lives until it returns. */
int unix_diag_list(struct op *op, unix_diag_fn fn, void *arg);

#endif
