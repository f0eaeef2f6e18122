/* SPDX-License-Identifier: MIT */
/* A dump whose pages go to a page server. Without --page-server, all of this does nothing. */
#ifndef CKPT_ENGINE_DUMP_REMOTE_H
#define CKPT_ENGINE_DUMP_REMOTE_H

#include "lib/image/ps_client.h"

struct remote {
	struct ps_stream stream;
	struct ps_client *client; /* NULL: pages stay here */
	int fd;
};
#define REMOTE_INIT { .fd = -1 }

/* Connects; from now on page images and pagemaps of @dir go there. Before anything is stopped: this may take its time. */
int remote_begin(struct op *op, struct img_dir *dir, struct remote *rm);
/* Waits until the server has said that everything is on stable storage. */
int remote_commit(struct op *op, struct remote *rm);
/* The connection is closed; without remote_commit() the server throws away what it has. May be called twice. */
void remote_end(struct remote *rm);

#endif
