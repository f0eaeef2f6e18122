/* SPDX-License-Identifier: MIT */
/*
 * Many tasks, and tasks in odd places: five hundred processes with twenty descriptors each; ten thousand threads; processes
 * that fork and exit all the time; orphans, zombies, stopped tasks, sessions and groups whose leaders are dead.
 *
 * Every process waits for SIGUSR1, hands it on to its children, checks itself, waits for the children, and exits with 0 if
 * all is well: so the verdict travels up by exit codes alone, and needs nothing that is not under test anyway.
 */
#include "target.h"

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static int ready_pipe[2];

static void crowd_init(void)
{
	CHECK(pipe(ready_pipe) == 0);
}

/* Called by each process but the root when it is set up. */
static void say_ready(void)
{
	CHECK(write(ready_pipe[1], "x", 1) == 1);
	close(ready_pipe[0]);
	close(ready_pipe[1]);
}

static void wait_ready(unsigned n)
{
	char c;

	close(ready_pipe[1]);
	for (; n; n--)
		CHECK(read(ready_pipe[0], &c, 1) == 1);
	close(ready_pipe[0]);
}

static void wait_for_go(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	while (sigwaitinfo(&s, NULL) < 0)
		if (errno != EINTR)
			FAIL("sigwaitinfo: %s", strerror(errno));
}

/* Has a child check itself; it must end well. */
static void ask(pid_t pid)
{
	CHECK(kill(pid, SIGUSR1) == 0);
}

static void answer(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	if (status != 0)
		FAIL("process %d ended with %#x", pid, status);
}

static pid_t do_fork(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	return pid;
}

static void no_more_children(void)
{
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);

	if (pid != -1 || errno != ECHILD)
		FAIL("a child that nobody knows: %d, status %#x", pid, status);
}

/* ---- five hundred processes of twenty descriptors: twenty branches, of which each forks its own leaves */

#define HOLD 20
#define MAX_BRANCHES 20
#define MAX_LEAVES 24

static unsigned n_branches, n_leaves, n_tasks;
static unsigned odd = -1u; /* number of the process that has something that cannot be saved */

struct held {
	int pipes[2][2], events[2], file[2], dup;
	pid_t pid, parent;
	unsigned n;
	char *memory;
};

static int common_pipe[2], common_file[2];

static void hold_init(void)
{
	char c = 0;

	CHECK(pipe(common_pipe) == 0);
	for (unsigned i = 0; i < n_tasks; i++) {
		c = 'a' + i % 26;
		CHECK(write(common_pipe[1], &c, 1) == 1);
	}
	for (int i = 0; i < 2; i++) {
		char name[] = "common0";

		name[6] += i;
		common_file[i] = open(name, O_RDWR | O_CREAT | O_APPEND * i, 0600);
		CHECK(common_file[i] >= 0);
	}
}

static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void have_secret(void)
{
	int fd = syscall(SYS_memfd_secret, 0);

	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
	close(fd);
}

static void hold(struct held *h, unsigned n)
{
	char name[32], text[32];

	h->n = n;
	h->pid = getpid();
	h->parent = getppid();
	for (int i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "pipe %d of %u", i, n);
		CHECK(pipe(h->pipes[i]) == 0);
		CHECK(write(h->pipes[i][1], text, strlen(text)) == (ssize_t)strlen(text));
		h->events[i] = eventfd(n * 2 + i, EFD_NONBLOCK | i * EFD_CLOEXEC);
		snprintf(name, sizeof(name), "file%d-%u", i, n);
		h->file[i] = open(name, O_RDWR | O_CREAT, 0600);
		CHECK(h->events[i] >= 0 && h->file[i] >= 0);
		CHECK(write(h->file[i], "0123456789", 10) == 10 && lseek(h->file[i], n % 10, SEEK_SET) == n % 10);
	}
	h->dup = dup(h->file[0]);
	CHECK(h->dup >= 0);
	h->memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(h->memory != MAP_FAILED);
	t_fill(h->memory + PAGE, 2 * PAGE, n);
	if (n == odd)
		have_secret();
	say_ready();
	while (count_fds() < HOLD)
		CHECK(open("/dev/null", O_RDWR) >= 0);
}

static void held(const struct held *h)
{
	uint64_t v;
	char text[32], want[32], c;
	ssize_t n;

	CHECK(getpid() == h->pid && getppid() == h->parent);
	CHECK(count_fds() == HOLD);
	CHECK(t_same(h->memory + PAGE, 2 * PAGE, h->n) && !h->memory[0]);
	for (int i = 0; i < 2; i++) {
		snprintf(want, sizeof(want), "pipe %d of %u", i, h->n);
		n = read(h->pipes[i][0], text, sizeof(text));
		CHECK(n == (ssize_t)strlen(want) && !memcmp(text, want, n));
		n = read(h->events[i], &v, sizeof(v));
		CHECK(h->n || i ? n == 8 && v == h->n * 2 + i : n == -1);
		CHECK(lseek(h->file[i], 0, SEEK_CUR) == h->n % 10);
	}
	CHECK(read(h->file[0], &c, 1) == 1 && c == '0' + (char)(h->n % 10));
	CHECK(lseek(h->dup, 0, SEEK_CUR) == h->n % 10 + 1);
	/* one byte each of what all share, and a line each in a file whose offset all share */
	CHECK(read(common_pipe[0], &c, 1) == 1 && c >= 'a' && c <= 'z');
	snprintf(text, sizeof(text), "%06u\n", h->n);
	CHECK(write(common_file[0], text, 7) == 7 && write(common_file[1], text, 7) == 7);
}

static void leaf(unsigned n)
{
	struct held h;

	hold(&h, n);
	wait_for_go();
	held(&h);
	_exit(0);
}

static void branch(unsigned b)
{
	pid_t pids[MAX_LEAVES];
	struct held h;

	for (unsigned i = 0; i < n_leaves; i++) {
		pids[i] = do_fork();
		if (!pids[i])
			leaf(n_branches + b * n_leaves + i);
	}
	hold(&h, b);
	wait_for_go();
	for (unsigned i = 0; i < n_leaves; i++)
		ask(pids[i]);
	held(&h);
	for (unsigned i = 0; i < n_leaves; i++)
		answer(pids[i]);
	no_more_children();
	_exit(0);
}

static void branches(unsigned b_n, unsigned l_n)
{
	pid_t pids[MAX_BRANCHES];
	struct stat st;
	int left;

	n_branches = b_n;
	n_leaves = l_n;
	n_tasks = b_n * (l_n + 1);
	crowd_init();
	hold_init();
	for (unsigned b = 0; b < n_branches; b++) {
		pids[b] = do_fork();
		if (!pids[b])
			branch(b);
	}
	wait_ready(n_tasks);
	t_wait();
	for (unsigned b = 0; b < n_branches; b++)
		ask(pids[b]);
	for (unsigned b = 0; b < n_branches; b++)
		answer(pids[b]);
	no_more_children();
	CHECK(ioctl(common_pipe[0], FIONREAD, &left) == 0 && left == 0);
	for (int i = 0; i < 2; i++)
		CHECK(fstat(common_file[i], &st) == 0 && st.st_size == 7 * n_tasks);
	CHECK(lseek(common_file[0], 0, SEEK_CUR) == 7 * n_tasks);
}

static void fivehundred(void)
{
	branches(20, 24);
}

static void thirty(void)
{
	branches(5, 5);
}

/* One of the last processes has memory that nobody else can read, by design. */
static void oneodd(void)
{
	int fd = syscall(SYS_memfd_secret, 0);

	if (fd < 0)
		SKIP("no secret memory here: %s", strerror(errno));
	close(fd);
	odd = 400;
	branches(20, 24);
}

/* ---- four processes that hold what lies outside of them: locks, names of sockets, System V memory, deleted files */

#define HOLDERS 4

struct outside {
	int lock, listener, peer, ghost, memfd, id;
	char *segment;
};

static int listen_at(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(sun.sun_path, path);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0 && listen(fd, 4) == 0);
	return fd;
}

static void hold_outside(struct outside *o, int n, int peer)
{
	char name[32];

	o->peer = peer;
	snprintf(name, sizeof(name), "lock%d", n);
	o->lock = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(o->lock >= 0 && flock(o->lock, LOCK_EX | LOCK_NB) == 0);
	snprintf(name, sizeof(name), "sock%d", n);
	o->listener = listen_at(name);
	snprintf(name, sizeof(name), "ghost%d", n);
	o->ghost = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(o->ghost >= 0 && write(o->ghost, "boo", 3) == 3 && unlink(name) == 0);
	o->memfd = memfd_create("held", 0);
	CHECK(o->memfd >= 0 && write(o->memfd, "memory", 6) == 6);
	o->id = shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600);
	o->segment = o->id < 0 ? (void *)-1 : shmat(o->id, NULL, 0);
	CHECK(o->segment != (void *)-1);
	t_fill(o->segment, 2 * PAGE, n);
	CHECK(write(o->peer, &n, sizeof(n)) == sizeof(n));
}

static void held_outside(const struct outside *o, int n)
{
	struct sockaddr_un sun;
	socklen_t len = sizeof(sun);
	char text[8];
	int other, c;

	CHECK(t_same(o->segment, 2 * PAGE, n));
	CHECK(shmctl(o->id, IPC_RMID, NULL) == 0);
	CHECK(pread(o->ghost, text, 3, 0) == 3 && !memcmp(text, "boo", 3));
	CHECK(pread(o->memfd, text, 6, 0) == 6 && !memcmp(text, "memory", 6));
	snprintf(text, sizeof(text), "lock%d", n);
	other = open(text, O_RDWR);
	CHECK(other >= 0 && flock(other, LOCK_EX | LOCK_NB) < 0);
	CHECK(getsockname(o->listener, (struct sockaddr *)&sun, &len) == 0);
	c = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(c >= 0 && connect(c, (struct sockaddr *)&sun, len) == 0);
	CHECK(write(o->peer, &n, sizeof(n)) == sizeof(n));
}

static void assorted(void)
{
	int pairs[HOLDERS][2], got[2];
	pid_t pids[HOLDERS];
	struct outside o;

	crowd_init();
	for (int i = 0; i < HOLDERS; i++) {
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0);
		pids[i] = do_fork();
		if (!pids[i]) {
			hold_outside(&o, i, pairs[i][1]);
			say_ready();
			wait_for_go();
			held_outside(&o, i);
			_exit(0);
		}
	}
	wait_ready(HOLDERS);
	t_wait();
	for (int i = 0; i < HOLDERS; i++)
		ask(pids[i]);
	for (int i = 0; i < HOLDERS; i++) {
		answer(pids[i]);
		CHECK(recv(pairs[i][0], got, sizeof(got), MSG_WAITALL) == sizeof(got) && got[0] == i && got[1] == i);
	}
	no_more_children();
}

/* ---- ten processes of a thousand threads */

#define PROCS 10
#define THREADS 1000

static __thread uint64_t mine;
static volatile int flag;

static void *one_thread(void *arg)
{
	pid_t tid = gettid();
	int v;

	mine = (uint64_t)(uintptr_t)arg * 0x9e3779b97f4a7c15ull;
	__atomic_add_fetch((int *)&flag, 1, __ATOMIC_RELEASE);
	while ((v = __atomic_load_n(&flag, __ATOMIC_ACQUIRE)) <= THREADS)
		syscall(SYS_futex, &flag, 0 /* FUTEX_WAIT */, v, NULL, NULL, 0);
	return (void *)(uintptr_t)(gettid() == tid && mine == (uint64_t)(uintptr_t)arg * 0x9e3779b97f4a7c15ull);
}

static void thousand(void)
{
	static pthread_t threads[THREADS];
	pthread_attr_t attr;
	void *good;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], &attr, one_thread, (void *)(i + 1)) == 0);
	while (__atomic_load_n(&flag, __ATOMIC_ACQUIRE) < THREADS)
		t_sleep_ms(1);
	say_ready();
	wait_for_go();
	__atomic_add_fetch((int *)&flag, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &flag, 1 /* FUTEX_WAKE */, 1 << 30, NULL, NULL, 0);
	for (int i = 0; i < THREADS; i++) {
		CHECK(pthread_join(threads[i], &good) == 0);
		CHECK(good);
	}
	_exit(0);
}

static void manythreads(void)
{
	pid_t pids[PROCS];

	crowd_init();
	for (int i = 0; i < PROCS; i++) {
		pids[i] = do_fork();
		if (!pids[i])
			thousand();
	}
	wait_ready(PROCS);
	t_wait();
	for (int i = 0; i < PROCS; i++)
		ask(pids[i]);
	for (int i = 0; i < PROCS; i++)
		answer(pids[i]);
	no_more_children();
}

/* ---- a storm: breeders whose children exit, exec, or leave orphans, all the time. Nobody may get lost. */

#define BREEDERS 3

struct score {
	unsigned begun, ended, orphans;
};

static struct score *score;

static bool asked(void)
{
	sigset_t s;

	return sigpending(&s) == 0 && sigismember(&s, SIGUSR1);
}

static void count(unsigned *n)
{
	__atomic_add_fetch(n, 1, __ATOMIC_SEQ_CST);
}

/* A child by vfork that becomes another program: its parent stands still in the kernel meanwhile. */
static pid_t breed_exec(void)
{
	static char *const argv[] = { "true", NULL };
	pid_t pid = vfork();

	if (!pid) {
		execv("/bin/true", argv);
		_exit(127);
	}
	CHECK(pid > 0);
	return pid;
}

static pid_t breed(unsigned i)
{
	pid_t pid;

	if (i % 4 == 0)
		return breed_exec();
	pid = do_fork();
	if (pid)
		return pid;
	count(&score->begun);
	if (i % 4 == 1) { /* leaves an orphan, which the root will have to wait for */
		count(&score->orphans);
		pid = do_fork();
		if (!pid) {
			t_sleep_ms(i % 3);
			count(&score->ended);
			_exit(0);
		}
	} else {
		count(&score->ended);
	}
	_exit(i % 100);
}

static void breeder(void)
{
	unsigned begun = 0;
	int status;
	pid_t pid;

	say_ready();
	for (unsigned i = 0; !asked(); i++) {
		begun += i % 4 != 0;
		pid = breed(i);
		CHECK(waitpid(pid, &status, 0) == pid);
		if (status != (i % 4 ? i % 100 << 8 : 0))
			FAIL("child %d, number %u, ended with %#x", pid, i, status);
	}
	no_more_children();
	_exit(begun > 20 ? 0 : 1);
}

/* Waits for whoever has ended; a breeder must have been asked to. */
static unsigned storm_reap(pid_t *breeders, bool going)
{
	unsigned orphans = 0;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		bool known = false;

		if (status != 0)
			FAIL("process %d ended with %#x", pid, status);
		for (int i = 0; i < BREEDERS; i++)
			if (breeders[i] == pid) {
				known = true;
				breeders[i] = 0;
			}
		if (known && going)
			FAIL("breeder %d ended by itself", pid);
		orphans += !known;
	}
	return orphans;
}

static void storm(void)
{
	pid_t breeders[BREEDERS];
	unsigned orphans = 0;
	siginfo_t si;

	crowd_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	score = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(score != MAP_FAILED);
	for (int i = 0; i < BREEDERS; i++) {
		breeders[i] = do_fork();
		if (!breeders[i])
			breeder();
	}
	wait_ready(BREEDERS);
	t_say("ready\n");
	while (!asked()) {
		orphans += storm_reap(breeders, true);
		t_sleep_ms(1);
	}
	for (int i = 0; i < BREEDERS; i++)
		ask(breeders[i]);
	while (waitid(P_ALL, 0, &si, WNOHANG | WNOWAIT | WEXITED) == 0) {
		orphans += storm_reap(breeders, false);
		t_sleep_ms(1);
	}
	for (int i = 0; i < BREEDERS; i++)
		CHECK(!breeders[i]);
	if (score->begun != score->ended || score->orphans != orphans)
		FAIL("%u begun, %u ended; %u orphans made, %u seen", score->begun, score->ended, score->orphans, orphans);
}

/* ---- orphans: their parents are gone, and the nearest subreaper has them */

static void expect_parent(pid_t want)
{
	if (getppid() != want)
		FAIL("the parent is %d, not %d", getppid(), want);
}

/* A child whose parent ends at once (by @session after it had begun a session). Returns the orphan's pid. */
static pid_t make_orphan(bool session)
{
	pid_t mid, orphan, adopter = getpid();
	int fds[2], status;

	CHECK(pipe(fds) == 0);
	mid = do_fork();
	if (!mid) {
		if (session)
			CHECK(setsid() == getpid());
		orphan = do_fork();
		if (!orphan) {
			pid_t sid = getsid(0), pgid = getpgid(0);

			close(fds[0]);
			while (getppid() != adopter)
				t_sleep_ms(1);
			orphan = getpid();
			CHECK(write(fds[1], &orphan, sizeof(orphan)) == sizeof(orphan));
			close(fds[1]);
			say_ready();
			wait_for_go();
			expect_parent(adopter);
			CHECK(getsid(0) == sid && getpgid(0) == pgid);
			CHECK(!session || (kill(sid, 0) < 0 && errno == ESRCH));
			_exit(0);
		}
		_exit(7);
	}
	close(fds[1]);
	CHECK(waitpid(mid, &status, 0) == mid && status == 7 << 8);
	CHECK(read(fds[0], &orphan, sizeof(orphan)) == sizeof(orphan));
	close(fds[0]);
	return orphan;
}

static void orphans(void)
{
	pid_t pids[4];

	crowd_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	for (int i = 0; i < 4; i++)
		pids[i] = make_orphan(i % 2);
	wait_ready(4);
	t_wait();
	for (int i = 0; i < 4; i++)
		ask(pids[i]);
	for (int i = 0; i < 4; i++)
		answer(pids[i]);
	no_more_children();
}

/* A subreaper below one that is none, below the root that is one; each adopts what it must, before and after. */
static void subreaper(bool is)
{
	pid_t orphan = 0;
	int set = 0;

	if (is) {
		CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
		orphan = make_orphan(false);
	}
	say_ready();
	wait_for_go();
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &set, 0, 0, 0) == 0 && set == is);
	if (is) {
		ask(orphan);
		answer(orphan);
		/* and once more */
		CHECK(pipe(ready_pipe) == 0);
		orphan = make_orphan(true);
		wait_ready(1);
		ask(orphan);
		answer(orphan);
	}
	no_more_children();
	_exit(0);
}

static void subreapers(void)
{
	pid_t mid, pid;

	crowd_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	mid = do_fork();
	if (!mid) {
		pid = do_fork();
		if (!pid)
			subreaper(true);
		say_ready();
		wait_for_go();
		ask(pid);
		answer(pid);
		no_more_children();
		_exit(0);
	}
	pid = do_fork();
	if (!pid)
		subreaper(false);
	wait_ready(4);
	t_wait();
	ask(mid);
	ask(pid);
	answer(mid);
	answer(pid);
	no_more_children();
}

/* ---- zombies: what they died of, and who they were */

static pid_t make_zombie(int how)
{
	pid_t pid = do_fork();
	siginfo_t si;

	if (!pid) {
		close(ready_pipe[0]);
		close(ready_pipe[1]);
		if (how & 1)
			CHECK(setsid() == getpid());
		if (how / 2 % 3 == 0)
			_exit(how * 11 % 256);
		if (how / 2 % 3 == 1)
			raise(SIGKILL);
		signal(SIGTERM, SIG_DFL);
		raise(SIGTERM);
		_exit(99);
	}
	CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0 && si.si_pid == pid);
	return pid;
}

static void bury_zombie(pid_t pid, int how)
{
	static const int died_of[] = { 0, SIGKILL, SIGTERM };
	int want = how / 2 % 3 ? died_of[how / 2 % 3] : (how * 11 % 256) << 8, status;
	siginfo_t si;

	CHECK(getpgid(pid) == (how & 1 ? pid : getpgid(0)));
	CHECK(getsid(pid) == (how & 1 ? pid : getsid(0)));
	CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0 && si.si_pid == pid && si.si_uid == getuid());
	CHECK(si.si_code == (how / 2 % 3 ? CLD_KILLED : CLD_EXITED));
	CHECK(waitpid(pid, &status, 0) == pid);
	if (status != want)
		FAIL("zombie %d: status %#x, not %#x", how, status, want);
	CHECK(kill(pid, 0) < 0 && errno == ESRCH);
}

static void with_zombies(pid_t zombies[6])
{
	for (int i = 0; i < 6; i++)
		zombies[i] = make_zombie(i);
}

static void without_zombies(pid_t zombies[6])
{
	for (int i = 0; i < 6; i++)
		bury_zombie(zombies[i], i);
	no_more_children();
}

static void zombies(void)
{
	pid_t own[6], theirs[6], pid;

	crowd_init();
	pid = do_fork();
	if (!pid) {
		with_zombies(theirs);
		say_ready();
		wait_for_go();
		without_zombies(theirs);
		_exit(0);
	}
	wait_ready(1);
	with_zombies(own);
	t_wait();
	ask(pid);
	answer(pid);
	without_zombies(own);
}

/* ---- stopped tasks: by each of the signals, with threads, and a parent that knows of it or does not */

static const int stops[] = { SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGSTOP };
#define STOPS ((int)ARRAY_SIZE(stops))

static void *spin_slowly(void *arg)
{
	volatile unsigned *n = arg;

	for (;;) {
		++*n;
		t_sleep_ms(1);
	}
	return NULL;
}

static void stopped_one(int i)
{
	volatile unsigned n = 0;
	unsigned before;
	pthread_t t;

	/* a stop signal that is not SIGSTOP does nothing to an orphaned group: this one has its parent outside of it */
	CHECK(setpgid(0, 0) == 0);
	if (i >= 3)
		CHECK(pthread_create(&t, NULL, spin_slowly, (void *)&n) == 0);
	say_ready();
	before = n;
	CHECK(kill(getpid(), stops[i]) == 0);
	/* goes on here after SIGCONT */
	if (i >= 3)
		for (int k = 0; n <= before && k < 2000; k++)
			t_sleep_ms(1);
	CHECK(i < 3 || n > before);
	wait_for_go();
	_exit(0);
}

static char state_of(pid_t pid)
{
	char path[64], text[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	t_slurp(path, text, sizeof(text));
	p = strrchr(text, ')');
	return p ? p[2] : 0;
}

static void stopped(void)
{
	pid_t pids[STOPS];
	int status;

	crowd_init();
	for (int i = 0; i < STOPS; i++) {
		pids[i] = do_fork();
		if (!pids[i])
			stopped_one(i);
	}
	wait_ready(STOPS);
	for (int i = 0; i < STOPS; i++) {
		while (state_of(pids[i]) != 'T')
			t_sleep_ms(1);
		if (i % 2)
			CHECK(waitpid(pids[i], &status, WUNTRACED) == pids[i] && status == (stops[i] << 8 | 0x7f));
	}
	t_wait();
	for (int i = 0; i < STOPS; i++)
		if (state_of(pids[i]) != 'T')
			FAIL("number %d is in state %c", i, state_of(pids[i]));
	for (int i = 0; i < STOPS; i++) {
		CHECK(kill(pids[i], SIGCONT) == 0);
		ask(pids[i]);
	}
	for (int i = 0; i < STOPS; i++)
		answer(pids[i]);
	no_more_children();
}

/* ---- sessions and groups, of which some leaders are dead */

struct place {
	pid_t sid, pgid;
};

static void stay(void)
{
	struct place at = { getsid(0), getpgid(0) };

	say_ready();
	wait_for_go();
	if (getsid(0) != at.sid || getpgid(0) != at.pgid)
		FAIL("session %d, group %d became %d, %d", at.sid, at.pgid, getsid(0), getpgid(0));
	_exit(0);
}

/* Makes a group of two, and its leader end. Returns who stays; the leader is a zombie of ours, or gone if @reap. */
static pid_t headless_group(bool reap, pid_t *leader)
{
	int hold[2], status;
	siginfo_t si;
	pid_t pid;
	char c;

	CHECK(pipe(hold) == 0);
	*leader = do_fork();
	if (!*leader) {
		close(hold[1]);
		if (read(hold[0], &c, 1) != 0)
			_exit(1);
		_exit(5);
	}
	CHECK(setpgid(*leader, *leader) == 0);
	pid = do_fork();
	if (!pid) {
		close(hold[0]);
		close(hold[1]);
		CHECK(setpgid(0, *leader) == 0);
		stay();
	}
	while (getpgid(pid) != *leader)
		t_sleep_ms(1);
	close(hold[0]);
	close(hold[1]);
	CHECK(waitid(P_PID, *leader, &si, WEXITED | WNOWAIT) == 0);
	if (reap)
		CHECK(waitpid(*leader, &status, 0) == *leader);
	return pid;
}

/* A session of three groups: the leader's, one of two processes, one without its leader. */
static void session(void)
{
	pid_t pids[4], dead;
	int status;

	CHECK(setsid() == getpid());
	pids[0] = do_fork();
	if (!pids[0])
		stay();
	pids[1] = do_fork();
	if (!pids[1]) {
		CHECK(setpgid(0, 0) == 0);
		stay();
	}
	while (getpgid(pids[1]) != pids[1])
		t_sleep_ms(1);
	pids[2] = do_fork();
	if (!pids[2]) {
		CHECK(setpgid(0, pids[1]) == 0);
		stay();
	}
	pids[3] = headless_group(false, &dead);
	say_ready();
	wait_for_go();
	CHECK(getsid(0) == getpid() && getpgid(0) == getpid());
	CHECK(getpgid(pids[2]) == pids[1] && getpgid(pids[3]) == dead);
	for (int i = 0; i < 4; i++)
		ask(pids[i]);
	for (int i = 0; i < 4; i++)
		answer(pids[i]);
	CHECK(waitpid(dead, &status, 0) == dead && status == 5 << 8);
	no_more_children();
	_exit(0);
}

static void sessions(void)
{
	pid_t pids[6], dead;

	crowd_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	for (int i = 0; i < 2; i++) {
		pids[i] = do_fork();
		if (!pids[i])
			session();
	}
	pids[2] = headless_group(true, &dead);
	pids[3] = make_orphan(true); /* a session whose leader is gone */
	pids[4] = make_orphan(true);
	pids[5] = do_fork();
	if (!pids[5]) { /* a group in the root's session */
		CHECK(setpgid(0, 0) == 0);
		stay();
	}
	wait_ready(2 * 5 + 4);
	t_wait();
	CHECK(getpgid(pids[2]) == dead);
	for (int i = 0; i < 6; i++)
		ask(pids[i]);
	for (int i = 0; i < 6; i++)
		answer(pids[i]);
	no_more_children();
}

static const struct t_variant variants[] = {
	{ "orphans", orphans },		{ "subreapers", subreapers },
	{ "zombies", zombies },		{ "stopped", stopped },
	{ "sessions", sessions },	{ "fivehundred", fivehundred },
	{ "thirty", thirty },		{ "oneodd", oneodd },
	{ "assorted", assorted },
	{ "manythreads", manythreads }, { "storm", storm },
};

int main(int argc, char **argv)
{
	const char *name = t_init(argc, argv);

	T_RUN(variants, name);
}
