/* SPDX-License-Identifier: MIT */
/*
 * Messages of POSIX queues can only be read by taking them out. So they are taken and put back, in order, by a small process
 * that outlives the engine, should that be killed just then. It is done only where nobody can notice: tasks are frozen,
 * nobody outside has the queue, and nobody is to be notified.
 */
#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/ipc/mqueue.h"
#include "lib/state/msg.h"

#define STACK 16384

/* What the process that takes the messages works with; prepared by us. */
struct carousel {
	int fd;
	uint64_t n, size; /* messages, bytes of the longest */
	char *bytes;	  /* n times size */
	uint32_t *priority;
	int64_t *len;
	uint64_t taken, put;
	int err;
};

int mqueue_errno(struct op *op, const struct ipc_mqueue *q, const char *what)
{
	const char *hint = errno == EMFILE || errno == ENOSPC ? "raise fs.mqueue.queues_max, or the limit RLIMIT_MSGQUEUE (ulimit -q)"
							     : NULL;

	return op_errno(op, errno, AT(.kind = "message queue", .hint = hint), "%s message queue /%s", what, q->msg->name);
}

const char *mqueue_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The queue that a descriptor is, by the text of the link first: looking at a file may block. */
static struct ipc_mqueue *queue_at(const struct ipc_state *st, int dir, const char *fd)
{
	char link[300];
	struct stat is;
	ssize_t n = readlinkat(dir, fd, link, sizeof(link) - 1);
	const char *name;

	link[MAX(n, 0)] = '\0';
	name = mqueue_base_name(link);
	for (size_t i = 0; i < st->mqueues.n && n > 0; i++) {
		struct ipc_mqueue *q = st->mqueues.v[i];

		if (!strncmp(name, q->msg->name, strlen(q->msg->name)) && fstatat(dir, fd, &is, 0) == 0 && is.st_ino == q->st.st_ino &&
		    is.st_dev == q->st.st_dev)
			return q;
	}
	return NULL;
}

static void look_at(const struct ipc_state *st, pid_t pid)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		struct ipc_mqueue *q = e->d_name[0] == '.' ? NULL : queue_at(st, dirfd(d), e->d_name);

		if (q)
			q->outside = pid;
	}
	if (d)
		closedir(d);
}

int mqueue_find_outside(struct op *op, const struct snapshot *s)
{
	struct proc_numbers all = { 0 };
	int r = proc_list_numbers(op, getpid(), "..", &all); /* /proc itself */

	for (size_t i = 0; i < all.v.n && !r; i++)
		if (all.v.v[i] != getpid() && !ipc_of_tree(s, all.v.v[i]))
			look_at(s->ipc, all.v.v[i]);
	return MIN(r, 0);
}

/* Shares our memory: system calls only. */
__attribute__((no_sanitize("address", "undefined", "thread"))) static void turn(void *arg)
{
	struct carousel *c = arg;
	long r;

	raw_syscall(__NR_setsid, 0, 0, 0, 0, 0);
	for (; c->taken < c->n; c->taken++) {
		r = raw_syscall(__NR_mq_timedreceive, c->fd, (long)(c->bytes + c->taken * c->size), (long)c->size,
				(long)&c->priority[c->taken], 0);
		if (r < 0) {
			c->err = (int)-r;
			break;
		}
		c->len[c->taken] = r;
	}
	for (; c->put < c->taken; c->put++) {
		r = raw_syscall(__NR_mq_timedsend, c->fd, (long)(c->bytes + c->put * c->size), c->len[c->put], c->priority[c->put], 0);
		if (r < 0) {
			c->err = (int)-r;
			break;
		}
	}
	for (;;)
		raw_syscall(__NR_exit, 0, 0, 0, 0, 0);
}

static int run_carousel(struct op *op, struct carousel *c)
{
	void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	struct clone_args args = { .flags = CLONE_VM | CLONE_FILES, .stack = (uintptr_t)stack, .stack_size = STACK };
	sigset_t all, old;
	long pid;

	if (stack == MAP_FAILED)
		return op_nomem(op);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = clone_vm(&args, sizeof(args), turn, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid >= 0)
		while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	munmap(stack, STACK);
	return pid >= 0 ? 0 : op_errno(op, (int)-pid, NULL, "make a process");
}

static int keep_messages(struct op *op, struct ipc_mqueue *q, const struct carousel *c)
{
	MqueueEntry *m = q->msg;

	m->messages = op_alloc(op, (c->n + 1) * sizeof(*m->messages));
	if (!m->messages)
		return CKPT_E_NOMEM;
	for (uint64_t i = 0; i < c->n; i++) {
		MqueueMessage *e = msg_new(op, MqueueMessage, mqueue_message);

		if (!e)
			return CKPT_E_NOMEM;
		e->priority = c->priority[i];
		e->bytes.len = (size_t)c->len[i];
		e->bytes.data = (uint8_t *)c->bytes + i * c->size;
		m->messages[m->n_messages++] = e;
	}
	return 0;
}

int mqueue_take(struct op *op, struct ipc_mqueue *q)
{
	uint64_t n = q->msg->n_queued, size = q->msg->msgsize;
	struct carousel c = {
		.fd = q->fd, .n = n, .size = size, .bytes = op_alloc(op, n * size), .priority = op_alloc(op, n * sizeof(*c.priority)),
		.len = op_alloc(op, n * sizeof(*c.len)),
	};
	int r;

	if (!c.bytes || !c.priority || !c.len)
		return CKPT_E_NOMEM;
	r = run_carousel(op, &c);
	if (r)
		return r;
	if (c.err || c.put < c.n) {
		errno = c.err ? c.err : EIO;
		return mqueue_errno(op, q, "take and put back the messages of");
	}
	return keep_messages(op, q, &c);
}
