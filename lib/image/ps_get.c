// SPDX-License-Identifier: MIT
#include "lib/image/ps_get.h"

#include "lib/image/ps_net.h"
#include "lib/image/ps_proto.h"
#include "lib/image/ps_stream.h"

struct ps_get {
	struct ps_stream s;
	int fd;
	/* Requests without a reply, in a ring. */
	struct ps_wire ahead[PS_GET_AHEAD];
	size_t first, n;
	uint64_t left; /* pages of the reply that were not taken yet */
};

int ps_get_open(struct op *op, struct ps_get **ret)
{
	struct ps_get *g = op_new(op, struct ps_get);
	const char *peer = NULL;
	int r;

	if (!g)
		return CKPT_E_NOMEM;
	g->fd = -1;
	r = op->opts->ps_socket >= 0 ? ps_inherit(op, &g->fd, &peer) : ps_connect(op, &g->fd, &peer);
	ps_stream_init(&g->s, g->fd, peer, op->opts->ps_timeout);
	if (r == 0 && op->opts->tls)
		r = ps_stream_tls(op, &g->s, op->opts->address ?: "");
	if (r) {
		ps_get_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

struct ps_get *ps_get_free(struct ps_get *g)
{
	if (!g)
		return NULL;
	ps_stream_done(&g->s);
	close_fd_p(&g->fd);
	g->fd = -1;
	return NULL;
}

size_t ps_get_pending(const struct ps_get *g)
{
	return g->n;
}

int ps_get_fd(const struct ps_get *g)
{
	return g->fd;
}

bool ps_get_ready(const struct ps_get *g)
{
	return ps_stream_pending(&g->s);
}

int ps_get_request(struct op *op, struct ps_get *g, uint32_t pid, uint64_t start, uint64_t n_pages)
{
	struct ps_wire w = ps_make(PS_GET, 0, pid, start, n_pages);
	struct ps_request q;
	const char *wrong = ps_parse(&w, &q);

	if (wrong || g->n == PS_GET_AHEAD)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "request for pages: %s", wrong ?: "too many without an answer");
	g->ahead[(g->first + g->n++) % PS_GET_AHEAD] = w;
	return ps_send(op, &g->s, &w, sizeof(w));
}

int ps_get_reply(struct op *op, struct ps_get *g, struct ps_get_reply *reply)
{
	const struct ps_wire *asked = &g->ahead[g->first];
	struct ps_wire w;
	int r;

	if (g->n == 0 || g->left)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "no reply of the page server is due");
	r = ps_recv_all(op, &g->s, &w, sizeof(w), "pages: it does not have them, or failed");
	if (r)
		return r;
	if (w.cmd != (PS_ADD_F | PS_F_PRESENT << 16) || w.vaddr != asked->vaddr || w.dst_id != asked->dst_id ||
	    w.nr_pages == 0 || w.nr_pages > asked->nr_pages)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server", .addr = asked->vaddr),
			       "the %s was asked for %lu pages at 0x%lx of process %lu, and answers 0x%x with %lu pages at 0x%lx of "
			       "%lu", g->s.peer, asked->nr_pages, asked->vaddr, asked->dst_id, w.cmd, w.nr_pages, w.vaddr, w.dst_id);
	*reply = (struct ps_get_reply){ .pid = (uint32_t)asked->dst_id, .start = asked->vaddr, .n_pages = asked->nr_pages,
					.n_got = w.nr_pages };
	g->left = w.nr_pages;
	g->first = (g->first + 1) % PS_GET_AHEAD;
	g->n--;
	return 0;
}

int ps_get_data(struct op *op, struct ps_get *g, void *buf, size_t n_pages)
{
	if (n_pages > g->left)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "the reply of the page server has fewer pages");
	g->left -= n_pages;
	return ps_recv_all(op, &g->s, buf, n_pages * PAGE_SIZE, "all of its pages");
}

int ps_get_close(struct op *op, struct ps_get *g)
{
	struct ps_wire w = ps_make(op->opts->ps_socket >= 0 ? PS_FORCE_CLOSE : PS_CLOSE, 0, 0, 0, 0);
	int32_t status;
	int r;

	if (g->n || g->left)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "the page server still owes pages");
	r = ps_send(op, &g->s, &w, sizeof(w)) ?: ps_recv_all(op, &g->s, &status, sizeof(status), "that it is done");
	if (r == 0 && status != 0)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "page server"), "the %s ends with status %d", g->s.peer, status);
	if (r == 0 && ps_stream_bye(op, &g->s) < 0)
		op_forget(op);
	return r;
}
