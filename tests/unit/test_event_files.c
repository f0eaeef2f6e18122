// SPDX-License-Identifier: MIT
/* Images that lie about epoll, timerfds, pidfds, inotify and fanotify: nothing of it is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>
#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <time.h>

#include "lib/state/file/core.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"

#define ID 7u

struct env {
	struct op op;
	struct snapshot s;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct snap_file *f;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	e->s.extra = msg_new(&e->op, CkptExtraEntry, ckpt_extra_entry);
	*state = e;
	return e->op.arena && e->s.extra && files_state(&e->op, &e->s) ? 0 : -1;
}

static int teardown(void **state)
{
	struct env *e = *state;

	files_restore_done(&e->op, &e->s, false);
	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static struct snap_file *file(struct env *e, const struct file_kind *kind)
{
	e->s.next_file_id = ID;
	e->f = file_new(&e->op, &e->s, kind);
	assert_non_null(e->f);
	return e->f;
}

/* As if it had not been opened yet. */
static void close_it(struct env *e)
{
	if (e->f->kind->done)
		e->f->kind->done(&e->op, &e->s, false);
	close_fd_p(&e->f->fd);
	e->f->fd = -1;
	e->f->priv = NULL;
}

/* The failure, and that it says @word. */
static void refused(struct env *e, int r, int code, const char *word)
{
	assert_int_equal(r, code);
	assert_non_null(strstr(ckpt_err_message(e->op.err), word));
	op_forget(&e->op);
	close_it(e);
}

static int open_it(struct env *e)
{
	return e->f->kind->open(&e->op, &e->s, e->f);
}

static TimerfdEntry *timer(struct env *e)
{
	TimerfdEntry *m = msg_new(&e->op, TimerfdEntry, timerfd_entry);

	file(e, &file_timerfd)->msg->tfd = m;
	m->clockid = CLOCK_MONOTONIC;
	return m;
}

static void timerfds(void **state)
{
	struct env *e = *state;
	TimerfdExtra *x = msg_new(&e->op, TimerfdExtra, timerfd_extra);
	TimerfdEntry *m = timer(e);

	assert_int_equal(open_it(e), 0);
	close_it(e);
	m->clockid = CLOCK_TAI;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	m->clockid = 1;
	m->vnsec = 1000000000;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	m->vnsec = 0;
	m->isec = UINT64_MAX;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	m->isec = 0;
	m->settime_flags = 4;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	e->s.extra->n_timerfds = 1;
	e->s.extra->timerfds = &x;
	x->file_id = ID + 1;
	refused(e, file_timerfd.read(&e->op, &e->s), CKPT_E_IMAGE, "no timerfd");
	x->file_id = ID;
	assert_int_equal(file_timerfd.read(&e->op, &e->s), 0);
}

static struct snap_task *task(struct env *e, unsigned n_fds)
{
	struct snap_task *t = ARRAY_ADD(e->op.arena, &e->s.tasks);

	if (!t)
		abort();
	*t = (struct snap_task){ .pid = 100 };
	for (unsigned i = 0; i < n_fds; i++) {
		FdinfoEntry *m = msg_new(&e->op, FdinfoEntry, fdinfo_entry);

		m->id = ID;
		m->fd = i;
		*ARRAY_ADD(e->op.arena, &t->fds) = m;
	}
	return t;
}

static EventpollFileEntry *epoll_of_one(struct env *e, uint32_t tfd)
{
	EventpollFileEntry *m = msg_new(&e->op, EventpollFileEntry, eventpoll_file_entry);

	m->n_tfd = 1;
	m->tfd = op_new(&e->op, EventpollTfdEntry *);
	m->tfd[0] = msg_new(&e->op, EventpollTfdEntry, eventpoll_tfd_entry);
	m->tfd[0]->tfd = tfd;
	file(e, &file_epoll)->msg->epfd = m;
	return m;
}

static int plan(struct env *e, struct plan_build *b)
{
	e->f->priv = e->s.extra->n_epolls ? e->s.extra->epolls[0] : NULL;
	*b = (struct plan_build){ .op = &e->op, .s = &e->s, .task = &e->s.tasks.v[0] };
	return file_epoll.plan(b, e->f, e->s.tasks.v[0].fds.v[0], true);
}

static void epolls(void **state)
{
	struct env *e = *state;
	EpollExtra *x = msg_new(&e->op, EpollExtra, epoll_extra);
	EventpollFileEntry *m = epoll_of_one(e, 1);
	EpollEntryExtra *xe = msg_new(&e->op, EpollEntryExtra, epoll_entry_extra);
	struct plan_build b;

	task(e, 2);
	assert_int_equal(plan(e, &b), 0);
	assert_int_equal(b.calls.n, 1);
	free(b.buf);
	m->tfd[0]->tfd = 2;
	refused(e, plan(e, &b), CKPT_E_IMAGE, "which no task has");
	free(b.buf);
	m->tfd[0]->tfd = UINT32_MAX;
	refused(e, plan(e, &b), CKPT_E_IMAGE, "out of range");
	free(b.buf);
	m->tfd[0]->tfd = 1;

	e->s.extra->epolls = &x;
	e->s.extra->n_epolls = 1;
	x->file_id = 99;
	refused(e, file_epoll.read(&e->op, &e->s), CKPT_E_IMAGE, "no epoll");
	x->file_id = ID;
	refused(e, file_epoll.read(&e->op, &e->s), CKPT_E_IMAGE, "0 entries");
	x->n_entries = 1;
	x->entries = &xe;
	xe->target = 50;
	refused(e, file_epoll.read(&e->op, &e->s), CKPT_E_IMAGE, "file id 50");
	xe->target = ID;
	assert_int_equal(file_epoll.read(&e->op, &e->s), 0);
	msg_set(xe, tfd, 1u << 20);
	refused(e, plan(e, &b), CKPT_E_IMAGE, "out of range");
	free(b.buf);
	xe->tfd = 40; /* nobody's: borrowed and given back */
	assert_int_equal(plan(e, &b), 0);
	assert_int_equal(b.calls.n, 3);
	assert_int_equal(b.numbers, 41);
	free(b.buf);
}

static void pidfds(void **state)
{
	struct env *e = *state;
	PidfdEntry *m = msg_new(&e->op, PidfdEntry, pidfd_entry);
	PidfdExtra *x = msg_new(&e->op, PidfdExtra, pidfd_extra);

	file(e, &file_pidfd)->msg->pidfd = m;
	task(e, 1);
	m->nspid = 100;
	assert_int_equal(open_it(e), 0);
	assert_int_equal(e->f->fd, -1);
	m->nspid = 1;
	refused(e, open_it(e), CKPT_E_IMAGE, "process 1");
	m->nspid = 0;
	refused(e, open_it(e), CKPT_E_IMAGE, "process 0");
	m->nspid = -2;
	refused(e, open_it(e), CKPT_E_IMAGE, "process -2");
	/* How it ended is not believed beyond what there is. */
	e->s.extra->n_pidfds = 1;
	e->s.extra->pidfds = &x;
	x->file_id = ID;
	x->exit_code = 0xffffff7f;
	m->nspid = -1;
	assert_int_equal(open_it(e), 0);
	assert_true(e->f->fd >= 0);
}

static FhEntry *handle(struct env *e, const char *path)
{
	FhEntry *h = msg_new(&e->op, FhEntry, fh_entry);

	h->path = path ? arena_strdup(e->op.arena, path) : NULL;
	return h;
}

static void inotifies(void **state)
{
	struct env *e = *state;
	InotifyFileEntry *m = msg_new(&e->op, InotifyFileEntry, inotify_file_entry);
	uint64_t words[2] = { 0 };

	file(e, &file_inotify)->msg->ify = m;
	m->n_wd = 2;
	m->wd = op_alloc(&e->op, 2 * sizeof(*m->wd));
	for (unsigned i = 0; i < 2; i++) {
		m->wd[i] = msg_new(&e->op, InotifyWdEntry, inotify_wd_entry);
		m->wd[i]->wd = 2 - i;
		m->wd[i]->mask = IN_CREATE;
		m->wd[i]->f_handle = handle(e, i ? "/" : "/tmp");
	}
	assert_int_equal(open_it(e), 0);
	assert_int_equal(file_inotify.settle(&e->op, &e->s), 0);
	close_it(e);
	m->wd[0]->wd = m->wd[1]->wd = 5;
	refused(e, open_it(e), CKPT_E_IMAGE, "watch 5");
	m->wd[1]->wd = 0;
	refused(e, open_it(e), CKPT_E_IMAGE, "watch 0");
	m->wd[0]->wd = UINT32_MAX;
	m->wd[1]->wd = 1;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	m->n_wd = 1;
	m->wd[0]->wd = 1;
	m->wd[0]->mask = 0x8000;
	refused(e, open_it(e), CKPT_E_IMAGE, "makes no sense");
	m->wd[0]->mask = IN_OPEN;
	m->wd[0]->f_handle = handle(e, "tmp");
	refused(e, open_it(e), CKPT_E_IMAGE, "not absolute");
	m->wd[0]->f_handle = handle(e, "/nowhere/to/be/found");
	refused(e, open_it(e), CKPT_E_CHANGED, "/nowhere");
	m->wd[0]->f_handle = handle(e, NULL);
	refused(e, open_it(e), CKPT_E_IMAGE, "neither a name");
	m->wd[0]->f_handle->bytes = 17;
	m->wd[0]->f_handle->n_handle = 2;
	m->wd[0]->f_handle->handle = words;
	refused(e, open_it(e), CKPT_E_IMAGE, "neither a name");
	m->wd[0]->f_handle->bytes = 4096;
	refused(e, open_it(e), CKPT_E_IMAGE, "neither a name");
	m->wd[0]->f_handle->bytes = 16;
	refused(e, open_it(e), CKPT_E_CHANGED, "handle");
}

static void fanotifies(void **state)
{
	struct env *e = *state;
	FanotifyFileEntry *m = msg_new(&e->op, FanotifyFileEntry, fanotify_file_entry);
	FanotifyMarkEntry *mark = msg_new(&e->op, FanotifyMarkEntry, fanotify_mark_entry);
	int probe = fanotify_init(0, 0);

	if (probe < 0)
		skip();
	close(probe);
	file(e, &file_fanotify)->msg->ffy = m;
	assert_int_equal(open_it(e), 0);
	close_it(e);
	m->n_mark = 1;
	m->mark = &mark;
	mark->type = MARK_TYPE__INODE;
	mark->mask = FAN_OPEN;
	refused(e, open_it(e), CKPT_E_IMAGE, "what it is on");
	mark->type = (MarkType)9;
	refused(e, open_it(e), CKPT_E_IMAGE, "what it is on");
	mark->type = MARK_TYPE__MOUNT;
	mark->me = msg_new(&e->op, FanotifyMountMarkEntry, fanotify_mount_mark_entry);
	refused(e, open_it(e), CKPT_E_IMAGE, "what it is on");
	mark->me->path = arena_strdup(e->op.arena, "etc");
	refused(e, open_it(e), CKPT_E_IMAGE, "not absolute");
	mark->me->path = arena_strdup(e->op.arena, "/");
	mark->mask = FAN_OPEN_PERM;
	refused(e, open_it(e), CKPT_E_UNSUPPORTED, "decides");
	m->faflags = 0x70000000;
	refused(e, open_it(e), CKPT_E_SYS, "cannot create");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(timerfds), TEST(epolls), TEST(pidfds), TEST(inotifies), TEST(fanotifies) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
