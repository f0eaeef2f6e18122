/* SPDX-License-Identifier: MIT */
/*
 * Dump, when all descriptors of all tasks are known: a pseudo terminal with its master in the tree is saved whole, with its
 * session; one without belongs to somebody outside, and one such may be left to --shell-job.
 */
#include <dirent.h>
#include <poll.h>

#include "lib/state/file/tty/tty.h"
#include "lib/state/pids.h"

struct terminal *terminal_of(struct op *op, struct tty_state *ts, unsigned index, dev_t instance)
{
	struct terminal *t, **slot;

	for (size_t i = 0; i < ts->all.n; i++)
		if (ts->all.v[i]->index == index && ts->all.v[i]->instance == instance)
			return ts->all.v[i];
	t = op_new(op, struct terminal);
	slot = t ? ARRAY_ADD(op->arena, &ts->all) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	t->index = index;
	t->instance = instance;
	t->master_fd = t->slave_fd = -1;
	*slot = t;
	return t;
}

static bool in_tree(const struct snapshot *s, pid_t host)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].host == host)
			return true;
	return false;
}

/* ---------------------------------------------------------------------------------------- masters in the tree */

/* Through the master anybody may ask. */
static int whole_session(struct op *op, const struct snapshot *s, struct terminal *t)
{
	pid_t sid = 0, pgrp = 0;

	if (ioctl(t->master_fd, TIOCGSID, &sid) < 0)
		sid = 0;
	if (!sid || ioctl(t->master_fd, TIOCGPGRP, &pgrp) < 0 || pgrp < 0)
		pgrp = 0;
	if (sid && !in_tree(s, sid))
		return file_refuse(op, &t->where, "pty master", "checkpoint both sides together, or neither",
				   "terminal %u is that of session %d, which is outside of the tree", t->index, sid);
	t->master->sid = (uint32_t)pids_inside(s->pids, sid);
	t->master->pgrp = (uint32_t)pids_inside(s->pids, pgrp);
	if (t->slave) {
		t->slave->sid = t->master->sid;
		t->slave->pgrp = t->master->pgrp;
	}
	return 0;
}

/* Other instances of devpts have terminals of that name, too. */
static bool links_to(int dir, const char *name, const char *want, dev_t instance)
{
	char link[64];
	ssize_t n = readlinkat(dir, name, link, sizeof(link) - 1);
	struct stat st;

	if (n <= 0)
		return false;
	link[n] = 0;
	return strcmp(link, want) == 0 && fstatat(dir, name, &st, 0) == 0 && st.st_dev == instance;
}

/* Who, outside, has the slave open? Asked only where nobody inside has. 0: nobody. */
static pid_t outside_holder(const struct snapshot *s, unsigned index, dev_t instance)
{
	DIR *proc = opendir("/proc");
	char path[300], want[32];
	struct dirent *e, *f;
	pid_t found = 0;

	snprintf(want, sizeof(want), "/dev/pts/%u", index);
	while (proc && !found && (e = readdir(proc))) {
		pid_t pid = atoi(e->d_name);
		DIR *fds;

		if (pid <= 0 || pid == getpid() || in_tree(s, pid))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd", pid);
		fds = opendir(path);
		while (fds && !found && (f = readdir(fds)))
			if (links_to(dirfd(fds), f->d_name, want, instance))
				found = pid;
		if (fds)
			closedir(fds);
	}
	if (proc)
		closedir(proc);
	return found;
}

static int without_slave(struct op *op, const struct snapshot *s, struct terminal *t)
{
	struct pollfd p = { .fd = t->master_fd };
	pid_t holder;

	if (poll(&p, 1, 0) == 1 && (p.revents & POLLHUP)) {
		t->extra->has_slave_closed = t->extra->slave_closed = true;
		return 0;
	}
	holder = outside_holder(s, t->index, t->instance);
	if (!holder)
		return 0; /* nobody has opened it yet */
	return file_refuse(op, &t->where, "pty master", "checkpoint both sides together, or neither",
			   "terminal %u is open in process %d, which is outside of the tree", t->index, holder);
}

static int complete_whole(struct op *op, struct snapshot *s, struct terminal *t)
{
	int r;

	t->extra = op_new(op, PtyExtraEntry);
	if (!t->extra)
		return CKPT_E_NOMEM;
	pty_extra_entry__init(t->extra);
	t->extra->index = t->index;
	r = whole_session(op, s, t);
	return r || t->slave ? r : without_slave(op, s, t);
}

/* --------------------------------------------------------------------------------- masters outside of the tree */

/* A number belongs to one terminal only: the format has no room for two instances of devpts. */
static int check_unique(struct op *op, const struct tty_state *ts, const struct terminal *t)
{
	for (size_t i = 0; i < ts->all.n; i++)
		if (ts->all.v[i] != t && ts->all.v[i]->index == t->index && !(ts->all.v[i]->hung_up && t->hung_up))
			return file_refuse(op, &t->where, "terminal", NULL,
					   "two terminals have number %u, in two instances of devpts: not supported", t->index);
	return 0;
}

/*
 * A container's: the slave is in its own devpts, and the master is held by its runtime, which gets a new one at the restore
 * (--orphan-pts-master). Session and foreground group show only in the tasks whose controlling terminal it is.
 */
static bool may_be_orphan(const struct snapshot *s, const struct terminal *t)
{
	return mounts_own(s) && !t->where.astray && t->slave;
}

static int complete_orphan(struct op *op, const struct snapshot *s, struct terminal *t)
{
	t->orphan = true;
	for (size_t i = 0; i < s->tasks.n; i++) {
		struct proc_stat stat;
		int r = proc_read_stat(op, s->tasks.v[i].host, &stat);

		if (r < 0)
			return r;
		if (r || !stat.tty_nr || (dev_t)stat.tty_nr != (dev_t)t->slave->rdev || !in_tree(s, stat.session))
			continue;
		t->slave->sid = (uint32_t)pids_inside(s->pids, stat.session);
		t->slave->pgrp = stat.tpgid > 0 ? (uint32_t)pids_inside(s->pids, stat.tpgid) : 0;
		break;
	}
	return 0;
}

/* The terminal that is left to our caller. @given: the one that was found before. */
static int complete_outside(struct op *op, const struct snapshot *s, const struct fd_view *where, unsigned index,
			    const struct terminal **given)
{
	const struct tty_state *ts = s->file_state->tty;
	struct proc_stat stat;

	if (!op->opts->shell_job)
		return tty_refuse_outside(op, where);
	for (size_t i = 0; i < ts->all.n && !*given; i++)
		if (ts->all.v[i]->index == index && !ts->all.v[i]->master)
			*given = ts->all.v[i];
	if (*given && (*given)->index != index)
		return file_refuse(op, where, "terminal", NULL,
				   "a second terminal from outside (after number %u): --shell-job can replace only one",
				   (*given)->index);
	if (proc_read_stat(op, where->pid, &stat) == 0 && in_tree(s, stat.session) && stat.tty_nr &&
	    is_pty_slave((dev_t)stat.tty_nr) && pty_number((dev_t)stat.tty_nr) == index)
		return file_refuse(op, where, "terminal",
				   "checkpoint the program that it runs, or what holds the master, too; or name it with "
				   "--external, and give the restored one a new terminal with --inherit-fd",
				   "%s is the controlling terminal of session %d, which the tree leads, and its master is outside",
				   where->link, stat.session);
	return 0;
}

static struct terminal *whole_by_index(const struct tty_state *ts, unsigned index)
{
	for (size_t i = 0; i < ts->all.n; i++)
		if (ts->all.v[i]->index == index && terminal_session(ts->all.v[i]))
			return ts->all.v[i];
	return NULL;
}

static int complete_ctty(struct op *op, struct snapshot *s, struct ctty_file *c, const struct terminal **given)
{
	struct tty_state *ts = s->file_state->tty;
	struct terminal *t = c->pty ? whole_by_index(ts, c->index) : NULL;
	CttyFileEntry *m, **slot;

	if (!t)
		return complete_outside(op, s, &c->where, c->pty ? c->index : ~0u, given);
	t->has_ctty = true;
	if (c->async >= 0) {
		int *fd = ARRAY_ADD(op->arena, &t->async);

		if (!fd)
			return op_nomem(op);
		*fd = TAKE_FD(c->async);
	}
	m = op_new(op, CttyFileEntry);
	slot = m ? ARRAY_ADD(op->arena, &ts->ctty_entries) : NULL;
	if (!slot)
		return op_nomem(op);
	ctty_file_entry__init(m);
	m->file_id = c->file->id;
	m->index = c->index;
	*slot = m;
	return 0;
}

static bool is_given(const struct snapshot *s, const struct proc_stat *stat)
{
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->type == TTY_TYPE__EXT_TTY && s->ttys.v[i]->rdev == (uint32_t)stat->tty_nr)
			return true;
	return false;
}

/* It is in a session of the tree and has not the terminal of that. */
static int note_without(struct op *op, const struct snapshot *s, const struct proc_stat *stat)
{
	struct tty_state *ts = s->file_state->tty;
	uint32_t sid = (uint32_t)pids_inside(s->pids, stat->session);

	for (size_t i = 0; ts && i < ts->all.n; i++) {
		const TtyInfoEntry *info = terminal_session(ts->all.v[i]);
		uint32_t *slot;

		if (!info || info->sid != sid)
			continue;
		slot = ARRAY_ADD(op->arena, &ts->no_ctty);
		if (!slot)
			return op_nomem(op);
		*slot = (uint32_t)pids_inside(s->pids, stat->pid);
		break;
	}
	return 0;
}

/* A session may have a controlling terminal of which nobody in the tree has a descriptor. */
static int complete_task(struct op *op, const struct snapshot *s, pid_t pid)
{
	const struct terminal *t;
	struct proc_stat stat;
	int r = proc_read_stat(op, pid, &stat);
	dev_t rdev = r ? 0 : (dev_t)stat.tty_nr;

	if (r == 0 && !rdev && stat.state != 'Z')
		return note_without(op, s, &stat);
	if (r || !rdev || stat.session != pid || is_given(s, &stat))
		return r < 0 ? r : 0;
	t = is_pty_slave(rdev) && s->file_state->tty ? whole_by_index(s->file_state->tty, pty_number(rdev)) : NULL;
	if (t && terminal_session(t)->sid == (uint32_t)pids_inside(s->pids, pid))
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = pid, .kind = "terminal",
			  .hint = "checkpoint what holds its master, too, or start the program with setsid(1)"),
		       "task %d leads a session whose controlling terminal (%u:%u) is outside of the tree", pid, major(rdev),
		       minor(rdev));
}

int tty_complete(struct op *op, struct snapshot *s)
{
	struct tty_state *ts = s->file_state->tty;
	const struct terminal *given = NULL;
	int r = 0;

	for (size_t i = 0; ts && !r && i < ts->all.n; i++) {
		struct terminal *t = ts->all.v[i];

		r = check_unique(op, ts, t);
		if (!r && t->master)
			r = complete_whole(op, s, t);
		else if (!r && !t->hung_up && may_be_orphan(s, t))
			r = complete_orphan(op, s, t);
		else if (!r && !t->hung_up)
			r = complete_outside(op, s, &t->where, t->index, &given);
	}
	for (size_t i = 0; ts && !r && i < ts->cttys.n; i++)
		r = complete_ctty(op, s, &ts->cttys.v[i], &given);
	for (size_t i = 0; !r && i < s->tasks.n; i++)
		r = complete_task(op, s, s->tasks.v[i].host);
	return r || !ts ? r : tty_queues_collect(op, s);
}
