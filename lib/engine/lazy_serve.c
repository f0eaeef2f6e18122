/* SPDX-License-Identifier: MIT */
/*
 * The daemon of lazy pages, from the first word of the restore until all pages are in. The thread that calls listens to the
 * restore, writes what the others have to say to the log, and sees when it is over.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/engine/lazy.h"
#include "lib/engine/page_server.h"
#include "lib/kernel/features.h"
#include "lib/state/mem/mem.h"
#include "lib/state/pieces.h"

#define TICK_MS 100
#define QUIET_NS 2000000000ull /* without a first touch for so long, a recording is over */

/* ---------------------------------------------------------------------------------------------------- the socket */

/* Beside the log: both sides have to share the folder. Through /proc: a path of any length. */
static int socket_address(struct op *op, struct sockaddr_un *a, int *dir)
{
	const char *path = op->opts->work_dir ?: op->opts->images_dir ?: ".";
	int at = op->opts->work_dir_fd >= 0 ? op->opts->work_dir_fd : !op->opts->work_dir ? op->opts->images_dir_fd : -1;

	*dir = at >= 0 ? openat(at, ".", O_PATH | O_DIRECTORY | O_CLOEXEC) : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dir < 0)
		return op_errno(op, errno, NULL, "open the work folder");
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/" LAZY_SOCKET, *dir);
	return 0;
}

static int listen_there(struct lazy *lz)
{
	struct op *op = lz->op;
	_cleanup_close_ int dir = -1, s = -1;
	struct sockaddr_un a;
	int r = socket_address(op, &a, &dir);

	if (r)
		return r;
	if (unlinkat(dir, LAZY_SOCKET, 0) < 0 && errno != ENOENT)
		return op_errno(op, errno, NULL, "remove the old %s", LAZY_SOCKET);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 1) < 0)
		return op_errno(op, errno, NULL, "listen at %s", LAZY_SOCKET);
	lz->listener = TAKE_FD(s);
	lz->work_dir = TAKE_FD(dir);
	return 0;
}

int lazy_connect(struct op *op, int *fd)
{
	_cleanup_close_ int dir = -1, s = -1;
	struct sockaddr_un a;
	int r = socket_address(op, &a, &dir);

	if (r)
		return r;
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return op_errno(op, errno, NULL, "make a socket");
	if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return 1;
		return op_errno(op, errno, AT(.kind = "lazy pages"), "connect to %s", LAZY_SOCKET);
	}
	*fd = TAKE_FD(s);
	return 0;
}

static int accept_one(struct lazy *lz)
{
	lz->conn = accept4(lz->listener, NULL, NULL, SOCK_CLOEXEC);
	if (lz->conn < 0)
		return errno == EINTR || errno == ECONNABORTED ? 0 : op_errno(lz->op, errno, NULL, "accept the restore");
	/* One restore a daemon: the next finds nobody. */
	unlinkat(lz->work_dir, LAZY_SOCKET, 0);
	close_fd_p(&lz->listener);
	lz->listener = -1;
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- messages */

void lazy_say(struct lazy *lz, enum ckpt_log_level level, const char *fmt, ...)
{
	struct lazy_said *s = calloc(1, sizeof(*s)), **to;
	uint64_t one = 1;
	va_list ap;

	if (!s)
		return;
	s->level = level;
	va_start(ap, fmt);
	vsnprintf(s->text, sizeof(s->text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&lz->lock);
	for (to = &lz->said; *to; to = &(*to)->next)
		;
	*to = s;
	pthread_mutex_unlock(&lz->lock);
	if (write(lz->wake, &one, sizeof(one)) < 0)
		return; /* it is heard at the next tick */
}

static void pass_on_said(struct lazy *lz)
{
	struct lazy_said *s, *next;

	pthread_mutex_lock(&lz->lock);
	s = TAKE_PTR(lz->said);
	pthread_mutex_unlock(&lz->lock);
	for (; s; s = next) {
		next = s->next;
		op_log(lz->op, s->level, "%s", s->text);
		free(s);
	}
}

/* --------------------------------------------------------------------------------------------------------- spaces */

static void watch(struct lazy *lz, int epoll_op, struct lazy_space *sp)
{
	for (size_t i = 0; i < LAZY_FAULT_THREADS; i++) {
		struct epoll_event ev = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = sp };

		if (lz->threads[i].epoll >= 0 && epoll_ctl(lz->threads[i].epoll, epoll_op, sp->fd, &ev) < 0 && epoll_op == EPOLL_CTL_ADD)
			lazy_say(lz, CKPT_LOG_ERROR, "watch a userfaultfd: %s", strerror(errno));
	}
}

int lazy_add_space(struct lazy *lz, struct lazy_space *sp)
{
	int r = 0;

	pthread_mutex_lock(&lz->lock);
	if (lz->n_spaces == lz->cap_spaces) {
		size_t cap = MAX(lz->cap_spaces * 2, (size_t)64);
		struct lazy_space **v = realloc(lz->spaces, cap * sizeof(struct lazy_space *));

		if (v) {
			lz->spaces = v;
			lz->cap_spaces = cap;
		} else {
			r = CKPT_E_NOMEM;
		}
	}
	if (!r) {
		sp->index = (int)lz->n_spaces;
		lz->spaces[lz->n_spaces++] = sp;
		lz->n_open++;
	}
	pthread_cond_broadcast(&lz->work);
	pthread_mutex_unlock(&lz->lock);
	if (!r)
		watch(lz, EPOLL_CTL_ADD, sp);
	return r;
}

static void close_space(struct lazy *lz, struct lazy_space *sp, bool only_if_done)
{
	uint64_t one = 1;
	bool now;

	pthread_rwlock_wrlock(&sp->gate);
	pthread_mutex_lock(&sp->lock);
	now = !sp->over && (!only_if_done || (!sp->left && !sp->slots));
	if (now) {
		sp->over = true;
		lazy_space_clear(sp);
	}
	pthread_mutex_unlock(&sp->lock);
	if (now) {
		watch(lz, EPOLL_CTL_DEL, sp);
		close(sp->fd);
		sp->fd = -1;
	}
	pthread_rwlock_unlock(&sp->gate);
	if (!now)
		return;
	pthread_mutex_lock(&lz->lock);
	lz->n_open--;
	pthread_mutex_unlock(&lz->lock);
	if (write(lz->wake, &one, sizeof(one)) < 0)
		return; /* the next tick */
}

void lazy_finish_space(struct lazy *lz, struct lazy_space *sp)
{
	bool maybe;

	pthread_mutex_lock(&sp->lock);
	maybe = !sp->over && !sp->left && !sp->slots;
	pthread_mutex_unlock(&sp->lock);
	if (maybe && __atomic_load_n(&lz->ended, __ATOMIC_ACQUIRE))
		close_space(lz, sp, true);
}

void lazy_end_space(struct lazy *lz, struct lazy_space *sp)
{
	close_space(lz, sp, false);
}

/* Spaces that have nothing left, or whose process may have ended, when nobody else looks at them. */
static void finish_all(struct lazy *lz)
{
	size_t n;

	pthread_mutex_lock(&lz->lock);
	n = lz->n_spaces;
	pthread_mutex_unlock(&lz->lock);
	for (size_t i = 0; i < n; i++) {
		struct lazy_space *sp;

		pthread_mutex_lock(&lz->lock);
		sp = lz->spaces[i];
		pthread_mutex_unlock(&lz->lock);
		lazy_finish_space(lz, sp);
	}
}

/* ------------------------------------------------------------------------------------------------------- the tasks */

struct wanted {
	const struct snap_task *t;
	size_t at;
};

/* Also what is not marked as lazy, where it lies in an area that is: a restore by others has filled it, and then it is there. */
static bool is_wanted(void *arg, const struct page_piece *p)
{
	struct wanted *w = arg;
	const MmEntry *mm = w->t->mm;
	uint64_t end = p->start + p->n_pages * PAGE_SIZE;

	while (w->at < mm->n_vmas && mm->vmas[w->at]->end <= p->start)
		w->at++;
	for (size_t i = w->at; i < mm->n_vmas && mm->vmas[i]->start < end; i++)
		if (w->t->lazy_areas ? w->t->lazy_areas[i] : vma_may_be_lazy(mm->vmas[i]))
			return true;
	return false;
}

static int map_task(struct lazy *lz, size_t i)
{
	struct snap_task *t = &lz->s->tasks.v[i];
	struct wanted w = { .t = t };
	struct pieces p;
	struct lazy_map *m;
	int r;

	if (t->dead || !t->mm)
		return 0;
	r = pieces_resolve(lz->op, lz->s, &t->pagemap, IMG_PAGEMAP, (uint64_t)t->pid, UINT64_MAX / 2, &p);
	if (r)
		return r;
	lz->maps[i] = m = lazy_map_new(lz->op, t->pid, &p, is_wanted, &w);
	if (!m)
		return CKPT_E_NOMEM;
	m->base = lz->n_pages;
	lz->n_pages += m->n_pages;
	for (size_t k = 0; k < m->n; k++)
		lz->any_remote = lz->any_remote || m->v[k].source == PIECE_REMOTE;
	for (size_t k = 0; k < m->n && !r; k++)
		r = lazy_keeper_range(lz->keeper, m->v[k].addr, m->v[k].addr + m->v[k].n * PAGE_SIZE);
	return r ? op_nomem(lz->op) : 0;
}

static int by_pid(const void *a, const void *b)
{
	return *(const pid_t *)a - *(const pid_t *)b;
}

static int prepare_proto(struct lazy *lz, struct lazy_proto *p)
{
	size_t n = lz->s->tasks.n;
	pid_t *pids = op_alloc(lz->op, n * sizeof(*pids));

	p->seen = op_alloc(lz->op, n * sizeof(*p->seen));
	if (!pids || !p->seen)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n; i++)
		pids[i] = lz->s->tasks.v[i].pid;
	qsort(pids, n, sizeof(*pids), by_pid);
	p->pids = pids;
	p->n = n;
	for (size_t i = 1; i < n; i++)
		if (pids[i] == pids[i - 1])
			return op_fail(lz->op, CKPT_E_IMAGE, NULL, "pstree.img: task %d is there twice", pids[i]);
	return 0;
}

static const struct lazy_map *map_of(const struct lazy *lz, pid_t pid)
{
	for (size_t i = 0; i < lz->s->tasks.n; i++)
		if (lz->s->tasks.v[i].pid == pid)
			return lz->maps[i];
	return NULL;
}

static int begin_task(struct lazy *lz, pid_t pid, int fd)
{
	const struct lazy_map *m = map_of(lz, pid);
	struct lazy_space *sp;
	int flags = fcntl(fd, F_GETFL);

	/* Nothing of it is missing: no event has to be waited for. */
	if (!m || !m->n_pages) {
		close(fd);
		return 0;
	}
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	sp = lazy_space_new(m, fd);
	if (!sp || lazy_add_space(lz, sp) != 0)
		return op_nomem(lz->op);
	log_debug(lz->op, "task %d: %lu pages are to come", pid, m->n_pages);
	return 0;
}

/* -------------------------------------------------------------------------------------------- what the restore says */

struct listening {
	struct lazy_proto proto;
	uint8_t buf[4];
	size_t have;
	pid_t task; /* whose userfaultfd follows; 0: none */
};

static void note(struct lazy *lz, const struct listening *l, bool ended)
{
	pthread_mutex_lock(&lz->lock);
	lz->all_named = l->proto.n_seen == l->proto.n && !l->task;
	__atomic_store_n(&lz->ended, lz->ended || ended, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&lz->work);
	pthread_mutex_unlock(&lz->lock);
	if (ended) {
		atomic_store(&lz->last_fault_ns, now_ns());
		finish_all(lz);
	}
}

static int on_word(struct lazy *lz, struct listening *l, uint32_t word)
{
	size_t i = 0;

	switch (lazy_proto_word(&l->proto, word, &i)) {
	case LAZY_WORD_TASK:
		l->task = l->proto.pids[i];
		return 0;
	case LAZY_WORD_ZOMBIE:
		note(lz, l, false);
		return 0;
	case LAZY_WORD_FINISHED:
		note(lz, l, true);
		close_fd_p(&lz->conn);
		lz->conn = -1;
		log_info(lz->op, "the tasks run; their pages follow");
		return 0;
	default:
		return op_fail(lz->op, CKPT_E_SYS, AT(.kind = "lazy pages"), "the restore is not understood: %s", l->proto.why);
	}
}

static int on_connection(struct lazy *lz, struct listening *l)
{
	int r = 0;

	while (!r && lz->conn >= 0) {
		uint32_t word;
		int fd = -1;

		if (l->task) {
			r = lazy_proto_recv_fd(lz->op, lz->conn, &fd);
			if (!r)
				r = begin_task(lz, l->task, fd);
			if (!r) {
				l->task = 0;
				note(lz, l, false);
			}
		} else {
			r = lazy_proto_recv_word(lz->op, lz->conn, l->buf, &l->have, &word);
			r = r ?: on_word(lz, l, word);
		}
	}
	return MIN(r, 0);
}

/* ------------------------------------------------------------------------------------------------------- threads */

static int start_thread(struct lazy *lz, struct lazy_thread *t, bool faults)
{
	int err;

	t->lz = lz;
	t->op = (struct op){ .arena = arena_new(), .opts = lz->op->opts, .stats = lz->op->stats };
	t->buf = malloc((faults ? LAZY_BLOCK : LAZY_CHUNK) * PAGE_SIZE);
	if (!t->op.arena || !t->buf)
		return op_nomem(lz->op);
	if (faults) {
		t->epoll = epoll_create1(EPOLL_CLOEXEC);
		if (t->epoll < 0)
			return op_errno(lz->op, errno, NULL, "make an epoll instance");
	}
	err = pthread_create(&t->id, NULL, faults ? lazy_fault_main : lazy_fill_main, t);
	if (err)
		return op_errno(lz->op, err, NULL, "start a thread");
	t->started = true;
	return 0;
}

/* The host's signals are not for them. */
static int start_threads(struct lazy *lz)
{
	sigset_t all, old;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (size_t i = 0; i < ARRAY_SIZE(lz->threads) && !r; i++)
		r = start_thread(lz, &lz->threads[i], i < LAZY_FAULT_THREADS);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

static void stop_threads(struct lazy *lz)
{
	int stop = eventfd(1, EFD_CLOEXEC);

	pthread_mutex_lock(&lz->lock);
	__atomic_store_n(&lz->stop, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&lz->work);
	pthread_mutex_unlock(&lz->lock);
	for (size_t i = 0; i < ARRAY_SIZE(lz->threads); i++) {
		struct lazy_thread *t = &lz->threads[i];
		struct epoll_event ev = { .events = EPOLLIN };

		if (t->epoll >= 0)
			epoll_ctl(t->epoll, EPOLL_CTL_ADD, stop, &ev);
		if (t->started)
			pthread_join(t->id, NULL);
		close_fd_p(&t->epoll);
		arena_free(t->op.arena);
		free(t->buf);
		free(t->faults);
	}
	close_fd_p(&stop);
}

/* ------------------------------------------------------------------------------------------------- beginning, ending */

static bool all_in(struct lazy *lz)
{
	bool ret;

	pthread_mutex_lock(&lz->lock);
	ret = lz->ended && !lz->n_open;
	pthread_mutex_unlock(&lz->lock);
	return ret;
}

/* What was touched until now, in a file; then the rest comes. */
static int end_recording(struct lazy *lz)
{
	int r;

	pthread_mutex_lock(&lz->lock);
	lz->recording = false;
	pthread_cond_broadcast(&lz->work);
	pthread_mutex_unlock(&lz->lock);
	r = lazy_order_write(lz->op, img_dir_fd(lz->s->dir), lz->op->opts->record_faults, &lz->touched);
	log_info(lz->op, "%zu first touches recorded", lz->touched.v.n);
	return r;
}

static int tick(struct lazy *lz)
{
	struct pollfd keeper = { .fd = lazy_keeper_pidfd(lz->keeper), .events = POLLIN };
	int r = 0;

	pass_on_said(lz);
	if (poll(&keeper, 1, 0) > 0) {
		log_warn(lz->op, "the keeper of lazy pages was killed; another is started");
		r = lazy_keeper_again(lz->op, lz->keeper);
	}
	if (!r && lz->recording && lz->ended && now_ns() > atomic_load(&lz->last_fault_ns) + QUIET_NS)
		r = end_recording(lz);
	/* Memory that does not come any more would be the end of the programs: what was begun is brought to its end. */
	if (!r && !lz->ended)
		r = op_check_cancel(lz->op);
	return r;
}

static int loop(struct lazy *lz, struct listening *l)
{
	int r = 0;

	while (!r && !all_in(lz)) {
		struct pollfd p[] = {
			{ .fd = lz->wake, .events = POLLIN },
			{ .fd = lz->listener, .events = POLLIN },
			{ .fd = lz->conn, .events = POLLIN },
		};
		uint64_t n;

		poll(p, ARRAY_SIZE(p), TICK_MS);
		if (p[0].revents && read(lz->wake, &n, sizeof(n)) < 0)
			errno = 0;
		if (p[1].revents)
			r = accept_one(lz);
		if (!r && p[2].revents)
			r = on_connection(lz, l);
		r = r ?: tick(lz);
	}
	return r;
}

static void report(struct lazy *lz)
{
	pass_on_said(lz);
	log_info(lz->op, "lazy pages: %lu faults brought %lu pages, the background %lu; %lu faults found zeroes; %lu pages were lost",
		 atomic_load(&lz->n_faults), atomic_load(&lz->n_fault_pages), atomic_load(&lz->n_background_pages),
		 atomic_load(&lz->n_zero), atomic_load(&lz->n_lost));
}

static int begin(struct lazy *lz, struct listening *l)
{
	int r = prepare_proto(lz, &l->proto);

	lz->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!r && lz->wake < 0)
		r = op_errno(lz->op, errno, NULL, "make an eventfd");
	lz->maps = r ? NULL : op_alloc(lz->op, lz->s->tasks.n * sizeof(*lz->maps));
	if (!r && !lz->maps)
		r = CKPT_E_NOMEM;
	lz->recording = lz->op->opts->record_faults && *lz->op->opts->record_faults;
	r = r ?: lazy_keeper_start(lz->op, &lz->keeper);
	for (size_t i = 0; i < lz->s->tasks.n && !r; i++)
		r = map_task(lz, i);
	if (!r && lz->any_remote)
		r = lazy_remote_open(lz->op, lz->n_pages, &lz->remote);
	if (!r && !lz->recording)
		r = lazy_order_read(lz->op, img_dir_fd(lz->s->dir), &lz->order);
	return r ?: start_threads(lz);
}

/* Where it failed with something still missing, that is lost: nothing may read as zeroes for it. */
static int end(struct lazy *lz, int r)
{
	uint64_t lost;

	for (size_t i = 0; i < lz->n_spaces; i++) {
		if (r)
			lazy_lose(lz, lz->spaces[i]);
		close_space(lz, lz->spaces[i], false);
	}
	lz->keeper = lazy_keeper_stop(lz->keeper);
	if (lazy_remote_close(lz->op, lz->remote, !r) != 0) {
		log_warn(lz->op, "the page server was not told that everything is here: %s", lz->op->err ? ckpt_err_message(lz->op->err) : "");
		if (!r)
			op_forget(lz->op);
	}
	if (lz->listener >= 0)
		unlinkat(lz->work_dir, LAZY_SOCKET, 0);
	close_fd_p(&lz->work_dir);
	report(lz);
	for (size_t i = 0; i < lz->n_spaces; i++)
		free(lz->spaces[i]);
	free(lz->spaces);
	close_fd_p(&lz->conn);
	close_fd_p(&lz->listener);
	close_fd_p(&lz->wake);
	lost = atomic_load(&lz->n_lost);
	if (!r && lost)
		r = op_fail(lz->op, CKPT_E_IMAGE, AT(.kind = "lazy pages"), "%lu pages could not be brought, and their use is an error (SIGBUS)",
			    lost);
	return r;
}

int lazy_serve(struct op *op, struct snapshot *s, int conn, const struct lazy_ready *ready)
{
	struct lazy *lz = op_new(op, struct lazy);
	struct listening l = { 0 };
	int r;

	if (!lz) {
		close_fd_p(&conn);
		return CKPT_E_NOMEM;
	}
	*lz = (struct lazy){ .op = op, .s = s, .conn = conn, .listener = -1, .wake = -1, .work_dir = -1 };
	for (size_t i = 0; i < ARRAY_SIZE(lz->threads); i++)
		lz->threads[i].epoll = -1;
	pthread_mutex_init(&lz->lock, NULL);
	pthread_cond_init(&lz->work, NULL);
	r = feature_require(op, FEATURE_UFFD_NONCOOP) ?: feature_require(op, FEATURE_UFFD_POISON);
	r = r ?: begin(lz, &l);
	if (!r && conn < 0)
		r = listen_there(lz) ?: tell_ready(op);
	if (!r && ready && ready->fn)
		ready->fn(ready->arg, 0);
	r = r ?: loop(lz, &l);
	if (!r && lz->recording)
		r = end_recording(lz);
	stop_threads(lz);
	return end(lz, r);
}
