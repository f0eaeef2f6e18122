// SPDX-License-Identifier: MIT
/* AIO contexts (io_setup): where their rings are, what is in them, and that they go on working. */
#include "target.h"

#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

struct ring {
	uint32_t id, nr, head, tail, magic, compat, incompat, header_length;
	struct io_event events[];
};

static char path[] = "aio-XXXXXX";

static aio_context_t setup(unsigned n)
{
	aio_context_t ctx = 0;

	if (syscall(SYS_io_setup, n, &ctx))
		SKIP("no AIO here: %s", strerror(errno));
	return ctx;
}

static long submit(aio_context_t ctx, struct iocb *cb)
{
	return syscall(SYS_io_submit, ctx, 1, &cb);
}

static long fetch(aio_context_t ctx, long min, long max, struct io_event *e, struct timespec *limit)
{
	return syscall(SYS_io_getevents, ctx, min, max, e, limit);
}

static void nothing(aio_context_t ctx, unsigned n, uint64_t data)
{
	int fd = open("/dev/null", O_WRONLY);

	for (unsigned i = 0; i < n; i++) {
		struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t)path,
				   .aio_nbytes = i % 5, .aio_data = data + i };

		CHECK(submit(ctx, &cb) == 1);
	}
	close(fd);
}

static void check_fetch(aio_context_t ctx, unsigned n, uint64_t data)
{
	struct io_event e;

	for (unsigned i = 0; i < n; i++) {
		CHECK(fetch(ctx, 1, 1, &e, NULL) == 1);
		CHECK(e.data == data + i && e.res == i % 5);
	}
}

static void check_empty(aio_context_t ctx)
{
	struct timespec none = { 0, 0 };
	struct io_event e;

	CHECK(fetch(ctx, 1, 1, &e, &none) == 0);
}

/* Writes and reads a file through the context, around the whole ring. */
static void check_works(aio_context_t ctx)
{
	int fd = mkstemp(path);
	char b[64];

	CHECK(fd >= 0 && !unlink(path));
	for (unsigned i = 0; i < ((struct ring *)ctx)->nr + 3; i++) {
		struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t)b,
				   .aio_nbytes = sizeof(b), .aio_offset = i * 64, .aio_data = i };
		struct io_event e;

		t_fill(b, sizeof(b), i);
		CHECK(submit(ctx, &cb) == 1 && fetch(ctx, 1, 1, &e, NULL) == 1);
		CHECK(e.res == sizeof(b) && e.data == i && e.obj == (uintptr_t)&cb);
		memset(b, 0, sizeof(b));
		cb.aio_lio_opcode = IOCB_CMD_PREAD;
		CHECK(submit(ctx, &cb) == 1 && fetch(ctx, 1, 1, &e, NULL) == 1 && t_same(b, sizeof(b), i));
	}
	close(fd);
	strcpy(path, "aio-XXXXXX");
}

static void unused(void)
{
	aio_context_t ctx = setup(1);

	t_wait();
	check_works(ctx);
	CHECK(!syscall(SYS_io_destroy, ctx));
}

static void idle(void)
{
	aio_context_t ctx = setup(10);
	struct ring *ring = (void *)ctx;
	uint32_t head;

	check_works(ctx);
	head = ring->head;
	CHECK(head && head == ring->tail);
	t_wait();
	CHECK(ring->head == head && ring->tail == head);
	check_empty(ctx);
	check_works(ctx);
}

static void unread(void)
{
	aio_context_t ctx = setup(10), other = setup(100);
	struct ring *ring = (void *)ctx;

	nothing(ctx, 100, 0);
	check_fetch(ctx, 100, 0);
	nothing(ctx, 70, 5000);
	nothing(other, 30, 8000);
	CHECK(ring->head == 100 && ring->tail == (170 % ring->nr));
	t_wait();
	CHECK(ring->head == 100 && ring->tail == (170 % ring->nr));
	/* Without the kernel, as programs do that read the ring. */
	CHECK(ring->events[100].data == 5000 && ring->events[102].res == 2);
	nothing(ctx, 10, 5070);
	check_fetch(ctx, 70, 5000);
	check_fetch(ctx, 10, 5070);
	check_empty(ctx);
	check_fetch(other, 30, 8000);
	check_empty(other);
	check_works(ctx);
	check_works(other);
}

/* The ring of the second is gone: the kernel's numbers of the others have a gap. */
static void several(void)
{
	aio_context_t a = setup(5), b = setup(5), c = setup(4000);

	nothing(c, 3000, 1);
	check_fetch(c, 2990, 1);
	nothing(a, 126 - 30, 100);
	CHECK(!syscall(SYS_io_destroy, b));
	t_wait();
	for (unsigned i = 2990; i < 3000; i++) {
		struct io_event e;

		CHECK(fetch(c, 1, 1, &e, NULL) == 1 && e.data == i + 1);
	}
	check_fetch(a, 126 - 30, 100);
	check_works(c);
	check_works(a);
	CHECK(syscall(SYS_io_destroy, b) < 0 && errno == EINVAL);
	CHECK(!syscall(SYS_io_destroy, a) && !syscall(SYS_io_destroy, c));
	b = setup(7);
	check_works(b);
}

static void resfd(void)
{
	aio_context_t ctx = setup(4);
	int fd = open("/dev/null", O_WRONLY), efd = eventfd(0, 0);
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = efd };
	uint64_t n;

	CHECK(submit(ctx, &cb) == 1);
	t_wait();
	CHECK(submit(ctx, &cb) == 1);
	CHECK(read(efd, &n, 8) == 8 && n == 2);
}

static aio_context_t shared;
static volatile int got;

static void *waiter(void *arg)
{
	struct timespec limit = { 300, 0 };
	struct io_event e;

	CHECK(fetch(shared, 1, 1, &e, arg ? NULL : &limit) == 1 && e.data == 42);
	__atomic_store_n(&got, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* A thread that waits all the time for what others will ask for. */
static void waiting(void)
{
	pthread_t t;

	shared = setup(4);
	CHECK(!pthread_create(&t, NULL, waiter, NULL));
	t_sleep_ms(50);
	t_wait();
	CHECK(!got);
	nothing(shared, 1, 42);
	CHECK(!pthread_join(t, NULL) && got);
}

static void family(void)
{
	aio_context_t ctx = setup(10), own;
	int p[2], q[2], status;
	pid_t child;
	char c;

	CHECK(!pipe(p) && !pipe(q));
	nothing(ctx, 40, 0);
	check_fetch(ctx, 30, 0);
	child = fork();
	if (!child) {
		own = setup(20);
		check_works(own);
		CHECK(write(q[1], "x", 1) == 1 && !close(p[1]));
		CHECK(read(p[0], &c, 1) == 0);
		check_works(own);
		_exit(0);
	}
	CHECK(read(q[0], &c, 1) == 1);
	t_wait();
	for (unsigned i = 30; i < 40; i++) {
		struct io_event e;

		CHECK(fetch(ctx, 1, 1, &e, NULL) == 1 && e.data == i);
	}
	check_works(ctx);
	CHECK(!close(p[1]));
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Refused: a poll that has not ended. */
static void inflight(void)
{
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLIN, .aio_data = 42 };
	pthread_t t;
	int p[2];

	shared = setup(4);
	CHECK(!pipe(p));
	cb.aio_fildes = p[0];
	CHECK(submit(shared, &cb) == 1);
	CHECK(!pthread_create(&t, NULL, waiter, (void *)1));
	t_sleep_ms(50);
	t_wait();
	CHECK(write(p[1], "x", 1) == 1);
	CHECK(!pthread_join(t, NULL) && got);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "unused", unused }, { "idle", idle }, { "unread", unread }, { "several", several }, { "resfd", resfd },
		{ "waiting", waiting }, { "family", family }, { "inflight", inflight },
	};

	T_RUN(variants, t_init(argc, argv));
}
