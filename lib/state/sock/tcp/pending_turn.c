/* SPDX-License-Identifier: MIT */
/*
 * The process that turns a queue: takes the oldest connection out, reads it, closes it without a word, and puts it in again,
 * until all have been there. Between the second and the last step a connection is in memory only. So this is a process of its
 * own: a signal that kills the engine leaves it to finish what it has begun, and as it shares the engine's descriptors, the
 * network lock, which goes with a descriptor, stays until then, too.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/sock/tcp/pending.h"

int pending_pool_new(struct op *op, struct pending_pool *p, size_t n_conns, size_t bytes)
{
	size_t head = ALIGN_UP(n_conns * sizeof(*p->conns), PAGE_SIZE);
	void *at;

	*p = (struct pending_pool){ .size = bytes, .n_conns = n_conns };
	at = mmap(NULL, head + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return op_errno(op, errno, AT(.kind = "TCP socket"), "allocate memory for connections that wait to be accepted");
	p->conns = at;
	p->bytes = (uint8_t *)at + head;
	return 0;
}

void pending_pool_free(struct pending_pool *p)
{
	if (p->conns)
		munmap(p->conns, ALIGN_UP(p->n_conns * sizeof(*p->conns), PAGE_SIZE) + p->size);
	*p = (struct pending_pool){ 0 };
}

/* Everything up to pending_turn_run() runs in the child: a fork of a program that may have other threads. */

static int failed(struct pending_fault *f, const char *step)
{
	*f = (struct pending_fault){ .step = step, .err = errno };
	return -1;
}

static int get_int(int fd, int level, int name, uint32_t *value)
{
	socklen_t n = sizeof(*value);

	return getsockopt(fd, level, name, value, &n);
}

static int get_seq(int fd, int queue, uint32_t *seq)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0)
		return -1;
	return get_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, seq);
}

static int read_numbers(int fd, struct pending_conn *c)
{
	struct tcp_info info = { 0 };
	struct tcp_repair_window w = { 0 };
	socklen_t n = sizeof(info), nw = sizeof(w);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 || getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &nw) < 0 ||
	    get_int(fd, IPPROTO_TCP, TCP_TIMESTAMP, &c->timestamp) < 0 || get_int(fd, IPPROTO_TCP, TCP_MAXSEG, &c->mss) < 0 ||
	    get_int(fd, SOL_SOCKET, SO_RCVBUF, &c->rcvbuf) < 0 || get_seq(fd, TCP_SEND_QUEUE, &c->snd_next) < 0 ||
	    get_seq(fd, TCP_RECV_QUEUE, &c->rcv_start) < 0)
		return -1;
	c->state = info.tcpi_state;
	c->fin = c->state == INET_CLOSE_WAIT;
	c->opt_mask = info.tcpi_options;
	c->snd_wscale = info.tcpi_snd_wscale;
	c->rcv_wscale = info.tcpi_rcv_wscale;
	c->snd_wl1 = w.snd_wl1;
	c->snd_wnd = w.snd_wnd;
	c->max_window = w.max_window;
	c->rcv_wnd = w.rcv_wnd;
	c->rcv_wup = w.rcv_wup;
	return 0;
}

/* The queue that was chosen last is read. The start of it is known by its length. */
static int read_bytes(int fd, struct pending_pool *p, struct pending_conn *c)
{
	size_t room = p->size - p->used;
	ssize_t n;

	c->at = p->used;
	n = recv(fd, p->bytes + p->used, room, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != ECONNRESET && errno != EPIPE && errno != ENOTCONN && errno != ETIMEDOUT)
		return -1;
	c->n = n > 0 ? (uint32_t)n : 0;
	errno = ENOBUFS;
	if (c->n == room)
		return -1;
	p->used += c->n;
	c->rcv_start -= c->n + c->fin;
	return 0;
}

static void read_tos(int fd, struct pending_conn *c)
{
	uint32_t tos = 0;

	if (c->local.any.sa_family == AF_INET)
		get_int(fd, IPPROTO_IP, IP_TOS, &tos);
	else
		get_int(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos);
	c->tos = (uint8_t)(tos & ~3u);
}

#define READ_TRIES 20

/* Numbers and bytes of one moment: where the network is not held (--network-lock skip), more may come in between. */
static int read_all(const struct pending_turn *turn, struct pending_pool *p, int fd, struct pending_conn *c, struct pending_fault *f)
{
	size_t used = p->used;

	for (int i = 0; i < READ_TRIES; i++) {
		uint32_t seq, state, queued;

		p->used = used;
		if (read_numbers(fd, c) < 0)
			return failed(f, "read it");
		if (read_bytes(fd, p, c) < 0)
			return failed(f, "read its queue");
		if (get_seq(fd, TCP_RECV_QUEUE, &seq) < 0 || pending_look_at(c, turn->ifindex, &state, &queued) < 0)
			return failed(f, "look at it");
		if (seq == c->rcv_start + c->n + c->fin && (c->state == INET_CLOSE || queued <= c->n + c->fin))
			return 0;
	}
	/* A peek ends where urgent data is. What comes after that is not to be forgotten without a word. */
	errno = ENODATA;
	return failed(f, "read what comes after urgent data");
}

/* From the moment it is in repair mode, it is closed without a word to the peer, however that happens. */
static int take(const struct pending_turn *turn, struct pending_pool *p, struct pending_conn *c, struct pending_fault *f)
{
	union inet_addr local = { 0 }, peer = { 0 };
	socklen_t n = sizeof(peer), n_local = sizeof(local);
	_cleanup_close_ int fd = accept4(turn->listener, &peer.any, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int on = 1;

	if (fd < 0)
		return failed(f, "accept it");
	c->where = PENDING_TAKEN;
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
		return failed(f, "put it into repair mode");
	if (getsockname(fd, &local.any, &n_local) < 0)
		return failed(f, "read its address");
	inet_addr_on_wire(&local, &c->local);
	inet_addr_on_wire(&peer, &c->peer);
	read_tos(fd, c);
	return read_all(turn, p, fd, c, f);
}

static void turn_queue(const struct pending_door *d, struct pending_pool *p, struct pending_turn *turn)
{
	for (size_t i = 0; i < turn->n; i++) {
		struct pending_conn *c = &turn->conns[i];

		if (turn->take && take(turn, p, c, &turn->fault) < 0) {
			if (c->where == PENDING_ASIDE && turn->fault.err == EAGAIN)
				turn->fault.step = NULL; /* somebody outside of the tree has accepted it */
			return;
		}
		if (pending_put(d, turn->listener, turn->ifindex, c, p->bytes + c->at, &turn->fault) < 0)
			return;
		c->where = PENDING_IN;
		turn->done = i + 1;
	}
}

/* Newcomers must not take the place of what comes back. */
static void turn_with_room(const struct pending_door *d, struct pending_pool *p, struct pending_turn *turn)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);
	bool known = getsockopt(turn->listener, IPPROTO_TCP, TCP_INFO, &info, &n) == 0;

	if (known)
		listen(turn->listener, (int)MAX(info.tcpi_sacked, turn->n) + 256);
	turn_queue(d, p, turn);
	if (known)
		listen(turn->listener, (int)info.tcpi_sacked);
}

/* ------------------------------------------------------------------------------------------------ in the engine */

/* What it needs, and says, in memory that both have. */
struct shared {
	struct pending_door door;
	struct pending_pool pool;
	struct pending_turn turn;
};

static pid_t start(struct shared *sh)
{
	struct clone_args args = { .flags = CLONE_FILES };
	sigset_t all, old;
	pid_t pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_clone3(&args, sizeof(args));
	if (pid == 0) {
		prctl(PR_SET_NAME, "ckpt-pending");
		turn_with_room(&sh->door, &sh->pool, &sh->turn);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

int pending_turn_run(struct op *op, const struct pending_door *d, struct pending_pool *p, struct pending_turn *turn)
{
	struct shared *sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	if (sh == MAP_FAILED)
		return op_errno(op, errno, AT(.kind = "TCP socket"), "allocate memory for a process that turns a queue");
	*sh = (struct shared){ .door = *d, .pool = *p, .turn = *turn };
	sh->turn.done = 0;
	pid = start(sh);
	if (pid < 0) {
		munmap(sh, sizeof(*sh));
		return op_errno(op, errno, AT(.kind = "TCP socket"), "start a process that turns a queue");
	}
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	p->used = sh->pool.used;
	*turn = sh->turn;
	munmap(sh, sizeof(*sh));
	return 0;
}
