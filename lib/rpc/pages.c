// SPDX-License-Identifier: MIT
/*
 * Page servers of the service protocol: each is a process that says through a pipe where it listens. Who asks for its child
 * may wait for it; the other one goes on by itself.
 */
#include <signal.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "lib/base/base.h"
#include "lib/rpc/session.h"

struct server {
	struct rpc_session *s;
	int ready;
};

static void on_ready(void *arg, uint16_t port)
{
	struct server *server = arg;

	if (write(server->ready, &port, sizeof(port)) != sizeof(port))
		return; /* nobody waits any more; then a client may come all the same */
	close(server->ready);
	server->ready = -1;
}

/* It goes on when its client is gone: nobody's pipe or terminal is held open. */
static void let_go(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

static int serve(struct rpc_session *s, int ready, bool alone)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct server server = { .s = s, .ready = ready };
	struct ckpt_err *err = NULL;

	if (alone)
		let_go();
	s->o.opts.timeout = 0;
	if (ckpt_page_server(s->conf->ctx, &s->o.opts, on_ready, &server, &stats, &err) == 0)
		return 0;
	rpc_session_failed(s, err);
	return 1;
}

static int start(struct rpc_session *s, bool alone, int *pid, uint16_t *port)
{
	int pair[2];
	ssize_t n;

	if (pipe2(pair, O_CLOEXEC) < 0) {
		rpc_session_error(s, "pipe: %s", strerror(errno));
		return -1;
	}
	*pid = fork();
	if (*pid == 0) {
		close(pair[0]);
		if (s->socket >= 0)
			close(s->socket); /* the client is to see our end, not the server's */
		_exit(serve(s, pair[1], alone));
	}
	close(pair[1]);
	if (*pid < 0)
		rpc_session_error(s, "fork: %s", strerror(errno));
	do
		n = *pid < 0 ? -1 : read(pair[0], port, sizeof(*port));
	while (n < 0 && errno == EINTR);
	close(pair[0]);
	if (n == sizeof(*port))
		return 0;
	if (*pid > 0) {
		waitpid(*pid, NULL, 0);
		rpc_session_error(s, "the page server did not come up: the log says why");
	}
	return -1;
}

void rpc_page_server(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, true), pid;
	uint16_t port = 0;

	s->o.opts.page_server = false; /* it is one */
	if (!r && start(s, req->type == CRIU_REQ_TYPE__PAGE_SERVER, &pid, &port) == 0) {
		a->resp.success = true;
		a->resp.ps = &a->ps;
		a->ps.has_pid = a->ps.has_port = true;
		a->ps.pid = pid;
		a->ps.port = port;
	}
	a->resp.has_cr_errno = r > 0;
	a->resp.cr_errno = r;
}
