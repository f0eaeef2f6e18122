/* SPDX-License-Identifier: MIT */
/* Areas of a task's address space, from smaps to vma_entry. */
#include <fcntl.h>
#include <sys/mman.h>

#include "lib/inject/tracker.h"
#include "lib/inject/uffd.h"
#include "lib/kernel/uapi.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mem/aio.h"
#include "lib/state/mem/dirty.h"
#include "lib/state/mem/uring_area.h"
#include "lib/state/msg.h"
#include "lib/state/sock/link/ring.h"

#define HUGE_SHIFT 26 /* of the size code in the flags of mmap */
#define MAX_AUXV_WORDS 46
#define IMAGE_AUXV_WORDS 44 /* what the format holds on x86-64 */

/* Bit n of vma_entry.madv stands for madvise(n). */
static uint64_t madv_bits(uint32_t f)
{
	static const struct {
		uint32_t flag;
		int advice;
	} map[] = {
		{ VMF_SR, MADV_SEQUENTIAL }, { VMF_RR, MADV_RANDOM },	  { VMF_DC, MADV_DONTFORK },
		{ VMF_MG, MADV_MERGEABLE },  { VMF_HG, MADV_HUGEPAGE },	  { VMF_NH, MADV_NOHUGEPAGE },
		{ VMF_DD, MADV_DONTDUMP },   { VMF_WF, MADV_WIPEONFORK },
	};
	uint64_t bits = 0;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (f & map[i].flag)
			bits |= 1ull << map[i].advice;
	return bits;
}

static const char *const anon_prefix = "[anon:";

static bool is_vvar(const struct proc_vma *v)
{
	return !strncmp(v->name, "[vvar", 5);
}

/* Why an area cannot be saved, or NULL; @ours: its write protection is. Shared by the dump and by the check of a running task. */
static const char *vma_obstacle(const struct proc_vma *v, bool ours, const char **kind, const char **hint)
{
	*hint = NULL;
	*kind = "mapping";
	if (uring_is_ring(v)) {
		*kind = "io_uring";
		return uring_area_obstacle(v);
	}
	if (!strncmp(v->name, "/secretmem", 10)) {
		*kind = "secret memory";
		return "memory made by memfd_secret cannot be read by anybody else";
	}
	if (!strcmp(v->name, "anon_inode:bpf-map")) {
		*kind = "bpf map";
		return "a BPF map is mapped into memory";
	}
	if (packet_ring_is(v)) {
		*kind = "packet socket ring";
		return packet_ring_obstacle(v);
	}
	if (!strncmp(v->name, "[uprobes]", 9)) {
		*kind = "uprobes";
		*hint = "remove the uprobes from the program";
		return "a uprobe is installed in the program";
	}
	if (v->vmflags & VMF_SS) {
		*kind = "shadow stack";
		return "user shadow stacks are not supported";
	}
	if (v->vmflags & VMF_UM || v->vmflags & VMF_UI || (v->vmflags & VMF_UW && !ours)) {
		*kind = "userfaultfd";
		return "the area is registered with a userfaultfd";
	}
	if ((v->vmflags & (VMF_PF | VMF_IO)) && !is_vvar(v) && strcmp(v->name, "[vdso]")) {
		*kind = "device mapping";
		return "it maps memory of a device";
	}
	return NULL;
}

static uint32_t prot_of(const struct proc_vma *v)
{
	return (v->perms[0] == 'r' ? PROT_READ : 0u) | (v->perms[1] == 'w' ? PROT_WRITE : 0u) |
	       (v->perms[2] == 'x' ? PROT_EXEC : 0u);
}

static bool is_file_backed(const struct proc_vma *v)
{
	return v->inode != 0 || (v->name[0] && v->name[0] != '[');
}

/* Private anonymous memory of huge pages, which the kernel shows as a file of its own. */
static bool is_private_huge(const struct proc_vma *v)
{
	return v->vmflags & VMF_HT && v->perms[3] == 'p' && v->kernel_page_kb && !strncmp(v->name, "/anon_hugepage", 14);
}

static int file_vma(struct op *op, struct task_dump *d, const struct proc_vma *v, VmaEntry *e)
{
	bool shmem = false;
	uint32_t id, fdflags;
	int r = files_dump_mapping(op, d->s, d->task->host, v, &id, &shmem, &fdflags);

	if (r)
		return op_wrap(op, r, "mapping %lx-%lx", v->start, v->end);
	e->pgoff = v->pgoff;
	e->shmid = id;
	e->status |= v->perms[3] == 's' ? VMA_FILE_SHARED : VMA_FILE_PRIVATE;
	if (shmem)
		e->status |= VMA_MEMFD;
	if (uring_is_ring(v))
		e->status |= VMA_EXT_PLUGIN;
	msg_set(e, fdflags, fdflags);
	return 0;
}

static void anon_vma(const struct proc_vma *v, VmaEntry *e)
{
	e->flags |= MAP_ANONYMOUS;
	e->status |= VMA_ANON_PRIVATE;
	if (!strcmp(v->name, "[heap]"))
		e->status |= VMA_HEAP;
	else if (!strcmp(v->name, "[vdso]"))
		e->status |= VMA_VDSO;
	else if (is_vvar(v))
		e->status |= VMA_VVAR;
}

/* Everything in an entry that follows from flags alone. */
static void set_flags(const struct proc_vma *v, VmaEntry *e)
{
	e->flags &= ~(uint32_t)(MAP_GROWSDOWN | MAP_NORESERVE | MAP_LOCKED | MAP_DROPPABLE);
	e->has_madv = 0;
	if (v->vmflags & VMF_GD)
		e->flags |= MAP_GROWSDOWN;
	if (v->vmflags & VMF_NR)
		e->flags |= MAP_NORESERVE;
	if (v->vmflags & VMF_LO)
		e->flags |= MAP_LOCKED;
	if (v->vmflags & VMF_DP)
		e->flags |= MAP_DROPPABLE;
	if (madv_bits(v->vmflags))
		msg_set(e, madv, madv_bits(v->vmflags));
}

static int make_vma(struct op *op, struct task_dump *d, const struct proc_vma *v, VmaEntry *e)
{
	vma_entry__init(e);
	e->start = v->start;
	e->end = v->end;
	e->fd = -1;
	e->prot = prot_of(v);
	e->flags = v->perms[3] == 's' ? MAP_SHARED : MAP_PRIVATE;
	if (!strcmp(v->name, "[vsyscall]")) {
		e->flags |= MAP_ANONYMOUS;
		e->status = VMA_VSYSCALL | VMA_ANON_PRIVATE;
		return 0;
	}
	if (aio_is_ring(v))
		return aio_dump(op, d, v, e);
	e->status = VMA_REGULAR;
	set_flags(v, e);
	if (ipc_is_attachment(v))
		return ipc_dump_attachment(op, d->s, d->task->host, v, e);
	if (packet_ring_is(v))
		return packet_ring_area(op, d->s, d->task->host, v, e);
	if (is_private_huge(v))
		e->flags |= MAP_HUGETLB | (uint32_t)__builtin_ctzl(v->kernel_page_kb << 10) << HUGE_SHIFT;
	else if (is_file_backed(v))
		return file_vma(op, d, v, e);
	anon_vma(v, e);
	return 0;
}

/* [vvar] and [vvar_vclock] lie side by side and are one entry in the format. */
static bool merge_vvar(const struct proc_vma *v, MmEntry *mm)
{
	VmaEntry *last = mm->n_vmas ? mm->vmas[mm->n_vmas - 1] : NULL;

	if (!last || !is_vvar(v) || !(last->status & VMA_VVAR) || last->end != v->start)
		return false;
	last->end = v->end;
	return true;
}

static int note_name(struct op *op, struct task_dump *d, const struct proc_vma *v, size_t *cap)
{
	TaskExtra *x = d->task->extra;
	size_t skip = strlen(anon_prefix), len = strlen(v->name);
	VmaName *name;

	if (strncmp(v->name, anon_prefix, skip) || len <= skip)
		return 0;
	name = msg_new(op, VmaName, vma_name);
	if (!name)
		return CKPT_E_NOMEM;
	name->start = v->start;
	name->end = v->end;
	name->name = arena_strndup(op->arena, v->name + skip, len - skip - 1);
	if (!name->name || (x->n_vma_names == *cap && arena_grow(op->arena, (void **)&x->vma_names, cap, x->n_vma_names,
								 sizeof(*x->vma_names))))
		return op_nomem(op);
	x->vma_names[x->n_vma_names++] = name;
	return 0;
}

static int auxv_dump(struct op *op, struct task_dump *d)
{
	MmEntry *mm = d->task->mm;
	TaskExtra *x = d->task->extra;
	char *text;
	size_t len, words;

	if (proc_read_file(op, d->task->host, "auxv", &text, &len) != 0)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->host), "task %d has no auxv", d->task->host);
	words = MIN(len / sizeof(uint64_t), (size_t)MAX_AUXV_WORDS);
	mm->mm_saved_auxv = arena_memdup(op->arena, text, words * sizeof(uint64_t));
	if (!mm->mm_saved_auxv)
		return op_nomem(op);
	mm->n_mm_saved_auxv = MIN(words, (size_t)IMAGE_AUXV_WORDS);
	x->auxv = mm->mm_saved_auxv;
	x->n_auxv = words;
	return 0;
}

/* Whether an area is write protected by ourselves, to track what is written to it. */
static bool is_tracked(const struct task_dump *d, const struct proc_vma *v)
{
	return v->vmflags & VMF_UW && d->tracking && d->tracking->uffd >= 0 && !uffd_register(d->tracking->uffd, v->start, v->end);
}

static int check_area(struct op *op, const struct task_dump *d, const struct proc_vma *v)
{
	const char *kind, *hint, *why = vma_obstacle(v, is_tracked(d, v), &kind, &hint);

	return why ? op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = d->task->host, .addr = v->start, .kind = kind, .hint = hint),
			     "task %d: memory at %lx-%lx (%s): %s", d->task->host, v->start, v->end, v->name[0] ? v->name : kind, why)
		   : 0;
}

int vmas_dump(struct op *op, struct task_dump *d)
{
	MmEntry *mm = d->task->mm;
	VmaEntry *entries;
	size_t names_cap = 0;
	int r = 0;

	mm->vmas = op_alloc(op, (d->maps->vmas.n + 1) * sizeof(*mm->vmas));
	entries = op_alloc(op, (d->maps->vmas.n + 1) * sizeof(*entries));
	if (!mm->vmas || !entries)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < d->maps->vmas.n && !r; i++) {
		const struct proc_vma *v = &d->maps->vmas.v[i];
		VmaEntry *e = &entries[i];

		r = check_area(op, d, v);
		if (r)
			return r;
		if (merge_vvar(v, mm))
			continue;
		r = make_vma(op, d, v, e);
		mm->vmas[mm->n_vmas++] = e;
		r = r ?: note_name(op, d, v, &names_cap);
	}
	if (!r && !d->flags_later)
		r = areas_dump(op, d);
	return r ?: auxv_dump(op, d);
}

/* What is special about a System V attachment was asked before its key was known. */
static int late_key(struct op *op, const struct task_dump *d, const VmaEntry *e, const struct proc_vma *v)
{
	if (!(e->status & VMA_SYSVIPC) || !v->protection_key)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = d->task->host, .addr = v->start, .kind = "protection key"),
		       "task %d: the attachment of a segment at %lx has a protection key, which is not supported", d->task->host, v->start);
}

int vmas_set_flags(struct op *op, struct task_dump *d, const struct proc_maps *full)
{
	const MmEntry *mm = d->task->mm;
	size_t k = 0, at = 0;
	int r = 0;

	for (size_t i = 0; i < d->maps->vmas.n && !r; i++) {
		struct proc_vma *v = &d->maps->vmas.v[i];

		while (k < full->vmas.n && full->vmas.v[k].start < v->start)
			k++;
		if (k < full->vmas.n && full->vmas.v[k].start == v->start) {
			v->vmflags = full->vmas.v[k].vmflags;
			v->protection_key = full->vmas.v[k].protection_key;
			v->has_vmflags = true;
		}
		if (!v->has_vmflags)
			return op_fail(op, CKPT_E_CHANGED, AT(.pid = d->task->host, .addr = v->start, .hint = "try again"),
				       "task %d: what the area at %lx is, changed while it was being stopped", d->task->host, v->start);
		r = check_area(op, d, v);
		while (at < mm->n_vmas && mm->vmas[at]->start < v->start)
			at++;
		if (r || at == mm->n_vmas || mm->vmas[at]->start != v->start)
			continue;
		if (mm->vmas[at]->status & VMA_REGULAR)
			set_flags(v, mm->vmas[at]);
		r = late_key(op, d, mm->vmas[at], v);
	}
	d->flags_later = false;
	return r ?: areas_dump(op, d);
}

/* The tree of the process that is looked at: by an earlier dump that somebody will go on from. */
static bool tree_is_tracked(struct op *op)
{
	struct proc_stat st;

	if (proc_read_stat(op, op->root, &st)) {
		op_forget(op);
		return false;
	}
	return (op->trackings && tracking_list_has(op->trackings, op->root, st.starttime)) || tracker_exists(op->root, st.starttime);
}

int vmas_check(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg)
{
	struct proc_maps maps = { 0 };
	const char *kind, *hint, *why;
	int r = proc_read_smaps(op, pid, &maps), n = 0;

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d ended meanwhile", pid);
	for (size_t i = 0; i < maps.vmas.n; i++) {
		const struct proc_vma *v = &maps.vmas.v[i];
		struct ckpt_err *e;

		why = vma_obstacle(v, v->vmflags & VMF_UW && tree_is_tracked(op), &kind, &hint);
		if (!why)
			continue;
		e = err_new(CKPT_E_UNSUPPORTED, AT(.pid = pid, .addr = v->start, .kind = kind, .hint = hint),
			    "task %d: memory at %lx-%lx (%s): %s", pid, v->start, v->end, v->name[0] ? v->name : kind, why);
		fn(arg, e);
		ckpt_err_free(e);
		n++;
	}
	return n;
}
