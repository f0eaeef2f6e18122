/* SPDX-License-Identifier: MIT */
/*
 * What a restore says to the daemon of lazy pages, in the words of the field: for each task its number, and a byte that
 * carries its userfaultfd; for a zombie its number, negative; and a last word when the programs are about to run. Integers
 * are in the byte order of the machine. Nothing is said back.
 */
#include <sys/socket.h>

#include "lib/engine/lazy.h"

static bool find_pid(const struct lazy_proto *p, pid_t pid, size_t *at)
{
	size_t lo = 0, hi = p->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->pids[mid] < pid)
			lo = mid + 1;
		else
			hi = mid;
	}
	*at = lo;
	return lo < p->n && p->pids[lo] == pid;
}

static enum lazy_word bad(struct lazy_proto *p, const char *why)
{
	p->why = why;
	return LAZY_WORD_BAD;
}

enum lazy_word lazy_proto_word(struct lazy_proto *p, uint32_t word, size_t *task)
{
	int32_t n = (int32_t)word;

	if (word == LAZY_WORD_END)
		return p->n_seen == p->n ? LAZY_WORD_FINISHED : bad(p, "it says that it is done before it has named every task");
	if (!n || n == INT32_MIN || !find_pid(p, n < 0 ? -n : n, task))
		return bad(p, "it names a task that is not in the checkpoint");
	if (p->seen[*task])
		return bad(p, "it names a task a second time");
	p->seen[*task] = true;
	p->n_seen++;
	return n < 0 ? LAZY_WORD_ZOMBIE : LAZY_WORD_TASK;
}

static int hung_up(struct op *op)
{
	return op_fail(op, CKPT_E_SYS, AT(.kind = "lazy pages"), "the restore ended before its tasks were there");
}

int lazy_proto_recv_word(struct op *op, int sock, uint8_t *buf, size_t *have, uint32_t *word)
{
	while (*have < sizeof(*word)) {
		ssize_t r = recv(sock, buf + *have, sizeof(*word) - *have, MSG_DONTWAIT);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN)
			return 1;
		if (r < 0 && errno != ECONNRESET)
			return op_errno(op, errno, AT(.kind = "lazy pages"), "receive from the restore");
		if (r <= 0)
			return hung_up(op);
		*have += (size_t)r;
	}
	memcpy(word, buf, sizeof(*word));
	*have = 0;
	return 0;
}

int lazy_proto_recv_fd(struct op *op, int sock, int *fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	ssize_t r;

	do
		r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (r < 0 && errno == EAGAIN)
		return 1;
	if (r < 0 && errno != ECONNRESET)
		return op_errno(op, errno, AT(.kind = "lazy pages"), "receive from the restore");
	if (r <= 0)
		return hung_up(op);
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(sizeof(int)))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "lazy pages"), "the restore named a task and sent no userfaultfd");
	memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	/* There is room for one more in the padding. */
	for (size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int), i = 1; i < n; i++) {
		int more;

		memcpy(&more, CMSG_DATA(c) + i * sizeof(int), sizeof(more));
		close(more);
	}
	return 0;
}

static int send_one(struct op *op, int sock, const struct msghdr *m, size_t n)
{
	ssize_t r;

	do
		r = sendmsg(sock, m, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r == (ssize_t)n)
		return 0;
	if (r < 0 && (errno == EPIPE || errno == ECONNRESET))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "lazy pages"), "the daemon for lazy pages is gone");
	return op_errno(op, r < 0 ? errno : EIO, AT(.kind = "lazy pages"), "send to the daemon for lazy pages");
}

int lazy_proto_send(struct op *op, int sock, uint32_t word, int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { &word, sizeof(word) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	int r = send_one(op, sock, &m, sizeof(word));

	if (r || fd < 0)
		return r;
	iov = (struct iovec){ "", 1 };
	m.msg_control = &control;
	m.msg_controllen = sizeof(control);
	control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return send_one(op, sock, &m, 1);
}
