/* SPDX-License-Identifier: MIT */
/* What the processor of a dump could do: recorded in cpuinfo.img, and compared with the one of a restore, where that is asked for. */
#ifndef CKPT_ENGINE_CPUINFO_H
#define CKPT_ENGINE_CPUINFO_H

#include "lib/base/op.h"

struct img_dir;

/* The words of --cpu-cap as CPU_CAP_* (lib/kernel/arch); NULL: 0. Returns 0 or CKPT_E_INVAL. */
int cpuinfo_caps(struct op *op, const char *words, unsigned *caps);
/* Dump and restore: nothing without --cpu-cap. */
int cpuinfo_write(struct op *op, struct img_dir *dir);
int cpuinfo_check(struct op *op, struct img_dir *dir);

/* The engine of ckpt_cpuinfo_dump() and ckpt_cpuinfo_check(). */
int cpuinfo_dump_run(struct op *op);
int cpuinfo_check_run(struct op *op);

#endif
