/* SPDX-License-Identifier: MIT */
/* The head of an entry, as it lies in the archive: ustar, and where GNU's own form differs. */
#ifndef CKPT_STATE_MOUNT_TAR_HEAD_H
#define CKPT_STATE_MOUNT_TAR_HEAD_H

#define TAR_BLOCK_SIZE 512

struct tar_head {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[8], user[32], group[32], major[8],
		minor[8];
	union {
		char prefix[155];
		struct {
			char times[24], offset[12], longnames[4], unused;
			struct {
				char offset[12], size[12];
			} sparse[4];
			char more, real_size[12];
		} gnu;
	};
	char padding[12];
};
_Static_assert(sizeof(struct tar_head) == TAR_BLOCK_SIZE, "the head of an entry is one block");

/* Of GNU's sparse files: what did not fit into the head. */
struct tar_sparse_block {
	struct {
		char offset[12], size[12];
	} sparse[21];
	char more, padding[7];
};
_Static_assert(sizeof(struct tar_sparse_block) == TAR_BLOCK_SIZE, "a block");

#endif
