/* SPDX-License-Identifier: MIT */
#include "lib/state/file/elf.h"

#include <elf.h>

#define PHNUM_MAX 256u
#define NOTES_MAX (64u << 10)

static bool read_at(int fd, void *p, size_t n, uint64_t offset)
{
	ssize_t r;

	if (offset > INT64_MAX)
		return false;
	do
		r = pread(fd, p, n, (off_t)offset);
	while (r < 0 && errno == EINTR);
	return r >= 0 && (size_t)r == n;
}

/* Notes: a head, a name and a description, each padded to 4 bytes. */
static size_t find_note(const uint8_t *p, size_t n, uint8_t id[BUILD_ID_MAX])
{
	while (n >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr head;
		size_t name, desc;

		memcpy(&head, p, sizeof(head));
		name = ALIGN_UP((size_t)head.n_namesz, (size_t)4);
		desc = ALIGN_UP((size_t)head.n_descsz, (size_t)4);
		p += sizeof(head);
		n -= sizeof(head);
		if (name > n || desc > n - name)
			return 0;
		if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == 4 && memcmp(p, "GNU", 4) == 0 && head.n_descsz &&
		    head.n_descsz <= BUILD_ID_MAX) {
			memcpy(id, p + name, head.n_descsz);
			return head.n_descsz;
		}
		p += name + desc;
		n -= name + desc;
	}
	return 0;
}

static size_t read_notes(int fd, uint64_t offset, uint64_t size, uint8_t id[BUILD_ID_MAX])
{
	_cleanup_free_ uint8_t *notes = NULL;

	if (!size || size > NOTES_MAX)
		return 0;
	notes = malloc(size);
	if (!notes || !read_at(fd, notes, size, offset))
		return 0;
	return find_note(notes, size, id);
}

static size_t from_elf64(int fd, uint8_t id[BUILD_ID_MAX])
{
	Elf64_Ehdr e;

	if (!read_at(fd, &e, sizeof(e), 0) || e.e_phentsize != sizeof(Elf64_Phdr) || e.e_phnum > PHNUM_MAX)
		return 0;
	for (unsigned i = 0; i < e.e_phnum; i++) {
		Elf64_Phdr ph;
		size_t n;

		if (!read_at(fd, &ph, sizeof(ph), e.e_phoff + i * sizeof(ph)))
			return 0;
		n = ph.p_type == PT_NOTE ? read_notes(fd, ph.p_offset, ph.p_filesz, id) : 0;
		if (n)
			return n;
	}
	return 0;
}

static size_t from_elf32(int fd, uint8_t id[BUILD_ID_MAX])
{
	Elf32_Ehdr e;

	if (!read_at(fd, &e, sizeof(e), 0) || e.e_phentsize != sizeof(Elf32_Phdr) || e.e_phnum > PHNUM_MAX)
		return 0;
	for (unsigned i = 0; i < e.e_phnum; i++) {
		Elf32_Phdr ph;
		size_t n;

		if (!read_at(fd, &ph, sizeof(ph), (uint64_t)e.e_phoff + i * sizeof(ph)))
			return 0;
		n = ph.p_type == PT_NOTE ? read_notes(fd, ph.p_offset, ph.p_filesz, id) : 0;
		if (n)
			return n;
	}
	return 0;
}

size_t elf_build_id(int fd, uint8_t id[BUILD_ID_MAX])
{
	uint8_t ident[EI_NIDENT];

	if (!read_at(fd, ident, sizeof(ident), 0) || memcmp(ident, ELFMAG, SELFMAG) != 0)
		return 0;
	if (ident[EI_CLASS] == ELFCLASS64)
		return from_elf64(fd, id);
	return ident[EI_CLASS] == ELFCLASS32 ? from_elf32(fd, id) : 0;
}
