/* SPDX-License-Identifier: MIT */
/*
 * timerfd: clock, time left, interval, expirations that nobody read yet.
 *
 * The format has the time left only. That is right for a timer that was set to a span; one that was set to a point
 * (TFD_TIMER_ABSTIME) must expire at that point, which goes to our own file. Other readers let it expire later by the time
 * the program did not exist.
 *
 * The kernel stops the clock of a periodic timer until somebody asks for it or reads it. We ask: the expirations are then
 * counted, and the time to the next one is right. The program cannot tell.
 */
#include <asm/unistd.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/ns.h"

#define NSEC 1000000000u

static bool timerfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[timerfd]") == 0;
}

/* The clock that the point of a timer is of; -1: no clock that timers have. */
static clockid_t base_clock(uint32_t clock)
{
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_ALARM:
		return CLOCK_REALTIME;
	case CLOCK_MONOTONIC:
		return CLOCK_MONOTONIC;
	case CLOCK_BOOTTIME:
	case CLOCK_BOOTTIME_ALARM:
		return CLOCK_BOOTTIME;
	default:
		return -1;
	}
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NSEC + (uint64_t)now.tv_nsec;
}

static int note_point(struct op *op, struct snap_file *f, uint64_t ns)
{
	TimerfdExtra *x = msg_new(op, TimerfdExtra, timerfd_extra);

	if (!x)
		return CKPT_E_NOMEM;
	x->file_id = f->id;
	x->expires_ns = ns;
	f->priv = x;
	return 0;
}

/* Time left and ticks, at one moment. */
static int dump_state(struct op *op, const struct snapshot *s, const struct fd_view *v, struct snap_file *f, TimerfdEntry *m)
{
	struct proc_timerfd t;
	struct proc_fdinfo info;
	struct itimerspec its;
	uint64_t now;
	int r;

	if (timerfd_gettime(v->copy, &its) < 0)
		return file_errno(op, v, "ask for the time left of the timer");
	r = proc_read_fdinfo(op, v->pid, v->fd, &info);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = v->pid), "task %d went away", v->pid);
	if (proc_parse_timerfd(info.rest, info.rest_len, &t) != 0 || base_clock(t.clock) < 0)
		return file_refuse(op, v, "timerfd", NULL, "the kernel shows its state in a way that is not known");
	now = clock_ns(base_clock(t.clock)) + (uint64_t)ns_clock_distance(s, base_clock(t.clock));
	m->clockid = t.clock;
	m->ticks = t.ticks;
	m->settime_flags = t.flags;
	m->vsec = t.value_s;
	m->vnsec = t.value_ns;
	m->isec = t.interval_s;
	m->insec = t.interval_ns;
	if (t.flags & TFD_TIMER_CANCEL_ON_SET && t.ticks && !t.interval_s && !t.interval_ns && (t.value_s || t.value_ns))
		log_warn(op, "task %d: fd %d: timerfd: the clock was set and the program has not been told yet: it will read an expiration instead of ECANCELED",
			 v->pid, v->fd);
	if (t.flags & TFD_TIMER_ABSTIME && (t.value_s || t.value_ns) && t.value_s < INT32_MAX)
		return note_point(op, f, now + t.value_s * NSEC + t.value_ns);
	return 0;
}

static int timerfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	TimerfdEntry *m = msg_new(op, TimerfdEntry, timerfd_entry);

	if (!m)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->tfd = m;
	return m->fown ? dump_state(op, s, v, f, m) : CKPT_E_NOMEM;
}

static int timerfd_write(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		struct snap_file *f = s->files.v[i];

		if (f->kind != &file_timerfd || !f->priv)
			continue;
		if (!s->extra->timerfds)
			s->extra->timerfds = op_alloc(op, s->files.n * sizeof(*s->extra->timerfds));
		if (!s->extra->timerfds)
			return CKPT_E_NOMEM;
		s->extra->timerfds[s->extra->n_timerfds++] = f->priv;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------- restore half */

static int timerfd_read(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_timerfds; i++) {
		struct snap_file *f = snapshot_file(s, s->extra->timerfds[i]->file_id);

		if (!f || f->kind != &file_timerfd)
			return image_bad(op, "ckpt-extra: file id %u is no timerfd", s->extra->timerfds[i]->file_id);
		f->priv = s->extra->timerfds[i];
	}
	return 0;
}

static int timerfd_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const TimerfdEntry *m = f->msg->tfd;

	(void)s;
	if (m->vnsec >= NSEC || m->insec >= NSEC || m->vsec > INT64_MAX || m->isec > INT64_MAX || base_clock(m->clockid) < 0 ||
	    m->settime_flags & ~(uint32_t)(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET))
		return image_bad(op, "files.img: timerfd id %u makes no sense", f->id);
	f->fd = file_high(timerfd_create((int)m->clockid, TFD_CLOEXEC | TFD_NONBLOCK));
	if (f->fd < 0 || file_set_flags(f->fd, m->flags) < 0)
		return op_errno(op, errno, AT(.kind = "timerfd"), "cannot create timerfd id %u", f->id);
	return 0;
}

static uint64_t timespec_ns(const Timespec *t)
{
	return t && t->tv_sec < INT32_MAX && t->tv_nsec < NSEC ? t->tv_sec * NSEC + t->tv_nsec : 0;
}

/* What the dump saw on the clock; 0: it does not say. */
static uint64_t dump_ns(const struct snapshot *s, clockid_t clock)
{
	if (!s->timens)
		return 0;
	return timespec_ns(clock == CLOCK_MONOTONIC ? s->timens->monotonic : s->timens->boottime);
}

/* In the tree's own time namespace; it gets one, too, where the machine's clock is behind. */
static bool clocks_go_on(const struct snapshot *s)
{
	return ns_own(s, NS_TIME) || clock_ns(CLOCK_MONOTONIC) < dump_ns(s, CLOCK_MONOTONIC) || clock_ns(CLOCK_BOOTTIME) < dump_ns(s, CLOCK_BOOTTIME);
}

static bool same_boot(const struct snapshot *s)
{
	char id[64] = "";
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, id, sizeof(id) - 1);

	if (n <= 0 || !s->extra || !s->extra->boot_id)
		return false;
	id[strcspn(id, "\n")] = 0;
	return strcmp(id, s->extra->boot_id) == 0;
}

/* The point at which it expires, on the clock that the task will see. */
static uint64_t point_of(const struct snapshot *s, const struct snap_file *f)
{
	const TimerfdEntry *m = f->msg->tfd;
	const TimerfdExtra *x = f->priv;
	clockid_t clock = base_clock(m->clockid);
	uint64_t left = MIN(m->vsec, (uint64_t)INT32_MAX) * NSEC + m->vnsec;

	if (x && (clock == CLOCK_REALTIME || same_boot(s) || clocks_go_on(s)))
		return x->expires_ns;
	/* Another boot or machine: what is left counts, not where its clock happens to be. */
	return (clock != CLOCK_REALTIME && clocks_go_on(s) ? dump_ns(s, clock) : clock_ns(clock)) + left;
}

static int plan_ticks(struct plan_build *b, const TimerfdEntry *m, const FdinfoEntry *e)
{
	const char *what = arena_printf(b->op->arena, "fd %u: timerfd: set the number of expirations", e->fd);
	struct plan_call c = { .nr = __NR_ioctl, .fd = -1, .data_args = 1 << 2, .args = { e->fd, TFD_IOC_SET_TICKS } };
	int r = what ? plan_put(b, &m->ticks, sizeof(m->ticks), &c.args[2]) : op_nomem(b->op);

	r = r ? r : plan_call(b, PLAN_LAST, &c, what);
	return MIN(r, 0);
}

/* Set by a task, at the end: a point of time is one of the task's own clock. */
static int timerfd_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first)
{
	const TimerfdEntry *m = f->msg->tfd;
	uint64_t its[4] = { m->isec, m->insec, m->vsec, m->vnsec }; /* the kernel's struct __kernel_itimerspec */
	const char *what = arena_printf(b->op->arena, "fd %u: timerfd: set it", e->fd);
	struct plan_call c = { .nr = __NR_timerfd_settime, .fd = -1, .data_args = 1 << 2, .args = { e->fd, m->settime_flags } };
	int r;

	if (!first)
		return 0;
	if (m->settime_flags & TFD_TIMER_ABSTIME && (m->vsec || m->vnsec)) {
		uint64_t ns = point_of(b->s, f);

		its[2] = ns / NSEC;
		its[3] = ns % NSEC;
	}
	r = what ? plan_put(b, its, sizeof(its), &c.args[2]) : op_nomem(b->op);
	r = r ? r : plan_call(b, PLAN_LAST, &c, what);
	return r < 0 || !m->ticks ? MIN(r, 0) : plan_ticks(b, m, e);
}

const struct file_kind file_timerfd = {
	.name = "timerfd",
	.type = FD_TYPES__TIMERFD,
	.message = offsetof(FileEntry, tfd),
	.match = timerfd_match,
	.dump = timerfd_dump,
	.write = timerfd_write,
	.read = timerfd_read,
	.open = timerfd_open,
	.plan = timerfd_plan,
};
