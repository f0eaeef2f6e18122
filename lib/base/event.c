/* SPDX-License-Identifier: MIT */
/* Events: the points of an operation at which others have something to do. */
#include "lib/base/op.h"

static const char *const names[] = {
	[CKPT_EVENT_PRE_STREAM] = "pre-stream",
	[CKPT_EVENT_PRE_DUMP] = "pre-dump",
	[CKPT_EVENT_NETWORK_LOCK] = "network-lock",
	[CKPT_EVENT_QUERY_EXT_FILES] = "query-ext-files",
	[CKPT_EVENT_POST_DUMP] = "post-dump",
	[CKPT_EVENT_NETWORK_UNLOCK] = "network-unlock",
	[CKPT_EVENT_STATUS_READY] = "status-ready",
	[CKPT_EVENT_PRE_RESTORE] = "pre-restore",
	[CKPT_EVENT_SETUP_NAMESPACES] = "setup-namespaces",
	[CKPT_EVENT_POST_SETUP_NAMESPACES] = "post-setup-namespaces",
	[CKPT_EVENT_ORPHAN_PTS_MASTER] = "orphan-pts-master",
	[CKPT_EVENT_POST_RESTORE] = "post-restore",
	[CKPT_EVENT_PRE_RESUME] = "pre-resume",
	[CKPT_EVENT_POST_RESUME] = "post-resume",
};

const char *ckpt_event_name(enum ckpt_event event)
{
	return (size_t)event < ARRAY_SIZE(names) ? names[event] : NULL;
}

bool event_is_late(enum ckpt_event event)
{
	return event == CKPT_EVENT_NETWORK_UNLOCK || event == CKPT_EVENT_PRE_RESUME || event == CKPT_EVENT_POST_RESUME;
}

int op_event(struct op *op, enum ckpt_event event, pid_t pid, int fd)
{
	const struct ckpt_event_info info = {
		.sz = sizeof(info), .event = event, .name = names[event], .pid = pid, .fd = fd,
	};
	int r;

	if (!op->events.fn)
		return 0;
	log_debug(op, "event %s", info.name);
	r = op->events.fn(op->events.arg, &info);
	if (!r)
		return 0;
	if (event_is_late(event)) {
		log_warn(op, "event %s: the caller failed (%d), which changes nothing any more", info.name, r);
		return 0;
	}
	if (op->err) /* it says why */
		return ckpt_err_code(op->err);
	return op_fail(op, CKPT_E_REFUSED, AT(.kind = "event"), "the caller refused to go on at %s (%d)", info.name, r);
}
