// SPDX-License-Identifier: MIT
/* Any bytes as the vDSO of an image: its symbols, the comparison with the running one, and the redirection to it. */
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "lib/state/mem/vdso_elf.h"
#include "tests/fuzz/fuzz.h"

#define OWN_LEN 8192u /* the least that a vDSO of this architecture has had for long; the symbols are in it */

static const void *own(void)
{
	return (const void *)getauxval(AT_SYSINFO_EHDR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vdso_patches done;
	struct vdso_elf now, v;
	unsigned char *copy;

	if (!own() || !vdso_elf_open(&now, own(), OWN_LEN))
		return 0;
	copy = malloc(size ? size : 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	if (vdso_elf_open(&v, copy, size)) {
		vdso_elf_same(&v, &now);
		vdso_elf_same(&now, &v);
		if (vdso_redirect(copy, &v, &now, 0x7fff00000000, &done))
			for (size_t i = 0; i < done.n; i++)
				if (done.v[i].off > size || done.v[i].len > size - done.v[i].off)
					abort();
	}
	free(copy);
	return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	size_t n = cap < OWN_LEN ? cap : OWN_LEN;

	if (i || !own())
		return 0;
	memcpy(buf, own(), n);
	return n;
}
