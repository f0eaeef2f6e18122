/* SPDX-License-Identifier: MIT */
/*
 * The service protocol: what container runtimes and libcriu.so speak. A request is one message (criu_req of rpc.proto) in one
 * packet of a SOCK_SEQPACKET socket, and so is its answer; see docs/guide/rpc.md.
 *
 * Like a program this folder uses the public header of the library, and nothing below it.
 */
#ifndef CKPT_RPC_RPC_H
#define CKPT_RPC_RPC_H

#include "ckpt/ckpt.h"

struct rpc_conf {
	struct ckpt_ctx *ctx;
	const struct ckpt_opts *defaults; /* of configuration files and a command line; requests go before them. NULL: none */
	bool service;			  /* whoever can connect is served: what only a worker's own parent may ask is refused */
};

/* Serves the client at the other end of @fd, which is closed. Returns the exit status that clients expect of the worker. */
int rpc_work(int fd, const struct rpc_conf *conf);

#endif
