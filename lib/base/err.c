/* SPDX-License-Identifier: MIT */
#include "lib/base/err.h"

struct ckpt_err *ckpt_err_free(struct ckpt_err *err)
{
	if (err) {
		free(err->kind);
		free(err->hint);
		free(err->message);
		free(err);
	}
	return NULL;
}

struct ckpt_err *err_vnew(int code, int eno, const struct err_where *where, const char *fmt, va_list ap)
{
	struct ckpt_err *err = calloc(1, sizeof(*err));
	char *text = NULL;

	if (!err)
		return NULL;
	err->code = code;
	err->eno = eno;
	err->fd = -1;
	if (where) {
		err->pid = where->pid;
		err->fd = where->fd_plus_1 - 1;
		err->addr = where->addr;
		err->status = where->status;
		err->kind = where->kind ? strdup(where->kind) : NULL;
		err->hint = where->hint ? strdup(where->hint) : NULL;
	}
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	if (eno && text) {
		if (asprintf(&err->message, "%s: %s", text, strerror(eno)) < 0)
			err->message = NULL;
		free(text);
	} else {
		err->message = text;
	}
	return err;
}

struct ckpt_err *err_new(int code, const struct err_where *where, const char *fmt, ...)
{
	struct ckpt_err *err;
	va_list ap;

	va_start(ap, fmt);
	err = err_vnew(code, 0, where, fmt, ap);
	va_end(ap);
	return err;
}

void err_vprefix(struct ckpt_err *err, const char *fmt, va_list ap)
{
	char *prefix = NULL, *whole = NULL;

	if (vasprintf(&prefix, fmt, ap) < 0)
		return;
	if (asprintf(&whole, "%s: %s", prefix, err->message ? err->message : "") >= 0) {
		free(err->message);
		err->message = whole;
	}
	free(prefix);
}

int ckpt_err_code(const struct ckpt_err *err) { return err ? err->code : CKPT_OK; }
int ckpt_err_errno(const struct ckpt_err *err) { return err ? err->eno : 0; }
pid_t ckpt_err_pid(const struct ckpt_err *err) { return err ? err->pid : 0; }
int ckpt_err_fd(const struct ckpt_err *err) { return err ? err->fd : -1; }
int ckpt_err_status(const struct ckpt_err *err) { return err ? err->status : 0; }
uint64_t ckpt_err_addr(const struct ckpt_err *err) { return err ? err->addr : 0; }
const char *ckpt_err_kind(const struct ckpt_err *err) { return err ? err->kind : NULL; }
const char *ckpt_err_hint(const struct ckpt_err *err) { return err ? err->hint : NULL; }

const char *ckpt_err_message(const struct ckpt_err *err)
{
	return !err ? "no error" : err->message ? err->message : "out of memory";
}

const char *ckpt_code_name(int code)
{
	static const char *const names[] = {
		"ok",	      "invalid", "no-memory",  "system",      "no-process", "permission",
		"busy",	      "unsupported", "no-space", "exists",    "image",	    "changed",
		"pid-in-use", "canceled", "timeout",   "kernel",      "internal",   "not-implemented", "refused",
	};

	return code <= 0 && (size_t)-code < ARRAY_SIZE(names) ? names[-code] : "unknown";
}
