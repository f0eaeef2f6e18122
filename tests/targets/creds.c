// SPDX-License-Identifier: MIT
/* Credentials: user and group ids of all four sorts, groups, capability sets, ambient ones, securebits, no_new_privs. */
#include "target.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

struct caps {
	struct __user_cap_data_struct d[2];
};

static struct caps caps_get(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct caps c;

	CHECK(!syscall(SYS_capget, &h, c.d));
	return c;
}

static void caps_set(const struct caps *c)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };

	CHECK(!syscall(SYS_capset, &h, c->d));
}

static void root_only(void)
{
	if (geteuid())
		SKIP("needs root");
}

static void check_ids(uid_t u, gid_t g)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;

	CHECK(!getresuid(&r, &e, &s) && r == u && e == u + 1 && s == u + 2);
	CHECK(!getresgid(&gr, &ge, &gs) && gr == g && ge == g + 1 && gs == g + 2);
	CHECK(setfsuid(-1) == (int)u + 1 && setfsgid(-1) == (int)g + 1);
}

static void ids(void)
{
	gid_t groups[] = { 7, 70000, 33 }, now[8];

	root_only();
	CHECK(!setgroups(3, groups));
	CHECK(!setresgid(2000, 2001, 2002) && !setresuid(1000, 1001, 1002));
	t_wait();
	check_ids(1000, 2000);
	CHECK(getgroups(8, now) == 3);
	for (int i = 0; i < 3; i++) { /* the kernel keeps them sorted */
		bool found = false;

		for (int k = 0; k < 3; k++)
			found |= now[k] == groups[i];
		CHECK(found);
	}
	CHECK(setuid(0) < 0 && errno == EPERM);
}

static void fsids(void)
{
	root_only();
	setfsgid(4444), setfsuid(3333);
	t_wait();
	CHECK(setfsuid(-1) == 3333 && setfsgid(-1) == 4444 && geteuid() == 0);
}

static void nogroups(void)
{
	root_only();
	CHECK(!setgroups(0, NULL));
	t_wait();
	CHECK(getgroups(0, NULL) == 0);
}

static void caps(void)
{
	struct caps c, now;

	root_only();
	c = caps_get();
	CHECK(!prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) && !prctl(PR_CAPBSET_DROP, CAP_WAKE_ALARM));
	c.d[0].effective = 1u << CAP_NET_ADMIN | 1u << CAP_KILL;
	c.d[1].effective = 0;
	c.d[0].permitted = c.d[0].effective | 1u << CAP_CHOWN;
	c.d[1].permitted = 1u << (CAP_SYSLOG - 32);
	c.d[0].inheritable = 1u << CAP_NET_RAW & c.d[0].permitted;
	c.d[1].inheritable = 1u << (CAP_SYSLOG - 32);
	caps_set(&c);
	t_wait();
	now = caps_get();
	CHECK(!memcmp(&now, &c, sizeof(now)));
	CHECK(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE) == 0 && prctl(PR_CAPBSET_READ, CAP_WAKE_ALARM) == 0);
	CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1);
}

static void ambient(void)
{
	struct caps c;

	root_only();
	c = caps_get();
	c.d[0].inheritable = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_SYS_NICE;
	c.d[1].inheritable = 0;
	caps_set(&c);
	CHECK(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
	t_wait();
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0) == 1);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_SYS_NICE, 0, 0) == 0);
}

static void securebits(void)
{
	root_only();
	CHECK(!prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NOROOT));
	t_wait();
	CHECK(prctl(PR_GET_SECUREBITS) == (SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NOROOT));
}

static void nnp(void)
{
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	t_wait();
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
}

/* Ids of threads may differ where they were set with raw system calls. */
static pthread_barrier_t bar;

static void *other(void *arg)
{
	uid_t r, e, s;

	(void)arg;
	CHECK(!syscall(SYS_setresgid, 2100, 2101, 2102) && !syscall(SYS_setresuid, 1100, 1101, 1102));
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	CHECK(!getresuid(&r, &e, &s) && r == 1100 && e == 1101 && s == 1102);
	check_ids(1100, 2100);
	return NULL;
}

static void threads(void)
{
	pthread_t t;

	root_only();
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, other, NULL));
	pthread_barrier_wait(&bar);
	t_wait();
	CHECK(getuid() == 0);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "ids", ids }, { "fsids", fsids }, { "nogroups", nogroups }, { "caps", caps }, { "ambient", ambient },
		{ "securebits", securebits }, { "nnp", nnp }, { "threads", threads },
	};

	T_RUN(variants, t_init(argc, argv));
}
