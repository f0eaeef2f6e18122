/* SPDX-License-Identifier: MIT */
/*
 * With --leave-running the tree stands still only while its state is collected and its memory is put out of its reach: a little
 * memory into a place of ours, much of it into a copy-on-write twin of its process. From then on pages are read from there. Where
 * that cannot be, the tree stands still until all is written, and that is said.
 *
 * Properties of areas come from smaps, which walks all page tables: tens of ms a GiB. So it is read before the tree is stopped,
 * to see what stands in the way, and again from the twin when the tree runs, to be exact.
 */
#include "lib/engine/dump_parts.h"
#include "lib/engine/room.h"
#include "lib/state/file/file.h"
#include "lib/state/mem/copy.h"
#include "lib/state/mem/mem.h"

#define LARGE_KB (32u << 10)	     /* from here on reading smaps takes about a millisecond and more */
#define SMALL_TREE (16ull << 20)	     /* copied at once, which takes about as long as two twins */
#define SMALL_TASK (1ull << 20)
#define ROOM_BYTES (32ull << 20)     /* of ours, in all */
#define ROOM_BYTES_TASK (128ull << 10) /* and for each task */
#define PAGE_TABLE_SHARE 512

/* ------------------------------------------------------------------------------------- properties of areas */

static int look_at(struct op *op, struct dump *d, pid_t pid)
{
	struct area_look *look;
	struct proc_status st;
	struct proc_stat stat;
	int r = proc_read_status(op, pid, &st);

	if (r || st.vm_rss_kb < LARGE_KB)
		return r;
	r = proc_read_stat(op, pid, &stat);
	if (r)
		return r;
	look = ARRAY_ADD(op->arena, &d->looks);
	if (!look)
		return op_nomem(op);
	*look = (struct area_look){ .pid = pid, .starttime = stat.starttime };
	return proc_read_smaps(op, pid, &look->maps);
}

/* A tree that runs: whoever ends or is born meanwhile is met later. */
int snapshot_look(struct op *op, struct dump *d)
{
	ARRAY(pid_t) pids = { 0 };
	pid_t *slot = op->opts->leave_running ? ARRAY_ADD(op->arena, &pids) : NULL;
	int r = 0;

	if (!op->opts->leave_running)
		return 0;
	if (!slot)
		return op_nomem(op);
	*slot = d->pid;
	for (size_t i = 0; i < pids.n && r >= 0; i++) {
		struct proc_numbers children = { 0 };

		r = look_at(op, d, pids.v[i]);
		r = r < 0 ? r : proc_list_children(op, pids.v[i], &children);
		for (size_t k = 0; k < children.v.n && r >= 0; k++) {
			slot = ARRAY_ADD(op->arena, &pids);
			if (!slot)
				return op_nomem(op);
			*slot = children.v.v[k];
		}
		r = r < 0 ? r : op_check_cancel(op);
	}
	return r < 0 ? r : 0;
}

static const struct area_look *seen_before(const struct dump *d, const struct dump_task *t)
{
	for (size_t i = 0; i < d->looks.n; i++)
		if (d->looks.v[i].pid == t->pid && d->looks.v[i].starttime == t->stat.starttime)
			return &d->looks.v[i];
	return NULL;
}

static bool same_area(const struct proc_vma *a, const struct proc_vma *b)
{
	return a->start == b->start && a->end == b->end && a->pgoff == b->pgoff && a->inode == b->inode &&
	       a->dev_major == b->dev_major && a->dev_minor == b->dev_minor && !memcmp(a->perms, b->perms, sizeof(a->perms)) &&
	       !strcmp(a->name, b->name);
}

/* How large the pages of private huge memory are, only smaps tells. It is quick there: few pages. */
static bool has_huge_memory(const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->vmas.n; i++)
		if (!strncmp(maps->vmas.v[i].name, "/anon_hugepage", 14))
			return true;
	return false;
}

/*
 * Pages that a lazy restore has not brought yet are not there to be saved. Once all are in, that cannot be seen any more: so it
 * is asked while the task stands still, wherever it was so before.
 */
static bool lacks_pages(const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->vmas.n; i++)
		if (maps->vmas.v[i].vmflags & VMF_UM)
			return true;
	return false;
}

static void take_flags(struct proc_maps *maps, const struct proc_maps *old)
{
	size_t k = 0;

	for (size_t i = 0; i < maps->vmas.n; i++) {
		struct proc_vma *v = &maps->vmas.v[i];

		while (k < old->vmas.n && old->vmas.v[k].start < v->start)
			k++;
		if (k == old->vmas.n || !same_area(v, &old->vmas.v[k]))
			continue;
		v->vmflags = old->vmas.v[k].vmflags;
		v->has_vmflags = true;
		v->protection_key = old->vmas.v[k].protection_key;
	}
}

int snapshot_areas(struct op *op, const struct dump *d, struct dump_task *t)
{
	const struct area_look *look = seen_before(d, t);
	struct proc_status st = { 0 };
	int r = look ? proc_read_status(op, t->pid, &st) : 0;

	/* A copied address space is not locked. */
	if (!r && look && !st.vm_locked_kb) {
		r = proc_read_maps(op, t->pid, &t->maps);
		t->td.flags_later = !r && !has_huge_memory(&t->maps) && !lacks_pages(&look->maps);
	}
	if (t->td.flags_later) {
		take_flags(&t->maps, &look->maps);
	} else if (!r) {
		t->maps = (struct proc_maps){ 0 };
		r = proc_read_smaps(op, t->pid, &t->maps);
	}
	return r > 0 ? op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "process %d ended meanwhile", t->pid) : r;
}

static int complete_flags(struct op *op, struct dump_task *t, pid_t from)
{
	struct proc_maps full = { 0 };
	int r;

	if (!t->td.flags_later)
		return 0;
	r = proc_read_smaps(op, from, &full);
	if (r > 0)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "process %d, or its snapshot, ended meanwhile", t->pid);
	return r ?: vmas_set_flags(op, &t->td, &full);
}

int snapshot_complete(struct op *op, struct dump *d, struct dump_task *t)
{
	(void)d;
	return complete_flags(op, t, mem_target(&t->td)->pid);
}

/* --------------------------------------------------------------------------------------------- the snapshot */

/* What is private, and so goes to the image, as the kernel counts it. */
static int count_pages(struct op *op, struct dump *d, uint64_t *total)
{
	struct proc_status st;
	int r = 0;

	*total = 0;
	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		if (!owns(d, i, KOBJ_VM))
			continue;
		r = proc_read_status(op, d->tasks.v[i]->pid, &st);
		d->tasks.v[i]->private_bytes = r ? 0 : (st.rss_anon_kb + st.vm_swap_kb) << 10;
		*total += d->tasks.v[i]->private_bytes;
	}
	return r < 0 ? r : 0;
}

static bool to_be_kept(const struct dump *d, const struct dump_task *t, uint64_t total)
{
	if (t->td.flags_later)
		return false;
	return total <= SMALL_TREE || (t->private_bytes <= SMALL_TASK && t->private_bytes <= d->room.cap - d->room.used);
}

/* 0, TWIN_REFUSED (*@why says why), or a failure. */
static int copy_task(struct op *op, struct dump *d, struct dump_task *t, uint64_t total, const char **why)
{
	struct mem_copy *copy = op_new(op, struct mem_copy);
	int r = STASH_FULL;

	t->td.copy = copy;
	if (!copy)
		return CKPT_E_NOMEM;
	if (to_be_kept(d, t, total))
		r = mem_copy_fill(op, &t->td, &d->room, true);
	if (r != STASH_FULL)
		return r;
	copy->stash = (struct stash){ 0 };
	r = twin_make(op, &t->target, &t->parasite.g, d->guardian.journal, false, &copy->twin);
	*why = copy->twin.why;
	if (r)
		return r < 0 ? op_wrap(op, r, "snapshot of process %d", t->pid) : r;
	r = mem_copy_fill(op, &t->td, &d->room, false);
	if (r != STASH_FULL)
		return mem_copy_explain(op, &t->td, r);
	*why = "too much of its memory is not copied by a fork (MADV_DONTFORK, MADV_WIPEONFORK, huge pages)";
	return TWIN_REFUSED;
}

/* Copies of all pages may come to be made. They count in the cgroups of whoever has them. */
static int check_room(struct op *op, struct dump *d, uint64_t total, const char **why)
{
	struct room room = { 0 };
	uint64_t bytes = 0;
	int r = 0;

	for (size_t i = 0; i < d->tasks.n; i++)
		if (owns(d, i, KOBJ_VM) && !to_be_kept(d, d->tasks.v[i], total))
			bytes += d->tasks.v[i]->private_bytes + d->tasks.v[i]->private_bytes / PAGE_TABLE_SHARE;
	for (size_t i = 0; i < d->tasks.n && bytes && !r && !*why; i++)
		if (owns(d, i, KOBJ_VM))
			r = room_check(op, &room, d->tasks.v[i]->pid, bytes, why);
	return r;
}

static int copy_tree(struct op *op, struct dump *d, const char **why)
{
	uint64_t total;
	int r = count_pages(op, d, &total);

	if (!r && d->freezer.was_frozen)
		*why = "its cgroup is frozen";
	r = r ?: stash_room_make(op, &d->room, ROOM_BYTES + d->tasks.n * ROOM_BYTES_TASK);
	if (!r && !*why)
		r = check_room(op, d, total, why);
	for (size_t i = 0; i < d->tasks.n && !r && !*why; i++) {
		if (!owns(d, i, KOBJ_VM))
			continue;
		r = copy_task(op, d, d->tasks.v[i], total, why);
		if (r == TWIN_REFUSED)
			*why = arena_printf(op->arena, "process %d: %s", d->tasks.v[i]->pid, *why);
		r = r ?: op_check_cancel(op);
	}
	return r == TWIN_REFUSED ? (*why ? 0 : op_nomem(op)) : r;
}

int snapshot_take(struct op *op, struct dump *d)
{
	const char *why = NULL;
	int r = 0;

	if (!op->opts->leave_running)
		return 0;
	r = copy_tree(op, d, &why);
	if (r)
		return r;
	d->early = !why;
	if (d->early)
		return 0;
	log_warn(op, "the tree stands still until its memory is written: %s", why);
	snapshot_end(op, d);
	for (size_t i = 0; i < d->tasks.n && !r; i++)
		if (owns(d, i, KOBJ_VM))
			r = complete_flags(op, d->tasks.v[i], d->tasks.v[i]->pid);
	return r;
}

void snapshot_end(struct op *op, struct dump *d)
{
	for (size_t i = 0; i < d->tasks.n; i++) {
		struct dump_task *t = d->tasks.v[i];

		if (t->td.copy)
			twin_end(op, d->running ? NULL : &t->target, &t->td.copy->twin);
		t->td.copy = NULL;
	}
	stash_room_free(&d->room);
}
