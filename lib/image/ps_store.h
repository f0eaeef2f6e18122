/* SPDX-License-Identifier: MIT */
/*
 * The receiving end of a page server's session: commands in, page images and pagemaps out, into a folder. What it has made
 * becomes visible under its names only when the peer has said that it was all (CLOSE), and when it is on stable storage:
 * then the peer is told so. Before that, pagemaps have names that no reader looks for.
 */
#ifndef CKPT_IMAGE_PS_STORE_H
#define CKPT_IMAGE_PS_STORE_H

#include "lib/image/image.h"
#include "lib/image/ps_stream.h"

#define PS_FIRST_PAGES_ID 65537u /* those below are the dumping side's own */

struct ps_store_hooks {
	/* Pages were received that a parent may have, too (NULL: nobody cares). @kind: IMG_PAGEMAP or IMG_SHMEM_PAGEMAP. */
	int (*stored)(struct op *op, void *arg, enum img_kind kind, uint32_t id, uint64_t start, uint64_t n_pages);
	void *arg;
};

/*
 * Serves one session on @s. @keep: the connection goes on afterwards (--ps-socket); else the peer has to close it.
 * Returns 0 after a CLOSE. When it fails and *@told is false, img_dir_abort() is due: no peer believes that its pages are safe.
 */
int ps_store(struct op *op, struct img_dir *dir, struct ps_stream *s, bool keep, const struct ps_store_hooks *hooks, bool *told);

#endif
