// SPDX-License-Identifier: MIT
/* io_uring: the rings, what is in them and registered with them, and that they go on working. */
#include "target.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

static char buffer[3 * PAGE];

static struct io_uring *make(unsigned entries, unsigned flags, unsigned cq_entries)
{
	struct io_uring_params p = { .flags = flags | (cq_entries ? IORING_SETUP_CQSIZE : 0), .cq_entries = cq_entries };
	struct io_uring *u = calloc(1, sizeof(*u));
	int r = io_uring_queue_init_params(entries, u, &p);

	if (r)
		SKIP("no such io_uring here: %s", strerror(-r));
	return u;
}

static void submit_nop(struct io_uring *u, uint64_t data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(u);

	CHECK(sqe);
	io_uring_prep_nop(sqe);
	sqe->user_data = data;
	CHECK(io_uring_submit(u) == 1);
}

static void reap(struct io_uring *u, uint64_t data, int res)
{
	struct io_uring_cqe *cqe;

	CHECK(!io_uring_wait_cqe(u, &cqe));
	if (cqe->user_data != data || cqe->res != res)
		FAIL("a completion of %llu with %d instead of %llu with %d", (unsigned long long)cqe->user_data, cqe->res,
		     (unsigned long long)data, res);
	io_uring_cqe_seen(u, cqe);
}

static void nops(struct io_uring *u, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		submit_nop(u, i);
		reap(u, i, 0);
	}
}

/* Writes and reads a file, around both queues. */
static void check_works(struct io_uring *u)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);
	char b[64];

	CHECK(fd >= 0);
	for (unsigned i = 0; i < u->cq.ring_entries + 3; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(u);

		t_fill(b, sizeof(b), i);
		io_uring_prep_write(sqe, fd, b, sizeof(b), i * 64);
		sqe->user_data = i;
		CHECK(io_uring_submit(u) == 1);
		reap(u, i, sizeof(b));
		memset(b, 0, sizeof(b));
		sqe = io_uring_get_sqe(u);
		io_uring_prep_read(sqe, fd, b, sizeof(b), i * 64);
		sqe->user_data = i + 1000000;
		CHECK(io_uring_submit(u) == 1);
		reap(u, i + 1000000, sizeof(b));
		CHECK(t_same(b, sizeof(b), i));
	}
	close(fd);
}

static void unused(void)
{
	struct io_uring *u = make(8, 0, 0);

	t_wait();
	check_works(u);
}

static void idle(void)
{
	struct io_uring *u = make(8, 0, 0), *v = make(64, 0, 256), *w = make(1, 0, 0), *x = make(4096, 0, 8192);

	nops(u, 1001);
	nops(v, 77);
	nops(w, 3);
	nops(x, 5000);
	t_wait();
	CHECK(*u->sq.khead == 1001 && *u->cq.ktail == 1001 && *u->cq.khead == 1001);
	nops(u, 5);
	CHECK(*u->sq.khead == 1006);
	check_works(u);
	check_works(v);
	check_works(w);
	check_works(x);
	io_uring_queue_exit(v);
	check_works(u);
}

/* Completions nobody has seen, and requests that were not submitted. */
static void unread(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct io_uring_sqe *sqe;
	int p[2];
	char c = 0;

	CHECK(!pipe(p));
	nops(u, 13);
	for (int i = 0; i < 16; i++)
		submit_nop(u, 500 + i);
	for (int i = 0; i < 5; i++)
		reap(u, 500 + i, 0);
	sqe = io_uring_get_sqe(u);
	io_uring_prep_read(sqe, 9999, &c, 1, 0);
	sqe->user_data = 600;
	CHECK(io_uring_submit(u) == 1);
	sqe = io_uring_get_sqe(u);
	io_uring_prep_write(sqe, p[1], "x", 1, 0);
	sqe->user_data = 601;
	sqe = io_uring_get_sqe(u);
	io_uring_prep_read(sqe, p[0], &c, 1, 0);
	sqe->user_data = 602;
	t_wait();
	for (int i = 5; i < 16; i++)
		reap(u, 500 + i, 0);
	reap(u, 600, -EBADF);
	CHECK(io_uring_submit(u) == 2);
	reap(u, 601, 1);
	reap(u, 602, 1);
	CHECK(c == 'x');
	check_works(u);
}

/* Requests without completions: the counters differ, which looks like requests in flight. */
static void skip(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct io_uring_sqe *sqe = io_uring_get_sqe(u);

	io_uring_prep_nop(sqe);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	CHECK(io_uring_submit(u) == 1);
	t_wait();
	check_works(u);
}

/* More completions than requests. */
static void messages(void)
{
	struct io_uring *u = make(8, 0, 0), *v = make(8, 0, 0);
	struct io_uring_sqe *sqe;

	nops(u, 20);
	nops(v, 10);
	for (int i = 0; i < 33; i++) {
		sqe = io_uring_get_sqe(v);
		io_uring_prep_msg_ring(sqe, u->ring_fd, 7, 100 + i, 0);
		sqe->user_data = i;
		CHECK(io_uring_submit(v) == 1);
		reap(v, i, 0);
		if (i < 25)
			reap(u, 100 + i, 7);
	}
	CHECK(*u->cq.ktail == 53 && *u->sq.khead == 20);
	t_wait();
	CHECK(*u->cq.ktail == 53 && *u->sq.khead == 20);
	for (int i = 25; i < 33; i++)
		reap(u, 100 + i, 7);
	check_works(u);
	check_works(v);
}

static void registered(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct iovec v[3] = { { buffer, 100 }, { NULL, 0 }, { buffer + PAGE, 2 * PAGE } };
	struct io_uring_sqe *sqe;
	int fds[6] = { -1, -1, -1, -1, -1, -1 }, null = open("/dev/null", O_RDWR);

	CHECK((fds[1] = open("a file", O_CREAT | O_RDWR, 0600)) >= 0 && (fds[4] = dup(fds[1])) >= 0);
	CHECK((fds[2] = open(".", O_TMPFILE | O_RDWR, 0600)) >= 0);
	CHECK(!io_uring_register_files(u, fds, 6));
	CHECK(!io_uring_register_buffers(u, v, 3));
	t_wait();
	for (int round = 0; round < 3; round++) {
		strcpy(buffer + PAGE, "from a buffer");
		memset(buffer, 0, 100);
		sqe = io_uring_get_sqe(u);
		io_uring_prep_write_fixed(sqe, 2, buffer + PAGE, 14, 0, 2);
		sqe->flags |= IOSQE_FIXED_FILE;
		sqe->user_data = 1;
		CHECK(io_uring_submit(u) == 1);
		reap(u, 1, 14);
		sqe = io_uring_get_sqe(u);
		io_uring_prep_read_fixed(sqe, 2, buffer, 50, 0, 0);
		sqe->flags |= IOSQE_FIXED_FILE;
		sqe->user_data = 2;
		CHECK(io_uring_submit(u) == 1);
		reap(u, 2, 14);
		CHECK(!strcmp(buffer, "from a buffer"));
	}
	sqe = io_uring_get_sqe(u);
	io_uring_prep_write(sqe, 3, "x", 1, 0);
	sqe->flags |= IOSQE_FIXED_FILE;
	CHECK(io_uring_submit(u) == 1);
	reap(u, 0, -EBADF);
	for (int slot = 1; slot <= 4; slot += 3) {
		sqe = io_uring_get_sqe(u);
		io_uring_prep_write(sqe, slot, "two", 3, -1);
		sqe->user_data = 0;
		sqe->flags |= IOSQE_FIXED_FILE;
		CHECK(io_uring_submit(u) == 1);
		reap(u, 0, 3);
	}
	CHECK(lseek(fds[1], 0, SEEK_CUR) == 6 && !unlink("a file"));
	CHECK(io_uring_register_files_update(u, 5, &null, 1) == 1 && io_uring_register_files_update(u, 6, &null, 1) < 0);
	CHECK(!io_uring_unregister_files(u) && !io_uring_unregister_buffers(u));
}

static void eventfd_(void)
{
	struct io_uring *u = make(8, 0, 0);
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t n;

	CHECK(!io_uring_register_eventfd(u, fd));
	submit_nop(u, 1);
	CHECK(read(fd, &n, 8) == 8 && n == 1);
	t_wait();
	CHECK(read(fd, &n, 8) < 0 && errno == EAGAIN);
	reap(u, 1, 0);
	submit_nop(u, 2);
	CHECK(read(fd, &n, 8) == 8 && n == 1);
	reap(u, 2, 0);
}

/* How large the entries are, and whether there is an index between: the kernel does not say. */
static void layouts(void)
{
	static const unsigned flags[] = { 0, IORING_SETUP_SQE128, IORING_SETUP_CQE32, IORING_SETUP_SQE128 | IORING_SETUP_CQE32 };
	struct io_uring *u[8];

	for (int i = 0; i < 8; i++) {
		u[i] = make(i < 4 ? 4 : 512, flags[i % 4], 0);
		nops(u[i], i < 4 ? 6 : 300);
		submit_nop(u[i], 50);
		submit_nop(u[i], 51);
		if (i % 2)
			reap(u[i], 50, 0);
	}
	t_wait();
	for (int i = 0; i < 8; i++) {
		if (i % 2 == 0)
			reap(u[i], 50, 0);
		reap(u[i], 51, 0);
		check_works(u[i]);
	}
}

/* Without the library: the queues are mapped one by one, and the index is not in order. */
struct raw {
	int fd;
	struct io_uring_params p;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
};
#define WORD(base, off) ((volatile uint32_t *)((base) + (off)))

static struct raw raw_make(unsigned flags)
{
	struct raw r = { .p = { .flags = flags } };

	r.fd = syscall(SYS_io_uring_setup, 4, &r.p);
	if (r.fd < 0)
		SKIP("no such io_uring here: %s", strerror(errno));
	r.sq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_SQ_RING);
	r.cq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_CQ_RING);
	r.sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_SQES);
	CHECK(r.sq != MAP_FAILED && r.cq != MAP_FAILED && r.sqes != MAP_FAILED);
	CHECK(!madvise(r.sq, PAGE, MADV_DONTFORK));
	return r;
}

static void raw_nop(struct raw *r, unsigned slot, uint64_t data)
{
	uint32_t tail = *WORD(r->sq, r->p.sq_off.tail);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(r->cq + r->p.cq_off.cqes), *cqe;

	if (r->p.flags & IORING_SETUP_NO_SQARRAY)
		slot = tail & 3;
	else
		WORD(r->sq, r->p.sq_off.array)[tail & 3] = slot;
	memset(&r->sqes[slot], 0, sizeof(*r->sqes));
	r->sqes[slot].user_data = data;
	*WORD(r->sq, r->p.sq_off.tail) = tail + 1;
	CHECK(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	cqe = &cqes[*WORD(r->cq, r->p.cq_off.head) & 7];
	CHECK(cqe->user_data == data && cqe->res == 0);
	*WORD(r->cq, r->p.cq_off.head) += 1;
}

static void raw(void)
{
	struct raw r = raw_make(0), s = raw_make(0), t = raw_make(0);
	uint32_t seed = 1;

	for (unsigned i = 0; i < 100; i++)
		raw_nop(&r, (seed = seed * 5 + 3) & 3, i);
	raw_nop(&s, 0, 1);
	for (unsigned i = 0; i < 5; i++)
		raw_nop(&t, 0, i);
	t_wait();
	CHECK(*WORD(r.sq, r.p.sq_off.head) == 100 && *WORD(r.cq, r.p.cq_off.tail) == 100);
	for (unsigned i = 0; i < 20; i++) {
		raw_nop(&r, (seed = seed * 5 + 3) & 3, i);
		raw_nop(&s, 3, i);
		raw_nop(&t, 0, i);
	}
}

static void noarray(void)
{
	struct raw r = raw_make(IORING_SETUP_NO_SQARRAY), s = raw_make(IORING_SETUP_NO_SQARRAY);

	for (unsigned i = 0; i < 3; i++)
		raw_nop(&r, 0, i);
	t_wait();
	for (unsigned i = 0; i < 20; i++) {
		raw_nop(&r, 0, i + 10);
		raw_nop(&s, 0, i + 10);
	}
}

/* A thread that waits for completions. */
static void *waiter(void *arg)
{
	reap(arg, 42, 0);
	return NULL;
}

static void waiting(void)
{
	struct io_uring *u = make(8, 0, 0);
	pthread_t t;

	nops(u, 3);
	CHECK(!pthread_create(&t, NULL, waiter, u));
	t_sleep_ms(50);
	t_wait();
	submit_nop(u, 42);
	CHECK(!pthread_join(t, NULL));
}

/* Worker threads of the kernel show among the program's for a while. */
static void workers(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct io_uring_sqe *sqe;
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	for (int i = 0; i < 4; i++) {
		sqe = io_uring_get_sqe(u);
		io_uring_prep_write(sqe, fd, buffer, PAGE, i * PAGE);
		sqe->flags |= IOSQE_ASYNC;
		sqe->user_data = 1;
	}
	CHECK(io_uring_submit(u) == 4);
	for (int i = 0; i < 4; i++)
		reap(u, 1, PAGE);
	t_wait();
	check_works(u);
}

/* A child has the ring by inheritance, and one of its own, which its parent does not know. */
static void family(void)
{
	struct io_uring *u = make(8, 0, 0);
	int p[2], q[2], status;
	pid_t child;
	char c;

	CHECK(!pipe(p) && !pipe(q));
	nops(u, 17);
	child = fork();
	if (!child) {
		struct io_uring *own = make(16, 0, 0);

		nops(own, 5);
		CHECK(write(q[1], "x", 1) == 1 && !close(p[1]));
		CHECK(read(p[0], &c, 1) == 0);
		check_works(own);
		u->sq.sqe_head = u->sq.sqe_tail = *u->sq.ktail; /* what the parent did with it, the library did not see here */
		check_works(u);
		_exit(0);
	}
	CHECK(read(q[0], &c, 1) == 1);
	t_wait();
	check_works(u);
	CHECK(!close(p[1]));
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* --------------------------------------------------------------------------------------------------- refused */

static void polling(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct io_uring_sqe *sqe = io_uring_get_sqe(u);
	int p[2];

	CHECK(!pipe(p));
	io_uring_prep_poll_add(sqe, p[0], POLLIN);
	sqe->user_data = 9;
	CHECK(io_uring_submit(u) == 1);
	t_wait();
	CHECK(write(p[1], "x", 1) == 1);
	reap(u, 9, POLLIN);
}

static void timeout(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct __kernel_timespec ts = { 300, 0 };
	struct io_uring_sqe *sqe = io_uring_get_sqe(u);

	io_uring_prep_timeout(sqe, &ts, 0, 0);
	sqe->user_data = 9;
	CHECK(io_uring_submit(u) == 1);
	t_wait();
	sqe = io_uring_get_sqe(u);
	io_uring_prep_timeout_remove(sqe, 9, 0);
	CHECK(io_uring_submit(u) == 1);
}

static void sqpoll(void)
{
	struct io_uring *u = make(8, IORING_SETUP_SQPOLL, 0);

	t_wait();
	check_works(u);
}

static void single(void)
{
	struct io_uring *u = make(8, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0);

	nops(u, 30);
	t_wait();
	check_works(u);
}

static void provided(void)
{
	struct io_uring *u = make(8, 0, 0);
	struct io_uring_sqe *sqe = io_uring_get_sqe(u);

	io_uring_prep_provide_buffers(sqe, buffer, PAGE, 2, 77, 0);
	CHECK(io_uring_submit(u) == 1);
	reap(u, 0, 0);
	t_wait();
	check_works(u);
}

static void overflow(void)
{
	struct io_uring *u = make(8, 0, 0);

	for (int i = 0; i < 20; i++)
		submit_nop(u, i);
	t_wait();
	for (int i = 0; i < 20; i++)
		reap(u, i, 0);
}

static void disabled(void)
{
	struct io_uring *u = make(8, IORING_SETUP_R_DISABLED, 0);

	t_wait();
	CHECK(!syscall(SYS_io_uring_register, u->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	check_works(u);
}

static void whichfile(void)
{
	struct io_uring *u = make(8, 0, 0);
	int fds[2] = { open("/dev/null", O_RDWR), open("/dev/null", O_RDWR) };

	CHECK(!io_uring_register_files(u, fds, 1));
	t_wait();
	check_works(u);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "unused", unused }, { "idle", idle }, { "unread", unread }, { "messages", messages }, { "registered", registered },
		{ "eventfd", eventfd_ }, { "layouts", layouts }, { "raw", raw }, { "noarray", noarray }, { "waiting", waiting },
		{ "workers", workers }, { "family", family }, { "skip", skip }, { "polling", polling }, { "timeout", timeout }, { "sqpoll", sqpoll },
		{ "single", single }, { "provided", provided }, { "overflow", overflow }, { "disabled", disabled },
		{ "whichfile", whichfile },
	};

	T_RUN(variants, t_init(argc, argv));
}
