/* SPDX-License-Identifier: MIT */
/* Image messages in the operation's arena. */
#ifndef CKPT_STATE_MSG_H
#define CKPT_STATE_MSG_H

#include "lib/base/op.h"

/* A new message with its defaults: msg_new(op, CoreEntry, core_entry). NULL (recorded) when out of memory. */
#define msg_new(op, Type, name)          \
	({                               \
		Type *_m = op_new(op, Type); \
		if (_m)                  \
			name##__init(_m); \
		_m;                      \
	})

/* Sets an optional scalar field. */
#define msg_set(m, field, value)       \
	do {                           \
		(m)->has_##field = 1;  \
		(m)->field = (value);  \
	} while (0)

#endif
