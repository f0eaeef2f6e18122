// SPDX-License-Identifier: MIT
/* How a request begins and ends: options, folders, the log, and who is told of what. */
#include "lib/rpc/session.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "lib/base/base.h"

enum { MAX_ERRMSG = 2048 }; /* an answer has to stay below 8 KiB, which is what clients read at most */

/* -------------------------------------------------------------------------------------------------- the log */

static void put(struct rpc_session *s, enum ckpt_log_level level, const char *text)
{
	FILE *to = s->log.f ? s->log.f : s->o.log_to_stderr ? stderr : NULL;

	if (to && (unsigned)level <= s->log.level)
		logfile_line(&s->log, to, level, text);
	if (level == CKPT_LOG_ERROR && !s->first_error && asprintf(&s->first_error, "Error (ckpt): %.*s\n", MAX_ERRMSG, text) < 0)
		s->first_error = NULL;
}

static void on_log(void *arg, enum ckpt_log_level level, const char *text)
{
	put(arg, level, text);
}

void rpc_session_error(struct rpc_session *s, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	put(s, CKPT_LOG_ERROR, n < 0 ? "out of memory" : text);
	if (n >= 0)
		free(text);
}

int rpc_session_failed(struct rpc_session *s, struct ckpt_err *err)
{
	int code = ckpt_err_code(err);

	put(s, CKPT_LOG_ERROR, ckpt_err_message(err));
	if (s->log.f && ckpt_err_hint(err))
		logfile_hint(&s->log, s->log.f, ckpt_err_hint(err));
	ckpt_err_free(err);
	switch (code) {
	case CKPT_E_INVAL:
	case CKPT_E_NOT_YET:
		return EBADRQC;
	case CKPT_E_NO_PROCESS:
		return ESRCH;
	case CKPT_E_PID_IN_USE:
		return EEXIST;
	default:
		return 0;
	}
}

/* ---------------------------------------------------------------------------------------------- descriptors */

static int take_fd(pid_t peer, int fd)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, peer, 0);

	return pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
}

int rpc_peer_fd(pid_t peer, int fd, int flags)
{
	char path[64];
	int got;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)peer, fd);
	got = open(path, flags | O_CLOEXEC);
	/* Sockets cannot be opened again. */
	return got < 0 && errno == ENXIO ? take_fd(peer, fd) : got;
}

static int open_dir(struct rpc_session *s, const char *what, int fd, const char *path, int *ret)
{
	*ret = fd >= 0 ? rpc_peer_fd(s->peer, fd, O_RDONLY | O_DIRECTORY) : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret >= 0)
		return 0;
	if (fd >= 0)
		rpc_session_error(s, "cannot open the %s folder, descriptor %d of process %d: %s", what, fd, (int)s->peer, strerror(errno));
	else
		rpc_session_error(s, "cannot open the %s folder %s: %s", what, path, strerror(errno));
	return EBADRQC;
}

/* The library gets descriptors, so that everybody means the same folder whatever is renamed. */
static int open_dirs(struct rpc_session *s, bool needed)
{
	struct ckpt_opts *o = &s->o.opts;
	int r;

	if (s->o.images_dir_fd < 0 && !o->images_dir) {
		if (!needed)
			return 0;
		rpc_session_error(s, "images_dir_fd: the request names no images folder");
		return EBADRQC;
	}
	r = open_dir(s, "images", s->o.images_dir_fd, o->images_dir, &s->images_dir);
	if (!r && (s->o.work_dir_fd >= 0 || o->work_dir))
		r = open_dir(s, "work", s->o.work_dir_fd, o->work_dir, &s->work_dir);
	o->images_dir_fd = s->images_dir;
	o->work_dir_fd = s->work_dir;
	return r;
}

static int open_log(struct rpc_session *s, bool asked_only)
{
	const char *name = s->o.opts.log_file;
	int dir = s->work_dir >= 0 ? s->work_dir : s->images_dir, r;

	if (!name && (s->o.log_to_stderr || asked_only))
		return 0;
	if (dir < 0)
		return 0; /* this has been said */
	s->o.log_to_stderr = false;
	r = logfile_open(&s->log, dir, name ?: "criu.log");
	if (!r)
		return 0;
	rpc_session_error(s, "cannot create the log file %s: %s", name ?: "criu.log", strerror(r));
	return EBADRQC;
}

static int open_status(struct rpc_session *s)
{
	if (s->o.status_fd < 0)
		return 0;
	s->o.opts.status_fd = rpc_peer_fd(s->peer, s->o.status_fd, O_WRONLY);
	if (s->o.opts.status_fd >= 0)
		return 0;
	rpc_session_error(s, "status_fd: descriptor %d of process %d: %s", s->o.status_fd, (int)s->peer, strerror(errno));
	return EBADRQC;
}

/* ----------------------------------------------------------------------------------------- begin and end */

static int on_event(void *arg, const struct ckpt_event_info *info)
{
	struct rpc_session *s = arg;

	return s->notify(s->arg, info);
}

int rpc_session_begin(struct rpc_session *s, const CriuOpts *opts, bool folders)
{
	struct ckpt_ctx *ctx = s->conf->ctx;
	char *wrong;
	int bad = rpc_opts_set(&s->o, opts, s->conf->defaults, s->may, &wrong), r;

	clock_gettime(CLOCK_MONOTONIC, &s->log.begin);
	s->log.level = s->o.opts.log_level;
	r = open_dirs(s, folders);
	/* What is wrong with the options is to be in the log, if there can be one. */
	r = (bad && s->o.opts.log_file && strchr(s->o.opts.log_file, '/') ? 0 : open_log(s, !folders)) ?: r;
	if (bad) {
		rpc_session_error(s, "%s", wrong ?: "out of memory");
		r = EBADRQC;
	}
	free(wrong);
	r = r ?: open_status(s);
	ckpt_ctx_set_log(ctx, (enum ckpt_log_level)MIN(s->log.level, CKPT_LOG_DEBUG), on_log, s);
	if (s->notify && opts && opts->has_notify_scripts && opts->notify_scripts)
		ckpt_ctx_set_events(ctx, on_event, s);
	return r;
}

static void close_fd(int *fd)
{
	close_fd_p(fd);
	*fd = -1;
}

void rpc_session_end(struct rpc_session *s)
{
	ckpt_ctx_set_log(s->conf->ctx, CKPT_LOG_MSG, NULL, NULL);
	ckpt_ctx_set_events(s->conf->ctx, NULL, NULL);
	rpc_opts_clear(&s->o);
	close_fd(&s->images_dir);
	close_fd(&s->work_dir);
	logfile_close(&s->log);
	free(s->first_error);
	s->first_error = NULL;
}
