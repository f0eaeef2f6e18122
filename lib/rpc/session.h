/* SPDX-License-Identifier: MIT */
/* What is asked for, done: from one request to its answer, however the two travel. */
#ifndef CKPT_RPC_SESSION_H
#define CKPT_RPC_SESSION_H

#include "lib/front/logfile.h"
#include "lib/rpc/options.h"
#include "lib/rpc/rpc.h"

/*
 * Told of each event, where the request asks for that. Returns 0 or, to go no further, anything else. Strings for *@external
 * (NULL but where they are asked for) have to live until the request is answered.
 */
typedef int (*rpc_notify_fn)(void *arg, const struct ckpt_event_info *info);

struct rpc_session {
	const struct rpc_conf *conf;
	pid_t peer;		/* whose descriptors are meant; may be ourselves */
	unsigned may;		/* RPC_* */
	int socket;		/* to the peer; -1: there is none */
	rpc_notify_fn notify;	/* NULL: nobody wants to know */
	void *arg;

	/* of the request that is at work */
	struct rpc_opts o;
	int images_dir, work_dir;
	struct logfile log;
	char *first_error;	/* as it is in the log */
};
#define RPC_SESSION_INIT { .socket = -1, .images_dir = -1, .work_dir = -1, .o = { .images_dir_fd = -1, .work_dir_fd = -1, .status_fd = -1 } }

/* An answer and what it points to. */
struct rpc_answer {
	CriuResp resp;
	CriuDumpResp dump;
	CriuRestoreResp restore;
	CriuPageServerInfo ps;
	CriuFeatures features;
	CriuVersion version;
	bool quiet;		/* none is sent */
};

/*
 * Does what @req asks for. @answer is complete, its strings are the session's until rpc_session_end(), which has to follow: what
 * has to be done when the client has the answer comes between.
 */
void rpc_session_run(struct rpc_session *s, const CriuReq *req, struct rpc_answer *answer);
void rpc_session_end(struct rpc_session *s);

void rpc_answer_init(struct rpc_answer *answer, CriuReqType type);

/* Begins what has options: reads them, opens folders and the log. Returns 0, or an errno for the answer; it is in the log. */
int rpc_session_begin(struct rpc_session *s, const CriuOpts *opts, bool folders);
/* An error: in the log, and in the answer if it is the first. */
void rpc_session_error(struct rpc_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same of a failed call of the library. Takes @err. Returns the errno for the answer, 0 if there is none for it. */
int rpc_session_failed(struct rpc_session *s, struct ckpt_err *err);
/* Opens descriptor @fd of the peer again, or takes it. Returns it, or -1 with errno. */
int rpc_peer_fd(pid_t peer, int fd, int flags);

/* pages.c: PAGE_SERVER and PAGE_SERVER_CHLD: the server is a process of its own. */
void rpc_page_server(struct rpc_session *s, const CriuReq *req, struct rpc_answer *answer);

#endif
