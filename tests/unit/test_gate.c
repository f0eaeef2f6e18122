// SPDX-License-Identifier: MIT
/*
 * Neighbours: the shared state (made, damaged, foreign, full, its owners killed) and the order in which dumps write,
 * with processes and with several gates in one process. No test relies on a disk: what is written is counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/image/gate.h"
#include "lib/image/gate_state.h"

#define MIB (1ull << 20)
#define BUF (512ull << 10)
#define PATIENCE_MS 1000 /* of gate.c */

struct env {
	struct op op;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	char path[64];
	int dirfd;
	struct board *board;
};

/* What processes of a test show each other. */
struct board {
	_Atomic uint64_t passes;
	_Atomic uint32_t ready, done, go;
	_Atomic uint64_t bytes[8];
	_Atomic uint64_t at_start, at_end;
};

static void op_new_in(struct env *e)
{
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats, .moved.frozen = true };
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	op_new_in(e);
	strcpy(e->path, "/tmp/ckpt-gate-XXXXXX");
	e->dirfd = mkdtemp(e->path) ? open(e->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	e->board = mmap(NULL, sizeof(*e->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*state = e;
	return e->dirfd < 0 || e->board == MAP_FAILED;
}

static int teardown(void **state)
{
	struct env *e = *state;

	unlinkat(e->dirfd, GATE_FILE, 0);
	unlinkat(e->dirfd, "other", 0);
	close(e->dirfd);
	rmdir(e->path);
	munmap(e->board, sizeof(*e->board));
	op_forget(&e->op);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static struct gate *new_gate(struct env *e)
{
	struct gate *g;

	assert_int_equal(gate_open_at(&e->op, e->dirfd, e->dirfd, &g), 0);
	return g;
}

static double ms_since(uint64_t then)
{
	return (double)(now_ns() - then) / 1e6;
}

static double pass_ms(struct env *e, struct gate *g, uint64_t bytes)
{
	uint64_t begin = now_ns();

	assert_int_equal(gate_pass(&e->op, g, bytes), 0);
	return ms_since(begin);
}

/* ---- the state */

static void places_for_all_but_no_more(void **state)
{
	struct env *e = *state;
	struct gate_state st[GATE_SLOTS + 1];
	int slot[GATE_SLOTS];

	for (int i = 0; i < GATE_SLOTS; i++) {
		assert_true(gate_state_open_at(&e->op, e->dirfd, &st[i]));
		slot[i] = gate_slot_claim(&st[i]);
		assert_int_equal(slot[i], i);
		atomic_store(&st[i].mem->slot[i].phase, GATE_WRITE);
	}
	assert_true(gate_state_open_at(&e->op, e->dirfd, &st[GATE_SLOTS]));
	assert_int_equal(gate_slot_claim(&st[GATE_SLOTS]), -1);
	assert_false(gate_slot_reap(&st[GATE_SLOTS], 7));
	gate_slot_release(&st[7], slot[7]);
	assert_int_equal(gate_slot_claim(&st[GATE_SLOTS]), 7);
	/* Closed without a word, as by a kill: the place looks taken, and is not. */
	gate_state_close(&st[9]);
	assert_true(gate_state_open_at(&e->op, e->dirfd, &st[9]));
	assert_int_equal(st[9].mem->slot[9].phase, GATE_WRITE);
	assert_true(gate_slot_reap(&st[9], 9));
	assert_int_equal(st[9].mem->slot[9].phase, GATE_FREE);
	for (int i = 0; i <= GATE_SLOTS; i++)
		gate_state_close(&st[i]);
}

static void write_file(struct env *e, const char *name, const void *p, size_t n, mode_t mode)
{
	int fd = openat(e->dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, n), (ssize_t)n);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static bool opens(struct env *e)
{
	struct gate_state st;
	bool ok = gate_state_open_at(&e->op, e->dirfd, &st);

	if (!ok) {
		assert_null(st.mem);
		assert_int_equal(st.fd, -1);
	}
	gate_state_close(&st);
	return ok;
}

static void damaged_or_foreign_state_is_left_alone(void **state)
{
	struct env *e = *state;
	struct gate_shared ok = { .head = { .magic = GATE_MAGIC, .version = GATE_VERSION, .n_slots = GATE_SLOTS,
					    .slot_size = sizeof(struct gate_slot) } }, bad;
	struct gate *g;

	write_file(e, GATE_FILE, &ok, sizeof(ok), 0600);
	assert_true(opens(e));
	write_file(e, GATE_FILE, &ok, sizeof(ok), 0622); /* others may write there */
	assert_false(opens(e));
	bad = ok;
	bad.head.magic[2] ^= 1;
	write_file(e, GATE_FILE, &bad, sizeof(bad), 0600);
	assert_false(opens(e));
	bad = ok;
	bad.head.version++;
	write_file(e, GATE_FILE, &bad, sizeof(bad), 0600);
	assert_false(opens(e));
	bad = ok;
	bad.head.n_slots = UINT32_MAX;
	write_file(e, GATE_FILE, &bad, sizeof(bad), 0600);
	assert_false(opens(e));
	write_file(e, GATE_FILE, &ok, sizeof(ok), 0600);
	{
		int fd = openat(e->dirfd, GATE_FILE, O_WRONLY | O_CLOEXEC);

		assert_int_equal(ftruncate(fd, sizeof(ok) + 1), 0);
		close(fd);
	}
	assert_false(opens(e));
	/* A dump beside any of these goes as if it were alone. */
	g = new_gate(e);
	gate_plan(g, 10 * MIB);
	assert_in_range((int)pass_ms(e, g, BUF), 0, 200);
	gate_commit(g);
	gate_close(g);
	/* Begun by somebody who died: made again. */
	write_file(e, GATE_FILE, "CKPT", 4, 0600);
	assert_true(opens(e));
	/* Another name of it, or a link to elsewhere */
	assert_int_equal(linkat(e->dirfd, GATE_FILE, e->dirfd, "other", 0), 0);
	assert_false(opens(e));
	assert_int_equal(unlinkat(e->dirfd, GATE_FILE, 0), 0);
	assert_int_equal(symlinkat("other", e->dirfd, GATE_FILE), 0);
	assert_false(opens(e));
	assert_int_equal(unlinkat(e->dirfd, GATE_FILE, 0), 0);
	assert_int_equal(mkfifoat(e->dirfd, GATE_FILE, 0600), 0);
	assert_false(opens(e));
	assert_int_equal(unlinkat(e->dirfd, GATE_FILE, 0), 0);
	assert_true(opens(e));
	assert_int_equal(fchmod(e->dirfd, 0777), 0); /* the folder */
	assert_false(opens(e));
	assert_int_equal(fchmod(e->dirfd, 0700), 0);
}

static void nonsense_in_a_slot_holds_nobody_for_long(void **state)
{
	struct env *e = *state;
	struct gate *g = new_gate(e);
	struct gate_state st;
	struct stat sb;

	assert_int_equal(fstat(e->dirfd, &sb), 0);
	assert_true(gate_state_open_at(&e->op, e->dirfd, &st));
	memset(&st.mem->slot[20], 0xff, 10 * sizeof(struct gate_slot));
	for (int i = 30; i < 40; i++) { /* nobody's, but it looks like one that goes first */
		atomic_store(&st.mem->slot[i].dev, sb.st_dev);
		atomic_store(&st.mem->slot[i].flags, GATE_FROZEN);
		atomic_store(&st.mem->slot[i].phase, 1 + i % 4);
	}
	gate_plan(g, 10 * MIB);
	assert_in_range((int)pass_ms(e, g, BUF), 0, PATIENCE_MS - 100);
	assert_in_range((int)pass_ms(e, g, BUF), 0, 100);
	gate_close(g);
	gate_state_close(&st);
}

/* ---- the order */

static void least_left_goes_first(void **state)
{
	struct env *e = *state;
	struct gate *large = new_gate(e), *small = new_gate(e);

	gate_plan(large, 100 * MIB);
	assert_int_equal(gate_pass(&e->op, large, BUF), 0);
	assert_false(gate_crowded(large));
	gate_plan(small, 2 * MIB);
	assert_int_equal(gate_pass(&e->op, large, BUF), 0); /* the small one does not write yet */
	assert_true(gate_crowded(large));
	assert_in_range((int)pass_ms(e, small, BUF), 0, 50);
	assert_in_range((int)pass_ms(e, large, BUF), 150, PATIENCE_MS); /* until the small one has long been quiet */
	assert_in_range((int)pass_ms(e, small, BUF), 0, 50);
	gate_commit(small);
	assert_in_range((int)pass_ms(e, large, BUF), 30, 200); /* a moment for its sync */
	gate_close(small);
	assert_in_range((int)pass_ms(e, large, BUF), 0, 20);
	assert_false(gate_crowded(large));
	assert_true(e->stats.waited_us > 180000);
	gate_close(large);
}

static void frozen_before_running(void **state)
{
	struct env *e = *state;
	struct gate *large = new_gate(e), *snapshot = new_gate(e);

	gate_plan(large, 100 * MIB);
	gate_plan(snapshot, 2 * MIB);
	assert_int_equal(gate_pass(&e->op, large, BUF), 0);
	e->op.moved.frozen = false;
	assert_in_range((int)pass_ms(e, snapshot, BUF), 150, PATIENCE_MS + 500);
	e->op.moved.frozen = true;
	assert_in_range((int)pass_ms(e, large, BUF), 0, 50);
	gate_close(large);
	gate_close(snapshot);
}

static void others_do_not_matter(void **state)
{
	struct env *e = *state;
	struct gate *a, *none, *paced, *elsewhere;
	int other = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(gate_open_at(&e->op, other, e->dirfd, &elsewhere), 0);
	e->opts.io_policy = CKPT_IO_NONE;
	none = new_gate(e);
	e->opts.io_policy = CKPT_IO_LEAST_LEFT;
	e->opts.io_max = 1000 * MIB;
	paced = new_gate(e);
	e->opts.io_max = 0;
	a = new_gate(e);
	gate_plan(a, 100 * MIB);
	gate_plan(none, MIB);
	gate_plan(paced, MIB);
	gate_plan(elsewhere, MIB);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(gate_pass(&e->op, none, BUF), 0);
		assert_int_equal(gate_pass(&e->op, paced, BUF), 0);
		assert_int_equal(gate_pass(&e->op, elsewhere, BUF), 0);
		assert_in_range((int)pass_ms(e, a, BUF), 0, 100);
	}
	gate_close(a);
	gate_close(none);
	gate_close(paced);
	gate_close(elsewhere);
	gate_close(NULL);
	close(other);
}

/* A child that does not outlive a test that failed. */
static pid_t child(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* A process that writes @bytes in buffers of a @us each, with its own sight of the state. */
static pid_t writer(struct env *e, int number, uint64_t bytes, unsigned us, enum ckpt_io_policy policy)
{
	pid_t pid = child();
	struct gate *g;

	if (pid)
		return pid;
	e->opts.io_policy = policy;
	if (gate_open_at(&e->op, e->dirfd, e->dirfd, &g))
		_exit(1);
	gate_plan(g, bytes);
	atomic_fetch_add(&e->board->ready, 1);
	while (!atomic_load(&e->board->go))
		usleep(100);
	for (uint64_t i = 0; i < bytes; i += BUF) {
		if (gate_pass(&e->op, g, BUF))
			_exit(2);
		usleep(us);
		atomic_fetch_add(&e->board->passes, 1);
		atomic_fetch_add(&e->board->bytes[number], BUF);
	}
	gate_commit(g);
	gate_close(g);
	atomic_fetch_add(&e->board->done, 1);
	_exit(0);
}

static void ended_well(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void await(_Atomic uint32_t *what, uint32_t n)
{
	for (int i = 0; i < 50000 && atomic_load(what) < n; i++)
		usleep(200);
	assert_true(atomic_load(what) >= n);
}

static void a_small_one_beside_five_large(void **state)
{
	struct env *e = *state;
	uint64_t before, small = 16 * MIB / BUF;
	struct gate *g;
	pid_t pid[5];

	for (int i = 0; i < 5; i++)
		pid[i] = writer(e, i, 100 * MIB, 300, CKPT_IO_LEAST_LEFT);
	await(&e->board->ready, 5);
	atomic_store(&e->board->go, 1);
	usleep(30000);
	g = new_gate(e);
	gate_plan(g, 16 * MIB);
	before = atomic_load(&e->board->passes);
	for (uint64_t i = 0; i < small; i++) {
		assert_int_equal(gate_pass(&e->op, g, BUF), 0);
		usleep(300);
	}
	/* Each of the others may have been on its way, and one may be slow to see us. */
	assert_in_range(atomic_load(&e->board->passes) - before, 0, 8);
	gate_commit(g);
	gate_close(g);
	for (int i = 0; i < 5; i++)
		ended_well(pid[i]);
	assert_int_equal(atomic_load(&e->board->passes), 5 * 100 * MIB / BUF);
}

static void fair_is_the_same_for_all(void **state)
{
	struct env *e = *state;
	uint64_t least, most, apart = 0;
	pid_t pid[3];

	/* One of them alone would be four times as fast as the others. */
	for (int i = 0; i < 3; i++)
		pid[i] = writer(e, i, 60 * MIB, i ? 2000 : 500, CKPT_IO_FAIR);
	await(&e->board->ready, 3);
	atomic_store(&e->board->go, 1);
	while (atomic_load(&e->board->done) == 0) {
		least = UINT64_MAX;
		most = 0;
		for (int i = 0; i < 3; i++) {
			least = MIN(least, atomic_load(&e->board->bytes[i]));
			most = MAX(most, atomic_load(&e->board->bytes[i]));
		}
		if (atomic_load(&e->board->done) == 0)
			apart = MAX(apart, most - least);
		usleep(1000);
	}
	for (int i = 0; i < 3; i++)
		ended_well(pid[i]);
	assert_in_range(apart, 0, 16 * MIB);
}

/* The killed one had least left, and would have gone first. */
static void a_killed_one_is_forgotten(void **state)
{
	struct env *e = *state;
	struct gate *g = new_gate(e);
	uint64_t begin;
	pid_t pid;

	gate_plan(g, 100 * MIB);
	pid = writer(e, 0, 50 * MIB, 2000, CKPT_IO_LEAST_LEFT);
	atomic_store(&e->board->go, 1);
	while (atomic_load(&e->board->bytes[0]) == 0)
		usleep(100);
	begin = now_ns();
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(gate_pass(&e->op, g, BUF), 0);
	assert_in_range((int)ms_since(begin), 0, 200); /* well before it would pass for stuck, not to speak of patience */
	gate_close(g);
}

static void a_stopped_one_holds_nobody(void **state)
{
	struct env *e = *state;
	struct gate *g = new_gate(e);
	pid_t pid;

	gate_plan(g, 100 * MIB);
	pid = writer(e, 0, 50 * MIB, 2000, CKPT_IO_LEAST_LEFT);
	atomic_store(&e->board->go, 1);
	while (atomic_load(&e->board->bytes[0]) == 0)
		usleep(100);
	kill(pid, SIGSTOP);
	assert_in_range((int)pass_ms(e, g, BUF), 0, PATIENCE_MS - 200);
	assert_in_range((int)pass_ms(e, g, BUF), 0, 20); /* and no more, as long as it is */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	gate_close(g);
}

static void nobody_starves(void **state)
{
	struct env *e = *state;
	struct gate *g = new_gate(e);
	pid_t pid = child();
	uint64_t passed = 0;

	if (pid == 0) { /* always about to end */
		struct gate *hog = new_gate(e);

		for (;;) {
			gate_plan(hog, BUF);
			gate_pass(&e->op, hog, BUF);
			atomic_store(&e->board->ready, 1);
			usleep(1000);
		}
	}
	await(&e->board->ready, 1);
	gate_plan(g, 100 * MIB);
	assert_in_range((int)pass_ms(e, g, BUF), PATIENCE_MS - 50, PATIENCE_MS + 400);
	while (pass_ms(e, g, BUF) < 100)
		passed += BUF;
	assert_in_range(passed, 15 * MIB, 17 * MIB);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	gate_close(g);
}

static void more_than_there_are_places(void **state)
{
	struct env *e = *state;
	pid_t pid[GATE_SLOTS + 16];

	for (size_t i = 0; i < ARRAY_SIZE(pid); i++)
		pid[i] = writer(e, (int)(i % 8), (1 + i % 3) * MIB, 50, CKPT_IO_LEAST_LEFT);
	await(&e->board->ready, ARRAY_SIZE(pid));
	atomic_store(&e->board->go, 1);
	for (size_t i = 0; i < ARRAY_SIZE(pid); i++)
		ended_well(pid[i]);
	/* All places are free again. */
	for (int i = 0; i < 2; i++) {
		struct gate_state st;

		assert_true(gate_state_open_at(&e->op, e->dirfd, &st));
		for (int k = 0; k < GATE_SLOTS; k++)
			assert_int_equal(st.mem->slot[k].phase, GATE_FREE);
		gate_state_close(&st);
	}
}

static void a_place_is_found_later(void **state)
{
	struct env *e = *state;
	struct gate *g[GATE_SLOTS], *late;
	struct gate_state st;
	unsigned taken = 0;

	for (int i = 0; i < GATE_SLOTS; i++) {
		g[i] = new_gate(e);
		gate_plan(g[i], MIB);
	}
	late = new_gate(e);
	gate_plan(late, 50 * MIB);
	assert_int_equal(gate_pass(&e->op, g[5], BUF), 0);
	gate_close(g[3]);
	assert_int_equal(gate_pass(&e->op, late, BUF), 0); /* had to wait for number 5, and took the place of number 3 */
	assert_true(gate_state_open_at(&e->op, e->dirfd, &st));
	for (int i = 0; i < GATE_SLOTS; i++)
		taken += atomic_load(&st.mem->slot[i].left) > 40 * MIB && atomic_load(&st.mem->slot[i].phase) == GATE_WRITE;
	assert_int_equal(taken, 1);
	gate_state_close(&st);
	gate_close(late);
	for (int i = 0; i < GATE_SLOTS; i++)
		gate_close(g[i]);
}

/* ---- before the freeze, limits, cancellation */

static void let_in_when_little_is_left(void **state)
{
	struct env *e = *state;
	struct gate *first = new_gate(e), *second = new_gate(e), *small = new_gate(e);
	pid_t pid;
	uint64_t begin;

	begin = now_ns();
	assert_int_equal(gate_admit(&e->op, first, 1000 * MIB), 0);
	assert_int_equal(gate_admit(&e->op, small, 10 * MIB), 0); /* goes before them */
	assert_in_range((int)ms_since(begin), 0, 100);
	gate_close(first);
	gate_close(small);
	pid = writer(e, 0, 400 * MIB, 500, CKPT_IO_LEAST_LEFT);
	atomic_store(&e->board->go, 1);
	while (atomic_load(&e->board->bytes[0]) == 0)
		usleep(100);
	e->op.deadline_ns = begin = now_ns();
	e->op.deadline_ns += 10000000000ull;
	assert_int_equal(gate_admit(&e->op, second, 1000 * MIB), 0);
	assert_true(400 * MIB - atomic_load(&e->board->bytes[0]) < 140 * MIB);
	assert_true(atomic_load(&e->board->done) == 0);
	assert_true(e->op.deadline_ns > begin + 10000000000ull); /* the time in the queue does not count */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	gate_close(second);
}

static void a_limit_is_kept(void **state)
{
	struct env *e = *state;
	struct gate *g;
	uint64_t begin;

	e->opts.io_max = 40 * MIB;
	for (int i = 0; i < 2; i++) {
		e->opts.io_policy = i ? CKPT_IO_NONE : CKPT_IO_LEAST_LEFT;
		g = new_gate(e);
		gate_plan(g, 20 * MIB);
		begin = now_ns();
		for (int k = 0; k <= 40; k++) /* the last one goes when 20 MiB were paid for */
			assert_int_equal(gate_pass(&e->op, g, BUF), 0);
		assert_in_range((int)ms_since(begin), 495, 1500);
		gate_close(g);
	}
}

static void waiting_can_be_cancelled(void **state)
{
	struct env *e = *state;
	struct gate *large = new_gate(e), *small = new_gate(e);
	atomic_bool cancel = true;

	gate_plan(large, 100 * MIB);
	gate_plan(small, MIB);
	assert_int_equal(gate_pass(&e->op, small, BUF), 0);
	e->op.cancel = &cancel;
	assert_int_equal(gate_pass(&e->op, large, BUF), CKPT_E_CANCELED);
	op_forget(&e->op);
	e->opts.io_max = 1;
	gate_close(small);
	small = new_gate(e);
	e->op.cancel = NULL;
	assert_int_equal(gate_pass(&e->op, small, BUF), 0);
	e->op.cancel = &cancel;
	assert_int_equal(gate_pass(&e->op, small, BUF), CKPT_E_CANCELED);
	gate_close(large);
	gate_close(small);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(places_for_all_but_no_more), T(damaged_or_foreign_state_is_left_alone),
		T(nonsense_in_a_slot_holds_nobody_for_long), T(least_left_goes_first), T(frozen_before_running),
		T(others_do_not_matter), T(a_small_one_beside_five_large), T(fair_is_the_same_for_all),
		T(a_killed_one_is_forgotten), T(a_stopped_one_holds_nobody), T(nobody_starves), T(more_than_there_are_places),
		T(a_place_is_found_later), T(let_in_when_little_is_left), T(a_limit_is_kept), T(waiting_can_be_cancelled),
	};

	return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
