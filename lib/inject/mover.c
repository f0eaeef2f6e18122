/* SPDX-License-Identifier: MIT */
#include "lib/inject/mover.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/inject/sud.h"
#include "lib/kernel/sys.h"

extern const char blob_mover_start[], blob_mover_end[];

#define PATIENCE_MS 50 /* between looks at whether it still lives */

static int refused(struct op *op, const struct mover *m, const char *why, int eno)
{
	log_info(op, "task %d: its pages are copied to be written, since %s%s%s", m->target->pid, why, eno ? ": " : "",
		 eno ? strerror(eno) : "");
	return MOVER_REFUSED;
}

/* A call in the twin that may well be refused. */
static int call(struct op *op, struct mover *m, const char *why, long nr, const uint64_t args[6], uint64_t want)
{
	int64_t ret = -1;
	int r = twin_syscall(op, &m->twin, nr, args, &ret);

	if (r || (uint64_t)ret == want)
		return r;
	return refused(op, m, why, ret < 0 ? (int)-ret : 0);
}

static struct raddr in_area(const struct mover *m, size_t offset)
{
	return (struct raddr){ m->base + MOVER_CODE_MAX + offset };
}

/* First readable and executable, then all but the code writable: no part is ever both. The guardian knows before it is there. */
static int map_area(struct op *op, struct mover *m, const struct proc_maps *maps)
{
	struct journal_entry *j = m->parasite->journal;
	int r;

	m->size = MOVER_CODE_MAX + ALIGN_UP(sizeof(struct mover_area), PAGE_SIZE);
	m->base = remote_gap(maps, m->size);
	if (!m->base)
		return refused(op, m, "there is no room in its address space", 0);
	if (j) {
		j->area_size = m->size;
		atomic_store(&j->area, m->base);
	}
	r = call(op, m, "no memory can be mapped in it", SYS_mmap,
		 (uint64_t[6]){ m->base, m->size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1 },
		 m->base);
	if (r == MOVER_REFUSED) { /* it is somebody else's */
		if (j)
			atomic_store(&j->area, 0);
		m->base = 0;
	}
	r = r ?: call(op, m, "no writable memory can be mapped in it", SYS_mprotect,
		      (uint64_t[6]){ m->base + MOVER_CODE_MAX, m->size - MOVER_CODE_MAX, PROT_READ | PROT_WRITE }, 0);
	return r ?: target_write(op, &m->twin.target, (struct raddr){ m->base }, blob_mover_start,
				 (size_t)(blob_mover_end - blob_mover_start));
}

static int connect_to(struct op *op, struct mover *m)
{
	uint64_t area = in_area(m, 0).v;
	int32_t pair[2];
	int r = call(op, m, "no sockets can be made in it", SYS_socketpair,
		     (uint64_t[6]){ AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, in_area(m, offsetof(struct mover_area, pair)).v }, 0);

	r = r ?: target_read(op, &m->twin.target, in_area(m, offsetof(struct mover_area, pair)), pair, sizeof(pair));
	r = r ?: target_write(op, &m->twin.target, in_area(m, offsetof(struct mover_area, area)), &area, sizeof(area));
	if (r)
		return r;
	m->sock = sys_pidfd_getfd(m->twin.target.pidfd, pair[0]);
	return m->sock < 0 ? refused(op, m, "its socket cannot be had", errno) : 0;
}

static int send_file(struct op *op, struct mover *m, int fd)
{
	struct mover_order order = { 0 };
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { &order, sizeof(order) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	if (sendmsg(m->sock, &h, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(order))
		return 0;
	return refused(op, m, "the page image cannot be handed over", errno);
}

static int run(struct op *op, struct mover *m)
{
	struct tracee *tr = &m->twin.target.threads.v[0];
	struct user_regs_struct regs = tr->regs;
	int r;

	regs.rip = m->base;
	regs.rdi = in_area(m, 0).v;
	regs.rsp = in_area(m, sizeof(((struct mover_area *)0)->stack)).v - sizeof(uint64_t);
	regs.orig_rax = (uint64_t)-1;
	regs.eflags &= ~0x500ull; /* no single step, and the direction that C expects */
	r = tracee_set_regs(op, tr->tid, &regs);
	if (!r && ptrace(PTRACE_CONT, tr->tid, 0, 0) < 0)
		return op_errno(op, errno, AT(.pid = m->target->pid), "start the mover of task %d", m->target->pid);
	tr->stopped = r != 0;
	return r;
}

int mover_start(struct op *op, struct target *t, struct parasite *p, const struct proc_maps *maps, int fd, struct mover *m)
{
	int r, r2;

	*m = (struct mover){ .target = t, .parasite = p, .sock = -1 };
	r = twin_make(op, t, &p->g, p->all, true, &m->twin);
	if (r == TWIN_REFUSED)
		return refused(op, m, m->twin.why, 0);
	r = r ?: map_area(op, m, maps);
	r = r ?: connect_to(op, m);
	r = r ?: send_file(op, m, fd);
	r = r ?: run(op, m);
	if (!r)
		return 0;
	r2 = mover_end(op, m);
	return r2 < 0 ? r2 : r;
}

int mover_order(struct op *op, struct mover *m, const struct mover_run *runs, size_t n, bool last)
{
	struct mover_order order = { .n_runs = (uint32_t)n, .last = last };

	if (n > MOVER_RUNS)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "an order of %zu runs", n);
	memcpy(order.run, runs, n * sizeof(*runs));
	if (send(m->sock, &order, sizeof(order), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(order))
		return 0;
	if (errno == EAGAIN || errno == EINTR)
		return MOVER_FULL;
	return MOVER_ENDED; /* it said why, or mover_take() finds out */
}

/* It says when it ends. One that ended otherwise may have left writes that nobody waits for. */
static int gone(struct op *op, struct mover *m)
{
	m->ended = true;
	return op_fail(op, CKPT_E_SYS, AT(.pid = m->target->pid, .hint = "try again; --copy-pages copies the pages instead"),
		       "the helper that writes the pages of task %d ended", m->target->pid);
}

/* An end closes the socket, which mover_take() sees. A fault stops it: then nothing comes any more. */
static int check_life(struct op *op, struct mover *m)
{
	struct tracee *tr = &m->twin.target.threads.v[0];
	int status = 0;

	if (waitpid(tr->tid, &status, __WALL | WNOHANG) <= 0)
		return MOVER_NONE;
	tr->stopped = WIFSTOPPED(status);
	tr->exited = !tr->stopped;
	if (tr->exited)
		return MOVER_NONE; /* the next look at the socket tells */
	log_debug(op, "the mover of task %d stopped (wait status %#x)", m->target->pid, status);
	return gone(op, m);
}

int mover_take(struct op *op, struct mover *m, bool wait, struct mover_done *done)
{
	struct pollfd p = { .fd = m->sock, .events = POLLIN };
	ssize_t n;

	if (m->ended)
		return MOVER_ENDED;
	if (wait && poll(&p, 1, PATIENCE_MS) == 0)
		return check_life(op, m);
	/* One that ended without having read all orders: the first call says that, what it sent comes after. */
	do
		n = recv(m->sock, done, sizeof(*done), MSG_DONTWAIT);
	while (n < 0 && errno == ECONNRESET);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return MOVER_NONE;
	if (n != sizeof(*done))
		return gone(op, m);
	if (done->len)
		return 0;
	m->ended = true;
	m->result = done->result;
	if (done->off)
		return op_errno(op, done->result < 0 ? -done->result : EIO, AT(.pid = m->target->pid),
				"%lu writes of the pages of task %d were not heard of again", (unsigned long)done->off, m->target->pid);
	return MOVER_ENDED;
}

/* The target removes the area: the twin that had it is gone. */
static int unmap_area(struct op *op, struct mover *m)
{
	struct target *t = m->target;
	const uint64_t args[6] = { m->base, m->size };
	int64_t ret = -1;
	int r;

	if (!m->base)
		return 0;
	r = sud_suspend(op, t, m->parasite->all);
	r = r ?: remote_syscall(op, t, &t->threads.v[0], &m->parasite->g, SYS_munmap, args, &ret);
	sud_resume(t, m->parasite->all);
	if (!r && ret)
		r = op_errno(op, (int)-ret, AT(.pid = t->pid, .addr = m->base), "remove the mover's area from task %d", t->pid);
	if (!r && m->parasite->journal)
		atomic_store(&m->parasite->journal->area, 0);
	m->base = 0;
	return r;
}

int mover_end(struct op *op, struct mover *m)
{
	const atomic_bool *cancel = op->cancel;
	uint64_t deadline = op->deadline_ns;
	int r;

	if (!m->target)
		return 0;
	/* Not stopped by what may have brought us here. */
	op->cancel = NULL;
	op->deadline_ns = 0;
	twin_end(op, m->target, &m->twin);
	r = target_has_ended(m->target) ? 0 : unmap_area(op, m);
	op->cancel = cancel;
	op->deadline_ns = deadline;
	close_fd_p(&m->sock);
	m->sock = -1;
	m->target = NULL;
	return r;
}
