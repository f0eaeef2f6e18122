/* SPDX-License-Identifier: MIT */
/* Properties of cgroups: which there are, and what their values look like. Pure, but for the arena. */
#ifndef CKPT_STATE_CGROUP_PROPS_H
#define CKPT_STATE_CGROUP_PROPS_H

#include "lib/base/arena.h"

/* Names of files. */
struct cg_prop_list {
	const char *controller;
	bool replace; /* instead of the known ones, not after them */
	ARRAY(const char *) names;
};

/* --cgroup-props */
struct cg_prop_lists {
	ARRAY(struct cg_prop_list) v;
};

/*
 * Lists of the form
 *	"CONTROLLER":
 *	 - "strategy": "merge"
 *	 - "properties": ["FILE", "FILE"]
 * added to @out. Returns 0, or -1: then *@line says where it is not of this form (from 1), or is 0 when out of memory.
 */
int cg_props_parse(struct arena *a, const char *text, size_t len, struct cg_prop_lists *out, unsigned *line);

/* The properties of a hierarchy (name as in /proc/PID/cgroup), in order. 0, or -1: out of memory. */
typedef ARRAY(const char *) cg_names;
int cg_props_of(struct arena *a, const char *hierarchy, const struct cg_prop_lists *own, cg_names *out);

/* Only their permissions matter. */
bool cg_prop_is_list_of_tasks(const char *name);
/* Applied to a new folder before tasks enter it. */
bool cg_prop_is_early(const char *name);
/* It holds the tasks still. */
bool cg_prop_freezes(const char *name);
/* The kernel's own value of a property of v2 that is only recorded where it is another, unless it was asked for in @own. */
bool cg_prop_is_default(const struct cg_prop_lists *own, const char *name, const char *value);
/* A value as it is read, in place: without blanks around it, and in the form in which it can be written. */
void cg_prop_normalize(const char *name, char *value);
/* A name that can be one: not of another folder. */
bool cg_prop_name_ok(const char *name);

#endif
