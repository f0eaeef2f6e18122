/* SPDX-License-Identifier: MIT */
#include "lib/engine/leave.h"

#include "lib/state/mount/mount.h"
#include "lib/state/net/net.h"
#include "lib/state/ns/ns.h"

void namespaces_leave(struct op *op, struct snapshot *s, bool success)
{
	if (ns_visit(op, s, false) != 0)
		log_warn(op, "the calling thread stays in the network namespace of the tree: it cannot enter its own again");
	net_done(op, s, success);
	mounts_done(op, s, success);
	ns_done(s);
}
