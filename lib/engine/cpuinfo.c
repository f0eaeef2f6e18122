// SPDX-License-Identifier: MIT
#include "lib/engine/cpuinfo.h"

#include "lib/image/image.h"
#include "lib/kernel/arch/x86_64/cpuinfo.h"

/* ------------------------------------------------------------------------------------------------- words */

static bool is_word(const char *s, size_t len, const char *word)
{
	return strlen(word) == len && strncmp(s, word, len) == 0;
}

/* As they come: each adds to, or with a ^ takes away from, what is there; it begins with what is asked for most. */
int cpuinfo_caps(struct op *op, const char *list, unsigned *caps)
{
	static const struct {
		const char *word;
		unsigned caps;
	} known[] = {
		{ "fpu", CPU_CAP_FPU }, { "cpu", CPU_CAP_CPU }, { "ins", CPU_CAP_INS }, { "image", CPU_CAP_IMAGE },
		{ "all", CPU_CAP_FPU | CPU_CAP_CPU | CPU_CAP_INS }, { "none", 0 },
	};
	bool none = true;

	*caps = 0;
	if (!list)
		return 0;
	*caps = CPU_CAP_FPU | CPU_CAP_INS;
	for (const char *s = list, *end; s; s = *end ? end + 1 : NULL) {
		bool away = *s == '^';
		size_t i = 0;

		s += away;
		end = s + strcspn(s, ",");
		while (i < ARRAY_SIZE(known) && !is_word(s, (size_t)(end - s), known[i].word))
			i++;
		if (i == ARRAY_SIZE(known))
			return op_fail(op, CKPT_E_INVAL, AT(.kind = "cpuinfo", .hint = "cpu, fpu, ins, all or none, with ^ before what is not to be"),
				       "option --cpu-cap: '%.*s' is not understood", (int)(end - s), s);
		none = is_word(s, (size_t)(end - s), "none") && !away;
		*caps = none ? 0 : away ? *caps & ~known[i].caps : *caps | known[i].caps;
	}
	if (!none)
		*caps |= CPU_CAP_IMAGE;
	return 0;
}

/* ---------------------------------------------------------------------------------------------- operations */

int cpuinfo_write(struct op *op, struct img_dir *dir)
{
	CpuinfoEntry *here;
	unsigned caps;
	int r = cpuinfo_caps(op, op->opts->cpu_cap, &caps);

	if (r || !(caps & CPU_CAP_IMAGE))
		return r;
	r = cpuinfo_here(op, &here);
	return r ?: img_write_one(op, dir, IMG_CPUINFO, 0, &here->base);
}

static int compare(struct op *op, struct img_dir *dir, unsigned caps)
{
	ProtobufCMessage *image;
	CpuinfoEntry *here;
	int r = img_read_one(op, dir, IMG_CPUINFO, 0, &image);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "cpuinfo", .hint = "dump with --cpu-cap"),
			       "there is no cpuinfo.img to compare this processor with");
	r = r ?: cpuinfo_here(op, &here);
	return r ?: cpuinfo_compare(op, (const CpuinfoEntry *)image, here, caps);
}

int cpuinfo_check(struct op *op, struct img_dir *dir)
{
	unsigned caps;
	int r = cpuinfo_caps(op, op->opts->cpu_cap, &caps);

	return r || !(caps & CPU_CAP_IMAGE) ? r : compare(op, dir, caps);
}

int cpuinfo_dump_run(struct op *op)
{
	struct img_dir *dir = NULL;
	CpuinfoEntry *here;
	int r = img_dir_open_any(op, &dir);

	r = r ?: cpuinfo_here(op, &here);
	r = r ?: img_write_at(op, img_dir_fd(dir), IMG_CPUINFO, 0, &here->base);
	img_dir_close(dir);
	return r;
}

int cpuinfo_check_run(struct op *op)
{
	struct img_dir *dir = NULL;
	unsigned caps;
	int r = cpuinfo_caps(op, op->opts->cpu_cap ?: "fpu,ins", &caps);

	r = r ?: img_dir_open_any(op, &dir);
	r = r ?: compare(op, dir, caps);
	img_dir_close(dir);
	return r;
}
