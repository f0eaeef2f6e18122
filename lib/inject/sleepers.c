/* SPDX-License-Identifier: MIT */
#include "lib/inject/sleepers.h"

#include <time.h>

#include "lib/kernel/sys.h"

#define STAT_PROCESSOR 39 /* field of /proc/PID/stat */

/* Where threads wait that have a restart block; lib/state/task/restart.c tells which call it is. */
static bool may_sleep_relatively(const char *wchan)
{
	return strstr(wchan, "nanosleep") || strstr(wchan, "futex") || strstr(wchan, "poll") || strstr(wchan, "syscall");
}

void sleepers_begin(struct sleepers *s)
{
	*s = (struct sleepers){ 0 };
	s->usable = sched_getaffinity(0, sizeof(s->own_affinity), &s->own_affinity) == 0;
}

void sleepers_end(struct sleepers *s)
{
	if (s->moved)
		sched_setaffinity(0, sizeof(s->own_affinity), &s->own_affinity);
	s->moved = false;
}

static uint64_t exec_start_of(struct op *op, pid_t pid, pid_t tid)
{
	char file[64], *text;
	size_t len;

	snprintf(file, sizeof(file), "task/%d/sched", tid);
	if (proc_read_file(op, pid, file, &text, &len) != 0) {
		op_forget(op);
		return 0;
	}
	return proc_parse_sched_exec_start(text, len);
}

static int last_cpu_of(struct op *op, pid_t pid, pid_t tid)
{
	char file[64], *text, *at;
	size_t len;

	snprintf(file, sizeof(file), "task/%d/stat", tid);
	if (proc_read_file(op, pid, file, &text, &len) != 0) {
		op_forget(op);
		return -1;
	}
	at = strrchr(text, ')');
	for (int field = 2; at && field < STAT_PROCESSOR; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -1;
}

/* Gets onto the CPU, sleeps for an instant so that our own exec_start is of now, and compares. */
static int64_t measure(struct op *op, struct sleepers *s, int cpu)
{
	struct timespec instant = { 0, 1 };
	uint64_t exec_start;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) != 0)
		return 0;
	s->moved = true;
	nanosleep(&instant, NULL);
	exec_start = exec_start_of(op, getpid(), sys_gettid());
	return exec_start ? (int64_t)(now_ns() - exec_start) : 0;
}

void sleepers_note(struct op *op, struct sleepers *s, pid_t pid, struct tracee *tr)
{
	char file[64], *text;
	uint64_t exec_start;
	size_t len;
	int cpu;

	if (!s->usable || tr->status.state != 'S')
		return;
	snprintf(file, sizeof(file), "task/%d/wchan", tr->tid);
	if (proc_read_file(op, pid, file, &text, &len) != 0) {
		op_forget(op);
		return;
	}
	snprintf(tr->wchan, sizeof(tr->wchan), "%.*s", (int)len, text);
	if (!may_sleep_relatively(tr->wchan))
		return;
	cpu = last_cpu_of(op, pid, tr->tid);
	exec_start = exec_start_of(op, pid, tr->tid);
	if (cpu < 0 || cpu >= CPU_SETSIZE || !exec_start)
		return;
	if (!s->offset[cpu])
		s->offset[cpu] = measure(op, s, cpu);
	if (s->offset[cpu])
		tr->slept_since = (uint64_t)((int64_t)exec_start + s->offset[cpu]);
}
