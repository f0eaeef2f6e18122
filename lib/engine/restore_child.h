/* SPDX-License-Identifier: MIT */
/* The new process until it executes the restorer: what it goes by. It shares our memory. */
#ifndef CKPT_ENGINE_RESTORE_CHILD_H
#define CKPT_ENGINE_RESTORE_CHILD_H

#include "lib/state/ns/ns.h"

#define VISIT_STACK (128u << 10)
enum { GO = 'g', VISIT = 'v' }; /* bytes in the pipe that it waits on */

struct child {
	int go;		/* pipe: a byte comes when all below is filled in */
	int self_pidfd; /* of the engine */
	int inherit[2]; /* the plan, and a pidfd of us */
	int elf_fd;
	bool fixed_layout; /* the kernel is to look for free addresses from the very top: lib/state/mem/uring_area.c */
	const char *argv[6];
	int *err; /* why the restorer was not executed */
	const char **step;
	struct {
		int fd, flag;
	} join[NS_N]; /* namespaces that are there already, which it enters first of all */
	size_t n_join;
	bool in_user_ns;     /* has all capabilities, and is nobody there */
	int cgroup_ns;	     /* that it enters; -1: stays in ours */
	int init_pidfd;	     /* whose mount namespace it joins; -1: stays in ours */
	/* What it is asked to do before it goes: in a thread of its own, so that its credentials and folders stay as they are. */
	void (*visit)(void *arg);
	void *visit_arg;
	char *visit_stack;
	volatile pid_t visiting; /* the thread; 0 when it is gone */
	const char *timens;
	size_t timens_len;
	int timens_fd;	     /* its own /proc/PID/timens_offsets: it may have no /proc by then */
};

/* What runs in it: raw system calls on prepared data only. */
#define IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread")))

/* All of its life; @arg: its struct child. */
void restore_child_main(void *arg);

#endif
