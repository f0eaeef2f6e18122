/* SPDX-License-Identifier: MIT */
/* signalfd: a mask. What it reads are signals of whoever reads, so there is nothing else in it. */
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "lib/state/file/core.h"
#include "lib/state/msg.h"

static bool signalfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[signalfd]") == 0;
}

static int signalfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	SignalfdEntry *m = msg_new(op, SignalfdEntry, signalfd_entry);

	(void)s;
	if (!m)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->sgfd = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	if (proc_parse_signalfd(v->info.rest, v->info.rest_len, &m->sigmask) != 0)
		return file_refuse(op, v, "signalfd", NULL, "the kernel does not show its mask");
	return 0;
}

static int signalfd_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const SignalfdEntry *m = f->msg->sgfd;

	(void)s;
	/* Not the C library's function: that one keeps signals to itself. */
	f->fd = file_high((int)syscall(__NR_signalfd4, -1, &m->sigmask, sizeof(m->sigmask), SFD_CLOEXEC | SFD_NONBLOCK));
	if (f->fd < 0 || file_set_flags(f->fd, m->flags) < 0)
		return op_errno(op, errno, AT(.kind = "signalfd"), "cannot create signalfd id %u", f->id);
	return 0;
}

const struct file_kind file_signalfd = {
	.name = "signalfd",
	.type = FD_TYPES__SIGNALFD,
	.message = offsetof(FileEntry, sgfd),
	.match = signalfd_match,
	.dump = signalfd_dump,
	.open = signalfd_open,
};
