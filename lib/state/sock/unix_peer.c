/* SPDX-License-Identifier: MIT */
/*
 * Who is whose peer: what can be said only when all sockets of the tree were seen. A peer outside is refused, or, where the
 * options say so, remembered by its name (datagram sockets) or expected from whoever restores (connections).
 */
#include <dirent.h>
#include <fcntl.h>

#include "lib/state/sock/unix.h"

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

struct question {
	uint32_t ino;
	bool found;
	uint32_t peer;
	size_t n_pending;
	uint32_t pending;
};

static int on_diag(struct op *op, void *arg, const struct unix_diag *d)
{
	struct question *q = arg;

	(void)op;
	if (d->ino != q->ino)
		return 0;
	q->found = true;
	q->peer = d->peer;
	q->n_pending = d->n_pending;
	q->pending = d->n_pending ? d->pending[0] : 0;
	return 0;
}

static bool has_socket(pid_t pid, uint32_t ino)
{
	char path[64], want[32], link[64];
	struct dirent *e;
	bool found = false;
	DIR *d;
	int n;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	n = snprintf(want, sizeof(want), "socket:[%u]", ino);
	d = opendir(path);
	while (d && !found && (e = readdir(d)))
		found = readlinkat(dirfd(d), e->d_name, link, sizeof(link)) == n && !memcmp(link, want, (size_t)n);
	if (d)
		closedir(d);
	return found;
}

static bool tree_has_socket(pid_t pid, uint32_t ino, int depth)
{
	char path[64];
	FILE *f;
	bool found = has_socket(pid, ino);
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = found || depth > 64 ? NULL : fopen(path, "re");
	while (f && !found && fscanf(f, "%d", &child) == 1)
		found = tree_has_socket(child, ino, depth + 1);
	if (f)
		fclose(f);
	return found;
}

static pid_t parent_of(struct op *op, pid_t pid)
{
	struct proc_stat st;

	return proc_read_stat(op, pid, &st) == 0 ? st.ppid : 0;
}

/* Of a running task we do not know how far up its tree will go: relatives of any kind count as inside. */
static bool relative_has_socket(struct op *op, pid_t pid, uint32_t ino)
{
	if (tree_has_socket(pid, ino, 0))
		return true;
	for (pid = parent_of(op, pid); pid > 1; pid = parent_of(op, pid))
		if (has_socket(pid, ino))
			return true;
	return false;
}

/* Nobody: then it is in flight, in a queue. */
static bool anybody_has_socket(uint32_t ino)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d)))
		found = e->d_name[0] >= '1' && e->d_name[0] <= '9' && has_socket((pid_t)atoi(e->d_name), ino);
	if (d)
		closedir(d);
	return found;
}

int unix_check(struct op *op, const struct fd_view *v)
{
	struct question q = { .ino = (uint32_t)v->st.st_ino };
	int r = unix_diag_list(op, on_diag, &q);

	if (r)
		return r;
	if (!q.found)
		return file_refuse(op, v, "unix socket", NULL, "the kernel does not list it (%s)", v->link);
	if (!q.peer || allowed(op, q.peer) || allowed(op, q.ino) ||
	    relative_has_socket(op, v->pid, q.peer) || !anybody_has_socket(q.peer))
		return 0;
	return file_refuse(op, v, "unix socket", outside_hint, "the other end (unix[%u]) is outside of the tree", q.peer);
}
