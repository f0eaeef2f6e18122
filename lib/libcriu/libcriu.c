// SPDX-License-Identifier: MIT
/*
 * Operations: a request, which is done here or sent to a worker, and what its answer means to the caller.
 *
 * A restore is never done here: the process that is restored would come from a copy of the caller, and who calls this does not
 * expect that anything of the kind happens in it.
 */
#include "lib/libcriu/libcriu.h"

#include <signal.h>

#include "lib/base/base.h"
#include "lib/rpc/session.h"

int criu_notify_pid(criu_notify_arg_t na)
{
	return na->pid;
}

int criu_get_orphan_pts_master_fd(void)
{
	return libcriu_pts_master;
}

/* ----------------------------------------------------------------------------------------- in this process */

static int on_event(void *arg, const struct ckpt_event_info *info)
{
	criu_opts *o = arg;
	struct _criu_notify na = { 0 };

	return o->notify ? o->notify((char *)info->name, &na) : 0;
}

/* The answer is the same as over a socket, and is copied the same way. */
static int run_here(criu_opts *o, const CriuReq *req, CriuResp **resp)
{
	struct rpc_conf conf = { 0 };
	struct rpc_session s = RPC_SESSION_INIT;
	struct rpc_answer answer;
	uint8_t *buf;

	if (ckpt_ctx_new(&conf.ctx) != 0)
		return -ENOMEM;
	s.conf = &conf;
	s.peer = getpid();
	s.may = RPC_OWN_FDS | RPC_SCRIPTS;
	s.notify = o->notify ? on_event : NULL;
	s.arg = o;
	rpc_session_run(&s, req, &answer);
	buf = malloc(criu_resp__get_packed_size(&answer.resp) + 1);
	*resp = buf ? criu_resp__unpack(NULL, criu_resp__pack(&answer.resp, buf), buf) : NULL;
	free(buf);
	rpc_session_end(&s);
	ckpt_ctx_free(conf.ctx);
	return *resp ? 0 : -ENOMEM;
}

/* -------------------------------------------------------------------------------------------- requests */

enum where { HERE_IF_POSSIBLE, OUTSIDE, NEW_WORKER };

/* Returns 0 with an answer that says success, or what the caller is told. */
static int ask(criu_opts *o, CriuReq *req, enum where where, CriuResp **resp)
{
	CriuReqType type = req->type;
	int r;

	*resp = NULL;
	if (!o)
		return -EINVAL;
	if (where == HERE_IF_POSSIBLE && !o->served)
		r = run_here(o, req, resp);
	else
		r = libcriu_send(o, req, where == NEW_WORKER, resp);
	if (r)
		return r;
	if ((*resp)->success && (*resp)->type == type)
		return 0;
	if ((*resp)->type == type) {
		errno = (*resp)->has_cr_errno ? (*resp)->cr_errno : 0;
		return -EBADE;
	}
	return (*resp)->type == CRIU_REQ_TYPE__EMPTY ? -EINVAL : -EBADMSG;
}

static void free_answer(CriuResp *resp)
{
	int saved = errno;

	if (resp)
		criu_resp__free_unpacked(resp, NULL);
	errno = saved;
}

static int simple(criu_opts *o, CriuReqType type, enum where where)
{
	CriuReq req = CRIU_REQ__INIT;
	CriuResp *resp;
	int r;

	req.type = type;
	req.opts = o ? o->rpc : NULL;
	r = ask(o, &req, where, &resp);
	if (!r && type == CRIU_REQ_TYPE__DUMP)
		r = resp->dump && resp->dump->has_restored && resp->dump->restored ? 1 : 0;
	else if (!r && type == CRIU_REQ_TYPE__RESTORE)
		r = resp->restore ? resp->restore->pid : -EBADMSG;
	free_answer(resp);
	return r;
}

int criu_local_check(criu_opts *opts)
{
	return simple(opts, CRIU_REQ_TYPE__CHECK, HERE_IF_POSSIBLE);
}

int criu_local_dump(criu_opts *opts)
{
	bool self = opts && !opts->served && !opts->rpc->has_pid;
	int r = simple(opts, CRIU_REQ_TYPE__DUMP, HERE_IF_POSSIBLE);

	/* Who dumps itself ends, and goes on where it is restored. */
	if (self && r == 0 && !(opts->rpc->has_leave_running && opts->rpc->leave_running))
		raise(SIGKILL);
	return r;
}

int criu_local_pre_dump(criu_opts *opts)
{
	return simple(opts, CRIU_REQ_TYPE__SINGLE_PRE_DUMP, HERE_IF_POSSIBLE);
}

int criu_local_restore(criu_opts *opts)
{
	return simple(opts, CRIU_REQ_TYPE__RESTORE, OUTSIDE);
}

int criu_local_restore_child(criu_opts *opts)
{
	int r;

	if (!opts)
		return -EINVAL;
	opts->rpc->has_rst_sibling = opts->rpc->rst_sibling = true;
	r = simple(opts, CRIU_REQ_TYPE__RESTORE, NEW_WORKER);
	opts->rpc->has_rst_sibling = opts->rpc->rst_sibling = false;
	return r;
}

int criu_local_dump_iters(criu_opts *opts, int (*more)(criu_predump_info pi))
{
	int r = 0;

	if (!opts)
		return -EINVAL;
	while (!r && more(NULL) > 0)
		r = criu_local_pre_dump(opts);
	return r ?: criu_local_dump(opts);
}

int criu_local_get_version(criu_opts *opts)
{
	CriuReq req = CRIU_REQ__INIT;
	CriuResp *resp;
	int r;

	req.type = CRIU_REQ_TYPE__VERSION;
	r = ask(opts, &req, HERE_IF_POSSIBLE, &resp);
	if (!r && !resp->version)
		r = -EBADMSG;
	/* A build between two releases counts as the next one. */
	if (!r)
		r = resp->version->major_number * 10000 + (resp->version->minor_number + !!resp->version->gitid) * 100 +
		    (resp->version->gitid ? 0 : resp->version->sublevel);
	free_answer(resp);
	return r;
}

int criu_local_check_version(criu_opts *opts, int minimum)
{
	int version = criu_local_get_version(opts);

	return version < 0 ? version : version >= minimum;
}

int criu_local_feature_check(criu_opts *opts, struct criu_feature_check *features, size_t size)
{
	CriuFeatures asked = CRIU_FEATURES__INIT;
	struct criu_feature_check f = { 0 };
	CriuReq req = CRIU_REQ__INIT;
	CriuResp *resp;
	int r;

	if (!features || size > sizeof(f))
		return -EINVAL;
	memcpy(&f, features, size);
	asked.has_mem_track = asked.mem_track = f.mem_track;
	asked.has_lazy_pages = asked.lazy_pages = f.lazy_pages;
	asked.has_pidfd_store = asked.pidfd_store = f.pidfd_store;
	req.type = CRIU_REQ_TYPE__FEATURE_CHECK;
	req.features = &asked;
	r = ask(opts, &req, HERE_IF_POSSIBLE, &resp);
	if (!r && !resp->features)
		r = -EBADMSG;
	if (!r) {
		f = (struct criu_feature_check){ resp->features->mem_track, resp->features->lazy_pages, resp->features->pidfd_store };
		memcpy(features, &f, size);
	}
	free_answer(resp);
	return r;
}

/* ------------------------------------------------------------------------------------- of the whole process */

int criu_check(void) { return criu_local_check(libcriu_global); }
int criu_dump(void) { return criu_local_dump(libcriu_global); }
int criu_pre_dump(void) { return criu_local_pre_dump(libcriu_global); }
int criu_restore(void) { return criu_local_restore(libcriu_global); }
int criu_restore_child(void) { return criu_local_restore_child(libcriu_global); }
int criu_dump_iters(int (*more)(criu_predump_info pi)) { return criu_local_dump_iters(libcriu_global, more); }
int criu_get_version(void) { return criu_local_get_version(libcriu_global); }
int criu_check_version(int minimum) { return criu_local_check_version(libcriu_global, minimum); }
int criu_feature_check(struct criu_feature_check *features, size_t size)
{
	return criu_local_feature_check(libcriu_global, features, size);
}
