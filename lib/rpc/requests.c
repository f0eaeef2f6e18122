// SPDX-License-Identifier: MIT
/* Each type of request. */
#include <string.h>
#include <sys/wait.h>

#include "lib/base/base.h"
#include "lib/rpc/session.h"

void rpc_answer_init(struct rpc_answer *a, CriuReqType type)
{
	*a = (struct rpc_answer){ 0 };
	criu_resp__init(&a->resp);
	criu_dump_resp__init(&a->dump);
	criu_restore_resp__init(&a->restore);
	criu_page_server_info__init(&a->ps);
	criu_features__init(&a->features);
	criu_version__init(&a->version);
	a->resp.type = type;
}

static void set_errno(struct rpc_answer *a, int eno)
{
	a->resp.has_cr_errno = eno != 0;
	a->resp.cr_errno = eno;
}

/* ------------------------------------------------------------------------------------------------- dump */

static int dump(struct rpc_session *s, pid_t pid, bool memory_only)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_opts *o = &s->o.opts;
	struct ckpt_err *err = NULL;
	int r;

	if (!o->timeout)
		o->timeout = 10;
	o->track_apart = true; /* whoever makes the next one is another program, most times */
	r = (memory_only ? ckpt_pre_dump : ckpt_dump)(s->conf->ctx, pid, o, &stats, &err);
	return r ? (rpc_session_failed(s, err) ?: -1) : 0;
}

static int dump_self(struct rpc_session *s, bool *restored)
{
	struct ckpt_err *err = NULL;
	int r;

	if (s->peer != getpid()) {
		rpc_session_error(s, "pid: a client that wants to be dumped itself is not supported: ckpt_dump_self() can do that");
		return EBADRQC;
	}
	r = ckpt_dump_self(s->conf->ctx, &s->o.opts, &err);
	*restored = r == 1;
	return r < 0 ? (rpc_session_failed(s, err) ?: -1) : 0;
}

static void do_dump(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, true);
	bool restored = false;

	if (!r)
		r = req->opts->has_pid ? dump(s, req->opts->pid, false) : dump_self(s, &restored);
	a->resp.dump = &a->dump;
	a->dump.has_restored = true;
	a->dump.restored = restored;
	a->resp.success = r == 0;
	set_errno(a, r > 0 ? r : 0);
}

static void do_pre_dump(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, true);

	r = r ?: dump(s, req->opts->has_pid ? req->opts->pid : s->peer, true);
	a->resp.success = r == 0;
	set_errno(a, r > 0 ? r : 0);
}

/* ----------------------------------------------------------------------------------------------- restore */

static int restore(struct rpc_session *s, pid_t *pid)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_opts *o = &s->o.opts;
	struct ckpt_err *err = NULL;

	o->timeout = 0; /* is about dumps */
	/* The port of a page server is for lazy pages only; where the pages are is another daemon's business. */
	o->page_server = false;
	if (ckpt_restore(s->conf->ctx, o, pid, &stats, &err) == 0)
		return 0;
	return rpc_session_failed(s, err) ?: -1;
}

static void do_restore(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, true);
	pid_t pid = -1;

	r = r ?: restore(s, &pid);
	a->resp.restore = &a->restore;
	a->restore.pid = r ? -1 : pid;
	a->resp.success = r == 0;
	set_errno(a, r > 0 ? r : 0);
}

/* ------------------------------------------------------------------------------------------------- checks */

static void on_feature(void *arg, const struct ckpt_feature *f)
{
	CriuFeatures *have = arg;

	if (strcmp(f->name, "mem_dirty_track") == 0)
		have->mem_track = f->available;
	else if (strcmp(f->name, "uffd-noncoop") == 0)
		have->lazy_pages = f->available;
	else if (strcmp(f->name, "pidfd_store") == 0)
		have->pidfd_store = f->available;
}

/* Only what was asked for is answered with yes. */
static void do_feature_check(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	CriuFeatures have = CRIU_FEATURES__INIT;
	struct ckpt_err *err = NULL;

	if (!req->features) {
		rpc_session_error(s, "features: the request names none");
		return;
	}
	if (ckpt_check_kernel(s->conf->ctx, on_feature, &have, &err) < 0) {
		set_errno(a, rpc_session_failed(s, err));
		return;
	}
	a->features.has_mem_track = a->features.has_lazy_pages = a->features.has_pidfd_store = true;
	a->features.mem_track = have.mem_track && req->features->mem_track;
	a->features.lazy_pages = have.lazy_pages && req->features->lazy_pages;
	a->features.pidfd_store = have.pidfd_store && req->features->pidfd_store;
	a->resp.features = &a->features;
	a->resp.success = true;
}

static void on_missing(void *arg, const struct ckpt_feature *f)
{
	if (f->required && !f->available)
		rpc_session_error(arg, "%s: %s: %s", f->name, f->sentence, f->cost);
}

static void do_check(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, false);
	struct ckpt_err *err = NULL;

	if (!r) {
		r = ckpt_check_kernel(s->conf->ctx, on_missing, s, &err);
		if (r < 0)
			r = rpc_session_failed(s, err) ?: -1;
		else if (r > 0)
			r = -1; /* so many are missing */
	}
	a->resp.success = r == 0;
	set_errno(a, r > 0 ? r : 0);
}

static void do_version(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	(void)s;
	(void)req;
	/* What clients go by: images and behaviour are those of this version of the field's program. */
	a->version.major_number = 4;
	a->version.minor_number = 2;
	a->resp.version = &a->version;
	a->resp.success = true;
}

/* CPUINFO_DUMP, CPUINFO_CHECK */
static void do_cpuinfo(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int r = rpc_session_begin(s, req->opts, true);
	struct ckpt_err *err = NULL;

	if (!r && (req->type == CRIU_REQ_TYPE__CPUINFO_DUMP ? ckpt_cpuinfo_dump : ckpt_cpuinfo_check)(s->conf->ctx, &s->o.opts, &err)) {
		bool lacks = ckpt_err_code(err) == CKPT_E_KERNEL;

		r = rpc_session_failed(s, err);
		r = lacks ? ENOTSUP : r ? r : -1;
	}
	a->resp.success = r == 0;
	set_errno(a, r > 0 ? r : 0);
}

static void do_wait_pid(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	int status;
	pid_t pid;

	if (!req->has_pid || !req->pid || req->pid > INT32_MAX) {
		rpc_session_error(s, "pid: the request names no process to wait for");
		return;
	}
	do
		pid = waitpid((pid_t)req->pid, &status, 0);
	while (pid < 0 && errno == EINTR);
	if (pid < 0) {
		set_errno(a, errno);
		rpc_session_error(s, "cannot wait for process %u: %s", req->pid, strerror(errno));
		return;
	}
	a->resp.has_status = true;
	a->resp.status = status;
	a->resp.success = true;
}

/* --------------------------------------------------------------------------------------------------- all */

typedef void (*request_fn)(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a);

static const struct {
	request_fn run;
	bool options;		/* makes no sense without */
	CriuReqType answer;
} requests[] = {
	[CRIU_REQ_TYPE__DUMP] = { do_dump, true, CRIU_REQ_TYPE__DUMP },
	[CRIU_REQ_TYPE__RESTORE] = { do_restore, true, CRIU_REQ_TYPE__RESTORE },
	[CRIU_REQ_TYPE__CHECK] = { do_check, false, CRIU_REQ_TYPE__CHECK },
	[CRIU_REQ_TYPE__PRE_DUMP] = { do_pre_dump, true, CRIU_REQ_TYPE__PRE_DUMP },
	[CRIU_REQ_TYPE__SINGLE_PRE_DUMP] = { do_pre_dump, true, CRIU_REQ_TYPE__SINGLE_PRE_DUMP },
	[CRIU_REQ_TYPE__PAGE_SERVER] = { rpc_page_server, true, CRIU_REQ_TYPE__PAGE_SERVER },
	[CRIU_REQ_TYPE__PAGE_SERVER_CHLD] = { rpc_page_server, true, CRIU_REQ_TYPE__PAGE_SERVER },
	[CRIU_REQ_TYPE__CPUINFO_DUMP] = { do_cpuinfo, true, CRIU_REQ_TYPE__CPUINFO_DUMP },
	[CRIU_REQ_TYPE__CPUINFO_CHECK] = { do_cpuinfo, true, CRIU_REQ_TYPE__CPUINFO_CHECK },
	[CRIU_REQ_TYPE__FEATURE_CHECK] = { do_feature_check, false, CRIU_REQ_TYPE__FEATURE_CHECK },
	[CRIU_REQ_TYPE__VERSION] = { do_version, false, CRIU_REQ_TYPE__VERSION },
	[CRIU_REQ_TYPE__WAIT_PID] = { do_wait_pid, false, CRIU_REQ_TYPE__WAIT_PID },
};

void rpc_session_run(struct rpc_session *s, const CriuReq *req, struct rpc_answer *a)
{
	bool known = (size_t)req->type < ARRAY_SIZE(requests) && requests[req->type].run;

	rpc_answer_init(a, known ? requests[req->type].answer : CRIU_REQ_TYPE__EMPTY);
	if (!known)
		rpc_session_error(s, "there is no request of type %d, or it is out of place", (int)req->type);
	else if (requests[req->type].options && !req->opts)
		rpc_session_error(s, "a request of type %d needs options", (int)req->type);
	else
		requests[req->type].run(s, req, a);
	a->resp.cr_errmsg = s->first_error;
}
