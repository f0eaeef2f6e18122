/* SPDX-License-Identifier: MIT */
/*
 * The gate before the disk: dumps on one machine know of each other, so that they write in turn instead of all at once.
 * docs/design/neighbours.md says what order that gives, and why.
 *
 * A dump asks before each buffer, and waits where another one goes first. The shared state (gate_state.h) is advice, not a
 * lock: nobody waits for one that is dead, stopped, stuck, waiting itself, or for longer than the rules say, and where the
 * state cannot be used every dump goes as if it were alone. So nothing here fails but by memory and cancellation.
 */
#ifndef CKPT_IMAGE_GATE_H
#define CKPT_IMAGE_GATE_H

#include "lib/base/op.h"

struct gate;

/* So much a dump keeps in flight at most while somebody goes before it: what was queued is in the way of the other. */
#define GATE_CROWDED_BYTES (1u << 20)

/* Takes part by the options io_policy and io_max. @dirfd: the folder of the images. Returns 0 or CKPT_E_NOMEM. */
int gate_open(struct op *op, int dirfd, struct gate **ret);
/* The same with the shared state in the folder @state_dirfd instead of the usual one. */
int gate_open_at(struct op *op, int dirfd, int state_dirfd, struct gate **ret);
/*
 * Before anything is stopped: waits while so much is to be written by others first that a tree frozen now would only stand
 * still. @bytes is an estimate. All of these take NULL for a gate. Returns 0 or the failure of op_check_cancel().
 */
int gate_admit(struct op *op, struct gate *gate, uint64_t bytes);
/* So many bytes are to come (instead of what was believed so far); at least so many. */
void gate_plan(struct gate *gate, uint64_t bytes);
void gate_at_least(struct gate *gate, uint64_t bytes);
/* Waits for our turn to write @bytes more. Whether the tree is frozen is seen from @op. */
int gate_pass(struct op *op, struct gate *gate, uint64_t bytes);
/* The same where the bytes go elsewhere than to the disk: only io_max holds them. */
int gate_pace(struct op *op, struct gate *gate, uint64_t bytes);
/* Somebody goes first, or is about to: keep no more than GATE_CROWDED_BYTES in flight. */
bool gate_crowded(const struct gate *gate);
/* All was written, and is now being synced: the others hold back for a moment. */
void gate_commit(struct gate *gate);
struct gate *gate_close(struct gate *gate); /* returns NULL */

#endif
