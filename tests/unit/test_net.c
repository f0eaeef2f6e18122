/* SPDX-License-Identifier: MIT */
/*
 * Networks: one is set up with ip(8) and nft(8), saved, and made again from its images in a new namespace; what these programs then
 * tell of both must be the same. Needs root, and the programs (skipped otherwise). And images that lie.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/image/image.h"
#include "lib/state/msg.h"
#include "lib/state/net/core.h"

#define ID 10

struct env {
	char images[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	struct ns_state ns;
	struct snap_ns own;
	InventoryEntry inventory;
	CkptExtraEntry extra;
};

static void log_it(void *arg, enum ckpt_log_level level, const char *text)
{
	(void)arg;
	print_message("%d: %s\n", level, text);
}

/* A snapshot with one network namespace, @fd, and nothing else. */
static struct env *begin(const char *images, int fd)
{
	struct env *e = calloc(1, sizeof(*e));
	struct snap_ns **slot;

	snprintf(e->images, sizeof(e->images), "%s", images);
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->images;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats, .log = { log_it, NULL, CKPT_LOG_WARN } };
	inventory_entry__init(&e->inventory);
	e->inventory.plugins_entry = msg_new(&e->op, PluginsEntry, plugins_entry);
	ckpt_extra_entry__init(&e->extra);
	e->extra.version = (char *)(uintptr_t) "test";
	e->own = (struct snap_ns){ .kind = NS_NET, .id = ID, .fd = fd };
	slot = ARRAY_ADD(e->op.arena, &e->ns.v);
	*slot = &e->own;
	e->s = (struct snapshot){ .inventory = &e->inventory, .extra = &e->extra, .ns = &e->ns };
	return e;
}

static void end(struct env *e)
{
	net_done(&e->op, &e->s, true);
	img_dir_close(e->s.dir);
	op_forget(&e->op);
	arena_free(e->op.arena);
	free(e);
}

static void ok(struct env *e, int r)
{
	if (r)
		fail_msg("%d: %s", r, e->op.err ? ckpt_err_message(e->op.err) : "?");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* ------------------------------------------------------------------------------------------------- namespaces */

static int new_network(void)
{
	int old = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), fd;

	assert_int_equal(unshare(CLONE_NEWNET), 0);
	fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_int_equal(setns(old, CLONE_NEWNET), 0);
	close(old);
	return fd;
}

/* Runs @script in namespace @fd; what it says, to be freed. */
static char *shell(int fd, const char *script)
{
	char *out = NULL;
	size_t n = 0;
	int pipes[2], status;
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (!pid) {
		dup2(pipes[1], 1);
		close(pipes[0]);
		if (setns(fd, CLONE_NEWNET) == 0)
			execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
		_exit(99);
	}
	close(pipes[1]);
	do {
		out = realloc(out, n + 65536);
		got = read(pipes[0], out + n, 65535);
		n += got > 0 ? (size_t)got : 0;
	} while (got > 0);
	out[n] = 0;
	close(pipes[0]);
	waitpid(pid, &status, 0);
	if (status)
		fail_msg("'%s' ended with %#x: %s", script, status, out);
	return out;
}

static void need_tools(void)
{
	if (geteuid() != 0 || access("/usr/sbin/ip", X_OK) || access("/usr/sbin/nft", X_OK)) {
		print_message("needs root, ip and nft\n");
		skip();
	}
}

static void compare(int a, int b, const char *what)
{
	char *x = shell(a, what), *y = shell(b, what);

	char *save_x = NULL, *save_y = NULL, *p = x, *q = y;

	/* The kernel notices carriers, and makes addresses, a little later, in both. */
	for (int i = 0; i < 50 && strcmp(x, y); i++) {
		usleep(100000);
		free(x);
		free(y);
		p = x = shell(a, what);
		q = y = shell(b, what);
	}
	if (strcmp(x, y) == 0)
		p = q = NULL;
	for (bool first = true; p && q; first = false) { /* the first line that differs */
		p = strtok_r(first ? x : NULL, "\n", &save_x);
		q = strtok_r(first ? y : NULL, "\n", &save_y);
		if (!p || !q || strcmp(p, q))
			fail_msg("%s: before:\n%s\nafter:\n%s", what, p ?: "", q ?: "");
	}
	free(x);
	free(y);
}

/* What is compared; counters and times are cut off. */
static const char *const told[] = {
	"ip -d link | sed 's/ @[^:]*//; s/link-netnsid [0-9-]*//; s/timer *[0-9.]*//g; /bridge/s/designated_[a-z]* [^ ]*//g; "
	"s/tso_max_[a-z]* [0-9]*//g; s/\\(gc\\|hello\\|tcn\\|topology_change\\)_timer *[0-9.]*//g; s/^\\([0-9]*: [^@]*\\)@if[0-9]*/\\1/'",
	"ip addr | sed 's/ @[^:]*//; s/link-netnsid [0-9-]*//; s/^\\([0-9]*: [^@]*\\)@if[0-9]*/\\1/; s/timer *[0-9.]*//g; s/ tentative//'",
	"ip -d route show table all | sort",
	"ip -d -6 route show table all | sort",
	"ip rule; ip -6 rule",
	"ip nexthop",
	"ip neigh | sort",
	"nft list ruleset",
	"for f in '' 6; do ip${f}tables-legacy-save 2>/dev/null | grep -v ^# || :; done",
	"cd /proc/sys/net; for f in $(find ipv4/conf ipv6/conf unix core -type f -perm -600 | sort) ipv4/ping_group_range ipv4/ip_forward "
	"ipv4/ip_unprivileged_port_start; do echo $f $(cat $f 2>/dev/null); done",
};

/* Saves network @from, and makes it again; its descriptor. */
static int again(int from, void (*prepare)(struct env *e), struct env **made)
{
	char images[] = "/tmp/test-net-XXXXXX";
	struct env *e;
	int to = new_network();

	assert_non_null(mkdtemp(images));
	e = begin(images, from);
	ok(e, img_dir_create(&e->op, &e->s.dir));
	ok(e, net_dump(&e->op, &e->s));
	ok(e, net_write(&e->op, &e->s));
	ok(e, img_write_one(&e->op, e->s.dir, IMG_EXTRA, 0, &e->extra.base));
	end(e);

	e = begin(images, to);
	if (prepare)
		prepare(e);
	ok(e, img_dir_open_any(&e->op, &e->s.dir));
	ok(e, img_read_one(&e->op, e->s.dir, IMG_EXTRA, 0, (ProtobufCMessage **)&e->s.extra));
	ok(e, net_read(&e->op, &e->s));
	ok(e, net_make(&e->op, &e->s));
	if (made)
		*made = e;
	else
		end(e);
	nftw(images, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	return to;
}

static void round_trip(const char *setup)
{
	int from, to;

	need_tools();
	from = new_network();
	free(shell(from, setup));
	to = again(from, NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(told); i++)
		compare(from, to, told[i]);
	close(from);
	close(to);
}

static void test_nothing(void **state)
{
	(void)state;
	round_trip(":");
}

static void test_loopback(void **state)
{
	(void)state;
	round_trip("ip link set lo up; ip addr add 10.1.1.1/32 dev lo; ip addr add fd00::1/128 dev lo; ip addr del 127.0.0.1/8 dev lo; "
		   "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.core.somaxconn=77 net.unix.max_dgram_qlen=99 "
		   "net.ipv4.ip_unprivileged_port_start=80 net.ipv4.conf.lo.rp_filter=2 net.ipv6.conf.default.hop_limit=33; "
		   "sysctl -qw 'net.ipv4.ping_group_range=0 100'");
}

static void test_pair(void **state)
{
	(void)state;
	round_trip("ip link set lo up; ip link add va address 02:00:00:00:00:01 mtu 1400 type veth peer name vb index 77; ip link set va up alias hey; "
		   "ip link set vb up txqueuelen 333; ip link property add dev va altname some-long-name-of-a-device; "
		   "ip addr add 10.0.0.1/24 dev va; ip addr add 10.0.0.2/24 dev va label va:1; ip addr add 10.9.0.1 peer 10.9.0.2/32 dev vb; "
		   "ip -6 addr add fd01::1/64 dev va nodad; ip -6 addr add fd02::1/64 dev vb valid_lft forever preferred_lft 0; "
		   "ip route add default via 10.0.0.9 dev va; ip route add 10.5.0.0/16 via 10.4.0.1 dev va onlink metric 7; "
		   "ip route add 10.6.0.0/16 nexthop via 10.0.0.7 weight 2 nexthop dev vb weight 3; ip route add blackhole 10.7.0.0/16; "
		   "ip route add 10.8.0.0/16 via 10.0.0.8 table 100 src 10.0.0.2; ip -6 route add default via fd01::9; "
		   "ip -6 route add fd05::/16 via fe80::5 dev vb; ip -6 route add fd06::/16 dev vb table 200 metric 9; "
		   "ip nexthop add id 5 via 10.0.0.5 dev va; ip nexthop add id 6 dev vb; ip nexthop add id 7 group 5/6; ip route add 10.11.0.0/16 nhid 7; "
		   "ip rule add from 10.0.0.2 lookup 100 pref 500; ip -6 rule add fwmark 7 lookup 200; ip rule del lookup default; "
		   "ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:99 dev va; ip neigh add proxy 10.0.0.77 dev va; "
		   "sysctl -qw net.ipv4.conf.va.rp_filter=2 net.ipv6.conf.vb.accept_ra=2 net.ipv4.conf.va.accept_redirects=0; sleep 0.1");
}

static void test_no_ipv6(void **state)
{
	(void)state;
	round_trip("ip link add va type veth peer name vb; sysctl -qw net.ipv6.conf.va.disable_ipv6=1; ip link set va up; ip link set vb addrgenmode none; "
		   "ip link set vb up; ip addr add 10.0.0.1/24 dev va");
}

static void test_kinds(void **state)
{
	(void)state;
	round_trip("ip link set lo up; ip link add br0 type bridge stp_state 0 ageing_time 1234 mcast_snooping 0; "
		   "ip link add vp type veth peer name vq; ip link set vp master br0; bridge link set dev vp hairpin on cost 33; ip link set br0 up; "
		   "ip link set vp up; ip link set vq up; ip addr add 10.0.0.1/24 dev br0; "
		   "ip link add mv link vq type macvlan mode bridge; ip link set mv up; ip addr add 10.0.0.3/24 dev mv; "
		   "ip link add vx type vxlan id 5 remote 10.0.0.7 dev br0 dstport 4789; ip link set vx up; "
		   "ip link add ifb7 type ifb; ip tuntap add tap0 mode tap user 7; ip link set tap0 up; ip tuntap add tun0 mode tun multi_queue; sleep 0.1");
}

static void test_nftables(void **state)
{
	(void)state;
	round_trip("nft -f - <<'E'\n"
		   "table inet t {\n"
		   " counter c1 { packets 3 bytes 7 }\n quota q1 { over 10 mbytes }\n"
		   " set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0-192.168.3.7, 1.2.3.4 } }\n"
		   " set s6 { type ipv6_addr . inet_service; elements = { fd00::1 . 80, fd00::2 . 443 } }\n"
		   " set dyn { type ipv4_addr; size 128; flags dynamic,timeout; timeout 1h; }\n"
		   " map m { type inet_service : verdict; elements = { 22 : jump ssh, 80 : accept } }\n"
		   " map names { type ipv4_addr : mark; elements = { 1.1.1.1 : 5, 2.2.2.2 : 6 } }\n"
		   " chain ssh { counter name \"c1\" accept comment \"hello\"; }\n"
		   " chain in { type filter hook input priority 0; policy drop; ct state established,related accept; ip saddr @s drop; "
		   "tcp dport vmap @m; tcp dport { 1000-2000, 3000 } accept; ip6 daddr . tcp dport @s6 accept; meta l4proto udp limit rate 5/second "
		   "accept; update @dyn { ip saddr }; log prefix \"x\" ; meta mark set ip saddr map @names; jump { counter packets 5 bytes 6 accept; }; }\n"
		   "}\n"
		   "table ip nat { chain post { type nat hook postrouting priority srcnat; policy accept; oifname \"a*\" masquerade; }; }\n"
		   "table arp a { chain in { type filter hook input priority 0; policy accept; }; }\n"
		   "table ip sleeping { flags dormant; chain in { type filter hook input priority 0; policy drop; }; }\nE");
}

static void test_iptables(void **state)
{
	(void)state;
	if (access("/usr/sbin/iptables-legacy-save", X_OK) || access("/usr/sbin/iptables-nft", X_OK))
		skip();
	round_trip("iptables-legacy -A INPUT -p tcp --dport 22 -m comment --comment hello -j ACCEPT; iptables-legacy -N mine; "
		   "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -j mine; iptables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE; "
		   "ip6tables-legacy -P INPUT DROP; "
		   "iptables-nft -A OUTPUT -p tcp --dport 25 -m connlimit --connlimit-above 3 -j REJECT; iptables-nft -A OUTPUT ! -p udp -j LOG");
	/* nft list shows the second; the first: */
}

/* With a script as its argument: that one alone. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing),	 cmocka_unit_test(test_loopback), cmocka_unit_test(test_pair),	  cmocka_unit_test(test_no_ipv6),
		cmocka_unit_test(test_kinds),	 cmocka_unit_test(test_nftables), cmocka_unit_test(test_iptables),
	};

	if (argc > 1)
		return round_trip(argv[1]), 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
