// SPDX-License-Identifier: MIT
/*
 * System V IPC. Variants named own_* live in an IPC namespace of their own, where everything belongs to the tree; the others
 * in the caller's, where what they leave is removed by them at the end.
 */
#include "target.h"

#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>

#define SIZE (16 * PAGE)

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

static void own_namespace(void)
{
	if (unshare(CLONE_NEWIPC))
		SKIP("no IPC namespace to be had: %s", strerror(errno));
}

static unsigned long attached(int id)
{
	struct shmid_ds ds;

	CHECK(!shmctl(id, IPC_STAT, &ds));
	return ds.shm_nattch;
}

static int mode_of(int id)
{
	struct shmid_ds ds;

	CHECK(!shmctl(id, IPC_STAT, &ds));
	return ds.shm_perm.mode;
}

/* What the kernel says of an area. */
static bool area_is(void *at, unsigned long len, const char *perms)
{
	char line[512], want[64];
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;

	snprintf(want, sizeof(want), "%lx-%lx %s", (unsigned long)at, (unsigned long)at + len, perms);
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, want) != NULL;
	if (f)
		fclose(f);
	return found;
}

/* The usual way: made, attached, marked for deletion. */
static void deleted(void)
{
	int id = shmget(IPC_PRIVATE, SIZE - 100, IPC_CREAT | 0640);
	char *p = shmat(id, NULL, 0);

	CHECK(id >= 0 && p != (void *)-1 && !shmctl(id, IPC_RMID, NULL));
	t_fill(p + PAGE, PAGE, 1);
	t_wait();
	CHECK(t_same(p + PAGE, PAGE, 1) && !p[0] && !p[SIZE - 1]);
	CHECK(mode_of(id) == (0640 | 01000 /* SHM_DEST */));
	CHECK(attached(id) == 1);
	CHECK(!shmdt(p) && shmctl(id, IPC_STAT, &(struct shmid_ds){ 0 }) < 0);
}

/* With a key, several attachments, one of them read-only, parts protected, locked and unmapped. */
static void attachments(void)
{
	int id = shmget(0x4b505400 + (getpid() & 0xff), SIZE, IPC_CREAT | IPC_EXCL | 0600);
	char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY), *x = shmat(id, NULL, SHM_EXEC);

	CHECK(id >= 0 && p != (void *)-1 && q != (void *)-1 && x != (void *)-1);
	t_fill(p, SIZE, 2);
	CHECK(!mprotect(p + PAGE, PAGE, PROT_READ) && !mprotect(p + 2 * PAGE, PAGE, PROT_NONE));
	CHECK(!munmap(p + 4 * PAGE, 2 * PAGE) && !mlock(p + 8 * PAGE, PAGE) && !madvise(p + 10 * PAGE, PAGE, MADV_DONTFORK));
	t_wait();
	CHECK(t_same(q, SIZE, 2));
	CHECK(area_is(p, PAGE, "rw-s") && area_is(p + PAGE, PAGE, "r--s") && area_is(p + 2 * PAGE, PAGE, "---s"));
	CHECK(area_is(p + 8 * PAGE, PAGE, "rw-s") && area_is(q, SIZE, "r--s") && area_is(x, SIZE, "rwxs"));
	CHECK(!memcmp(p + 6 * PAGE, q + 6 * PAGE, PAGE));
	p[0]++;
	CHECK(p[0] == q[0] && x[0] == q[0]);
	CHECK(!shmdt(p) && !shmdt(q) && !shmdt(x) && attached(id) == 0);
	CHECK(!shmctl(id, IPC_RMID, NULL));
}

static void locked(void)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	char *p = shmat(id, NULL, 0);

	CHECK(id >= 0 && p != (void *)-1 && !shmctl(id, SHM_LOCK, NULL));
	t_fill(p, PAGE, 3);
	t_wait();
	CHECK(mode_of(id) == (0600 | 02000 /* SHM_LOCKED */) && t_same(p, PAGE, 3));
	CHECK(!shmctl(id, IPC_RMID, NULL));
}

static void own_deleted(void)
{
	own_namespace();
	deleted();
}

static void own_attachments(void)
{
	own_namespace();
	attachments();
}

/* A namespace with objects that nobody has in use, of other owners, with ids beyond the first ones. */
static void own_shm(void)
{
	struct shmid_ds ds;
	int first, id;
	char *p;

	own_namespace();
	first = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
	CHECK(first >= 0 && !shmctl(first, IPC_RMID, NULL));
	id = shmget(0x1234, SIZE, IPC_CREAT | 0666);
	CHECK(id > 0 && (p = shmat(id, NULL, 0)) != (void *)-1);
	t_fill(p, SIZE, 4);
	CHECK(!shmdt(p) && !shmctl(id, IPC_STAT, &ds));
	ds.shm_perm.uid = 1000;
	ds.shm_perm.gid = 1001;
	ds.shm_perm.mode = 0604;
	CHECK(!shmctl(id, IPC_SET, &ds));
	t_wait();
	CHECK(shmget(0x1234, SIZE, 0) == id && !shmctl(id, IPC_STAT, &ds));
	CHECK(ds.shm_perm.uid == 1000 && ds.shm_perm.gid == 1001 && ds.shm_perm.mode == 0604 && ds.shm_segsz == SIZE);
	CHECK((p = shmat(id, NULL, SHM_RDONLY)) != (void *)-1 && t_same(p, SIZE, 4));
}

/* Made by somebody else than who owns it. */
static void own_creator(void)
{
	struct semid_ds ds;
	int id;

	own_namespace();
	CHECK(!setegid(1002) && !seteuid(1001));
	id = semget(7, 3, IPC_CREAT | 0600);
	CHECK(!seteuid(0) && !setegid(0) && id >= 0);
	t_wait();
	CHECK(!semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }) && ds.sem_perm.cuid == 1001 && ds.sem_perm.cgid == 1002);
}

static void use_semaphores(int id)
{
	unsigned short v[5], want[5] = { 1, 0, 32767, 5, 7 };

	CHECK(!semctl(id, 0, SETALL, (union semun){ .array = want }));
	CHECK(!semop(id, &(struct sembuf){ 3, -2, 0 }, 1) && !semop(id, &(struct sembuf){ 4, 3, 0 }, 1));
	t_wait();
	CHECK(!semctl(id, 0, GETALL, (union semun){ .array = v }));
	CHECK(v[0] == 1 && v[1] == 0 && v[2] == 32767 && v[3] == 3 && v[4] == 10);
	CHECK(semop(id, &(struct sembuf){ 1, -1, IPC_NOWAIT }, 1) < 0 && errno == EAGAIN);
}

static void semaphores(void)
{
	int id = semget(IPC_PRIVATE, 5, IPC_CREAT | 0600);

	CHECK(id >= 0);
	use_semaphores(id);
	CHECK(!semctl(id, 0, IPC_RMID));
}

static void own_semaphores(void)
{
	int id, other;

	own_namespace();
	other = semget(8, 1, IPC_CREAT | 0600);
	CHECK((id = semget(9, 5, IPC_CREAT | 0600)) >= 0 && other >= 0);
	use_semaphores(id);
	CHECK(semget(9, 5, 0) == id && semget(8, 1, 0) == other);
}

/* A value that the kernel would undo: the dump is refused. */
static void undo(void)
{
	int id = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);

	CHECK(id >= 0 && !semop(id, &(struct sembuf){ 0, 2, SEM_UNDO }, 1));
	t_wait();
	CHECK(semctl(id, 0, GETVAL) == 2 && !semctl(id, 0, IPC_RMID));
}

static void own_undo(void)
{
	own_namespace();
	undo();
}

static void *sleeper(void *arg)
{
	t_sleep_ms(1000000);
	return arg;
}

/* With several threads nobody can tell: a warning. */
static void threads(void)
{
	pthread_t t;

	own_namespace(); /* of all threads: before there are others */
	CHECK(!pthread_create(&t, NULL, sleeper, NULL));
	semaphores();
}

struct text {
	long type;
	char bytes[64];
};

static void send(int id, long type, const char *s, size_t n)
{
	struct text t = { .type = type };

	memcpy(t.bytes, s, n);
	CHECK(!msgsnd(id, &t, n, IPC_NOWAIT));
}

static void receive(int id, long type, long want, const char *s, size_t n)
{
	struct text t;

	CHECK(msgrcv(id, &t, sizeof(t.bytes), type, IPC_NOWAIT) == (ssize_t)n);
	CHECK(t.type == want && !memcmp(t.bytes, s, n));
}

static void use_queue(int id)
{
	struct msqid_ds ds;

	send(id, 3, "three", 5);
	send(id, 1, "one", 4);
	send(id, 2, "", 0);
	send(id, 1, "another one of exactly 31 bytes", 31);
	t_wait();
	CHECK(!msgctl(id, IPC_STAT, &ds) && ds.msg_qnum == 4 && ds.msg_perm.mode == 0620);
	receive(id, 1, 1, "one", 4);
	receive(id, 0, 3, "three", 5);
	receive(id, 0, 2, "", 0);
	receive(id, 0, 1, "another one of exactly 31 bytes", 31);
	CHECK(msgrcv(id, &(struct text){ 0 }, 64, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
}

static void queue(void)
{
	int id = msgget(IPC_PRIVATE, IPC_CREAT | 0620);

	CHECK(id >= 0);
	use_queue(id);
	CHECK(!msgctl(id, IPC_RMID, NULL));
}

/* The limit was lowered below what lies in it; another one is empty. */
static void own_queue(void)
{
	struct msqid_ds ds;
	int id, empty;

	own_namespace();
	CHECK((empty = msgget(77, IPC_CREAT | 0600)) >= 0 && (id = msgget(78, IPC_CREAT | 0620)) >= 0);
	send(id, 9, "first", 6);
	CHECK(!msgctl(id, IPC_STAT, &ds));
	ds.msg_qbytes = 128;
	CHECK(!msgctl(id, IPC_SET, &ds));
	receive(id, 9, 9, "first", 6);
	use_queue(id);
	CHECK(msgget(77, 0) == empty && msgget(78, 0) == id && !msgctl(id, IPC_STAT, &ds) && ds.msg_qbytes == 128);
}

static void put(const char *name, const char *value)
{
	int fd = open(name, O_WRONLY);

	CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
	close(fd);
}

static bool has(const char *name, const char *value)
{
	char b[128];

	t_slurp(name, b, sizeof(b));
	b[strcspn(b, "\n")] = 0;
	return !strcmp(b, value);
}

static void own_limits(void)
{
	own_namespace();
	put("/proc/sys/kernel/sem", "250 32000 100 128");
	put("/proc/sys/kernel/msgmax", "4096");
	put("/proc/sys/kernel/shmmax", "68719476736");
	put("/proc/sys/kernel/shmmni", "100");
	put("/proc/sys/kernel/shm_rmid_forced", "1");
	put("/proc/sys/kernel/msg_next_id", "4711");
	put("/proc/sys/fs/mqueue/msg_max", "20");
	t_wait();
	CHECK(has("/proc/sys/kernel/sem", "250\t32000\t100\t128") && has("/proc/sys/kernel/msgmax", "4096"));
	CHECK(has("/proc/sys/kernel/shmmax", "68719476736") && has("/proc/sys/kernel/shmmni", "100"));
	CHECK(has("/proc/sys/kernel/shm_rmid_forced", "1") && has("/proc/sys/fs/mqueue/msg_max", "20"));
	CHECK(has("/proc/sys/kernel/msg_next_id", "4711") && has("/proc/sys/kernel/sem_next_id", "-1"));
}

/* Attached in part, with something else where the rest was. */
static void hole(void)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	char *p = shmat(id, NULL, 0);

	CHECK(id >= 0 && p != (void *)-1 && !shmctl(id, IPC_RMID, NULL));
	strcpy(p + 8 * PAGE, "attached");
	CHECK(!munmap(p, 4 * PAGE));
	CHECK(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	t_wait();
	CHECK(!strcmp(p + 8 * PAGE, "attached"));
}

static mqd_t mq_new(char name[64], long maxmsg, long msgsize, int flags)
{
	struct mq_attr attr = { .mq_maxmsg = maxmsg, .mq_msgsize = msgsize };
	mqd_t q;

	snprintf(name, 64, "/ckpt-%d-%ld", getpid(), maxmsg);
	q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | flags, 0640, &attr);
	if (q < 0)
		SKIP("no POSIX message queues here: %s", strerror(errno));
	return q;
}

static void mq_expect(mqd_t q, const char *text, unsigned want)
{
	char b[128];
	unsigned priority;

	CHECK(mq_receive(q, b, sizeof(b), &priority) == (ssize_t)strlen(text));
	CHECK(!memcmp(b, text, strlen(text)) && priority == want);
}

static void mq_fill(mqd_t q)
{
	CHECK(!mq_send(q, "low", 3, 1) && !mq_send(q, "high", 4, 30000) && !mq_send(q, "low again", 9, 1));
	CHECK(!mq_send(q, "", 0, 7) && !mq_send(q, "high again", 10, 30000));
}

static void mq_drain(mqd_t q)
{
	mq_expect(q, "high", 30000);
	mq_expect(q, "high again", 30000);
	mq_expect(q, "", 7);
	mq_expect(q, "low", 1);
	mq_expect(q, "low again", 1);
}

/* Two descriptions of one queue, one by its path where there is a mount; a full queue; one without a name. */
static void mqueue(void)
{
	char name[64], full_name[64], gone_name[64], path[128];
	mqd_t q = mq_new(name, 9, 128, O_NONBLOCK), full = mq_new(full_name, 5, 128, 0), gone = mq_new(gone_name, 7, 100, 0), reader;
	struct mq_attr attr;
	struct stat st;
	int by_path;

	reader = mq_open(name, O_RDONLY);
	CHECK(reader >= 0 && !mq_unlink(gone_name) && !fchmod(q, 0604) && !fchown(q, 5, 6));
	snprintf(path, sizeof(path), "/dev/mqueue%s", name);
	by_path = open(path, O_WRONLY);
	mq_fill(q);
	mq_fill(full);
	CHECK(!mq_send(gone, "gone", 4, 2));
	t_wait();
	CHECK(!mq_getattr(q, &attr) && attr.mq_flags == O_NONBLOCK && attr.mq_maxmsg == 9 && attr.mq_msgsize == 128);
	CHECK(!mq_getattr(reader, &attr) && !attr.mq_flags && attr.mq_curmsgs == 5);
	CHECK(!fstat(q, &st) && (st.st_mode & 07777) == 0604 && st.st_uid == 5 && st.st_gid == 6);
	CHECK(mq_send(reader, "x", 1, 0) < 0 && errno == EBADF);
	mq_drain(reader);
	CHECK(mq_receive(q, path, 128, NULL) < 0 && errno == EAGAIN);
	CHECK(by_path < 0 || !mq_send(by_path, "path", 4, 3));
	if (by_path >= 0)
		mq_expect(q, "path", 3);
	mq_drain(full);
	CHECK(!fstat(gone, &st) && !st.st_nlink);
	mq_expect(gone, "gone", 2);
	CHECK(!mq_unlink(name) && !mq_unlink(full_name) && mq_unlink(gone_name) < 0);
}

/* Also one that nobody has open. */
static void own_mqueue(void)
{
	char name[64];
	mqd_t q;

	own_namespace();
	q = mq_new(name, 8, 64, 0);
	CHECK(!mq_send(q, "nobody", 6, 3) && !mq_close(q));
	mqueue();
	CHECK((q = mq_open(name, O_RDONLY)) >= 0);
	mq_expect(q, "nobody", 3);
}

static void notify(void)
{
	char name[64];
	mqd_t q = mq_new(name, 3, 64, 0);
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 5 };

	CHECK(!mq_notify(q, &e) && !mq_unlink(name));
	t_wait();
	CHECK(!mq_notify(q, NULL));
}

/* POSIX shared memory without a name any more: longer than --ghost-limit, with a hole. */
static void posix(void)
{
	char name[64], *p;
	int fd;

	snprintf(name, sizeof(name), "/ckpt-%d", getpid());
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		SKIP("no POSIX shared memory here: %s", strerror(errno));
	CHECK(!shm_unlink(name) && !ftruncate(fd, 8 << 20));
	p = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	t_fill(p + PAGE, 3 << 20, 5);
	t_wait();
	CHECK(t_same(p + PAGE, 3 << 20, 5) && !p[0] && !p[(8 << 20) - 1]);
	p[0] = 'x';
	CHECK(pread(fd, name, 1, 0) == 1 && name[0] == 'x');
}

/* ------------------------------------------------------------------------------------------------- trees */

/* A child that does its part when told through a segment that both have attached. */
static void family(void)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600), status, sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
	volatile int *p = shmat(id, NULL, 0);
	char name[64];
	mqd_t q = mq_new(name, 4, 128, 0);
	pid_t child;

	CHECK(id >= 0 && sem >= 0 && p != (void *)-1 && !shmctl(id, IPC_RMID, NULL) && !mq_unlink(name));
	p[0] = 0;
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		/* It has the segment twice. */
		volatile int *again = shmat(id, NULL, 0);

		if (again == (void *)-1 || semop(sem, &(struct sembuf){ 0, -1, 0 }, 1) || again[0] != 5)
			_exit(1);
		p[1] = 6;
		_exit(mq_send(q, "child", 5, 1) != 0);
	}
	while (attached(id) != 3)
		t_sleep_ms(1);
	t_wait();
	CHECK(attached(id) == 3);
	p[0] = 5;
	CHECK(!semop(sem, &(struct sembuf){ 0, 1, 0 }, 1));
	CHECK(waitpid(child, &status, 0) == child && !status && p[1] == 6);
	mq_expect(q, "child", 1);
	CHECK(attached(id) == 1 && !semctl(sem, 0, IPC_RMID));
}

static void own_family(void)
{
	int fd;
	struct stat st, now;

	own_namespace();
	fd = open("/proc/self/ns/ipc", O_RDONLY);
	family();
	/* A descriptor of the namespace is one of the new one. */
	CHECK(fd >= 0 && !fstat(fd, &st) && !stat("/proc/self/ns/ipc", &now) && st.st_ino == now.st_ino);
}

/* A child in a namespace of its own: refused. */
static void apart(void)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		prctl(PR_SET_NAME, unshare(CLONE_NEWIPC) ? "failed" : "apart");
		pause();
	}
	t_sleep_ms(100);
	t_wait();
	CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "deleted", deleted },		{ "attachments", attachments },
		{ "locked", locked },		{ "semaphores", semaphores },
		{ "queue", queue },		{ "hole", hole },
		{ "own_deleted", own_deleted }, { "own_attachments", own_attachments },
		{ "own_shm", own_shm },		{ "own_creator", own_creator },
		{ "own_semaphores", own_semaphores }, { "own_queue", own_queue },
		{ "own_limits", own_limits },	{ "undo", undo },		{ "posix", posix },		{ "family", family },
		{ "own_family", own_family },	{ "apart", apart },
		{ "mqueue", mqueue },		{ "own_mqueue", own_mqueue },
		{ "notify", notify },
		{ "undo_left", undo },
		{ "own_undo", own_undo },	{ "threads", threads },
	};

	T_RUN(variants, t_init(argc, argv));
}
