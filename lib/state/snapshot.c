/* SPDX-License-Identifier: MIT */
/* Look-ups in a snapshot. */
#include "lib/state/snapshot.h"

struct snap_file *snapshot_file(const struct snapshot *s, uint32_t id)
{
	size_t lo = 0, hi = s->files.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->files.v[mid]->id == id)
			return s->files.v[mid];
		if (s->files.v[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}
