/* SPDX-License-Identifier: MIT */
/* --join-ns: the tree is restored into namespaces that are there already, whatever it lived in. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/state/file/core.h"
#include "lib/state/ns/core.h"

#define IOC_GET_NSTYPE 0xb703 /* linux/nsfs.h */
#define MAX_ID 65535

static int is_wrong(struct op *op, const char *spec, const char *why)
{
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "option"), "--join-ns %s: %s", spec, why);
}

/* ",UID[,GID]" */
static bool ids_make_sense(const char *p)
{
	for (int i = 0; i < 2 && *p == ','; i++) {
		char *end;
		unsigned long id = strtoul(p + 1, &end, 10);

		if (end == p + 1 || p[1] < '0' || p[1] > '9' || id > MAX_ID)
			return false;
		p = end;
	}
	return !*p;
}

int ns_join_parse(struct op *op, const char *spec, struct ns_join *j)
{
	const char *colon = strchr(spec, ':'), *comma;
	size_t n = colon ? (size_t)(colon - spec) : 0;

	*j = (struct ns_join){ .kind = NS_N };
	for (unsigned k = 0; k < NS_N; k++)
		if (n && strlen(ns_info[k].name) == n && !strncmp(spec, ns_info[k].name, n))
			j->kind = k;
	if (!colon || !colon[1])
		return is_wrong(op, spec, "it must be NS:PID or NS:FILE");
	if (j->kind == NS_N || j->kind == NS_CGROUP)
		return is_wrong(op, spec, "namespaces to join are net, uts, time, ipc, user and mnt");
	if (j->kind == NS_PID)
		return is_wrong(op, spec, "a PID namespace cannot be joined: processes could not have their numbers in it");
	comma = strchr(colon + 1, ',');
	if (comma && j->kind != NS_USER)
		return is_wrong(op, spec, "only a user namespace has a UID and a GID");
	if (comma && (comma == colon + 1 || !ids_make_sense(comma)))
		return is_wrong(op, spec, "UID and GID are numbers up to 65535");
	n = comma ? (size_t)(comma - colon - 1) : strlen(colon + 1);
	if (strspn(colon + 1, "0123456789") == n)
		j->path = arena_printf(op->arena, "/proc/%.*s/ns/%s", (int)n, colon + 1, ns_info[j->kind].name);
	else
		j->path = arena_strndup(op->arena, colon + 1, n);
	return j->path ? 0 : op_nomem(op);
}

static int open_it(struct op *op, const char *spec, const struct ns_join *j, int *fd)
{
	*fd = file_high(open(j->path, O_RDONLY | O_CLOEXEC));
	if (*fd < 0)
		return op_errno(op, errno, AT(.kind = "namespace"), "--join-ns %s: open %s", spec, j->path);
	if (ioctl(*fd, IOC_GET_NSTYPE) == ns_info[j->kind].flag)
		return 0;
	close(*fd);
	*fd = -1;
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "namespace"), "--join-ns %s: %s is no %s namespace", spec, j->path,
		       ns_info[j->kind].word);
}

/* Whoever lived in that of the dumper joins it, too: @ns stands for it then. */
static int join(struct op *op, struct snapshot *s, const char *spec)
{
	struct snap_ns *ns;
	struct ns_join j;
	int r = ns_join_parse(op, spec, &j), fd;

	if (r)
		return r;
	if (j.kind == NS_NET && op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		return is_wrong(op, spec, "it contradicts --empty-ns net");
	if (j.kind == NS_USER)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "namespace", .hint = "without it the tree gets one with the maps of the checkpoint"),
			       "--join-ns %s: joining a user namespace is not supported", spec);
	r = open_it(op, spec, &j, &fd);
	if (r)
		return r;
	ns = ns_own(s, j.kind) ?: ns_of(s, &s->tasks.v[0], j.kind);
	if (ns->ours)
		ns = ns_stand_in(op, s, j.kind);
	if (!ns) {
		close(fd);
		return CKPT_E_NOMEM;
	}
	close_fd_p(&ns->fd); /* the last one counts */
	ns->fd = fd;
	ns->joined = true;
	return 0;
}

int ns_join(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < op->opts->join_ns.n && !r; i++)
		r = join(op, s, op->opts->join_ns.v[i]);
	return r;
}
