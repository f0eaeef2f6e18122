/* SPDX-License-Identifier: MIT */
/*
 * TCP connections that are complete, but that nobody has accepted yet: they sit in the queue of a listener, and in no
 * descriptor. The only way to look into them is accept(), so each is taken out of the queue, read, and put back at its end,
 * one after the other, until the queue has turned once; a restore only puts in. docs/design/pending-connections.md
 *   pending.c        dump
 *   pending_make.c   restore
 *   pending_turn.c   the process that takes, reads and puts
 *   pending_door.c   how a connection gets into the queue of a listener
 *   pending_btf.c    number of a kernel function, which the door needs
 */
#ifndef CKPT_STATE_PENDING_H
#define CKPT_STATE_PENDING_H

#include "lib/state/sock/inet/inet.h"
#include "lib/state/sock/netlock/netlock.h"

typedef ARRAY(struct netlock_tuple) netlock_tuples;

/* ---- dump: inet.c calls these, all tasks frozen, all sockets seen */
/*
 * Finds such connections of all listeners, and refuses what could not be saved, as long as nothing is changed. Adds what the
 * network lock must hold back to @tuples. With --skip-in-flight or --tcp-close: says how many are dropped, and that is all.
 */
int pending_look(struct op *op, struct snapshot *s, netlock_tuples *tuples);
/* Once the lock holds: reads them into the extras of their listeners. When it returns, they are in their queues again. */
int pending_dump(struct op *op, struct snapshot *s);
/* At the end of the operation, however it ends. */
void pending_done(struct inet_state *is);

/* `ckpt check`: refuses what pending_look() would, as far as it is a matter of options. @copy is a descriptor of @u. */
int pending_check(struct op *op, int copy, struct inet_seen *u);

/* ---- restore */
/* Checks those of @sk, in sk->x. */
int pending_read(struct op *op, const struct inet_sk *sk);
/* Adds what the network lock must hold back. */
int pending_tuples(struct op *op, const struct inet_sk *sk, netlock_tuples *tuples);
/* All listeners listen, with all their options, and the lock holds: puts them in. */
int pending_make(struct op *op, const struct inet_state *is);
/* After a failure, while the lock holds: closes those listeners, so that no peer hears of it. */
void pending_silence(const struct inet_state *is);

/* ---- what follows is for pending*.c */
/* A connection, without pointers: in memory shared with the process that takes and puts. Addresses are as on the wire. */
struct pending_conn {
	union inet_addr local, peer;
	uint32_t state; /* enum inet_tcp_state; CLOSE: the peer has reset it */
	bool fin;	/* received */
	uint32_t rcv_start, snd_next; /* sequence numbers of the first byte in the queue, of the first to send */
	uint32_t opt_mask, snd_wscale, rcv_wscale, mss, timestamp;
	uint32_t snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup;
	uint32_t rcvbuf;
	uint8_t tos;
	uint64_t at; /* of its bytes in the pool */
	uint32_t n;
	enum { PENDING_ASIDE, PENDING_TAKEN, PENDING_IN } where;
};

/* As the network lock wants it. */
void pending_tuple(const union inet_addr *local, const union inet_addr *peer, struct netlock_tuple *t);

/* ---- pending_btf.c: pure. Number of function @name in the type information @b, 0: not there, -1: damaged */
int pending_btf_func(const void *b, size_t n, const char *name);

/* ---- pending_door.c */
struct pending_door {
	int job, socks, prog, link, raw4, raw6;
};
#define PENDING_DOOR_INIT { -1, -1, -1, -1, -1, -1 }
/* Of our network namespace. 0, or CKPT_E_NOMEM, or positive: *@why says why it cannot be. Tries it with a connection of its own. */
int pending_door_open(struct op *op, struct pending_door *d, const char **why);
void pending_door_close(struct pending_door *d);

/* What goes wrong: @step is a constant. */
struct pending_fault {
	const char *step;
	int err;
};
/* System calls only, as all of pending_turn.c. -1: @fault says where. The connection is then partly in, or not at all. */
int pending_put(const struct pending_door *d, int listener, uint32_t ifindex, const struct pending_conn *c, const uint8_t *bytes,
		struct pending_fault *fault);
/* State and bytes to read (with a FIN: one more); 0 and 0 where there is no such connection (the listener is found then). -1 (errno) */
int pending_look_at(const struct pending_conn *c, uint32_t ifindex, uint32_t *state, uint32_t *queued);
int pending_count(int listener); /* how many wait; -1 (errno) */

/* ---- pending_turn.c */
struct pending_turn {
	int listener;
	uint32_t ifindex; /* that it is bound to; 0: none */
	bool take;	  /* first take each out of the queue; else they are in the pool already */
	size_t n;	  /* so many */
	struct pending_conn *conns; /* of the mapping */
	/* what came out */
	size_t done;
	struct pending_fault fault; /* of conns[done] */
};
/* Memory shared with that process. */
struct pending_pool {
	size_t size, used;
	uint8_t *bytes;
	struct pending_conn *conns;
	size_t n_conns;
};
int pending_pool_new(struct op *op, struct pending_pool *p, size_t n_conns, size_t bytes);
void pending_pool_free(struct pending_pool *p);
/*
 * In a process of its own, that goes on when we are killed: a queue that was begun turns to its end. Sets .done and .fault; only
 * what hinders the process itself is returned.
 */
int pending_turn_run(struct op *op, const struct pending_door *d, struct pending_pool *p, struct pending_turn *turn);

#endif
