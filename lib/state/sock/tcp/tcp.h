/* SPDX-License-Identifier: MIT */
/*
 * TCP connections in a restore:
 *   tcp_read.c   reads and checks them
 *   tcp_make.c   makes them, in repair mode (TCP_REPAIR): silent, and dead to the world, until tcp_settle()
 *   tcp_fill.c   one of them: parameters, queues
 *   tcp_fin.c    the ends that were sent and received
 *   tcp_tell.c   what the peer is told when they come to life
 */
#ifndef CKPT_STATE_SOCK_TCP_H
#define CKPT_STATE_SOCK_TCP_H

#include "lib/state/sock/inet/inet.h"
#include "lib/state/sock/tcp/segment.h"

#define TCP_HAS_TIMESTAMPS 1u /* tcp_stream_entry.opt_mask, as in TCP_INFO */
#define TCP_HAS_SACK 2u
#define TCP_HAS_SCALES 4u

/*
 * Checks what an image says of a connection in @state (enum inet_tcp_state), and works out where its queues begin. Returns
 * NULL, or what is wrong with it.
 */
const char *tcp_shape_of(uint32_t state, const TcpStreamEntry *m, struct tcp_shape *ret);
/* TCP, with a peer. */
bool tcp_is_connected(const InetSkEntry *m);
/* The connection of @sk: may it be restored, and what its image says. */
int tcp_read(struct op *op, struct snapshot *s, struct inet_sk *sk);

/* All of @is go into repair mode, and are bound. */
int tcp_prepare_all(struct op *op, struct inet_state *is);
/* Their lock holds: they get what they had, but for their options. */
int tcp_make_all(struct op *op, struct inet_state *is);
/* All tasks are complete: they leave repair mode. No packet passes yet. */
int tcp_settle(struct op *op, struct inet_state *is);
/* Packets pass, the tasks are about to run: what waits in queues goes out, and who asked to be connected asks again. */
int tcp_open_up(struct op *op, struct inet_state *is);
/* The tasks run: peers are told. Nothing depends on it. */
void tcp_speak(const struct inet_state *is);
/* After a failure: none of them says anything when it is closed. */
void tcp_silence(const struct inet_state *is);

/* ---- tcp_fill.c */
/* @sk is in repair mode, and not bound yet: address and numbers. */
int tcp_prepare(struct op *op, const struct inet_sk *sk);
/* Its lock holds: connects it, gives it what was agreed with the peer. */
int tcp_connect(struct op *op, const struct inet_sk *sk);
int tcp_fill(struct op *op, const struct inet_sk *sk);
/* The windows. @closed: the peer takes nothing, so that nothing is sent; @before_fin: the FIN that was received is to come yet. */
int tcp_windows(struct op *op, const struct inet_sk *sk, bool closed, bool before_fin);

/* ---- tcp_fin.c */
int tcp_end(struct op *op, const struct inet_sk *sk, struct segment_out *out);
/* The state that the kernel shows, 0: none. */
uint32_t tcp_state_of(int fd);

/* ---- tcp_tell.c: out of repair mode; nothing of what is queued was pushed yet */
void tcp_tell(const struct inet_sk *sk, struct segment_out *out);

#endif
