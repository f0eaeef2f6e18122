/* SPDX-License-Identifier: MIT */
/* What is asked about BPF objects with bpf(2). */
#ifndef CKPT_STATE_FILE_BPF_H
#define CKPT_STATE_FILE_BPF_H

#include <linux/bpf.h>

#include "lib/base/op.h"

int bpf_call(enum bpf_cmd cmd, union bpf_attr *attr);
/* "hash", "per-cpu array"...; "unknown" */
const char *bpf_map_kind_name(uint32_t type);
/* Who else holds map @id: a loaded program, a map of maps or a name in /sys/fs/bpf. NULL: nobody that can be seen. */
const char *bpf_map_user(struct op *op, uint32_t id);

#endif
