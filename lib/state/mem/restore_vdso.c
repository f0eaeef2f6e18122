/* SPDX-License-Identifier: MIT */
/*
 * The vDSO: the kernel's code in the task. The running kernel's is put where the image's was, provided it is the same
 * build: the task may have its functions' addresses anywhere. Whether it is the same is seen by the code itself, and
 * where that differs (the kernel patches it for the processor at boot) by size and symbols.
 *
 * Another one goes to a free place instead, and the image's stays, as ordinary memory whose functions are replaced by
 * jumps to the running kernel's. Its data is replaced by zeroes: code that was interrupted in the middle of the old
 * functions finds a sequence that changed, then a clock it cannot read, and makes the system call.
 */
#include <sys/mman.h>

#include "lib/state/mem/vdso_elf.h"
#include "lib/state/task/plan_build.h"

#define MAX_AREAS 4
#define MAX_VDSO (16 * PAGE_SIZE)

struct vdso_layout {
	uint64_t start, end; /* of the code */
	struct plan_vdso_area areas[MAX_AREAS];
	size_t n;
	uint64_t vvar_len; /* all of the data below or above, as one */
	int64_t vvar_off;
};

static bool is_vvar(const struct proc_vma *v)
{
	return !strncmp(v->name, "[vvar", 5);
}

/* Not AT_SYSINFO_EHDR: in a process that was itself restored that can be the redirected one. */
static uint64_t find_vdso(const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->vmas.n; i++)
		if (!strcmp(maps->vmas.v[i].name, "[vdso]"))
			return maps->vmas.v[i].start;
	return 0;
}

static int own_layout(struct op *op, struct vdso_layout *l)
{
	struct proc_maps maps = { 0 };
	uint64_t start, vvar_start = 0, vvar_end = 0;
	int r = proc_read_maps(op, getpid(), &maps);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_SYS, NULL, "/proc does not show this process");
	start = find_vdso(&maps);
	*l = (struct vdso_layout){ .start = start };
	for (size_t i = 0; i < maps.vmas.n; i++) {
		const struct proc_vma *v = &maps.vmas.v[i];

		if (!is_vvar(v) && strcmp(v->name, "[vdso]"))
			continue;
		if (l->n == MAX_AREAS)
			return op_fail(op, CKPT_E_KERNEL, NULL, "the vDSO of this kernel has more parts than we know");
		l->areas[l->n++] = (struct plan_vdso_area){ (int64_t)(v->start - start), v->end - v->start };
		if (v->start == start) {
			l->end = v->end;
		} else {
			vvar_start = vvar_start ?: v->start;
			vvar_end = v->end;
		}
	}
	if (!start)
		return op_fail(op, CKPT_E_KERNEL, NULL, "this process has no vDSO");
	l->vvar_len = vvar_end - vvar_start;
	l->vvar_off = (int64_t)(vvar_start - start);
	return 0;
}

/* ------------------------------------------------------------------------------------------ the image's */

static bool is_same(const struct plan_build *b, const struct vdso_layout *own, const char *buf)
{
	size_t len = own->end - own->start;
	struct vdso_elf x, y;

	if (b->vdso_end - b->vdso_start != len || b->vvar_end - b->vvar_start != own->vvar_len ||
	    (own->vvar_len && (int64_t)(b->vvar_start - b->vdso_start) != own->vvar_off))
		return false;
	return !memcmp(buf, (const void *)own->start, len) ||
	       (vdso_elf_open(&x, buf, len) && vdso_elf_open(&y, (const void *)own->start, len) && vdso_elf_same(&x, &y));
}

/* ------------------------------------------------------------------------------------------ another vDSO */

static int refuse(struct plan_build *b, const char *why)
{
	return op_fail(b->op, CKPT_E_UNSUPPORTED,
		       AT(.pid = b->task->pid, .addr = b->vdso_start, .kind = "vdso", .hint = "restore on the kernel it was dumped on"),
		       "the vDSO of task %d is of another kernel build, and %s", b->task->pid, why);
}

/* A thread that stands on what was replaced by a jump would go on in the middle of it. */
static int check_threads(struct plan_build *b, const struct vdso_patches *done)
{
	for (size_t i = 0; i < b->task->threads.n; i++) {
		uint64_t off = b->task->threads.v[i].core->thread_info->gpregs->ip - b->vdso_start;

		for (size_t k = 0; k < done->n; k++)
			if (off > done->v[k].off && off < done->v[k].off + done->v[k].len)
				return refuse(b, "a thread was just entering it");
	}
	return 0;
}

static int put_memory(struct plan_build *b, const char *code)
{
	struct plan_copy v[2] = {
		{ .start = b->vdso_start, .len = b->vdso_end - b->vdso_start, .prot = PROT_READ | PROT_EXEC },
		{ .start = b->vvar_start, .len = b->vvar_end - b->vvar_start, .prot = PROT_READ },
	};
	struct plan_array arr;
	int r = plan_put(b, code, v[0].len, &v[0].data);

	r = r ?: plan_put_array(b, v, b->vvar_start ? 2 : 1, sizeof(*v), &arr);
	if (!r)
		PLAN(b)->copies = arr;
	return r;
}

static int redirect(struct plan_build *b, const struct vdso_layout *own, char *buf)
{
	size_t len = b->vdso_end - b->vdso_start;
	const struct plan_vdso_area *last = &own->areas[own->n - 1];
	uint64_t block = (uint64_t)(last->off - own->areas[0].off) + last->len, start, dst;
	struct vdso_elf old, now;
	struct vdso_patches done;
	int r;

	if (!vdso_elf_open(&now, (const void *)own->start, own->end - own->start))
		return op_fail(b->op, CKPT_E_KERNEL, AT(.kind = "vdso"), "the vDSO of this kernel has no symbols that we understand");
	if (!vdso_elf_open(&old, buf, len))
		return refuse(b, "its symbols are damaged or missing in the image");
	r = plan_find_high(b, block, &start);
	if (r)
		return r;
	dst = start - (uint64_t)own->areas[0].off;
	if (!vdso_redirect((unsigned char *)buf, &old, &now, dst, &done))
		return refuse(b, "its functions leave no room to redirect them");
	r = check_threads(b, &done);
	r = r ?: put_memory(b, buf);
	if (r)
		return r;
	PLAN(b)->vdso_dst = dst;
	log_info(b->op, "task %d: another vDSO: %zu functions are redirected to the running kernel's at %#lx", b->task->pid, done.n, dst);
	return 0;
}

int vdso_host_look(struct op *op, struct vdso_layout **ret)
{
	*ret = op_new(op, struct vdso_layout);
	return *ret ? own_layout(op, *ret) : CKPT_E_NOMEM;
}

int plan_vdso(struct plan_build *b)
{
	const struct vdso_layout *own = b->host->vdso;
	size_t len = b->vdso_end - b->vdso_start;
	struct plan_array arr;
	char *buf;
	int r;

	if (!b->vdso_start && b->vvar_start)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = b->vvar_start, .kind = "vdso"),
			       "task %d has the vDSO's data but no vDSO", b->task->pid);
	/* Also where the task has none: its children may. */
	r = plan_put_array(b, own->areas, own->n, sizeof(*own->areas), &arr);
	if (r)
		return r;
	PLAN(b)->vdso = arr;
	if (!b->vdso_start)
		return 0;
	if (len > MAX_VDSO)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = b->vdso_start, .kind = "vdso"),
			       "the vDSO of task %d is %zu bytes long", b->task->pid, len);
	buf = op_alloc(b->op, len);
	if (!buf)
		return CKPT_E_NOMEM;
	/* Pages that are not in the image stay zero. */
	r = pieces_read(b->op, b->s, &b->pieces, b->vdso_start, b->vdso_end, buf);
	if (r)
		return r;
	PLAN(b)->vdso_dst = b->vdso_start;
	return is_same(b, own, buf) ? 0 : redirect(b, own, buf);
}
