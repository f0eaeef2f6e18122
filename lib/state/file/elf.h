/* SPDX-License-Identifier: MIT */
/* The build-id of an ELF file, by which a changed executable or library is recognised. */
#ifndef CKPT_STATE_FILE_ELF_H
#define CKPT_STATE_FILE_ELF_H

#include "lib/base/base.h"

#define BUILD_ID_MAX 64u

/* Returns the length of the build-id put into @id, 0 if the file is no ELF file or has none. The file is not trusted. */
size_t elf_build_id(int fd, uint8_t id[BUILD_ID_MAX]);

#endif
