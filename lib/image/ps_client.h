/* SPDX-License-Identifier: MIT */
/* The sending end of a page server's session, as a sink for page images: what would go into the folder goes to the server. */
#ifndef CKPT_IMAGE_PS_CLIENT_H
#define CKPT_IMAGE_PS_CLIENT_H

#include "lib/image/image.h"
#include "lib/image/ps_stream.h"

struct ps_client;

/* From now on, page images and pagemaps of @dir go to the server at @s, which stays the caller's and is kept by pointer. */
int ps_client_new(struct op *op, struct img_dir *dir, struct ps_stream *s, struct ps_client **ret);
struct ps_client *ps_client_free(struct ps_client *c); /* NULL allowed; returns NULL */
/* Asks whether the server's parent folder has the pagemap of @kind and @id. */
int ps_client_parent(struct op *op, struct ps_client *c, enum img_kind kind, uint32_t id, bool *has);
/*
 * Says that this was all, and waits until the server has said that it is on stable storage. @keep: the connection is not to
 * be closed (it came by --ps-socket).
 */
int ps_client_close(struct op *op, struct ps_client *c, bool keep);

#endif
