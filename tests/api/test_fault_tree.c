/* SPDX-License-Identifier: MIT */
/*
 * Every stage of a dump and of a restore of a tree fails once. After a dump that failed all tasks run on, nobody traces them,
 * their memory is laid out as before, and the folder is empty; after a restore that failed there is no task, no child and no
 * file, and the next one works. One of the tasks is stopped, one is a zombie, two hold ends of a pipe.
 */
#include "api.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>

#define COUNTERS 9 /* the root, four children, four grandchildren */
#define SLOTS (COUNTERS + 2) /* and a stopped one and a zombie, which do not count */

struct shown {
	volatile unsigned long count[COUNTERS];
	volatile pid_t pid[SLOTS];
	volatile unsigned ready;
};

static char base[] = "/tmp/ckpt-fault-tree-XXXXXX";
static struct shown *shown;
static int failures;

#define EXPECT(cond, ...)                                        \
	do {                                                     \
		if (!(cond)) {                                   \
			fprintf(stderr, "not ok: " __VA_ARGS__); \
			fputc('\n', stderr);                     \
			failures++;                              \
		}                                                \
	} while (0)

static void enter(int slot)
{
	shown->pid[slot] = getpid();
	__atomic_add_fetch(&shown->ready, 1, __ATOMIC_SEQ_CST);
}

/* Counts in private memory, and shows it. Bytes go round in a pipe that it shares with another. */
static void count_for_ever(int slot, const int *ring)
{
	volatile unsigned long mine = 0;
	char c = 'x';

	enter(slot);
	for (;;) {
		shown->count[slot] = ++mine;
		if (ring && slot % 2 && read(ring[0], &c, 1) != 1)
			_exit(1);
		if (ring && !(slot % 2) && write(ring[1], &c, 1) != 1)
			_exit(2);
		usleep(500);
	}
}

static void stop_for_ever(int slot)
{
	enter(slot);
	for (;;)
		raise(SIGSTOP);
}

static void root_task(const char *path)
{
	int fd, ring[2];

	close_range(3, ~0u, 0);
	setsid();
	fd = open(path, O_RDWR);
	shown = mmap(NULL, sizeof(*shown), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shown == MAP_FAILED || pipe(ring) != 0)
		_exit(1);
	close(fd);
	close_range(0, 2, 0);
	for (int i = 1; i <= 4; i++)
		if (fork() == 0) {
			if (fork() == 0)
				count_for_ever(4 + i, i <= 2 ? ring : NULL);
			count_for_ever(i, NULL);
		}
	if (fork() == 0)
		stop_for_ever(COUNTERS);
	if (fork() == 0) {
		enter(COUNTERS + 1);
		_exit(3);
	}
	close_range(0, ~0u, 0);
	count_for_ever(0, NULL);
}

static char state_of(pid_t pid)
{
	char path[64], text[512] = "", *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (!fgets(text, sizeof(text), f))
		text[0] = 0;
	fclose(f);
	p = strrchr(text, ')');
	return p ? p[2] : 0;
}

/* A moment after it was let go a stopped task is on its way to its stop. */
static char settled_state(pid_t pid, char want)
{
	for (int t = 0; t < 1000 && state_of(pid) != want; t++)
		usleep(1000);
	return state_of(pid);
}

static int all_count(void)
{
	unsigned long before[COUNTERS];
	int left = COUNTERS;

	for (int i = 0; i < COUNTERS; i++)
		before[i] = shown->count[i];
	for (int t = 0; t < 3000 && left; t++) {
		left = 0;
		usleep(1000);
		for (int i = 0; i < COUNTERS; i++)
			left += shown->count[i] == before[i];
	}
	return !left;
}

static char *slurp(pid_t pid, const char *file)
{
	static char text[65536];
	char path[64];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	f = fopen(path, "r");
	n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	text[n] = 0;
	if (f)
		fclose(f);
	return text;
}

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n - 2;
}

/* Everything runs on, or stands still as it did. */
static void as_before(const char *what, char *const maps[COUNTERS])
{
	EXPECT(all_count(), "not all tasks go on after %s", what);
	EXPECT(settled_state(shown->pid[COUNTERS], 'T') == 'T', "the stopped task is in state %c after %s",
	       state_of(shown->pid[COUNTERS]), what);
	EXPECT(state_of(shown->pid[COUNTERS + 1]) == 'Z', "the zombie is in state %c after %s",
	       state_of(shown->pid[COUNTERS + 1]), what);
	for (int i = 0; i < COUNTERS + 1; i++)
		EXPECT(strstr(slurp(shown->pid[i], "status"), "TracerPid:\t0\n"), "task %d is traced after %s", shown->pid[i],
		       what);
	for (int i = 0; maps && i < COUNTERS; i++)
		EXPECT(!strcmp(maps[i], slurp(shown->pid[i], "maps")), "mappings of task %d differ after %s", shown->pid[i], what);
}

static int there(void)
{
	int n = 0;

	for (int i = 0; i < SLOTS; i++)
		n += kill(shown->pid[i], 0) == 0;
	return n;
}

static void reap_all(void)
{
	while (waitpid(-1, NULL, __WALL | WNOHANG) > 0)
		;
}

static void end_tree(void)
{
	for (int i = SLOTS - 1; i >= 0; i--)
		kill(shown->pid[i], SIGKILL);
	for (int t = 0; t < 5000 && there(); t++) {
		reap_all();
		usleep(1000);
	}
}

static void fail_dump(struct ckpt_ctx *ctx, pid_t pid, const char *stage)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	char dir[96], what[128], *maps[COUNTERS];
	int r;

	snprintf(dir, sizeof(dir), "%s/failed", base);
	snprintf(what, sizeof(what), "a fault at %s", stage);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	opts.fault_stage = stage;
	for (int i = 0; i < COUNTERS; i++)
		maps[i] = strdup(slurp(shown->pid[i], "maps"));
	r = ckpt_dump(ctx, pid, &opts, NULL, &err);
	EXPECT(r == CKPT_E_INTERNAL, "dump with %s: %d (%s)", what, r, ckpt_err_message(err));
	ckpt_err_free(err);
	as_before(what, maps);
	EXPECT(entries(dir) == 0, "%d files left after %s", entries(dir), what);
	for (int i = 0; i < COUNTERS; i++)
		free(maps[i]);
}

static void fail_restore(struct ckpt_ctx *ctx, const char *dir, const char *stage)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	int before = entries(dir), files = entries(base), r;
	pid_t got = 0;

	opts.images_dir = dir;
	opts.fault_stage = stage;
	r = ckpt_restore(ctx, &opts, &got, NULL, &err);
	EXPECT(r == CKPT_E_INTERNAL, "restore with a fault at %s: %d (%s)", stage, r, ckpt_err_message(err));
	ckpt_err_free(err);
	for (int t = 0; t < 2000 && there(); t++)
		usleep(1000);
	EXPECT(!there(), "%d tasks are there after a fault at %s", there(), stage);
	EXPECT(waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD, "a child is left after a fault at %s", stage);
	EXPECT(entries(dir) == before && entries(base) == files, "files came or went by a fault at %s", stage);
}

static pid_t start_tree(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	pid_t pid;

	if (fd < 0 || ftruncate(fd, sizeof(*shown)) != 0)
		return -1;
	shown = mmap(NULL, sizeof(*shown), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	pid = fork();
	if (!pid)
		root_task(path);
	while (shown->ready < SLOTS)
		usleep(1000);
	while (state_of(shown->pid[COUNTERS]) != 'T' || state_of(shown->pid[COUNTERS + 1]) != 'Z')
		usleep(1000);
	return pid;
}

int main(void)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { .sz = sizeof(stats) }, rstats = { .sz = sizeof(rstats) };
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;
	char dir[96], path[96];
	pid_t pid, got = 0;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return SKIPPED;
	}
	/* orphans of a tree whose root a dump has ended are ours to wait for */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (!mkdtemp(base) || ckpt_ctx_new(&ctx) != 0)
		return 1;
	snprintf(path, sizeof(path), "%s/shown", base);
	pid = start_tree(path);

	snprintf(dir, sizeof(dir), "%s/whole", base);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	if (ckpt_dump(ctx, pid, &opts, &stats, &err) != 0) {
		fprintf(stderr, "not ok: dump: %s\n", ckpt_err_message(err));
		end_tree();
		remove_folder(base);
		return 1;
	}
	end_tree();
	if (ckpt_restore(ctx, &opts, &got, &rstats, &err) != 0) {
		fprintf(stderr, "not ok: restore: %s\n", ckpt_err_message(err));
		remove_folder(base);
		return 1;
	}
	EXPECT(got == pid, "restored as %d, was %d", got, pid);
	as_before("the first restore", NULL);
	for (size_t i = 0; i < stats.n_stages; i++)
		fail_dump(ctx, pid, stats.stages[i].name);
	end_tree();
	for (size_t i = 0; i < rstats.n_stages; i++)
		fail_restore(ctx, dir, rstats.stages[i].name);
	err = NULL;
	EXPECT(ckpt_restore(ctx, &opts, &got, NULL, &err) == 0, "restore after all: %s", ckpt_err_message(err));
	as_before("the last restore", NULL);
	end_tree();
	ckpt_ctx_free(ctx);
	failures += remove_folder(base);
	puts(failures ? "FAIL" : "PASS");
	return failures != 0;
}
