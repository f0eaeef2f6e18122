/* SPDX-License-Identifier: MIT */
#include "lib/engine/room.h"

#include <fcntl.h>

#include "lib/kernel/proc/read.h"

/* The files of either version, and the line of memory.stat that says how much can be taken back without harm. */
struct dialect {
	const char *limits[2], *usage, *reclaimable;
};
static const struct dialect v1 = { { "memory.limit_in_bytes" }, "memory.usage_in_bytes", "total_inactive_file " };
static const struct dialect v2 = { { "memory.max", "memory.high" }, "memory.current", "inactive_file " };

static ssize_t read_text(const char *dir, const char *file, char *buf, size_t n)
{
	char path[4096];
	_cleanup_close_ int fd = -1;
	ssize_t got;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, file) >= sizeof(path))
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, buf, n - 1);
	buf[got > 0 ? got : 0] = '\0';
	return got;
}

/* UINT64_MAX for "max", and where there is no such file. */
static uint64_t read_number(const char *dir, const char *file)
{
	char text[64], *end;
	uint64_t v;

	if (read_text(dir, file, text, sizeof(text)) <= 0)
		return UINT64_MAX;
	v = strtoull(text, &end, 10);
	return end == text ? UINT64_MAX : v;
}

static uint64_t read_line(const char *dir, const char *file, const char *key)
{
	char path[4096], line[256];
	uint64_t v = 0;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, file) >= sizeof(path))
		return 0;
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			v = strtoull(line + strcspn(line, "0123456789"), NULL, 10);
	return v;
}

/* One level: its limit less what is in use. */
static uint64_t room_in(const struct dialect *dialect, const char *dir)
{
	uint64_t limit = read_number(dir, dialect->limits[0]), used = read_number(dir, dialect->usage);

	if (dialect->limits[1])
		limit = MIN(limit, read_number(dir, dialect->limits[1]));
	if (limit == UINT64_MAX || used == UINT64_MAX)
		return UINT64_MAX;
	used -= MIN(used, read_line(dir, "memory.stat", dialect->reclaimable));
	return limit - MIN(limit, used);
}

/* All levels from @path, below the mount point, up to the root of the hierarchy. */
static int check_levels(struct op *op, const struct dialect *dialect, const struct proc_mount *m, const char *path,
			uint64_t bytes, const char **why)
{
	char *dir;

	if (strcmp(m->root, "/") && !strncmp(path, m->root, strlen(m->root)))
		path += strlen(m->root);
	dir = arena_printf(op->arena, "%s%s", m->mountpoint, path);
	if (!dir)
		return op_nomem(op);
	while (strlen(dir) >= strlen(m->mountpoint)) {
		uint64_t room = room_in(dialect, dir);

		if (room < bytes) {
			*why = arena_printf(op->arena, "its memory cgroup %s has room for %lu MiB more, and copies of its pages could take %lu MiB",
					    dir, room >> 20, bytes >> 20);
			return *why ? 0 : op_nomem(op);
		}
		*strrchr(dir, '/') = '\0';
	}
	return 0;
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += n)
		if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ','))
			return true;
	return false;
}

static int check_cgroups(struct op *op, struct room *room, pid_t pid, uint64_t bytes, const char **why)
{
	struct proc_cgroups groups = { 0 };
	size_t len;
	char *text;
	int r = 0;

	if (proc_read_file(op, pid, "cgroup", &text, &len) || (!room->mounts.v.n && proc_read_mountinfo(op, getpid(), &room->mounts))) {
		op_forget(op);
		return 0;
	}
	if ((room->groups && !strcmp(room->groups, text)) || proc_parse_cgroup(op->arena, text, len, &groups) < 0)
		return 0;
	room->groups = text;
	for (size_t i = 0; i < room->mounts.v.n && !r && !*why; i++) {
		const struct proc_mount *m = &room->mounts.v.v[i];
		bool unified = !strcmp(m->fstype, "cgroup2");

		if (!unified && (strcmp(m->fstype, "cgroup") || !has_word(m->sb_options, "memory")))
			continue;
		for (size_t k = 0; k < groups.v.n && !r && !*why; k++) {
			const struct proc_cgroup *g = &groups.v.v[k];

			if (unified ? g->hierarchy == 0 : has_word(g->controllers, "memory"))
				r = check_levels(op, unified ? &v2 : &v1, m, g->path, bytes, why);
		}
	}
	return r;
}

int room_check(struct op *op, struct room *room, pid_t pid, uint64_t bytes, const char **why)
{
	uint64_t available = room->machine ? 0 : read_line("/proc", "meminfo", "MemAvailable:") << 10;

	*why = NULL;
	room->machine = true;
	if (available && available < bytes) {
		*why = arena_printf(op->arena, "%lu MiB of memory are available, and copies of its pages could take %lu MiB",
				    available >> 20, bytes >> 20);
		return *why ? 0 : op_nomem(op);
	}
	return check_cgroups(op, room, pid, bytes, why);
}
