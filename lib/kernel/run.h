/* SPDX-License-Identifier: MIT */
/* Running a program of the system, where nothing else will do. */
#ifndef CKPT_KERNEL_RUN_H
#define CKPT_KERNEL_RUN_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Runs @argv[0] with @input as its standard input, standard output and errors going to descriptor @out (-1: nowhere), with no
 * other descriptor of ours, an empty environment, and no signal blocked. Nobody else's wait or SIGCHLD handler sees it. Also in
 * a child of a program with threads: it makes system calls only. Its exit status, 128 + the signal that ended it, or -1.
 */
int run_program(char *const argv[], const void *input, size_t n, int out);

/*
 * Runs the program of somebody else at @path (one without a slash is searched for, as shells do) without arguments, in the
 * environment @envp, with nothing to read, our standard output and errors, no other descriptor of ours, and no signal blocked, in
 * the namespaces @ns (descriptors; -1: ours). It is killed when @stop says so, or if we end. Returns as run_program().
 */
typedef bool (*run_stop_fn)(void *arg);
int run_script(const char *path, char *const envp[], const int ns[], size_t n, run_stop_fn stop, void *arg);

#endif
