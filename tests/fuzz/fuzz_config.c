/* SPDX-License-Identifier: MIT */
/* Any bytes as a configuration file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/front/config.h"
#include "tests/fuzz/fuzz.h"

#define MUST(cond) ((cond) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const skip[] = { "tree", NULL };
	int fd = memfd_create("config", MFD_CLOEXEC);
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct config config = { 0 };
	char path[64], *wrong;

	MUST(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (config_read(&config, path, &wrong) == 0) {
		MUST(!wrong);
		for (int i = 0; i < config.n; i++)
			MUST(strncmp(config.words[i], "--", 2) == 0);
		if (config_apply(&config, CKPT_FOR_DUMP | CKPT_FOR_RESTORE, skip, &opts, &wrong) != 0)
			MUST(wrong && *wrong);
	}
	free(wrong);
	ckpt_opts_clear(&opts);
	config_clear(&config);
	close(fd);
	return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const char *const seeds[] = {
		"# all of it\ntcp-established\n\tlog-file \"a \\\"b\\\"\" # c\nghost-limit=4M\nno-shell-job\nexternal mnt[/x]:y\nexternal \"\"\n",
		"verbosity 4\nmanage-cgroups\nmanage-cgroups=full\next-unix-sk=1,2\ncompress\next-unix\ntree 5\n", "x \"", "stream\n",
	};
	size_t n = i < sizeof(seeds) / sizeof(seeds[0]) ? strlen(seeds[i]) : 0;

	if (n && n <= cap)
		memcpy(buf, seeds[i], n);
	return n <= cap ? n : 0;
}
