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

/*
 * A service: a socket that everybody may connect to. Each connection has a worker of its own, a child of ours. A worker for another
 * user than root has that user's rights, and no others.
 */
struct rpc_service {
	struct rpc_conf conf;
	int dir;		/* where @path begins, if it is relative; -1: the current folder */
	const char *path;	/* of the socket; one that is there is replaced */
	void (*ready)(void *arg);	/* others can connect; NULL: nobody wants to know */
	bool (*stop)(void *arg);	/* asked after each signal: it is time to end */
	void (*say)(void *arg, enum ckpt_log_level level, const char *text);
	void *arg;
};

/* Returns 0 when it was stopped, -1 where there is no socket; it has said why. In a worker it returns that one's exit status. */
int rpc_serve(const struct rpc_service *service);

#endif
