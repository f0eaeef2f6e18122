/* SPDX-License-Identifier: MIT */
/*
 * Trees of processes. Every process notes its place (parent, session, group), waits for the end of a pipe that the root
 * closes, looks whether it is still there, and says so in another pipe.
 */
#include "target.h"

#include <poll.h>
#include <sys/wait.h>

#define MIB (1024ul * 1024)

static int go[2], said[2];

struct place {
	pid_t pid, ppid, sid, pgid;
};

static struct place here(void)
{
	return (struct place){ getpid(), getppid(), getsid(0), getpgid(0) };
}

static void same_place(const struct place *p)
{
	struct place now = here();

	if (memcmp(&now, p, sizeof(now)))
		FAIL("pid %d ppid %d sid %d pgid %d became %d %d %d %d", p->pid, p->ppid, p->sid, p->pgid, now.pid, now.ppid, now.sid,
		     now.pgid);
}

static void begin(void)
{
	CHECK(!pipe(go) && !pipe(said));
}

/* In a child that is as it should be: "here", wait, "still here". */
static void hold(void (*check)(void))
{
	struct place p = here();
	char c;

	close(go[1]);
	CHECK(write(said[1], "h", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		CHECK(errno == EINTR);
	same_place(&p);
	if (check)
		check();
	CHECK(write(said[1], "s", 1) == 1);
}

static pid_t fork_holder(void (*check)(void))
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		hold(check);
		_exit(0);
	}
	return pid;
}

static void hear(int n)
{
	struct pollfd p = { .fd = said[0], .events = POLLIN };
	char c;

	for (int i = 0; i < n; i++)
		if (poll(&p, 1, 20000) != 1 || read(said[0], &c, 1) != 1)
			FAIL("%d of %d processes said nothing", n - i, n);
}

/* The root: waits for @n processes, for SIGUSR1, and for them again. */
static void meet(int n)
{
	struct place p = here();
	struct pollfd q = { .fd = said[0], .events = POLLIN };

	hear(n);
	t_wait();
	same_place(&p);
	CHECK(poll(&q, 1, 0) == 0);
	close(go[1]);
	hear(n);
}

static void ended_well(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	if (status)
		FAIL("child %d ended with %#x", pid, status);
}

static void none_left(void)
{
	CHECK(waitpid(-1, NULL, WNOHANG) == -1);
}

/* ------------------------------------------------------------------------------------------------ variants */

/* A child with a session of its own, a grandchild with a group of its own, another one in the group of that one. */
static void basic(void)
{
	pid_t a, b;

	begin();
	a = fork();
	if (!a) {
		pid_t x, y;

		setsid();
		x = fork();
		if (!x) {
			setpgid(0, 0);
			hold(NULL);
			_exit(0);
		}
		setpgid(x, x);
		y = fork();
		if (!y) {
			setpgid(0, x);
			hold(NULL);
			_exit(0);
		}
		hold(NULL);
		ended_well(x);
		ended_well(y);
		_exit(0);
	}
	b = fork_holder(NULL);
	meet(4);
	ended_well(a);
	ended_well(b);
	none_left();
}

static void chain(void)
{
	pid_t pid = 0;

	begin();
	for (int i = 0; i < 30 && !pid; i++) {
		pid = fork();
		CHECK(pid >= 0);
		if (pid && i) {
			hold(NULL);
			ended_well(pid);
			_exit(0);
		}
	}
	if (!pid) {
		hold(NULL);
		_exit(0);
	}
	meet(30);
	ended_well(pid);
	none_left();
}

static void check_zombie(pid_t pid, int want)
{
	siginfo_t si = { 0 };
	int status;

	CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT | WNOHANG) == 0 && si.si_pid == pid);
	CHECK(waitpid(pid, &status, WNOHANG) == pid);
	if (status != want)
		FAIL("zombie %d has status %#x, not %#x", pid, status, want);
}

static void await_zombie(pid_t pid)
{
	siginfo_t si;

	CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
}

/* Zombies of several ends; one leads a group that others are in. The SIGCHLD is taken: none may come again. */
static void zombies(void)
{
	pid_t code, term, killed, leader, member;
	sigset_t chld, pending;
	siginfo_t si;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	begin();
	code = fork();
	if (!code)
		_exit(42);
	term = fork();
	if (!term) {
		signal(SIGTERM, SIG_DFL);
		raise(SIGTERM);
		_exit(1);
	}
	killed = fork();
	if (!killed) {
		raise(SIGKILL);
		_exit(1);
	}
	leader = fork();
	if (!leader) {
		setpgid(0, 0);
		_exit(7);
	}
	setpgid(leader, leader);
	member = fork();
	if (!member) {
		setpgid(0, leader);
		hold(NULL);
		_exit(0);
	}
	await_zombie(code);
	await_zombie(term);
	await_zombie(killed);
	await_zombie(leader);
	while (sigtimedwait(&chld, &si, &(struct timespec){ 0, 0 }) > 0)
		;
	meet(1);
	await_zombie(member);
	sigpending(&pending);
	CHECK(sigtimedwait(&chld, &si, &(struct timespec){ 5, 0 }) == SIGCHLD && si.si_pid == member);
	check_zombie(code, 42 << 8);
	check_zombie(term, SIGTERM);
	check_zombie(killed, SIGKILL);
	check_zombie(leader, 7 << 8);
	ended_well(member);
	none_left();
}

/* Zombies of a parent that ignores SIGCHLD by now, and one whose SIGCHLD is pending. */
static void ignored(void)
{
	sigset_t chld, pending;
	pid_t z;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	begin();
	z = fork();
	if (!z)
		_exit(3);
	await_zombie(z);
	meet(0);
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGCHLD));
	signal(SIGCHLD, SIG_IGN);
	check_zombie(z, 3 << 8);
	none_left();
}

static void in_between(void (*fn)(void))
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		fn();
		_exit(0);
	}
	ended_well(pid);
}

static void fork_orphan(void)
{
	pid_t parent = getpid(), pid = fork();

	CHECK(pid >= 0);
	if (pid)
		return;
	while (getppid() == parent)
		t_sleep_ms(1);
	hold(NULL);
	_exit(0);
}

static void adopted_holder(void)
{
	fork_orphan();
	fork_orphan();
}

static void session_that_ends(void)
{
	CHECK(setsid() > 0);
	adopted_holder();
}

static void group_that_ends(void)
{
	CHECK(!setpgid(0, 0));
	adopted_holder();
}

static void become_reaper(void)
{
	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
}

static void reap_all(int n)
{
	int status;

	for (int i = 0; i < n; i++)
		CHECK(waitpid(-1, &status, 0) > 0 && status == 0);
	none_left();
}

/* Orphans of the root's own session, adopted by it. */
static void orphans(void)
{
	become_reaper();
	begin();
	in_between(adopted_holder);
	meet(2);
	reap_all(2);
}

/* The leader of their session has ended, and was waited for. */
static void deadsession(void)
{
	become_reaper();
	begin();
	in_between(session_that_ends);
	meet(2);
	reap_all(2);
}

/* It has ended, and was not waited for. */
static void zombieleader(void)
{
	pid_t leader;

	become_reaper();
	begin();
	leader = fork();
	CHECK(leader >= 0);
	if (!leader) {
		session_that_ends();
		_exit(0);
	}
	await_zombie(leader);
	meet(2);
	check_zombie(leader, 0);
	reap_all(2);
}

static void deadgroup(void)
{
	become_reaper();
	begin();
	in_between(group_that_ends);
	meet(2);
	reap_all(2);
}

/* The leader of the session lives; a process of it was orphaned and adopted by the root, two levels up. */
static void adopted(void)
{
	pid_t a;

	become_reaper();
	begin();
	a = fork();
	if (!a) {
		pid_t l = fork();

		if (!l) {
			setsid();
			in_between(adopted_holder);
			hold(NULL);
			_exit(0);
		}
		hold(NULL);
		ended_well(l);
		_exit(0);
	}
	meet(4);
	reap_all(3);
}

/* A session leader whose child was forked before it became one. */
static void outside(void)
{
	pid_t a;

	begin();
	a = fork();
	if (!a) {
		pid_t c = fork_holder(NULL), d;

		setsid();
		d = fork_holder(NULL);
		hold(NULL);
		ended_well(c);
		ended_well(d);
		_exit(0);
	}
	meet(3);
	ended_well(a);
	none_left();
}

/* Who led a group, and went into another, leaves the others behind in it. */
static void moved(void)
{
	int told[2];
	pid_t a, b, c;
	char x;

	begin();
	CHECK(!pipe(told));
	a = fork();
	if (!a) {
		setpgid(0, 0);
		CHECK(read(told[0], &x, 1) == 1);
		CHECK(!setpgid(0, getppid()));
		hold(NULL);
		_exit(0);
	}
	setpgid(a, a);
	b = fork();
	if (!b) {
		CHECK(!setpgid(0, a));
		hold(NULL);
		_exit(0);
	}
	c = fork();
	if (!c) {
		CHECK(!setpgid(0, a));
		hold(NULL);
		_exit(0);
	}
	hear(2);
	CHECK(write(told[1], "x", 1) == 1);
	CHECK(write(said[1], "hh", 2) == 2);
	meet(3);
	ended_well(a);
	ended_well(b);
	ended_well(c);
	none_left();
}

/* Stopped by job control; nobody is told again. */
static void stopped(void)
{
	sigset_t chld, pending;
	siginfo_t si;
	pid_t a, b;
	int status;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	begin();
	a = fork_holder(NULL);
	b = fork_holder(NULL);
	hear(2);
	kill(a, SIGSTOP);
	CHECK(waitpid(a, &status, WUNTRACED) == a && WIFSTOPPED(status));
	while (sigtimedwait(&chld, &si, &(struct timespec){ 0, 0 }) > 0)
		;
	CHECK(write(said[1], "hh", 2) == 2);
	hear(2);
	t_wait();
	sigpending(&pending);
	CHECK(!sigismember(&pending, SIGCHLD));
	CHECK(waitpid(a, &status, WUNTRACED | WNOHANG) == 0);
	kill(a, SIGCONT);
	close(go[1]);
	hear(2);
	ended_well(a);
	ended_well(b);
	none_left();
}

/* ---- memory that a fork shares: pages that nobody wrote stay one */

#define COW_BYTES (24 * MIB)
#define COW_OWN (40 * MIB)
static char *cow;
static size_t cow_own; /* bytes that only the parent has */

static void check_cow_child(void)
{
	CHECK(t_same(cow, COW_BYTES / 2, 7));
	CHECK(t_same(cow + COW_BYTES / 2, MIB, 8));
	for (size_t i = 0; i < PAGE; i++)
		CHECK(cow[COW_BYTES / 2 + MIB + i] == 0);
	CHECK(t_same(cow + COW_BYTES / 2 + 2 * MIB, COW_BYTES / 2 - 2 * MIB, 10));
}

static unsigned long pss_kb(pid_t pid)
{
	char path[64], line[256];
	unsigned long kb = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	f = fopen(path, "re");
	CHECK(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Pss: %lu kB", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

static void cowtree(void)
{
	unsigned long before = 0, after = 0;
	pid_t kids[4];
	char *own;

	begin();
	cow = mmap(NULL, COW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(cow != MAP_FAILED);
	t_fill(cow, COW_BYTES / 2, 7);
	t_fill(cow + COW_BYTES / 2, 2 * MIB, 9);
	t_fill(cow + COW_BYTES / 2 + 2 * MIB, COW_BYTES / 2 - 2 * MIB, 10);
	for (int i = 0; i < 4; i++) {
		kids[i] = fork();
		if (!kids[i]) {
			/* some pages written, some given back */
			t_fill(cow + COW_BYTES / 2, MIB, 8);
			CHECK(!madvise(cow + COW_BYTES / 2 + MIB, MIB, MADV_DONTNEED));
			/* a heap that grew since */
			CHECK(sbrk(1 * MIB) != (void *)-1);
			hold(check_cow_child);
			_exit(0);
		}
	}
	hear(4);
	own = mmap(NULL, COW_OWN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(own != MAP_FAILED);
	t_fill(own, cow_own, 11);
	before = pss_kb(getpid());
	for (int i = 0; i < 4; i++)
		before += pss_kb(kids[i]);
	CHECK(write(said[1], "hhhh", 4) == 4);
	hear(4);
	t_wait();
	after = pss_kb(getpid());
	for (int i = 0; i < 4; i++)
		after += pss_kb(kids[i]);
	if (after > before + before / 10)
		FAIL("%lu KiB became %lu", before, after);
	CHECK(t_same(cow, COW_BYTES / 2, 7));
	CHECK(t_same(cow + COW_BYTES / 2, 2 * MIB, 9));
	CHECK(t_same(own, cow_own, 11));
	close(go[1]);
	hear(4);
	for (int i = 0; i < 4; i++)
		ended_well(kids[i]);
	none_left();
}

/* With so much of its own that a dump takes the direct way for it, and must not for what is shared. */
static void cowlarge(void)
{
	cow_own = COW_OWN;
	cowtree();
}

/* ---- objects that processes share by clone flags */

static int shared_fd = -1;

static pid_t raw_clone(unsigned long flags, int (*fn)(void *), void *stack_top, void *arg)
{
	return clone(fn, stack_top, (int)flags | SIGCHLD, arg);
}

static int files_child(void *arg)
{
	char c;

	(void)arg;
	CHECK(write(said[1], "h", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		CHECK(errno == EINTR);
	/* Opened by the parent after the fork, and seen here: one table. */
	CHECK(fcntl(shared_fd, F_GETFD) >= 0);
	CHECK(dup2(shared_fd, 77) == 77);
	CHECK(write(said[1], "s", 1) == 1);
	return 0;
}

static void sharedfiles(void)
{
	void *stack = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	begin();
	shared_fd = 55;
	pid = raw_clone(CLONE_FILES, files_child, (char *)stack + MIB, NULL);
	CHECK(pid > 0);
	CHECK(dup2(said[0], 55) == 55);
	hear(1);
	t_wait();
	/* Its end would not be seen: the child has it, too. */
	CHECK(write(go[1], "x", 1) == 1);
	hear(1);
	ended_well(pid);
	CHECK(fcntl(77, F_GETFD) >= 0);
	none_left();
}

static int fs_child(void *arg)
{
	char c;

	(void)arg;
	close(go[1]);
	CHECK(write(said[1], "h", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		CHECK(errno == EINTR);
	CHECK(!chdir("/"));
	umask(0);
	CHECK(write(said[1], "s", 1) == 1);
	return 0;
}

static void sharedfs(void)
{
	void *stack = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char cwd[512];
	pid_t pid;

	begin();
	pid = raw_clone(CLONE_FS, fs_child, (char *)stack + MIB, NULL);
	CHECK(pid > 0);
	hear(1);
	t_wait();
	CHECK(getcwd(cwd, sizeof(cwd)) && strcmp(cwd, "/"));
	close(go[1]);
	hear(1);
	CHECK(getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/"));
	CHECK(umask(022) == 0);
	ended_well(pid);
	none_left();
}

static volatile int vm_word;

static int vm_child(void *arg)
{
	char c;

	(void)arg;
	CHECK(write(said[1], "h", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		;
	vm_word = getpid();
	CHECK(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
	CHECK(write(said[1], "s", 1) == 1);
	return 0;
}

static void on_usr2(int sig)
{
	(void)sig;
}

static void sharedvm(unsigned long flags)
{
	void *stack = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction sa;
	pid_t a, b;

	begin();
	signal(SIGUSR2, on_usr2);
	a = raw_clone(flags, vm_child, (char *)stack + MIB, NULL);
	b = raw_clone(flags, vm_child, (char *)stack + 2 * MIB, NULL);
	CHECK(a > 0 && b > 0);
	hear(2);
	t_wait();
	CHECK(vm_word == 0);
	CHECK(write(go[1], "xx", 2) == 2);
	hear(2);
	CHECK(vm_word == a || vm_word == b);
	sigaction(SIGUSR2, NULL, &sa);
	CHECK((sa.sa_handler == SIG_IGN) == !!(flags & CLONE_SIGHAND));
	ended_well(a);
	ended_well(b);
	none_left();
}

static void vm(void)
{
	sharedvm(CLONE_VM);
}

static void vmsighand(void)
{
	sharedvm(CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS);
}

/* ---- descriptions that several have */

static int file_fd;

static void check_offset(void)
{
	char c;

	CHECK(read(file_fd, &c, 1) == 1 && c >= '3' && c <= '6');
}

static void sharedoffset(void)
{
	pid_t kids[3];
	char c;

	begin();
	file_fd = open("digits", O_CREAT | O_RDWR, 0644);
	CHECK(write(file_fd, "0123456789", 10) == 10);
	CHECK(lseek(file_fd, 3, SEEK_SET) == 3);
	for (int i = 0; i < 3; i++)
		kids[i] = fork_holder(check_offset);
	meet(3);
	CHECK(read(file_fd, &c, 1) == 1 && c == '6');
	for (int i = 0; i < 3; i++)
		ended_well(kids[i]);
	none_left();
}

static void *sleep_thread(void *arg)
{
	volatile int *stop = arg;

	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE))
		t_sleep_ms(5);
	return NULL;
}

/* Threads in every process. */
static void threaded(void)
{
	static volatile int stop;
	pid_t kids[4];

	begin();
	for (int i = 0; i < 4; i++) {
		kids[i] = fork();
		if (!kids[i]) {
			pthread_t t[5];

			for (int k = 0; k < 5; k++)
				CHECK(!pthread_create(&t[k], NULL, sleep_thread, (void *)&stop));
			hold(NULL);
			__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
			for (int k = 0; k < 5; k++)
				CHECK(!pthread_join(t[k], NULL));
			_exit(0);
		}
	}
	meet(4);
	for (int i = 0; i < 4; i++)
		ended_well(kids[i]);
	none_left();
}

static volatile int *shared_word;

static void check_shared(void)
{
	CHECK(__atomic_add_fetch(shared_word, 1, __ATOMIC_SEQ_CST) > 100);
}

/* Memory that is really shared, anonymous and a memfd. */
static void sharedmem(void)
{
	pid_t kids[3];

	begin();
	shared_word = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared_word != MAP_FAILED);
	*shared_word = 100;
	for (int i = 0; i < 3; i++)
		kids[i] = fork_holder(check_shared);
	meet(3);
	for (int i = 0; i < 3; i++)
		ended_well(kids[i]);
	CHECK(*shared_word == 103);
	none_left();
}

static void many(void)
{
	pid_t kids[100];

	begin();
	for (int i = 0; i < 100; i++)
		kids[i] = fork_holder(NULL);
	meet(100);
	for (int i = 0; i < 100; i++)
		ended_well(kids[i]);
	none_left();
}

/* The death of a parent is told. */
static void pdeath(void)
{
	int told[2];
	pid_t a;
	char x;

	become_reaper();
	begin();
	CHECK(!pipe(told));
	a = fork();
	if (!a) {
		pid_t c = fork();

		if (!c) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			hold(NULL);
			CHECK(write(told[1], "x", 1) == 1);
			pause();
		}
		hold(NULL);
		CHECK(read(told[0], &x, 1) == 1);
		_exit(0); /* which ends the child */
	}
	meet(2);
	for (int i = 0; i < 2; i++) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);

		CHECK(pid > 0 && status == (pid == a ? 0 : SIGKILL));
	}
	none_left();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "basic", basic },	  { "chain", chain },		{ "zombies", zombies },	    { "ignored", ignored },
		{ "orphans", orphans },	  { "deadsession", deadsession }, { "deadgroup", deadgroup }, { "adopted", adopted },
		{ "outside", outside },	  { "moved", moved },		{ "stopped", stopped },	    { "cow", cowtree },
		{ "cowlarge", cowlarge },
		{ "files", sharedfiles }, { "fs", sharedfs },		{ "vm", vm },		    { "vmsighand", vmsighand },
		{ "offset", sharedoffset }, { "threads", threaded },	{ "shared", sharedmem },    { "many", many },
		{ "pdeath", pdeath },	  { "zombieleader", zombieleader },
	};

	T_RUN(variants, t_init(argc, argv));
}
