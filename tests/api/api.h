/* SPDX-License-Identifier: MIT */
/* What the programs that test the library from outside have in common: a process that counts. */
#ifndef TESTS_API_H
#define TESTS_API_H

#include <ckpt/ckpt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77

/*
 * A child that counts in private memory (which survives only if its memory does) and shows the count in the file @path,
 * mapped shared. It has a session of its own and no descriptor: whoever runs the test may have leaked some into us.
 */
static inline pid_t start_counter(const char *path, useconds_t interval)
{
	volatile unsigned long mine = 0, *shown;
	pid_t pid = fork();
	FILE *f;

	if (pid != 0)
		return pid;
	close_range(3, ~0u, 0);
	f = fopen(path, "w+");
	setsid();
	if (!f || ftruncate(fileno(f), 4096) != 0)
		_exit(1);
	shown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
	if (shown == MAP_FAILED)
		_exit(1);
	close_range(0, ~0u, 0);
	for (;;) {
		*shown = ++mine;
		usleep(interval);
	}
}

/* What the child has shown last; 0 if nothing. */
static inline unsigned long counted(const char *path)
{
	unsigned long v = 0;
	FILE *f = fopen(path, "r");

	if (!f || fread(&v, sizeof(v), 1, f) != 1)
		v = 0;
	if (f)
		fclose(f);
	return v;
}

static inline void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Returns 0 or 1, to be added to the failures. */
static inline int remove_folder(const char *path)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", path);
	return system(cmd) != 0;
}

#endif
