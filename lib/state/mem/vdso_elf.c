/* SPDX-License-Identifier: MIT */
#include "lib/state/mem/vdso_elf.h"

#include <asm/unistd.h>
#include <string.h>

#define ALIGN 8
#ifndef __NR_getrandom
#define __NR_getrandom 318
#endif

/* ------------------------------------------------------------------------------------------------- reading */

static const void *at(const struct vdso_elf *v, uint64_t vaddr, uint64_t len)
{
	uint64_t off = vaddr - v->base;

	return vaddr >= v->base && off <= v->len && len <= v->len - off ? v->p + off : NULL;
}

static const Elf64_Dyn *find_dynamic(struct vdso_elf *v, uint64_t *n)
{
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)v->p;
	const Elf64_Phdr *ph;
	const Elf64_Dyn *dyn = NULL;
	bool based = false;

	if (v->len < sizeof(*h) || memcmp(h->e_ident, ELFMAG, SELFMAG) || h->e_ident[EI_CLASS] != ELFCLASS64 ||
	    h->e_machine != EM_X86_64 || h->e_phentsize != sizeof(*ph) || h->e_phoff % ALIGN || h->e_phoff > v->len ||
	    h->e_phnum * sizeof(*ph) > v->len - h->e_phoff)
		return NULL;
	ph = (const Elf64_Phdr *)(v->p + h->e_phoff);
	for (unsigned i = 0; i < h->e_phnum; i++) {
		if (ph[i].p_type == PT_LOAD && !based) {
			v->base = ph[i].p_vaddr;
			based = true;
		}
		if (ph[i].p_type == PT_DYNAMIC && ph[i].p_offset % ALIGN == 0 && ph[i].p_offset <= v->len &&
		    ph[i].p_filesz <= v->len - ph[i].p_offset) {
			dyn = (const Elf64_Dyn *)(v->p + ph[i].p_offset);
			*n = ph[i].p_filesz / sizeof(*dyn);
		}
	}
	return based && v->base % ALIGN == 0 ? dyn : NULL;
}

bool vdso_elf_open(struct vdso_elf *v, const void *p, size_t len)
{
	uint64_t n_dyn = 0, sym = 0, str = 0, str_len = 0;
	const Elf64_Dyn *dyn;

	*v = (struct vdso_elf){ .p = p, .len = len };
	dyn = find_dynamic(v, &n_dyn);
	for (uint64_t i = 0; dyn && i < n_dyn && dyn[i].d_tag != DT_NULL; i++) {
		if (dyn[i].d_tag == DT_SYMTAB)
			sym = dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRTAB)
			str = dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRSZ)
			str_len = dyn[i].d_un.d_val;
	}
	/* The number of symbols is not written anywhere simple; in a vDSO the strings follow them. */
	if (!sym || str <= sym || sym % ALIGN || !str_len)
		return false;
	v->n_sym = (str - sym) / sizeof(Elf64_Sym);
	v->sym = at(v, sym, v->n_sym * sizeof(Elf64_Sym));
	v->str = at(v, str, str_len);
	v->str_len = str_len;
	return v->sym && v->str && !v->str[str_len - 1];
}

static const char *name_of(const struct vdso_elf *v, const Elf64_Sym *s)
{
	return s->st_name < v->str_len ? v->str + s->st_name : NULL;
}

bool vdso_elf_same(const struct vdso_elf *a, const struct vdso_elf *b)
{
	if (a->n_sym != b->n_sym)
		return false;
	for (size_t i = 0; i < a->n_sym; i++) {
		const Elf64_Sym *x = &a->sym[i], *y = &b->sym[i];
		const char *nx = name_of(a, x), *ny = name_of(b, y);

		if (!nx || !ny || strcmp(nx, ny))
			return false;
		if (x->st_shndx != SHN_ABS && (x->st_value - a->base != y->st_value - b->base || x->st_size != y->st_size))
			return false;
	}
	return true;
}

/* --------------------------------------------------------------------------------------------- redirecting */

struct function {
	const char *name; /* the weak names are the same without the prefix */
	uint32_t nr;
	bool syscall_only;
};

#define PREFIX "__vdso_"

/*
 * getrandom keeps its state in memory that the program got ready as the vDSO it started with asked for: another one may
 * see it in another form.
 */
static const struct function functions[] = {
	{ "clock_gettime", __NR_clock_gettime, false }, { "gettimeofday", __NR_gettimeofday, false },
	{ "time", __NR_time, false },			{ "clock_getres", __NR_clock_getres, false },
	{ "getcpu", __NR_getcpu, false },		{ "getrandom", __NR_getrandom, true },
};

static const struct function *function_of(const struct vdso_elf *v, const Elf64_Sym *s)
{
	const char *name = name_of(v, s);

	if (!name || s->st_shndx == SHN_UNDEF || s->st_shndx == SHN_ABS)
		return NULL;
	if (!strncmp(name, PREFIX, strlen(PREFIX)))
		name += strlen(PREFIX);
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++)
		if (!strcmp(functions[i].name, name))
			return &functions[i];
	return NULL;
}

static uint64_t target_of(const struct vdso_elf *now, const struct function *f, uint64_t start)
{
	for (size_t i = 0; i < now->n_sym && !f->syscall_only; i++)
		if (function_of(now, &now->sym[i]) == f)
			return start + (now->sym[i].st_value - now->base);
	return 0;
}

/* Who asks the vDSO's getrandom for the form of its state (a length of -1) is told that there is no such function. */
static size_t make_call(unsigned char *code, const struct function *f)
{
	static const unsigned char plain[] = {
		0xb8, 0, 0, 0, 0, /* mov $nr, %eax */
		0x0f, 0x05,	  /* syscall */
		0xc3,
	};
	static const unsigned char random[] = {
		0x49, 0x83, 0xf8, 0xff,		       /* cmp $-1, %r8 */
		0x74, 0x08,			       /* je 1f */
		0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3,    /* as above */
		0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, /* 1: mov $-ENOSYS, %rax */
		0xc3,
	};

	if (f->syscall_only) {
		memcpy(code, random, sizeof(random));
		memcpy(code + 7, &f->nr, sizeof(f->nr));
		return sizeof(random);
	}
	memcpy(code, plain, sizeof(plain));
	memcpy(code + 1, &f->nr, sizeof(f->nr));
	return sizeof(plain);
}

static size_t make_jump(unsigned char *code, uint64_t target)
{
	static const unsigned char jump[] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, /* movabs $target, %rax */
					      0xff, 0xe0 };			    /* jmp *%rax */

	memcpy(code, jump, sizeof(jump));
	memcpy(code + 2, &target, sizeof(target));
	return sizeof(jump);
}

/* 1: @off is one function under another name, done already. */
static int check_room(const struct vdso_elf *old, const struct vdso_patches *done, uint64_t off, size_t len)
{
	if (off < sizeof(Elf64_Ehdr) || off > old->len || len > old->len - off)
		return -1;
	for (size_t i = 0; i < done->n; i++) {
		const struct vdso_patch *d = &done->v[i];

		if (d->off == off)
			return 1;
		if (off < d->off + d->len && d->off < off + len)
			return -1;
	}
	return done->n == VDSO_MAX_PATCHES ? -1 : 0;
}

bool vdso_redirect(unsigned char *buf, const struct vdso_elf *old, const struct vdso_elf *now, uint64_t start,
		   struct vdso_patches *done)
{
	unsigned char code[VDSO_MAX_PATCHES][32];

	done->n = 0;
	/* The symbols may lie in @buf: nothing is written before all are read. */
	for (size_t i = 0; i < old->n_sym; i++) {
		const struct function *f = function_of(old, &old->sym[i]);
		uint64_t off = old->sym[i].st_value - old->base, target;
		unsigned char made[sizeof(*code)];
		size_t len;
		int r;

		if (!f)
			continue;
		target = target_of(now, f, start);
		len = target ? make_jump(made, target) : make_call(made, f);
		r = check_room(old, done, off, len);
		if (r < 0)
			return false;
		if (r)
			continue;
		memcpy(code[done->n], made, len);
		done->v[done->n++] = (struct vdso_patch){ off, len };
	}
	for (size_t i = 0; i < done->n; i++)
		memcpy(buf + done->v[i].off, code[i], done->v[i].len);
	return true;
}
