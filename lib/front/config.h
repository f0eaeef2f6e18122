/* SPDX-License-Identifier: MIT */
/*
 * Configuration files: an option a line, its long name without dashes, an argument after blanks or '=', "quoted" where it holds
 * blanks, # for comments. For programs on top of the library: like all of this folder it knows the public header only.
 */
#ifndef CKPT_FRONT_CONFIG_H
#define CKPT_FRONT_CONFIG_H

#include "ckpt/ckpt.h"
#include "lib/base/base.h"

/* The words of files, "--name" or "--name=value" each; ended by NULL. They have to live as long as options made of them. */
struct config {
	char **words;
	int n;
};

/*
 * Appends the words of the file at @path, which may be missing. Returns 0, or -1 with what is wrong in *@wrong: free(3) it; NULL
 * where there was no memory.
 */
int config_read(struct config *config, const char *path, char **wrong);
/* Says what is wrong, in that way; always -1. */
int config_wrong(char **wrong, const char *fmt, ...) PRINTF_LIKE(2, 3);
void config_clear(struct config *config);

/*
 * Sets the options of @config in @opts from the library's table; those that mean nothing to commands of @for_flag (CKPT_FOR_*) are
 * passed over, and so are those of which @skip (may be NULL; a list that NULL ends) has the name: options that only a command
 * line has. Returns as config_read().
 */
int config_apply(const struct config *config, unsigned for_flag, const char *const *skip, struct ckpt_opts *opts, char **wrong);

#endif
