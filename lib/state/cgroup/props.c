/* SPDX-License-Identifier: MIT */
#include "lib/state/cgroup/props.h"

#include <ctype.h>
#include <limits.h>

#include "lib/kernel/proc/scan.h"

#define NO_LIMIT (1ull << 62) /* of hugetlb, which says a number instead of "max" */

/* Of each controller, in the order in which they are written: a limit on memory goes before that on memory with swap. */
static const struct {
	const char *controller;
	const char *names[16];
} known[] = {
	{ "cpu", { "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.rt_period_us", "cpu.rt_runtime_us" } },
	{ "memory",
	  { "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness", "memory.soft_limit_in_bytes",
	    "memory.move_charge_at_immigrate", "memory.oom_control", "memory.use_hierarchy", "memory.kmem.limit_in_bytes",
	    "memory.kmem.tcp.limit_in_bytes" } },
	{ "cpuset",
	  { "cpuset.cpus", "cpuset.mems", "cpuset.memory_migrate", "cpuset.cpu_exclusive", "cpuset.mem_exclusive",
	    "cpuset.mem_hardwall", "cpuset.memory_spread_page", "cpuset.memory_spread_slab", "cpuset.sched_load_balance",
	    "cpuset.sched_relax_domain_level" } },
	{ "blkio", { "blkio.weight" } },
	{ "net_cls", { "net_cls.classid" } },
	{ "net_prio", { "net_prio.ifpriomap" } },
	{ "pids", { "pids.max" } },
	{ "devices", { "devices.list" } },
};
static const char *const of_all_v1[] = { "cgroup.clone_children", "notify_on_release", "cgroup.procs", "tasks" };
/*
 * The limits of v2 are not in the lists of the field. They are recorded where they limit something: a cgroup that is made
 * without them would be none. Readers write whatever an image names.
 */
static const char *const of_v2[] = { "cgroup.subtree_control", "cgroup.max.descendants", "cgroup.max.depth", "cgroup.freeze",
				     "cgroup.type", "cgroup.procs" };
static const struct {
	const char *name, *value; /* the kernel's own */
} limits_of_v2[] = {
	{ "cpuset.cpus", "" }, { "cpuset.mems", "" }, { "cpuset.cpus.partition", "member" },
	{ "cpu.weight", "100" }, { "cpu.max", "max 100000" }, { "cpu.max.burst", "0" }, { "cpu.idle", "0" },
	{ "memory.min", "0" }, { "memory.low", "0" }, { "memory.high", "max" }, { "memory.max", "max" },
	{ "memory.swap.high", "max" }, { "memory.swap.max", "max" }, { "memory.zswap.max", "max" }, { "memory.oom.group", "0" },
	{ "io.weight", "default 100" }, { "io.bfq.weight", "default 100" }, { "io.max", "" }, { "io.latency", "" },
	{ "pids.max", "max" },
	{ "hugetlb.2MB.max", "max" }, { "hugetlb.1GB.max", "max" }, { "hugetlb.2MB.rsvd.max", "max" }, { "hugetlb.1GB.rsvd.max", "max" },
};

static int add(struct arena *a, cg_names *out, const char *name)
{
	const char **slot;

	for (size_t i = 0; i < out->n; i++)
		if (!strcmp(out->v[i], name))
			return 0;
	slot = ARRAY_ADD(a, out);
	if (!slot)
		return -1;
	*slot = name;
	return 0;
}

static int add_known(struct arena *a, const char *controller, cg_names *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (strcmp(known[i].controller, controller))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(known[i].names) && known[i].names[k]; k++)
			if (add(a, out, known[i].names[k]))
				return -1;
	}
	return 0;
}

static int add_own(struct arena *a, const struct cg_prop_list *l, cg_names *out)
{
	for (size_t i = 0; i < l->names.n; i++)
		if (add(a, out, l->names.v[i]))
			return -1;
	return 0;
}

static int of_controller(struct arena *a, const char *controller, const struct cg_prop_lists *own, cg_names *out)
{
	bool replaced = false;

	for (size_t i = 0; i < own->v.n; i++)
		replaced = replaced || (own->v.v[i].replace && !strcmp(own->v.v[i].controller, controller));
	if (!replaced && add_known(a, controller, out))
		return -1;
	for (size_t i = 0; i < own->v.n; i++)
		if (!strcmp(own->v.v[i].controller, controller) && add_own(a, &own->v.v[i], out))
			return -1;
	return 0;
}

/* Whatever was asked for: it is there, or it is not. */
static int of_unified(struct arena *a, const struct cg_prop_lists *own, cg_names *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(of_v2); i++)
		if (add(a, out, of_v2[i]))
			return -1;
	for (size_t i = 0; i < ARRAY_SIZE(limits_of_v2); i++)
		if (add(a, out, limits_of_v2[i].name))
			return -1;
	for (size_t i = 0; i < own->v.n; i++)
		if (add_own(a, &own->v.v[i], out))
			return -1;
	return 0;
}

int cg_props_of(struct arena *a, const char *hierarchy, const struct cg_prop_lists *own, cg_names *out)
{
	if (!*hierarchy)
		return of_unified(a, own, out);
	for (size_t i = 0; i < ARRAY_SIZE(of_all_v1); i++)
		if (add(a, out, of_all_v1[i]))
			return -1;
	for (const char *at = hierarchy; *at;) {
		size_t n = strcspn(at, ",");
		const char *name = arena_strndup(a, at, n);

		if (!name || of_controller(a, name, own, out))
			return -1;
		at += n + (at[n] == ',');
	}
	return 0;
}

bool cg_prop_is_list_of_tasks(const char *name)
{
	return !strcmp(name, "cgroup.procs") || !strcmp(name, "tasks") || !strcmp(name, "cgroup.threads");
}

bool cg_prop_is_early(const char *name)
{
	static const char *const early[] = { "cpuset.cpus", "cpuset.mems", "devices.list", "memory.kmem.limit_in_bytes",
					     "memory.swappiness", "memory.oom_control", "memory.use_hierarchy", "cgroup.type" };

	for (size_t i = 0; i < ARRAY_SIZE(early); i++)
		if (!strcmp(early[i], name))
			return true;
	return false;
}

bool cg_prop_freezes(const char *name)
{
	return !strcmp(name, "freezer.state") || !strcmp(name, "cgroup.freeze");
}

bool cg_prop_is_default(const struct cg_prop_lists *own, const char *name, const char *value)
{
	for (size_t i = 0; i < own->v.n; i++)
		for (size_t k = 0; k < own->v.v[i].names.n; k++)
			if (!strcmp(own->v.v[i].names.v[k], name))
				return false;
	for (size_t i = 0; i < ARRAY_SIZE(limits_of_v2); i++)
		if (!strcmp(limits_of_v2[i].name, name))
			return !strcmp(limits_of_v2[i].value, value) ||
			       (!strcmp(limits_of_v2[i].value, "max") && strtoull(value, NULL, 10) >= NO_LIMIT);
	return false;
}

bool cg_prop_name_ok(const char *name)
{
	return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..") && strlen(name) <= NAME_MAX;
}

/* "oom_kill_disable 0\nunder_oom 0": the digit */
static void reduce_oom_control(char *value)
{
	char *digit = strpbrk(value, "0123456789");

	if (!digit)
		return;
	value[0] = *digit;
	value[1] = '\0';
}

void cg_prop_normalize(const char *name, char *value)
{
	size_t n = strlen(value), skip = 0;
	char *end;

	while (n && isspace((unsigned char)value[n - 1]))
		n--;
	while (skip < n && isspace((unsigned char)value[skip]))
		skip++;
	memmove(value, value + skip, n - skip);
	value[n - skip] = '\0';
	if (!strcmp(name, "memory.oom_control"))
		reduce_oom_control(value);
	/* No limit, in a number that other kernels may not take. */
	if (isdigit((unsigned char)value[0]) && strtoull(value, &end, 10) >= LLONG_MAX && !*end)
		memcpy(value, "-1", 3);
}

/* ------------------------------------------------------------------------------------------------ --cgroup-props */

/* A word in double quotes, not empty unless @empty. */
static const char *quoted(struct arena *a, struct scan *s, bool empty)
{
	struct scan word;

	if (!scan_char(s, '"') || !memchr(s->p, '"', SCAN_LEN(s)))
		return NULL;
	word = scan_until(s, '"');
	if ((!empty && scan_end(&word)) || memchr(word.p, '\0', SCAN_LEN(&word)))
		return NULL;
	return arena_strndup(a, word.p, SCAN_LEN(&word));
}

static bool parse_head(struct arena *a, struct scan *line, struct cg_prop_list *l)
{
	l->controller = quoted(a, line, true);
	return l->controller && scan_char(line, ':') && scan_end(line);
}

static bool parse_strategy(struct arena *a, struct scan *line, struct cg_prop_list *l)
{
	const char *word;

	if (!scan_lit(line, " - \"strategy\": "))
		return false;
	word = quoted(a, line, false);
	if (!word || !scan_end(line))
		return false;
	l->replace = !strcmp(word, "replace");
	return l->replace || !strcmp(word, "merge");
}

static bool parse_names(struct arena *a, struct scan *line, struct cg_prop_list *l)
{
	if (!scan_lit(line, " - \"properties\": ["))
		return false;
	while (!scan_char(line, ']')) {
		const char *name, **slot;

		if (l->names.n && !scan_lit(line, ", "))
			return false;
		name = quoted(a, line, false);
		slot = name && cg_prop_name_ok(name) ? ARRAY_ADD(a, &l->names) : NULL;
		if (!slot)
			return false;
		*slot = name;
	}
	return scan_end(line);
}

int cg_props_parse(struct arena *a, const char *text, size_t len, struct cg_prop_lists *out, unsigned *line)
{
	static bool (*const parts[])(struct arena *, struct scan *, struct cg_prop_list *) = { parse_head, parse_strategy, parse_names };
	struct scan s = SCAN(text, len), l;

	for (*line = 0; !scan_end(&s);) {
		struct cg_prop_list *list = ARRAY_ADD(a, &out->v);

		if (!list) {
			*line = 0;
			return -1;
		}
		for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
			++*line;
			if (!scan_line(&s, &l) || !parts[i](a, &l, list))
				return -1;
		}
	}
	return 0;
}
