// SPDX-License-Identifier: MIT
/* /proc/PID/mountinfo: fields divided by single blanks, with blanks, tabs, newlines and backslashes in them in octal. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

static bool octal(const char *p, char *out)
{
	if (p[0] != '\\' || p[1] < '0' || p[1] > '3' || p[2] < '0' || p[2] > '7' || p[3] < '0' || p[3] > '7')
		return false;
	*out = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
	return true;
}

/* The next field, unescaped, into the arena. It may be empty (a source often is). */
static const char *field(struct arena *a, struct scan *line)
{
	struct scan f = scan_until(line, ' ');
	char *copy = arena_alloc(a, SCAN_LEN(&f) + 1), *q = copy;

	if (!copy)
		return NULL;
	while (!scan_end(&f)) {
		if (SCAN_LEN(&f) >= 4 && octal(f.p, q)) {
			f.p += 4;
			q++;
		} else {
			*q++ = *f.p++;
		}
	}
	*q = 0;
	return copy;
}

/* "shared:1 master:2 propagate_from:3 unbindable -" */
static bool parse_optional(struct scan *line, struct proc_mount *m)
{
	while (!scan_end(line)) {
		struct scan f = scan_until(line, ' ');

		if (scan_is(&f, "-"))
			return true;
		if (scan_is(&f, "unbindable"))
			m->unbindable = true;
		if (scan_lit(&f, "shared:") && !scan_int(&f, &m->shared_id))
			return false;
		if (scan_lit(&f, "master:") && !scan_int(&f, &m->master_id))
			return false;
	}
	return false;
}

static bool parse_mount(struct arena *a, struct scan *line, struct proc_mount *m)
{
	if (!scan_int(line, &m->mnt_id) || !scan_char(line, ' ') || !scan_int(line, &m->parent_id) ||
	    !scan_char(line, ' ') || !scan_u32(line, 10, &m->dev_major) || !scan_char(line, ':') ||
	    !scan_u32(line, 10, &m->dev_minor) || !scan_char(line, ' '))
		return false;
	m->root = field(a, line);
	m->mountpoint = field(a, line);
	m->options = field(a, line);
	if (!m->root || !m->mountpoint || !m->options || !m->options[0] || !parse_optional(line, m))
		return false;
	m->fstype = field(a, line);
	m->source = field(a, line);
	m->sb_options = field(a, line);
	return m->fstype && m->source && m->sb_options && m->fstype[0] && m->sb_options[0];
}

int proc_parse_mountinfo(struct arena *a, const char *text, size_t len, struct proc_mounts *out)
{
	struct scan s = SCAN(text, len), line;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_mount *m = ARRAY_ADD(a, &out->v);

		if (!m || !parse_mount(a, &line, m))
			return -1;
	}
	return 0;
}
