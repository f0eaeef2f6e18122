// SPDX-License-Identifier: MIT
/*
 * What an embedding program is told while a process of 48 MiB is dumped and restored: it goes forward, ends at the whole,
 * says when the process stands still, and agrees with the statistics.
 */
#include <pthread.h>
#include <string.h>

#include "api.h"

#define SIZE (48u << 20)

static int failures;
static char base[] = "/tmp/ckpt-progress-XXXXXX";

#define EXPECT(cond, ...)                             \
	do {                                          \
		if (!(cond)) {                        \
			fprintf(stderr, "not ok: ");  \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr);          \
			failures++;                   \
		}                                     \
	} while (0)

struct seen {
	pthread_t thread;
	struct ckpt_progress last;
	unsigned calls, frozen, halfway, backwards, foreign;
};

static void on_progress(void *arg, const struct ckpt_progress *p)
{
	struct seen *s = arg;

	if (p->sz < sizeof(*p) || !p->stage || !*p->stage)
		s->backwards++;
	s->calls++;
	s->frozen += p->frozen;
	s->halfway += p->bytes_done && p->bytes_done < p->bytes_total;
	s->backwards += p->done < s->last.done || p->bytes_done < s->last.bytes_done || p->done > p->total ||
			p->bytes_done > p->bytes_total;
	s->foreign += !pthread_equal(pthread_self(), s->thread);
	s->last = *p;
}

static void check(const char *what, const struct seen *s, const struct ckpt_stats *stats, bool halfway)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < stats->n_stages; i++)
		bytes += stats->stages[i].bytes;
	EXPECT(s->calls > 3, "%s: told %u times", what, s->calls);
	EXPECT(!s->backwards, "%s: went backwards, or beyond the end, %u times", what, s->backwards);
	EXPECT(!s->foreign, "%s: called from another thread", what);
	EXPECT(s->halfway || !halfway, "%s: nothing was told between the beginning and the end of the memory", what);
	EXPECT(s->last.total && s->last.done == s->last.total, "%s: ended at %llu of %llu", what,
	       (unsigned long long)s->last.done, (unsigned long long)s->last.total);
	EXPECT(s->last.bytes_done == s->last.bytes_total && s->last.bytes_done >= SIZE, "%s: %llu of %llu bytes", what,
	       (unsigned long long)s->last.bytes_done, (unsigned long long)s->last.bytes_total);
	EXPECT(bytes == s->last.bytes_done, "%s: the stages moved %llu bytes, told were %llu", what,
	       (unsigned long long)bytes, (unsigned long long)s->last.bytes_done);
	EXPECT(!s->last.frozen, "%s: still frozen at the end", what);
}

static pid_t start_large(void)
{
	pid_t pid = fork();
	char *p;

	if (pid != 0)
		return pid;
	close_range(0, ~0u, 0);
	setsid();
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		_exit(1);
	for (size_t i = 0; i < SIZE; i += 64)
		p[i] = (char)(i / 64 + i / 4096 + 1);
	for (;;)
		pause();
}

int main(void)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct seen seen = { .thread = pthread_self() };
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;
	pid_t pid, got = 0;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return SKIPPED;
	}
	if (!mkdtemp(base) || ckpt_ctx_new(&ctx) != 0)
		return 1;
	pid = start_large();
	usleep(200000);
	opts.images_dir = base;
	ckpt_ctx_set_progress(ctx, on_progress, &seen);
	EXPECT(ckpt_dump(ctx, pid, &opts, &stats, &err) == 0, "dump: %s", ckpt_err_message(err));
	waitpid(pid, NULL, 0);
	check("dump", &seen, &stats, true);
	EXPECT(seen.frozen > 2, "dump: frozen was told %u times", seen.frozen);

	seen = (struct seen){ .thread = pthread_self() };
	EXPECT(ckpt_restore(ctx, &opts, &got, &stats, &err) == 0, "restore: %s", ckpt_err_message(err));
	check("restore", &seen, &stats, false); /* it may be over within one look */
	EXPECT(!seen.frozen, "restore: frozen was told %u times", seen.frozen);
	end_child(got);
	ckpt_ctx_free(ctx);
	failures += remove_folder(base);
	puts(failures ? "FAIL" : "PASS");
	return failures != 0;
}
