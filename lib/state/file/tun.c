/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of /dev/net/tun: not attached yet, or attached to a network device that stays when nobody is (persistent). A
 * device that ends with its last descriptor would have to be made again with its addresses and routes, which is a matter
 * of its network namespace: refused. In files.img such a file is two entries with one id: a REG and a TUNF.
 */
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"
#include "lib/state/sock/sock.h"

#define NOT_OURS (IFF_PERSIST | IFF_DETACH_QUEUE) /* flags that are told, but not asked for */

static bool tun_match(const struct fd_view *v)
{
	return S_ISCHR(v->st.st_mode) && v->st.st_rdev == makedev(10, 200) && !(v->info.flags & O_PATH);
}

/* ---------------------------------------------------------------------------------------------------- dump */

static bool in_our_netns(int fd)
{
	_cleanup_close_ int theirs = ioctl(fd, SIOCGSKNS);
	struct stat a, b;

	return theirs < 0 || (fstat(theirs, &a) == 0 && stat("/proc/thread-self/ns/net", &b) == 0 && a.st_ino == b.st_ino);
}

/* 1: not attached. */
static int look(struct op *op, const struct fd_view *v, int fd, struct ifreq *ifr)
{
	memset(ifr, 0, sizeof(*ifr));
	if (!in_our_netns(fd))
		return file_refuse(op, v, "tun", NULL, "it belongs to another network namespace, which is not supported");
	if (ioctl(fd, TUNGETIFF, ifr) < 0)
		return errno == EBADFD ? 1 : file_errno(op, v, "ask for its network device");
	if (!(ifr->ifr_flags & IFF_PERSIST))
		return file_refuse(op, v, "tun", "make the device persistent (TUNSETPERSIST) and configure it outside of the program",
				   "network device %.16s would end with the program", ifr->ifr_name);
	return 0;
}

static int tun_check(struct op *op, const struct fd_view *v)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(v->pid, 0), copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
	struct ifreq ifr;

	return copy < 0 ? 0 : MIN(look(op, v, copy, &ifr), 0);
}

static RegFileEntry *reg_entry(struct op *op, const struct snapshot *s, const struct fd_view *v, uint32_t id)
{
	RegFileEntry *m = msg_new(op, RegFileEntry, reg_file_entry);

	if (!m)
		return NULL;
	m->id = id;
	m->flags = v->info.flags;
	m->pos = POS_NONE;
	m->fown = file_fown(op, v);
	m->name = arena_strdup(op->arena, v->link);
	reg_note_mount(s, v, m);
	return m->fown && m->name ? m : NULL;
}

static int dump_attached(struct op *op, struct snapshot *s, const struct fd_view *v, const struct ifreq *ifr, TunfileEntry *m)
{
	TunExtra *x = msg_new(op, TunExtra, tun_extra), **slot = x ? ARRAY_ADD(op->arena, &s->file_state->tuns) : NULL;
	int sndbuf, header;

	if (!slot)
		return op_nomem(op);
	*slot = x;
	if (ioctl(v->copy, TUNGETSNDBUF, &sndbuf) < 0 || ioctl(v->copy, TUNGETVNETHDRSZ, &header) < 0)
		return file_errno(op, v, "ask for its properties");
	x->file_id = m->id;
	x->flags = (uint16_t)ifr->ifr_flags & ~(uint32_t)NOT_OURS;
	x->sndbuf = sndbuf;
	x->vnet_header = header;
	msg_set(m, detached, !!(ifr->ifr_flags & IFF_DETACH_QUEUE));
	m->netdev = arena_strndup(op->arena, ifr->ifr_name, strnlen(ifr->ifr_name, IFNAMSIZ));
	return m->netdev ? 0 : op_nomem(op);
}

static int tun_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	TunfileEntry *m = msg_new(op, TunfileEntry, tunfile_entry);
	struct ifreq ifr;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	if (v->fd < 0)
		return file_refuse(op, v, "tun", NULL, "it is mapped");
	m->id = f->id;
	m->has_ns_id = sock_ns_id(s, &m->ns_id);
	f->msg->tunf = m;
	f->msg->reg = reg_entry(op, s, v, f->id);
	if (!f->msg->reg)
		return op_nomem(op);
	r = look(op, v, v->copy, &ifr);
	return r ? MIN(r, 0) : dump_attached(op, s, v, &ifr, m);
}

static int tun_write(struct op *op, struct snapshot *s)
{
	(void)op;
	if (!s->extra || !s->file_state->tuns.n)
		return 0;
	s->extra->n_tuns = s->file_state->tuns.n;
	s->extra->tuns = s->file_state->tuns.v;
	return 0;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int tun_read(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const TunfileEntry *m = f->kind == &file_tun ? f->msg->tunf : NULL;

		if (m && (!f->msg->reg || (m->netdev && (!m->netdev[0] || strlen(m->netdev) >= IFNAMSIZ))))
			return image_bad(op, "files.img: id %u: what a tun descriptor needs is missing or makes no sense", f->id);
	}
	return 0;
}

static int fail(struct op *op, const struct snap_file *f, const char *what)
{
	return op_errno(op, errno, AT(.kind = "tun"), "files.img: id %u: cannot %s %s", f->id, what,
			f->msg->tunf->netdev ?: f->msg->reg->name);
}

static int open_device(struct op *op, const struct snapshot *s, struct snap_file *f)
{
	struct stat st;

	f->fd = file_high(view_open(reg_view(s, f->msg->reg), f->msg->reg->name, O_RDWR | O_CLOEXEC, 0));
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return fail(op, f, "open");
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(10, 200))
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "tun"), "%s is not the tun device", f->msg->reg->name);
	return file_set_flags(f->fd, f->msg->reg->flags) < 0 ? fail(op, f, "set the flags of") : 0;
}

static const TunExtra *extra_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_tuns; i++)
		if (s->extra->tuns[i]->file_id == id)
			return s->extra->tuns[i];
	return NULL;
}

static int attach(struct op *op, const struct snap_file *f, const TunExtra *x)
{
	const TunfileEntry *m = f->msg->tunf;
	struct ifreq ifr = { .ifr_flags = (short)(x->flags & ~(uint32_t)NOT_OURS) };

	/* It would be made, and without its addresses. */
	if (!if_nametoindex(m->netdev))
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "tun", .hint = "make it again, with its addresses (ip tuntap add)"),
			       "network device %s, which was persistent, is gone", m->netdev);
	memcpy(ifr.ifr_name, m->netdev, strlen(m->netdev));
	if (ioctl(f->fd, TUNSETIFF, &ifr) < 0)
		return fail(op, f, "attach to");
	if (ioctl(f->fd, TUNSETSNDBUF, &x->sndbuf) < 0 || ((x->flags & IFF_VNET_HDR) && ioctl(f->fd, TUNSETVNETHDRSZ, &x->vnet_header) < 0))
		return fail(op, f, "set the properties of");
	ifr.ifr_flags = IFF_DETACH_QUEUE;
	return m->detached && ioctl(f->fd, TUNSETQUEUE, &ifr) < 0 ? fail(op, f, "detach a queue of") : 0;
}

static int tun_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const TunExtra *x = extra_of(s, f->id);
	int r = open_device(op, s, f);

	if (r || !f->msg->tunf->netdev)
		return r;
	if (!x)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "tun"),
			       "files.img: id %u: tun device %s belongs to a network namespace of the checkpoint, which is not supported yet",
			       f->id, f->msg->tunf->netdev);
	return attach(op, f, x);
}

const struct file_kind file_tun = {
	.name = "tun",
	.type = FD_TYPES__TUNF,
	.message = offsetof(FileEntry, tunf),
	.match = tun_match,
	.check = tun_check,
	.dump = tun_dump,
	.write = tun_write,
	.read = tun_read,
	.open = tun_open,
};
