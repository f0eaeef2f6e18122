/* SPDX-License-Identifier: MIT */
/*
 * Since when does a thread sleep? The kernel keeps what is left of a relative sleep to itself, but /proc/PID/sched shows
 * when the thread was last given a CPU (se.exec_start), which for one that sleeps now is, within microseconds, when it went
 * to sleep. That time is on the task clock of the CPU it ran on, which differs from CPU to CPU and from every clock that
 * can be read (it leaves out time that interrupts and the hypervisor took). So we run on that CPU for a moment, and see
 * where the clock stands in our own entry. Time that was stolen while the thread slept makes the sleep look shorter, never
 * longer.
 */
#ifndef CKPT_INJECT_SLEEPERS_H
#define CKPT_INJECT_SLEEPERS_H

#include <sched.h>

#include "lib/inject/tracee.h"

struct sleepers {
	cpu_set_t own_affinity; /* of the calling thread, which is moved about */
	bool usable, moved;
	int64_t offset[CPU_SETSIZE]; /* CLOCK_MONOTONIC less the CPU's task clock, ns; 0: not asked yet */
};

void sleepers_begin(struct sleepers *s);
/* Fills @tr->wchan and @tr->slept_since of a thread that runs free. Failures only mean that nothing is known. */
void sleepers_note(struct op *op, struct sleepers *s, pid_t pid, struct tracee *tr);
/* Puts the caller's affinity back. */
void sleepers_end(struct sleepers *s);

#endif
