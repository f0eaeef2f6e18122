/* SPDX-License-Identifier: MIT */
/* What the files of this folder share. */
#ifndef CKPT_STATE_CGROUP_CORE_H
#define CKPT_STATE_CGROUP_CORE_H

#include "lib/kernel/proc/read.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/cgroup/props.h"

/* A hierarchy that this machine has. */
struct cg_hier {
	const char *name; /* of its controllers, as in /proc/PID/cgroup: "cpu,cpuacct", "name=systemd", "": v2 */
	const char *ours; /* the path of whoever dumps or restores */
	int fd;		  /* its root, as our cgroup namespace sees it; -1: not opened yet */
	const char *entered; /* restore: where the root task went; NULL: it stayed in ours */
	char *root_from, *root_to; /* restore: what --cgroup-root replaces, and by what; NULL: nothing */
};

/* Where a thread is in one of them. */
struct cg_place {
	struct cg_hier *hier;
	const char *path;
	size_t ns; /* leading bytes of it that are the root of the thread's cgroup namespace; 0: that is the root, or ours */
};

/* A combination of places. */
struct cg_set {
	uint32_t id;
	const struct snap_ns *ns; /* dump: of those who are in it, if it is not ours */
	ARRAY(struct cg_place) places; /* dump: in the order of the hierarchies; restore: those that matter here */
};

/* A folder of the image. */
struct cg_dir {
	struct cg_hier *hier;
	const CgroupDirEntry *msg;
	const char *path; /* where it goes here */
	bool root;	  /* of the hierarchy */
	bool made;	  /* by us */
};

/* What was changed, in that order, and is changed back if the restore fails. */
struct cg_change {
	struct cg_hier *hier;
	const char *path; /* of the folder */
	const char *prop; /* NULL: the folder was made */
	const char *value; /* of the property, before */
};

/* Text that was seen in /proc/TID/cgroup. */
struct cg_seen {
	const char *text;
	const struct snap_ns *ns;
	uint32_t id;
};

struct cgroup_state {
	ARRAY(struct cg_hier *) hiers;
	struct proc_mounts mounts; /* of ours; empty until they are asked for */
	ARRAY(struct cg_set *) sets;
	CgroupEntry *img; /* NULL: none was written, or read */
	/* dump */
	ARRAY(struct cg_seen) seen;
	struct cg_prop_lists props;
	int was_frozen; /* the cgroup of --freeze-cgroup, by others; -1: there is none */
	/* restore */
	ARRAY(struct cg_dir) dirs; /* parents first */
	ARRAY(struct cg_change) changes;
	struct cg_set **of_task; /* of the leaders, by the index of the task; NULL: stays in ours */
	ARRAY(struct cg_dir *) frozen; /* that were frozen by others, and are to be again */
};

/* ---- hier.c */
static inline bool cg_is_v2(const struct cg_hier *h)
{
	return !*h->name;
}
/* A member of the list @name: "cpu" of "cpu,cpuacct". */
bool cg_has_word(const char *list, const char *word);
/* As people say: "the cgroup hierarchy cpu,cpuacct". */
const char *cg_word(const struct cg_hier *h);
/* Those of this machine, with our places in them. Any number of times. */
int cg_hiers_find(struct op *op, struct snapshot *s);
struct cg_hier *cg_hier(const struct cgroup_state *st, const char *name); /* NULL: there is none */
/* Opens its root. Nothing is mounted where anybody sees it. */
int cg_hier_open(struct op *op, struct cgroup_state *st, struct cg_hier *h);
/* A folder of an open one; @flags: O_PATH or O_RDONLY. -1 (errno). */
int cg_open_dir(const struct cg_hier *h, const char *path, int flags);
struct cgroup_state *cg_state(struct op *op, struct snapshot *s); /* NULL: out of memory (recorded) */

/* Whether @path is @dir, or below it. */
bool cg_is_below(const char *path, const char *dir);

/* A path in a hierarchy as an image may name it: absolute, and without ".." in it. */
bool cg_path_ok(const char *path);
/* What --cgroup-root says of a hierarchy; NULL: nothing. */
const char *cg_root_option(const struct ckpt_strv *options, const char *hier);
int cg_check_root_options(struct op *op);

/* ---- value.c */
#define CG_VALUE_MAX (64u << 10)
/* What is read from @fd, in the form in which it can be written; *@value is NULL where it cannot be read. 0 or no memory. */
int cg_read_value(struct op *op, int fd, const char *name, char **value);
/* The same by its name in the folder @dir; NULL, too, where there is none. */
int cg_value(struct op *op, int dir, const char *name, char **value);
/*
 * Writes it, as the property wants that. @exact: what is more than @value goes (of those that can be added to). -1 (errno),
 * ENOENT where the folder has no such property.
 */
int cg_write_value(struct op *op, int dir, const char *name, const char *value, bool exact);

/* ---- sets.c; dump */
int cg_sets_dump(struct op *op, struct snapshot *s);
/* Everybody is in the dumper's. Returns 0. */
int cg_sets_forget(struct snapshot *s);
/* ---- dirs.c; dump: folders and properties, into st->img */
int cg_dirs_dump(struct op *op, struct snapshot *s);

/* ---- read.c; restore */
/* Checks st->img (NULL: there is none), and makes sets and folders of it, of the hierarchies in st->hiers. */
int cg_take_image(struct op *op, struct snapshot *s);
struct cg_set *cg_set_find(const struct cgroup_state *st, uint32_t id);
/* That of a task, or of one of its threads; NULL: it stays in the cgroups of whoever restores. */
struct cg_set *cg_set_of(const struct snapshot *s, size_t task, size_t thread);
/* Where a set is in @h: ours, if it says nothing of it, or is NULL. */
const struct cg_place *cg_place_in(const struct cg_set *set, const struct cg_hier *h);

/* ---- make.c */
/* Notes a change that is to be undone. */
int cg_note(struct op *op, struct cgroup_state *st, struct cg_hier *h, const char *path, const char *prop, const char *value);
/* The mode of the restore wants properties of this folder. */
bool cg_wants_props(const struct op *op, const struct cg_dir *d);

/* ---- nested.c; dump and restore */
/* Refuses tasks in another cgroup namespace than the root where that cannot be restored. */
int cg_nested_check(struct op *op, const struct snapshot *s);
int cg_nested_dump(struct op *op, struct snapshot *s); /* marks the checkpoint */
/* The folders are there. */
int cg_nested_make(struct op *op, const struct snapshot *s);

/* ---- freeze.c; restore */
/* Folders that tasks are to enter must not be frozen: those of the image are thawed, others are in the way. */
int cg_thaw(struct op *op, struct cgroup_state *st);

#endif
