/* SPDX-License-Identifier: MIT */
/* Reading of what the images say of UNIX sockets. What contradicts itself ends here; the rest of the restore believes it. */
#include "lib/state/sock/unix/unix.h"

#define PACKETS_MAX (4u << 20)
#define PACKET_BYTES_MAX (1u << 30)
#define RIGHTS_MAX 253 /* SCM_MAX_FD */
#define GROUPS_MAX 65536u

const char *unix_what(struct op *op, const struct unix_sk *sk)
{
	char *text = arena_printf(op->arena, "unix socket %u (file id %u)", sk->m->ino, sk->m->id);

	return text ? text : "unix socket";
}

int unix_sys(struct op *op, const struct unix_sk *sk, const char *what)
{
	return op_errno(op, errno, AT(.kind = "unix socket"), "%s: cannot %s", unix_what(op, sk), what);
}

static struct unix_sk *by_id(const struct unix_state *us, uint32_t id)
{
	return index_find(&us->ids, KEY(id));
}

/* ------------------------------------------------------------------------------------------------------ sockets */

static const char *wrong_with(const UnixSkEntry *m)
{
	bool external = m->uflags & UNIX_EXTERNAL;

	if (m->type != SOCK_STREAM && m->type != SOCK_DGRAM && m->type != SOCK_SEQPACKET)
		return "its type is unknown";
	if (m->state != UNIX_ESTABLISHED && m->state != UNIX_CLOSE && m->state != UNIX_LISTEN)
		return "its state is unknown";
	if (m->state == UNIX_LISTEN && !external && (m->type == SOCK_DGRAM || !m->name.len))
		return "what listens has a name, and is not for datagrams";
	if (m->name.len > UNIX_NAME_MAX)
		return "its name is too long";
	if (m->has_shutdown && (unsigned)m->shutdown > SK_SHUTDOWN__BOTH)
		return "its shutdown state is unknown";
	if (m->opts->so_sndbuf > INT32_MAX || m->opts->so_rcvbuf > INT32_MAX)
		return "its buffers are too large";
	return NULL;
}

static int add_socket(struct op *op, struct unix_state *us, struct snap_file *f)
{
	struct unix_sk *sk = op_new(op, struct unix_sk), **slot;
	const char *wrong = wrong_with(f->msg->usk);
	char key[32];

	if (wrong)
		return image_bad(op, "files.img: unix socket id %u: %s", f->id, wrong);
	slot = sk ? ARRAY_ADD(op->arena, &us->socks) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = sk;
	sk->f = f;
	sk->m = f->msg->usk;
	sk->file = -1;
	snprintf(key, sizeof(key), "socket:[%u]", sk->m->ino);
	sk->outside = sk->m->uflags & UNIX_EXTERNAL || inherit_find(op, key) >= 0;
	if (index_find(&us->inodes, KEY(sk->m->ino)))
		return image_bad(op, "files.img: two unix sockets have inode %u", sk->m->ino);
	return index_add(op, &us->inodes, KEY(sk->m->ino), sk) ?: index_add(op, &us->ids, KEY(f->id), sk);
}

static int add_extra(struct op *op, struct unix_state *us, const UnixSkExtra *x)
{
	struct unix_sk *sk = by_id(us, x->id);

	if (!sk || sk->x)
		return image_bad(op, "ckpt-extra: file id %u is no unix socket, or is there twice", x->id);
	if (x->peer && (x->peer->n_groups > GROUPS_MAX || x->peer->pid > INT32_MAX))
		return image_bad(op, "ckpt-extra: unix socket id %u: whoever made it makes no sense", x->id);
	if (x->has_peer_name && (!x->peer_name.len || x->peer_name.len > UNIX_NAME_MAX))
		return image_bad(op, "ckpt-extra: unix socket id %u: the name of its peer is too long", x->id);
	sk->x = x;
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- queues */

static int check_rights(struct op *op, struct snapshot *s, const SkPacketEntry *m)
{
	const ScmEntry *scm = m->n_scm ? m->scm[0] : NULL;

	if (m->n_scm > 1 || (scm && (scm->type != SCM_RIGHTS || scm->n_rights > RIGHTS_MAX)))
		return image_bad(op, "sk-queues.img: a packet for id %u has control messages that are not known", m->id_for);
	for (size_t i = 0; scm && i < scm->n_rights; i++)
		if (!snapshot_file(s, scm->rights[i]))
			return image_bad(op, "sk-queues.img: a packet for id %u carries file id %u, which is not in files.img",
					 m->id_for, scm->rights[i]);
	return 0;
}

static int read_packet(struct op *op, struct snapshot *s, struct unix_state *us, struct img_in *in, SkPacketEntry *m)
{
	struct unix_packet *p = op_new(op, struct unix_packet), **slot, **slot2;
	struct unix_sk *sk = by_id(us, m->id_for);
	void *bytes = NULL;
	int r;

	if (!p)
		return CKPT_E_NOMEM;
	if (!sk || sk->m->state == UNIX_LISTEN)
		return image_bad(op, "sk-queues.img: a packet for file id %u, which is no unix socket that could have it",
				 m->id_for);
	if (m->length > PACKET_BYTES_MAX || us->packets.n >= PACKETS_MAX)
		return image_bad(op, "sk-queues.img: a packet is too long, or there are too many");
	r = check_rights(op, s, m);
	r = r ? r : m->length ? img_read_payload(op, in, m->length, &bytes) : 0;
	if (r)
		return r;
	p->msg = m;
	p->bytes = bytes;
	slot = ARRAY_ADD(op->arena, &us->packets);
	slot2 = ARRAY_ADD(op->arena, &sk->queue);
	if (!slot || !slot2)
		return op_nomem(op);
	*slot = *slot2 = p;
	return 0;
}

static int read_queues(struct op *op, struct snapshot *s, struct unix_state *us)
{
	struct img_in *in = NULL;
	ProtobufCMessage *msg;
	int r = img_open(op, s->dir, IMG_SK_QUEUES, 0, &in);

	if (r)
		return r < 0 ? r : 0;
	while ((r = img_read(op, in, &msg)) == 0) {
		r = read_packet(op, s, us, in, (SkPacketEntry *)msg);
		if (r)
			break;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int add_packet_extra(struct op *op, struct unix_state *us, SockPacketExtra *x)
{
	struct unix_packet *p = x->index < us->packets.n ? us->packets.v[x->index] : NULL;

	if (!p || p->extra || (x->has_from && (!x->from.len || x->from.len > UNIX_NAME_MAX)) ||
	    (x->has_pid && (x->pid > INT32_MAX || !x->has_uid || !x->has_gid)))
		return image_bad(op, "ckpt-extra: packet %u of sk-queues.img makes no sense", x->index);
	p->extra = x;
	return 0;
}

int unix_read(struct op *op, struct snapshot *s)
{
	struct unix_state *us = unix_state(op, s);
	int r = us ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; !r && i < s->files.n; i++)
		if (s->files.v[i]->kind == &file_unix)
			r = add_socket(op, us, s->files.v[i]);
	for (size_t i = 0; !r && s->extra && i < s->extra->n_unix_sockets; i++)
		r = add_extra(op, us, s->extra->unix_sockets[i]);
	r = r ? r : read_queues(op, s, us);
	for (size_t i = 0; !r && s->extra && i < s->extra->n_sock_packets; i++)
		r = add_packet_extra(op, us, s->extra->sock_packets[i]);
	return r;
}
