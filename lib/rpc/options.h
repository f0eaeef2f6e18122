/* SPDX-License-Identifier: MIT */
/* From the options of a request to those of the library. */
#ifndef CKPT_RPC_OPTIONS_H
#define CKPT_RPC_OPTIONS_H

#include "rpc.pb-c.h"

#include "ckpt/ckpt.h"
#include "lib/front/config.h"

struct rpc_opts {
	struct ckpt_opts opts;		/* lists are ours; strings are the message's, those below, and the defaults' */
	char **strings;			/* made from fields; owned */
	size_t n_strings;
	struct config config;		/* words of config_file */
	/* what no field of the library stands for; descriptors are numbers of the client's, -1: not given */
	int images_dir_fd, work_dir_fd, status_fd;
	bool log_to_stderr;
};

/* What a peer may ask. */
enum {
	RPC_OWN_FDS = 1 << 0,	/* name descriptors that the worker inherited, and be the parent of what it restores */
	RPC_SCRIPTS = 1 << 1,	/* name a configuration file, and have action scripts run */
};

/*
 * Fills @to from @from (NULL: nothing is asked for) over @defaults (may be NULL), both of which have to outlive it. Returns 0, or -1
 * with a sentence about the option that makes no sense in *@wrong: free(3) it; NULL: out of memory. rpc_opts_clear() in any case.
 */
int rpc_opts_set(struct rpc_opts *to, const CriuOpts *from, const struct ckpt_opts *defaults, unsigned may, char **wrong);
void rpc_opts_clear(struct rpc_opts *o);

#endif
