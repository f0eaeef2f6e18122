/* SPDX-License-Identifier: MIT */
/*
 * A userfaultfd by which the kernel notes what a process writes to: write protection in its asynchronous form, where a first
 * write clears the mark of its page by itself, and nobody has to answer. It belongs to the address space of whoever makes
 * it, so a twin of the process does, and we take it over: the table of descriptors of the process never has it.
 */
#ifndef CKPT_INJECT_UFFD_H
#define CKPT_INJECT_UFFD_H

#include "lib/inject/remote.h"

/*
 * Makes one for a frozen process. @journal may be NULL. Positive: it cannot be had for this process; nothing is recorded
 * then.
 */
#define UFFD_NONE 1
int uffd_make(struct op *op, struct target *t, struct journal *journal, int *uffd);

/* Is its address space still there? That of a program that executed another one is not. */
bool uffd_alive(int uffd);
/* Notes writes to [start, end) from now on; what is noted already goes on. 0, or the errno: EBUSY: another descriptor's. */
int uffd_register(int uffd, uint64_t start, uint64_t end);

#endif
