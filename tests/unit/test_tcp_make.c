// SPDX-License-Identifier: MIT
/*
 * TCP connections taken away from under a peer, and made again from images: in each state, with queues, in both families. The peer
 * is an ordinary socket, and must not notice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <poll.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/netlock/netlock.h"
#include "lib/state/sock/tcp/tcp.h"

#define PATIENCE_MS 8000

struct env {
	char dir[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	InventoryEntry inventory;
};

static int setup(void **state)
{
	static char run_id[] = "00000000-0000-4000-8000-00000000c114";
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	strcpy(e->dir, "/tmp/test-tcp-XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->dir;
	e->opts.tcp_established = true;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	inventory_entry__init(&e->inventory);
	msg_set(&e->inventory, network_lock_method, NETLOCK_NFTABLES);
	e->inventory.dump_criu_run_id = run_id;
	e->s.inventory = &e->inventory;
	*state = e;
	return img_dir_create(&e->op, &e->s.dir);
}

static int teardown(void **state)
{
	struct env *e = *state;

	files_restore_done(&e->op, &e->s, false);
	img_dir_abort(&e->op, e->s.dir);
	img_dir_close(e->s.dir);
	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	rmdir(e->dir);
	free(e);
	return 0;
}

static void must(struct env *e, int r)
{
	if (r)
		fail_msg("%s", e->op.err ? ckpt_err_message(e->op.err) : "failed without a message");
}

/* ------------------------------------------------------------------------------------------------- connections */

struct pair {
	int ours, theirs;
	union inet_addr local, peer; /* of ours */
};

static void no_more_than(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

/* @family: 4, 6, or 46 for a socket of IPv6 with IPv4 addresses. @rcvbuf of theirs; 0: as it is. */
static struct pair connected(int family, int rcvbuf)
{
	union inet_addr a = { .v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	struct pair p;
	socklen_t n = sizeof(a);
	int l;

	if (family != 4) {
		a = (union inet_addr){ .v6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT } };
		if (family == 46)
			inet_pton(AF_INET6, "::ffff:127.0.0.1", &a.v6.sin6_addr);
	}
	l = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (rcvbuf)
		no_more_than(l, SOL_SOCKET, SO_RCVBUF, rcvbuf);
	assert_int_equal(bind(l, &a.any, inet_addr_len(&a)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, &a.any, &n), 0);
	p.ours = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p.ours, &a.any, inet_addr_len(&a)), 0);
	p.theirs = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.theirs >= 0);
	close(l);
	n = sizeof(p.local);
	assert_int_equal(getsockname(p.ours, &p.local.any, &n), 0);
	p.peer = a;
	return p;
}

/* Of what arrives nothing is seen any more: as if the network had lost it. */
static void deafen(int fd, bool deaf)
{
	struct sock_filter nothing = { BPF_RET | BPF_K, 0, 0, 0 };
	const struct sock_fprog prog = { 1, &nothing };
	int none = 0;

	assert_int_equal(deaf ? setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) :
				setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none)), 0);
}

static void await_tcp_state(int fd, uint32_t state)
{
	for (int i = 0; i < 200 && tcp_state_of(fd) != state; i++)
		nanosleep(&(const struct timespec){ .tv_nsec = 1000000 }, NULL);
	assert_int_equal(tcp_state_of(fd), state);
}

/* ------------------------------------------------------------------------------------------------ to images and back */

static void write_stream(struct env *e, uint32_t ino, const TcpStreamEntry *m, const void *inq, const void *outq)
{
	struct img_out *out;

	must(e, img_create(&e->op, e->s.dir, IMG_TCP_STREAM, ino, &out));
	must(e, img_write(&e->op, out, &m->base));
	must(e, img_write_payload(&e->op, out, inq, m->inq_len));
	must(e, img_write_payload(&e->op, out, outq, m->outq_len));
	must(e, img_close(&e->op, out));
}

static InetSkEntry *add_entry(struct env *e, const union inet_addr *local, const union inet_addr *peer, uint32_t state)
{
	InetSkEntry *m = msg_new(&e->op, InetSkEntry, inet_sk_entry);
	struct snap_file *f;

	assert_non_null(files_state(&e->op, &e->s));
	f = file_new(&e->op, &e->s, &file_inet);
	f->fd = -1;
	f->msg->isk = m;
	m->id = f->id;
	m->ino = 1000 + f->id;
	m->family = local->any.sa_family;
	m->type = SOCK_STREAM;
	m->proto = IPPROTO_TCP;
	m->state = state;
	m->flags = O_RDWR;
	m->fown = msg_new(&e->op, FownEntry, fown_entry);
	m->opts = msg_new(&e->op, SkOptsEntry, sk_opts_entry);
	m->opts->so_sndbuf = 2626560;
	m->opts->so_rcvbuf = 131072;
	msg_set(m->opts, so_buf_lock, 0);
	must(e, inet_addr_put(&e->op, local, &m->n_src_addr, &m->src_addr, &m->src_port));
	must(e, inet_addr_put(&e->op, peer, &m->n_dst_addr, &m->dst_addr, &m->dst_port));
	return m;
}

/* Takes our end away: nobody hears of it. */
static TcpStreamEntry *take_away(struct env *e, struct pair *p)
{
	const void *inq, *outq;
	TcpStreamEntry *m;
	InetSkEntry *entry = add_entry(e, &p->local, &p->peer, tcp_state_of(p->ours));

	assert_int_equal(tcp_repair_on(p->ours), 0);
	must(e, tcp_stream_read(&e->op, NULL, p->ours, "the socket", &m, &inq, &outq));
	write_stream(e, entry->ino, m, inq, outq);
	close(p->ours);
	p->ours = -1;
	return m;
}

static int make(struct env *e)
{
	int r = file_inet.read(&e->op, &e->s);

	for (size_t i = 0; !r && i < e->s.files.n; i++)
		r = file_open(&e->op, &e->s, e->s.files.v[i]);
	return r;
}

/* Back again, in the state it had. */
static void bring_back(struct env *e, struct pair *p)
{
	const struct snap_file *f = e->s.files.v[e->s.files.n - 1];

	must(e, make(e));
	assert_int_equal(tcp_state_of(f->fd), f->msg->isk->state);
	must(e, file_inet.settle(&e->op, &e->s));
	must(e, file_inet.open_up(&e->op, &e->s));
	file_inet.done(&e->op, &e->s, true);
	p->ours = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	assert_true(p->ours >= 0);
}

/* ---------------------------------------------------------------------------------------------------- what is said */

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

static void say(int fd, size_t n, unsigned seed)
{
	uint8_t *b = malloc(n);

	fill(b, n, seed);
	assert_int_equal(send(fd, b, n, MSG_DONTWAIT | MSG_NOSIGNAL), n);
	free(b);
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, PATIENCE_MS) == 1;
}

static void hear(int fd, size_t n, unsigned seed)
{
	uint8_t *want = malloc(n + 1), *got = malloc(n + 1);
	size_t have = 0;

	fill(want, n, seed);
	while (have < n) {
		ssize_t r = readable(fd) ? recv(fd, got + have, n - have, MSG_DONTWAIT) : -1;

		if (r <= 0)
			fail_msg("%zu of %zu bytes came, then %zd, errno %d", have, n, r, errno);
		have += (size_t)r;
	}
	assert_memory_equal(want, got, n);
	free(want);
	free(got);
}

static void hear_end(int fd)
{
	char c;

	assert_true(readable(fd));
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
}

static void talk(struct pair *p)
{
	say(p->ours, 1000, 1);
	hear(p->theirs, 1000, 1);
	say(p->theirs, 1000, 2);
	hear(p->ours, 1000, 2);
}

static uint64_t ms(void)
{
	return now_ns() / 1000000;
}

static void done(struct pair *p)
{
	close(p->ours);
	close(p->theirs);
}

/* ----------------------------------------------------------------------------------------------------------- tests */

static void established(void **state, int family)
{
	struct env *e = *state;
	struct pair p = connected(family, 0);
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);
	unsigned mss;

	getsockopt(p.ours, IPPROTO_TCP, TCP_INFO, &info, &n);
	mss = info.tcpi_snd_mss;
	talk(&p);
	say(p.theirs, 50000, 3);
	take_away(e, &p);
	bring_back(e, &p);
	hear(p.ours, 50000, 3);
	talk(&p);
	getsockopt(p.ours, IPPROTO_TCP, TCP_INFO, &info, &n);
	assert_int_equal(info.tcpi_options & 7, 7);
	assert_true(info.tcpi_snd_mss >= 1400 && info.tcpi_snd_mss <= MAX(mss, 32700u));
	close(p.ours);
	p.ours = -1;
	files_restore_done(&e->op, &e->s, true);
	hear_end(p.theirs);
	done(&p);
}

static void test_v4(void **state)
{
	established(state, 4);
}

static void test_v6(void **state)
{
	established(state, 6);
}

static void test_mapped(void **state)
{
	established(state, 46);
}

/* The peer reads nothing: its window is closed, and what is queued was not sent. */
static void test_unsent(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 65536);
	const TcpStreamEntry *m;
	size_t n = 1000000;

	say(p.ours, n, 5);
	nanosleep(&(const struct timespec){ .tv_nsec = 20000000 }, NULL);
	m = take_away(e, &p);
	assert_true(m->unsq_len > 500000);
	bring_back(e, &p);
	hear(p.theirs, n, 5);
	talk(&p);
	done(&p);
}

/* Sent, and lost. */
static void test_unacknowledged(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	const TcpStreamEntry *m;
	uint64_t start;

	deafen(p.theirs, true);
	say(p.ours, 100000, 6);
	m = take_away(e, &p);
	assert_true(m->outq_len == 100000 && m->unsq_len < 100000);
	deafen(p.theirs, false);
	start = ms();
	bring_back(e, &p);
	hear(p.theirs, 100000, 6);
	print_message("lost data was there after %d ms\n", (int)(ms() - start));
	talk(&p);
	done(&p);
}

/* Received, and its acknowledgement lost. */
static void test_acknowledged_meanwhile(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	const TcpStreamEntry *m;
	int unacked = 1;

	deafen(p.ours, true);
	say(p.ours, 5000, 7);
	m = take_away(e, &p);
	assert_int_equal(m->outq_len, 5000);
	bring_back(e, &p);
	hear(p.theirs, 5000, 7);
	for (int i = 0; i < 500 && unacked; i++) {
		nanosleep(&(const struct timespec){ .tv_nsec = 1000000 }, NULL);
		assert_int_equal(ioctl(p.ours, TIOCOUTQ, &unacked), 0);
	}
	assert_int_equal(unacked, 0);
	talk(&p);
	done(&p);
}

/* What we had received was not acknowledged before all was held back. */
static void test_not_acknowledged(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	int unacked = 1;

	talk(&p);
	deafen(p.theirs, true); /* to our acknowledgement */
	say(p.theirs, 5000, 30);
	assert_int_equal(take_away(e, &p)->inq_len, 5000);
	nanosleep(&(const struct timespec){ .tv_sec = 1, .tv_nsec = 500000000 }, NULL);
	deafen(p.theirs, false);
	bring_back(e, &p);
	assert_int_equal(ioctl(p.theirs, TIOCOUTQ, &unacked), 0);
	assert_int_equal(unacked, 0);
	hear(p.ours, 5000, 30);
	talk(&p);
	done(&p);
}

/* The peer has sent again and again, and waits ever longer. */
static void test_patient_peer(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	uint64_t start;

	deafen(p.ours, true);
	say(p.theirs, 5000, 8);
	nanosleep(&(const struct timespec){ .tv_sec = 2 }, NULL);
	take_away(e, &p);
	start = ms();
	bring_back(e, &p);
	hear(p.ours, 5000, 8);
	print_message("the peer came after %d ms\n", (int)(ms() - start));
	talk(&p);
	done(&p);
}

static void test_fin_wait1(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	uint64_t start;

	deafen(p.theirs, true);
	say(p.ours, 3000, 9);
	shutdown(p.ours, SHUT_WR);
	await_tcp_state(p.ours, INET_FIN_WAIT1);
	take_away(e, &p);
	deafen(p.theirs, false);
	start = ms();
	bring_back(e, &p);
	hear(p.theirs, 3000, 9);
	hear_end(p.theirs);
	print_message("a lost end was there after %d ms\n", (int)(ms() - start));
	await_tcp_state(p.ours, INET_FIN_WAIT2);
	say(p.theirs, 3000, 10);
	hear(p.ours, 3000, 10);
	done(&p);
}

/* The end waits behind what the peer does not take. */
static void test_fin_unsent(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 65536);
	const TcpStreamEntry *m;

	say(p.ours, 900000, 11);
	shutdown(p.ours, SHUT_WR);
	nanosleep(&(const struct timespec){ .tv_nsec = 20000000 }, NULL);
	m = take_away(e, &p);
	assert_true(m->unsq_len > 200000);
	bring_back(e, &p);
	hear(p.theirs, 900000, 11);
	hear_end(p.theirs);
	await_tcp_state(p.ours, INET_FIN_WAIT2);
	done(&p);
}

static void fin_wait2(void **state, int family)
{
	struct env *e = *state;
	struct pair p = connected(family, 0);

	say(p.theirs, 100, 12);
	shutdown(p.ours, SHUT_WR);
	await_tcp_state(p.ours, INET_FIN_WAIT2);
	take_away(e, &p);
	bring_back(e, &p);
	hear(p.ours, 100, 12);
	hear_end(p.theirs);
	say(p.theirs, 3000, 13);
	hear(p.ours, 3000, 13);
	shutdown(p.theirs, SHUT_WR);
	hear_end(p.ours);
	done(&p);
}

static void test_fin_wait2(void **state)
{
	fin_wait2(state, 4);
}

static void test_fin_wait2_v6(void **state)
{
	fin_wait2(state, 6);
}

static void test_fin_wait2_mapped(void **state)
{
	fin_wait2(state, 46);
}

static void test_close_wait(void **state)
{
	struct env *e = *state;
	struct pair p = connected(6, 0);

	say(p.theirs, 70000, 14);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	take_away(e, &p);
	bring_back(e, &p);
	hear(p.ours, 70000, 14);
	hear_end(p.ours);
	say(p.ours, 3000, 15);
	hear(p.theirs, 3000, 15);
	shutdown(p.ours, SHUT_WR);
	hear_end(p.theirs);
	done(&p);
}

static void test_close_wait_unsent(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 65536);

	say(p.ours, 900000, 16);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	assert_true(take_away(e, &p)->unsq_len > 200000);
	bring_back(e, &p);
	hear_end(p.ours);
	hear(p.theirs, 900000, 16);
	say(p.ours, 3000, 17);
	hear(p.theirs, 3000, 17);
	done(&p);
}

static void test_last_ack(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);

	say(p.theirs, 700, 18);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	deafen(p.theirs, true);
	say(p.ours, 3000, 19);
	shutdown(p.ours, SHUT_WR);
	await_tcp_state(p.ours, INET_LAST_ACK);
	take_away(e, &p);
	deafen(p.theirs, false);
	bring_back(e, &p);
	hear(p.ours, 700, 18);
	hear_end(p.ours);
	hear(p.theirs, 3000, 19);
	hear_end(p.theirs);
	await_tcp_state(p.ours, INET_CLOSE);
	done(&p);
}

static void test_closing(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);

	deafen(p.theirs, true);
	say(p.ours, 3000, 20);
	shutdown(p.ours, SHUT_WR);
	say(p.theirs, 800, 21);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSING);
	take_away(e, &p);
	deafen(p.theirs, false);
	bring_back(e, &p);
	hear(p.ours, 800, 21);
	hear_end(p.ours);
	hear(p.theirs, 3000, 20);
	hear_end(p.theirs);
	done(&p);
}

/* Both have ended it, and something is left to be read. */
static void test_closed(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	char c;

	say(p.theirs, 900, 22);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	shutdown(p.ours, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE);
	take_away(e, &p);
	bring_back(e, &p);
	hear(p.ours, 900, 22);
	hear_end(p.ours);
	assert_int_equal(send(p.ours, &c, 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	hear_end(p.theirs);
	done(&p);
}

/* Both ends are in the checkpoint. */
static void both_ends(void **state, bool locked)
{
	struct env *e = *state;
	struct pair p = connected(4, 0), q = { .ours = p.theirs, .local = p.peer, .peer = p.local };

	msg_set(&e->inventory, network_lock_method, locked ? NETLOCK_NFTABLES : NETLOCK_SKIP);
	say(p.ours, 20000, 23);
	say(p.theirs, 30000, 24);
	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	await_tcp_state(p.theirs, INET_FIN_WAIT2);
	assert_int_equal(tcp_repair_on(p.theirs), 0); /* nothing is said to the one that goes second */
	take_away(e, &p);
	take_away(e, &q);
	bring_back(e, &q);
	p.ours = fcntl(e->s.files.v[0]->fd, F_DUPFD_CLOEXEC, 3);
	p.theirs = q.ours;
	hear(p.theirs, 20000, 23);
	hear(p.ours, 30000, 24);
	hear_end(p.ours);
	say(p.ours, 3000, 25);
	hear(p.theirs, 3000, 25);
	done(&p);
}

static void test_both_ends(void **state)
{
	both_ends(state, true);
}

static void test_both_ends_unlocked(void **state)
{
	both_ends(state, false);
}

/* It asked, and nobody has answered yet. */
static void syn_sent(void **state, bool listens)
{
	struct env *e = *state;
	union inet_addr a = { .v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), error = 0;
	struct pair p = { .ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	struct pollfd poll_out;
	socklen_t n = sizeof(a);

	assert_int_equal(bind(l, &a.any, sizeof(a.v4)), 0);
	assert_int_equal(listen(l, 5), 0);
	assert_int_equal(getsockname(l, &a.any, &n), 0);
	deafen(l, true);
	assert_int_equal(connect(p.ours, &a.any, sizeof(a.v4)), -1);
	assert_int_equal(errno, EINPROGRESS);
	n = sizeof(p.local);
	getsockname(p.ours, &p.local.any, &n);
	p.peer = a;
	take_away(e, &p);
	deafen(l, false);
	if (!listens)
		close(l);
	must(e, make(e));
	must(e, file_inet.settle(&e->op, &e->s));
	must(e, file_inet.open_up(&e->op, &e->s));
	file_inet.done(&e->op, &e->s, true);
	p.ours = fcntl(e->s.files.v[0]->fd, F_DUPFD_CLOEXEC, 3);
	poll_out = (struct pollfd){ .fd = p.ours, .events = POLLOUT };
	assert_int_equal(poll(&poll_out, 1, PATIENCE_MS), 1);
	n = sizeof(error);
	assert_int_equal(getsockopt(p.ours, SOL_SOCKET, SO_ERROR, &error, &n), 0);
	assert_int_equal(error, listens ? 0 : ECONNREFUSED);
	if (!listens)
		return;
	p.theirs = accept4(l, &a.any, &n, SOCK_CLOEXEC);
	assert_true(p.theirs >= 0);
	talk(&p);
	done(&p);
	close(l);
}

static void test_syn_sent(void **state)
{
	syn_sent(state, true);
}

static void test_syn_refused(void **state)
{
	syn_sent(state, false);
}

/* A restore that fails: the peer hears nothing of it, and another one may do better. */
static void test_failed(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	struct op again = e->op;

	say(p.theirs, 500, 26);
	take_away(e, &p);
	must(e, make(e));
	files_restore_done(&e->op, &e->s, false);
	nanosleep(&(const struct timespec){ .tv_nsec = 50000000 }, NULL);
	assert_int_equal(tcp_state_of(p.theirs), INET_ESTABLISHED);
	e->op = again;
	e->s.file_state->inet_sockets = NULL;
	bring_back(e, &p);
	hear(p.ours, 500, 26);
	talk(&p);
	done(&p);
}

/* Windows that are not scaled: more than 64 KiB could not be told. */
static void set_scaling(const char *value)
{
	int fd = open("/proc/sys/net/ipv4/tcp_window_scaling", O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0 && write(fd, value, 1) == 1);
	close(fd);
}

static void test_unscaled(void **state)
{
	struct env *e = *state;
	struct pair p;
	struct tcp_repair_window w = { 0 };
	socklen_t n = sizeof(w);

	set_scaling("0");
	p = connected(4, 0);
	set_scaling("1");
	talk(&p);
	assert_false(take_away(e, &p)->opt_mask & TCP_HAS_SCALES);
	bring_back(e, &p);
	talk(&p);
	say(p.theirs, 200000, 27);
	hear(p.ours, 200000, 27);
	assert_int_equal(tcp_repair_on(p.theirs), 0);
	assert_int_equal(getsockopt(p.theirs, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &n), 0);
	assert_int_equal(tcp_repair_off(p.theirs, false), 0);
	/* A window that we had scaled would look tiny to the peer. */
	assert_true(w.snd_wnd > 20000);
	done(&p);
}

/* -------------------------------------------------------------------------------------------------------- errors */

static void expect(struct env *e, int code, const char *word)
{
	int r = make(e);

	assert_int_equal(r, code);
	if (!strstr(ckpt_err_message(e->op.err), word))
		fail_msg("'%s' does not say '%s'", ckpt_err_message(e->op.err), word);
}

static void test_not_permitted(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);

	take_away(e, &p);
	e->opts.tcp_established = false;
	expect(e, CKPT_E_INVAL, "connected to 127.0.0.1");
	assert_non_null(strstr(ckpt_err_hint(e->op.err), "--tcp-established"));
	close(p.theirs);
}

static void test_tcp_close(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	struct pollfd poll_in;
	char c;
	int fd;

	take_away(e, &p);
	e->opts.tcp_close = true;
	must(e, make(e));
	must(e, file_inet.settle(&e->op, &e->s));
	must(e, file_inet.open_up(&e->op, &e->s));
	file_inet.done(&e->op, &e->s, true);
	fd = e->s.files.v[0]->fd;
	poll_in = (struct pollfd){ .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&poll_in, 1, 0), 1);
	assert_true(poll_in.revents & POLLHUP);
	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, ENOTCONN);
	close(p.theirs);
}

static void test_exists(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);
	const void *inq, *outq;
	TcpStreamEntry *m;
	InetSkEntry *entry = add_entry(e, &p.local, &p.peer, INET_ESTABLISHED);

	assert_int_equal(tcp_repair_on(p.ours), 0);
	must(e, tcp_stream_read(&e->op, NULL, p.ours, "the socket", &m, &inq, &outq));
	assert_int_equal(tcp_repair_off(p.ours, false), 0);
	write_stream(e, entry->ino, m, inq, outq);
	expect(e, CKPT_E_SYS, "test_tcp_make");
	files_restore_done(&e->op, &e->s, false);
	talk(&p);
	done(&p);
}

static void test_address_gone(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);

	inet_pton(AF_INET, "192.0.2.77", &p.local.v4.sin_addr);
	take_away(e, &p);
	expect(e, CKPT_E_SYS, "192.0.2.77");
	assert_non_null(strstr(ckpt_err_hint(e->op.err), "ip address add"));
	close(p.theirs);
}

static void test_address_in_use(void **state)
{
	struct env *e = *state;
	union inet_addr a = { .v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	const union inet_addr none = { .v4 = { .sin_family = AF_INET } };
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof(a);
	char port[16];

	assert_int_equal(bind(l, &a.any, sizeof(a.v4)), 0);
	assert_int_equal(listen(l, 5), 0);
	assert_int_equal(getsockname(l, &a.any, &n), 0);
	add_entry(e, &a, &none, INET_LISTEN);
	expect(e, CKPT_E_SYS, "test_tcp_make");
	snprintf(port, sizeof(port), ":%u", inet_addr_port(&a));
	assert_non_null(strstr(ckpt_err_message(e->op.err), port));
	close(l);
}

/* Segments that come by the loopback device do not arrive. */
static void test_firewall(void **state)
{
	struct env *e = *state;
	struct pair p = connected(4, 0);

	shutdown(p.theirs, SHUT_WR);
	await_tcp_state(p.ours, INET_CLOSE_WAIT);
	take_away(e, &p);
	if (system("nft add table inet test_tcp && nft add chain inet test_tcp in '{ type filter hook input priority 0; }' && "
		   "nft add rule inet test_tcp in meta mark 0xc114 drop") != 0) {
		print_message("no nft command here\n");
		close(p.theirs);
		return;
	}
	expect(e, CKPT_E_SYS, "did not arrive");
	assert_int_equal(system("nft delete table inet test_tcp"), 0);
	assert_non_null(strstr(ckpt_err_hint(e->op.err), "0xC114"));
	close(p.theirs);
}

static void own_namespace(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int sk;

	if (unshare(CLONE_NEWNET) < 0) {
		printf("skipped: no network namespaces: %s\n", strerror(errno));
		exit(77);
	}
	sk = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(sk, SIOCSIFFLAGS, &lo) < 0)
		exit(1);
	close(sk);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(v4), TEST(v6), TEST(mapped), TEST(unsent), TEST(unacknowledged), TEST(acknowledged_meanwhile), TEST(patient_peer),
		TEST(not_acknowledged),
		TEST(fin_wait1), TEST(fin_unsent), TEST(fin_wait2), TEST(fin_wait2_v6), TEST(fin_wait2_mapped), TEST(close_wait),
		TEST(close_wait_unsent), TEST(last_ack), TEST(closing), TEST(closed), TEST(both_ends), TEST(both_ends_unlocked),
		TEST(syn_sent), TEST(syn_refused), TEST(failed), TEST(unscaled), TEST(not_permitted), TEST(tcp_close), TEST(exists),
		TEST(address_gone), TEST(address_in_use), TEST(firewall),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	own_namespace();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
