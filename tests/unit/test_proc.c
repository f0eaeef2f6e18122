// SPDX-License-Identifier: MIT
/* The parsers of /proc, on texts recorded from a program that has set up something of everything, and on damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
/* after the four above */
#include <cmocka.h>

#include "lib/kernel/proc/proc.h"
#include "tests/unit/proc_text.h"

static void status_of_odd_task(void **state)
{
	CLEAN struct text t = load("status-odd");
	struct proc_status s;

	assert_int_equal(proc_parse_status(*state, t.p, t.n, &s), 0);
	assert_string_equal(s.name, ") R 1 (\n\\");
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.pid, 21652);
	assert_int_equal(s.tgid, 21652);
	assert_int_equal(s.ppid, 21643);
	assert_int_equal(s.tracer, 0);
	assert_true(s.nspid.n == 1 && s.nspid.v[0] == 21652);
	assert_int_equal(s.umask, 022);
	assert_int_equal(s.n_groups, 3);
	assert_int_equal(s.groups[1], 70000);
	assert_int_equal(s.groups[2], 4000000000u);
	assert_int_equal(s.threads, 2);
	assert_int_equal(s.vm_locked_kb, 64);
	assert_int_equal(s.shd_pending, 0x800);
	assert_int_equal(s.sig_blocked, 0x8000000000010800);
	assert_int_equal(s.sig_ignored, 0x206);
	assert_int_equal(s.cap_eff, 0x1fffeffffff);
	assert_true(s.no_new_privs);
	assert_int_equal(s.seccomp, 0);
	assert_int_equal(s.seccomp_filters, 0);
	assert_int_equal(s.thp_enabled, 1);
	assert_true(s.has_mm);
	assert_false(s.kernel_thread);
}

static void status_of_kernel_thread(void **state)
{
	CLEAN struct text t = load("status-kthread");
	struct proc_status s;

	assert_int_equal(proc_parse_status(*state, t.p, t.n, &s), 0);
	assert_string_equal(s.name, "kthreadd");
	assert_true(s.kernel_thread);
	assert_false(s.has_mm);
	assert_int_equal(s.n_groups, 0);
	assert_int_equal(s.thp_enabled, -1);
}

static void status_of_zombie(void **state)
{
	CLEAN struct text t = load("status-zombie");
	struct proc_status s;

	assert_int_equal(proc_parse_status(*state, t.p, t.n, &s), 0);
	assert_int_equal(s.state, 'Z');
	assert_false(s.has_mm);
}

#define STATUS_HEAD "Name:\tx\nState:\tS (sleeping)\nTgid:\t1\nPid:\t1\nPPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"

static int parse_status(void *arena, const char *text, struct proc_status *s)
{
	CLEAN struct text t = text_of(text, strlen(text));

	return proc_parse_status(arena, t.p, t.n, s);
}

#define FOUR "\t1\t1\t1\t1"
#define DEEP FOUR FOUR FOUR FOUR FOUR FOUR FOUR FOUR

static void status_of_other_forms(void **state)
{
	struct proc_status s;

	assert_int_equal(parse_status(*state, STATUS_HEAD "NStgid:\t700\t20\t2\nNSpid:\t700\t20\t3\nNSpgid:\t699\t19\t0\nNSsid:\t50\t0\t0\n", &s), 0);
	assert_true(s.nspid.n == 3 && s.nspid.v[0] == 700 && s.nspid.v[1] == 20 && s.nspid.v[2] == 3);
	assert_true(s.nstgid.n == 3 && proc_own_number(&s.nstgid) == 2 && proc_own_number(&s.nspid) == 3);
	assert_true(s.nspgid.n == 3 && s.nspgid.v[1] == 19 && s.nspgid.v[2] == 0);
	assert_true(s.nssid.n == 3 && s.nssid.v[0] == 50 && s.nssid.v[1] == 0);
	assert_int_equal(s.seccomp_filters, -1);
	assert_int_equal(s.uid[3], 4);
	assert_int_equal(s.gid[0], 5);
	/* Without the line (old kernels) there is one level. */
	assert_int_equal(parse_status(*state, STATUS_HEAD "x86_Thread_features:\tshstk wrss \n", &s), 0);
	assert_true(s.nspid.n == 1 && s.nspid.v[0] == 1 && !s.nspgid.n && !s.nssid.n);
	assert_string_equal(s.x86_thread_features, "shstk wrss ");

	assert_int_equal(parse_status(*state, "", &s), -1);
	assert_int_equal(parse_status(*state, "Name:\tx\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "Uid:\t1\t2\t3\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "Groups:\t1 a\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "Groups:\t4294967296\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "SigPnd:\t10000000000000000\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "NSpid:\t1\tx\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "NSsid:\t-1\n", &s), -1);
	/* As deep as the kernel nests them, and deeper. */
	assert_int_equal(parse_status(*state, STATUS_HEAD "NSpid:\t1" DEEP "\n", &s), 0);
	assert_int_equal(s.nspid.n, PROC_PID_LEVELS);
	assert_int_equal(parse_status(*state, STATUS_HEAD "NSpid:\t1" DEEP "\t1\n", &s), -1);
	assert_int_equal(parse_status(*state, STATUS_HEAD "Pid:\t99999999999\n", &s), -1);
}

static void stat_with_a_hostile_name(void **state)
{
	CLEAN struct text t = load("stat-odd");
	struct proc_stat s;

	(void)state;
	assert_int_equal(proc_parse_stat(t.p, t.n, &s), 0);
	assert_string_equal(s.comm, ") R 1 (\n\\");
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.pid, 21652);
	assert_int_equal(s.ppid, 21643);
	assert_int_equal(s.pgrp, 21643);
	assert_int_equal(s.session, 4046);
	assert_int_equal(s.tty_nr, 0);
	assert_int_equal(s.tpgid, -1);
	assert_int_equal(s.nice, 0);
	assert_int_equal(s.num_threads, 2);
	assert_int_equal(s.starttime, 312693);
	assert_int_equal(s.vsize, 11681792);
	assert_int_equal(s.rss, 376);
	assert_int_equal(s.start_code, 94773841043456);
	assert_int_equal(s.end_code, 94773841047361);
	assert_int_equal(s.start_stack, 140734410406784);
	assert_int_equal(s.exit_signal, 17);
	assert_int_equal(s.start_data, 94773841055184);
	assert_int_equal(s.start_brk, 94773933314048);
	assert_int_equal(s.arg_start, 140734410410647);
	assert_int_equal(s.env_end, 140734410412013);
	assert_int_equal(s.exit_code, 0);
}

static void stat_of_zombie(void **state)
{
	CLEAN struct text t = load("stat-zombie");
	struct proc_stat s;

	(void)state;
	assert_int_equal(proc_parse_stat(t.p, t.n, &s), 0);
	assert_int_equal(s.state, 'Z');
	assert_int_equal(s.exit_code, 3 << 8);
	assert_int_equal(proc_parse_stat("1 (x", 4, &s), -1);
	assert_int_equal(proc_parse_stat("1 )x( S 1", 9, &s), -1);
	assert_int_equal(proc_parse_stat("1 (x) S 1 2 3", 13, &s), -1);
	assert_int_equal(proc_parse_stat(NULL, 0, &s), -1);
}

static void limits(void **state)
{
	CLEAN struct text t = load("limits");
	struct proc_limit l[16];

	(void)state;
	assert_int_equal(proc_parse_limits(t.p, t.n, l), 0);
	assert_int_equal(l[RLIMIT_NOFILE].cur, 123);
	assert_int_equal(l[RLIMIT_NOFILE].max, 456);
	assert_true(l[RLIMIT_CPU].cur == RLIM_INFINITY);
	assert_int_equal(l[RLIMIT_STACK].cur, 8388608);
	assert_true(l[RLIMIT_STACK].max == RLIM_INFINITY);
	assert_int_equal(l[RLIMIT_NICE].max, 0);
	/* Without its last line. */
	assert_int_equal(proc_parse_limits(t.p, t.n - 80, l), -1);
}

/* The program maps 32 KiB every 64 KiB from here on. */
#define AREAS 0x100000000000ull

static const struct proc_vma *area(const struct proc_maps *m, unsigned n)
{
	for (size_t i = 0; i < m->vmas.n; i++)
		if (m->vmas.v[i].start == AREAS + n * 0x10000ull)
			return &m->vmas.v[i];
	fail();
	return NULL;
}

static void smaps(void **state)
{
	static const uint32_t extra[] = { 0, 0, VMF_DC, VMF_DD, VMF_WF, VMF_MG, VMF_HG, VMF_NH, VMF_SR, VMF_RR, VMF_LO,
					  VMF_LO | VMF_LF, VMF_GD };
	CLEAN struct text t = load("smaps");
	const struct proc_vma *v;
	struct proc_maps m;

	assert_int_equal(proc_parse_maps(*state, t.p, t.n, &m), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(extra); i++) {
		v = area(&m, i);
		assert_true(v->has_vmflags);
		assert_string_equal(v->perms, "rw-p");
		assert_string_equal(v->name, "");
		assert_int_equal(v->vmflags, VMF_RD | VMF_WR | VMF_AC | extra[i]);
		assert_int_equal(v->kernel_page_kb, 4);
	}
	assert_int_equal(area(&m, 0)->rss_kb, 4);
	assert_int_equal(area(&m, 0)->anon_kb, 4);
	assert_int_equal(area(&m, 10)->locked_kb, 32);
	assert_int_equal(area(&m, 13)->vmflags, VMF_RD | VMF_WR | VMF_NR);
	assert_int_equal(area(&m, 14)->vmflags & (VMF_RD | VMF_WR | VMF_EX), 0);
	assert_string_equal(area(&m, 14)->perms, "---p");
	assert_int_equal(area(&m, 15)->vmflags, VMF_RD | VMF_WR | VMF_SH);
	assert_string_equal(area(&m, 15)->name, "/dev/zero (deleted)");
	assert_string_equal(area(&m, 16)->name, "/memfd:a memfd (deleted)");

	v = area(&m, 17);
	/* Only the newline is escaped; the backslash and what follows are the file's own name. */
	assert_string_equal(v->name, "/tmp/odd\nname \\040(deleted) (deleted)");
	assert_int_equal(v->dev_major, 0xfe);
	assert_int_equal(v->dev_minor, 0);
	assert_int_equal(v->inode, 10953204);
	assert_int_equal(v->anon_kb, 4);
	assert_ptr_equal(v->name, area(&m, 18)->name);
	/* MAP_SHARED, from a descriptor that cannot write: the kernel says "ms", not "sh". */
	assert_int_equal(area(&m, 19)->vmflags, VMF_RD | VMF_SH);
	assert_true(area(&m, 20)->vmflags & VMF_SL);
	assert_true(area(&m, 21)->vmflags & VMF_DP);
	assert_int_equal(area(&m, 22)->vmflags & (VMF_UM | VMF_UW), VMF_UM | VMF_UW);

	v = &m.vmas.v[m.vmas.n - 1];
	assert_string_equal(v->name, "[vsyscall]");
	assert_int_equal(v->start, 0xffffffffff600000);
	assert_int_equal(v->vmflags, VMF_EX);
}

static void maps_agree_with_smaps(void **state)
{
	CLEAN struct text t = load("maps"), u = load("smaps");
	struct proc_maps m, s;

	assert_int_equal(proc_parse_maps(*state, t.p, t.n, &m), 0);
	assert_int_equal(proc_parse_maps(*state, u.p, u.n, &s), 0);
	assert_int_equal(m.vmas.n, s.vmas.n);
	for (size_t i = 0; i < m.vmas.n; i++) {
		const struct proc_vma *a = &m.vmas.v[i], *b = &s.vmas.v[i];

		assert_false(a->has_vmflags);
		assert_int_equal(a->start, b->start);
		assert_int_equal(a->end, b->end);
		assert_int_equal(a->pgoff, b->pgoff);
		assert_string_equal(a->name, b->name);
		/* [vvar] is PROT_READ and so on: what maps shows are the same four bits. */
		assert_int_equal(a->vmflags, b->vmflags & (VMF_RD | VMF_WR | VMF_EX | VMF_SH));
	}
}

static int parse_maps(void *arena, const char *text, struct proc_maps *m)
{
	CLEAN struct text t = text_of(text, strlen(text));

	return proc_parse_maps(arena, t.p, t.n, m);
}

static void maps_of_other_forms(void **state)
{
	struct proc_maps m;

	assert_int_equal(parse_maps(*state, "", &m), 0);
	assert_int_equal(m.vmas.n, 0);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 00000000 00:00 0 [anon:two words]\nProtectionKey:        15\n", &m), 0);
	assert_string_equal(m.vmas.v[0].name, "[anon:two words]");
	assert_int_equal(m.vmas.v[0].protection_key, 15);
	/* A field and a flag of the future. */
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 00000000 00:00 0\nNews: 1\nVmFlags: rd zz wr\n", &m), 0);
	assert_int_equal(m.vmas.v[0].vmflags, VMF_RD | VMF_WR | VMF_EX);

	assert_int_equal(parse_maps(*state, "Rss: 4 kB\n", &m), -1);
	assert_int_equal(parse_maps(*state, "2000-1000 rwxp 00000000 00:00 0\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-1000 rwxp 00000000 00:00 0\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxq 00000000 00:00 0\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 00000000 00:00\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-10000000000000000 rwxp 0 00:00 0\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 0 100000000:00 0\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 0 00:00 0\nVmFlags: rd w\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 0 00:00 0\nProtectionKey: 65536\n", &m), -1);
	assert_int_equal(parse_maps(*state, "1000-2000 rwxp 0 00:00 0\n\n", &m), -1);
}

static void timers(void **state)
{
	CLEAN struct text t = load("timers");
	struct proc_timers v;

	assert_int_equal(proc_parse_timers(*state, t.p, t.n, &v), 0);
	assert_int_equal(v.v.n, 3);
	assert_int_equal(v.v.v[0].id, 2);
	assert_int_equal(v.v.v[0].signo, 10);
	assert_int_equal(v.v.v[0].sigval, 0x7fff12345678);
	assert_int_equal(v.v.v[0].notify, 4);
	assert_true(v.v.v[0].notify_tid);
	assert_int_equal(v.v.v[0].notify_pid, 21652);
	assert_int_equal(v.v.v[0].clock_id, 1);
	assert_int_equal(v.v.v[1].notify, 1);
	assert_int_equal((int)v.v.v[1].clock_id, -6);
	assert_int_equal(v.v.v[2].notify, 0);
	assert_int_equal(v.v.v[2].clock_id, 0);

	assert_int_equal(proc_parse_timers(*state, "", 0, &v), 0);
	assert_int_equal(v.v.n, 0);
	/* A timer that is cut off. */
	assert_int_equal(proc_parse_timers(*state, t.p, t.n - 11, &v), -1);
	assert_int_equal(proc_parse_timers(*state, t.p + 6, t.n - 6, &v), -1);
}

static void fdinfo_with_locks(void **state)
{
	CLEAN struct text t = load("fdinfo-locks");
	struct proc_fdinfo f;
	struct proc_lock *l;

	assert_int_equal(proc_parse_fdinfo(*state, t.p, t.n, &f), 0);
	assert_int_equal(f.pos, 0);
	assert_int_equal(f.flags, 0100002);
	assert_int_equal(f.mnt_id, 27);
	assert_int_equal(f.ino, 10953204);
	assert_int_equal(f.rest_len, 0);
	assert_int_equal(f.locks.n, 4);
	l = f.locks.v;
	assert_int_equal(l[0].kind, PROC_LOCK_FLOCK);
	assert_true(l[0].write);
	assert_int_equal(l[1].kind, PROC_LOCK_POSIX);
	assert_int_equal(l[1].pid, 21652);
	assert_int_equal(l[1].dev_major, 0xfe);
	assert_int_equal(l[1].inode, 10953204);
	assert_int_equal(l[1].start, 100);
	assert_int_equal(l[1].end, 149);
	assert_false(l[2].write);
	assert_true(l[2].end == UINT64_MAX);
	assert_int_equal(l[3].kind, PROC_LOCK_OFD);
	assert_int_equal(l[3].pid, -1);
}

static void fdinfo_with_a_lease(void **state)
{
	CLEAN struct text t = load("fdinfo-lease");
	struct proc_fdinfo f;

	assert_int_equal(proc_parse_fdinfo(*state, t.p, t.n, &f), 0);
	assert_int_equal(f.flags, 02120000);
	assert_int_equal(f.locks.n, 1);
	assert_int_equal(f.locks.v[0].kind, PROC_LOCK_LEASE);
	assert_string_equal(f.locks.v[0].lease_type, "ACTIVE");
}

static int parse_fdinfo(void *arena, const char *text, struct proc_fdinfo *f)
{
	CLEAN struct text t = text_of(text, strlen(text));

	return proc_parse_fdinfo(arena, t.p, t.n, f);
}

#define FDINFO_HEAD "pos:\t5\nflags:\t0100002\nmnt_id:\t1\n"

static void fdinfo_of_kinds(void **state)
{
	CLEAN struct text t = load("fdinfo-eventfd"), u = load("fdinfo-timerfd");
	struct proc_fdinfo f;

	assert_int_equal(proc_parse_fdinfo(*state, t.p, t.n, &f), 0);
	assert_int_equal(f.locks.n, 0);
	assert_memory_equal(f.rest, "eventfd-count:", 14);
	assert_int_equal(f.rest[f.rest_len - 1], '\n');
	assert_int_equal(proc_parse_fdinfo(*state, u.p, u.n, &f), 0);
	assert_memory_equal(f.rest, "clockid: 1\nticks: 0\n", 20);

	/* A rest without its newline gets one; epoll has lines whose keys look like ours. */
	assert_int_equal(parse_fdinfo(*state, FDINFO_HEAD "tfd:        5 events: 19 pos:0 ino:2f sdev:d", &f), 0);
	assert_int_equal(f.rest_len, strlen("tfd:        5 events: 19 pos:0 ino:2f sdev:d\n"));
	assert_int_equal(parse_fdinfo(*state, FDINFO_HEAD "lock:\t1: -> POSIX  MANDATORY READ  7 <none>:0 0 9\n", &f), 0);
	assert_true(f.locks.v[0].blocked && f.locks.v[0].mandatory && !f.locks.v[0].write);

	assert_int_equal(parse_fdinfo(*state, "pos:\t0\n", &f), -1);
	assert_int_equal(parse_fdinfo(*state, "flags:\t0\n", &f), -1);
	assert_int_equal(parse_fdinfo(*state, "pos:\t0\nflags:\t9\n", &f), -1);
	assert_int_equal(parse_fdinfo(*state, FDINFO_HEAD "lock:\t1: NEWLCK ADVISORY  WRITE 5 08:01:1 0 EOF\n", &f), -1);
	assert_int_equal(parse_fdinfo(*state, FDINFO_HEAD "lock:\t1: POSIX  ADVISORY  WRITE 5 08:01:1 0\n", &f), -1);
	assert_int_equal(parse_fdinfo(*state, FDINFO_HEAD "lock:\t1: POSIX  ADVISORY  WRITE 5 08:01:1 0 EOF x\n", &f), -1);
}

static void syscalls(void **state)
{
	CLEAN struct text a = load("syscall-blocked"), b = load("syscall-pause"), c = load("syscall-running");
	struct proc_syscall s;

	(void)state;
	assert_int_equal(proc_parse_syscall(a.p, a.n, &s), 0);
	assert_false(s.running);
	assert_int_equal(s.nr, 61);
	assert_int_equal(s.args[0], 0x54a8);
	assert_int_equal(s.args[1], 0x7fff488a32d8);
	assert_int_equal(s.sp, 0x7fff488a32a0);
	assert_int_equal(s.pc, 0x7efc2bdf0c17);
	assert_int_equal(proc_parse_syscall(b.p, b.n, &s), 0);
	assert_int_equal(s.nr, 34);
	assert_int_equal(proc_parse_syscall(c.p, c.n, &s), 0);
	assert_true(s.running);
	assert_int_equal(proc_parse_syscall("-1 0x10 0x20\n", 13, &s), 0);
	assert_int_equal(s.nr, -1);
	assert_int_equal(s.sp, 0x10);
	assert_int_equal(s.pc, 0x20);
	assert_int_equal(proc_parse_syscall("1 0x10 0x20\n", 12, &s), -1);
	assert_int_equal(proc_parse_syscall("", 0, &s), -1);
}

static void sched_exec_start(void **state)
{
	CLEAN struct text t = load("sched");

	(void)state;
	assert_int_equal(proc_parse_sched_exec_start(t.p, t.n), 3108613310815);
	assert_int_equal(proc_parse_sched_exec_start("", 0), 0);
	assert_int_equal(proc_parse_sched_exec_start("se.exec_start : 99999999999999999999.0\n", 39), 0);
}

static void cgroups(void **state)
{
	CLEAN struct text t = load("cgroup-v1"), u = load("cgroup-v2");
	struct proc_cgroups c;

	assert_int_equal(proc_parse_cgroup(*state, t.p, t.n, &c), 0);
	assert_int_equal(c.v.n, 5);
	assert_int_equal(c.v.v[0].hierarchy, 9);
	assert_string_equal(c.v.v[0].controllers, "name=systemd");
	assert_string_equal(c.v.v[3].controllers, "cpu,cpuacct");
	assert_string_equal(c.v.v[3].path, "/a:b");
	assert_int_equal(proc_parse_cgroup(*state, u.p, u.n, &c), 0);
	assert_string_equal(c.v.v[0].controllers, "");
	assert_string_equal(c.v.v[0].path, "/system.slice/a b.service (deleted)");
	assert_int_equal(proc_parse_cgroup(*state, "1:a\n", 4, &c), -1);
	assert_int_equal(proc_parse_cgroup(*state, "1:a:b\n", 6, &c), -1);
}

static void mountinfo(void **state)
{
	CLEAN struct text t = load("mountinfo");
	struct proc_mounts m;
	struct proc_mount *v;

	assert_int_equal(proc_parse_mountinfo(*state, t.p, t.n, &m), 0);
	assert_int_equal(m.v.n, 6);
	v = m.v.v;
	assert_int_equal(v[0].mnt_id, 22);
	assert_int_equal(v[0].parent_id, 27);
	assert_int_equal(v[0].shared_id, 12);
	assert_int_equal(v[1].dev_major, 254);
	assert_string_equal(v[2].mountpoint, "/mnt/a b\\c");
	assert_string_equal(v[2].source, "a#b");
	assert_int_equal(v[2].master_id, 7);
	assert_int_equal(v[2].shared_id, 0);
	assert_string_equal(v[3].source, "");
	assert_string_equal(v[3].sb_options, "rw");
	assert_int_equal(v[3].shared_id, 4);
	assert_int_equal(v[3].master_id, 5);
	assert_true(v[3].unbindable && !v[2].unbindable);
	assert_string_equal(v[4].root, "net:[4026532441]");
	assert_string_equal(v[4].fstype, "nsfs");
	assert_string_equal(v[5].root, "/docker/1//deleted");
	assert_int_equal(proc_parse_mountinfo(*state, "1 2 3:4 / / rw\n", 15, &m), -1);
	assert_int_equal(proc_parse_mountinfo(*state, "1 2 3:4 / / rw - ext4\n", 22, &m), -1);
}

/* Every parser on @t, without looking at what it says: it must come back and stay inside the text. */
static void parse_with_all(const struct text *t)
{
	struct arena *a = arena_new();
	struct proc_limit l[16];
	union {
		struct proc_status status;
		struct proc_stat stat;
		struct proc_maps maps;
		struct proc_timers timers;
		struct proc_fdinfo fdinfo;
		struct proc_syscall syscall;
		struct proc_cgroups cgroups;
		struct proc_mounts mounts;
	} u;

	assert_non_null(a);
	proc_parse_status(a, t->p, t->n, &u.status);
	proc_parse_stat(t->p, t->n, &u.stat);
	proc_parse_limits(t->p, t->n, l);
	proc_parse_maps(a, t->p, t->n, &u.maps);
	proc_parse_timers(a, t->p, t->n, &u.timers);
	proc_parse_fdinfo(a, t->p, t->n, &u.fdinfo);
	proc_parse_syscall(t->p, t->n, &u.syscall);
	proc_parse_sched_exec_start(t->p, t->n);
	proc_parse_cgroup(a, t->p, t->n, &u.cgroups);
	proc_parse_mountinfo(a, t->p, t->n, &u.mounts);
	arena_free(a);
}

static void damaged_texts(void **state)
{
	static const char *const names[] = { "status-odd", "stat-odd", "limits", "maps", "timers", "fdinfo-locks", "syscall-pause",
					     "sched", "cgroup-v1", "mountinfo" };
	uint32_t seed = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		CLEAN struct text t = load(names[i]);

		for (size_t n = 0; n < t.n; n += 1 + t.n / 200) {
			CLEAN struct text cut = text_of(t.p, n);

			parse_with_all(&cut);
		}
		for (int k = 0; k < 100; k++) {
			CLEAN struct text bad = text_of(t.p, t.n);

			for (int j = 0; j < 4; j++) {
				seed = seed * 1664525u + 1013904223u;
				bad.p[(seed >> 8) % bad.n] = (char)seed;
			}
			parse_with_all(&bad);
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(status_of_odd_task), T(status_of_kernel_thread), T(status_of_zombie), T(status_of_other_forms),
		T(stat_with_a_hostile_name), T(stat_of_zombie), T(limits), T(smaps), T(maps_agree_with_smaps),
		T(maps_of_other_forms), T(timers), T(fdinfo_with_locks), T(fdinfo_with_a_lease), T(fdinfo_of_kinds),
		T(syscalls), T(sched_exec_start), T(cgroups), T(mountinfo), T(damaged_texts),
	};

	return cmocka_run_group_tests_name("proc", tests, NULL, NULL);
}
