// SPDX-License-Identifier: MIT
/* Properties that cannot be put back (yet): a dump must refuse each by name and leave the program as it was. */
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

static void trap(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGTRAP);
	sigprocmask(SIG_BLOCK, &s, NULL);
	raise(SIGTRAP);
	t_wait();
	CHECK(!sigpending(&s) && sigismember(&s, SIGTRAP));
}

static int to_unshare;
static pthread_barrier_t unshared;

static void *with_its_own(void *arg)
{
	(void)arg;
	CHECK(!unshare(to_unshare));
	pthread_barrier_wait(&unshared);
	pthread_barrier_wait(&unshared);
	return NULL;
}

static void thread_with(int what)
{
	pthread_t t;

	to_unshare = what;
	pthread_barrier_init(&unshared, NULL, 2);
	CHECK(!pthread_create(&t, NULL, with_its_own, NULL));
	pthread_barrier_wait(&unshared);
	t_wait();
	pthread_barrier_wait(&unshared);
	CHECK(!pthread_join(t, NULL));
}

static void ownfiles(void) { thread_with(CLONE_FILES); }
static void ownfs(void) { thread_with(CLONE_FS); }
static void ownuts(void) { thread_with(CLONE_NEWUTS); }

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		 { "trap", trap }, { "ownfiles", ownfiles }, { "ownfs", ownfs }, { "ownuts", ownuts },
	};

	T_RUN(variants, t_init(argc, argv));
}
