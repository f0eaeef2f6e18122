// SPDX-License-Identifier: MIT
/* TCP: every state that a connection can have while somebody holds it, with much, little and nothing in its queues. */
#include "tcp.h"

#include <linux/filter.h>

/* ------------------------------------------------------------------------------------------- without a connection */

static void unconnected(void)
{
	int fresh = make(AF_INET, 0), nb = make(AF_INET, SOCK_NONBLOCK), b = bound(AF_INET, "127.0.0.1", 0), six = make(AF_INET6, 0);
	int any = bound(AF_INET, "0.0.0.0", 0), l = listener(AF_INET, "127.0.0.1", 3), again = bound(AF_INET, "127.0.0.1", 0);
	struct addr n = name_of(b), m = name_of(any), k = name_of(again), none = address(AF_INET, "0.0.0.0", 0), now;
	struct tie t;

	/* once a listener, and not any more */
	CHECK(!listen(again, 3) && !shutdown(again, SHUT_RDWR) && state_of(again) == TCP_CLOSE);
	t_wait();
	now = name_of(fresh);
	CHECK(same_addr(&now, &none) && state_of(fresh) == TCP_CLOSE && state_of(six) == TCP_CLOSE);
	now = name_of(b);
	CHECK(same_addr(&now, &n) && fcntl(nb, F_GETFL) & O_NONBLOCK && !(fcntl(fresh, F_GETFL) & O_NONBLOCK));
	now = name_of(any);
	CHECK(same_addr(&now, &m));
	now = name_of(again);
	CHECK(same_addr(&now, &k));
	t = tie_to(l, b);
	CHECK(same_addr(&t.name[0], &n));
	finish(&t);
	t = tie_to(l, fresh);
	finish(&t);
	CHECK(!listen(any, 1));
	t = tie_to(any, make(AF_INET, 0));
	finish(&t);
	CHECK(recv(nb, &now, 1, 0) < 0 && errno == ENOTCONN);
}

static int backlog_of(int l)
{
	struct tcp_info i = { 0 };
	socklen_t n = sizeof(i);

	CHECK(!getsockopt(l, IPPROTO_TCP, TCP_INFO, &i, &n));
	return i.tcpi_sacked;
}

static void listeners(void)
{
	int l = listener(AF_INET, "127.0.0.1", 7), any = listener(AF_INET, "0.0.0.0", 0), nb = listener(AF_INET, "127.1.2.3", 4000);
	struct addr a = name_of(l), b = name_of(any), c = name_of(nb), now;
	int backlog[3] = { backlog_of(l), backlog_of(any), backlog_of(nb) }, used;
	struct tie t;

	CHECK(fcntl(nb, F_SETFL, O_NONBLOCK) == 0);
	used = make(AF_INET, 0);
	t = tie_to(l, used); /* it has been in use */
	finish(&t);
	t_wait();
	CHECK(backlog_of(l) == backlog[0] && backlog_of(any) == backlog[1] && backlog_of(nb) == backlog[2]);
	now = name_of(l);
	CHECK(same_addr(&now, &a) && get_opt(l, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	now = name_of(any);
	CHECK(same_addr(&now, &b));
	now = name_of(nb);
	CHECK(same_addr(&now, &c) && accept(nb, NULL, NULL) < 0 && errno == EAGAIN);
	for (int i = 0; i < 3; i++) {
		t = tie_to((int[]){ l, any, nb }[i], make(AF_INET, 0));
		finish(&t);
	}
	/* the port is taken as it was */
	used = make(AF_INET, 0);
	CHECK(bind(used, &a.a, a.len) < 0 && errno == EADDRINUSE);
	close(l);
	used = make(AF_INET, 0);
	set_opt(used, SOL_SOCKET, SO_REUSEADDR, 1);
	CHECK(!bind(used, &a.a, a.len));
}

/* -------------------------------------------------------------------------------------------------------- queues */

static void established(void)
{
	struct tie quiet = tie4(), t = tie4(), one = tie4(), with_listener;
	int l = listener(AF_INET, "127.0.0.1", 3), c = make(AF_INET, SOCK_NONBLOCK), pre;

	set_opt(c, IPPROTO_TCP, TCP_NODELAY, 1);
	CHECK(fcntl(c, F_SETFL, 0) == 0);
	with_listener = tie_to(l, c);
	CHECK(fcntl(c, F_SETFL, O_NONBLOCK) == 0);
	push(&t.f[0], 5000), push(&t.f[1], 40000), pull(&t.f[0], 1234), pull(&t.f[1], 1);
	for (int i = 0; i < 50; i++)
		push(&one.f[1], 1);
	push(&with_listener.f[0], 300);
	await_queue(t.fd[1], 5000 - 1234), await_queue(t.fd[0], 39999), await_queue(one.fd[0], 50);
	t_wait();
	CHECK(queue_of(t.fd[1], SIOCINQ) == 5000 - 1234 && queue_of(t.fd[0], SIOCINQ) == 39999 && queue_of(one.fd[0], SIOCINQ) == 50);
	CHECK(state_of(quiet.fd[0]) == TCP_ESTABLISHED && state_of(quiet.fd[1]) == TCP_ESTABLISHED);
	nothing(quiet.fd[0]), nothing(quiet.fd[1]);
	CHECK(events_of(quiet.fd[0]) == POLLOUT && events_of(t.fd[0]) == (POLLIN | POLLOUT));
	CHECK(recv(one.fd[0], &pre, 1, MSG_PEEK) == 1 && queue_of(one.fd[0], SIOCINQ) == 50);
	finish(&quiet), finish(&t), finish(&one), finish(&with_listener);
	t = tie_to(l, make(AF_INET, 0));
	finish(&t);
}

/* Both directions as full as they get, with buffers that the kernel sizes, that are small, and that are large. */
static void full(void)
{
	struct tie t[3] = { tie4(), tie(AF_INET, "127.0.0.1", 20000), tie4() };
	int large = 3 << 20, unread[3][2], unsent[3][2];

	for (int i = 0; i < 2; i++) {
		setsockopt(t[2].fd[i], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
		setsockopt(t[2].fd[i], SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof(large));
	}
	for (int i = 0; i < 6; i++)
		fill(&t[i / 2].f[i % 2]);
	for (int i = 0; i < 6; i++) {
		unread[i / 2][i % 2] = queue_of(t[i / 2].fd[i % 2], SIOCINQ);
		unsent[i / 2][i % 2] = queue_of(t[i / 2].fd[i % 2], SIOCOUTQ);
		CHECK(unread[i / 2][i % 2] > 1000 && unsent[i / 2][i % 2] > 1000);
	}
	t_wait();
	for (int i = 0; i < 6; i++) {
		struct flow *f = &t[i / 2].f[i % 2];

		/* the sum is what counts: the other end may have taken more in the meantime */
		CHECK(queue_of(f->to, SIOCINQ) >= unread[i / 2][1 - i % 2]);
		if (queue_of(f->to, SIOCINQ) + queue_of(f->from, SIOCOUTQ) < (int)(f->sent - f->got))
			FAIL("connection %d: %d unread and %d unsent of %d", i / 2, queue_of(f->to, SIOCINQ), queue_of(f->from, SIOCOUTQ),
			     (int)(f->sent - f->got));
	}
	for (int i = 0; i < 3; i++)
		finish(&t[i]);
}

/* Held back by TCP_CORK, and a window that is shut while little is queued. */
static void corked(void)
{
	struct tie t = tie4(), shut = tie(AF_INET, "127.0.0.1", 2500);

	set_opt(t.fd[0], IPPROTO_TCP, TCP_CORK, 1);
	push(&t.f[0], 20);
	fill(&shut.f[0]);
	CHECK(queue_of(t.fd[0], SIOCOUTQ) == 20);
	t_wait();
	CHECK(get_opt(t.fd[0], IPPROTO_TCP, TCP_CORK) == 1);
	set_opt(t.fd[0], IPPROTO_TCP, TCP_CORK, 0);
	finish(&t), finish(&shut);
}

/* --------------------------------------------------------------------------------------------------- half closed */

static void finwait2(void)
{
	struct tie t = tie4(), quiet = tie4(), both = tie4();
	int before[4];

	push(&t.f[0], 1000), push(&t.f[1], 2000);
	CHECK(!shutdown(t.fd[0], SHUT_WR) && !shutdown(quiet.fd[1], SHUT_WR) && !shutdown(both.fd[0], SHUT_RDWR));
	at_end(quiet.fd[0]);
	await_state(t.fd[0], TCP_FIN_WAIT2), await_state(t.fd[1], TCP_CLOSE_WAIT), await_state(quiet.fd[1], TCP_FIN_WAIT2);
	await_state(both.fd[0], TCP_FIN_WAIT2), await_state(both.fd[1], TCP_CLOSE_WAIT);
	for (int i = 0; i < 4; i++)
		before[i] = events_of((i / 2 ? both : t).fd[i % 2]);
	t_wait();
	for (int i = 0; i < 4; i++)
		if (events_of((i / 2 ? both : t).fd[i % 2]) != before[i])
			FAIL("socket %d: poll says %x, not %x", i, events_of((i / 2 ? both : t).fd[i % 2]), before[i]);
	CHECK(state_of(t.fd[0]) == TCP_FIN_WAIT2 && state_of(t.fd[1]) == TCP_CLOSE_WAIT && state_of(quiet.fd[0]) == TCP_CLOSE_WAIT);
	CHECK(state_of(both.fd[0]) == TCP_FIN_WAIT2 && state_of(both.fd[1]) == TCP_CLOSE_WAIT);
	same_names(&t), same_names(&quiet), same_names(&both);
	no_more_sending(t.fd[0]), no_more_sending(quiet.fd[1]);
	drain(&t.f[0]), at_end(t.fd[1]), at_end(quiet.fd[0]), at_end(both.fd[0]), at_end(both.fd[1]);
	push(&t.f[1], 50000), drain(&t.f[1]), push(&quiet.f[0], 10), drain(&quiet.f[0]);
	nothing(t.fd[0]), nothing(quiet.fd[1]);
	CHECK(!shutdown(t.fd[1], SHUT_WR) && !close(quiet.fd[0]) && !close(both.fd[1]));
	at_end(t.fd[0]), at_end(quiet.fd[1]);
	await_state(t.fd[0], TCP_CLOSE), await_state(t.fd[1], TCP_CLOSE), await_state(quiet.fd[1], TCP_CLOSE);
	await_state(both.fd[0], TCP_CLOSE);
}

/* Its end waits behind what the other side has no room for. */
static struct tie stuck(void)
{
	struct tie t = tie(AF_INET, "127.0.0.1", 2500);

	fill(&t.f[0]);
	return t;
}

static void finwait1(void)
{
	struct tie t = stuck(), loud = stuck();

	push(&loud.f[1], 700);
	CHECK(!shutdown(t.fd[0], SHUT_WR) && !shutdown(loud.fd[0], SHUT_WR));
	CHECK(state_of(t.fd[0]) == TCP_FIN_WAIT1 && state_of(t.fd[1]) == TCP_ESTABLISHED);
	t_wait();
	CHECK(state_of(t.fd[0]) == TCP_FIN_WAIT1 && state_of(t.fd[1]) == TCP_ESTABLISHED && state_of(loud.fd[0]) == TCP_FIN_WAIT1);
	same_names(&t);
	no_more_sending(t.fd[0]);
	drain(&t.f[0]), at_end(t.fd[1]);
	await_state(t.fd[0], TCP_FIN_WAIT2);
	push(&t.f[1], 2000), drain(&t.f[1]);
	drain(&loud.f[1]), drain(&loud.f[0]), at_end(loud.fd[1]);
	CHECK(!close(t.fd[1]) && !close(loud.fd[1]));
	at_end(t.fd[0]), at_end(loud.fd[0]);
	await_state(t.fd[0], TCP_CLOSE);
}

static void closing(void)
{
	struct tie t = stuck(), empty = stuck();

	push(&t.f[1], 500);
	for (int i = 0; i < 2; i++)
		CHECK(!shutdown(t.fd[i], SHUT_WR) && !shutdown(empty.fd[i], SHUT_WR));
	await_state(t.fd[0], TCP_CLOSING), await_state(t.fd[1], TCP_FIN_WAIT2), await_state(empty.fd[0], TCP_CLOSING);
	t_wait();
	CHECK(state_of(t.fd[0]) == TCP_CLOSING && state_of(t.fd[1]) == TCP_FIN_WAIT2);
	CHECK(state_of(empty.fd[0]) == TCP_CLOSING && state_of(empty.fd[1]) == TCP_FIN_WAIT2);
	same_names(&t), same_names(&empty);
	drain(&t.f[1]), at_end(t.fd[0]), at_end(empty.fd[0]);
	drain(&t.f[0]), at_end(t.fd[1]), drain(&empty.f[0]), at_end(empty.fd[1]);
	await_state(t.fd[0], TCP_CLOSE), await_state(t.fd[1], TCP_CLOSE), await_state(empty.fd[0], TCP_CLOSE);
}

static void lastack(void)
{
	struct tie t = stuck(), loud = stuck();

	push(&loud.f[1], 900);
	CHECK(!shutdown(t.fd[1], SHUT_WR) && !shutdown(loud.fd[1], SHUT_WR));
	await_state(t.fd[0], TCP_CLOSE_WAIT), await_state(loud.fd[0], TCP_CLOSE_WAIT);
	CHECK(!shutdown(t.fd[0], SHUT_WR) && !shutdown(loud.fd[0], SHUT_WR));
	await_state(t.fd[0], TCP_LAST_ACK), await_state(t.fd[1], TCP_FIN_WAIT2);
	t_wait();
	CHECK(state_of(t.fd[0]) == TCP_LAST_ACK && state_of(t.fd[1]) == TCP_FIN_WAIT2 && state_of(loud.fd[0]) == TCP_LAST_ACK);
	same_names(&t), same_names(&loud);
	no_more_sending(t.fd[0]), no_more_sending(t.fd[1]);
	at_end(t.fd[0]), drain(&loud.f[1]), at_end(loud.fd[0]);
	drain(&t.f[0]), at_end(t.fd[1]), drain(&loud.f[0]), at_end(loud.fd[1]);
	await_state(t.fd[0], TCP_CLOSE), await_state(t.fd[1], TCP_CLOSE), await_state(loud.fd[0], TCP_CLOSE);
}

/* ------------------------------------------------------------------------------------------------------- ended */

static void is_closed(int fd, const struct addr *name, int events)
{
	struct addr a = name_of(fd);

	if (state_of(fd) != TCP_CLOSE || events_of(fd) != events)
		FAIL("fd %d: state %d, poll says %x, not %x", fd, state_of(fd), events_of(fd), events);
	CHECK(same_addr(&a, name) && getpeername(fd, &a.a, &a.len) < 0 && errno == ENOTCONN);
	CHECK(get_opt(fd, SOL_SOCKET, SO_ERROR) == 0);
	no_more_sending(fd);
}

/* Both sides have sent their end and know that it arrived. */
static void closed(void)
{
	struct tie t = tie4(), empty = tie4();
	int before[4];

	push(&t.f[0], 300), push(&t.f[1], 700), pull(&t.f[1], 33);
	for (int i = 0; i < 2; i++)
		CHECK(!shutdown(t.fd[i], SHUT_WR) && !shutdown(empty.fd[i], SHUT_WR));
	for (int i = 0; i < 4; i++) {
		await_state((i / 2 ? empty : t).fd[i % 2], TCP_CLOSE);
		before[i] = events_of((i / 2 ? empty : t).fd[i % 2]);
	}
	t_wait();
	for (int i = 0; i < 4; i++)
		is_closed((i / 2 ? empty : t).fd[i % 2], &(i / 2 ? empty : t).name[i % 2], before[i]);
	for (int i = 0; i < 2; i++)
		drain(&t.f[i]), at_end(t.fd[1 - i]), at_end(empty.fd[i]);
}

/* The peer broke it off, and the program has heard of it. Such a socket can be used anew. */
static void aborted(void)
{
	struct linger now = { 1, 0 };
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	struct tie t = tie4(), again;
	int l = listener(AF_INET, "127.0.0.1", 3), before;

	push(&t.f[1], 600), await_queue(t.fd[0], 600);
	CHECK(!setsockopt(t.fd[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)) && !close(t.fd[1]));
	await_state(t.fd[0], TCP_CLOSE);
	CHECK(get_opt(t.fd[0], SOL_SOCKET, SO_ERROR) == ECONNRESET);
	before = events_of(t.fd[0]);
	t_wait();
	is_closed(t.fd[0], &t.name[0], before);
	t.f[1].to = t.fd[0];
	drain(&t.f[1]), at_end(t.fd[0]);
	CHECK(!connect(t.fd[0], &nobody, sizeof(nobody)));
	again = tie_to(l, t.fd[0]);
	finish(&again);
}

/* The same, but nobody has been told. */
static void reset(void)
{
	struct linger now = { 1, 0 };
	struct tie t = tie4();

	CHECK(!setsockopt(t.fd[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)) && !close(t.fd[1]));
	await_state(t.fd[0], TCP_CLOSE);
	CHECK(events_of(t.fd[0]) & POLLERR);
	t_wait();
	CHECK(get_opt(t.fd[0], SOL_SOCKET, SO_ERROR) == ECONNRESET && get_opt(t.fd[0], SOL_SOCKET, SO_ERROR) == 0);
}

/* A byte out of the order of the others is there. */
static void urgent(void)
{
	struct tie t = tie4();
	char c;

	push(&t.f[0], 100);
	CHECK(send(t.fd[0], "!", 1, MSG_OOB) == 1);
	await_event(t.fd[1], POLLPRI);
	t_wait();
	CHECK(recv(t.fd[1], &c, 1, MSG_OOB) == 1 && c == '!');
	pull(&t.f[0], 100);
}

/* ---------------------------------------------------------------------------------------------------- connecting */

/* Nothing that a listener drops is answered. */
static void deaf(int l, bool on)
{
	struct sock_filter code = { 0x06, 0, 0, 0 };
	struct sock_fprog prog = { 1, &code };
	int v = 0;

	CHECK(!(on ? setsockopt(l, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) :
		     setsockopt(l, SOL_SOCKET, SO_DETACH_FILTER, &v, sizeof(v))));
}

static void connecting(void)
{
	int l = listener(AF_INET, "127.0.0.1", 3), c = make(AF_INET, SOCK_NONBLOCK), s;
	struct addr a = name_of(l), n, m;
	struct tie t;

	deaf(l, true);
	CHECK(connect(c, &a.a, a.len) < 0 && errno == EINPROGRESS && state_of(c) == TCP_SYN_SENT);
	n = name_of(c);
	t_wait();
	m = name_of(c);
	CHECK(state_of(c) == TCP_SYN_SENT && same_addr(&n, &m) && events_of(c) == 0);
	CHECK(connect(c, &a.a, a.len) < 0 && errno == EALREADY);
	deaf(l, false);
	await_event(c, POLLOUT);
	CHECK(get_opt(c, SOL_SOCKET, SO_ERROR) == 0 && (s = accept(l, NULL, NULL)) >= 0);
	t = tie_of(c, s);
	CHECK(same_addr(&t.name[0], &n) && same_addr(&t.peer[0], &a));
	finish(&t);
}

/* One socket, connected with itself. */
static void itself(void)
{
	int fd = bound(AF_INET, "127.0.0.1", 0);
	struct addr a = name_of(fd), n;
	struct flow f = { fd, fd, 99, 0, 0 };

	CHECK(!connect(fd, &a.a, a.len));
	push(&f, 2000), pull(&f, 500);
	t_wait();
	n = peer_of(fd);
	CHECK(same_addr(&n, &a));
	drain(&f), push(&f, 10000), drain(&f), nothing(fd);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "unconnected", unconnected }, { "listeners", listeners }, { "established", established }, { "full", full },
		{ "corked", corked }, { "finwait2", finwait2 }, { "finwait1", finwait1 }, { "closing", closing },
		{ "lastack", lastack }, { "closed", closed }, { "aborted", aborted }, { "reset", reset },
		{ "urgent", urgent }, { "connecting", connecting }, { "itself", itself },
	};

	T_RUN(variants, t_init(argc, argv));
}
