// SPDX-License-Identifier: MIT
/* Probes: what can be asked of, and done to, a process. */
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/probe/probe.h"
#include "lib/kernel/proc/proc.h"
#include "lib/kernel/sys.h"

/* Enough for a process with a few hundred descriptors in each of a few tasks. */
#define NOFILE_WANTED 4096

bool probe_capability(unsigned cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(__NR_capget, &head, data) < 0)
		return false;
	return data[cap / 32].effective >> (cap % 32) & 1;
}

static ssize_t read_file(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t r;

	if (fd < 0)
		return -1;
	while (n < size - 1 && (r = read(fd, buf + n, size - 1 - n)) > 0)
		n += (size_t)r;
	buf[n] = 0;
	return (ssize_t)n;
}

bool probe_file_holds(const char *path, const char *text)
{
	_cleanup_free_ char *buf = malloc(64u << 10);

	return buf && read_file(path, buf, 64u << 10) >= 0 && strstr(buf, text);
}

bool probe_fdinfo_holds(int fd, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return fd >= 0 && probe_file_holds(path, text);
}

bool probe_cap_sys_admin(struct features *f)
{
	(void)f;
	return probe_capability(CAP_SYS_ADMIN);
}

bool probe_cap_sys_ptrace(struct features *f)
{
	(void)f;
	return probe_capability(CAP_SYS_PTRACE);
}

bool probe_cap_checkpoint_restore(struct features *f)
{
	(void)f;
	return probe_capability(CAP_CHECKPOINT_RESTORE) || probe_capability(CAP_SYS_ADMIN);
}

bool probe_cap_sys_resource(struct features *f)
{
	(void)f;
	return probe_capability(CAP_SYS_RESOURCE);
}

bool probe_nofile(struct features *f)
{
	struct rlimit limit;

	(void)f;
	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max >= NOFILE_WANTED;
}

/* Asks for a child with our own number: the kernel gets as far as finding it taken, and makes no child. */
bool probe_clone3_set_tid(struct features *f)
{
	pid_t taken = getpid();
	struct clone_args args = { .set_tid = (uintptr_t)&taken, .set_tid_size = 1 };
	pid_t pid = sys_clone3(&args, sizeof(args));

	(void)f;
	if (pid == 0)
		_exit(0); /* cannot be */
	if (pid > 0) {
		waitpid(pid, NULL, __WALL);
		return false;
	}
	return errno == EEXIST;
}

bool probe_ns_last_pid(struct features *f)
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);

	/* Permission is checked at the write, which would not be harmless. */
	return fd >= 0 && feature_has(f, FEATURE_CAP_CHECKPOINT_RESTORE);
}

/* ---- a child to trace: it shares our memory, so that it costs the same in a program of any size */

static int tracee_main(void *arg)
{
	stay_while((long)(intptr_t)arg);
}

static pid_t tracee_start(char *stack, size_t size)
{
	sigset_t all, old;
	pid_t pid;

	/* A signal to our group must not run a handler of ours in the child: it has them all blocked. */
	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, &old))
		return -1;
	pid = clone(tracee_main, stack + size, CLONE_VM | CLONE_FILES | CLONE_FS, (void *)(intptr_t)getpid());
	sigprocmask(SIG_SETMASK, &old, NULL);
	return pid;
}

static bool stop_seized(pid_t pid)
{
	int status;

	return ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status);
}

static bool ask_breakpoints(pid_t pid)
{
	const size_t dr0 = offsetof(struct user, u_debugreg[0]), dr7 = offsetof(struct user, u_debugreg[7]);

	/* Local enable of breakpoint 0, on execution. */
	return ptrace(PTRACE_POKEUSER, pid, dr0, (void *)tracee_main) == 0 &&
	       ptrace(PTRACE_POKEUSER, pid, dr7, (void *)1ul) == 0;
}

static void ask_tracee(struct features *f, pid_t pid)
{
	struct __ptrace_peeksiginfo_args peek = { .flags = PTRACE_PEEKSIGINFO_SHARED, .nr = 1 };
	struct __ptrace_rseq_configuration rseq;
	siginfo_t info;
	bool suspend;
	long r;

	r = ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, sizeof(rseq), &rseq);
	features_set(f, FEATURE_GET_RSEQ_CONF, r == sizeof(rseq));
	features_set(f, FEATURE_PEEKSIGINFO, ptrace(PTRACE_PEEKSIGINFO, pid, &peek, &info) >= 0);
	/* There is no filter (EINVAL or ENOENT); a kernel without the request says EIO, and EACCES who may not ask. */
	r = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, NULL);
	features_set(f, FEATURE_SECCOMP_FILTERS, r >= 0 || errno == EINVAL || errno == ENOENT);
	features_set(f, FEATURE_BREAKPOINTS, ask_breakpoints(pid));
	suspend = ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP) == 0;
	features_set(f, FEATURE_SECCOMP_SUSPEND, suspend);
}

/* One child answers for all rows that name this probe. Returns only what the first of them asks. */
bool probe_tracee(struct features *f)
{
	static const enum feature_id mine[] = { FEATURE_PTRACE_SEIZE, FEATURE_SECCOMP_SUSPEND, FEATURE_SECCOMP_FILTERS,
						FEATURE_GET_RSEQ_CONF, FEATURE_PEEKSIGINFO, FEATURE_BREAKPOINTS };
	const size_t size = 64u << 10;
	_cleanup_free_ char *stack = malloc(size);
	bool seized = false;
	pid_t pid;

	for (size_t i = 0; i < ARRAY_SIZE(mine); i++)
		features_set(f, mine[i], false);
	if (!stack)
		return false;
	pid = tracee_start(stack, size);
	if (pid < 0)
		return false;
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL) == 0 && stop_seized(pid)) {
		seized = true;
		ask_tracee(f, pid);
	}
	features_set(f, FEATURE_PTRACE_SEIZE, seized);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return seized;
}

bool probe_pidfd_open(struct features *f)
{
	_cleanup_close_ int fd = sys_pidfd_open(getpid(), 0);

	(void)f;
	return fd >= 0;
}

bool probe_pidfd_getfd(struct features *f)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(getpid(), 0);
	_cleanup_close_ int copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, pidfd);

	(void)f;
	return copy >= 0;
}

bool probe_pidfd_store(struct features *f)
{
	return feature_has(f, FEATURE_PIDFD_OPEN) && feature_has(f, FEATURE_PIDFD_GETFD);
}

bool probe_kcmp(struct features *f)
{
	pid_t me = getpid();

	(void)f;
	return sys_kcmp(me, me, KCMP_VM, 0, 0) == 0;
}

bool probe_kcmp_epoll(struct features *f)
{
	_cleanup_close_ int ep = epoll_create1(EPOLL_CLOEXEC), target = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = { .events = EPOLLIN };
	struct kcmp_epoll_slot slot = { .efd = (uint32_t)ep, .tfd = (uint32_t)target };
	pid_t me = getpid();

	(void)f;
	return ep >= 0 && target >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, target, &ev) == 0 &&
	       sys_kcmp(me, me, KCMP_EPOLL_TFD, (uint64_t)target, (uintptr_t)&slot) == 0;
}

bool probe_mm_map(struct features *f)
{
	unsigned size = 0;

	(void)f;
	return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0 && size == sizeof(struct prctl_mm_map);
}

bool probe_tid_address(struct features *f)
{
	uint64_t addr = 0;

	(void)f;
	return prctl(PR_GET_TID_ADDRESS, &addr, 0, 0, 0) == 0;
}

bool probe_timer_cr_ids(struct features *f)
{
	(void)f;
	return prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
}

bool probe_membarrier_registrations(struct features *f)
{
	(void)f;
	return sys_membarrier(CKPT_MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0) >= 0;
}

bool probe_sched_exec_start(struct features *f)
{
	char buf[4096];
	ssize_t n = read_file("/proc/self/sched", buf, sizeof(buf));

	(void)f;
	return n > 0 && proc_parse_sched_exec_start(buf, (size_t)n) != 0;
}

bool probe_wchan(struct features *f)
{
	char buf[128];

	(void)f;
	return read_file("/proc/self/wchan", buf, sizeof(buf)) > 0;
}

bool probe_ns_pid(struct features *f)
{
	(void)f;
	return probe_file_holds("/proc/self/status", "\nNSpid:");
}

bool probe_loginuid(struct features *f)
{
	char buf[64];

	(void)f;
	return read_file("/proc/self/loginuid", buf, sizeof(buf)) > 0;
}

/* We have a vDSO, so that a kernel which could map one answers that there is one. */
bool probe_can_map_vdso(struct features *f)
{
	(void)f;
	return sys_arch_prctl(ARCH_MAP_VDSO_64, 0) < 0 && errno == EEXIST;
}

/* Not a matter of the kernel: libckpt does not handle 32-bit tasks. */
bool probe_compat_cr(struct features *f)
{
	(void)f;
	return false;
}

bool probe_always(struct features *f)
{
	(void)f;
	return true;
}
