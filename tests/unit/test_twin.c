/* SPDX-License-Identifier: MIT */
/* A process that a target is made to clone: what it sees, and that nobody sees it. Needs root (skipped otherwise). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/base/op.h"
#include "lib/inject/guardian.h"
#include "lib/inject/twin.h"
#include "lib/kernel/sys.h"

#define NOBODY 65534
#define AREAS 10000 /* so many make a clone take milliseconds */
#define CLONE_US 10000

enum { DO_NOTHING, DO_WRITE, DO_WAIT_ANY, DO_CLOSE_PIPE, DO_EXEC, DO_EXIT_LEADER, DO_EXIT, DO_UNSHARE_PIDS, DO_LIMIT,
       DO_MAP };

struct shared {
	volatile int ready, handler_calls, cmd, done;
	volatile int wait_errno[3]; /* of waits for any child: ordinary, __WCLONE, __WALL */
	volatile unsigned long spins;
	volatile long page; /* address of a page of the child's own */
};

static struct shared *sh;
static volatile int *page;
static int pipe_fds[2];

static void on_usr1(int sig)
{
	(void)sig;
	sh->handler_calls++;
}

static void *spin(void *arg)
{
	(void)arg;
	for (;;) {
		sh->spins++;
		usleep(100);
	}
	return NULL;
}

/* Every other page can be written: none is joined with its neighbour. */
static void map_much(void)
{
	char *at = mmap(NULL, 2 * AREAS * PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < AREAS; i++)
		mprotect(at + 2 * i * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE);
}

static void child_do(int cmd)
{
	static const int flags[] = { WNOHANG, WNOHANG | __WCLONE, WNOHANG | __WALL };

	switch (cmd) {
	case DO_WRITE:
		*page = 2;
		break;
	case DO_WAIT_ANY:
		for (int i = 0; i < 3; i++)
			sh->wait_errno[i] = waitpid(-1, NULL, flags[i]) < 0 ? errno : 0;
		break;
	case DO_CLOSE_PIPE:
		close(pipe_fds[1]);
		break;
	case DO_EXEC:
		execlp("sleep", "sleep", "1000", NULL);
		break;
	case DO_EXIT_LEADER:
		sh->done = 1;
		syscall(SYS_exit, 0);
		break;
	case DO_EXIT:
		_exit(0);
	case DO_UNSHARE_PIDS:
		unshare(CLONE_NEWPID);
		break;
	case DO_LIMIT:
		setrlimit(RLIMIT_NPROC, &(struct rlimit){ 0, 0 });
		syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY);
		prctl(PR_SET_DUMPABLE, 1);
		break;
	case DO_MAP:
		map_much();
		break;
	}
}

static void child_main(void)
{
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	pthread_t t;

	sigaction(SIGUSR1, &sa, NULL);
	page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*page = 1;
	sh->page = (long)page;
	pthread_create(&t, NULL, spin, NULL);
	usleep(20000);
	sh->ready = 1;
	for (;;) {
		if (sh->cmd && !sh->done) {
			child_do(sh->cmd);
			sh->done = 1;
		}
		usleep(500);
	}
}

static void tell(int cmd)
{
	sh->done = 0;
	sh->cmd = cmd;
	for (int i = 0; i < 2000 && !sh->done; i++)
		usleep(1000);
	assert_int_equal(sh->done, 1);
	sh->cmd = 0;
}

static pid_t start_child(void)
{
	pid_t pid;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(sh, MAP_FAILED);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		close(pipe_fds[0]);
		child_main();
	}
	close(pipe_fds[1]);
	while (!sh->ready)
		usleep(1000);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(pipe_fds[0]);
	munmap(sh, sizeof(*sh));
}

/* What a test needs: a child, stopped, and what to inject by. */
struct bench {
	struct op op;
	pid_t pid;
	struct target t;
	struct gadgets g;
	struct twin w;
	struct guardian guardian;
	char *maps;
};

static void ok(struct bench *b, int r)
{
	if (r > 0)
		fail_msg("refused: %s", b->w.why);
	if (r)
		fail_msg("%s", ckpt_err_message(b->op.err));
}

static char *maps_text(struct bench *b)
{
	char *text;
	size_t len;

	assert_int_equal(proc_read_file(&b->op, b->pid, "maps", &text, &len), 0);
	return text;
}

static void op_init(struct op *op)
{
	static const struct ckpt_opts opts = CKPT_OPTS_INIT;
	static struct ckpt_stats stats;

	*op = (struct op){ .arena = arena_new(), .opts = &opts, .stats = &stats };
}

static void stop_child(struct bench *b)
{
	struct proc_maps maps = { 0 };

	ok(b, target_freeze(&b->op, b->pid, &b->t));
	ok(b, proc_read_maps(&b->op, b->pid, &maps));
	ok(b, gadgets_find(&b->op, &b->t, &maps, &b->g));
}

static void begin(struct bench *b)
{
	*b = (struct bench){ .guardian = GUARDIAN_INIT };
	op_init(&b->op);
	b->pid = start_child();
	b->maps = maps_text(b);
	ok(b, guardian_start(&b->op, &b->guardian, -1));
	stop_child(b);
}

static void make(struct bench *b, bool shares)
{
	ok(b, twin_make(&b->op, &b->t, &b->g, b->guardian.journal, shares, &b->w));
	assert_true(b->w.target.pid > 0);
}

static size_t children_of(pid_t pid)
{
	struct proc_numbers n = { 0 };
	struct op op;
	size_t found;

	op_init(&op);
	found = proc_list_children(&op, pid, &n) == 0 ? n.v.n : 0;
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return found;
}

static void nothing_left(struct bench *b)
{
	unsigned long spins = sh->spins;

	assert_int_equal(children_of(b->pid), 0);
	assert_string_equal(b->maps, maps_text(b));
	tell(DO_WAIT_ANY);
	for (int i = 0; i < 3; i++)
		assert_int_equal(sh->wait_errno[i], ECHILD);
	usleep(5000);
	assert_true(sh->spins > spins);
	kill(b->pid, SIGUSR1);
	usleep(20000);
	assert_int_equal(sh->handler_calls, 1);
}

static void end(struct bench *b)
{
	guardian_stop(&b->guardian);
	end_child(b->pid);
	ckpt_err_free(b->op.err);
	arena_free(b->op.arena);
}

static int count_dir(pid_t pid, const char *dir)
{
	char path[64];
	DIR *d;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, dir);
	d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static int page_of(const struct target *t)
{
	int v = -1;

	assert_int_equal(pread(t->mem, &v, sizeof(v), sh->page), sizeof(v));
	return v;
}

/* Both kinds keep out of sight while the owner is stopped. */
static void invisible(struct bench *b)
{
	struct proc_stat st;
	char *cwd;

	assert_int_equal(count_dir(b->w.target.pid, "fd"), 0);
	assert_int_equal(count_dir(b->pid, "task"), 2);
	ok(b, proc_read_stat(&b->op, b->w.target.pid, &st));
	assert_int_equal(st.state, 't');
	assert_int_equal(st.session, b->w.target.pid);
	assert_int_equal(st.exit_signal, 0);
	ok(b, proc_read_link(&b->op, b->w.target.pid, "cwd", &cwd));
	assert_string_equal(cwd, "/");
}

static void test_copy(void **state)
{
	struct bench b;
	char c;

	(void)state;
	begin(&b);
	make(&b, false);
	invisible(&b);
	target_release(&b.op, &b.t);
	tell(DO_WRITE);
	assert_int_equal(page_of(&b.w.target), 1);
	/* Seen by nobody who waits as usual, holds no end of a pipe, gets no signal of the group. */
	assert_int_equal(children_of(b.pid), 1);
	tell(DO_CLOSE_PIPE);
	assert_int_equal(read(pipe_fds[0], &c, 1), 0);
	kill(-b.pid, SIGCONT);
	twin_end(&b.op, NULL, &b.w);
	nothing_left(&b);
	end(&b);
}

static void test_shared(void **state)
{
	struct bench b;
	int64_t ret;
	int v = 7;

	(void)state;
	begin(&b);
	make(&b, true);
	invisible(&b);
	assert_int_equal(pwrite(b.w.target.mem, &v, sizeof(v), sh->page), sizeof(v));
	assert_int_equal(page_of(&b.t), 7);
	ok(&b, twin_syscall(&b.op, &b.w, SYS_getpid, (uint64_t[6]){ 0 }, &ret));
	assert_int_equal(ret, b.w.target.pid);
	kill(-b.pid, SIGUSR1); /* one handler, in one process */
	twin_end(&b.op, &b.t, &b.w);
	target_release(&b.op, &b.t);
	usleep(20000);
	assert_int_equal(sh->handler_calls, 1);
	sh->handler_calls = 0;
	nothing_left(&b);
	end(&b);
}

/* Neither the registers nor the stack of the snapshot are marked by what made it. */
static void test_copy_is_exact(void **state)
{
	uint8_t theirs[SIGFRAME_MAX], ours[SIGFRAME_MAX];
	struct bench b;

	(void)state;
	begin(&b);
	make(&b, false);
	assert_true(b.g.scratch != 0);
	ok(&b, target_read(&b.op, &b.t, (struct raddr){ b.g.scratch }, theirs, sizeof(theirs)));
	ok(&b, target_read(&b.op, &b.w.target, (struct raddr){ b.g.scratch }, ours, sizeof(ours)));
	assert_memory_equal(theirs, ours, sizeof(ours));
	twin_end(&b.op, &b.t, &b.w);
	target_release(&b.op, &b.t);
	nothing_left(&b);
	end(&b);
}

/* The owner is another program by the time it has to wait. */
static void test_owner_execs(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	make(&b, false);
	target_release(&b.op, &b.t);
	sh->cmd = DO_EXEC;
	for (int i = 0; i < 1000; i++) {
		char comm[16] = "";
		char *text;
		size_t len;

		if (proc_read_file(&b.op, b.pid, "comm", &text, &len) == 0)
			snprintf(comm, sizeof(comm), "%s", text);
		if (!strcmp(comm, "sleep\n"))
			break;
		usleep(1000);
	}
	usleep(20000);
	assert_int_equal(page_of(&b.w.target), 1);
	twin_end(&b.op, NULL, &b.w);
	assert_int_equal(children_of(b.pid), 0);
	assert_int_equal(waitpid(b.pid, NULL, WNOHANG), 0);
	end(&b);
}

static void test_owner_lost_its_leader(void **state)
{
	struct bench b;
	unsigned long spins;

	(void)state;
	begin(&b);
	make(&b, false);
	target_release(&b.op, &b.t);
	tell(DO_EXIT_LEADER);
	usleep(10000);
	assert_int_equal(page_of(&b.w.target), 1);
	twin_end(&b.op, NULL, &b.w);
	assert_int_equal(children_of(b.pid), 0);
	spins = sh->spins;
	usleep(20000);
	assert_true(sh->spins > spins);
	end(&b);
}

static void test_owner_exits(void **state)
{
	struct bench b;
	int status;

	(void)state;
	begin(&b);
	make(&b, false);
	target_release(&b.op, &b.t);
	sh->cmd = DO_EXIT;
	assert_int_equal(waitpid(b.pid, &status, 0), b.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(page_of(&b.w.target), 1);
	twin_end(&b.op, NULL, &b.w);
	end(&b);
}

static void refused(int cmd)
{
	struct bench b;

	begin(&b);
	target_release(&b.op, &b.t);
	tell(cmd);
	stop_child(&b);
	assert_int_equal(twin_make(&b.op, &b.t, &b.g, b.guardian.journal, false, &b.w), TWIN_REFUSED);
	assert_non_null(b.w.why);
	assert_null(b.op.err);
	twin_end(&b.op, &b.t, &b.w);
	target_release(&b.op, &b.t);
	nothing_left(&b);
	end(&b);
}

static void test_refused(void **state)
{
	(void)state;
	refused(DO_UNSHARE_PIDS);
	refused(DO_LIMIT);
}

__attribute__((noreturn)) static void engine_main(struct bench *b, bool shares)
{
	int claim;

	for (;;) {
		if (guardian_claim(&b->op, b->pid, &claim) || guardian_start(&b->op, &b->guardian, claim))
			_exit(1);
		stop_child(b);
		if (twin_make(&b->op, &b->t, &b->g, b->guardian.journal, shares, &b->w))
			_exit(2);
		if (!shares)
			target_release(&b->op, &b->t);
		usleep(200);
		twin_end(&b->op, shares ? &b->t : NULL, &b->w);
		target_release(&b->op, &b->t);
		guardian_stop(&b->guardian);
		close(claim);
	}
}

/* A claim is waited for a second, which may not do on a busy machine. */
static bool guarded_by_none(struct bench *b)
{
	int claim;

	for (int i = 0; i < 10; i++) {
		ok(b, guardian_claim(&b->op, b->pid, &claim));
		close(claim);
		if (children_of(b->pid) == 0)
			return true;
	}
	return false;
}

/* An engine that is killed anywhere. */
static void test_killed_engine(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	target_release(&b.op, &b.t);
	guardian_stop(&b.guardian);
	for (int round = 0; round < 100; round++) {
		unsigned long spins;
		int status;
		pid_t engine = fork();

		if (engine == 0)
			engine_main(&b, round % 2);
		usleep(2000 + (useconds_t)(rand() % 5000));
		kill(engine, SIGKILL);
		waitpid(engine, &status, 0);
		assert_true(WIFSIGNALED(status));
		assert_true(guarded_by_none(&b));
		assert_int_equal(waitpid(b.pid, NULL, WNOHANG), 0);
		assert_string_equal(b.maps, maps_text(&b));
		spins = sh->spins;
		for (int i = 0; i < 1000 && sh->spins == spins; i++)
			usleep(1000);
		assert_true(sh->spins > spins);
	}
	nothing_left(&b);
	end(&b);
}

/* Ends the process at a moment of the clone, which begins when the journal has it. */
static void *end_in_clone(void *arg)
{
	struct bench *b = arg;
	uint64_t at;

	while (!atomic_load(&b->guardian.journal->n_twins))
		;
	at = now_ns() + (uint64_t)(rand() % CLONE_US) * 1000;
	while (now_ns() < at)
		;
	kill(getpid(), SIGKILL);
	return NULL;
}

__attribute__((noreturn)) static void doomed_engine_main(struct bench *b, bool shares)
{
	pthread_t t;
	int claim;

	alarm(20);
	if (guardian_claim(&b->op, b->pid, &claim) || guardian_start(&b->op, &b->guardian, claim))
		_exit(1);
	stop_child(b);
	pthread_create(&t, NULL, end_in_clone, b);
	usleep(1000);
	twin_make(&b->op, &b->t, &b->g, b->guardian.journal, shares, &b->w);
	for (;;)
		pause();
}

/* The guardian takes hold of the owner while that clones: the twin becomes the guardian's tracee, and is to end all the same. */
static void test_killed_in_clone(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	target_release(&b.op, &b.t);
	guardian_stop(&b.guardian);
	tell(DO_MAP);
	for (int round = 0; round < 60; round++) {
		int status, seed = rand();
		pid_t engine = fork();

		if (engine == 0) {
			srand((unsigned)seed);
			doomed_engine_main(&b, round % 8 == 0);
		}
		waitpid(engine, &status, 0);
		assert_true(WIFSIGNALED(status));
		assert_true(guarded_by_none(&b));
		assert_int_equal(waitpid(b.pid, NULL, WNOHANG), 0);
	}
	tell(DO_WAIT_ANY);
	for (int i = 0; i < 3; i++)
		assert_int_equal(sh->wait_errno[i], ECHILD);
	end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_copy_is_exact),
		cmocka_unit_test(test_owner_execs),
		cmocka_unit_test(test_owner_lost_its_leader),
		cmocka_unit_test(test_owner_exits),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_killed_engine),
		cmocka_unit_test(test_killed_in_clone),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
