/* SPDX-License-Identifier: MIT */
/*
 * Time namespaces: how far the clocks in it are from those of the machine. Nobody who shares memory with others can enter one
 * to look at its clocks; but the kernel tells the distances. Restored clocks go on from what they showed at the dump.
 */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "lib/image/image.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/msg.h"
#include "lib/state/ns/core.h"

#define NSEC_PER_SEC 1000000000

struct time_ns {
	TimensEntry *e;
	int64_t monotonic, boottime; /* dump: how far they are from ours */
};

int64_t ns_own_clock_offset(clockid_t clock)
{
	struct proc_time_offsets t = { 0 };
	_cleanup_close_ int fd = open("/proc/thread-self/timens_offsets", O_RDONLY | O_CLOEXEC);
	char text[256];
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text)) : -1;

	if (n <= 0 || proc_parse_time_offsets(text, (size_t)n, &t) != 0)
		return 0;
	return clock == CLOCK_MONOTONIC ? t.monotonic : t.boottime;
}

static Timespec *reading(struct op *op, clockid_t clock, int64_t distance)
{
	Timespec *t = msg_new(op, Timespec, timespec);
	struct timespec now;
	int64_t ns;

	if (!t)
		return NULL;
	clock_gettime(clock, &now);
	ns = (int64_t)now.tv_sec * NSEC_PER_SEC + now.tv_nsec + distance;
	ns = MAX(ns, 0);
	t->tv_sec = (uint64_t)(ns / NSEC_PER_SEC);
	t->tv_nsec = (uint64_t)(ns % NSEC_PER_SEC);
	return t;
}

int ns_time_begin(struct op *op, struct snapshot *s)
{
	struct snap_ns *ns = ns_own(s, NS_TIME);
	struct time_ns *t = ns ? op_new(op, struct time_ns) : NULL;
	struct proc_time_offsets offsets;
	char *text;
	size_t len;
	int r;

	if (!ns || !t || !(t->e = msg_new(op, TimensEntry, timens_entry)))
		return ns ? CKPT_E_NOMEM : 0;
	r = proc_read_file(op, ns->host, "timens_offsets", &text, &len);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = ns->host), "process %d is gone", ns->host);
	if (proc_parse_time_offsets(text, len, &offsets) != 0)
		return op_fail(op, CKPT_E_SYS, AT(.pid = ns->host, .kind = "namespace"), "cannot make sense of /proc/%d/timens_offsets",
			       ns->host);
	t->monotonic = offsets.monotonic - ns_own_clock_offset(CLOCK_MONOTONIC);
	t->boottime = offsets.boottime - ns_own_clock_offset(CLOCK_BOOTTIME);
	ns->priv = t;
	return 0;
}

int64_t ns_clock_distance(const struct snapshot *s, clockid_t clock)
{
	const struct snap_ns *ns = ns_own(s, NS_TIME);
	const struct time_ns *t = ns ? ns->priv : NULL;

	return !t ? 0 : clock == CLOCK_MONOTONIC ? t->monotonic : clock == CLOCK_BOOTTIME ? t->boottime : 0;
}

/* After all timers were looked at: what is left of them is then never too little for what the clocks show. */
static int time_dump(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct time_ns *t = ns->priv;

	(void)s;
	t->e->monotonic = reading(op, CLOCK_MONOTONIC, t->monotonic);
	t->e->boottime = reading(op, CLOCK_BOOTTIME, t->boottime);
	return t->e->monotonic && t->e->boottime ? 0 : CKPT_E_NOMEM;
}

static int time_write(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	const struct time_ns *t = ns->priv;

	return img_write_one(op, s->dir, IMG_TIMENS, ns->id, &t->e->base);
}

/* In the place of what the dumper's clocks showed. */
static int time_read(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	ProtobufCMessage *m = NULL;
	int r = img_read_one(op, s->dir, IMG_TIMENS, ns->id, &m);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "timens-%u.img is missing", ns->id);
	if (!r && ns == ns_own(s, NS_TIME))
		s->timens = (TimensEntry *)m;
	return r;
}

const struct ns_content ns_time = { .dump = time_dump, .write = time_write, .read = time_read };
