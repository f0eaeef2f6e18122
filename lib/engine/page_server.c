// SPDX-License-Identifier: MIT
/*
 * The page server: one connection, from the moment that it listens until everything is on stable storage (or everything was
 * served). Who the peer is and how it is reached is ps_net's business, what is said lib/image/ps_store.c's and ps_serve.c's.
 */
#include "lib/engine/page_server.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "lib/engine/page_source.h"
#include "lib/image/ps_net.h"
#include "lib/image/ps_serve.h"
#include "lib/image/ps_store.h"

struct server {
	int listener, fd;
	uint16_t port;
	const char *peer;
	struct img_dir *dir;
	struct ps_stream stream;
	struct page_source *source; /* of --lazy-pages */
	bool told;		    /* the peer: that all is stored */
	bool linked;		    /* the link to the parent is ours */
};

int tell_ready(struct op *op)
{
	int fd = op->opts->status_fd;
	ssize_t n;

	if (fd < 0)
		return 0;
	do
		n = write(fd, "", 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return op_errno(op, errno, AT(AT_FD(fd)), "option --status-fd %d", fd);
	close(fd);
	return 0;
}

/* An existing link is kept: it is what earlier pages in this folder refer to. */
static int link_parent(struct op *op, struct server *sv)
{
	const char *prev = op->opts->prev_images_dir;
	int fd = img_dir_fd(sv->dir);
	struct stat st;

	if (!prev)
		return 0;
	if (fstatat(fd, prev, &st, 0) < 0 || !S_ISDIR(st.st_mode))
		return op_fail(op, CKPT_E_SYS, AT(.hint = "it is relative to the images folder"),
			       "the folder of the previous images, %s, is not there", prev);
	sv->linked = symlinkat(prev, fd, "parent") == 0;
	if (sv->linked || errno == EEXIST)
		return 0;
	return op_errno(op, errno, NULL, "link the previous images %s", prev);
}

static int open_folder(struct op *op, struct server *sv)
{
	if (op->opts->lazy_pages)
		return page_source_open(op, &sv->source);
	return img_dir_receive(op, &sv->dir) ?: link_parent(op, sv);
}

static int get_peer(struct op *op, struct server *sv, ckpt_ready_fn ready, void *arg)
{
	int r;

	if (op->opts->ps_socket >= 0) {
		r = ps_inherit(op, &sv->fd, &sv->peer);
	} else {
		r = ps_listen(op, &sv->listener, &sv->port);
		if (r == 0)
			log_msg(op, "page server listens at %s port %u", op->opts->address ?: "any address", sv->port);
	}
	r = r ?: tell_ready(op);
	if (r)
		return r;
	if (ready)
		ready(arg, sv->port);
	if (sv->fd < 0)
		r = ps_accept(op, sv->listener, &sv->fd, &sv->peer);
	/* One connection: whoever comes later is to be told so. */
	close_fd_p(&sv->listener);
	sv->listener = -1;
	return r;
}

static int serve(struct op *op, struct server *sv)
{
	static const struct ps_store_hooks none;
	bool keep = op->opts->ps_socket >= 0;
	int r;

	log_info(op, "serving %s", sv->peer);
	ps_stream_init(&sv->stream, sv->fd, sv->peer, op->opts->ps_timeout);
	r = op->opts->tls ? ps_stream_tls(op, &sv->stream, NULL) : 0;
	if (r)
		return r;
	if (op->opts->lazy_pages)
		return ps_serve(op, &sv->stream, page_source_ops(sv->source), keep);
	return ps_store(op, sv->dir, &sv->stream, keep, &none, &sv->told);
}

static void done(struct op *op, struct server *sv, int r)
{
	close_fd_p(&sv->listener);
	/* The peer learns of a failure by this, and its tasks run on: before the time that cleaning up takes. */
	ps_stream_done(&sv->stream);
	close_fd_p(&sv->fd);
	if (r && !sv->told && sv->dir) {
		if (sv->linked)
			unlinkat(img_dir_fd(sv->dir), "parent", 0);
		img_dir_abort(op, sv->dir);
	}
	sv->dir = img_dir_close(sv->dir);
	sv->source = page_source_close(sv->source);
}

int page_server_run(struct op *op, ckpt_ready_fn ready, void *arg)
{
	struct server sv = { .listener = -1, .fd = -1 };
	int r;

	op->stage = "page server";
	r = op->opts->tls ? tls_check(op) : 0;
	r = r ?: open_folder(op, &sv);
	r = r ?: get_peer(op, &sv, ready, arg);
	r = r ?: serve(op, &sv);
	done(op, &sv, r);
	return r ? op_wrap(op, r, "page server") : 0;
}
