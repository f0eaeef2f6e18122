/* SPDX-License-Identifier: MIT */
/* /proc/PID/uid_map and gid_map: a line is first number inside, first number outside, how many. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

static bool scan_column(struct scan *s, uint32_t *out)
{
	scan_blanks(s);
	return scan_u32(s, 10, out);
}

int proc_parse_id_map(struct arena *a, const char *text, size_t len, struct proc_id_map *out)
{
	struct scan s = SCAN(text, len), line;

	*out = (struct proc_id_map){ 0 };
	while (scan_line(&s, &line)) {
		struct proc_id_range *r = ARRAY_ADD(a, &out->v);

		if (!r || !scan_column(&line, &r->inside) || !scan_column(&line, &r->outside) || !scan_column(&line, &r->count))
			return -1;
		scan_blanks(&line);
		if (!scan_end(&line) || !r->count || r->inside > UINT32_MAX - (r->count - 1) ||
		    r->outside > UINT32_MAX - (r->count - 1))
			return -1;
	}
	return 0;
}
