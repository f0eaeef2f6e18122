// SPDX-License-Identifier: MIT
/*
 * /proc/PID/maps and smaps. One pass over the text, one line at a time; in smaps all lines but six kinds are skipped by
 * their first letter, since a process with 60,000 areas has 1.5 million of them.
 */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

#define TAG(a, b) ((unsigned)(unsigned char)(a) << 8 | (unsigned char)(b))

static uint32_t vmflag(const char *p)
{
	switch (TAG(p[0], p[1])) {
	case TAG('r', 'd'):
		return VMF_RD;
	case TAG('w', 'r'):
		return VMF_WR;
	case TAG('e', 'x'):
		return VMF_EX;
	case TAG('s', 'h'):
		return VMF_SH;
	case TAG('g', 'd'):
		return VMF_GD;
	case TAG('p', 'f'):
		return VMF_PF;
	case TAG('l', 'o'):
		return VMF_LO;
	case TAG('i', 'o'):
		return VMF_IO;
	case TAG('s', 'r'):
		return VMF_SR;
	case TAG('r', 'r'):
		return VMF_RR;
	case TAG('d', 'c'):
		return VMF_DC;
	case TAG('d', 'e'):
		return VMF_DE;
	case TAG('n', 'r'):
		return VMF_NR;
	case TAG('h', 't'):
		return VMF_HT;
	case TAG('d', 'd'):
		return VMF_DD;
	case TAG('m', 'm'):
		return VMF_MM;
	case TAG('h', 'g'):
		return VMF_HG;
	case TAG('n', 'h'):
		return VMF_NH;
	case TAG('m', 'g'):
		return VMF_MG;
	case TAG('u', 'm'):
		return VMF_UM;
	case TAG('u', 'w'):
		return VMF_UW;
	case TAG('u', 'i'):
		return VMF_UI;
	case TAG('w', 'f'):
		return VMF_WF;
	case TAG('s', 's'):
		return VMF_SS;
	case TAG('s', 'l'):
		return VMF_SL;
	case TAG('d', 'p'):
		return VMF_DP;
	case TAG('l', 'f'):
		return VMF_LF;
	case TAG('m', 't'):
		return VMF_MT;
	case TAG('a', 'c'):
		return VMF_AC;
	default:
		return 0; /* may-bits, and what newer kernels add */
	}
}

static bool parse_vmflags(struct scan *line, struct proc_vma *vma)
{
	struct scan word;

	while (scan_word(line, &word)) {
		if (SCAN_LEN(&word) != 2)
			return false;
		vma->vmflags |= vmflag(word.p);
	}
	vma->has_vmflags = true;
	return true;
}

static bool parse_number(struct scan *line, uint64_t *out)
{
	scan_blanks(line);
	return scan_u64(line, out);
}

/* A line below an area. */
static bool parse_detail(struct scan *line, struct proc_vma *vma)
{
	uint64_t v;

	switch (*line->p) {
	case 'R':
		return !scan_lit(line, "Rss:") || parse_number(line, &vma->rss_kb);
	case 'A':
		return !scan_lit(line, "Anonymous:") || parse_number(line, &vma->anon_kb);
	case 'L':
		return !scan_lit(line, "Locked:") || parse_number(line, &vma->locked_kb);
	case 'K':
		return !scan_lit(line, "KernelPageSize:") || parse_number(line, &vma->kernel_page_kb);
	case 'V':
		return !scan_lit(line, "VmFlags:") || parse_vmflags(line, vma);
	case 'P':
		if (!scan_lit(line, "ProtectionKey:"))
			return true;
		if (!parse_number(line, &v) || v > UINT16_MAX)
			return false;
		vma->protection_key = (uint16_t)v;
		return true;
	default:
		return *line->p >= 'A' && *line->p <= 'Z';
	}
}

/* In this file the kernel escapes the newline only; a backslash stands for itself. */
static char *copy_name(struct arena *a, struct scan name)
{
	char *copy = arena_alloc(a, SCAN_LEN(&name) + 1), *q = copy;

	if (!copy)
		return NULL;
	while (!scan_end(&name)) {
		if (*name.p == '\\' && scan_lit(&name, "\\012"))
			*q++ = '\n';
		else
			*q++ = *name.p++;
	}
	*q = 0;
	return copy;
}

static bool parse_perms(struct scan *line, struct proc_vma *vma)
{
	static const char allowed[4][3] = { "r-", "w-", "x-", "ps" };
	static const uint32_t bits[4] = { VMF_RD, VMF_WR, VMF_EX, 0 };

	if (SCAN_LEN(line) < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		char c = *line->p++;

		if (c != allowed[i][0] && c != allowed[i][1])
			return false;
		vma->perms[i] = c;
		if (c != '-')
			vma->vmflags |= bits[i];
	}
	if (vma->perms[3] == 's')
		vma->vmflags |= VMF_SH;
	return true;
}

static bool hex32(struct scan *s, uint32_t *out)
{
	uint64_t v;

	if (!scan_hex(s, &v) || v > UINT32_MAX)
		return false;
	*out = (uint32_t)v;
	return true;
}

/* "start-end perms offset major:minor inode   name" */
static bool parse_area(struct arena *a, struct scan *line, const struct proc_vma *before, struct scan *last_name,
		       struct proc_vma *vma)
{
	if (!scan_hex(line, &vma->start) || !scan_char(line, '-') || !scan_hex(line, &vma->end) ||
	    !scan_char(line, ' ') || vma->start >= vma->end)
		return false;
	if (!parse_perms(line, vma) || !scan_char(line, ' ') || !scan_hex(line, &vma->pgoff) || !scan_char(line, ' '))
		return false;
	if (!hex32(line, &vma->dev_major) || !scan_char(line, ':') || !hex32(line, &vma->dev_minor) ||
	    !scan_char(line, ' ') || !scan_u64(line, &vma->inode))
		return false;
	vma->name = "";
	if (scan_end(line))
		return true;
	/* The name is padded to a column; it may itself begin with a blank only if it is no path, which none is. */
	if (!scan_char(line, ' '))
		return false;
	scan_blanks(line);
	if (scan_end(line))
		return true;
	/* Segments of one library follow each other: one copy of the name serves them all. */
	if (before && SCAN_LEN(last_name) == SCAN_LEN(line) && memcmp(last_name->p, line->p, SCAN_LEN(line)) == 0)
		vma->name = before->name;
	else
		vma->name = copy_name(a, *line);
	*last_name = *line;
	return vma->name != NULL;
}

int proc_parse_maps(struct arena *a, const char *text, size_t len, struct proc_maps *out)
{
	struct scan s = SCAN(text, len), line, last_name = { text, text };

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_vma *vma = out->vmas.n ? &out->vmas.v[out->vmas.n - 1] : NULL;

		if (scan_end(&line))
			return -1;
		if (scan_digit(*line.p) >= 16) {
			if (!vma || !parse_detail(&line, vma))
				return -1;
			continue;
		}
		vma = ARRAY_ADD(a, &out->vmas);
		if (!vma)
			return -1;
		if (!parse_area(a, &line, out->vmas.n > 1 && vma[-1].name[0] ? vma - 1 : NULL, &last_name, vma))
			return -1;
	}
	return 0;
}
