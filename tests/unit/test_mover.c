/* SPDX-License-Identifier: MIT */
/*
 * A helper in a target's memory writes its pages: they are what they were, summed right, and nothing of it stays, also when the
 * engine is killed meanwhile, or the helper may not make a ring. Needs root (skipped otherwise).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/base/op.h"
#include "lib/image/block.h"
#include "lib/inject/guardian.h"
#include "lib/inject/mover.h"

#define MIB (1ul << 20)
#define BYTES (24 * MIB)

struct shared {
	volatile unsigned long spins;
	volatile int waited; /* errno of a wait for any child */
	char *volatile memory;
};

static struct shared *sh;

static uint64_t word(size_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ull;
}

static void child_main(void (*prepare)(void))
{
	uint64_t *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < BYTES / 8; i++)
		p[i] = word(i);
	if (prepare)
		prepare();
	for (sh->memory = (char *)p;; sh->spins++) {
		sh->waited = waitpid(-1, NULL, WNOHANG | __WALL) < 0 ? errno : 0;
		usleep(200);
	}
}

struct bench {
	struct op op;
	pid_t pid;
	int fd; /* of the file that is written */
	struct target t;
	struct proc_maps maps;
	struct parasite p;
	struct mover m;
	struct guardian guardian;
	char *before;
};

static void ok(struct bench *b, int r)
{
	if (r)
		fail_msg("%d: %s", r, b->op.err ? ckpt_err_message(b->op.err) : "");
}

static char *maps_text(struct bench *b)
{
	size_t len;
	char *text;

	ok(b, proc_read_file(&b->op, b->pid, "maps", &text, &len));
	return text;
}

static void begin(struct bench *b, void (*prepare)(void))
{
	static const struct ckpt_opts opts = CKPT_OPTS_INIT;
	static struct ckpt_stats stats;
	char path[] = "/var/tmp/ckpt-mover-XXXXXX";

	*b = (struct bench){ .guardian = GUARDIAN_INIT, .op = { .arena = arena_new(), .opts = &opts, .stats = &stats } };
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	b->pid = fork();
	if (b->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		child_main(prepare);
	}
	while (!sh->spins)
		usleep(1000);
	b->before = maps_text(b);
	b->fd = mkstemp(path);
	assert_true(b->fd >= 0);
	unlink(path);
	assert_int_equal(fallocate(b->fd, 0, 0, BYTES), 0);
	fcntl(b->fd, F_SETFL, fcntl(b->fd, F_GETFL) | O_DIRECT); /* where the file system has it */
}

static void freeze(struct bench *b)
{
	ok(b, guardian_start(&b->op, &b->guardian, -1));
	ok(b, target_freeze(&b->op, b->pid, &b->t));
	ok(b, proc_read_maps(&b->op, b->pid, &b->maps));
	ok(b, parasite_inject(&b->op, &b->t, &b->maps, &b->p, b->guardian.journal));
	ok(b, parasite_cure(&b->op, &b->t, &b->p));
}

static int start(struct bench *b)
{
	return mover_start(&b->op, &b->t, &b->p, &b->maps, b->fd, &b->m);
}

static void thaw(struct bench *b)
{
	ok(b, mover_end(&b->op, &b->m));
	target_release(&b->op, &b->t);
	guardian_stop(&b->guardian);
}

static void is_as_before(struct bench *b)
{
	unsigned long spins = sh->spins;

	for (int i = 0; i < 2000 && sh->spins < spins + 3; i++)
		usleep(1000);
	assert_true(sh->spins >= spins + 3);
	assert_int_equal(sh->waited, ECHILD);
	assert_string_equal(b->before, maps_text(b));
}

static void end(struct bench *b)
{
	kill(b->pid, SIGKILL);
	waitpid(b->pid, NULL, 0);
	close(b->fd);
	ckpt_err_free(b->op.err);
	arena_free(b->op.arena);
	munmap(sh, sizeof(*sh));
}

/* The second half before the first, in runs of any number of blocks. */
static size_t runs(struct mover_run *v)
{
	const uint64_t half = BYTES / 2, base = (uint64_t)(uintptr_t)sh->memory;

	v[0] = (struct mover_run){ base + half, half, 3 * MOVER_BLOCK };
	v[1] = (struct mover_run){ base + half + v[0].len, half + v[0].len, half - v[0].len };
	v[2] = (struct mover_run){ base, 0, half };
	return 3;
}

static void check_done(const struct mover_done *d)
{
	assert_int_equal(d->result, d->len);
	assert_true(d->len % MOVER_BLOCK == 0 && d->len <= MOVER_CHUNK && d->off + d->len <= BYTES);
	for (uint32_t block = 0; block < d->len / MOVER_BLOCK; block++) {
		uint64_t page[PAGE_SIZE / 8], sum = 0, at = d->off + block * MOVER_BLOCK;

		for (unsigned k = 0; k < BLOCK_PAGES; k++) {
			for (size_t i = 0; i < PAGE_SIZE / 8; i++)
				page[i] = word(at / 8 + k * PAGE_SIZE / 8 + i);
			sum ^= page_sum(page, k);
		}
		assert_true(sum == d->sum[block]);
	}
}

static void check_file(const struct bench *b)
{
	uint64_t *p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, b->fd, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	for (size_t i = 0; i < BYTES / 8; i++)
		if (p[i] != word(i))
			fail_msg("the file differs at %zu", i * 8);
	munmap(p, BYTES);
}

static void test_moves(void **state)
{
	struct mover_run v[MOVER_RUNS];
	struct mover_done d;
	struct bench b;
	uint64_t bytes = 0;
	int r;

	(void)state;
	begin(&b, NULL);
	freeze(&b);
	ok(&b, start(&b));
	ok(&b, mover_order(&b.op, &b.m, v, runs(v), true));
	while ((r = mover_take(&b.op, &b.m, true, &d)) == 0 || r == MOVER_NONE)
		if (r == 0) {
			check_done(&d);
			bytes += d.len;
		}
	assert_int_equal(r, MOVER_ENDED);
	assert_int_equal(b.m.result, 0);
	assert_int_equal(bytes, BYTES);
	thaw(&b);
	is_as_before(&b);
	check_file(&b);
	end(&b);
}

/* What cannot be read, and a file that may not be so long: told, not hidden; the mover goes on with the rest. */
static void small_files(void)
{
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){ MIB, MIB });
}

static void test_write_fails(void **state)
{
	struct mover_run v[MOVER_RUNS];
	struct mover_done d;
	struct bench b;
	int r, failed = 0;

	(void)state;
	begin(&b, small_files);
	freeze(&b);
	ok(&b, start(&b));
	ok(&b, mover_order(&b.op, &b.m, v, runs(v), true));
	while ((r = mover_take(&b.op, &b.m, true, &d)) == 0 || r == MOVER_NONE)
		failed += r == 0 && d.result == -EFBIG;
	assert_int_equal(r, MOVER_ENDED);
	assert_true(failed > 0);
	thaw(&b);
	is_as_before(&b);
	end(&b);
}

/* A fault in the mover: an address that is none. */
static void test_fault(void **state)
{
	struct mover_run v = { 0x10000, 0, MOVER_BLOCK };
	struct mover_done d;
	struct bench b;
	int r;

	(void)state;
	begin(&b, NULL);
	freeze(&b);
	ok(&b, start(&b));
	ok(&b, mover_order(&b.op, &b.m, &v, 1, true));
	while ((r = mover_take(&b.op, &b.m, true, &d)) == 0 || r == MOVER_NONE)
		;
	assert_int_equal(r, CKPT_E_SYS);
	assert_non_null(strstr(ckpt_err_message(b.op.err), "ended"));
	thaw(&b);
	is_as_before(&b);
	end(&b);
}

/* No ring for the target (unless we may lift its filter, which needs an engine that has none itself). */
static void no_rings(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static void test_no_rings(void **state)
{
	struct mover_run v[MOVER_RUNS];
	struct mover_done d;
	struct bench b;
	int r;

	(void)state;
	begin(&b, no_rings);
	freeze(&b);
	ok(&b, ptrace(PTRACE_SETOPTIONS, b.pid, 0, PTRACE_O_TRACESYSGOOD)); /* the filter holds again */
	b.t.threads.v[0].status.seccomp = 0;
	ok(&b, start(&b));
	r = mover_order(&b.op, &b.m, v, runs(v), true);
	assert_true(r == 0 || r == MOVER_ENDED);
	while ((r = mover_take(&b.op, &b.m, true, &d)) == MOVER_NONE)
		;
	assert_int_equal(r, MOVER_ENDED);
	assert_int_equal(b.m.result, -EPERM);
	thaw(&b);
	is_as_before(&b);
	end(&b);
}

__attribute__((noreturn)) static void engine(struct bench *b)
{
	struct mover_run v[MOVER_RUNS];
	struct mover_done d;

	b->op.arena = arena_new();
	freeze(b);
	for (;;) {
		ok(b, start(b));
		ok(b, mover_order(&b->op, &b->m, v, runs(v), false));
		for (int i = 0; i < rand() % 20; i++)
			mover_take(&b->op, &b->m, true, &d);
		ok(b, mover_end(&b->op, &b->m));
	}
}

static void test_killed_engine(void **state)
{
	struct bench b;
	int claim;

	(void)state;
	begin(&b, NULL);
	for (int round = 0; round < 30; round++) {
		pid_t pid = fork();

		if (pid == 0) {
			srand((unsigned)round);
			engine(&b);
		}
		usleep(5000 + (useconds_t)(rand() % 30000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		/* Its guardian has gone when there is nothing left to put back. */
		for (int i = 0; i < 3000 && strcmp(b.before, maps_text(&b)); i++)
			usleep(1000);
		usleep(20000);
		ok(&b, guardian_claim(&b.op, b.pid, &claim));
		close(claim);
		is_as_before(&b);
	}
	end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves),	 cmocka_unit_test(test_write_fails),   cmocka_unit_test(test_fault),
		cmocka_unit_test(test_no_rings), cmocka_unit_test(test_killed_engine),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
