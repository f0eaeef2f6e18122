// SPDX-License-Identifier: MIT
/*
 * What a process is besides its memory and files: names, arguments, environment and auxiliary vector as /proc shows them,
 * resource limits, oom_score_adj, personality, parent-death signal, child subreaper, dumpable, transparent huge pages.
 */
#include "target.h"

#include <sys/personality.h>
#include <sys/resource.h>

static void names(void)
{
	static char before[3][16384], after[16384];
	static const char *const files[] = { "/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv" };
	size_t n[3];
	char exe[2][4096] = { "", "" }, comm[16];

	setenv("LATER", "set by the program", 1);
	prctl(PR_SET_NAME, "a name (of) 15 c");
	for (int i = 0; i < 3; i++)
		CHECK((n[i] = t_slurp(files[i], before[i], sizeof(before[i]))) > 0);
	CHECK(readlink("/proc/self/exe", exe[0], sizeof(exe[0]) - 1) > 0);
	t_wait();
	for (int i = 0; i < 3; i++) {
		size_t now = t_slurp(files[i], after, sizeof(after));

		if (now != n[i] || memcmp(after, before[i], now))
			FAIL("%s changed (%zu bytes, were %zu)", files[i], now, n[i]);
	}
	CHECK(readlink("/proc/self/exe", exe[1], sizeof(exe[1]) - 1) > 0 && !strcmp(exe[0], exe[1]));
	prctl(PR_GET_NAME, comm);
	CHECK(!strcmp(comm, "a name (of) 15 "));
	CHECK(!strcmp(getenv("LATER"), "set by the program"));
}

/* A program that set its own title: the argument area moved. */
static void title(void)
{
	static const char text[] = "my new title\0second argument";
	char buf[4096], *p, *area = malloc(sizeof(text)); /* /proc shows arguments only from anonymous memory */
	uint64_t v[52] = { 0 };
	struct prctl_mm_map m;

	memcpy(area, text, sizeof(text));
	CHECK(t_slurp("/proc/self/stat", buf, sizeof(buf)));
	p = strrchr(buf, ')') + 4; /* past the state */
	for (int i = 4; i < 52; i++)
		v[i] = strtoul(p, &p, 10);
	m = (struct prctl_mm_map){
		.start_code = v[26], .end_code = v[27], .start_stack = v[28], .start_data = v[45], .end_data = v[46],
		.start_brk = v[47], .brk = (uintptr_t)sbrk(0), .arg_start = (uintptr_t)area,
		.arg_end = (uintptr_t)area + sizeof(text), .env_start = v[50], .env_end = v[51], .exe_fd = -1,
	};
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &m, sizeof(m), 0))
		SKIP("PR_SET_MM_MAP is not allowed here");
	t_wait();
	size_t got = t_slurp("/proc/self/cmdline", buf, sizeof(buf));
	if (got != sizeof(text) || memcmp(buf, text, got))
		FAIL("the command line is %zu bytes, \"%s\"", got, buf);
}

static void rlimits(void)
{
	struct rlimit want[RLIM_NLIMITS], now;

	for (int i = 0; i < RLIM_NLIMITS; i++) {
		CHECK(!getrlimit(i, &want[i]));
		if (want[i].rlim_cur > (1ul << 30) + i)
			want[i].rlim_cur = (1ul << 30) + i;
		if (i == RLIMIT_NOFILE)
			want[i] = (struct rlimit){ 300, want[i].rlim_max < 2000 ? want[i].rlim_max : 2000 };
		if (i == RLIMIT_CORE)
			want[i].rlim_cur = want[i].rlim_max = 4096;
		CHECK(!setrlimit(i, &want[i]));
	}
	t_wait();
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		CHECK(!getrlimit(i, &now));
		if (now.rlim_cur != want[i].rlim_cur || now.rlim_max != want[i].rlim_max)
			FAIL("limit %d is %lu, %lu", i, now.rlim_cur, now.rlim_max);
	}
}

static void smallfiles(void)
{
	struct rlimit rl = { 0, 0 }, files = { 102, 102 };

	CHECK(!setrlimit(RLIMIT_NOFILE, &files)); /* just above the highest one open */
	CHECK(!setrlimit(RLIMIT_CORE, &rl));
	t_wait();
	CHECK(!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur == 102 && rl.rlim_max == 102);
}

static void oom(void)
{
	char b[16];
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0 && write(fd, "567", 3) == 3 && !close(fd));
	t_wait();
	CHECK(t_slurp("/proc/self/oom_score_adj", b, sizeof(b)) && atoi(b) == 567);
}

static void persona(void)
{
	CHECK(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC) >= 0);
	t_wait();
	CHECK(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC));
}

static void pdeathsig(void)
{
	int sig = 0;

	CHECK(!prctl(PR_SET_PDEATHSIG, SIGWINCH));
	t_wait();
	CHECK(!prctl(PR_GET_PDEATHSIG, &sig) && sig == SIGWINCH);
}

static void subreaper(void)
{
	int v = 0;

	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	t_wait();
	CHECK(!prctl(PR_GET_CHILD_SUBREAPER, &v) && v == 1);
}

static void undumpable(void)
{
	CHECK(!prctl(PR_SET_DUMPABLE, 0));
	t_wait();
	CHECK(prctl(PR_GET_DUMPABLE) == 0);
}

static void thp(void)
{
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	t_wait();
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "names", names }, { "title", title }, { "rlimits", rlimits }, { "smallfiles", smallfiles }, { "oom", oom },
		{ "personality", persona }, { "pdeathsig", pdeathsig }, { "subreaper", subreaper },
		{ "undumpable", undumpable }, { "thp", thp },
	};

	T_RUN(variants, t_init(argc, argv));
}
