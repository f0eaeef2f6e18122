/* SPDX-License-Identifier: MIT */
/*
 * Message queues: limit, messages with their types. Messages are read with MSG_COPY, which leaves them where they are. Who
 * sent and received last, and when, is not in the format and not put back.
 */
#include <sys/msg.h>

#include "lib/state/ipc/core.h"
#include "lib/state/msg.h"

#define MESSAGE_MAX (64u << 20)
#define QUEUE_MAX (1u << 20) /* messages */

struct text {
	long type;
	char bytes[];
};

static int add(struct op *op, struct ipc_queue *q, uint64_t type, const void *bytes, size_t n)
{
	IpcMsg *m = msg_new(op, IpcMsg, ipc_msg), **head = m ? ARRAY_ADD(op->arena, &q->heads) : NULL;
	void **text = head ? ARRAY_ADD(op->arena, &q->texts) : NULL;

	if (!text)
		return op_nomem(op);
	*head = m;
	m->mtype = type;
	m->msize = (uint32_t)n;
	*text = op_alloc(op, ALIGN_UP(n, 8) + 8);
	if (!*text)
		return CKPT_E_NOMEM;
	memcpy(*text, bytes, n);
	return 0;
}

/* All messages of queue @id; @bytes are in it. The kernel copies at most what the limit of one message is now. */
static int copy_all(struct op *op, struct ipc_queue *q, int id, uint64_t n, uint64_t bytes)
{
	struct text *t = op_alloc(op, sizeof(*t) + bytes);
	int r = 0;

	if (!t)
		return CKPT_E_NOMEM;
	for (uint64_t i = 0; i < n && !r; i++) {
		ssize_t got = msgrcv(id, t, bytes, (long)i, IPC_NOWAIT | MSG_COPY);

		if (got < 0)
			return ipc_errno(op, q->msg->desc, "msg", errno == EINVAL ? "copy a message, longer than kernel.msgmax, of"
										   : "copy a message of");
		r = add(op, q, (uint64_t)t->type, t->bytes, (size_t)got);
	}
	return r;
}

static struct ipc_queue *queue_new(struct op *op, int id, const struct msqid_ds *ds)
{
	struct ipc_queue *q = op_new(op, struct ipc_queue);

	if (!q)
		return NULL;
	q->msg = msg_new(op, IpcMsgEntry, ipc_msg_entry);
	if (!q->msg || !(q->msg->desc = ipc_desc(op, &ds->msg_perm, id)))
		return NULL;
	q->msg->qbytes = (uint32_t)ds->msg_qbytes;
	q->msg->qnum = (uint32_t)ds->msg_qnum;
	return q;
}

static int collect_one(struct op *op, struct snapshot *s, int id, const struct msqid_ds *ds)
{
	struct ipc_queue *q, **slot;

	if (!s->ipc->own && !ipc_of_tree(s, ds->msg_lspid) && !ipc_of_tree(s, ds->msg_lrpid))
		return 0;
	q = queue_new(op, id, ds);
	slot = q ? ARRAY_ADD(op->arena, &s->ipc->queues) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = q;
	return copy_all(op, q, id, ds->msg_qnum, ds->__msg_cbytes);
}

static int msg_collect(struct op *op, struct snapshot *s)
{
	struct msginfo info;
	struct msqid_ds ds;
	int last = msgctl(0, MSG_INFO, (struct msqid_ds *)&info), r = 0;

	for (int i = 0; i <= last && info.msgpool && !r; i++) { /* msgpool: how many there are */
		int id = msgctl(i, MSG_STAT, &ds);

		if (id >= 0)
			r = collect_one(op, s, id, &ds);
	}
	return r;
}

static int write_one(struct op *op, struct img_out *out, const struct ipc_queue *q)
{
	int r = img_write(op, out, &q->msg->base);

	for (size_t i = 0; i < q->heads.n && !r; i++) {
		r = img_write(op, out, &q->heads.v[i]->base);
		if (!r && q->heads.v[i]->msize)
			r = img_write_payload(op, out, q->texts.v[i], ALIGN_UP(q->heads.v[i]->msize, 8));
	}
	return r;
}

static int msg_write(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r = s->ipc->queues.n ? img_create(op, s->dir, IMG_IPCNS_MSG, s->ipc->ns_id, &out) : 0;

	for (size_t i = 0; !r && i < s->ipc->queues.n; i++)
		r = write_one(op, out, s->ipc->queues.v[i]);
	return out ? r ?: img_close(op, out) : r;
}

static int read_message(struct op *op, struct ipc_queue *q, struct img_in *in)
{
	ProtobufCMessage *m;
	IpcMsg **head = ARRAY_ADD(op->arena, &q->heads);
	void **text = ARRAY_ADD(op->arena, &q->texts);
	int r = img_read_as(op, in, &ipc_msg__descriptor, &m);

	if (!head || !text)
		return op_nomem(op);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_IMAGE, AT(.kind = "SysV IPC"), "ipcns-msg: a message of queue %u is missing",
					   q->msg->desc->id);
	*head = (IpcMsg *)m;
	if ((*head)->msize > MESSAGE_MAX || !(*head)->mtype || (*head)->mtype > INT64_MAX)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "SysV IPC"), "ipcns-msg: a message of queue %u makes no sense",
			       q->msg->desc->id);
	return (*head)->msize ? img_read_payload(op, in, ALIGN_UP((*head)->msize, 8), text) : 0;
}

static int read_queue(struct op *op, struct snapshot *s, struct img_in *in, IpcMsgEntry *m)
{
	struct ipc_queue *q = op_new(op, struct ipc_queue), **slot = q ? ARRAY_ADD(op->arena, &s->ipc->queues) : NULL;
	int r = ipc_check_desc(op, m->desc, "ipcns-msg");

	if (!slot)
		return op_nomem(op);
	*slot = q;
	q->msg = m;
	if (!r && m->qnum > QUEUE_MAX)
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "SysV IPC"), "ipcns-msg: queue %u has %u messages", m->desc->id, m->qnum);
	for (uint32_t i = 0; i < m->qnum && !r; i++)
		r = read_message(op, q, in);
	return r;
}

static int msg_read(struct op *op, struct snapshot *s)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, s->dir, IMG_IPCNS_MSG, s->ipc->ns_id, &in);

	if (r)
		return r < 0 ? r : 0;
	/* Messages are read between the queues: which type comes next only we know. */
	while ((r = img_read_as(op, in, &ipc_msg_entry__descriptor, &m)) == 0 && (r = read_queue(op, s, in, (IpcMsgEntry *)m)) == 0)
		;
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int get(const void *arg, int key, int flags)
{
	(void)arg;
	return msgget(key, flags);
}

static void remove_queue(int id)
{
	msgctl(id, IPC_RMID, NULL);
}

static bool same_messages(const struct ipc_queue *a, const struct ipc_queue *b)
{
	if (a->heads.n != b->heads.n)
		return false;
	for (size_t i = 0; i < a->heads.n; i++)
		if (a->heads.v[i]->mtype != b->heads.v[i]->mtype || a->heads.v[i]->msize != b->heads.v[i]->msize ||
		    (a->heads.v[i]->msize && memcmp(a->texts.v[i], b->texts.v[i], a->heads.v[i]->msize)))
			return false;
	return true;
}

static int take_over(struct op *op, const struct ipc_queue *q, const struct msqid_ds *ds)
{
	const IpcDescEntry *d = q->msg->desc;
	struct ipc_queue *now;
	int r;

	if (!ipc_same(d, &ds->msg_perm))
		return ipc_in_the_way(op, d, "msg", "another one has its id");
	now = queue_new(op, (int)d->id, ds);
	if (!now)
		return CKPT_E_NOMEM;
	r = copy_all(op, now, (int)d->id, ds->msg_qnum, ds->__msg_cbytes);
	if (!r && !same_messages(q, now))
		r = ipc_in_the_way(op, d, "msg", "it is there, and its messages are not those of the checkpoint any more");
	return r;
}

static int set_queue(struct op *op, const struct ipc_queue *q, uint64_t qbytes)
{
	const IpcDescEntry *d = q->msg->desc;
	struct msqid_ds ds = { .msg_perm = { .uid = d->uid, .gid = d->gid, .mode = (mode_t)d->mode }, .msg_qbytes = qbytes };

	return msgctl((int)d->id, IPC_SET, &ds) == 0 ? 0 : ipc_errno(op, d, "msg", "set owner and limit of");
}

static int send_all(struct op *op, const struct ipc_queue *q)
{
	for (size_t i = 0; i < q->heads.n; i++) {
		uint32_t n = q->heads.v[i]->msize;
		struct text *t = op_alloc(op, sizeof(*t) + n);

		if (!t)
			return CKPT_E_NOMEM;
		t->type = (long)q->heads.v[i]->mtype;
		if (n)
			memcpy(t->bytes, q->texts.v[i], n);
		if (msgsnd((int)q->msg->desc->id, t, n, IPC_NOWAIT) < 0)
			return ipc_errno(op, q->msg->desc, "msg", errno == EINVAL ? "send a message, longer than kernel.msgmax, to"
										   : "send a message to");
	}
	return 0;
}

static int make_one(struct op *op, struct ipc_queue *q)
{
	const IpcDescEntry *d = q->msg->desc;
	uint64_t bytes = q->heads.n + 1; /* the number of messages is limited by it, too */
	struct msqid_ds ds;
	int r;

	if (msgctl((int)d->id, IPC_STAT, &ds) == 0)
		return take_over(op, q, &ds);
	r = ipc_create(op, d, "msg", get, remove_queue, q);
	if (r)
		return r;
	q->made = true;
	for (size_t i = 0; i < q->heads.n; i++)
		bytes += q->heads.v[i]->msize;
	/* The limit may have been lowered below what was queued. */
	r = set_queue(op, q, MAX(bytes, (uint64_t)q->msg->qbytes));
	r = r ?: send_all(op, q);
	return r || bytes <= q->msg->qbytes ? r : set_queue(op, q, q->msg->qbytes);
}

static int msg_make(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->ipc->queues.n && !r; i++)
		r = make_one(op, s->ipc->queues.v[i]);
	return r;
}

static void msg_unmake(struct op *op, struct snapshot *s)
{
	(void)op;
	for (size_t i = 0; i < s->ipc->queues.n; i++)
		if (s->ipc->queues.v[i]->made)
			remove_queue((int)s->ipc->queues.v[i]->msg->desc->id);
}

const struct ipc_kind ipc_kind_msg = {
	.name = "msg",
	.collect = msg_collect,
	.write = msg_write,
	.read = msg_read,
	.make = msg_make,
	.unmake = msg_unmake,
};
