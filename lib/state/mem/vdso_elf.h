/* SPDX-License-Identifier: MIT */
/* The symbols of a vDSO, which may come out of an image (untrusted), and the redirection of its functions to another one. */
#ifndef CKPT_STATE_MEM_VDSO_ELF_H
#define CKPT_STATE_MEM_VDSO_ELF_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VDSO_MAX_PATCHES 16

struct vdso_elf {
	const unsigned char *p;
	size_t len;
	uint64_t base; /* lowest p_vaddr */
	const Elf64_Sym *sym;
	size_t n_sym;
	const char *str;
	size_t str_len;
};

/* Bytes of code that were replaced; offsets from the vDSO's first byte. */
struct vdso_patch {
	uint64_t off, len;
};

struct vdso_patches {
	struct vdso_patch v[VDSO_MAX_PATCHES];
	size_t n;
};

/* @p: 8-aligned, and must stay. False: this is no vDSO that we understand. */
bool vdso_elf_open(struct vdso_elf *v, const void *p, size_t len);
bool vdso_elf_same(const struct vdso_elf *a, const struct vdso_elf *b);
/*
 * Replaces the functions in @buf, which is the vDSO @old, by jumps to those of @now, which is or will be at address @at,
 * or by system calls. False: a function has no room for that, or lies outside.
 */
bool vdso_redirect(unsigned char *buf, const struct vdso_elf *old, const struct vdso_elf *now, uint64_t at,
		   struct vdso_patches *done);

#endif
