/* SPDX-License-Identifier: MIT */
/*
 * The network lock as rules of iptables, for kernels or hosts that want it so: two for each connection, first of all in INPUT and
 * OUTPUT. The programs of iptables do it, all connections of a family in one run, which does all or nothing. What they made
 * nobody owns: the guardian, and unlock, have them removed rule by rule.
 */
#include <arpa/inet.h>
#include <unistd.h>

#include "lib/kernel/run.h"
#include "lib/kernel/sys.h"
#include "lib/state/sock/netlock/netlock_parts.h"

#define RULE_MAX 256
#define MAX_RUNS 32
#define TEXT_ADD 64 /* first and last line */

static const char *const folders[] = { "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin" };
static const char *const names[][2] = {
	{ "iptables-restore", "ip6tables-restore" },
	{ "iptables-nft-restore", "ip6tables-nft-restore" },
	{ "iptables-legacy-restore", "ip6tables-legacy-restore" },
};

int netlock_ipt_program(struct op *op, int family, char **path)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (size_t k = 0; k < ARRAY_SIZE(folders); k++) {
			*path = arena_printf(op->arena, "%s/%s", folders[k], names[i][family == AF_INET6]);
			if (!*path)
				return op_nomem(op);
			if (access(*path, X_OK) == 0)
				return 0;
		}
	return op_fail(op, CKPT_E_KERNEL,
		       AT(.kind = "network lock", .hint = "install iptables, or give --network-lock nftables, which needs no program"),
		       "there is no %s to lock TCP connections with", names[0][family == AF_INET6]);
}

static size_t add_rule(char *at, char how, const struct netlock_tuple *t, bool in)
{
	char local[INET6_ADDRSTRLEN], peer[INET6_ADDRSTRLEN];

	inet_ntop(t->family, &t->local, local, sizeof(local));
	inet_ntop(t->family, &t->peer, peer, sizeof(peer));
	return (size_t)snprintf(at, RULE_MAX, "-%c %s -s %s -d %s -p tcp -m mark ! --mark 0x%X -m tcp --sport %u --dport %u -j DROP\n", how,
				in ? "INPUT" : "OUTPUT", in ? peer : local, in ? local : peer, NETLOCK_MARK,
				in ? t->peer_port : t->local_port, in ? t->local_port : t->peer_port);
}

static char *text_of(struct op *op, int family, char how, const struct netlock_tuple *v, size_t n)
{
	size_t ours = 0, at;
	char *text;

	for (size_t i = 0; i < n; i++)
		ours += v[i].family == family;
	text = ours ? op_alloc(op, ours * 2 * RULE_MAX + TEXT_ADD) : NULL;
	if (!text)
		return NULL;
	at = (size_t)sprintf(text, "*filter\n");
	for (size_t k = 0; k < n; k++) {
		/* The last to come is the first in its chain: that way round each is found at once. */
		const struct netlock_tuple *t = &v[how == 'D' ? n - 1 - k : k];

		if (t->family != family)
			continue;
		at += add_rule(text + at, how, t, true);
		at += add_rule(text + at, how, t, false);
	}
	sprintf(text + at, "COMMIT\n");
	return text;
}

char *netlock_ipt_text(struct op *op, int family, bool add, const struct netlock_tuple *v, size_t n)
{
	return text_of(op, family, add ? 'I' : 'D', v, n);
}

/* Its exit status, and the first line of what it says. */
static int run(struct op *op, const char *program, const char *text, char *said, size_t size)
{
	char *const argv[] = { (char *)(uintptr_t)program, "--noflush", "--wait=10", NULL };
	_cleanup_close_ int out = sys_memfd_create("messages", MFD_CLOEXEC);
	int status = run_program(argv, text, strlen(text), out);
	ssize_t n = out < 0 ? 0 : pread(out, said, size - 1, 0);

	(void)op;
	said[n > 0 ? n : 0] = 0;
	said[strcspn(said, "\n")] = 0;
	return status;
}

static int run_family(struct op *op, int family, char how, const struct netlock_tuple *v, size_t n)
{
	char *text = text_of(op, family, how, v, n), *program, said[256];
	int status, r;

	if (!text)
		return op->err ? CKPT_E_NOMEM : 0;
	r = netlock_ipt_program(op, family, &program);
	if (r)
		return r;
	status = run(op, program, text, said, sizeof(said));
	if (!status)
		return 0;
	return op_fail(op, status == 4 || strstr(said, "ermission denied") ? CKPT_E_PERM : CKPT_E_KERNEL,
		       AT(.kind = "network lock", .hint = "it needs CAP_NET_ADMIN; or give --network-lock nftables or skip"),
		       "%s failed with status %d: %s", program, status, said);
}

int netlock_ipt_add(struct op *op, const struct netlock_tuple *v, size_t n)
{
	int r = run_family(op, AF_INET, 'I', v, n);

	if (r)
		return r;
	r = run_family(op, AF_INET6, 'I', v, n);
	if (r && run_family(op, AF_INET, 'D', v, n) != 0)
		log_warn(op, "rules of iptables for %zu connections could not be removed", n);
	return r;
}

/* All at once mostly works. Where some are gone, halves do, or halves of them: up to @budget runs. Returns how many are left. */
static size_t remove_some(struct op *op, int family, const struct netlock_tuple *v, size_t n, unsigned *budget)
{
	if (!n || !*budget)
		return n;
	--*budget;
	if (run_family(op, family, 'D', v, n) == 0)
		return 0;
	op_forget(op);
	if (n == 1)
		return 1;
	return remove_some(op, family, v, n / 2, budget) + remove_some(op, family, v + n / 2, n - n / 2, budget);
}

static size_t remove_family(struct op *op, int family, const struct netlock_tuple *v, size_t n)
{
	unsigned budget = MAX_RUNS;
	size_t ours = 0, left;

	for (size_t i = 0; i < n; i++)
		ours += v[i].family == family;
	if (!ours)
		return 0;
	left = remove_some(op, family, v, n, &budget);
	return MIN(ours, left);
}

size_t netlock_ipt_remove(struct op *op, const struct netlock_tuple *v, size_t n)
{
	struct ckpt_err *first = op->err;
	size_t left;

	op->err = NULL;
	left = remove_family(op, AF_INET, v, n) + remove_family(op, AF_INET6, v, n);
	if (left)
		log_info(op, "rules of iptables for %zu connections were not there, or could not be removed", left);
	op_forget(op);
	op->err = first;
	return left;
}
