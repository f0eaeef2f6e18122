// SPDX-License-Identifier: MIT
/* The small files of a task: limits, timers, syscall, sched, cgroup. */
#include "lib/kernel/proc/proc.h"

#include <sys/resource.h>

#include "lib/kernel/proc/scan.h"

static const struct {
	const char *name;
	int resource;
} limit_names[] = {
	{ "Max cpu time", RLIMIT_CPU },
	{ "Max file size", RLIMIT_FSIZE },
	{ "Max data size", RLIMIT_DATA },
	{ "Max stack size", RLIMIT_STACK },
	{ "Max core file size", RLIMIT_CORE },
	{ "Max resident set", RLIMIT_RSS },
	{ "Max processes", RLIMIT_NPROC },
	{ "Max open files", RLIMIT_NOFILE },
	{ "Max locked memory", RLIMIT_MEMLOCK },
	{ "Max address space", RLIMIT_AS },
	{ "Max file locks", RLIMIT_LOCKS },
	{ "Max pending signals", RLIMIT_SIGPENDING },
	{ "Max msgqueue size", RLIMIT_MSGQUEUE },
	{ "Max nice priority", RLIMIT_NICE },
	{ "Max realtime priority", RLIMIT_RTPRIO },
	{ "Max realtime timeout", RLIMIT_RTTIME },
};

static bool parse_limit(struct scan *s, uint64_t *out)
{
	scan_blanks(s);
	if (scan_lit(s, "unlimited")) {
		*out = RLIM_INFINITY;
		return true;
	}
	return scan_u64(s, out);
}

int proc_parse_limits(const char *text, size_t len, struct proc_limit out[16])
{
	struct scan s = SCAN(text, len), line;
	unsigned have = 0;

	while (scan_line(&s, &line)) {
		for (size_t i = 0; i < ARRAY_SIZE(limit_names); i++) {
			const char *name = limit_names[i].name;
			struct proc_limit *limit = &out[limit_names[i].resource];

			if (!scan_lit_n(&line, name, strlen(name)))
				continue;
			if (!parse_limit(&line, &limit->cur) || !parse_limit(&line, &limit->max))
				return -1;
			have |= 1u << limit_names[i].resource;
			break;
		}
	}
	return have == 0xffff ? 0 : -1;
}

/* "signal/pid.1234", "none/tid.0" */
static bool parse_notify(struct scan *s, struct proc_timer *t)
{
	if (scan_lit(s, "signal/"))
		t->notify = SIGEV_SIGNAL;
	else if (scan_lit(s, "none/"))
		t->notify = SIGEV_NONE;
	else if (scan_lit(s, "thread/"))
		t->notify = SIGEV_THREAD;
	else
		return false;
	t->notify_tid = scan_lit(s, "tid.");
	if (!t->notify_tid && !scan_lit(s, "pid."))
		return false;
	if (t->notify_tid)
		t->notify |= SIGEV_THREAD_ID;
	return scan_int(s, &t->notify_pid);
}

static bool parse_timer_signal(struct scan *s, struct proc_timer *t)
{
	if (!scan_u32(s, 10, &t->signo) || !scan_char(s, '/'))
		return false;
	scan_lit(s, "0x");
	return scan_hex(s, &t->sigval);
}

static bool parse_clock_id(struct scan *s, struct proc_timer *t)
{
	int id;

	if (!scan_int(s, &id))
		return false;
	t->clock_id = (uint32_t)id; /* clocks of a process or thread are negative */
	return true;
}

int proc_parse_timers(struct arena *a, const char *text, size_t len, struct proc_timers *out)
{
	enum { SIGNAL = 1, NOTIFY = 2, CLOCK = 4, ALL = 7 };
	struct scan s = SCAN(text, len), line;
	struct proc_timer *t = NULL;
	unsigned have = ALL;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct scan key = scan_until(&line, ':');
		bool ok = true;

		scan_blanks(&line);
		if (scan_is(&key, "ID")) {
			t = have == ALL ? ARRAY_ADD(a, &out->v) : NULL;
			ok = t && scan_u32(&line, 10, &t->id);
			have = 0;
		} else if (!t) {
			return -1;
		} else if (scan_is(&key, "signal")) {
			ok = parse_timer_signal(&line, t);
			have |= SIGNAL;
		} else if (scan_is(&key, "notify")) {
			ok = parse_notify(&line, t);
			have |= NOTIFY;
		} else if (scan_is(&key, "ClockID")) {
			ok = parse_clock_id(&line, t);
			have |= CLOCK;
		}
		if (!ok)
			return -1;
	}
	return have == ALL ? 0 : -1;
}

static bool parse_0x(struct scan *s, uint64_t *out)
{
	return scan_char(s, ' ') && scan_lit(s, "0x") && scan_hex(s, out);
}

int proc_parse_syscall(const char *text, size_t len, struct proc_syscall *out)
{
	struct scan all = SCAN(text, len), s;
	int64_t nr;

	memset(out, 0, sizeof(*out));
	out->nr = -1;
	if (!scan_line(&all, &s))
		return -1;
	if (scan_is(&s, "running")) {
		out->running = true;
		return 0;
	}
	if (!scan_s64(&s, &nr))
		return -1;
	out->nr = (long)nr;
	for (int i = 0; nr != -1 && i < 6; i++) {
		if (!parse_0x(&s, &out->args[i]))
			return -1;
	}
	return parse_0x(&s, &out->sp) && parse_0x(&s, &out->pc) ? 0 : -1;
}

/* Milliseconds, and the nanoseconds of one after the point: "se.exec_start   :   1469418.205212". */
uint64_t proc_parse_sched_exec_start(const char *text, size_t len)
{
	struct scan s = SCAN(text, len), line;
	uint64_t ms, ns;

	while (scan_line(&s, &line)) {
		if (!scan_lit(&line, "se.exec_start"))
			continue;
		scan_blanks(&line);
		if (!scan_char(&line, ':'))
			continue;
		scan_blanks(&line);
		if (!scan_u64(&line, &ms) || !scan_char(&line, '.') || !scan_u64(&line, &ns) || ns >= 1000000 ||
		    ms > (UINT64_MAX - ns) / 1000000)
			return 0;
		return ms * 1000000 + ns;
	}
	return 0;
}

int proc_parse_cgroup(struct arena *a, const char *text, size_t len, struct proc_cgroups *out)
{
	struct scan s = SCAN(text, len), line, word;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_cgroup *c = ARRAY_ADD(a, &out->v);

		if (!c || !scan_u32(&line, 10, &c->hierarchy) || !scan_char(&line, ':') ||
		    !memchr(line.p, ':', SCAN_LEN(&line)))
			return -1;
		word = scan_until(&line, ':');
		c->controllers = arena_strndup(a, word.p, SCAN_LEN(&word));
		c->path = arena_strndup(a, line.p, SCAN_LEN(&line));
		if (!c->controllers || !c->path || c->path[0] != '/')
			return -1;
	}
	return 0;
}
