/* SPDX-License-Identifier: MIT */
/* How the two ends of a page server's connection find each other. */
#ifndef CKPT_IMAGE_PS_NET_H
#define CKPT_IMAGE_PS_NET_H

#include "lib/base/op.h"

/* Listens at --address (any, if none is given) and --port (0: one that is free), for one connection. */
int ps_listen(struct op *op, int *fd, uint16_t *port);
/* Waits for that connection, however long. *@peer: who it is, in the arena. */
int ps_accept(struct op *op, int listener, int *fd, const char **peer);
/* Connects to --address and --port; the addresses of a name are tried one after the other. */
int ps_connect(struct op *op, int *fd, const char **peer);
/* A descriptor of our own of the connected socket --ps-socket. */
int ps_inherit(struct op *op, int *fd, const char **peer);

#endif
