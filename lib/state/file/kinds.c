/* SPDX-License-Identifier: MIT */
/* All kinds of descriptors. Order: the first that matches wins, so what is not saved comes before what has only a name. */
#include "lib/state/file/core.h"

const struct file_kind *const file_kinds[] = {
	&file_opaque,
	&file_pipe,
	&file_unix,
	&file_inet,
	&file_netlink,
	&file_packet,
	&file_memfd,
	&file_tty,
	&file_eventfd,
	&file_epoll,
	&file_signalfd,
	&file_timerfd,
	&file_pidfd,
	&file_inotify,
	&file_fanotify,
	&file_procfile,
	&file_nsfile,
	&file_tun,
	&file_bpfmap,
	&file_uring,
	&file_mqueue,
	&file_unsupported,
	&file_fifo,
	&file_reg,
	NULL,
};
