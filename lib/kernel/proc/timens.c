/* SPDX-License-Identifier: MIT */
/* /proc/PID/timens_offsets: lines of clock, seconds, nanoseconds. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

#define NSEC_PER_SEC 1000000000
#define MAX_SECONDS (INT64_MAX / NSEC_PER_SEC / 2) /* the kernel's limit */

int proc_parse_time_offsets(const char *text, size_t len, struct proc_time_offsets *out)
{
	struct scan s = SCAN(text, len), line, name;

	*out = (struct proc_time_offsets){ 0 };
	while (scan_line(&s, &line)) {
		int64_t sec;
		uint32_t ns;

		if (!scan_word(&line, &name))
			return -1;
		scan_blanks(&line);
		if (!scan_s64(&line, &sec) || sec > MAX_SECONDS || sec < -MAX_SECONDS)
			return -1;
		scan_blanks(&line);
		if (!scan_u32(&line, 10, &ns) || ns >= NSEC_PER_SEC)
			return -1;
		if (scan_is(&name, "monotonic"))
			out->monotonic = sec * NSEC_PER_SEC + ns;
		else if (scan_is(&name, "boottime"))
			out->boottime = sec * NSEC_PER_SEC + ns;
	}
	return 0;
}
