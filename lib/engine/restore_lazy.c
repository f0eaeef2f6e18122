/* SPDX-License-Identifier: MIT */
/*
 * The restore's side of lazy pages: which areas they may be in, a daemon that brings them, and the userfaultfd of each task
 * on its way there.
 *
 * A task makes its userfaultfd itself, before it gives up its rights; we take it, register the areas, and send it on, when
 * all tasks stand at the barrier of the tree: nothing is forked after that. From then on the daemon answers faults, which the
 * rest of the restore may cause as well. We keep a descriptor of our own until the tasks run, so that a daemon that ends too
 * early leaves nobody with false memory: the restore fails.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/engine/lazy.h"
#include "lib/engine/restore_parts.h"
#include "lib/kernel/features.h"
#include "lib/kernel/sys.h"
#include "lib/state/mem/mem.h"

#define LOG_FILE "lazy-pages.log"
#define EACH_TASK(r, ret, t) for (struct new_task *t = (r)->tasks; t < (r)->tasks + (r)->n_tasks && !ret; t++)

/* ------------------------------------------------------------------------------------------------- which areas */

static int mark_areas(struct op *op, struct snap_task *t)
{
	t->lazy_areas = op_alloc(op, (t->mm->n_vmas + 1) * sizeof(*t->lazy_areas));
	if (!t->lazy_areas)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		t->lazy_areas[i] = vma_may_be_lazy(t->mm->vmas[i]);
	return 0;
}

/*
 * An area that a process copies from its creator is filled at once in both: what comes later would come to each of them for
 * itself, and what they shared would take twice the memory.
 */
static void unmark_inherited(struct snap_task *child, struct snap_task *creator)
{
	for (size_t i = 0, k = 0; i < child->mm->n_vmas && k < creator->mm->n_vmas;) {
		const VmaEntry *e = child->mm->vmas[i], *c = creator->mm->vmas[k];

		if ((e->status | c->status) & VMA_GUARD)
			break;
		if (c->start < e->end && e->start < c->end && vma_inherits(e, c))
			child->lazy_areas[i] = creator->lazy_areas[k] = false;
		if (e->end < c->end)
			i++;
		else
			k++;
	}
}

static int mark_all(struct op *op, struct restore *r)
{
	int ret = 0;

	for (size_t i = 0; i < r->s.tasks.n && !ret; i++)
		if (r->s.tasks.v[i].mm)
			ret = mark_areas(op, &r->s.tasks.v[i]);
	EACH_TASK(r, ret, t) {
		struct snap_task *from = t->node->inherits ? restore_memory_from(r, t->node) : NULL;

		if (from && from->mm && t->task && t->task->mm)
			unmark_inherited(t->task, from);
	}
	return ret;
}

/* ------------------------------------------------------------------------------------------------- our own daemon */

struct own_log {
	int dir, fd;
};

/* A file of its own in the work folder, made when there is something to say. */
static void log_line(void *arg, enum ckpt_log_level level, const char *text)
{
	struct own_log *l = arg;

	if (l->fd < 0)
		l->fd = openat(l->dir, LOG_FILE, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (l->fd >= 0)
		dprintf(l->fd, "%s%s\n", level == CKPT_LOG_ERROR ? "Error: " : level == CKPT_LOG_WARN ? "Warn: " : "", text);
}

static int work_folder(const struct op *op, const struct restore *r)
{
	if (op->opts->work_dir_fd >= 0)
		return openat(op->opts->work_dir_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (op->opts->work_dir)
		return open(op->opts->work_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return openat(img_dir_fd(r->s.dir), ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Nothing of the host's stays open: the other ends of its pipes wait for end of file. */
static void close_others(int a, int b, int c, int d)
{
	int keep[] = { a, b, c, d }, null = open("/dev/null", O_RDWR | O_CLOEXEC);
	unsigned from = 3;

	for (int i = 0; i < 3; i++)
		if (null >= 0)
			dup2(null, i);
	for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
		for (size_t k = i + 1; k < ARRAY_SIZE(keep); k++)
			if (keep[k] < keep[i]) {
				int x = keep[i];

				keep[i] = keep[k];
				keep[k] = x;
			}
	for (size_t i = 0; i < ARRAY_SIZE(keep); i++) {
		if (keep[i] < 0)
			continue;
		if (keep[i] > (int)from)
			sys_close_range(from, (unsigned)keep[i] - 1, 0);
		from = MAX(from, (unsigned)keep[i] + 1);
	}
	sys_close_range(from, ~0u, 0);
}

static void become_own_process(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, fall_back = { .sa_handler = SIG_DFL };
	struct rlimit nofile;
	sigset_t none;

	setsid();
	prctl(PR_SET_NAME, "ckpt-lazy");
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &fall_back, NULL);
	/* What it was begun for ends the program if it ends too early. */
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
	sigaction(SIGQUIT, &ignore, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
		nofile.rlim_cur = nofile.rlim_max;
		setrlimit(RLIMIT_NOFILE, &nofile);
	}
}

static _Noreturn void own_daemon(struct op *op, struct restore *r, int conn)
{
	struct own_log out = { .dir = work_folder(op, r), .fd = -1 };
	int ret;

	become_own_process();
	close_others(conn, img_dir_fd(r->s.dir), out.dir, op->opts->ps_socket);
	if (chdir("/") < 0)
		errno = 0;
	op->log = (struct log_sink){ .fn = log_line, .arg = &out, .level = MIN(op->log.fn ? op->log.level : CKPT_LOG_WARN, CKPT_LOG_DEBUG) };
	op->progress = (struct progress_sink){ 0 };
	op->cancel = NULL;
	op->deadline_ns = 0;
	ret = lazy_serve(op, &r->s, conn, NULL);
	if (ret)
		op_log(op, CKPT_LOG_ERROR, "%s", op->err ? ckpt_err_message(op->err) : ckpt_code_name(ret));
	_exit(ret ? 1 : 0);
}

/* Not a child of ours: it outlives us, and whoever calls us waits for no process that he does not know. */
static int start_own(struct op *op, struct restore *r)
{
	int pair[2], status = -1;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return op_errno(op, errno, NULL, "make a pair of sockets");
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			own_daemon(op, r, pair[1]);
		_exit(pid < 0);
	}
	close(pair[1]);
	r->lazy_conn = pair[0];
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0 || status != 0)
		return op_errno(op, pid < 0 ? errno : EAGAIN, NULL, "start the daemon for lazy pages");
	return 0;
}

int restore_lazy_begin(struct op *op, struct restore *r)
{
	int ret;

	if (!op->opts->lazy_pages)
		return 0;
	ret = feature_require(op, FEATURE_UFFD_NONCOOP) ?: feature_require(op, FEATURE_UFFD_POISON);
	ret = ret ?: mark_all(op, r);
	if (ret)
		return ret;
	r->lazy = true;
	ret = lazy_connect(op, &r->lazy_conn);
	if (ret != 1)
		return ret;
	log_debug(op, "nobody listens at %s: the restore brings the pages itself", LAZY_SOCKET);
	return start_own(op, r);
}

/* ---------------------------------------------------------------------------------------------------- handing over */

static int register_areas(struct op *op, struct new_task *t)
{
	struct uffdio_api api = { .api = UFFD_API, .features = LAZY_FEATURES };

	if (ioctl(t->uffd, UFFDIO_API, &api) < 0)
		return op_errno(op, errno, AT(.pid = t->pid, .kind = "lazy pages"), "task %d: set up its userfaultfd", t->node->pid);
	for (size_t i = 0; i < t->build.lazy.n; i++) {
		const struct plan_range *v = &t->build.lazy.v[i];
		struct uffdio_register reg = { .range = { v->start, v->len }, .mode = UFFDIO_REGISTER_MODE_MISSING };

		if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0)
			return op_errno(op, errno, AT(.pid = t->pid, .addr = v->start, .kind = "vma"),
					"task %d: register the area at %#lx for lazy pages", t->node->pid, v->start);
	}
	return 0;
}

static int hand_over(struct op *op, struct restore *r, struct new_task *t)
{
	_cleanup_close_ int pidfd = -1;

	/* Dead, or with the memory of another, which is the other's matter. */
	if (t->node->kind != TREE_TASK || t->build.shares_memory)
		return lazy_proto_send(op, r->lazy_conn, (uint32_t)-t->task->pid, -1);
	pidfd = sys_pidfd_open(t->pid, 0);
	t->uffd = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, t->plan->uffd);
	if (t->uffd < 0)
		return op_errno(op, errno, AT(.pid = t->pid, .kind = "lazy pages"), "take the userfaultfd of task %d", t->node->pid);
	return register_areas(op, t) ?: lazy_proto_send(op, r->lazy_conn, (uint32_t)t->task->pid, t->uffd);
}

int restore_lazy_hand_over(struct op *op, struct restore *r)
{
	int ret = 0;

	if (r->lazy)
		EACH_TASK(r, ret, t)
			ret = t->task ? hand_over(op, r, t) : 0;
	return ret;
}

int restore_lazy_check(struct op *op, const struct restore *r)
{
	struct pollfd p = { .fd = r->lazy_conn, .events = POLLRDHUP };

	if (!r->lazy || r->lazy_conn < 0 || poll(&p, 1, 0) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
		return 0;
	return op_fail(op, CKPT_E_SYS, AT(.kind = "lazy pages", .hint = "its log says why: " LOG_FILE " in the work folder, if it is our own"),
		       "the daemon for lazy pages is gone");
}

int restore_lazy_end(struct op *op, struct restore *r)
{
	if (!r->lazy)
		return 0;
	return restore_lazy_check(op, r) ?: lazy_proto_send(op, r->lazy_conn, LAZY_WORD_END, -1);
}

void restore_lazy_done(struct restore *r)
{
	int none = 0;

	if (!r->lazy)
		return;
	EACH_TASK(r, none, t) {
		close_fd_p(&t->uffd);
		t->uffd = -1;
	}
	close_fd_p(&r->lazy_conn);
	r->lazy_conn = -1;
}
