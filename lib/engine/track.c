/* SPDX-License-Identifier: MIT */
#include "lib/engine/track.h"

#include <time.h>

#include "lib/engine/dump_parts.h"
#include "lib/inject/uffd.h"
#include "lib/kernel/features.h"
#include "lib/state/mem/aio.h"
#include "lib/state/mem/uring_area.h"
#include "lib/state/msg.h"
#include "lib/state/ns/ns.h"

/* ---------------------------------------------------------------------------------------------- the parent */

/* As the format has it: other engines tell by it whether a process is younger than the parent. */
static void note_uptime(struct dump *d)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	msg_set(d->s.inventory, dump_uptime, (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000);
}

int track_open_parent(struct op *op, struct dump *d)
{
	const char *path = op->opts->prev_images_dir;
	struct img_parent p;
	int r;

	d->track.wanted = d->track.pre_dump || op->opts->track_mem;
	if (d->track.wanted && !feature_has(op->features, FEATURE_MEM_DIRTY_TRACK))
		return op_fail(op, CKPT_E_KERNEL, AT(.hint = "make full dumps"),
			       "this kernel cannot track memory: asynchronous write protection (userfaultfd) is missing");
	if (d->track.wanted || path)
		note_uptime(d);
	d->s.chain.dir = d->s.dir;
	if (!path)
		return 0;
	r = img_parent_open(op, d->s.dir, path, &p);
	if (r)
		return r;
	r = img_parent_link(op, d->s.dir, path, &p);
	img_dir_close(p.dir);
	r = r ?: chain_level(op, &d->s.chain, 0, &d->track.parent);
	if (!r && d->track.parent->run_id)
		d->s.extra->parent_run_id = (char *)d->track.parent->run_id;
	return r;
}

/* ------------------------------------------------------------------------------------------- who may be tracked */

/*
 * The kernel itself writes to memory that was handed to io_uring or AIO, by the page, whatever the page tables say. Where
 * a process has one of them every page counts as written.
 */
static int has_rings(struct op *op, pid_t pid, bool *ret)
{
	struct proc_numbers fds = { 0 };
	struct proc_maps maps = { 0 };
	char name[32], *link;
	int r = proc_read_maps(op, pid, &maps);

	*ret = false;
	for (size_t i = 0; !r && i < maps.vmas.n; i++)
		*ret = *ret || aio_is_ring(&maps.vmas.v[i]) || uring_is_ring(&maps.vmas.v[i]);
	r = r ?: proc_list_numbers(op, pid, "fd", &fds);
	for (size_t i = 0; !r && i < fds.v.n && !*ret; i++) {
		snprintf(name, sizeof(name), "fd/%d", fds.v.v[i]);
		r = proc_read_link(op, pid, name, &link);
		*ret = !r && !strcmp(link, "anon_inode:[io_uring]");
	}
	return r < 0 ? r : 0;
}

/* The descriptor that was kept for a task, or a new one where its memory is to be tracked from now on. */
static int task_uffd(struct op *op, struct dump *d, struct dump_task *t, struct page_tracking *p)
{
	bool rings;
	int r;

	if (d->track.before)
		p->uffd = tracking_pick(d->track.before, t->pid, t->stat.starttime);
	if (p->uffd < 0 && !d->track.wanted)
		return 0;
	r = has_rings(op, t->pid, &rings);
	if (r)
		return r;
	if (rings) {
		log_info(op, "task %d has an io_uring or AIO context: its memory cannot be tracked, and is always stored whole", t->pid);
		close_fd_p(&p->uffd);
		p->uffd = -1;
		return 0;
	}
	if (p->uffd >= 0 && !uffd_alive(p->uffd)) {
		log_warn(op, "task %d has executed another program since the last dump: this one stores all of its memory", t->pid);
		close_fd_p(&p->uffd);
		p->uffd = -1;
	}
	if (p->uffd >= 0 || !d->track.wanted)
		return 0;
	p->parent = (struct pieces){ 0 };
	r = uffd_make(op, &t->target, d->guardian.journal, &p->uffd);
	if (r == UFFD_NONE)
		log_warn(op, "task %d: its memory cannot be tracked, every dump stores it whole", t->pid);
	return r < 0 ? r : 0;
}

/* What an earlier dump has sent, and left to its own parents, the page server has. */
static int sent_before(struct op *op, struct dump *d, uint64_t id, struct pieces *ret)
{
	struct snap_pagemap pm = { 0 };
	uint64_t end = 0;
	int r = pagemap_read(op, d->track.parent->dir, IMG_SENT, id, &pm);

	for (size_t i = 0; !r && i < pm.entries.n; i++) {
		const PagemapEntry *e = pm.entries.v[i];
		uint64_t n = pagemap_pages(e);
		struct page_piece *piece;

		if (e->vaddr < end || n > (UINT64_MAX - e->vaddr) / PAGE_SIZE)
			return op_fail(op, CKPT_E_IMAGE, NULL, "ckpt-sent-%lu of the previous images is damaged", id);
		end = e->vaddr + n * PAGE_SIZE;
		if (!(pagemap_flags(e) & (PE_PRESENT | PE_PARENT)))
			continue;
		piece = ARRAY_ADD(op->arena, &ret->v);
		if (!piece)
			return op_nomem(op);
		*piece = (struct page_piece){ .start = e->vaddr, .n_pages = n, .source = PIECE_REMOTE };
		ret->n_pages += n;
	}
	return r;
}

/* What the parent has of a task's memory. A parent that is damaged is no reason to fail: then all is stored. */
static int task_parent(struct op *op, struct dump *d, const struct dump_task *t, struct page_tracking *p)
{
	int r = op->opts->page_server ? sent_before(op, d, (uint64_t)t->task->pid, &p->parent)
				      : pieces_of_parent(op, &d->s, 0, IMG_PAGEMAP, (uint64_t)t->task->pid, UINT64_MAX, &p->parent);

	if (r == IMG_ABSENT)
		return 0;
	if (r == CKPT_E_IMAGE) {
		log_warn(op, "%s; all memory of task %d is stored", ckpt_err_message(op->err), t->pid);
		op_forget(op);
		p->parent = (struct pieces){ 0 };
		return 0;
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------- the stages */

/* A tracker listens in our own network namespace, and we may be in the tree's. Whether we were. */
static bool come_home(struct op *op, struct dump *d)
{
	bool away = d->s.ns && d->s.ns->home >= 0;

	if (away && ns_visit(op, &d->s, false))
		op_forget(op);
	return away;
}

static int take_from_tracker(struct op *op, struct dump *d, const struct dump_task *root)
{
	bool away = come_home(op, d);
	int r = tracker_take(op, root->pid, root->stat.starttime, &d->track.before);

	return r < 0 || !away ? r : ns_visit(op, &d->s, true) ?: r;
}

static int take_over(struct op *op, struct dump *d)
{
	const struct dump_task *root = d->tasks.v[0];
	struct track *t = &d->track;
	int r;

	if (op->trackings)
		t->before = tracking_list_take(op->trackings, root->pid, root->stat.starttime);
	r = t->before ? 0 : take_from_tracker(op, d, root);
	if (r < 0 || !t->parent)
		return r < 0 ? r : 0;
	if (!t->before) {
		log_warn(op, "the memory of process %d was not tracked since the dump to %s: this dump is a full one", d->pid,
			 op->opts->prev_images_dir);
		return 0;
	}
	t->incremental = t->parent->run_id && !strcmp(t->parent->run_id, t->before->since);
	if (!t->incremental)
		log_warn(op, "the memory of process %d was tracked since another dump than the one to %s: this dump is a full one",
			 d->pid, op->opts->prev_images_dir);
	return 0;
}

int track_begin(struct op *op, struct dump *d)
{
	struct track *t = &d->track;
	int r = take_over(op, d);

	if (r || (!t->wanted && !t->before))
		return r;
	t->tasks = op_alloc(op, d->tasks.n * sizeof(*t->tasks));
	if (!t->tasks)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < d->tasks.n; i++)
		t->tasks[i] = (struct page_tracking){ .uffd = -1, .arm = t->wanted, .only_tracked = t->pre_dump };
	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		if (!owns(d, i, KOBJ_VM))
			continue;
		d->tasks.v[i]->td.tracking = &t->tasks[i];
		r = t->incremental ? task_parent(op, d, d->tasks.v[i], &t->tasks[i]) : 0;
		r = r ?: task_uffd(op, d, d->tasks.v[i], &t->tasks[i]) ?: op_check_cancel(op);
	}
	return r;
}

int track_scan(struct op *op, struct dump *d)
{
	int r = 0;

	for (size_t i = 0; d->track.tasks && i < d->tasks.n && !r; i++)
		if (owns(d, i, KOBJ_VM))
			r = dirty_scan(op, &d->tasks.v[i]->td) ?: op_check_cancel(op);
	return r;
}

void track_count(struct op *op, const struct dump *d)
{
	for (size_t i = 0; d->track.tasks && i < d->tasks.n; i++)
		op->stats->pages_skipped_parent += d->track.tasks[i].n_parent;
}

static bool notes_changed(const struct dump *d)
{
	for (size_t i = 0; i < d->tasks.n; i++)
		if (d->track.tasks && d->track.tasks[i].armed)
			return true;
	return false;
}

static void keep(struct op *op, struct dump *d, struct tracking *t)
{
	bool away = come_home(op, d);
	pid_t root = t->root;

	if (!t->n) {
		tracking_free(t);
	} else if (!op->opts->track_apart && op->trackings) {
		tracking_list_add(op->trackings, t);
	} else if (tracker_start(op, t)) {
		log_warn(op, "%s; the next dump of process %d will be a full one", ckpt_err_message(op->err), root);
		op_forget(op);
	}
	if (away && ns_visit(op, &d->s, true))
		op_forget(op);
}

/* All descriptors in use, to be kept since @since. NULL: out of memory, and they are closed. */
static struct tracking *gather(struct dump *d, const char *since)
{
	const struct dump_task *root = d->tasks.v[0];
	struct tracking *t = tracking_new(root->pid, root->stat.starttime);

	if (t)
		snprintf(t->since, sizeof(t->since), "%s", since ?: "");
	for (size_t i = 0; i < d->tasks.n; i++) {
		struct page_tracking *p = &d->track.tasks[i];

		if (p->uffd < 0)
			continue;
		if (!t || tracking_add(t, d->tasks.v[i]->pid, d->tasks.v[i]->stat.starttime, p->uffd))
			close(p->uffd);
		p->uffd = -1;
	}
	return t;
}

void track_undo(struct op *op, struct dump *d)
{
	struct track *t = &d->track;
	struct tracking *now;

	if (!t->tasks)
		return;
	if (notes_changed(d)) {
		log_warn(op, "what process %d wrote to its memory is not known any more: the next dump will be a full one", d->pid);
		tracking_free(gather(d, NULL));
	} else if (t->before) {
		now = gather(d, t->before->since);
		if (now)
			keep(op, d, now);
	} else {
		tracking_free(gather(d, NULL));
	}
	t->before = tracking_free(t->before);
	t->tasks = NULL;
}

void track_commit(struct op *op, struct dump *d)
{
	struct track *t = &d->track;
	struct tracking *now;

	if (!t->tasks)
		return;
	now = gather(d, d->s.inventory->dump_criu_run_id);
	/* A program that was ended needs no tracking, and one that runs on without it is not to be slowed down. */
	if (now && t->wanted && now->since[0] && (op->opts->leave_running || op->opts->leave_stopped))
		keep(op, d, now);
	else
		tracking_free(now);
	t->before = tracking_free(t->before);
	t->tasks = NULL;
}
