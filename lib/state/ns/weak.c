/* SPDX-License-Identifier: MIT */
/* What the mounts ask of namespaces, until there is more to be told of them. */
#include "lib/state/ns/ns.h"

__attribute__((weak)) struct snap_ns *ns_own(const struct snapshot *s, enum ns_kind kind)
{
	for (size_t i = 0; s->ns && i < s->ns->v.n; i++)
		if (s->ns->v.v[i]->kind == kind && !s->ns->v.v[i]->ours)
			return s->ns->v.v[i];
	return NULL;
}

static int own_fd(const struct snapshot *s, enum ns_kind kind)
{
	const struct snap_ns *n = ns_own(s, kind);

	return n ? n->fd : -1;
}

__attribute__((weak)) struct errand_where ns_where(const struct snapshot *s)
{
	return (struct errand_where){
		.user = own_fd(s, NS_USER), .pid = own_fd(s, NS_PID), .mnt = own_fd(s, NS_MNT), .net = own_fd(s, NS_NET),
		.ipc = own_fd(s, NS_IPC), .uts = own_fd(s, NS_UTS), .cgroup = own_fd(s, NS_CGROUP), .time = -1,
	};
}

__attribute__((weak)) uint32_t ns_uid_inside(const struct snapshot *s, uint32_t id)
{
	(void)s;
	return id;
}

__attribute__((weak)) uint32_t ns_gid_inside(const struct snapshot *s, uint32_t id)
{
	(void)s;
	return id;
}
