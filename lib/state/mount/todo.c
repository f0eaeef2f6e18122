/* SPDX-License-Identifier: MIT */
/* Until this part is there, a mount namespace of the tree's own is refused. */
#include "lib/state/mount/mount.h"

static int refuse(struct op *op, struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_MNT);

	if (!ns || ns->joined || ns->ext_key)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = s->tasks.v[0].pid, .kind = "namespace"),
		       "the tree has a mount namespace of its own, which is not supported yet");
}

int mounts_dump_begin(struct op *op, struct snapshot *s)
{
	return refuse(op, s);
}

int mounts_dump_contents(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0;
}

int mounts_write(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0;
}

int mounts_read(struct op *op, struct snapshot *s)
{
	return refuse(op, s);
}

int mounts_make(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0;
}

void mounts_done(struct op *op, struct snapshot *s, bool success)
{
	(void)op;
	(void)s;
	(void)success;
}
