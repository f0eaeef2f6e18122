// SPDX-License-Identifier: MIT
/*
 * The worker of one connection. It says nothing before it was asked; one request is the rule, and the connection ends with its
 * answer. In between the client may be told of events, and has to answer each before we go on.
 */
#include <fcntl.h>
#include <sys/socket.h>

#include "lib/base/base.h"
#include "lib/rpc/packet.h"
#include "lib/rpc/session.h"

/* Exit statuses that clients know. */
enum { DONE = 0, OPERATION_FAILED = 1, NOT_SERVED = 255 };

struct worker {
	struct rpc_session s;
	CriuReq *told;		/* an answer to an event that has strings we use */
};

/* ------------------------------------------------------------------------------------------------- events */

static bool with_pid(enum ckpt_event event)
{
	return event == CKPT_EVENT_SETUP_NAMESPACES || event == CKPT_EVENT_POST_RESTORE;
}

static int tell(struct worker *w, const struct ckpt_event_info *info)
{
	CriuNotify notify = CRIU_NOTIFY__INIT;
	CriuResp resp = CRIU_RESP__INIT;

	notify.script = (char *)info->name;
	notify.has_pid = with_pid(info->event) && info->pid > 0;
	notify.pid = info->pid;
	resp.type = CRIU_REQ_TYPE__NOTIFY;
	resp.success = true;
	resp.notify = &notify;
	return packet_send(w->s.socket, &resp, info->fd);
}

static int notify(void *arg, const struct ckpt_event_info *info)
{
	struct worker *w = arg;
	CriuReq *req = NULL;
	int r = tell(w, info);

	if (r) {
		rpc_session_error(&w->s, "cannot tell the client of %s: %s", info->name, strerror(-r));
		return -1;
	}
	r = packet_receive(w->s.socket, &req);
	if (r)
		rpc_session_error(&w->s, "no answer to %s from the client: %s", info->name, r > 0 ? "it is gone" : strerror(-r));
	else if (req->type != CRIU_REQ_TYPE__NOTIFY || !req->has_notify_success || !req->notify_success)
		r = -1;
	if (!r && info->external && req->opts && req->opts->n_external) {
		*info->external = (struct ckpt_strv){ .v = (const char *const *)req->opts->external, .n = req->opts->n_external };
		w->told = req;
		return 0;
	}
	if (req)
		criu_req__free_unpacked(req, NULL);
	return r ? -1 : 0;
}

/* ------------------------------------------------------------------------------------------------ requests */

static bool may_stay(CriuReqType type)
{
	switch (type) {
	case CRIU_REQ_TYPE__PAGE_SERVER:
	case CRIU_REQ_TYPE__PAGE_SERVER_CHLD:
	case CRIU_REQ_TYPE__CPUINFO_DUMP:
	case CRIU_REQ_TYPE__CPUINFO_CHECK:
	case CRIU_REQ_TYPE__FEATURE_CHECK:
	case CRIU_REQ_TYPE__VERSION:
		return true;
	default:
		return false;
	}
}

static int status_of(const CriuReq *req, const struct rpc_answer *answer)
{
	if (answer->resp.success)
		return DONE;
	return req->type == CRIU_REQ_TYPE__DUMP || req->type == CRIU_REQ_TYPE__RESTORE ? OPERATION_FAILED : NOT_SERVED;
}

/* The command gets the restored root task as its child, and its output goes where ours does. */
static void become(struct worker *w, char **argv)
{
	if (w->s.log.f) {
		dup2(fileno(w->s.log.f), STDOUT_FILENO);
		dup2(fileno(w->s.log.f), STDERR_FILENO);
	}
	close(w->s.socket);
	execvp(argv[0], argv);
	rpc_session_error(&w->s, "exec_cmd: cannot run %s: %s", argv[0], strerror(errno));
}

static int exec_cmd(struct worker *w, const CriuReq *req)
{
	size_t n = req->opts ? req->opts->n_exec_cmd : 0;
	char **argv = calloc(n + 1, sizeof(*argv));

	if (!argv)
		return NOT_SERVED;
	memcpy(argv, req->opts->exec_cmd, n * sizeof(*argv));
	become(w, argv);
	free(argv);
	return NOT_SERVED;
}

/* Serves @req. Returns its exit status; *@more: another may follow. */
static int serve(struct worker *w, const CriuReq *req, bool *more)
{
	bool stay = req->has_keep_open && req->keep_open;
	struct rpc_answer answer;
	int r, status;

	*more = false;
	if (stay && !may_stay(req->type))
		return NOT_SERVED; /* without a word */
	rpc_session_run(&w->s, req, &answer);
	status = status_of(req, &answer);
	r = packet_send(w->s.socket, &answer.resp, -1);
	if (r)
		rpc_session_error(&w->s, "cannot send the answer: %s", strerror(-r));
	if (!r && answer.resp.success && req->type == CRIU_REQ_TYPE__RESTORE && req->opts->n_exec_cmd)
		status = exec_cmd(w, req);
	rpc_session_end(&w->s);
	if (w->told)
		criu_req__free_unpacked(w->told, NULL);
	w->told = NULL;
	*more = !r && answer.resp.success && (stay || req->type == CRIU_REQ_TYPE__PRE_DUMP);
	return r ? NOT_SERVED : status;
}

/* After a pre-dump only another one or the dump can follow. */
static bool out_of_place(CriuReqType before, CriuReqType type)
{
	return type == CRIU_REQ_TYPE__NOTIFY ||
	       (before == CRIU_REQ_TYPE__PRE_DUMP && type != CRIU_REQ_TYPE__PRE_DUMP && type != CRIU_REQ_TYPE__DUMP);
}

static int serve_all(struct worker *w)
{
	CriuReqType before = CRIU_REQ_TYPE__EMPTY;
	bool more = true;
	int status = NOT_SERVED;

	while (more) {
		CriuReq nothing = CRIU_REQ__INIT, *req;
		int r = packet_receive(w->s.socket, &req);

		if (r && r != -EBADMSG)
			return NOT_SERVED;
		if (r)
			nothing.type = CRIU_REQ_TYPE__EMPTY;
		else if (out_of_place(before, req->type))
			req->type = CRIU_REQ_TYPE__EMPTY;
		status = serve(w, r ? &nothing : req, &more);
		before = r ? CRIU_REQ_TYPE__EMPTY : req->type;
		if (!r)
			criu_req__free_unpacked(req, NULL);
	}
	return status;
}

static int who_is_there(struct worker *w)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int type = 0;
	socklen_t type_len = sizeof(type);

	if (getsockopt(w->s.socket, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 || type != SOCK_SEQPACKET ||
	    getsockopt(w->s.socket, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -1;
	w->s.peer = cred.pid;
	/* A worker has the rights of whoever started it; a service has its own, and lends them to root alone. */
	w->s.may = (w->s.conf->service ? 0 : RPC_OWN_FDS) | (!w->s.conf->service || cred.uid == 0 ? RPC_SCRIPTS : 0);
	return 0;
}

int rpc_work(int fd, const struct rpc_conf *conf)
{
	struct worker w = { .s = RPC_SESSION_INIT };
	int status = NOT_SERVED;

	w.s.conf = conf;
	w.s.socket = fd;
	w.s.notify = notify;
	w.s.arg = &w;
	fcntl(fd, F_SETFD, FD_CLOEXEC); /* it is not for what we restore */
	if (who_is_there(&w) == 0)
		status = serve_all(&w);
	close(fd);
	return status;
}
