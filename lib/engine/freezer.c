/* SPDX-License-Identifier: MIT */
#include "lib/engine/freezer.h"

#include <fcntl.h>
#include <poll.h>

#define PATIENCE_MS 1000 /* for tasks that are in the kernel and cannot be frozen at once: they are caught by the stop */

static int write_state(const struct freezer *f, bool frozen)
{
	const char *text = f->v2 ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED");

	return pwrite(f->fd, text, strlen(text), 0) == (ssize_t)strlen(text) ? 0 : -1;
}

static bool reads(int fd, const char *word)
{
	char text[256];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return strstr(text, word) != NULL;
}

/* v2 tells when all of them stand still; v1 has no such event, and what still moves is caught by the stop. */
static void await_frozen(int dir)
{
	_cleanup_close_ int events = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	uint64_t until = now_ns() + PATIENCE_MS * 1000000ull;

	while (events >= 0 && !reads(events, "frozen 1") && now_ns() < until) {
		struct pollfd p = { .fd = events, .events = POLLPRI };

		poll(&p, 1, 50);
	}
}

int freezer_freeze(struct op *op, struct freezer *f)
{
	const char *path = op->opts->freeze_cgroup;
	_cleanup_close_ int dir = -1;

	*f = (struct freezer)FREEZER_INIT;
	if (!path || !*path)
		return 0;
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup %s", path);
	f->fd = openat(dir, "cgroup.freeze", O_RDWR | O_CLOEXEC);
	f->v2 = f->fd >= 0;
	if (f->fd < 0)
		f->fd = openat(dir, "freezer.state", O_RDWR | O_CLOEXEC);
	if (f->fd < 0)
		return op_fail(op, CKPT_E_INVAL,
			       AT(.kind = "cgroup", .hint = "name a folder of the v1 freezer hierarchy, or of v2 (not its root)"),
			       "%s is no cgroup that can be frozen", path);
	f->was_frozen = reads(f->fd, f->v2 ? "1" : "FROZEN");
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
	close_fd_p(&f->fd);
	f->fd = -1;
}
