// SPDX-License-Identifier: MIT
/*
 * A program that changes its memory step by step, for dumps that build upon each other. SIGUSR2 is a step: it does a number of
 * random things to its areas, and says "step N"; SIGUSR1 checks every page of them against what it must hold.
 *
 *   storm   writes, clears, drops, unmaps, maps, moves, protects; of anonymous memory and of a private file mapping
 *   fork    the same, and with the second step there is a child that does so, too
 *   busy    the same, all the time
 *   exec    each step executes the program again, which fills its memory anew
 *   few     SIZE pages (10 MiB), of which a step writes one in a hundred
 */
#include "target.h"

#include <sys/wait.h>

#define SLOTS 8
#define PAGES 256ul
#define SLOT_BYTES (PAGES * PAGE)
#define OPS 60

struct area {
	bool mapped, file, hidden; /* hidden: PROT_NONE */
	uint32_t gen[PAGES];	   /* 0: untouched: zeroes, or the file */
};

static struct {
	char *base;
	struct area a[SLOTS];
	uint64_t seed, steps, next_gen;
} *m;

static int file;
static pid_t child;
static int to_child[2] = { -1, -1 }, from_child[2] = { -1, -1 };

static char *page_at(unsigned slot, unsigned page)
{
	return m->base + slot * SLOT_BYTES + page * PAGE;
}

static uint64_t seed_of(uint32_t gen)
{
	return gen * 0x10001ull + 7;
}

static uint64_t pick(uint64_t n)
{
	return t_rand(&m->seed) % n;
}

static void map_slot(unsigned slot, bool from_file)
{
	void *want = page_at(slot, 0);

	CHECK(mmap(want, SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | (from_file ? 0 : MAP_ANONYMOUS),
		   from_file ? file : -1, 0) == want);
	m->a[slot] = (struct area){ .mapped = true, .file = from_file };
}

static void write_page(unsigned slot, unsigned page)
{
	m->a[slot].gen[page] = (uint32_t)++m->next_gen;
	t_fill(page_at(slot, page), PAGE, seed_of(m->a[slot].gen[page]));
}

/* Read, or written with what is there already. */
static void touch_page(unsigned slot, unsigned page)
{
	volatile char *p = page_at(slot, page) + pick(PAGE);
	char c = *p;

	if (m->a[slot].file || m->a[slot].gen[page])
		*p = c;
}

static void drop(unsigned slot, unsigned page, unsigned n)
{
	CHECK(!madvise(page_at(slot, page), n * PAGE, MADV_DONTNEED));
	memset(&m->a[slot].gen[page], 0, n * sizeof(uint32_t));
}

static void move(unsigned from, unsigned to)
{
	if (m->a[to].mapped)
		CHECK(!munmap(page_at(to, 0), SLOT_BYTES));
	CHECK(mremap(page_at(from, 0), SLOT_BYTES, SLOT_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(to, 0)) == page_at(to, 0));
	m->a[to] = m->a[from];
	m->a[from].mapped = false;
}

static void hide(unsigned slot, bool hidden)
{
	CHECK(!mprotect(page_at(slot, 0), SLOT_BYTES, hidden ? PROT_NONE : PROT_READ | PROT_WRITE));
	m->a[slot].hidden = hidden;
}

static void one_thing(void)
{
	unsigned slot = pick(SLOTS), page = pick(PAGES), n = 1 + pick(16), other = pick(SLOTS);

	n = page + n > PAGES ? PAGES - page : n;
	if (!m->a[slot].mapped) {
		map_slot(slot, pick(3) == 0);
		return;
	}
	if (m->a[slot].hidden) {
		hide(slot, false);
		return;
	}
	switch (pick(16)) {
	case 0 ... 6:
		for (unsigned i = 0; i < n; i++)
			write_page(slot, page + i);
		break;
	case 7 ... 8:
		touch_page(slot, page);
		break;
	case 9 ... 10:
		drop(slot, page, n);
		break;
	case 11:
		drop(slot, page, n);
		write_page(slot, page);
		break;
	case 12:
		hide(slot, true);
		break;
	case 13:
		if (other != slot)
			move(slot, other);
		break;
	case 14:
		CHECK(!munmap(page_at(slot, 0), SLOT_BYTES));
		m->a[slot].mapped = false;
		break;
	case 15:
		map_slot(slot, pick(3) == 0);
		write_page(slot, page);
		break;
	}
}

static void check_page(unsigned slot, unsigned page)
{
	static char want[PAGE];
	const char *p = page_at(slot, page);

	if (m->a[slot].gen[page]) {
		if (!t_same(p, PAGE, seed_of(m->a[slot].gen[page])))
			FAIL("slot %u page %u (%p) is not what was written to it, generation %u", slot, page, (void *)p,
			     m->a[slot].gen[page]);
		return;
	}
	memset(want, 0, PAGE);
	if (m->a[slot].file)
		CHECK(pread(file, want, PAGE, (off_t)(page * PAGE)) == (ssize_t)PAGE);
	if (memcmp(p, want, PAGE))
		FAIL("slot %u page %u (%p) is not %s", slot, page, (void *)p, m->a[slot].file ? "what the file has" : "zero");
}

static void check_all(void)
{
	for (unsigned s = 0; s < SLOTS; s++) {
		if (!m->a[s].mapped)
			continue;
		if (m->a[s].hidden)
			hide(s, false);
		for (unsigned p = 0; p < PAGES; p++)
			check_page(s, p);
	}
}

static void setup(uint64_t seed)
{
	char content[PAGE];

	file = open("content", O_RDWR | O_CREAT, 0644);
	CHECK(file >= 0);
	for (unsigned i = 0; i < PAGES; i++) {
		t_fill(content, PAGE, i + 99);
		CHECK(pwrite(file, content, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE);
	}
	m = mmap(NULL, (sizeof(*m) + PAGE - 1) & ~(PAGE - 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED);
	/* Room for the slots; what is not mapped is nobody's. */
	m->base = mmap(NULL, SLOTS * SLOT_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m->base != MAP_FAILED);
	CHECK(!munmap(m->base, SLOTS * SLOT_BYTES));
	m->seed = seed;
	for (unsigned s = 0; s < SLOTS; s++) {
		map_slot(s, s % 3 == 2);
		for (unsigned p = 0; p < PAGES; p += s % 2 ? 3 : 1)
			write_page(s, p);
	}
}

static void step(void)
{
	m->steps++;
	for (int i = 0; i < OPS; i++)
		one_thing();
}

/* ---- a child that does the same */

__attribute__((noreturn)) static void child_main(void)
{
	char what;

	m->seed += 1000;
	close(to_child[1]);
	close(from_child[0]);
	while (read(to_child[0], &what, 1) == 1) {
		if (what == 'c') {
			check_all();
			_exit(0);
		}
		step();
		CHECK(write(from_child[1], "x", 1) == 1);
	}
	_exit(1);
}

static void start_child(void)
{
	CHECK(!pipe(to_child) && !pipe(from_child));
	child = fork();
	CHECK(child >= 0);
	if (!child)
		child_main();
	close(to_child[0]);
	close(from_child[1]);
}

static void tell_child(char what)
{
	char c;

	CHECK(write(to_child[1], &what, 1) == 1);
	if (what == 's')
		CHECK(read(from_child[0], &c, 1) == 1);
}

static void check_child(void)
{
	int status;

	tell_child('c');
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
}

/* ---- a few pages of many */

static void few(bool first)
{
	size_t n = 2560;

	if (first) {
		m = mmap(NULL, (sizeof(*m) + PAGE - 1) & ~(PAGE - 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(m != MAP_FAILED);
		m->base = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(m->base != MAP_FAILED);
		for (size_t i = 0; i < n; i++)
			t_fill(m->base + i * PAGE, PAGE, i);
		return;
	}
	m->steps++;
	for (size_t i = m->steps % 100; i < n; i += 100)
		t_fill(m->base + i * PAGE, PAGE, i + m->steps * 100000);
}

static void check_few(void)
{
	for (size_t i = 0; i < 2560; i++) {
		uint64_t last = m->steps; /* the last step that wrote to this page */

		while (last && last % 100 != i % 100)
			last--;
		if (!t_same(m->base + i * PAGE, PAGE, i + last * 100000))
			FAIL("page %zu is not what step %lu wrote", i, last);
	}
}

/* The steps that were done are in a file, too: memory that is old as a whole would not notice. */
static void check_steps(const char *path)
{
	char text[8192];
	uint64_t n = 0;

	t_slurp(path, text, sizeof(text));
	for (const char *p = text; (p = strstr(p, "step ")); p++)
		n++;
	if (n != m->steps)
		FAIL("%lu steps were done, and memory knows of %lu", n, m->steps);
}

int main(int argc, char **argv)
{
	const char *v = t_init(argc, argv);
	bool is_few = !strcmp(v, "few"), busy = !strcmp(v, "busy"), with_child = !strcmp(v, "fork"), again = !strcmp(v, "exec");
	char number[24];
	siginfo_t si;
	sigset_t set;

	if (is_few)
		few(true);
	else
		setup(again && getenv("STEP") ? strtoull(getenv("STEP"), NULL, 10) : 1);
	if (again && getenv("STEP"))
		m->steps = strtoull(getenv("STEP"), NULL, 10);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (m->steps)
		t_say("step %lu\n", m->steps);
	else
		t_say("ready\n");
	for (;;) {
		int sig = busy ? sigtimedwait(&set, &si, &(struct timespec){ 0 }) : sigwaitinfo(&set, &si);

		if (busy && sig < 0)
			step();
		if (sig < 0)
			continue;
		if (sig == SIGUSR1)
			break;
		if (again) {
			snprintf(number, sizeof(number), "%lu", m->steps + 1);
			setenv("STEP", number, 1);
			execv("/proc/self/exe", argv);
			FAIL("execv: %s", strerror(errno));
		}
		if (is_few)
			few(false);
		else
			step();
		if (with_child && m->steps == 2)
			start_child();
		else if (child)
			tell_child('s');
		t_say("step %lu\n", m->steps);
	}
	if (is_few)
		check_few();
	else
		check_all();
	if (child)
		check_child();
	if (!busy)
		check_steps(argv[1]);
	t_pass();
}
