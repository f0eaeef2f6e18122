/* SPDX-License-Identifier: MIT */
/*
 * UNIX sockets, shared by their files:
 *   unix.c          the kind; dump of a single socket
 *   unix_diag.c     who is whose peer
 *   unix_name.c     names and files they are bound to, both halves
 *   unix_peer.c     dump: what shows only when all sockets were seen
 *   unix_queue.c    dump: what is queued, descriptors in flight
 *   unix_read.c     restore: reads and checks the images
 *   unix_link.c     restore: which sockets are made together, and which have to be made up
 *   unix_make.c     restore: makes them
 *   unix_fill.c     restore: fills queues
 */
#ifndef CKPT_STATE_SOCK_UNIX_H
#define CKPT_STATE_SOCK_UNIX_H

#include "lib/state/msg.h"
#include "lib/state/sock/sock.h"

/* States, numbered as TCP's. */
#define UNIX_ESTABLISHED 1
#define UNIX_CLOSE 7
#define UNIX_LISTEN 10

/* unix_sk_entry.uflags */
#define UNIX_EXTERNAL 1u

#define UNIX_NAME_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

/* Dump: a socket of the tree. */
struct unix_seen {
	struct fd_view view; /* copy: -1; strings live on */
	const struct unix_diag *diag;
	struct snap_file *file;
	UnixSkEntry *msg;
	UnixSkExtra *extra;
	bool noted;	     /* extra holds something */
	bool error;	     /* an error waits to be reported */
	bool readable;
	int unread;	     /* memory of what it sent and nobody has read */
	struct sockaddr_un peer_name;
	socklen_t peer_name_len; /* 0: none */
};

/* A message in a queue. */
struct unix_packet {
	SkPacketEntry *msg;
	SockPacketExtra *extra; /* NULL: none */
	const void *bytes;
	struct unix_sk *sender; /* restore: of a datagram; NULL: nobody known */
};

/* Restore: a socket. */
struct unix_sk {
	struct snap_file *f;
	const UnixSkEntry *m;
	const UnixSkExtra *x;	/* NULL: none */
	struct unix_sk *peer;	/* NULL: none */
	struct unix_sk *listener; /* where it is accepted (waiting: is to be accepted) */
	struct unix_sk *partner; /* made together with it by socketpair() */
	bool accepted;		/* the accepted end of a connection: its name is the listener's */
	bool waiting;		/* a client that waits to be accepted */
	bool outside;		/* no socket of ours: stands for one outside, or is given from there */
	bool fake;		/* made up: a peer that is gone, a listener that is closed; closed in the end */
	bool connected, pairing;
	size_t n_before;	/* datagram sockets that must connect to it before it connects itself */
	int file;		/* O_PATH descriptor of the file it is bound to, -1: none */
	struct stand_in_job *bind;
	const char *bind_folder; /* made for it in bind->move_dir */
	int name_at;		 /* the folder of its file */
	const char *name_last;	 /* and the name in there; NULL: it was not bound in place */
	ARRAY(struct unix_packet *) queue;
	size_t sent;
};

/* A file that was in the way of a name. */
struct unix_moved {
	int dir;
	char *name, *aside;
};

/* A process that has the number of a sender, while queues are filled. */
struct unix_holder {
	pid_t number, host; /* in the images, and as we see it */
};

struct unix_state {
	const struct snapshot *s; /* whose it is */
	/* dump */
	bool listed;
	struct file_index diags; /* inode -> struct unix_diag */
	struct file_index seen;	 /* inode -> struct unix_seen */
	ARRAY(struct unix_seen *) all_seen;
	ARRAY(struct unix_packet *) packets;
	struct sock_fresh *fresh[SOCK_SEQPACKET + 1]; /* by type */
	/* restore */
	bool made;
	struct file_index inodes; /* inode -> struct unix_sk */
	struct file_index ids;	  /* file id -> struct unix_sk */
	struct file_index owners; /* file id -> struct snap_task, the first that has it */
	struct file_index listeners; /* (type, name) -> struct unix_sk */
	ARRAY(struct unix_sk *) socks;
	ARRAY(struct unix_moved) moved;
	ARRAY(int) extra_fds; /* descriptors to be closed at the end */
	ARRAY(struct unix_holder) holders; /* processes that have the numbers of senders */
	int scratch; /* root folder for names that do not exist any more */
	int nobody;  /* datagrams of unknown senders come from it; -1: not made yet */
	bool number_taken, listed_files;
	struct file_index bound_files; /* (device, inode) of files that sockets are bound to now */
};

struct unix_state *unix_state(struct op *op, struct snapshot *s);

/* ---- dump */
int unix_name_dump(struct op *op, const struct snapshot *s, const struct fd_view *v, struct unix_seen *u);
int unix_queue_dump(struct op *op, struct snapshot *s, int fd, struct unix_seen *u);
int unix_peers_complete(struct op *op, struct snapshot *s);
int unix_check(struct op *op, const struct fd_view *v);

/* ---- restore */
int unix_read(struct op *op, struct snapshot *s);
int unix_open(struct op *op, struct snapshot *s, struct snap_file *f);
int unix_bind_all(struct op *op, struct unix_state *us);
/* Final owner and mode of socket files. */
int unix_files_finish(struct op *op, struct unix_state *us);
void unix_names_done(struct op *op, struct unix_state *us, bool success);
/* unix_link.c: who is made how, and from whom; adds sockets that are not there any more. */
int unix_link(struct op *op, struct unix_state *us);
/* unix_fill.c: sends what is queued in @sk, in order; stops where the queue is full and @all is false */
int unix_fill(struct op *op, struct snapshot *s, struct unix_sk *sk, bool all);
int unix_holders_start(struct op *op, struct snapshot *s, struct unix_state *us);
void unix_holders_end(struct unix_state *us);
/* Where to send or connect to, to reach @sk: by its file or its name. 0: nowhere. */
socklen_t unix_address(const struct unix_sk *sk, struct sockaddr_un *addr);
/* "unix socket 1234 (file id 7)" */
const char *unix_what(struct op *op, const struct unix_sk *sk);
int unix_sys(struct op *op, const struct unix_sk *sk, const char *what);

#endif
