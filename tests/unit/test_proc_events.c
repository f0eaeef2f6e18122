// SPDX-License-Identifier: MIT
/* The parsers of what epoll, signalfd, timerfd, inotify, fanotify and pidfds add to fdinfo. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>

#include "lib/kernel/proc/proc.h"
#include "tests/unit/proc_text.h"

#define PARSE(parse, str, out)                                             \
	({                                                                 \
		CLEAN struct text _t = text_of((str), strlen(str));        \
		parse(*state, _t.p, _t.n, (out));                          \
	})
#define PARSE_FLAT(parse, str, out)                                        \
	({                                                                 \
		CLEAN struct text _t = text_of((str), strlen(str));        \
		parse(_t.p, _t.n, (out));                                  \
	})

static void epoll(void **state)
{
	CLEAN struct text t = load("fdinfo-epoll");
	struct proc_epoll e;

	assert_int_equal(proc_parse_epoll(*state, t.p, t.n, &e), 0);
	assert_int_equal(e.v.n, 3);
	assert_int_equal(e.v.v[0].tfd, 4);
	assert_int_equal(e.v.v[0].events, 0xc0000019);
	assert_int_equal(e.v.v[0].data, 0xffffffffffff);
	assert_true(e.v.v[1].has_inode && e.v.v[1].ino == 0x17e835 && e.v.v[1].dev == 15);
	assert_int_equal(e.v.v[2].events, 0xc0000000);
	assert_int_equal(PARSE(proc_parse_epoll, "", &e), 0);
	assert_int_equal(e.v.n, 0);
	assert_int_equal(PARSE(proc_parse_epoll, "tfd: 5 events: 19 data: b", &e), 0);
	assert_false(e.v.v[0].has_inode);
	assert_int_equal(PARSE(proc_parse_epoll, "tfd: 5 events: 19", &e), -1);
	assert_int_equal(PARSE(proc_parse_epoll, "tfd: x events: 19 data: 0", &e), -1);
	assert_int_equal(PARSE(proc_parse_epoll, "tfd: 99999999999 events: 19 data: 0", &e), -1);
	assert_int_equal(PARSE(proc_parse_epoll, "tfd:", &e), -1);
}

static void timers(void **state)
{
	struct proc_timerfd t;
	uint64_t mask = 0;

	(void)state;
	assert_int_equal(PARSE_FLAT(proc_parse_timerfd,
				    "clockid: 9\nticks: 3\nsettime flags: 03\nit_value: (49, 406)\nit_interval: (1, 0)\n", &t), 0);
	assert_true(t.clock == 9 && t.ticks == 3 && t.flags == 3 && t.value_s == 49 && t.value_ns == 406 && t.interval_s == 1);
	assert_int_equal(PARSE_FLAT(proc_parse_timerfd, "clockid: 1\nticks: 3\nsettime flags: 00\nit_value: (49, 406)\n", &t), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_timerfd,
				    "clockid: 1\nticks: 0\nsettime flags: 00\nit_value: (1, 1000000000)\nit_interval: (0, 0)\n", &t), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_timerfd,
				    "clockid: 1\nticks: 0\nsettime flags: 00\nit_value: (1, 0\nit_interval: (0, 0)\n", &t), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_signalfd, "sigmask:\t8000000000000001\n", &mask), 0);
	assert_int_equal(mask, 0x8000000000000001);
	assert_int_equal(PARSE_FLAT(proc_parse_signalfd, "sigmask:\n", &mask), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_signalfd, "", &mask), -1);
}

static void inotify(void **state)
{
	CLEAN struct text t = load("fdinfo-inotify");
	struct proc_inotify n;

	assert_int_equal(proc_parse_inotify(*state, t.p, t.n, &n), 0);
	assert_int_equal(n.v.n, 3);
	assert_int_equal(n.v.v[0].handle.bytes, 12);
	assert_memory_equal(n.v.v[0].handle.data, "\x1d\xe3\x66\x30\x01\0\0\0\0\0\0\0", 12);
	assert_true(n.v.v[1].handle.bytes == 0 && n.v.v[1].mask == 0x80000fff);
	assert_true(n.v.v[2].wd == 31 && n.v.v[2].ino == 0xa7220c && n.v.v[2].dev == 0xfe00000);
	assert_int_equal(PARSE(proc_parse_inotify, "inotify wd:1 ino:1 sdev:1b mask:fff fhandle-bytes:8 fhandle-type:1 f_handle:0c", &n), -1);
	assert_int_equal(PARSE(proc_parse_inotify, "inotify wd:1 ino:1 sdev:1b mask:fff fhandle-bytes:1 fhandle-type:1 f_handle:zz", &n), -1);
	assert_int_equal(PARSE(proc_parse_inotify, "inotify wd:1 ino:1 sdev:1b mask:fff fhandle-bytes:ff fhandle-type:1 f_handle:0c", &n), -1);
	assert_int_equal(PARSE(proc_parse_inotify, "inotify wd:1 ino:1 sdev:1b mask:fff fhandle-bytes:1 fhandle-type:1", &n), -1);
	assert_int_equal(PARSE(proc_parse_inotify, "inotify wd:1 ino:1 sdev:1b", &n), -1);
}

static void fanotify(void **state)
{
	CLEAN struct text t = load("fdinfo-fanotify");
	struct proc_fanotify n;

	assert_int_equal(proc_parse_fanotify(*state, t.p, t.n, &n), 0);
	assert_true(n.flags == 0x26 && n.event_flags == 0x8000 && n.v.n == 3);
	assert_true(n.v.v[0].type == PROC_MARK_FILESYSTEM && n.v.v[0].dev == 0x1b);
	assert_true(n.v.v[1].type == PROC_MARK_MOUNT && n.v.v[1].mnt_id == 0x1e);
	assert_true(n.v.v[2].type == PROC_MARK_INODE && n.v.v[2].flags == 0x40 && n.v.v[2].ignored == 0x20);
	assert_int_equal(PARSE(proc_parse_fanotify, "fanotify flags:0 event-flags:0\nfanotify mnt_ns:7 mflags:0 mask:1 ignored_mask:0\n", &n), 0);
	assert_int_equal(n.v.v[0].type, PROC_MARK_OTHER);
	assert_int_equal(PARSE(proc_parse_fanotify, "", &n), -1);
	assert_int_equal(PARSE(proc_parse_fanotify, "fanotify flags:0\n", &n), -1);
	assert_int_equal(PARSE(proc_parse_fanotify, "fanotify flags:0 event-flags:0\nfanotify sdev:1 mask:1\n", &n), -1);
}

static void pidfd(void **state)
{
	CLEAN struct text t = load("fdinfo-pidfd");
	struct proc_pidfd p;

	(void)state;
	assert_int_equal(proc_parse_pidfd(t.p, t.n, &p), 0);
	assert_true(p.pid == 21462 && p.nspid == 12);
	assert_int_equal(PARSE_FLAT(proc_parse_pidfd, "Pid:\t-1\nNSpid:\t-1", &p), 0);
	assert_true(p.pid == -1 && p.nspid == -1);
	assert_int_equal(PARSE_FLAT(proc_parse_pidfd, "Pid:\t7\n", &p), 0);
	assert_int_equal(p.nspid, 7);
	assert_int_equal(PARSE_FLAT(proc_parse_pidfd, "Pid:\tx\n", &p), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_pidfd, "Pid:\t7\nNSpid:\t7 y\n", &p), -1);
	assert_int_equal(PARSE_FLAT(proc_parse_pidfd, "", &p), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epoll), cmocka_unit_test(timers), cmocka_unit_test(inotify),
		cmocka_unit_test(fanotify), cmocka_unit_test(pidfd),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
