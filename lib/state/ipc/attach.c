/* SPDX-License-Identifier: MIT */
/*
 * Attachments of shared memory segments: areas of a task. The kernel counts them, and shmdt(2) finds them by where they
 * begin, so that the task itself has to make them with shmat(2). Parts of one may have been unmapped or protected since.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "lib/state/ipc/core.h"
#include "lib/state/mem/mem.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"

#define FLAG_LOCKED 0x2000u

bool ipc_is_attachment(const struct proc_vma *v)
{
	return !strncmp(v->name, "/SYSV", 5);
}

static int count(struct op *op, struct ipc_state *st, uint32_t id)
{
	struct ipc_attachments *a;

	for (size_t i = 0; i < st->attachments.n; i++)
		if (st->attachments.v[i].id == id) {
			st->attachments.v[i].n++;
			return 0;
		}
	a = ARRAY_ADD(op->arena, &st->attachments);
	if (!a)
		return op_nomem(op);
	*a = (struct ipc_attachments){ id, 1 };
	return 0;
}

int ipc_dump_attachment(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *v, VmaEntry *e)
{
	struct ipc_state *st = ipc_state(op, s);
	struct stat link;
	char path[96];

	if (!st)
		return CKPT_E_NOMEM;
	if (v->protection_key)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = pid, .addr = v->start, .kind = "protection key"),
			       "task %d: the attachment of segment %lu at %lx has a protection key, which is not supported", pid, v->inode,
			       v->start);
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, v->start, v->end);
	if (lstat(path, &link) < 0)
		return op_errno(op, errno, AT(.pid = pid, .addr = v->start), "task %d: cannot look at %s", pid, path);
	e->status |= VMA_ANON_SHARED | VMA_SYSVIPC;
	e->flags |= MAP_ANONYMOUS;
	e->shmid = v->inode; /* the kernel gives it the id for a number */
	e->pgoff = v->pgoff;
	msg_set(e, fdflags, link.st_mode & 0200 ? O_RDWR : O_RDONLY);
	return count(op, st, (uint32_t)v->inode);
}

/* ---------------------------------------------------------------------------------- which areas are one */

/* The areas of one attachment: [first, end) of the task's. */
struct group {
	const struct ipc_shm *shm;
	uint64_t start, stop;
	bool writable;
	size_t first, end;
};

static int bad(struct op *op, pid_t pid, const VmaEntry *e, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.pid = pid, .addr = e->start, .kind = "SysV shared memory"),
		       "the area at %#lx of task %d, an attachment of segment %lu: %s", e->start, pid, e->shmid, what);
}

static const char *say(struct plan_build *b, const VmaEntry *e, const char *what)
{
	return arena_printf(b->op->arena, "%s shared memory segment %lu at %#lx", what, e->shmid, e->start);
}

static uint64_t segment_len(const struct ipc_shm *shm)
{
	uint32_t huge = shm->msg->has_hugetlb_flag ? shm->msg->hugetlb_flag : 0;

	return ALIGN_UP(shm->msg->size, huge & SHM_HUGETLB ? 1ull << (huge >> 26 & 0x3f) : PAGE_SIZE);
}

static bool is_attached(const VmaEntry *e)
{
	return e->status & VMA_REGULAR && e->status & VMA_SYSVIPC;
}

static bool begins_at(const struct group *g, const VmaEntry *e)
{
	return is_attached(e) && e->shmid == g->shm->msg->desc->id && e->start - e->pgoff == g->start;
}

static int find_group(struct op *op, const struct snapshot *s, const struct snap_task *t, size_t first, struct group *g)
{
	const MmEntry *mm = t->mm;
	const VmaEntry *e = mm->vmas[first];
	uint64_t before = 0;

	*g = (struct group){ .first = first, .writable = e->has_fdflags && (e->fdflags & O_ACCMODE) == O_RDWR };
	for (size_t i = 0; i < s->ipc->shms.n && !g->shm; i++)
		if (s->ipc->shms.v[i]->msg->desc->id == e->shmid)
			g->shm = s->ipc->shms.v[i];
	if (!g->shm)
		return bad(op, t->pid, e, "there is no such segment in the checkpoint");
	if (e->pgoff > e->start)
		return bad(op, t->pid, e, "its offset makes no sense");
	g->start = e->start - e->pgoff;
	g->stop = g->start + segment_len(g->shm);
	for (size_t i = first; i-- > 0 && !before;)
		before = mm->vmas[i]->status & VMA_REGULAR ? mm->vmas[i]->end : 0;
	for (g->end = first; g->end < mm->n_vmas && begins_at(g, mm->vmas[g->end]); g->end++)
		if (mm->vmas[g->end]->end > g->stop)
			return bad(op, t->pid, mm->vmas[g->end], "it is longer than the segment");
	/* The whole segment is attached, and then cut: nothing else may lie in the gaps. */
	if (before > g->start || (g->end < mm->n_vmas && mm->vmas[g->end]->status & VMA_REGULAR && mm->vmas[g->end]->start < g->stop))
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .addr = e->start, .kind = "SysV shared memory"),
			       "segment %lu is attached in part at %#lx of task %d, and other memory lies where the rest would be", e->shmid,
			       e->start, t->pid);
	return 0;
}

int ipc_check_attachments(struct op *op, const struct snapshot *s)
{
	struct group g;
	int r = 0;

	for (size_t i = 0; i < s->tasks.n; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		for (size_t j = 0; t->mm && j < t->mm->n_vmas && !r; j++) {
			if (!is_attached(t->mm->vmas[j]))
				continue;
			r = find_group(op, s, t, j, &g);
			j = g.end - 1;
		}
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int cut(struct plan_build *b, const VmaEntry *e, uint64_t from, uint64_t to)
{
	if (from >= to)
		return 0;
	return plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = SYS_munmap, .args = { from, to - from } }, say(b, e, "unmap a part of"));
}

/* That is done for all areas alike, and must not fill this one. */
static bool locked_on_fault(const struct plan_build *b, const VmaEntry *e)
{
	const TaskExtra *x = b->task->extra;

	for (size_t i = 0; x && i < x->n_onfault; i++)
		if (x->onfault[i]->start <= e->start && e->end <= x->onfault[i]->end)
			return true;
	return false;
}

static int treat(struct plan_build *b, const struct group *g, const VmaEntry *e)
{
	uint32_t prot = PROT_READ | (g->writable ? PROT_WRITE : 0);
	uint64_t len = e->end - e->start;
	int r = 0;

	if (e->prot & ~7u || (e->prot & PROT_WRITE && !g->writable))
		return bad(b->op, b->task->pid, e, "its protection makes no sense");
	if (e->prot != prot)
		r = plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = SYS_mprotect, .args = { e->start, len, e->prot } }, say(b, e, "protect"));
	for (uint64_t advice = 0; r >= 0 && e->has_madv && advice < 64; advice++)
		if (e->madv >> advice & 1)
			r = plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = SYS_madvise, .args = { e->start, len, advice } },
				      say(b, e, "advise on"));
	if (r >= 0 && e->flags & FLAG_LOCKED && !locked_on_fault(b, e))
		r = plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = SYS_mlock2, .args = { e->start, len, 0 } }, say(b, e, "lock"));
	return MIN(r, 0);
}

static int plan_group(struct plan_build *b, const struct group *g)
{
	VmaEntry *const *v = b->task->mm->vmas;
	const struct plan_call call = {
		.nr = SYS_shmat, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)g->start,
		.args = { g->shm->msg->desc->id, g->start, g->writable ? 0 : SHM_RDONLY },
	};
	uint64_t at = g->start;
	int r = plan_call(b, PLAN_MEMORY, &call, say(b, v[g->first], "attach"));

	for (size_t i = g->first; i < g->end && r >= 0; i++) {
		r = cut(b, v[i], at, v[i]->start);
		at = v[i]->end;
	}
	r = r < 0 ? r : cut(b, v[g->first], at, g->stop);
	for (size_t i = g->first; i < g->end && r >= 0; i++)
		r = treat(b, g, v[i]);
	return MIN(r, 0);
}

int ipc_plan(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	struct group g;
	int r = 0;

	for (size_t i = 0; i < mm->n_vmas && !r; i++) {
		if (!is_attached(mm->vmas[i]))
			continue;
		r = find_group(b->op, b->s, b->task, i, &g);
		r = r ?: plan_group(b, &g);
		i = g.end - 1;
	}
	return r;
}
