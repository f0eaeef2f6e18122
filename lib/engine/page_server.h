/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_PAGE_SERVER_H
#define CKPT_ENGINE_PAGE_SERVER_H

#include "lib/base/op.h"

/* One connection: receives pages into the images folder, or serves those that are in it. See ckpt_page_server(). */
int page_server_run(struct op *op, ckpt_ready_fn ready, void *arg);
/* Tells whoever waits at --status-fd that we listen. */
int tell_ready(struct op *op);

#endif
