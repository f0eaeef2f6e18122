/* SPDX-License-Identifier: MIT */
/*
 * Who is whose peer: what can be said only when all sockets of the tree were seen. A peer outside is refused, or, where the
 * options say so, remembered by its name (datagram sockets) or expected from whoever restores (connections).
 */
#include <dirent.h>
#include <fcntl.h>

#include "lib/state/sock/unix/unix.h"

static const char outside_hint[] = "dump the tree that the other end belongs to, or allow it with --ext-unix-sk or "
				   "--external unix[INODE]";

static struct unix_seen *seen(const struct unix_state *us, uint32_t ino)
{
	return ino ? index_find(&us->seen, KEY(ino)) : NULL;
}

static bool allowed(const struct op *op, uint32_t ino)
{
	const char *list = op->opts->ext_unix_sk_inodes;
	char key[32], *end;

	snprintf(key, sizeof(key), "unix[%u]", ino);
	if (op->opts->ext_unix_sk || external_wanted(op, key))
		return true;
	for (; list && *list; list = *end ? end + 1 : end) {
		if (strtoul(list, &end, 10) == ino)
			return true;
		if (end == list)
			break;
	}
	return false;
}

/* ------------------------------------------------------------------------------------------- not accepted yet */

static int note_pending(struct op *op, struct unix_seen *listener, uint32_t ino)
{
	size_t n = listener->extra->n_pending;

	if (!listener->extra->pending)
		listener->extra->pending = op_alloc(op, listener->diag->n_pending * sizeof(uint32_t));
	if (!listener->extra->pending)
		return CKPT_E_NOMEM;
	listener->extra->pending[n] = ino;
	listener->extra->n_pending = n + 1;
	listener->noted = true;
	return 0;
}

/* A client in the queue of a listener. What it sent already cannot be read before it is accepted. */
static int complete_client(struct op *op, struct unix_state *us, struct unix_seen *listener, uint32_t ino)
{
	static const char hint[] = "let the program accept it before the checkpoint";
	struct unix_seen *client = seen(us, ino);

	if (!ino)
		return file_refuse(op, &listener->view, "unix socket", hint,
				   "a connection waits to be accepted whose other end is closed: what it sent cannot be seen");
	if (!client)
		return file_refuse(op, &listener->view, "unix socket", hint,
				   "a connection from outside of the tree (unix[%u]) waits to be accepted", ino);
	if (client->unread)
		return file_refuse(op, &client->view, "unix socket", hint,
				   "it has sent something, and its connection was not accepted yet");
	client->msg->peer = listener->msg->ino;
	return note_pending(op, listener, ino);
}

static int complete_listener(struct op *op, struct unix_state *us, struct unix_seen *u)
{
	int r = 0;

	for (size_t i = 0; !r && i < u->diag->n_pending; i++)
		r = complete_client(op, us, u, u->diag->pending[i]);
	return r;
}

/* --------------------------------------------------------------------------------------------------- outside */

/* An entry that stands for the socket outside. Other readers know this form for datagram sockets. */
static int add_outside(struct op *op, struct snapshot *s, const struct unix_seen *u)
{
	struct snap_file *f = file_new(op, s, &file_unix);
	UnixSkEntry *m = msg_new(op, UnixSkEntry, unix_sk_entry);

	if (!f || !m)
		return CKPT_E_NOMEM;
	m->fown = msg_new(op, FownEntry, fown_entry);
	m->opts = msg_new(op, SkOptsEntry, sk_opts_entry);
	m->name.len = u->peer_name_len - offsetof(struct sockaddr_un, sun_path);
	m->name.data = arena_memdup(op->arena, u->peer_name.sun_path, m->name.len);
	if (!m->fown || !m->opts || !m->name.data)
		return op_nomem(op);
	m->id = f->id;
	m->ino = u->msg->peer;
	m->type = SOCK_DGRAM;
	m->state = UNIX_LISTEN;
	m->uflags = UNIX_EXTERNAL;
	f->msg->usk = m;
	return 0;
}

/* "the other end (unix[123], /dev/log)" */
static const char *peer_text(struct op *op, const struct unix_seen *u)
{
	char name[UNIX_NAME_MAX + 1] = "no name";
	char *text;

	if (u->peer_name_len) {
		memset(name, 0, sizeof(name));
		memcpy(name, u->peer_name.sun_path, u->peer_name_len - offsetof(struct sockaddr_un, sun_path));
		if (!name[0])
			name[0] = '@';
	}
	text = arena_printf(op->arena, "the other end (unix[%u], %s)", u->msg->peer, name);
	return text ? text : "the other end";
}

static int complete_outside(struct op *op, struct snapshot *s, struct unix_state *us, struct unix_seen *u)
{
	if (!allowed(op, u->msg->peer) && !allowed(op, u->msg->ino))
		return file_refuse(op, &u->view, "unix socket", outside_hint, "%s is outside of the tree", peer_text(op, u));
	if (u->msg->type != SOCK_DGRAM) {
		log_warn(op, "task %d: fd %d: %s is outside of the tree: the restore needs --inherit-fd fd[N]:socket:[%u]",
			 u->view.pid, u->view.fd, peer_text(op, u), u->msg->ino);
		return 0;
	}
	if (!u->peer_name_len)
		return file_refuse(op, &u->view, "unix socket", NULL,
				   "%s is outside of the tree, and a connection to it could not be made again", peer_text(op, u));
	if (seen(us, u->msg->peer) || index_find(&us->ids, KEY(u->msg->peer)))
		return 0;
	/* One entry for all that are connected to it. */
	return index_add(op, &us->ids, KEY(u->msg->peer), u) ?: add_outside(op, s, u);
}

/* The peer was closed, or, of a client, is a connection that nobody has accepted yet. */
static int complete_half(struct op *op, struct unix_seen *u)
{
	if (u->msg->type == SOCK_DGRAM)
		msg_set(u->extra, peer_gone, 1);
	else if ((u->diag->shutdown & 3) != 3)
		return file_refuse(op, &u->view, "unix socket", outside_hint,
				   "its connection waits to be accepted by a process outside of the tree");
	if (u->error)
		msg_set(u->extra, reset, 1);
	u->noted = u->noted || u->error || u->msg->type == SOCK_DGRAM;
	if (!u->peer_name_len)
		return 0;
	u->extra->has_peer_name = 1;
	u->extra->peer_name.len = u->peer_name_len - offsetof(struct sockaddr_un, sun_path);
	u->extra->peer_name.data = arena_memdup(op->arena, u->peer_name.sun_path, u->extra->peer_name.len);
	u->noted = true;
	return u->extra->peer_name.data ? 0 : op_nomem(op);
}

int unix_peers_complete(struct op *op, struct snapshot *s)
{
	struct unix_state *us = s->file_state->unix_sockets;
	size_t n = us ? us->all_seen.n : 0;
	int r = 0;

	for (size_t i = 0; !r && i < n; i++)
		if (us->all_seen.v[i]->msg->state == UNIX_LISTEN)
			r = complete_listener(op, us, us->all_seen.v[i]);
	for (size_t i = 0; !r && i < n; i++) {
		struct unix_seen *u = us->all_seen.v[i];

		if (u->error && (u->msg->type == SOCK_DGRAM || (u->diag->shutdown & 3) != 3))
			r = file_refuse(op, &u->view, "unix socket", NULL, "an error waits to be reported to the program");
		else if (u->msg->peer && !seen(us, u->msg->peer))
			r = complete_outside(op, s, us, u);
		else if (!u->msg->peer && (u->diag->has_peer || (u->msg->state == UNIX_ESTABLISHED && u->msg->type != SOCK_DGRAM)))
			r = complete_half(op, u);
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------ ckpt check */

/* What all sockets of a task need to be checked, collected for the first of them. */
struct question {
	struct file_index peers;  /* inode -> struct unix_diag of those that have a peer */
	struct file_index inside; /* inode: relatives of the task have it */
};

static int on_diag(struct op *op, void *arg, const struct unix_diag *d)
{
	struct question *q = arg;
	struct unix_diag *copy;

	if (!d->peer || index_find(&q->peers, KEY(d->ino)))
		return 0;
	copy = arena_memdup(op->arena, d, sizeof(*d));
	return copy ? index_add(op, &q->peers, KEY(d->ino), copy) : op_nomem(op);
}

/* Calls @fn with the inode of each socket of a process, until it returns something. */
static int each_socket(pid_t pid, int (*fn)(void *arg, uint32_t ino), void *arg)
{
	char path[64], link[64];
	struct dirent *e;
	int ret = 0;
	ssize_t n;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && !ret && (e = readdir(d))) {
		n = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);
		if (n <= 8 || memcmp(link, "socket:[", 8) != 0)
			continue;
		link[n] = '\0';
		ret = fn(arg, (uint32_t)strtoul(link + 8, NULL, 10));
	}
	if (d)
		closedir(d);
	return ret;
}

struct inside {
	struct op *op;
	struct question *q;
};

static int add_inside(void *arg, uint32_t ino)
{
	struct inside *in = arg;

	return index_find(&in->q->inside, KEY(ino)) ? 0 : index_add(in->op, &in->q->inside, KEY(ino), in->q);
}

static int add_tree(struct inside *in, pid_t pid, int depth)
{
	char path[64];
	FILE *f;
	int child, r = each_socket(pid, add_inside, in);

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = r || depth > 64 ? NULL : fopen(path, "re");
	while (f && !r && fscanf(f, "%d", &child) == 1)
		r = add_tree(in, child, depth + 1);
	if (f)
		fclose(f);
	return r;
}

static pid_t parent_of(struct op *op, pid_t pid)
{
	struct proc_stat st;

	return proc_read_stat(op, pid, &st) == 0 ? st.ppid : 0;
}

/* Of a running task we do not know how far up its tree will go: relatives of any kind count as inside. */
static int prepare_check(struct op *op, pid_t pid, struct question *q)
{
	struct inside in = { op, q };
	int r = unix_diag_list(op, on_diag, q);

	r = r ? r : add_tree(&in, pid, 0);
	for (pid = parent_of(op, pid); !r && pid > 1; pid = parent_of(op, pid))
		r = each_socket(pid, add_inside, &in);
	return r;
}

static int is_it(void *arg, uint32_t ino)
{
	return *(uint32_t *)arg == ino;
}

/* Nobody: then it is in flight, in a queue. */
static bool anybody_has_socket(uint32_t ino)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d)))
		found = e->d_name[0] >= '1' && e->d_name[0] <= '9' && each_socket((pid_t)atoi(e->d_name), is_it, &ino);
	if (d)
		closedir(d);
	return found;
}

int unix_check(struct op *op, const struct fd_view *v)
{
	struct question *q = v->keep ? v->keep[CHECK_KEEP_UNIX] : NULL;
	const struct unix_diag *d;
	int r;

	if (!q) {
		q = op_new(op, struct question);
		r = q ? prepare_check(op, v->pid, q) : CKPT_E_NOMEM;
		if (r)
			return r;
		if (v->keep)
			v->keep[CHECK_KEEP_UNIX] = q;
	}
	d = index_find(&q->peers, KEY((uint32_t)v->st.st_ino));
	if (!d || allowed(op, d->peer) || allowed(op, d->ino) || index_find(&q->inside, KEY(d->peer)) ||
	    !anybody_has_socket(d->peer))
		return 0;
	return file_refuse(op, v, "unix socket", outside_hint, "the other end (unix[%u]) is outside of the tree", d->peer);
}
