/* SPDX-License-Identifier: MIT */
/* Any bytes as the message of cgroup.img: what is taken of it leads to no other place than folders of the hierarchies. */
#include <stdlib.h>
#include <string.h>

#include "lib/state/cgroup/core.h"
#include "lib/state/msg.h"
#include "tests/fuzz/fuzz.h"

static struct cg_hier hiers[] = { { .name = "", .ours = "/", .fd = -1 }, { .name = "pids", .ours = "/a", .fd = -1 },
				  { .name = "cpu,cpuacct", .ours = "/a/b", .fd = -1 } };

static void add_task(struct op *op, struct snapshot *s, pid_t pid, uint32_t set)
{
	struct snap_task *t = ARRAY_ADD(op->arena, &s->tasks);
	struct snap_thread *th = t ? ARRAY_ADD(op->arena, &t->threads) : NULL;

	if (!th)
		abort();
	t->pid = th->tid = pid;
	t->ps = msg_new(op, PstreeEntry, pstree_entry);
	t->ps->ppid = (uint32_t)pid - 1;
	th->core = msg_new(op, CoreEntry, core_entry);
	th->core->thread_core = msg_new(op, ThreadCoreEntry, thread_core_entry);
	msg_set(th->core->thread_core, cg_set, set);
}

static void check_path(const char *path)
{
	if (path[0] != '/' || strstr(path, "/../") || !strcmp(path + MAX(strlen(path), 3) - 3, "/.."))
		abort();
}

static void check(const struct cgroup_state *st)
{
	for (size_t i = 0; i < st->dirs.n; i++)
		check_path(st->dirs.v[i].path);
	for (size_t i = 0; i < st->sets.n; i++)
		for (size_t k = 0; k < st->sets.v[i]->places.n; k++) {
			const struct cg_place *p = &st->sets.v[i]->places.v[k];

			check_path(p->path);
			if (p->ns > strlen(p->path))
				abort();
		}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts };
	struct snapshot s = { 0 };
	struct cgroup_state *st = op.arena ? cg_state(&op, &s) : NULL;
	const char *const roots[] = { "pids:/new", ":/" };

	if (!st)
		abort();
	if (size && data[0] & 1)
		opts.cgroup_root = (struct ckpt_strv){ .v = roots, .n = 2 };
	for (size_t i = 0; i < ARRAY_SIZE(hiers); i++) {
		struct cg_hier *h = op_new(&op, struct cg_hier);

		*h = hiers[i];
		*ARRAY_ADD(op.arena, &st->hiers) = h;
	}
	s.inventory = msg_new(&op, InventoryEntry, inventory_entry);
	msg_set(s.inventory, root_cg_set, 1);
	add_task(&op, &s, 10, 1);
	add_task(&op, &s, 11, 2);
	st->img = size ? cgroup_entry__unpack(NULL, size - 1, data + 1) : NULL;
	if (st->img && cg_take_image(&op, &s) == 0)
		check(st);
	if (st->img)
		cgroup_entry__free_unpacked(st->img, NULL);
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return 0;
}

/* Two sets, one with the root of a namespace, and a forest. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	CgMemberEntry m[3] = { CG_MEMBER_ENTRY__INIT, CG_MEMBER_ENTRY__INIT, CG_MEMBER_ENTRY__INIT };
	CgroupPropEntry prop = CGROUP_PROP_ENTRY__INIT;
	CgroupPropEntry *props[] = { &prop };
	CgroupDirEntry child = CGROUP_DIR_ENTRY__INIT, head = CGROUP_DIR_ENTRY__INIT;
	CgroupDirEntry *children[] = { &child }, *heads[] = { &head };
	CgControllerEntry ctl = CG_CONTROLLER_ENTRY__INIT;
	CgControllerEntry *ctls[] = { &ctl };
	CgMemberEntry *members[] = { &m[0], &m[1], &m[2] };
	CgSetEntry set = CG_SET_ENTRY__INIT;
	CgSetEntry *sets[] = { &set };
	CgroupEntry e = CGROUP_ENTRY__INIT;
	char *names[] = { "pids" };

	if (i > 1)
		return 0;
	m[0].name = "";
	m[1].name = "pids";
	m[2].name = "cpu,cpuacct";
	m[0].path = m[2].path = "/";
	m[1].path = "/x/y";
	msg_set(&m[1], cgns_prefix, 2);
	set.id = 2;
	set.ctls = members;
	set.n_ctls = 3;
	prop.name = "pids.max";
	prop.value = "5";
	child.dir_name = "y";
	head.dir_name = "x";
	head.children = children;
	head.properties = child.properties = props;
	head.n_children = head.n_properties = child.n_properties = 1;
	ctl.cnames = names;
	ctl.dirs = heads;
	ctl.n_cnames = ctl.n_dirs = 1;
	e.sets = sets;
	e.controllers = ctls;
	e.n_sets = e.n_controllers = 1;
	if (cgroup_entry__get_packed_size(&e) + 1 > cap)
		return 0;
	buf[0] = (uint8_t)i;
	return 1 + cgroup_entry__pack(&e, buf + 1);
}
