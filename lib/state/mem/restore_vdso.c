/* SPDX-License-Identifier: MIT */
/*
 * The vDSO: the kernel's code in the task. The running kernel's is put where the image's was, provided it is the same
 * build: the task may have its functions' addresses anywhere. Whether it is the same is seen by the code itself, and
 * where that differs (the kernel patches it for the processor at boot) by size and symbols.
 */
#include <elf.h>
#include <sys/auxv.h>

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

static int own_layout(struct op *op, struct vdso_layout *l)
{
	struct proc_maps maps = { 0 };
	uint64_t start = getauxval(AT_SYSINFO_EHDR), vvar_start = 0, vvar_end = 0;
	int r = proc_read_maps(op, getpid(), &maps);

	*l = (struct vdso_layout){ .start = start };
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_SYS, NULL, "/proc does not show this process");
	for (size_t i = 0; i < maps.vmas.n; i++) {
		const struct proc_vma *v = &maps.vmas.v[i];
		bool vvar = !strncmp(v->name, "[vvar", 5);

		if (!vvar && strcmp(v->name, "[vdso]"))
			continue;
		if (l->n == MAX_AREAS)
			return op_fail(op, CKPT_E_KERNEL, NULL, "the vDSO of this kernel has more parts than we know");
		l->areas[l->n++] = (struct plan_vdso_area){ (int64_t)(v->start - start), v->end - v->start };
		if (!vvar)
			l->end = v->end;
		else {
			vvar_start = vvar_start ?: v->start;
			vvar_end = v->end;
		}
	}
	if (!l->end || !start)
		return op_fail(op, CKPT_E_KERNEL, NULL, "this process has no vDSO");
	l->vvar_len = vvar_end - vvar_start;
	l->vvar_off = (int64_t)(vvar_start - start);
	return 0;
}

/* -------------------------------------------------------------------------------------------- symbols */

struct elf_view {
	const unsigned char *p;
	size_t len;
	uint64_t base; /* lowest p_vaddr */
	const Elf64_Sym *sym;
	size_t n_sym;
	const char *str;
	size_t str_len;
};

static const void *at(const struct elf_view *v, uint64_t vaddr, uint64_t len)
{
	uint64_t off = vaddr - v->base;

	return off <= v->len && len <= v->len - off ? v->p + off : NULL;
}

static bool elf_open(struct elf_view *v, const void *p, size_t len)
{
	const Elf64_Ehdr *h = p;
	const Elf64_Dyn *dyn = NULL;
	uint64_t n_dyn = 0, sym = 0, str = 0, str_len = 0;

	*v = (struct elf_view){ .p = p, .len = len };
	if (len < sizeof(*h) || memcmp(h->e_ident, ELFMAG, SELFMAG) || h->e_ident[EI_CLASS] != ELFCLASS64 ||
	    h->e_phoff % 8 || h->e_phoff > len || (uint64_t)h->e_phnum * sizeof(Elf64_Phdr) > len - h->e_phoff)
		return false;
	for (unsigned i = 0; i < h->e_phnum; i++) {
		const Elf64_Phdr *ph = (const Elf64_Phdr *)(v->p + h->e_phoff) + i;

		if (ph->p_type == PT_LOAD)
			v->base = ph->p_vaddr;
		if (ph->p_type == PT_DYNAMIC && ph->p_offset % 8 == 0 && ph->p_offset <= len && ph->p_filesz <= len - ph->p_offset) {
			dyn = (const Elf64_Dyn *)(v->p + ph->p_offset);
			n_dyn = ph->p_filesz / sizeof(*dyn);
		}
	}
	for (uint64_t i = 0; i < n_dyn; i++) {
		if (dyn[i].d_tag == DT_SYMTAB)
			sym = dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRTAB)
			str = dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRSZ)
			str_len = dyn[i].d_un.d_val;
	}
	/* The number of symbols is not written anywhere simple; in a vDSO the strings follow them. */
	if (!sym || str <= sym || sym % 8)
		return false;
	v->n_sym = (str - sym) / sizeof(Elf64_Sym);
	v->sym = at(v, sym, v->n_sym * sizeof(Elf64_Sym));
	v->str = at(v, str, str_len);
	v->str_len = str_len;
	return v->sym && v->str && str_len && !v->str[str_len - 1];
}

static bool same_symbols(const struct elf_view *a, const struct elf_view *b)
{
	if (a->n_sym != b->n_sym)
		return false;
	for (size_t i = 0; i < a->n_sym; i++) {
		const Elf64_Sym *x = &a->sym[i], *y = &b->sym[i];

		if (x->st_name >= a->str_len || y->st_name >= b->str_len || strcmp(a->str + x->st_name, b->str + y->st_name))
			return false;
		if (x->st_shndx != SHN_ABS && (x->st_value - a->base != y->st_value - b->base || x->st_size != y->st_size))
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------------------------------ the image's */

/* The vDSO's pages, out of the pages file. Pages that are not in the image stay zero. */
static int read_image_vdso(struct plan_build *b, char *buf)
{
	const struct snap_pagemap *pm = &b->task->pagemap;
	uint64_t offset = 0;

	for (size_t i = 0; i < pm->entries.n; i++) {
		const PagemapEntry *e = pm->entries.v[i];
		uint64_t len = (e->has_nr_pages ? e->nr_pages : e->compat_nr_pages) * PAGE_SIZE, end = e->vaddr + len;
		uint64_t from = MAX(e->vaddr, b->vdso_start), to = MIN(end, b->vdso_end);

		if (from < to && pread(PLAN(b)->pages_fd, buf + (from - b->vdso_start), to - from,
				       (off_t)(offset + (from - e->vaddr))) != (ssize_t)(to - from))
			return op_errno(b->op, errno ?: EIO, AT(.pid = b->task->pid, .kind = "pages"),
					"read the vDSO's pages from pages-%u.img", pm->pages_id);
		offset += len;
	}
	return 0;
}

static int compare(struct plan_build *b, const struct vdso_layout *own, bool *same)
{
	size_t len = own->end - own->start;
	struct elf_view x, y;
	char *buf;
	int r;

	*same = false;
	if (b->vdso_end - b->vdso_start != len || len > MAX_VDSO || b->vvar_end - b->vvar_start != own->vvar_len ||
	    (own->vvar_len && (int64_t)(b->vvar_start - b->vdso_start) != own->vvar_off))
		return 0;
	buf = op_alloc(b->op, len);
	if (!buf)
		return CKPT_E_NOMEM;
	r = PLAN(b)->pages_fd < 0 ? 0 : read_image_vdso(b, buf);
	if (r)
		return r;
	*same = !memcmp(buf, (const void *)own->start, len) ||
		(elf_open(&x, buf, len) && elf_open(&y, (const void *)own->start, len) && same_symbols(&x, &y));
	return 0;
}

int plan_vdso(struct plan_build *b)
{
	struct vdso_layout own;
	struct plan_array arr;
	bool same;
	int r;

	if (!b->vdso_start && b->vvar_start)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = b->vvar_start, .kind = "vdso"),
			       "task %d has the vDSO's data but no vDSO", b->task->pid);
	r = own_layout(b->op, &own);
	if (r || !b->vdso_start)
		return r;
	r = compare(b, &own, &same);
	if (r)
		return r;
	if (!same)
		return op_fail(b->op, CKPT_E_UNSUPPORTED,
			       AT(.pid = b->task->pid, .addr = b->vdso_start, .kind = "vdso",
				  .hint = "restore on the kernel it was dumped on"),
			       "the vDSO of task %d is of another kernel build, which is not supported yet", b->task->pid);
	r = plan_put_array(b, own.areas, own.n, sizeof(*own.areas), &arr);
	if (r)
		return r;
	PLAN(b)->vdso = arr;
	PLAN(b)->vdso_dst = b->vdso_start;
	return 0;
}
