/* SPDX-License-Identifier: MIT */
/* Look-ups in a snapshot. */
#include "lib/state/snapshot.h"

#include "lib/state/msg.h"

int snapshot_mark(struct op *op, struct snapshot *s, const char *what)
{
	PluginsEntry *e = s->inventory->plugins_entry;
	char **all;

	for (size_t i = 0; e && i < e->n_plugins; i++)
		if (!strcmp(e->plugins[i], what))
			return 0;
	if (!e)
		e = s->inventory->plugins_entry = msg_new(op, PluginsEntry, plugins_entry);
	all = e ? op_alloc(op, (e->n_plugins + 1) * sizeof(*all)) : NULL;
	if (!all)
		return CKPT_E_NOMEM;
	if (e->n_plugins)
		memcpy(all, e->plugins, e->n_plugins * sizeof(*all));
	all[e->n_plugins++] = arena_strdup(op->arena, what);
	e->plugins = all;
	return all[e->n_plugins - 1] ? 0 : op_nomem(op);
}

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

pid_t snapshot_first_holder(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t j = 0; j < s->tasks.v[i].fds.n; j++)
			if (s->tasks.v[i].fds.v[j]->id == id)
				return s->tasks.v[i].pid;
	return 0;
}
