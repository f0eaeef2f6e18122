/* SPDX-License-Identifier: MIT */
/* Syscall user dispatch must not see what we make a thread do. */
#ifndef CKPT_INJECT_SUD_H
#define CKPT_INJECT_SUD_H

#include "lib/inject/journal.h"
#include "lib/inject/tracee.h"

/* Reads it into each thread's ->sud, and turns it off where it would bite. @j may be NULL. */
int sud_suspend(struct op *op, struct target *t, struct journal *j);
/* Puts it back. Never fails; no harm where there is nothing to put back. */
void sud_resume(struct target *t, struct journal *j);

#endif
