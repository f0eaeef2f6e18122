// SPDX-License-Identifier: MIT
/* Any bytes as what one kind of descriptor adds to /proc/PID/fdinfo/N. */
#include "tests/fuzz/fuzz_proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *a = arena_new();
	const char *text = (const char *)data;
	struct proc_fanotify fanotify;
	struct proc_inotify inotify;
	struct proc_timerfd timerfd;
	struct proc_epoll epoll;
	struct proc_pidfd pidfd;
	uint64_t mask;

	if (a) {
		proc_parse_epoll(a, text, size, &epoll);
		proc_parse_inotify(a, text, size, &inotify);
		proc_parse_fanotify(a, text, size, &fanotify);
		proc_parse_timerfd(text, size, &timerfd);
		proc_parse_signalfd(text, size, &mask);
		proc_parse_pidfd(text, size, &pidfd);
	}
	arena_free(a);
	return 0;
}
FUZZ_SEEDS("fdinfo-epoll", "fdinfo-inotify", "fdinfo-fanotify", "fdinfo-pidfd", "fdinfo-timerfd")
