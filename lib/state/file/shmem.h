/* SPDX-License-Identifier: MIT */
/*
 * Content of shared memory objects: memfds, shared anonymous memory (memfd.c), and segments of System V (lib/state/ipc). An
 * object is a descriptor and what its MemfdInodeEntry says of it: name, size, shmid, hugetlb_flag.
 */
#ifndef CKPT_STATE_FILE_SHMEM_H
#define CKPT_STATE_FILE_SHMEM_H

#include "lib/base/op.h"
#include "lib/state/snapshot.h"

#define SHMEM_MFD_HUGETLB 4u
#define SHMEM_HUGE_SHIFT 26

/* Of the object, by its hugetlb_flag; 0: it makes no sense. */
uint64_t shmem_page_size(const MemfdInodeEntry *m);
/* hugetlb_flag of something on hugetlbfs whose pages are of @size bytes. */
uint32_t shmem_huge_flag(uint64_t size);

/* ---- dump: which pages there are, and their way to pages-N; then the pagemap */
int shmem_dump_contents(struct op *op, struct snapshot *s);
int shmem_dump_content(struct op *op, struct snapshot *s, struct snap_shmem *sh);
int shmem_write(struct op *op, struct snapshot *s, struct snap_shmem *sh);
/* pagemap-shmem-@id is somebody else's: memfds give the number up. Before anything is written. */
int shmem_claim_id(struct op *op, struct snapshot *s, uint32_t id);

/* ---- restore */
/* Reads and checks the pagemap of an object. */
int shmem_read(struct op *op, struct snapshot *s, struct snap_shmem *sh);
/* Fills the object, which is new and empty. */
int shmem_load(struct op *op, struct snapshot *s, const struct snap_shmem *sh);
/* Whether what is in it is what the checkpoint has. */
int shmem_compare(struct op *op, struct snapshot *s, const struct snap_shmem *sh, bool *same);
/* Records why something could not be done to it. */
int shmem_fail(struct op *op, const struct snap_shmem *sh, const char *what);

/* --external has @key. */
bool file_is_external(const struct op *op, const char *key);

#endif
