/* SPDX-License-Identifier: MIT */
/*
 * The init of a fresh pid namespace (ckpt restore --new-pidns): gives it a /proc of its own, says that it is there, reaps
 * whatever is reparented to it, and ends when the restored root task has ended; the kernel then ends what is left.
 */
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/prctl.h>

#include "lib/inject/restorer/restorer.h"

#define TICK_MS 100
#define POLLIN 1
#define WNOHANG 1
#define WALL 0x40000000

struct pollfd {
	int32_t fd;
	int16_t events, revents;
};

static _Noreturn void leave(int status)
{
	for (;;)
		sys(__NR_exit_group, status);
}

/* @ready: pipe to write to; @go: pipe that is closed when the root task exists (or never will). */
_Noreturn void init_main(int ready, int go, int root)
{
	uint64_t none = 0;
	struct pollfd p = { .events = POLLIN };
	char byte;

	sys(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, 8);
	sys(__NR_prctl, PR_SET_NAME, "ckpt-init", 0, 0, 0);
	if (sys(__NR_mount, "none", "/", 0, MS_REC | MS_PRIVATE, 0) < 0 ||
	    sys(__NR_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0) < 0)
		leave(3);
	if (sys(__NR_write, ready, "", 1) != 1 || sys(__NR_read, go, &byte, 1) != 1)
		leave(4);
	p.fd = (int)sys(__NR_pidfd_open, root, 0);
	if (p.fd < 0)
		leave(0);
	/* Nothing of the engine's stays open here. */
	sys(__NR_dup3, p.fd, 0, 0);
	sys(__NR_close_range, 1, ~0u, 0);
	p.fd = 0;
	for (;;) {
		if (sys(__NR_poll, &p, 1, TICK_MS) > 0)
			leave(0);
		while (sys(__NR_wait4, -1, 0, WNOHANG | WALL, 0) > 0)
			;
	}
}
