// SPDX-License-Identifier: MIT
/* What confines a program or is its own and can neither be read nor made again: a dump must refuse it. */
#include "target.h"

#include <grp.h>
#include <linux/landlock.h>

static void restrict_files(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK };
	int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (fd < 0)
		SKIP("no Landlock: %s", strerror(errno));
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!syscall(SYS_landlock_restrict_self, fd, 0) && !close(fd));
}

static void landlock(void)
{
	restrict_files();
	t_wait();
}

static void *restricted(void *arg)
{
	pthread_barrier_t *bar = arg;

	restrict_files();
	pthread_barrier_wait(bar);
	pthread_barrier_wait(bar);
	return NULL;
}

/* One thread only. */
static void landlockthread(void)
{
	pthread_barrier_t bar;
	pthread_t t;

	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, restricted, &bar));
	pthread_barrier_wait(&bar);
	t_wait();
	pthread_barrier_wait(&bar);
	CHECK(!pthread_join(t, NULL));
}

static void become_nobody(void)
{
	CHECK(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534) && !setresuid(65533, 65533, 65533));
}

static void landlockuser(void)
{
	become_nobody();
	restrict_files();
	t_wait();
}

/* Neither rights nor privileges, but no domain: nothing stands in the way. */
static void free_(void)
{
	become_nobody();
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	t_wait();
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && getuid() == 65533);
}

static void keyring(long which)
{
	char text[8] = "";
	long key = syscall(SYS_add_key, "user", "ckpt-test", "secret", 6ul, which);

	if (key < 0)
		SKIP("no keys: %s", strerror(errno));
	t_wait();
	CHECK(syscall(SYS_keyctl, 11 /* KEYCTL_READ */, key, text, sizeof(text)) == 6 && !strcmp(text, "secret"));
}

static void threadkeys(void)
{
	keyring(-1);
}

static void processkeys(void)
{
	keyring(-2);
}

/* A keyring with nothing in it is no loss. */
static void emptyring(void)
{
	if (syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -2, 1) < 0)
		SKIP("no keys: %s", strerror(errno));
	t_wait();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "landlock", landlock }, { "landlockthread", landlockthread }, { "landlockuser", landlockuser }, { "free", free_ },
		{ "threadkeys", threadkeys }, { "processkeys", processkeys }, { "emptyring", emptyring },
	};

	T_RUN(variants, t_init(argc, argv));
}
