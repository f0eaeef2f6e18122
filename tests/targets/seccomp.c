// SPDX-License-Identifier: MIT
/* Seccomp: strict mode, one filter, a chain of filters, a thread with a filter of its own. */
#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

static void deny(int nr, int err, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	CHECK(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog));
}

/* Everything that an engine may want to run in here is denied, by death. */
static void allow_little(void)
{
	static const int allowed[] = { SYS_read, SYS_write, SYS_rt_sigtimedwait, SYS_rt_sigreturn, SYS_exit_group, SYS_exit,
				       SYS_restart_syscall };
	struct sock_filter code[2 * ARRAY_SIZE(allowed) + 2];
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	size_t n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	CHECK(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

static bool denied(int err)
{
	errno = 0;
	return syscall(SYS_getpriority, 0, 0) < 0 && errno == err;
}

static void filter(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	deny(SYS_getpriority, 77, 0);
	t_wait();
	CHECK(denied(77));
}

static void chain(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	deny(SYS_getpriority, 50, 0);
	deny(SYS_getpriority, 60, 0); /* the newest one that denies wins among equals */
	deny(SYS_sysinfo, 61, SECCOMP_FILTER_FLAG_LOG);
	CHECK(denied(60));
	t_wait();
	CHECK(denied(60));
	errno = 0;
	CHECK(syscall(SYS_sysinfo, 0) < 0);
}

static void tight(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	allow_little();
	t_wait();
}

static pthread_barrier_t bar;

static void *other(void *arg)
{
	(void)arg;
	deny(SYS_getpriority, 88, 0);
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	CHECK(denied(88));
	return NULL;
}

static void threads(void)
{
	pthread_t t;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, other, NULL));
	pthread_barrier_wait(&bar);
	t_wait();
	CHECK(!denied(88));
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
}

/* Only read, write, exit and sigreturn are left: SIGUSR1 interrupts a read that never gets anything. */
static int p[2];

static void woken(int sig)
{
	static const char pass[] = "PASS\n";

	(void)sig;
	if (write(T_OUT_FD, pass, sizeof(pass) - 1) < 0)
		syscall(SYS_exit, 1);
	syscall(SYS_exit, 0);
}

static void strict(void)
{
	struct sigaction sa = { .sa_handler = woken };
	sigset_t s;
	char b;

	CHECK(!pipe(p) && !sigaction(SIGUSR1, &sa, NULL));
	sigemptyset(&s);
	sigprocmask(SIG_SETMASK, &s, NULL);
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	t_say("ready\n");
	for (;;)
		if (read(p[0], &b, 1) >= 0)
			FAIL("read something");
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "filter", filter }, { "chain", chain }, { "tight", tight }, { "threads", threads }, { "strict", strict }
	};

	T_RUN(variants, t_init(argc, argv));
}
