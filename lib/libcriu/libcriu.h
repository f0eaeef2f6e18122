/* SPDX-License-Identifier: MIT */
/* The inside of libcriu.so. */
#ifndef CKPT_LIBCRIU_LIBCRIU_H
#define CKPT_LIBCRIU_LIBCRIU_H

#include "rpc.pb-c.h"

#include "include/criu/criu.h"

struct criu_opts {
	CriuOpts *rpc;
	bool served;	/* somebody was named who does it all: by one of the three below */
	enum criu_service_comm comm;
	char *address, *binary;
	int fd;
	int (*notify)(char *action, criu_notify_arg_t na);
};

struct _criu_notify {
	int pid;
};

/* The state of the whole process, which this interface has. */
extern __attribute__((visibility("hidden"))) criu_opts *libcriu_global;
extern __attribute__((visibility("hidden"))) int libcriu_pts_master;

/*
 * worker.c: sends @req to whoever was named (with @fork: to a worker that is started) and answers its events. Returns 0 with
 * *@resp, or a negative errno.
 */
int libcriu_send(criu_opts *o, const CriuReq *req, bool fork, CriuResp **resp);

#endif
