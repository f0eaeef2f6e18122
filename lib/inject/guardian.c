/* SPDX-License-Identifier: MIT */
#include "lib/inject/guardian.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/inject/remote.h"
#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/run.h"
#include "lib/kernel/sys.h"

#define SYSCALL_STOP_BIT 0x80
#define CLAIM_TRIES 1000 /* of a millisecond */

/*
 * Everything below up to guardian_start() runs in the guardian: a fork of a program that may have had other threads, so
 * that only system calls and plain computation are allowed, no malloc.
 */

static void pause_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static bool wait_stopped(pid_t tid)
{
	int status;

	for (int i = 0; i < 2000; i++) {
		pid_t got = waitpid(tid, &status, __WALL | WNOHANG);

		if (got == tid && WIFSTOPPED(status)) {
			if (status >> 16)
				return true;
			/* A signal on its way: deliver it, our stop follows. A stop at a system call is none. */
			ptrace(PTRACE_CONT, tid, 0, WSTOPSIG(status) & SYSCALL_STOP_BIT ? 0 : (long)WSTOPSIG(status));
		} else if (got == tid || got < 0) {
			return false;
		} else {
			/* An interruption can get lost on the way, where the thread was just being let go by its dead tracer. */
			if (i % 50 == 49)
				ptrace(PTRACE_INTERRUPT, tid, 0, 0);
			pause_ms(1);
		}
	}
	return false;
}

/* The parasite needs some microseconds to end; a thread in the middle of it is left to run on and asked again. */
static bool stop_outside(pid_t tid, const struct journal_entry *e, uint64_t area, struct tracee *tr)
{
	static const uint64_t near_gadget = 16;
	struct iovec iov;
	uint64_t mask;

	for (int i = 0; i < 200; i++) {
		if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || !wait_stopped(tid))
			return false;
		iov = (struct iovec){ &tr->regs, sizeof(tr->regs) };
		if (ptrace(PTRACE_GETREGSET, tid, 1 /* NT_PRSTATUS */, &iov) < 0)
			return false;
		if ((tr->regs.rip < area || tr->regs.rip >= area + e->area_size) &&
		    (tr->regs.rip < e->gadget_syscall_ret || tr->regs.rip > e->gadget_syscall_ret + near_gadget) &&
		    (tr->regs.rip < e->gadget_sigreturn || tr->regs.rip > e->gadget_sigreturn + near_gadget)) {
			iov = (struct iovec){ tr->xstate, XSTATE_MAX };
			if (ptrace(PTRACE_GETREGSET, tid, 0x202 /* NT_X86_XSTATE */, &iov) < 0 ||
			    ptrace(PTRACE_GETSIGMASK, tid, sizeof(mask), &mask) < 0)
				return false;
			tr->xstate_len = x86_xstate_trim(tr->xstate, iov.iov_len, 0);
			tr->sigmask = mask;
			return true;
		}
		ptrace(PTRACE_CONT, tid, 0, 0);
		/* A clone is begun again after each stop: it must get the time that it takes, which grows with the memory. */
		pause_ms(i < 20 ? 1 : MIN(i - 19, 100));
	}
	return false;
}

static void format_path(char *buf, size_t n, const char *before, pid_t pid, const char *after)
{
	char digits[12];
	size_t k = 0, at = strlen(before);

	memcpy(buf, before, at);
	do
		digits[k++] = (char)('0' + pid % 10);
	while ((pid /= 10) && k < sizeof(digits));
	while (k && at + 1 < n)
		buf[at++] = digits[--k];
	memcpy(buf + at, after, strlen(after) + 1);
}

/* State and field 22 of stat. False: there is no such process. */
static bool read_stat(pid_t pid, char *state, uint64_t *start)
{
	char path[64], text[1024], *at;
	ssize_t n;
	int fd;

	format_path(path, sizeof(path), "/proc/", pid, "/stat");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	at = strrchr(text, ')');
	*state = at && at[1] ? at[2] : 0;
	*start = 0;
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	for (at = at ? at + 1 : NULL; at && *at >= '0' && *at <= '9'; at++)
		*start = *start * 10 + (uint64_t)(*at - '0');
	return true;
}

/* Only the process that the engine had, not a later one with its number. */
static bool same_start(pid_t pid, uint64_t starttime)
{
	uint64_t start;
	char state;

	return read_stat(pid, &state, &start) && start == starttime;
}

static bool same_process(const struct journal_entry *e)
{
	return same_start(e->pid, e->starttime);
}

/* Somebody else may have it for a moment: another checkpoint that was begun meanwhile, another guardian. */
static bool seize(pid_t tid, long options)
{
	for (int i = 0; i < 2000; i++) {
		if (ptrace(PTRACE_SEIZE, tid, 0, options) == 0)
			return true;
		if (errno != EPERM)
			return false;
		pause_ms(1);
	}
	return false;
}

/* Whichever other thread ran the parasite is stopped outside of it; our end lets it go. */
static bool hold_runner(const struct journal_entry *e, uint64_t area, void *xstate)
{
	pid_t tid = atomic_load(&e->runner);
	struct tracee tr = { .tid = tid, .xstate = xstate };

	if (!tid || tid == e->pid)
		return true;
	if (ptrace(PTRACE_SEIZE, tid, 0, 0) < 0)
		return errno == ESRCH;
	return stop_outside(tid, e, area, &tr);
}

static void remove_area(const struct journal_entry *e, uint64_t area)
{
	static uint8_t xstate[XSTATE_MAX]; /* the guardian is a process of its own: nobody shares this */
	struct op op = { 0 };
	struct target t = { .pid = e->pid, .pidfd = -1, .mem = -1 };
	struct tracee tr = { .tid = e->pid, .xstate = xstate, .stopped = true };
	struct gadgets g = { .syscall_ret = e->gadget_syscall_ret, .sigreturn = e->gadget_sigreturn, .scratch = e->scratch };
	char path[64];
	int64_t ret;

	if (!same_process(e) || !seize(e->pid, PTRACE_O_TRACESYSGOOD))
		return;
	format_path(path, sizeof(path), "/proc/", e->pid, "/mem");
	t.mem = open(path, O_RDWR | O_CLOEXEC);
	if (t.mem >= 0 && hold_runner(e, area, xstate) && stop_outside(e->pid, e, area, &tr)) {
		remote_syscall(&op, &t, &tr, &g, SYS_munmap, (uint64_t[6]){ area, e->area_size }, &ret);
		ptrace(PTRACE_DETACH, e->pid, 0, 0);
	}
	/* Where it could not be stopped, our end lets it go as well. */
}

/* Its thread may be in our hands already. */
static void put_back_sud(struct journal_sud *e, pid_t tid)
{
	struct journal_entry owner = { .pid = e->pid, .starttime = e->starttime };

	if (!same_process(&owner))
		return;
	if (ptrace(PTRACE_SEIZE, tid, 0, 0) == 0 && (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || !wait_stopped(tid)))
		return;
	ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(e->conf), &e->conf);
	ptrace(PTRACE_DETACH, tid, 0, 0);
}

/* The program may have executed another one since: without this code where it was, nothing is done. */
static bool code_is_there(int mem, const struct journal_entry *e)
{
	uint8_t text[3];

	return pread(mem, text, sizeof(text), (off_t)e->gadget_syscall_ret) == sizeof(text) && text[0] == 0x0f &&
	       text[1] == 0x05 && text[2] == 0xc3 && pread(mem, text, sizeof(text), (off_t)e->gadget_sigreturn) == sizeof(text) &&
	       (text[0] == 0xb8 || text[0] == 0x48);
}

/* A main stack that is in use down there, or is none any more, is not for us. */
static bool scratch_is_there(int mem, const struct journal_entry *e, const struct tracee *tr)
{
	char byte;

	return pread(mem, &byte, 1, (off_t)e->scratch) == 1 &&
	       (tr->regs.rsp < e->scratch || tr->regs.rsp > e->scratch + SIGFRAME_MAX + PAGE_SIZE);
}

/* It was killed with the engine, but may need a while: its memory can be large, and it may have writes under way on a busy disk. */
static void await_zombie(pid_t pid)
{
	uint64_t start;
	char state;

	for (int i = 0; pid && i < 30000; i++, pause_ms(1))
		if (!read_stat(pid, &state, &start) || state == 'Z' || state == 'X')
			return;
}

/*
 * The thread that is to wait for a twin: the leader, or another where that has ended. The directory is read by the plain
 * system call: no memory is to be had from the C library here.
 */
static pid_t seize_one(pid_t pid, long options)
{
	struct entry {
		uint64_t ino, off;
		uint16_t len;
		uint8_t type;
		char name[];
	};
	_Alignas(8) char path[64], buf[2048];
	pid_t found = 0;
	long n;
	int fd;

	if (seize(pid, options))
		return pid;
	format_path(path, sizeof(path), "/proc/", pid, "/task");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	n = fd < 0 ? 0 : syscall(SYS_getdents64, fd, buf, sizeof(buf));
	for (long at = 0; at < n && !found; at += ((struct entry *)(buf + at))->len) {
		pid_t tid = 0;

		for (const char *c = ((struct entry *)(buf + at))->name; *c >= '0' && *c <= '9'; c++)
			tid = tid * 10 + (*c - '0');
		if (tid && tid != pid && ptrace(PTRACE_SEIZE, tid, 0, options) == 0)
			found = tid;
	}
	if (fd >= 0)
		close(fd);
	return found;
}

/*
 * A twin may have become ours: that a clone is to be traced is settled when it begins, and by whom when it ends, so that it is us
 * if we took hold of the owner in between. It is let go to end, as it would without us. We have no other children, and nothing
 * is heard of the owner now but its death.
 */
static void let_go_of_twin(pid_t owner)
{
	int status;
	pid_t got = waitpid(-1, &status, __WALL | WNOHANG);

	if (got > 0 && got != owner && WIFSTOPPED(status))
		ptrace(PTRACE_DETACH, got, 0, 0);
}

/* Polls: the call must not block. Dispatch of system calls to the program itself is off meanwhile. */
static void wait_in(const struct target *t, struct tracee *tr, const struct gadgets *g, int32_t number)
{
	static const struct ptrace_sud_config off;
	struct ptrace_sud_config conf = { 0 };
	struct op op = { 0 };
	int64_t ret = 0;
	int r = 0;

	if (ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tr->tid, sizeof(conf), &conf) == 0 && conf.mode)
		ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tr->tid, sizeof(off), &off);
	for (int i = 0; i < 2000 && !ret && !r; i++) {
		if (i)
			pause_ms(1);
		let_go_of_twin(tr->tid);
		r = remote_syscall(&op, t, tr, g, SYS_wait4, (uint64_t[6]){ (uint64_t)number, 0, __WALL | WNOHANG }, &ret);
	}
	if (conf.mode)
		ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tr->tid, sizeof(conf), &conf);
}

static void reap_twin(struct journal_twin *w)
{
	static uint8_t xstate[XSTATE_MAX];
	const struct journal_entry *e = &w->owner;
	struct target t = { .pid = e->pid, .pidfd = -1, .mem = -1 };
	struct tracee tr = { .xstate = xstate, .stopped = true };
	struct gadgets g = { .syscall_ret = e->gadget_syscall_ret, .sigreturn = e->gadget_sigreturn, .scratch = e->scratch };
	int32_t number = atomic_load(&w->number);
	char path[64];

	await_zombie(atomic_load(&w->pid));
	if (!same_process(e) || !(tr.tid = seize_one(e->pid, w->options)))
		return;
	format_path(path, sizeof(path), "/proc/", tr.tid, "/mem"); /* a leader that has ended has no memory any more */
	t.mem = open(path, O_RDWR | O_CLOEXEC);
	if (t.mem < 0 || !stop_outside(tr.tid, e, 0, &tr))
		return; /* our end lets it go */
	if (number == JOURNAL_TWIN_BEGUN && pread(t.mem, &number, sizeof(number), (off_t)w->number_at) != sizeof(number))
		number = 0;
	if (number > 0 && code_is_there(t.mem, e) && scratch_is_there(t.mem, e, &tr))
		wait_in(&t, &tr, &g, number);
	ptrace(PTRACE_DETACH, tr.tid, 0, 0);
	close(t.mem);
}

/* Was the engine killed after it had begun to kill the tree? What was on its way to the root then may need a moment. */
static bool tree_has_ended(struct journal *j)
{
	uint64_t start;
	char state;

	for (int i = 0; atomic_load(&j->ending) && i < 1000; i++, pause_ms(1))
		if (!read_stat(j->root.pid, &state, &start) || start != j->root.starttime || state == 'Z' || state == 'X')
			return true;
	return false;
}

/* A program may have closed it since, and have something else under this number: only what is in repair mode is touched. */
static void end_repair(int pidfd, const struct journal_repair *e)
{
	int fd = sys_pidfd_getfd(pidfd, e->fd), on = 0, off = -1 /* TCP_REPAIR_OFF_NO_WP */, reuse = e->reuse;
	socklen_t len = sizeof(on);

	if (fd < 0)
		return;
	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, &len) == 0 && on == 1) {
		setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off));
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	}
	close(fd);
}

static void end_repairs(struct journal *j)
{
	uint32_t n = atomic_load(&j->n_repairs), owner = ~0u;
	int pidfd = -1;

	for (uint32_t i = 0; i < n && i < JOURNAL_REPAIRS; i++) {
		const struct journal_repair *e = &j->repairs[i];
		const struct journal_owner *o = &j->repair_owners[e->owner % JOURNAL_TARGETS];

		if (e->owner != owner) {
			close_fd_p(&pidfd);
			owner = e->owner;
			pidfd = sys_pidfd_open(o->pid, 0);
			if (pidfd >= 0 && !same_start(o->pid, o->starttime)) {
				close(pidfd);
				pidfd = -1;
			}
		}
		if (pidfd >= 0)
			end_repair(pidfd, e);
	}
	close_fd_p(&pidfd);
}

static void run_with_input(const struct journal_rules *r, uint32_t n)
{
	char *const argv[] = { (char *)(uintptr_t)r->program, "--noflush", "--wait=10", NULL };

	run_program(argv, r->text, n, -1);
}

/* We stay there: nothing of what is left to do is about networks. */
static bool enter_network(pid_t pid)
{
	_cleanup_close_ int fd = -1;
	char path[32];

	if (!pid)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && setns(fd, CLONE_NEWNET) == 0;
}

static void remove_lock(struct journal_lock *l)
{
	uint32_t n = atomic_load(&l->n);

	if (!enter_network(l->netns))
		return;
	if (n && n <= JOURNAL_BATCH) {
		int sk = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);

		if (sk >= 0) {
			send(sk, l->batch, n, 0);
			close(sk);
		}
	}
	for (size_t i = 0; i < JOURNAL_RULES; i++) {
		n = atomic_load(&l->rules[i].n);
		if (n && n <= JOURNAL_TEXT)
			run_with_input(&l->rules[i], n);
	}
}

static void set_freezer(const struct journal_freezer *f, const char *state)
{
	int fd = atomic_load(&f->set) && *state ? open(f->path, O_WRONLY | O_CLOEXEC) : -1;

	for (int i = 0; fd >= 0 && write(fd, state, strlen(state)) < 0 && errno == EINTR && i < 100; i++)
		;
	close_fd_p(&fd);
}

/* First of all: until then the program meets errors at these sockets. */
static void end_connections(struct journal *j)
{
	if (tree_has_ended(j))
		return;
	end_repairs(j);
	remove_lock(&j->lock);
}

static void clean_up(struct journal *j)
{
	uint32_t n = atomic_load(&j->n_twins);

	for (uint32_t i = 0; i < n && i < JOURNAL_TWINS; i++)
		if (atomic_load(&j->twins[i].number))
			reap_twin(&j->twins[i]);
	n = atomic_load(&j->n);
	for (uint32_t i = 0; i < n && i < JOURNAL_TARGETS; i++) {
		uint64_t area = atomic_load(&j->entries[i].area);

		if (area)
			remove_area(&j->entries[i], area);
	}
	n = atomic_load(&j->n_suds);
	for (uint32_t i = 0; i < n && i < JOURNAL_SUDS; i++) {
		pid_t tid = atomic_load(&j->suds[i].tid);

		if (tid)
			put_back_sud(&j->suds[i], tid);
	}
}

/* Options of sockets, as the engine promised to put them back: see guardian_promise(). */
static void carry_out(int will)
{
	struct guardian_option options[GUARDIAN_OPTIONS];
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { options, sizeof(options) };
	ssize_t n;
	int fd;

	for (;;) {
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

		n = recvmsg(will, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n <= 0 || m.msg_controllen < CMSG_LEN(sizeof(int)))
			return;
		memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
		for (size_t i = 0; i < (size_t)n / sizeof(*options); i++)
			setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
		close(fd);
	}
}

static void await(struct pollfd *p, nfds_t n)
{
	while (poll(p, n, -1) < 0 && errno == EINTR)
		;
}

__attribute__((noreturn)) static void guard(struct journal *j, int engine_pidfd, int will, int claim)
{
	struct pollfd p[2] = { { .events = POLLIN }, { .events = 0 } };

	/* Keep nothing of the host open: the other ends of its pipes wait for end of file. */
	engine_pidfd = fcntl(engine_pidfd, F_DUPFD, 3);
	will = fcntl(will, F_DUPFD, 3);
	claim = claim < 0 ? -1 : fcntl(claim, F_DUPFD, 3);
	p[0].fd = dup2(engine_pidfd, 0);
	p[1].fd = will = dup2(will, 1);
	if (claim >= 0)
		claim = dup2(claim, 2);
	sys_close_range(claim >= 0 ? 3 : 2, ~0u, 0);
	setsid(); /* signals to the host's process group are not for us */
	prctl(PR_SET_NAME, "ckpt-guardian");
	/* Its descriptors are closed a little before it lets the tasks go: what cannot wait is done at once. */
	await(p, ARRAY_SIZE(p));
	set_freezer(&j->freezer, j->freezer.first); /* frozen tasks do not even end */
	end_connections(j);
	await(p, 1);
	clean_up(j);
	carry_out(will);
	set_freezer(&j->freezer, j->freezer.last);
	_exit(0);
}

static void will_close(struct guardian *g)
{
	close_fd_p(&g->will[0]);
	close_fd_p(&g->will[1]);
	g->will[0] = g->will[1] = -1;
}

int guardian_promise(const struct guardian *g, int fd, const struct guardian_option *options, size_t n)
{
	struct iovec iov = { (void *)(uintptr_t)options, MIN(n, GUARDIAN_OPTIONS) * sizeof(*options) };
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(g->will[0], &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Without room for it, the descriptor is dropped. */
void guardian_retract(const struct guardian *g)
{
	struct guardian_option options[GUARDIAN_OPTIONS];

	if (recv(g->will[1], options, sizeof(options), MSG_DONTWAIT) < 0)
		return;
}

void guardian_note_netns(const struct guardian *g, pid_t pid)
{
	if (g && g->journal)
		g->journal->lock.netns = pid;
}

int guardian_note_lock(const struct guardian *g, const void *batch, size_t n)
{
	if (!g || !g->journal)
		return 0;
	if (n > JOURNAL_BATCH) {
		errno = ENOSPC;
		return -1;
	}
	memcpy(g->journal->lock.batch, batch, n);
	atomic_store(&g->journal->lock.n, (uint32_t)n);
	return 0;
}

int guardian_note_rules(const struct guardian *g, const char *program, const char *text, size_t n)
{
	for (size_t i = 0; g && g->journal && i < JOURNAL_RULES; i++) {
		struct journal_rules *r = &g->journal->lock.rules[i];

		if (atomic_load(&r->n))
			continue;
		if (n > JOURNAL_TEXT || strlen(program) >= sizeof(r->program))
			break;
		memcpy(r->program, program, strlen(program) + 1);
		memcpy(r->text, text, n);
		atomic_store(&r->n, (uint32_t)n);
		return 0;
	}
	errno = ENOSPC;
	return g && g->journal ? -1 : 0;
}

void guardian_drop_lock(const struct guardian *g)
{
	if (!g || !g->journal)
		return;
	atomic_store(&g->journal->lock.n, 0);
	for (size_t i = 0; i < JOURNAL_RULES; i++)
		atomic_store(&g->journal->lock.rules[i].n, 0);
}

/* Mostly the one that was asked for last. -1 (errno) if there is no room, or no such process. */
static int64_t repair_owner(struct journal *j, pid_t pid)
{
	char state;

	for (uint32_t i = j->n_repair_owners; i-- > 0;)
		if (j->repair_owners[i].pid == pid)
			return i;
	errno = ENOSPC;
	if (j->n_repair_owners == JOURNAL_TARGETS)
		return -1;
	errno = ESRCH;
	if (!read_stat(pid, &state, &j->repair_owners[j->n_repair_owners].starttime))
		return -1;
	j->repair_owners[j->n_repair_owners].pid = pid;
	return j->n_repair_owners++;
}

int guardian_note_repair(const struct guardian *g, pid_t pid, int fd, bool reuse)
{
	struct journal *j = g ? g->journal : NULL;
	uint32_t n = j ? atomic_load(&j->n_repairs) : 0;
	int64_t owner = j ? repair_owner(j, pid) : 0;

	if (!j || owner < 0)
		return j ? -1 : 0;
	if (n == JOURNAL_REPAIRS) {
		errno = ENOSPC;
		return -1;
	}
	j->repairs[n] = (struct journal_repair){ .fd = fd, .owner = (uint32_t)owner, .reuse = reuse };
	atomic_store(&j->n_repairs, n + 1);
	return 0;
}

void guardian_drop_repair(const struct guardian *g)
{
	if (g && g->journal)
		atomic_store(&g->journal->n_repairs, 0);
}

int guardian_note_freezer(const struct guardian *g, const char *path, const char *first, const char *last)
{
	struct journal_freezer *f = g && g->journal ? &g->journal->freezer : NULL;

	if (!f)
		return 0;
	atomic_store(&f->set, false);
	if (strlen(path) >= sizeof(f->path) || strlen(first) >= sizeof(f->first) || strlen(last) >= sizeof(f->last)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(f->path, path, strlen(path) + 1);
	memcpy(f->first, first, strlen(first) + 1);
	memcpy(f->last, last, strlen(last) + 1);
	atomic_store(&f->set, *path != '\0');
	return 0;
}

void guardian_note_end(const struct guardian *g, pid_t root)
{
	char state;

	if (!g || !g->journal || !read_stat(root, &state, &g->journal->root.starttime))
		return;
	g->journal->root.pid = root;
	atomic_store(&g->journal->ending, true);
}

int guardian_claim(struct op *op, pid_t pid, int *fd)
{
	char path[64];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; *fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) < 0 && i < CLAIM_TRIES && !r; i++) {
		pause_ms(1);
		r = op_check_cancel(op);
	}
	return r;
}

int guardian_start(struct op *op, struct guardian *g, int claim)
{
	_cleanup_close_ int self = sys_pidfd_open(getpid(), 0);
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&g->pidfd };
	sigset_t all, old;
	void *shared;
	long pid;

	*g = (struct guardian)GUARDIAN_INIT;
	if (self < 0)
		return op_errno(op, errno, NULL, "open a pidfd for ourselves");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, g->will) < 0)
		return op_errno(op, errno, NULL, "make a socket pair for the guardian");
	shared = mmap(NULL, sizeof(struct journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shared == MAP_FAILED) {
		will_close(g);
		return op_errno(op, errno, NULL, "map the journal");
	}
	/* It starts, and stays, with every signal blocked: the host's handlers are not for it either. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_clone3(&args, sizeof(args));
	if (pid == 0)
		guard(shared, self, g->will[1], claim);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0) {
		munmap(shared, sizeof(struct journal));
		will_close(g);
		return op_errno(op, errno, NULL, "start the guardian");
	}
	g->pid = (pid_t)pid;
	g->journal = shared;
	return 0;
}

void guardian_stop(struct guardian *g)
{
	int status;

	if (!g->journal)
		return;
	sys_pidfd_send_signal(g->pidfd, SIGKILL, NULL, 0);
	while (waitpid(g->pid, &status, __WALL) < 0 && errno == EINTR)
		;
	close(g->pidfd);
	will_close(g);
	munmap(g->journal, sizeof(struct journal));
	*g = (struct guardian)GUARDIAN_INIT;
}
