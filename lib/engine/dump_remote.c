// SPDX-License-Identifier: MIT
#include "lib/engine/dump_remote.h"

#include "lib/image/ps_net.h"

int remote_begin(struct op *op, struct img_dir *dir, struct remote *rm)
{
	const struct ckpt_opts *o = op->opts;
	const char *peer = "page server";
	int r;

	if (!o->page_server)
		return 0;
	r = o->ps_socket >= 0 ? ps_inherit(op, &rm->fd, &peer) : ps_connect(op, &rm->fd, &peer);
	if (r)
		return r;
	log_info(op, "pages go to the %s", peer);
	ps_stream_init(&rm->stream, rm->fd, peer, o->ps_timeout);
	if (o->tls)
		r = ps_stream_tls(op, &rm->stream, o->address ?: "");
	return r ?: ps_client_new(op, dir, &rm->stream, &rm->client);
}

int remote_commit(struct op *op, struct remote *rm)
{
	return rm->client ? ps_client_close(op, rm->client, op->opts->ps_socket >= 0) : 0;
}

void remote_end(struct remote *rm)
{
	rm->client = ps_client_free(rm->client);
	if (rm->fd >= 0) {
		ps_stream_done(&rm->stream);
		close(TAKE_FD(rm->fd));
	}
}
