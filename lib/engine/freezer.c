/* SPDX-License-Identifier: MIT */
#include "lib/engine/freezer.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>

#include "lib/state/cgroup/cgroup.h"

/* For tasks that are in the kernel and cannot be frozen at once: they are caught by the stop. */
#define PATIENCE_MS 200

static const char *word(const struct freezer *f, bool frozen)
{
	return f->v2 ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED");
}

static int write_state(const struct freezer *f, bool frozen)
{
	const char *text = word(f, frozen);

	return pwrite(f->fd, text, strlen(text), 0) == (ssize_t)strlen(text) ? 0 : -1;
}

static bool reads(int fd, const char *want)
{
	char text[256];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return strstr(text, want) != NULL;
}

static bool file_reads(int dir, const char *name, const char *want)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && reads(fd, want);
}

/* v2 tells when all of them stand still; v1 has no such event, and what still moves is caught by the stop. */
static void await_frozen(int dir)
{
	_cleanup_close_ int events = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	uint64_t until = now_ns() + PATIENCE_MS * 1000000ull, now;

	while (events >= 0 && !reads(events, "frozen 1") && (now = now_ns()) < until) {
		struct pollfd p = { .fd = events, .events = POLLPRI };

		poll(&p, 1, (int)((until - now) / 1000000) + 1);
	}
}

/* Frozen with one that it is in: that is not ours to thaw, and until then nobody stops. */
static bool is_frozen_above(const struct freezer *f, int dir)
{
	char path[512] = "";

	if (!f->v2)
		return file_reads(dir, "freezer.parent_freezing", "1");
	for (size_t n = 0; n + sizeof("../cgroup.freeze") < sizeof(path); n += 3) {
		memcpy(path + n, "../cgroup.freeze", sizeof("../cgroup.freeze"));
		if (faccessat(dir, path, F_OK, 0) < 0)
			return false; /* the root has none */
		if (file_reads(dir, path, "1"))
			return true;
	}
	return false;
}

static int open_state(struct op *op, struct freezer *f, int dir)
{
	f->fd = openat(dir, "cgroup.freeze", O_RDWR | O_CLOEXEC);
	f->v2 = f->fd >= 0;
	if (f->fd < 0)
		f->fd = openat(dir, "freezer.state", O_RDWR | O_CLOEXEC);
	if (f->fd >= 0)
		return 0;
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "cgroup", .hint = "name a folder of the v1 freezer hierarchy, or of v2 (not its root)"),
		       "%s is no cgroup that can be frozen", op->opts->freeze_cgroup);
}

static int check(struct op *op, struct snapshot *s, const struct freezer *f, int dir)
{
	const char *path = op->opts->freeze_cgroup;
	bool ours;
	int r = cgroups_contain_us(op, s, dir, &ours);

	if (!r && ours)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "cgroup", .hint = "start the checkpoint from another cgroup"),
			       "the process that checkpoints is in the cgroup %s itself, and would be frozen with it", path);
	if (!r && is_frozen_above(f, dir))
		return op_fail(op, CKPT_E_BUSY, AT(.kind = "cgroup", .hint = "thaw that first"),
			       "the cgroup %s is frozen with one that it is in", path);
	return r;
}

/* What the guardian is to do about it, before anything else and after it, should we be killed. */
static int tell_guardian(struct op *op, const struct freezer *f, bool thaw)
{
	char link[32], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", f->fd);
	n = thaw ? readlink(link, path, sizeof(path) - 1) : 0;
	path[MAX(n, 0)] = '\0';
	if (n >= 0 && guardian_note_freezer(f->guardian, path, word(f, false), f->was_frozen ? word(f, true) : "") == 0)
		return 0;
	return op_errno(op, errno, AT(.kind = "cgroup"), "tell the guardian of the cgroup %s", op->opts->freeze_cgroup);
}

int freezer_freeze(struct op *op, struct snapshot *s, const struct guardian *g, pid_t pid, struct freezer *f)
{
	const char *path = op->opts->freeze_cgroup;
	_cleanup_close_ int dir = -1;
	int r;

	*f = (struct freezer){ .fd = -1, .guardian = g };
	if (!path || !*path)
		return cgroups_check_running(op, s, pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup %s", path);
	r = open_state(op, f, dir);
	r = r ?: check(op, s, f, dir);
	if (r)
		return r;
	f->was_frozen = file_reads(dir, f->v2 ? "cgroup.freeze" : "freezer.self_freezing", "1");
	r = cgroups_note_freezer(op, s, f->was_frozen) ?: tell_guardian(op, f, true);
	if (r)
		return r;
	if (!f->was_frozen && write_state(f, true) < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "freeze the cgroup %s", path);
	f->frozen = true;
	if (f->v2)
		await_frozen(dir);
	return 0;
}

void freezer_thaw(struct op *op, struct freezer *f)
{
	if (!f->frozen)
		return;
	if (write_state(f, false) < 0)
		log_warn(op, "the cgroup %s cannot be thawed: %s", op->opts->freeze_cgroup, strerror(errno));
	f->frozen = false;
}

void freezer_done(struct op *op, struct freezer *f)
{
	freezer_thaw(op, f);
	if (f->fd >= 0 && f->was_frozen && write_state(f, true) < 0)
		log_warn(op, "the cgroup %s cannot be frozen again: %s", op->opts->freeze_cgroup, strerror(errno));
	if (f->fd >= 0)
		tell_guardian(op, f, false);
	close_fd_p(&f->fd);
	f->fd = -1;
}
