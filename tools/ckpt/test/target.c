// SPDX-License-Identifier: MIT
/* A program for the tests of the command line: says in a file which signals came. TERM: exit 7. USR2: ends it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void say(const char *what)
{
	if (write(3, what, strlen(what)) < 0)
		_exit(9);
}

static void on_signal(int sig)
{
	switch (sig) {
	case SIGTERM:
		say("TERM\n");
		_exit(7);
	case SIGINT:
		say("INT\n");
		break;
	case SIGUSR1:
		say("USR1\n");
		break;
	case SIGCONT:
		say("CONT\n");
		break;
	}
}

int main(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGUSR1, SIGCONT };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_signal);
	say("ready\n");
	for (;;)
		pause();
}
