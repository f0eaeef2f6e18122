/* SPDX-License-Identifier: MIT */
/*
 * What the mover writes counts as the task's: a limit that its cgroup has on writing would make the tree stand still for longer
 * than copying does, which is ours. Looked for in the usual places; a limit elsewhere only makes the dump slower.
 */
#include <fcntl.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/mem/move.h"

#define PATH_BYTES 4096

static bool has_text(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char c;

	return fd >= 0 && read(fd, &c, 1) == 1;
}

/* Whether @file says something in the group @at below @root, or in one above it. @at is cut short. */
static bool limited_in(const char *root, char *at, const char *file)
{
	char path[PATH_BYTES];
	char *slash;

	for (;;) {
		if (snprintf(path, sizeof(path), "%s%s/%s", root, at, file) < (int)sizeof(path) && has_text(path))
			return true;
		slash = strrchr(at, '/');
		if (!slash)
			return false;
		*slash = 0;
	}
}

static bool is_controller(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

/* A line of /proc/PID/cgroup, "4:blkio,x:/a/b" or "0::/a/b". */
static bool limited_by(const char *line)
{
	static const struct {
		const char *controller, *root, *file;
	} places[] = {
		{ "", "/sys/fs/cgroup", "io.max" },
		{ "", "/sys/fs/cgroup/unified", "io.max" },
		{ "blkio", "/sys/fs/cgroup/blkio", "blkio.throttle.write_bps_device" },
		{ "blkio", "/sys/fs/cgroup/blkio", "blkio.throttle.write_iops_device" },
	};
	char list[256], group[PATH_BYTES];

	if (sscanf(line, "%*d:%255[^:]:%4095s", list, group) != 2) {
		list[0] = 0;
		if (sscanf(line, "%*d::%4095s", group) != 1)
			return false;
	}
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char at[PATH_BYTES];

		if (is_controller(list, places[i].controller) && limited_in(places[i].root, strcpy(at, group), places[i].file))
			return true;
	}
	return false;
}

bool move_is_limited(struct op *op, pid_t pid)
{
	char *text, *save = NULL;
	size_t len;

	if (proc_read_file(op, pid, "cgroup", &text, &len) != 0) {
		op_forget(op);
		return false;
	}
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (limited_by(line))
			return true;
	return false;
}
