/* SPDX-License-Identifier: MIT */
/* The inside of an error value. Only lib/base builds one; everybody else uses op_fail() and the public getters. */
#ifndef CKPT_BASE_ERR_H
#define CKPT_BASE_ERR_H

#include <stdarg.h>

#include "lib/base/op.h"

struct ckpt_err {
	int code;
	int eno;
	pid_t pid;
	int fd;
	int status;
	uint64_t addr;
	char *kind, *hint, *message;
};

struct ckpt_err *err_vnew(int code, int eno, const struct err_where *where, const char *fmt, va_list ap);
void err_vprefix(struct ckpt_err *err, const char *fmt, va_list ap);

#endif
