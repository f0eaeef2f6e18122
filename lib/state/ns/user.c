/* SPDX-License-Identifier: MIT */
/*
 * User namespaces: id maps, and whether groups may be set. Numbers of users and groups in the images are those inside of the
 * tree's user namespace; what the kernel tells us, and takes from us, are ours.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/image/image.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/msg.h"
#include "lib/state/ns/core.h"

#define IOC_GET_USERNS 0xb701 /* linux/nsfs.h */
#define MAX_EXTENTS 340 /* of the kernel's */
#define LINE 36		/* of a map: three numbers, blanks and newline */
#define NOBODY ((uint32_t)-1)

struct user_ns {
	UsernsEntry *e;
	UserNsExtra *extra; /* NULL: nothing more is known */
};

static struct user_ns *user_of(const struct snap_ns *ns)
{
	return ns->priv;
}

/* ------------------------------------------------------------------------------------------------ numbers */

static uint32_t translate(UidGidExtent *const *v, size_t n, uint32_t id, bool inside)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t from = inside ? v[i]->lower_first : v[i]->first, to = inside ? v[i]->first : v[i]->lower_first;

		if (id >= from && id - from < v[i]->count)
			return to + (id - from);
	}
	return NOBODY;
}

static uint32_t translated(const struct snapshot *s, uint32_t id, bool group, bool inside)
{
	const struct snap_ns *ns = ns_own(s, NS_USER);
	const UsernsEntry *e = ns && ns->priv ? user_of(ns)->e : NULL;

	if (!ns || id == NOBODY)
		return id;
	if (!e)
		return NOBODY;
	return group ? translate(e->gid_map, e->n_gid_map, id, inside) : translate(e->uid_map, e->n_uid_map, id, inside);
}

uint32_t ns_uid_inside(const struct snapshot *s, uint32_t id)
{
	return translated(s, id, false, true);
}

uint32_t ns_gid_inside(const struct snapshot *s, uint32_t id)
{
	return translated(s, id, true, true);
}

uint32_t ns_uid_outside(const struct snapshot *s, uint32_t id)
{
	return translated(s, id, false, false);
}

uint32_t ns_gid_outside(const struct snapshot *s, uint32_t id)
{
	return translated(s, id, true, false);
}

static uint32_t first_id(UidGidExtent *const *v, size_t n)
{
	return !n || translate(v, n, 0, false) != NOBODY ? 0 : v[0]->first;
}

void ns_user_first(const struct snapshot *s, uint32_t *uid, uint32_t *gid)
{
	const struct snap_ns *ns = ns_own(s, NS_USER);
	const UsernsEntry *e = ns && ns->priv ? user_of(ns)->e : NULL;

	*uid = e ? first_id(e->uid_map, e->n_uid_map) : 0;
	*gid = e ? first_id(e->gid_map, e->n_gid_map) : 0;
}

bool ns_groups_denied(const struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_USER);

	return ns && ns->priv && user_of(ns)->extra && user_of(ns)->extra->setgroups_denied;
}

size_t ns_groups_before(const struct snapshot *s, const uint32_t **groups)
{
	*groups = ns_groups_denied(s) ? user_of(ns_own(s, NS_USER))->extra->groups : NULL;
	return *groups ? user_of(ns_own(s, NS_USER))->extra->n_groups : 0;
}

/* --------------------------------------------------------------------------------------------------- dump */

static int add_extents(struct op *op, const struct proc_id_map *map, UidGidExtent ***v, size_t *n)
{
	*v = op_alloc(op, (map->v.n + 1) * sizeof(**v));
	for (size_t i = 0; *v && i < map->v.n; i++) {
		UidGidExtent *x = msg_new(op, UidGidExtent, uid_gid_extent);

		if (!x)
			return CKPT_E_NOMEM;
		x->first = map->v.v[i].inside;
		x->lower_first = map->v.v[i].outside;
		x->count = map->v.v[i].count;
		(*v)[(*n)++] = x;
	}
	return *v ? 0 : CKPT_E_NOMEM;
}

static int read_map(struct op *op, pid_t host, const char *file, UidGidExtent ***v, size_t *n)
{
	struct proc_id_map map;
	char *text;
	size_t len;
	int r = proc_read_file(op, host, file, &text, &len);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = host), "process %d is gone", host);
	if (proc_parse_id_map(op->arena, text, len, &map) < 0)
		return op_fail(op, CKPT_E_SYS, AT(.pid = host, .kind = "namespace"), "cannot make sense of /proc/%d/%s", host, file);
	return add_extents(op, &map, v, n);
}

/* Who may not set groups has those that were there before: nobody can make them again inside. */
static int read_extra(struct op *op, struct snapshot *s, struct snap_ns *ns, struct user_ns *u)
{
	UserNsExtra *x = msg_new(op, UserNsExtra, user_ns_extra), **slot;
	struct proc_status status;
	char *text;
	size_t len;
	int r;

	slot = op_alloc(op, (s->extra->n_user_namespaces + 1) * sizeof(*slot));
	if (!x || !slot)
		return CKPT_E_NOMEM;
	x->id = ns->id;
	r = proc_read_file(op, ns->host, "setgroups", &text, &len);
	r = r ?: proc_read_status(op, ns->host, &status);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = ns->host), "process %d is gone", ns->host);
	if (strncmp(text, "deny", 4) == 0) {
		msg_set(x, setgroups_denied, true);
		x->groups = status.groups;
		x->n_groups = status.n_groups;
	}
	if (s->extra->n_user_namespaces)
		memcpy(slot, s->extra->user_namespaces, s->extra->n_user_namespaces * sizeof(*slot));
	slot[s->extra->n_user_namespaces++] = x;
	s->extra->user_namespaces = slot;
	u->extra = x;
	return 0;
}

static int look_into(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct user_ns *u = op_new(op, struct user_ns);
	int r;

	if (!u || !(u->e = msg_new(op, UsernsEntry, userns_entry)))
		return CKPT_E_NOMEM;
	ns->priv = u;
	r = read_map(op, ns->host, "uid_map", &u->e->uid_map, &u->e->n_uid_map);
	r = r ?: read_map(op, ns->host, "gid_map", &u->e->gid_map, &u->e->n_gid_map);
	return r ?: read_extra(op, s, ns, u);
}

/* What is made by tasks of one user namespace belongs to it; others could not be given theirs. */
static int check_owner(struct op *op, const struct snap_ns *ns, const struct snap_ns *user, uint64_t our_user)
{
	_cleanup_close_ int fd = ioctl(ns->fd, IOC_GET_USERNS);
	struct stat st;

	if (fd < 0 && errno != EPERM)
		return op_errno(op, errno, AT(.pid = ns->host, .kind = "namespace"), "ask whom the %s namespace of process %d belongs to",
				ns_info[ns->kind].word, ns->host);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == (user ? user->ino : our_user))
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = ns->host, .kind = "namespace"),
		       "the %s namespace of process %d belongs to another user namespace than %s", ns_info[ns->kind].word, ns->host,
		       user ? "that of the tree" : "ours");
}

/*
 * Who lives in a user namespace may choose numbers in the PID namespaces that belong to it only. The root task is made from
 * outside.
 */
static int check_numbers(struct op *op, const struct snapshot *s, const struct snap_ns *own)
{
	const struct snap_ns *pid = ns_own(s, NS_PID);
	struct proc_status status = { .threads = 1 };
	int r;

	if (pid && !pid->ext_key)
		return 0;
	r = proc_read_status(op, own->host, &status);
	if (r < 0 || (s->tasks.n == 1 && status.threads == 1))
		return r < 0 ? r : 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = own->host, .kind = "namespace"),
		       "process %d lives in a user namespace without a PID namespace of its own: its %s could not be given their numbers again",
		       own->host, s->tasks.n > 1 ? "children" : "threads");
}

int ns_user_begin(struct op *op, struct snapshot *s)
{
	struct snap_ns *own = ns_own(s, NS_USER);
	struct stat ours;
	int r = own ? look_into(op, s, own) ?: check_numbers(op, s, own) : 0;

	if (!r && stat("/proc/thread-self/ns/user", &ours) < 0)
		return 0; /* a kernel without user namespaces */
	for (size_t i = 0; i < s->ns->v.n && !r; i++) {
		const struct snap_ns *ns = s->ns->v.v[i];

		if (!ns->ours && !ns->ext_key && ns->kind != NS_USER)
			r = check_owner(op, ns, own, ours.st_ino);
	}
	return r;
}

static int user_write(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	return img_write_one(op, s->dir, IMG_USERNS, ns->id, &user_of(ns)->e->base);
}

/* ------------------------------------------------------------------------------------------------ restore */

static int check_map(struct op *op, const struct snap_ns *ns, UidGidExtent *const *v, size_t n)
{
	bool sound = n <= MAX_EXTENTS;

	for (size_t i = 0; i < n && sound; i++)
		sound = v[i]->count && v[i]->first <= UINT32_MAX - (v[i]->count - 1) &&
			v[i]->lower_first <= UINT32_MAX - (v[i]->count - 1);
	return sound ? 0 : op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "userns-%u.img: a map makes no sense", ns->id);
}

static int user_read(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct user_ns *u = op_new(op, struct user_ns);
	ProtobufCMessage *m = NULL;
	int r = u ? img_read_one(op, s->dir, IMG_USERNS, ns->id, &m) : CKPT_E_NOMEM;

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "userns-%u.img is missing", ns->id);
	if (r)
		return r;
	u->e = (UsernsEntry *)m;
	for (size_t i = 0; s->extra && i < s->extra->n_user_namespaces; i++)
		if (s->extra->user_namespaces[i]->id == ns->id)
			u->extra = s->extra->user_namespaces[i];
	ns->priv = u;
	return check_map(op, ns, u->e->uid_map, u->e->n_uid_map) ?: check_map(op, ns, u->e->gid_map, u->e->n_gid_map);
}

static int put(struct op *op, pid_t host, const char *file, const char *text, size_t n)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", host, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, text, n) == (ssize_t)n)
		return 0;
	return op_errno(op, errno, AT(.pid = host, .kind = "namespace"), "write the %s of the user namespace", file);
}

/* The kernel takes a map whole. */
static int write_map(struct op *op, pid_t host, const char *file, UidGidExtent *const *v, size_t n)
{
	char *text = op_alloc(op, n * LINE + 1);
	size_t len = 0;

	if (!text)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(text + len, LINE, "%u %u %u\n", v[i]->first, v[i]->lower_first, v[i]->count);
	return len ? put(op, host, file, text, len) : 0;
}

static int user_make(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	const struct user_ns *u = user_of(ns);
	int r = 0;

	(void)s;
	if (u->extra && u->extra->setgroups_denied)
		r = put(op, ns->host, "setgroups", "deny", 4);
	r = r ?: write_map(op, ns->host, "uid_map", u->e->uid_map, u->e->n_uid_map);
	return r ?: write_map(op, ns->host, "gid_map", u->e->gid_map, u->e->n_gid_map);
}

const struct ns_content ns_user = { .write = user_write, .read = user_read, .make = user_make };
