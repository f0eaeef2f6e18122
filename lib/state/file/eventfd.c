/* SPDX-License-Identifier: MIT */
/*
 * eventfd. The counter shows in fdinfo. The format has no place for EFD_SEMAPHORE, so it goes to our own file beside the
 * images.
 */
#include <sys/eventfd.h>

#include "lib/state/file/core.h"

static bool eventfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventfd]") == 0;
}

/* "KEY:   VALUE" on a line of its own in the part of fdinfo that is the kind's. */
static bool field(const char *rest, const char *key, int base, uint64_t *value)
{
	const char *line = strstr(rest, key);
	char *end;

	if (!line || (line != rest && line[-1] != '\n'))
		return false;
	errno = 0;
	*value = strtoull(line + strlen(key), &end, base);
	return !errno && end != line + strlen(key) && (*end == '\n' || !*end);
}

static int note_semaphore(struct op *op, struct snapshot *s, uint32_t id)
{
	uint32_t *slot = ARRAY_ADD(op->arena, &s->file_state->semaphores);

	if (!slot)
		return op_nomem(op);
	*slot = id;
	return 0;
}

static int eventfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	EventfdFileEntry *m = op_new(op, EventfdFileEntry);
	const char *rest = arena_strndup(op->arena, v->info.rest ? v->info.rest : "", v->info.rest_len);
	uint64_t semaphore;

	if (!m || !rest)
		return op_nomem(op);
	eventfd_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->efd = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	if (!field(rest, "eventfd-count:", 16, &m->counter))
		return file_refuse(op, v, "eventfd", NULL, "the kernel does not show its counter");
	if (!field(rest, "eventfd-semaphore:", 10, &semaphore))
		return file_refuse(op, v, "eventfd", "a newer kernel does",
				   "the kernel does not show whether it is a semaphore (EFD_SEMAPHORE)");
	return semaphore ? note_semaphore(op, s, f->id) : 0;
}

static bool is_semaphore(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_eventfd_semaphores; i++)
		if (s->extra->eventfd_semaphores[i] == id)
			return true;
	return false;
}

static int eventfd_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const EventfdFileEntry *m = f->msg->efd;
	int flags = EFD_CLOEXEC | EFD_NONBLOCK | (is_semaphore(s, f->id) ? EFD_SEMAPHORE : 0);

	if (m->counter == UINT64_MAX)
		return image_bad(op, "files.img: eventfd id %u: the counter is impossible", f->id);
	f->fd = file_high(eventfd(0, flags));
	if (f->fd < 0 || (m->counter && write(f->fd, &m->counter, sizeof(m->counter)) != sizeof(m->counter)) ||
	    file_set_flags(f->fd, m->flags) < 0)
		return op_errno(op, errno, AT(.kind = "eventfd"), "cannot create eventfd id %u", f->id);
	return 0;
}

const struct file_kind file_eventfd = {
	.name = "eventfd",
	.type = FD_TYPES__EVENTFD,
	.message = offsetof(FileEntry, efd),
	.match = eventfd_match,
	.dump = eventfd_dump,
	.open = eventfd_open,
};
