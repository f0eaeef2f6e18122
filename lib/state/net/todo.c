/* SPDX-License-Identifier: MIT */
/* Until this part is there, a network namespace of the tree's own is refused. */
#include "lib/state/net/net.h"

static int refuse(struct op *op, struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_NET);

	if (!ns || ns->joined || ns->ext_key || op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = s->tasks.v[0].pid, .kind = "namespace"),
		       "the tree has a network namespace of its own, which is not supported yet");
}

int net_dump(struct op *op, struct snapshot *s)
{
	return refuse(op, s);
}

int net_write(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0;
}

int net_read(struct op *op, struct snapshot *s)
{
	return refuse(op, s);
}

int net_make(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0;
}

void net_done(struct op *op, struct snapshot *s, bool success)
{
	(void)op;
	(void)s;
	(void)success;
}
