/* SPDX-License-Identifier: MIT */
/*
 * Memory of the tree that processes outside have mapped, too: shared anonymous memory of a relative, memfds that were passed
 * on. A restored program would have a copy of its own, and neither side would notice that nobody writes to it any more: that is
 * refused. Not so what is sealed against writing, for a copy of that is as good. Descriptors are outside.c's. The dumping
 * process itself is not looked at: it may be a fork of the program.
 */
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

#ifndef F_SEAL_WRITE
#define F_SEAL_WRITE 0x8
#endif

struct look {
	struct snapshot *s;
	struct file_index objects; /* (dev, ino) -> struct snap_shmem */
	char *buf;
	size_t cap;
};

static int add_objects(struct op *op, struct look *l)
{
	int r = 0;

	for (size_t i = 0; i < l->s->shmems.n && !r; i++) {
		struct snap_shmem *sh = l->s->shmems.v[i];
		struct stat st;
		const char *key;

		if (sh->msg->seals & F_SEAL_WRITE || sh->fd < 0 || fstat(sh->fd, &st) < 0)
			continue;
		key = arena_printf(op->arena, "shmem[%lu]", (unsigned long)st.st_ino);
		if (!key)
			return op_nomem(op);
		if (!external_wanted(op, key))
			r = index_add(op, &l->objects, KEY(st.st_dev, st.st_ino), sh);
	}
	return r;
}

static bool in_tree(const struct snapshot *s, pid_t pid)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].host == pid)
			return true;
	return false;
}

static int refuse(struct op *op, const struct snap_shmem *sh, unsigned long ino, pid_t pid)
{
	const char *hint = arena_printf(op->arena, "checkpoint a tree that both are in; or let each have a memory of its own "
						   "afterwards, with --external shmem[%lu]", ino);
	struct proc_stat st;
	bool named = proc_read_stat(op, pid, &st) == 0;

	if (!named)
		op_forget(op);
	else if (st.ppid == getpid() && !strcmp(st.comm, "ckpt-guardian"))
		return 0; /* our own, and it has what we have: all of it, if we are a fork of the program (ckpt_dump_self) */
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = pid, .kind = "shared memory", .hint = hint),
		       "the shared memory %s (inode %lu, %lu bytes) is mapped by process %d (%s), too, which is outside the tree",
		       sh->msg->name, ino, (unsigned long)sh->msg->size, pid, named ? st.comm : "?");
}

/* "START-END PERMS OFFSET MAJOR:MINOR INODE NAME"; private mappings of it do not count. */
static const struct snap_shmem *object_of(const struct look *l, const char *line, unsigned long *ino)
{
	unsigned major, minor;
	char perms[5];

	if (sscanf(line, "%*x-%*x %4s %*x %x:%x %lu", perms, &major, &minor, ino) != 4 || !*ino || perms[3] != 's')
		return NULL;
	return index_find(&l->objects, KEY(makedev(major, minor), *ino));
}

/* Not the whole text at once: a process may have any number of areas, and most have none that is shared. */
static int look_at(struct op *op, struct look *l, pid_t pid)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	while (f && !r && getline(&l->buf, &l->cap, f) > 0) {
		unsigned long ino;
		const char *perms = strchr(l->buf, ' ');
		const struct snap_shmem *sh;

		if (!perms || strnlen(perms, 5) < 5 || perms[4] != 's')
			continue;
		sh = object_of(l, l->buf, &ino);
		r = sh ? refuse(op, sh, ino, pid) : 0;
	}
	return r;
}

int files_check_mapped(struct op *op, struct snapshot *s)
{
	struct look l = { .s = s };
	struct proc_numbers all = { 0 };
	int r = add_objects(op, &l);

	if (r || !l.objects.n)
		return r;
	r = proc_list_numbers(op, getpid(), "..", &all); /* /proc itself */
	for (size_t i = 0; i < all.v.n && !r; i++)
		if (all.v.v[i] != getpid() && !in_tree(s, all.v.v[i]))
			r = look_at(op, &l, all.v.v[i]) ?: op_check_cancel(op);
	free(l.buf);
	return MIN(r, 0);
}
