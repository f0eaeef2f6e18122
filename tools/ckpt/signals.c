// SPDX-License-Identifier: MIT
/* A signal that asks us to end, cancels: the library undoes what it did, so that the tree is unharmed. */
#include <signal.h>

#include "cli.h"

/* A handler has no argument but the number of the signal. */
static struct ckpt_ctx *volatile running;
static volatile sig_atomic_t came;

static void on_signal(int sig)
{
	came = sig;
	ckpt_cancel(running);
}

void cancel_on_signals(struct ckpt_ctx *ctx)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;

	running = ctx;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&act.sa_mask, signals[i]);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &act, NULL);
}

int cancel_signal(void)
{
	return came;
}
