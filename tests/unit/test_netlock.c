/* SPDX-License-Identifier: MIT */
/*
 * The network lock, and the builder of nftables batches under it, in a network namespace of their own: what is held, what
 * passes, what stays when its owner ends. Needs root (skipped otherwise); tests of other people's rules need nft(8) or iptables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <ftw.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/capability.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "lib/image/image.h"
#include "lib/inject/guardian.h"
#include "lib/state/msg.h"
#include "lib/state/sock/netlock/netlock_parts.h"

#define RUN_ID "11111111-2222-3333-4444-555555555555"
#define TABLE "CRIU-" RUN_ID
#define MANY 8000

struct env {
	struct op op;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct snapshot s;
	InventoryEntry inventory;
};

static void env_init(struct env *e)
{
	*e = (struct env){ .opts = CKPT_OPTS_INIT, .stats = { .sz = sizeof(e->stats) } };
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	inventory_entry__init(&e->inventory);
	e->inventory.dump_criu_run_id = (char *)(uintptr_t)RUN_ID;
	e->s.inventory = &e->inventory;
}

static void env_done(struct env *e)
{
	op_forget(&e->op);
	arena_free(e->op.arena);
}

static void ok(struct env *e, int r)
{
	if (r)
		fail_msg("%d: %s", r, e->op.err ? ckpt_err_message(e->op.err) : "?");
}

/* ------------------------------------------------------------------------------------------------- connections */

struct pair {
	int client, server;
	struct netlock_tuple tuple; /* of the server's end */
};

static struct netlock_tuple tuple_of(int sk)
{
	struct sockaddr_storage a = { 0 }, b = { 0 };
	socklen_t n = sizeof(a), m = sizeof(b);
	struct netlock_tuple t;

	assert_int_equal(getsockname(sk, (struct sockaddr *)&a, &n), 0);
	assert_int_equal(getpeername(sk, (struct sockaddr *)&b, &m), 0);
	t = (struct netlock_tuple){ .family = a.ss_family };
	if (a.ss_family == AF_INET) {
		t.local.v4 = ((struct sockaddr_in *)&a)->sin_addr;
		t.peer.v4 = ((struct sockaddr_in *)&b)->sin_addr;
	} else {
		t.local.v6 = ((struct sockaddr_in6 *)&a)->sin6_addr;
		t.peer.v6 = ((struct sockaddr_in6 *)&b)->sin6_addr;
	}
	t.local_port = ntohs(((struct sockaddr_in *)&a)->sin_port);
	t.peer_port = ntohs(((struct sockaddr_in *)&b)->sin_port);
	return t;
}

static struct pair connected(int family)
{
	struct sockaddr_storage a = { .ss_family = (sa_family_t)family };
	int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof(a);
	struct pair p;

	if (family == AF_INET)
		((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_loopback;
	assert_int_equal(bind(listener, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &n), 0);
	p.client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p.client, (struct sockaddr *)&a, n), 0);
	p.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.server >= 0);
	p.tuple = tuple_of(p.server);
	close(listener);
	return p;
}

static void disconnect(struct pair *p)
{
	close(p->client);
	close(p->server);
}

/* Something is sent; does it come within @ms? What was held before comes first. */
static bool arrives(int from, int to, int ms)
{
	struct pollfd pfd = { .fd = to, .events = POLLIN };
	static uint8_t number;
	uint8_t c = ++number;

	assert_int_equal(send(from, &c, 1, 0), 1);
	while (poll(&pfd, 1, ms) == 1 && recv(to, &c, 1, 0) == 1)
		if (c == number)
			return true;
	return false;
}

static bool passes(const struct pair *p)
{
	return arrives(p->client, p->server, 3000) && arrives(p->server, p->client, 3000);
}

static bool is_held(const struct pair *p)
{
	return !arrives(p->client, p->server, 50) && !arrives(p->server, p->client, 50);
}

static bool table_is_there(void)
{
	struct nft *nft = NULL;
	struct env e;
	bool owned;
	int r;

	env_init(&e);
	ok(&e, nft_open(&e.op, &nft));
	r = netlock_nft_find(&e.op, nft, TABLE, &owned);
	assert_true(r >= 0);
	nft_close(nft);
	env_done(&e);
	return r == 0;
}

static void remove_table(void)
{
	struct nft *nft = NULL;
	struct env e;

	env_init(&e);
	ok(&e, nft_open(&e.op, &nft));
	assert_true(netlock_nft_remove(&e.op, nft, TABLE) >= 0);
	nft_close(nft);
	env_done(&e);
}

static char *output_of(const char *command)
{
	FILE *f = popen(command, "r");
	char *text = calloc(1, 4 << 20);

	assert_non_null(f);
	text[fread(text, 1, (4 << 20) - 1, f)] = 0;
	pclose(f);
	return text;
}

static bool have(const char *program)
{
	char command[256];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	return system(command) == 0;
}

/* ----------------------------------------------------------------------------------------------- what is held */

static void test_holds(void **state)
{
	static const int families[] = { AF_INET, AF_INET6 };
	const uint32_t mark = NETLOCK_MARK;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct pair p = connected(families[i]), other = connected(families[i]), third = connected(families[i]);
		struct netlock_tuple v[2] = { p.tuple, third.tuple };
		struct netlock *l = NULL;
		struct env e;

		env_init(&e);
		ok(&e, netlock_take(&e.op, &e.s, v, 2, &l));
		assert_non_null(l);
		assert_int_equal(e.inventory.network_lock_method, NETLOCK_NFTABLES);
		assert_true(is_held(&p));
		assert_true(is_held(&third));
		assert_true(passes(&other));
		/* What carries the mark passes. */
		assert_int_equal(setsockopt(third.client, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
		assert_int_equal(setsockopt(third.server, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
		assert_true(arrives(third.client, third.server, 3000));
		netlock_release(&e.op, &l);
		assert_null(l);
		netlock_release(&e.op, &l);
		assert_false(table_is_there());
		assert_true(passes(&p));
		disconnect(&p);
		disconnect(&other);
		disconnect(&third);
		env_done(&e);
	}
}

/* Their packets are those of IPv4. */
static void test_mapped(void **state)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6 };
	int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof(a);
	struct netlock *l = NULL;
	struct pair p;
	struct env e;

	(void)state;
	env_init(&e);
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &a.sin6_addr);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &n), 0);
	p.client = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p.client, (struct sockaddr *)&a, n), 0);
	p.server = accept(listener, NULL, NULL);
	p.tuple = tuple_of(p.server);
	p.tuple.family = AF_INET;
	p.tuple.local.v4.s_addr = p.tuple.peer.v4.s_addr = htonl(INADDR_LOOPBACK);
	ok(&e, netlock_take(&e.op, &e.s, &p.tuple, 1, &l));
	assert_true(is_held(&p));
	netlock_release(&e.op, &l);
	assert_true(passes(&p));
	disconnect(&p);
	close(listener);
	env_done(&e);
}

static void test_nothing_to_hold(void **state)
{
	struct pair p = connected(AF_INET);
	struct netlock *l;
	struct env e;

	(void)state;
	env_init(&e);
	ok(&e, netlock_take(&e.op, &e.s, NULL, 0, &l));
	assert_null(l);
	ok(&e, netlock_keep(&e.op, l));
	netlock_release(&e.op, &l);
	ok(&e, netlock_adopt(&e.op, &e.s, NULL, 0, &l));
	assert_null(l);
	netlock_done(&e.op, &l, true);
	e.opts.network_lock = CKPT_LOCK_SKIP;
	ok(&e, netlock_take(&e.op, &e.s, &p.tuple, 1, &l));
	assert_null(l);
	assert_int_equal(e.inventory.network_lock_method, NETLOCK_SKIP);
	ok(&e, netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l));
	assert_null(l);
	assert_true(passes(&p));
	disconnect(&p);
	env_done(&e);
}

/* ------------------------------------------------------------------------------------------- what stays, what goes */

enum life { TAKEN, KEPT, KEPT_AND_GUARDED, KEPT_AND_ENDING };

/* A process that makes a lock, and is killed when it says so; returns when it, and its guardian, are gone. */
static void killed_engine(const struct pair *p, enum life life, pid_t tree, enum ckpt_network_lock method)
{
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct guardian g = GUARDIAN_INIT;
		struct netlock *l = NULL;
		struct env e;
		int r = 0;

		env_init(&e);
		e.opts.network_lock = method;
		if (life >= KEPT_AND_GUARDED) {
			r = guardian_start(&e.op, &g, ready[1]); /* end of file comes with its end */
			e.s.guardian = &g;
		}
		r = r ?: netlock_take(&e.op, &e.s, &p->tuple, 1, &l);
		if (life >= KEPT)
			r = r ?: netlock_keep(&e.op, l);
		if (life == KEPT_AND_ENDING)
			guardian_note_end(&g, tree);
		if (r || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	if (life == KEPT_AND_ENDING)
		kill(tree, SIGKILL);
	assert_true(is_held(p));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(read(ready[0], &c, 1), 0);
	close(ready[0]);
}

static void test_vanishes_with_its_owner(void **state)
{
	struct pair p = connected(AF_INET6);

	(void)state;
	killed_engine(&p, TAKEN, 0, CKPT_LOCK_AUTO);
	assert_false(table_is_there());
	assert_true(passes(&p));
	disconnect(&p);
}

static void test_kept(void **state)
{
	struct pair p = connected(AF_INET);
	struct netlock *l = NULL;
	char *before, *after;
	struct env e;

	(void)state;
	env_init(&e);
	killed_engine(&p, KEPT, 0, CKPT_LOCK_AUTO);
	assert_true(table_is_there());
	assert_true(is_held(&p));
	before = output_of("nft list ruleset 2>/dev/null");
	msg_set(&e.inventory, network_lock_method, NETLOCK_NFTABLES);
	/* A restore that fails leaves it exactly as it was. */
	ok(&e, netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l));
	netlock_done(&e.op, &l, false);
	assert_true(is_held(&p));
	after = output_of("nft list ruleset 2>/dev/null");
	assert_string_equal(before, after);
	/* One that wants no connection (--tcp-close) ends it all the same. */
	ok(&e, netlock_adopt(&e.op, &e.s, NULL, 0, &l));
	netlock_done(&e.op, &l, false);
	assert_true(table_is_there());
	ok(&e, netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l));
	netlock_done(&e.op, &l, true);
	assert_false(table_is_there());
	assert_true(passes(&p));
	killed_engine(&p, KEPT, 0, CKPT_LOCK_AUTO);
	ok(&e, netlock_adopt(&e.op, &e.s, NULL, 0, &l));
	netlock_done(&e.op, &l, true);
	assert_false(table_is_there());
	free(before);
	free(after);
	disconnect(&p);
	env_done(&e);
}

/* On another host, or after a reboot. */
static void test_adopt_makes_one(void **state)
{
	struct pair p = connected(AF_INET);
	struct netlock *l = NULL, *second = NULL;
	struct env e, f;

	(void)state;
	env_init(&e);
	env_init(&f);
	msg_set(&e.inventory, network_lock_method, NETLOCK_NFTABLES);
	msg_set(&f.inventory, network_lock_method, NETLOCK_NFTABLES);
	for (int success = 0; success < 2; success++) {
		ok(&e, netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l));
		assert_true(is_held(&p));
		/* Not two restores of one checkpoint at once. */
		assert_int_equal(netlock_adopt(&f.op, &f.s, &p.tuple, 1, &second), CKPT_E_BUSY);
		assert_null(second);
		op_forget(&f.op);
		netlock_done(&e.op, &l, success);
		assert_false(table_is_there());
		assert_true(passes(&p));
	}
	disconnect(&p);
	env_done(&e);
	env_done(&f);
}

static void test_keep_then_fail(void **state)
{
	struct pair p = connected(AF_INET);
	struct netlock *l = NULL;
	struct env e;

	(void)state;
	env_init(&e);
	ok(&e, netlock_take(&e.op, &e.s, &p.tuple, 1, &l));
	ok(&e, netlock_keep(&e.op, l));
	assert_true(is_held(&p));
	/* The failure that led here is still the one that is told. */
	op_fail(&e.op, CKPT_E_NOSPACE, NULL, "the disk is full");
	netlock_release(&e.op, &l);
	assert_string_equal(ckpt_err_message(e.op.err), "the disk is full");
	assert_false(table_is_there());
	assert_true(passes(&p));
	disconnect(&p);
	env_done(&e);
}

/* Segments of nobody's, as fast as they go, from the peer's port to ours. */
static pid_t flood(const struct netlock_tuple *t)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct tcphdr h = { .source = htons(t->peer_port), .dest = htons(t->local_port), .doff = 5, .ack = 1 };
	pid_t pid = fork();
	int sk;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sk = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
		for (;;)
			sendto(sk, &h, sizeof(h), 0, (struct sockaddr *)&to, sizeof(to));
	}
	return pid;
}

static size_t flooded(int raw, const struct netlock_tuple *t)
{
	uint8_t packet[128];
	size_t n = 0;

	/* Behind the header of IPv4, without options. */
	while (recv(raw, packet, sizeof(packet), MSG_DONTWAIT) >= 40)
		n += ((struct tcphdr *)(void *)(packet + 20))->source == htons(t->peer_port);
	return n;
}

/* No packet slips through between the owned table and the one that stays. */
static void test_no_gap(void **state)
{
	struct netlock_tuple t = { .family = AF_INET, .local_port = 1, .peer_port = 2 };
	int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
	struct netlock *l = NULL;
	struct env e;
	pid_t pid;

	(void)state;
	env_init(&e);
	t.local.v4.s_addr = t.peer.v4.s_addr = htonl(INADDR_LOOPBACK);
	pid = flood(&t);
	usleep(20000);
	assert_true(flooded(raw, &t) > 100);
	for (int i = 0; i < 20; i++) {
		ok(&e, netlock_take(&e.op, &e.s, &t, 1, &l));
		usleep(1000);
		flooded(raw, &t);
		usleep(1000);
		ok(&e, netlock_keep(&e.op, l));
		usleep(1000);
		assert_int_equal(flooded(raw, &t), 0);
		netlock_release(&e.op, &l);
	}
	usleep(20000);
	assert_true(flooded(raw, &t) > 100);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(raw);
	env_done(&e);
}

/* ----------------------------------------------------------------------------------------------------- the guardian */

static pid_t sleeping(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	return pid;
}

static void test_guardian(void **state)
{
	struct pair p = connected(AF_INET);
	pid_t tree;

	(void)state;
	/* The tree lives: what was kept goes. */
	killed_engine(&p, KEPT_AND_GUARDED, 0, CKPT_LOCK_AUTO);
	assert_false(table_is_there());
	assert_true(passes(&p));
	/* It is being killed, and does end: the checkpoint is all that is left of it. */
	tree = sleeping();
	killed_engine(&p, KEPT_AND_ENDING, tree, CKPT_LOCK_AUTO);
	waitpid(tree, NULL, 0);
	assert_true(table_is_there());
	assert_true(is_held(&p));
	remove_table();
	assert_true(passes(&p));
	disconnect(&p);
}

static void repairing_engine(pid_t tree, int fd, int write_to)
{
	struct guardian g = GUARDIAN_INIT;
	int pidfd = (int)syscall(SYS_pidfd_open, tree, 0), copy, on = 1;
	struct env e;

	env_init(&e);
	copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (copy < 0 || guardian_start(&e.op, &g, write_to) || guardian_note_repair(&g, tree, fd, true) ||
	    guardian_note_repair(&g, tree, 1, false) || guardian_note_repair(&g, tree, 999, false) ||
	    setsockopt(copy, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) || write(write_to, "x", 1) != 1)
		_exit(1);
	pause();
}

/* Whoever has the descriptor notices nothing. */
static void test_repair(void **state)
{
	struct pair p = connected(AF_INET);
	socklen_t len = sizeof(int);
	int ready[2], v = 1;
	pid_t tree, engine;
	char c;

	(void)state;
	assert_int_equal(setsockopt(p.server, SOL_SOCKET, SO_REUSEADDR, &v, sizeof(v)), 0);
	tree = sleeping(); /* shares the socket with us */
	assert_int_equal(pipe(ready), 0);
	engine = fork();
	if (engine == 0)
		repairing_engine(tree, p.server, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(getsockopt(p.server, IPPROTO_TCP, TCP_REPAIR, &v, &len), 0);
	assert_int_equal(v, 1);
	kill(engine, SIGKILL);
	waitpid(engine, NULL, 0);
	assert_int_equal(read(ready[0], &c, 1), 0);
	close(ready[0]);
	assert_int_equal(getsockopt(p.server, IPPROTO_TCP, TCP_REPAIR, &v, &len), 0);
	assert_int_equal(v, 0);
	assert_int_equal(getsockopt(p.server, SOL_SOCKET, SO_REUSEADDR, &v, &len), 0);
	assert_int_equal(v, 1);
	assert_true(passes(&p));
	kill(tree, SIGKILL);
	waitpid(tree, NULL, 0);
	disconnect(&p);
}

/* --------------------------------------------------------------------------------------------- what belongs to others */

static void test_users_rules(void **state)
{
	struct pair p = connected(AF_INET);
	struct netlock *l = NULL;
	char *before, *during, *after;
	struct env e;

	(void)state;
	if (!have("nft"))
		skip();
	env_init(&e);
	assert_int_equal(system("nft -f - <<'END'\n"
				"table inet filter {\n"
				"	set s { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 } }\n"
				"	chain input { type filter hook input priority 0; policy accept; ip saddr @s counter drop; }\n"
				"	chain output { type filter hook output priority -400; policy accept; tcp dport 1 reject; }\n"
				"}\n"
				"table ip nat { chain post { type nat hook postrouting priority 100; tcp dport 2 masquerade; }\n}\nEND"), 0);
	before = output_of("nft list ruleset");
	assert_non_null(strstr(before, "masquerade"));
	ok(&e, netlock_take(&e.op, &e.s, &p.tuple, 1, &l));
	during = output_of("nft list table inet " TABLE);
	/* It can be read. */
	assert_non_null(strstr(during, "127.0.0.1 . "));
	assert_non_null(strstr(during, "type ipv4_addr . inet_service . ipv4_addr . inet_service"));
	assert_non_null(strstr(during, "ip daddr . tcp dport . ip saddr . tcp sport @conns4 drop"));
	assert_non_null(strstr(during, "ip6 saddr . tcp sport . ip6 daddr . tcp dport @conns6 drop"));
	assert_non_null(strstr(during, "0x0000c114 accept"));
	ok(&e, netlock_keep(&e.op, l));
	netlock_release(&e.op, &l);
	after = output_of("nft list ruleset");
	assert_string_equal(before, after);
	assert_int_equal(system("nft flush ruleset"), 0);
	free(before);
	free(during);
	free(after);
	disconnect(&p);
	env_done(&e);
}

static void test_iptables(void **state)
{
	static const char save[] = "iptables-save | grep -v '^[#:]'; ip6tables-save | grep -v '^[#:]'";
	struct pair p = connected(AF_INET), q = connected(AF_INET6);
	struct netlock_tuple v[2] = { p.tuple, q.tuple };
	struct netlock *l = NULL;
	char *before, *after;
	struct env e;

	(void)state;
	if (!have("iptables-restore") || !have("ip6tables-restore"))
		skip();
	env_init(&e);
	assert_int_equal(system("iptables -A INPUT -s 10.0.0.1 -j DROP && ip6tables -A OUTPUT -p tcp --dport 1 -j REJECT"), 0);
	before = output_of(save);
	e.opts.network_lock = CKPT_LOCK_IPTABLES;
	ok(&e, netlock_take(&e.op, &e.s, v, 2, &l));
	assert_int_equal(e.inventory.network_lock_method, NETLOCK_IPTABLES);
	assert_true(is_held(&p));
	assert_true(is_held(&q));
	ok(&e, netlock_keep(&e.op, l));
	/* The restore adopts them. */
	ok(&e, netlock_adopt(&e.op, &e.s, v, 2, &l));
	netlock_done(&e.op, &l, false);
	assert_true(is_held(&p));
	/* One is gone already. */
	assert_int_equal(system("iptables -D INPUT 1"), 0);
	ok(&e, netlock_adopt(&e.op, &e.s, v, 2, &l));
	netlock_done(&e.op, &l, true);
	assert_true(passes(&q));
	assert_int_equal(system("iptables -D OUTPUT 1"), 0); /* the other half of that one */
	assert_true(passes(&p));
	after = output_of(save);
	assert_string_equal(before, after);
	/* A killed engine's go by the guardian. */
	killed_engine(&p, KEPT_AND_GUARDED, 0, CKPT_LOCK_IPTABLES);
	assert_true(passes(&p));
	free(after);
	after = output_of(save);
	assert_string_equal(before, after);
	assert_int_equal(system("iptables -F && ip6tables -F"), 0);
	free(before);
	free(after);
	disconnect(&p);
	disconnect(&q);
	env_done(&e);
}

/* ------------------------------------------------------------------------------------------------------ bad days */

static void test_no_right(void **state)
{
	struct pair p = connected(AF_INET);
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0) {
		struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
		struct __user_cap_data_struct data[2] = { 0 };
		struct netlock *l = NULL;
		struct env e;

		env_init(&e);
		if (syscall(SYS_capset, &head, data) || netlock_take(&e.op, &e.s, &p.tuple, 1, &l) != CKPT_E_PERM || l ||
		    !strstr(ckpt_err_message(e.op.err), "CAP_NET_ADMIN") || !strstr(ckpt_err_hint(e.op.err), "--network-lock skip"))
			_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	disconnect(&p);
}

static void test_odd_inventory(void **state)
{
	static const char *const bad[] = { "", "x/../y", "a b", "0123456789012345678901234567890123456789012345678901234567890123456789" };
	struct pair p = connected(AF_INET);
	struct netlock *l = NULL;
	struct env e;

	(void)state;
	env_init(&e);
	msg_set(&e.inventory, network_lock_method, NETLOCK_NFTABLES);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		e.inventory.dump_criu_run_id = (char *)(uintptr_t)bad[i];
		assert_int_equal(netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l), CKPT_E_IMAGE);
		assert_null(l);
		op_forget(&e.op);
	}
	e.inventory.dump_criu_run_id = NULL; /* older images: the root's number stands for it */
	ok(&e, netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l));
	netlock_done(&e.op, &l, true);
	e.inventory.network_lock_method = 3;
	assert_int_equal(netlock_adopt(&e.op, &e.s, &p.tuple, 1, &l), CKPT_E_IMAGE);
	disconnect(&p);
	env_done(&e);
}

/* ---------------------------------------------------------------------------------- ckpt lock, ckpt unlock: by images */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void put_addr(int family, const void *addr, size_t *n, uint32_t **words)
{
	size_t len = family == AF_INET ? 4 : 16;

	*n = len / 4;
	*words = malloc(len);
	memcpy(*words, addr, len);
}

/* One (IPv4) that is not accepted yet. */
static void add_pending(struct env *e, struct img_dir *d, const struct netlock_tuple *t, bool damaged)
{
	CkptExtraEntry x = CKPT_EXTRA_ENTRY__INIT;
	InetSkExtra sk = INET_SK_EXTRA__INIT, *sks[] = { &sk };
	PendingConnection c = PENDING_CONNECTION__INIT, *cs[] = { &c };
	TcpStreamEntry stream = TCP_STREAM_ENTRY__INIT;
	struct sockaddr_in local = { .sin_family = AF_INET, .sin_addr = t->local.v4, .sin_port = htons(t->local_port) };
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_addr = t->peer.v4, .sin_port = htons(t->peer_port) };

	c.stream = &stream;
	c.local = (ProtobufCBinaryData){ sizeof(local), (uint8_t *)&local };
	c.peer = (ProtobufCBinaryData){ sizeof(peer) - damaged, (uint8_t *)&peer };
	sk.id = 1;
	sk.n_pending = 1;
	sk.pending = cs;
	x.version = (char *)(uintptr_t)"test";
	x.n_inet_sockets = 1;
	x.inet_sockets = sks;
	ok(e, img_write_one(&e->op, d, IMG_EXTRA, 0, &x.base));
}

/*
 * A checkpoint with the sockets of @v, connected, one that listens, and one not accepted yet. @words: what is wrong with addresses,
 * if not 0: how many words they have.
 */
static void make_images(char *dir, const struct netlock_tuple *v, size_t n, const struct netlock_tuple *pending, size_t words)
{
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	struct img_dir *d = NULL;
	struct img_out *out;
	struct env e;

	strcpy(dir, "/tmp/test-netlock-XXXXXX");
	assert_non_null(mkdtemp(dir));
	env_init(&e);
	e.opts.images_dir = dir;
	ok(&e, img_dir_create(&e.op, &d));
	ok(&e, img_create(&e.op, d, IMG_FILES, 0, &out));
	for (size_t i = 0; i <= n; i++) {
		FileEntry f = FILE_ENTRY__INIT;
		InetSkEntry m = INET_SK_ENTRY__INIT;
		FownEntry fown = FOWN_ENTRY__INIT;
		SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
		const struct netlock_tuple *t = &v[i < n ? i : 0];

		m.id = f.id = (uint32_t)i + 1;
		m.family = (uint32_t)t->family;
		m.type = SOCK_STREAM;
		m.proto = IPPROTO_TCP;
		m.state = i < n ? 1 : 10;
		m.src_port = t->local_port;
		m.dst_port = i < n ? t->peer_port : 0;
		m.fown = &fown;
		m.opts = &opts;
		put_addr(t->family, &t->local, &m.n_src_addr, &m.src_addr);
		put_addr(t->family, &t->peer, &m.n_dst_addr, &m.dst_addr);
		if (words)
			m.n_dst_addr = words;
		f.type = FD_TYPES__INETSK;
		f.isk = &m;
		ok(&e, img_write(&e.op, out, &f.base));
		free(m.src_addr);
		free(m.dst_addr);
	}
	ok(&e, img_close(&e.op, out));
	if (pending)
		add_pending(&e, d, pending, words);
	e.inventory.img_version = 2;
	msg_set(&e.inventory, fdinfo_per_id, 1);
	msg_set(&e.inventory, root_cg_set, 1);
	msg_set(&e.inventory, network_lock_method, NETLOCK_NFTABLES);
	e.inventory.root_ids = &ids;
	ok(&e, img_dir_commit(&e.op, d, &e.inventory));
	img_dir_close(d);
	env_done(&e);
}

static void count_lock(void *arg, const struct ckpt_lock_info *lock)
{
	int *seen = arg;

	assert_string_equal(lock->id, RUN_ID);
	seen[lock->in_use]++;
}

static void test_by_images(void **state)
{
	struct pair p = connected(AF_INET), q = connected(AF_INET6), third = connected(AF_INET);
	struct netlock_tuple v[2] = { p.tuple, q.tuple };
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	int seen[2] = { 0 };
	struct netlock *l = NULL;
	struct ckpt_ctx *ctx;
	uint64_t n = 0;
	char dir[64];
	struct env e;

	(void)state;
	env_init(&e);
	make_images(dir, v, 2, &third.tuple, 0);
	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	opts.images_dir = dir;
	assert_int_equal(ckpt_unlock(ctx, &opts, NULL, NULL), 1);
	assert_int_equal(ckpt_locks(ctx, count_lock, seen, NULL), 0);
	assert_int_equal(ckpt_lock(ctx, &opts, &n, NULL), 0);
	assert_int_equal(n, 3);
	assert_true(is_held(&p));
	assert_true(is_held(&q));
	assert_true(is_held(&third));
	assert_int_equal(ckpt_lock(ctx, &opts, &n, NULL), 1);
	assert_int_equal(ckpt_locks(ctx, count_lock, seen, NULL), 1);
	assert_int_equal(seen[0], 1);
	assert_int_equal(ckpt_unlock(ctx, &opts, NULL, NULL), 0);
	assert_int_equal(ckpt_unlock(ctx, &opts, NULL, NULL), 1);
	assert_true(passes(&p));
	assert_true(passes(&q));
	/* By its id; a restore takes it over. */
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, NULL), 0);
	assert_int_equal(ckpt_unlock(ctx, NULL, RUN_ID, NULL), 0);
	assert_int_equal(ckpt_unlock(ctx, NULL, RUN_ID, NULL), 1);
	assert_int_equal(ckpt_unlock(ctx, NULL, "x", NULL), CKPT_E_INVAL);
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, NULL), 0);
	for (uint32_t method = NETLOCK_IPTABLES; method <= NETLOCK_SKIP; method++) {
		msg_set(&e.inventory, network_lock_method, method);
		ok(&e, netlock_adopt(&e.op, &e.s, v, 2, &l));
		netlock_done(&e.op, &l, false);
		assert_true(is_held(&q));
	}
	ok(&e, netlock_adopt(&e.op, &e.s, v, 2, &l));
	netlock_done(&e.op, &l, true);
	assert_true(passes(&p));
	/* Somebody is at work with it. */
	ok(&e, netlock_take(&e.op, &e.s, v, 2, &l));
	assert_int_equal(ckpt_unlock(ctx, &opts, NULL, NULL), CKPT_E_BUSY);
	assert_int_equal(ckpt_unlock(ctx, NULL, RUN_ID, NULL), CKPT_E_BUSY);
	assert_int_equal(ckpt_locks(ctx, count_lock, seen, NULL), 1);
	assert_int_equal(seen[1], 1);
	assert_true(is_held(&p));
	netlock_release(&e.op, &l);
	ckpt_ctx_free(ctx);
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	disconnect(&p);
	disconnect(&q);
	disconnect(&third);
	env_done(&e);
}

static void test_odd_images(void **state)
{
	struct pair p = connected(AF_INET);
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err;
	struct ckpt_ctx *ctx;
	char dir[64];

	(void)state;
	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	opts.images_dir = dir;
	make_images(dir, &p.tuple, 0, &p.tuple, 4);
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, NULL), CKPT_E_IMAGE);
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	make_images(dir, &p.tuple, 1, NULL, 4);
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, NULL), CKPT_E_IMAGE);
	assert_int_equal(ckpt_unlock(ctx, &opts, NULL, NULL), CKPT_E_IMAGE);
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	make_images(dir, &p.tuple, 0, NULL, 0);
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, &err), CKPT_E_INVAL);
	assert_non_null(strstr(ckpt_err_message(err), "no TCP connections"));
	ckpt_err_free(err);
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	assert_int_equal(ckpt_lock(ctx, &opts, NULL, NULL), CKPT_E_SYS);
	assert_false(table_is_there());
	ckpt_ctx_free(ctx);
	disconnect(&p);
}

/* --------------------------------------------------------------------------------------------------------- many */

static void test_many(void **state)
{
	struct netlock_tuple *v = calloc(MANY, sizeof(*v));
	uint64_t at[4];
	struct netlock *l = NULL;
	struct env e;

	(void)state;
	env_init(&e);
	for (size_t i = 0; i < MANY; i++) {
		v[i] = (struct netlock_tuple){ .family = i % 2 ? AF_INET6 : AF_INET, .local_port = 80, .peer_port = (uint16_t)(1024 + i) };
		v[i].local.v6 = v[i].peer.v6 = in6addr_loopback;
	}
	at[0] = now_ns();
	ok(&e, netlock_take(&e.op, &e.s, v, MANY, &l));
	at[1] = now_ns();
	ok(&e, netlock_keep(&e.op, l));
	at[2] = now_ns();
	netlock_release(&e.op, &l);
	at[3] = now_ns();
	print_message("%d connections: take %u us, keep %u us, release %u us\n", MANY, (unsigned)(at[1] - at[0]) / 1000,
		      (unsigned)(at[2] - at[1]) / 1000, (unsigned)(at[3] - at[2]) / 1000);
	assert_true(at[3] - at[0] < 3000000000ull);
	assert_false(table_is_there());
	free(v);
	env_done(&e);
}

/* --------------------------------------------------------------------------------------------------- the builder */

/* Every length in @b is right: of messages, attributes, and those within. Counts elements of sets. */
static size_t walk(const uint8_t *at, size_t n, unsigned depth)
{
	size_t elems = 0;

	while (n) {
		const struct nlattr *a = (const struct nlattr *)(const void *)at;
		size_t len = NLA_ALIGN(a->nla_len);

		assert_true(n >= sizeof(*a) && a->nla_len >= sizeof(*a) && len <= n);
		if (a->nla_type & NLA_F_NESTED) {
			elems += depth == 1 && (a->nla_type & NLA_TYPE_MASK) == NFTA_LIST_ELEM;
			elems += walk(at + NLA_HDRLEN, len - NLA_HDRLEN, depth + 1);
		}
		at += len;
		n -= len;
	}
	return elems;
}

static void test_builder_chunks(void **state)
{
	struct nft_batch b = NFT_BATCH_INIT;
	const struct nlmsghdr *h;
	size_t n, elems = 0, messages = 0;
	uint8_t key[40] = { 0 };
	const uint8_t *bytes;

	(void)state;
	nft_elems_begin(&b, NFPROTO_INET, "t", "s");
	for (uint32_t i = 0; i < 20000; i++) {
		memcpy(key, &i, sizeof(i));
		nft_elem(&b, key, sizeof(key));
	}
	nft_elems_end(&b);
	bytes = nft_batch_bytes(&b, &n);
	assert_non_null(bytes);
	for (size_t at = 0; at < n; at += h->nlmsg_len) {
		h = (const struct nlmsghdr *)(const void *)(bytes + at);
		assert_true(h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nfgenmsg)) && h->nlmsg_len <= n - at && h->nlmsg_len % 4 == 0);
		assert_int_equal(h->nlmsg_seq, messages++);
		elems += walk(bytes + at + NLMSG_LENGTH(sizeof(struct nfgenmsg)), h->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg)), 0);
	}
	assert_int_equal(elems, 20000);
	assert_true(messages > 10);
	/* Asked for twice, it is the same. */
	assert_ptr_equal(nft_batch_bytes(&b, &n), bytes);
	nft_batch_free(&b);
}

/* As a batch of libnftables has it. */
static void test_builder_bytes(void **state)
{
	static const uint8_t expected[] = {
		20, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, /* begin; of subsystem 10 */
		28, 0, 0, 0, 2, 10, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, /* delete a table, inet */
		6, 0, 1, 0, 't', 0, 0, 0,
		60, 0, 0, 0, 6, 10, 5, 12, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, /* rule: create, append, acknowledge */
		6, 0, 1, 0, 't', 0, 0, 0, 6, 0, 2, 0, 'c', 0, 0, 0,
		24, 0, 4, 128, 20, 0, 1, 128, 12, 0, 1, 0, 'c', 'o', 'u', 'n', 't', 'e', 'r', 0, 4, 0, 2, 128,
		20, 0, 0, 0, 17, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10,
	};
	struct nft_batch b = NFT_BATCH_INIT;
	const uint8_t *bytes;
	size_t n;

	(void)state;
	nft_table_del(&b, NFPROTO_INET, "t");
	nft_rule_begin(&b, NFPROTO_INET, "t", "c");
	nft_counter(&b);
	nft_rule_end(&b);
	bytes = nft_batch_bytes(&b, &n);
	assert_int_equal(n, sizeof(expected));
	assert_memory_equal(bytes, expected, n);
	nft_batch_free(&b);
}

static void test_builder_errors(void **state)
{
	static uint8_t big[70000];
	char name[NFT_NAME_MAXLEN + 1];
	struct nft_batch b = NFT_BATCH_INIT;
	struct nft *nft = NULL;
	struct env e;
	size_t n;

	(void)state;
	env_init(&e);
	ok(&e, nft_open(&e.op, &nft));
	ok(&e, nft_commit(&e.op, nft, &b)); /* nothing is nothing */
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	nft_table_add(&b, NFPROTO_INET, name, 0);
	assert_null(nft_batch_bytes(&b, &n));
	assert_int_equal(errno, ENAMETOOLONG);
	assert_int_equal(nft_commit(&e.op, nft, &b), CKPT_E_SYS);
	op_forget(&e.op);
	nft_batch_free(&b);
	nft_rule_begin(&b, NFPROTO_INET, "t", "c");
	nft_immediate(&b, NFT_REG32_00, big, sizeof(big));
	nft_rule_end(&b);
	assert_null(nft_batch_bytes(&b, &n));
	nft_batch_free(&b);
	/* All or nothing. */
	nft_table_add(&b, NFPROTO_INET, TABLE, 0);
	nft_rule_begin(&b, NFPROTO_INET, TABLE, "nowhere");
	nft_verdict(&b, NF_DROP);
	nft_rule_end(&b);
	assert_int_equal(nft_commit(&e.op, nft, &b), ENOENT);
	assert_false(table_is_there());
	nft_batch_free(&b);
	nft_close(nft);
	env_done(&e);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_builder_bytes),
		cmocka_unit_test(test_builder_chunks),
		cmocka_unit_test(test_builder_errors),
		cmocka_unit_test(test_holds),
		cmocka_unit_test(test_mapped),
		cmocka_unit_test(test_nothing_to_hold),
		cmocka_unit_test(test_vanishes_with_its_owner),
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_adopt_makes_one),
		cmocka_unit_test(test_keep_then_fail),
		cmocka_unit_test(test_no_gap),
		cmocka_unit_test(test_guardian),
		cmocka_unit_test(test_repair),
		cmocka_unit_test(test_users_rules),
		cmocka_unit_test(test_iptables),
		cmocka_unit_test(test_no_right),
		cmocka_unit_test(test_odd_inventory),
		cmocka_unit_test(test_by_images),
		cmocka_unit_test(test_odd_images),
		cmocka_unit_test(test_many),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	own_namespace();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
