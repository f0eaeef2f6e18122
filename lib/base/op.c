/* SPDX-License-Identifier: MIT */
#include "lib/base/op.h"

#include <stdarg.h>
#include <time.h>

#include "lib/base/err.h"

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void op_log(struct op *op, enum ckpt_log_level level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (!op->log.fn || level > op->log.level)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	op->log.fn(op->log.arg, level, text);
}

static int record(struct op *op, struct ckpt_err *err, int code)
{
	if (!err)
		return code;
	if (op->err) {
		op_log(op, CKPT_LOG_DEBUG, "after the failure: %s", err->message);
		ckpt_err_free(err);
	} else {
		op->err = err;
	}
	return code;
}

int op_fail(struct op *op, int code, const struct err_where *where, const char *fmt, ...)
{
	struct ckpt_err *err;
	va_list ap;

	va_start(ap, fmt);
	err = err_vnew(code, 0, where, fmt, ap);
	va_end(ap);
	return record(op, err, code);
}

static int code_of_errno(int eno)
{
	switch (eno) {
	case ENOMEM:
		return CKPT_E_NOMEM;
	case EPERM:
	case EACCES:
		return CKPT_E_PERM;
	case ENOSPC:
	case EDQUOT:
		return CKPT_E_NOSPACE;
	case ESRCH:
		return CKPT_E_NO_PROCESS;
	default:
		return CKPT_E_SYS;
	}
}

int op_errno(struct op *op, int eno, const struct err_where *where, const char *fmt, ...)
{
	int code = code_of_errno(eno);
	struct err_where with_hint;
	struct ckpt_err *err;
	va_list ap;

	if (eno == EFBIG && !(where && where->hint)) {
		with_hint = where ? *where : (struct err_where){ 0 };
		with_hint.hint = "a file would be larger than the limit of this process (RLIMIT_FSIZE, ulimit -f) or of "
				 "the file system";
		where = &with_hint;
	}
	va_start(ap, fmt);
	err = err_vnew(code, eno, where, fmt, ap);
	va_end(ap);
	return record(op, err, code);
}

int op_nomem(struct op *op)
{
	return op_fail(op, CKPT_E_NOMEM, NULL, "out of memory");
}

int op_wrap(struct op *op, int code, const char *fmt, ...)
{
	va_list ap;

	if (op->err) {
		va_start(ap, fmt);
		err_vprefix(op->err, fmt, ap);
		va_end(ap);
	}
	return code;
}

void op_forget(struct op *op)
{
	op->err = ckpt_err_free(op->err);
}

int op_check_cancel(struct op *op)
{
	if (op->cancel && atomic_load_explicit(op->cancel, memory_order_relaxed))
		return op_fail(op, CKPT_E_CANCELED, NULL, "cancelled while: %s", op->stage ? op->stage : "starting");
	if (op->deadline_ns && now_ns() > op->deadline_ns)
		return op_fail(op, CKPT_E_TIMEOUT, AT(.hint = "give more time with --timeout SECONDS"),
			       "not done within %u s, stopped while: %s", op->timeout_s,
			       op->stage ? op->stage : "starting");
	return 0;
}

void *op_alloc(struct op *op, size_t n)
{
	void *p = arena_alloc(op->arena, n);

	if (!p)
		op_nomem(op);
	return p;
}
