// SPDX-License-Identifier: MIT
/*
 * The page server's protocol, byte by byte: what we send is compared with the structures of the format's description, and
 * each end is played to by a script over a socketpair: peers that are right, that are old, that lie, stall, vanish, or speak
 * something else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/image/dir.h"
#include "lib/image/ps_client.h"
#include "lib/image/ps_get.h"
#include "lib/image/ps_proto.h"
#include "lib/image/ps_serve.h"
#include "lib/image/ps_store.h"

struct env {
	char path[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	int ours, theirs; /* the two ends of a connection */
	struct ps_stream s;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));
	int pair[2];

	if (!e)
		return -1;
	strcpy(e->path, "test-ps-XXXXXX");
	if (!mkdtemp(e->path) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->path;
	e->opts.ps_timeout = 1;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	e->ours = pair[0];
	e->theirs = pair[1];
	ps_stream_init(&e->s, e->ours, "peer", 1);
	*state = e;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct env *e = *state;

	ps_stream_done(&e->s);
	close_fd_p(&e->ours);
	close_fd_p(&e->theirs);
	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	nftw(e->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

static void assert_ok(struct env *e, int r)
{
	if (r != 0)
		fail_msg("code %d: %s", r, ckpt_err_message(e->op.err));
}

static void assert_code(struct env *e, int r, int code, const char *part)
{
	if (r != code || !e->op.err || !strstr(ckpt_err_message(e->op.err), part))
		fail_msg("code %d (want %d), message \"%s\" (want \"%s\" in it)", r, code, ckpt_err_message(e->op.err), part);
	op_forget(&e->op);
}

static size_t count_files(struct env *e)
{
	DIR *d = opendir(e->path);
	size_t n = 0;

	while (d && readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static char *in_folder(struct env *e, const char *name)
{
	return arena_printf(e->op.arena, "%s/%s", e->path, name);
}

static size_t get_file(struct env *e, const char *name, uint8_t **p)
{
	_cleanup_close_ int fd = open(in_folder(e, name), O_RDONLY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail_msg("%s is not there", name);
	*p = arena_alloc(e->op.arena, (size_t)st.st_size + 1);
	assert_int_equal(read(fd, *p, (size_t)st.st_size), st.st_size);
	return (size_t)st.st_size;
}

/* ---- what is said, by hand: bytes as in the description, not by the code that is tested */

struct script {
	uint8_t *v;
	size_t n;
};

static void say(struct script *sc, const void *p, size_t n)
{
	sc->v = realloc(sc->v, sc->n + n);
	memcpy(sc->v + sc->n, p, n);
	sc->n += n;
}

static void le(struct script *sc, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		say(sc, &(uint8_t){ (uint8_t)(v >> 8 * i) }, 1);
}

static void command(struct script *sc, uint32_t cmd, uint64_t nr_pages, uint64_t vaddr, uint64_t dst_id)
{
	le(sc, cmd, 4);
	le(sc, 0, 4);
	le(sc, nr_pages, 8);
	le(sc, vaddr, 8);
	le(sc, dst_id, 8);
}

static void command24(struct script *sc, uint32_t cmd, uint32_t nr_pages, uint64_t vaddr, uint64_t dst_id)
{
	le(sc, cmd, 4);
	le(sc, nr_pages, 4);
	le(sc, vaddr, 8);
	le(sc, dst_id, 8);
}

static void fill(uint8_t *p, size_t pages, uint8_t first)
{
	for (size_t i = 0; i < pages; i++)
		memset(p + i * PAGE_SIZE, first + (int)i, PAGE_SIZE);
}

static void pages(struct script *sc, size_t n, uint8_t first)
{
	_cleanup_free_ uint8_t *p = malloc(n * PAGE_SIZE);

	fill(p, n, first);
	say(sc, p, n * PAGE_SIZE);
}

/* A process that says @sc at its end, reads @answer bytes, and then ends; or stays, saying nothing. */
static pid_t play(struct env *e, struct script *sc, size_t answer, bool stay)
{
	pid_t pid = fork();
	char byte;

	if (pid == 0) {
		close(e->ours);
		for (size_t done = 0; done < sc->n;) {
			ssize_t n = send(e->theirs, sc->v + done, sc->n - done, MSG_NOSIGNAL);

			if (n < 0)
				_exit(2);
			done += (size_t)n;
		}
		while (answer--)
			if (read(e->theirs, &byte, 1) != 1)
				_exit(1);
		while (stay)
			pause();
		_exit(0);
	}
	close(e->theirs);
	e->theirs = -1;
	free(sc->v);
	*sc = (struct script){ 0 };
	return pid;
}

static int end_of(pid_t pid, bool hard)
{
	int status;

	if (hard)
		kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const struct ps_store_hooks no_hooks;

/* Has the script stored; what is left in the folder afterwards is the caller's to look at. */
static int store(struct env *e, struct script *sc, size_t answer, bool stay)
{
	pid_t pid = play(e, sc, answer, stay);
	struct img_dir *dir;
	bool told;
	int r;

	assert_ok(e, img_dir_receive(&e->op, &dir));
	r = ps_store(&e->op, dir, &e->s, false, &no_hooks, &told);
	assert_true(r == 0 ? told : true);
	if (r && !told)
		img_dir_abort(&e->op, dir);
	img_dir_close(dir);
	end_of(pid, true);
	return r;
}

static void store_refused(struct env *e, struct script *sc, int code, const char *part)
{
	assert_code(e, store(e, sc, 0, true), code, part);
	assert_int_equal(count_files(e), 0);
}

#define TASK(pid) ((uint64_t)(pid) << 8 | 1)
#define SHMEM(id) ((uint64_t)(id) << 8 | 2)

/* ---- the parser */

static void commands_are_taken_apart(void **state)
{
	static const uint8_t tasks[] = { 1, 10, 11, 16, 17 }, shmems[] = { 2, 27, 28, 29, 32, 33, 34 };
	struct ps_request q;
	struct ps_wire w;

	(void)state;
	assert_int_equal(sizeof(struct ps_wire), 32);
	assert_int_equal(offsetof(struct ps_wire, nr_pages), 8);
	assert_int_equal(offsetof(struct ps_wire, vaddr), 16);
	assert_int_equal(offsetof(struct ps_wire, dst_id), 24);
	w = (struct ps_wire){ 0x00040006, 0, 3, 0x7000, 0x378e02 };
	assert_null(ps_parse(&w, &q));
	assert_true(q.cmd == PS_ADD_F && q.flags == 4 && q.type == PS_SHMEM && q.id == 14222 && q.start == 0x7000 && q.n_pages == 3);
	w = (struct ps_wire){ 1, 0xffffffff, 1, 0, TASK(7) };
	assert_null(ps_parse(&w, &q));
	assert_true(q.cmd == PS_ADD_F && q.flags == PS_F_PRESENT && q.type == PS_TASK && q.id == 7);
	w.cmd = 2;
	assert_null(ps_parse(&w, &q));
	assert_true(q.cmd == PS_ADD_F && q.flags == PS_F_PARENT);
	w = (struct ps_wire){ 7, 0, 16, 0x400000, 42 };
	assert_null(ps_parse(&w, &q));
	assert_true(q.cmd == PS_GET && q.id == 42 && q.start == 0x400000 && q.n_pages == 16);
	for (unsigned i = 0; i < ARRAY_SIZE(tasks); i++) {
		w = (struct ps_wire){ 4, 0, 0, 0, 5 << 8 | tasks[i] };
		assert_true(!ps_parse(&w, &q) && q.type == PS_TASK);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(shmems); i++) {
		w = (struct ps_wire){ 5, 0, 0, 0, 5 << 8 | shmems[i] };
		assert_true(!ps_parse(&w, &q) && q.type == PS_SHMEM);
	}
}

static void nothing_is_believed(void **state)
{
	static const struct {
		struct ps_wire w;
		const char *part;
	} bad[] = {
		{ { 0, 0, 0, 0, 0 }, "no command" },
		{ { 8, 0, 1, 0, TASK(1) }, "no command" },
		{ { 0x1022, 0, 0, 0, 0 }, "no command" },
		{ { 0x00040006, 0, 0, 0x1000, TASK(1) }, "no pages" },
		{ { 0x00040006, 0, 1, 0x1001, TASK(1) }, "not that of a page" },
		{ { 0x00040006, 0, 1ull << 52, 0, TASK(1) }, "beyond" },
		{ { 0x00040006, 0, UINT64_MAX, 0, TASK(1) }, "beyond" },
		{ { 0x00040006, 0, 1, ~0xfffull, TASK(1) }, "beyond" },
		{ { 0x00040006, 0, (1ull << 45) + 1, 0, TASK(1) }, "beyond" },
		{ { 0x00000006, 0, 1, 0, TASK(1) }, "where its pages are" },
		{ { 0x00050006, 0, 1, 0, TASK(1) }, "both" },
		{ { 0x00080006, 0, 1, 0, TASK(1) }, "not known" },
		{ { 0x80040006, 0, 1, 0, TASK(1) }, "not known" },
		{ { 0x00040006, 0, 1, 0, 0 }, "unknown type" },
		{ { 4, 0, 0, 0, 5 << 8 | 3 }, "unknown type" },
		{ { 4, 0, 0, 0, 1 }, "none can have" },
		{ { 4, 0, 0, 0, TASK((1 << 22) + 1) }, "none can have" },
		{ { 4, 0, 0, 0, SHMEM(1ull << 32) }, "too large" },
		{ { 7, 0, 1, 0, 0 }, "none can have" },
		{ { 7, 0, 0, 0, 5 }, "no pages" },
		{ { 7, 0, 1, 5, 5 }, "not that of a page" },
	};
	struct ps_request q;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *wrong = ps_parse(&bad[i].w, &q);

		if (!wrong || !strstr(wrong, bad[i].part))
			fail_msg("case %u: %s (want %s)", i, wrong, bad[i].part);
	}
}

/* ---- receiving */

static void a_session_is_stored(void **state)
{
	static const uint8_t map_42[] = {
		0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 4, 0, 0, 0, 0x08, 0x81, 0x80, 0x04, /* pages_id 65537 */
	};
	struct env *e = *state;
	struct script sc = { 0 };
	uint8_t *p, *want;
	size_t n;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 2, 0x400000, TASK(42));
	pages(&sc, 2, 'a');
	command(&sc, 0x00020006, 5, 0x500000, TASK(42)); /* LAZY: no data */
	command(&sc, 0x00060006, 1, 0x600000, TASK(42)); /* LAZY and PRESENT */
	pages(&sc, 1, 'c');
	command(&sc, 4, 0, 0, SHMEM(14222));
	command(&sc, 1, 1, 0x1000, SHMEM(14222)); /* as in old releases */
	pages(&sc, 1, 'd');
	command(&sc, 3, 0, 0, TASK(43)); /* no answer, and no pages */
	command(&sc, 5, 0, 0, TASK(43));
	command(&sc, 1, 300, 0x10000, TASK(44)); /* opens by itself; more than a buffer */
	pages(&sc, 300, 0);
	command(&sc, 0x1023, 0, 0, 0);
	assert_ok(e, store(e, &sc, 1 + 1 + 4 + 4, false));

	assert_int_equal(count_files(e), 4 + 3 + 1); /* and ckpt-blocks */
	n = get_file(e, "pages-65537.img", &p);
	want = malloc(300 * PAGE_SIZE);
	fill(want, 3, 'a');
	assert_int_equal(n, 3 * PAGE_SIZE);
	assert_memory_equal(p, want, n);
	n = get_file(e, "pages-65538.img", &p);
	assert_int_equal(n, PAGE_SIZE);
	assert_int_equal(p[17], 'd');
	n = get_file(e, "pages-65540.img", &p);
	fill(want, 300, 0);
	assert_int_equal(n, 300 * PAGE_SIZE);
	assert_memory_equal(p, want, n);
	free(want);
	n = get_file(e, "pagemap-42.img", &p);
	assert_memory_equal(p, map_42, sizeof(map_42));
	n = get_file(e, "pagemap-43.img", &p);
	assert_int_equal(n, sizeof(map_42)); /* a head and nothing else */
	get_file(e, "pagemap-44.img", &p);
	get_file(e, "pagemap-shmem-14222.img", &p);
	assert_int_equal(e->stats.pages_written, 304);
}

static void entries_keep_their_flags(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };
	struct img_dir dir = { .lock = -1 };
	struct img_in *in;
	ProtobufCMessage *m;
	uint32_t flags[] = { PS_F_PRESENT, PS_F_LAZY, PS_F_PRESENT | PS_F_LAZY };

	command(&sc, 4, 0, 0, TASK(9));
	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
		command(&sc, flags[i] << 16 | 6, 1, 0x1000 * (i + 1), TASK(9));
		if (flags[i] & PS_F_PRESENT)
			pages(&sc, 1, 'x');
	}
	command(&sc, 0x1024, 0, 0, 0);
	assert_ok(e, store(e, &sc, 5, false));
	dir.fd = open(e->path, O_RDONLY | O_DIRECTORY);
	assert_int_equal(img_open(&e->op, &dir, IMG_PAGEMAP, 9, &in), 0);
	assert_int_equal(img_read(&e->op, in, &m), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
		const PagemapEntry *pe;

		assert_int_equal(img_read(&e->op, in, &m), 0);
		pe = (const PagemapEntry *)m;
		assert_true(pe->vaddr == 0x1000 * (i + 1) && pe->has_nr_pages && pe->nr_pages == 1 && pe->has_flags);
		assert_int_equal(pe->flags, flags[i]);
		assert_int_equal(pe->compat_nr_pages, 0);
	}
	assert_int_equal(img_read(&e->op, in, &m), IMG_END);
	img_in_close(in);
	close(dir.fd);
}

static void liars_are_refused(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 1, 0x2000, TASK(42));
	pages(&sc, 1, 'a');
	command(&sc, 0x00040006, 1, 0x1000, TASK(42));
	store_refused(e, &sc, CKPT_E_IMAGE, "come after");
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 4, 0, 0, TASK(43));
	command(&sc, 4, 0, 0, TASK(42));
	store_refused(e, &sc, CKPT_E_IMAGE, "pagemap-42.img a second time");
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00010006, 1, 0x2000, TASK(42));
	store_refused(e, &sc, CKPT_E_IMAGE, "parent folder");
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 1ull << 60, 0x2000, TASK(42));
	store_refused(e, &sc, CKPT_E_IMAGE, "beyond");
	teardown(state), setup(state), e = *state;

	command(&sc, 7, 1, 0x2000, 42);
	store_refused(e, &sc, CKPT_E_IMAGE, "wants pages");
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x1023, 0, 0, 0);
	command(&sc, 4, 0, 0, TASK(42));
	assert_code(e, store(e, &sc, 5, true), CKPT_E_IMAGE, "goes on after CLOSE");
	assert_int_equal(count_files(e), 1); /* but what the peer was told is true */
}

static void other_languages(void **state)
{
	static const uint8_t hello[] = { 0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc };
	struct env *e = *state;
	struct script sc = { 0 };

	command24(&sc, 4, 0, 0, TASK(42)); /* and no byte more: it waits for an answer */
	store_refused(e, &sc, CKPT_E_IMAGE, "24 bytes");
	teardown(state), setup(state), e = *state;

	command24(&sc, 5, 0, 0, TASK(42));
	command24(&sc, 4, 0, 0, TASK(42));
	store_refused(e, &sc, CKPT_E_IMAGE, "24 bytes");
	teardown(state), setup(state), e = *state;

	say(&sc, hello, sizeof(hello));
	store_refused(e, &sc, CKPT_E_IMAGE, "TLS");
	teardown(state), setup(state), e = *state;

	say(&sc, "GET / HTTP/1.1\r\n", 16);
	store_refused(e, &sc, CKPT_E_IMAGE, "no command");
	teardown(state), setup(state), e = *state;

	say(&sc, (uint8_t[32]){ 0, 0, 0, 4, [31] = 1 }, 32);
	store_refused(e, &sc, CKPT_E_IMAGE, "byte order");
}

static void peers_that_vanish(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };

	assert_code(e, store(e, &sc, 0, false), CKPT_E_SYS, "without a word");
	assert_int_equal(count_files(e), 0);
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	say(&sc, "\6\0\4\0", 4);
	assert_code(e, store(e, &sc, 1, false), CKPT_E_SYS, "within a command");
	assert_int_equal(count_files(e), 0);
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 1000, 0x2000, TASK(42));
	pages(&sc, 999, 'a');
	assert_code(e, store(e, &sc, 1, false), CKPT_E_SYS, "among its pages");
	assert_int_equal(count_files(e), 0);
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 1, 0x2000, TASK(42));
	pages(&sc, 1, 'a');
	assert_code(e, store(e, &sc, 1, false), CKPT_E_SYS, "before it said CLOSE");
	assert_int_equal(count_files(e), 0);
}

static void peers_that_stall(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };
	uint64_t begin = now_ns();

	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 10, 0x2000, TASK(42));
	pages(&sc, 3, 'a');
	store_refused(e, &sc, CKPT_E_TIMEOUT, "sent nothing for 1 s");
	assert_true(now_ns() - begin > 900000000ull);
}

/* ---- what builds upon an earlier session */

static void with_parent(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };
	char grand[80];

	/* The parent: this folder's first session, moved away. */
	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 2, 0x2000, TASK(42));
	pages(&sc, 2, 'a');
	command(&sc, 0x00040006, 2, 0x4000, TASK(42));
	pages(&sc, 2, 'c');
	command(&sc, 0x1023, 0, 0, 0);
	assert_ok(e, store(e, &sc, 5, false));
	snprintf(grand, sizeof(grand), "%s.old", e->path);
	assert_int_equal(rename(e->path, grand), 0);
	teardown(state), setup(state), e = *state;
	assert_int_equal(symlink(arena_printf(e->op.arena, "../%s", grand), in_folder(e, "parent")), 0);

	command(&sc, 5, 0, 0, TASK(42));
	command(&sc, 5, 0, 0, TASK(43));
	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00010006, 3, 0x2000, TASK(42)); /* two entries there */
	command(&sc, 0x00040006, 1, 0x5000, TASK(42));
	pages(&sc, 1, 'Z');
	command(&sc, 0x1023, 0, 0, 0);
	assert_ok(e, store(e, &sc, 4 + 4 + 1 + 4, false));
	assert_int_equal(count_files(e), 4);
	teardown(state), setup(state), e = *state;

	assert_int_equal(symlink(arena_printf(e->op.arena, "../%s", grand), in_folder(e, "parent")), 0);
	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00010006, 2, 0x5000, TASK(42)); /* one too many */
	assert_code(e, store(e, &sc, 1, true), CKPT_E_IMAGE, "0x5000");
	assert_int_equal(count_files(e), 1);
	nftw(grand, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void folders_that_are_taken(void **state)
{
	struct env *e = *state;
	struct img_dir *dir, *other;

	assert_ok(e, img_dir_receive(&e->op, &dir));
	assert_code(e, img_dir_receive(&e->op, &other), CKPT_E_BUSY, "another page server");
	/* A dump may write its own part there at the same time. */
	assert_ok(e, img_dir_create(&e->op, &other));
	img_dir_close(other);
	img_dir_close(dir);
	assert_int_equal(count_files(e), 0);
	close(open(in_folder(e, "inventory.img"), O_CREAT | O_WRONLY, 0600));
	assert_code(e, img_dir_receive(&e->op, &dir), CKPT_E_EXISTS, "already holds a checkpoint");
}

static void no_room(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("test-ps", e->path, "tmpfs", 0, "size=1m") < 0) {
		print_message("skipped: cannot mount a tmpfs: %s\n", strerror(errno));
		skip();
	}
	command(&sc, 4, 0, 0, TASK(42));
	command(&sc, 0x00040006, 1024, 0x2000, TASK(42));
	pages(&sc, 1024, 'a');
	store_refused(e, &sc, CKPT_E_NOSPACE, "pages-65537.img");
	umount2(e->path, MNT_DETACH);
}

/* ---- sending */

static PagemapEntry *entry(struct env *e, uint64_t start, uint64_t n, uint32_t flags)
{
	PagemapEntry *pe = arena_alloc(e->op.arena, sizeof(*pe));

	pagemap_entry__init(pe);
	pe->vaddr = start;
	pe->has_nr_pages = pe->has_flags = true;
	pe->nr_pages = n;
	pe->flags = flags;
	return pe;
}

/* A server that writes down what it hears, and answers by the script: @answer after the first 32 bytes, and so on. */
static pid_t listen_to(struct env *e, const char *file, const uint8_t *answer, size_t n_first, size_t n_last)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		uint8_t buf[4096];
		size_t heard = 0;
		bool answered = false, closed = false;

		close(e->ours);
		for (;;) {
			ssize_t n = read(e->theirs, buf, sizeof(buf));

			if (n <= 0 || write(fd, buf, (size_t)n) != n)
				_exit(n < 0);
			heard += (size_t)n;
			if (!answered && heard >= 32)
				answered = send(e->theirs, answer, n_first, MSG_NOSIGNAL) >= 0;
			if (!closed && n >= 32 && buf[n - 32] >= 0x23 && buf[n - 31] == 0x10)
				closed = send(e->theirs, answer + n_first, n_last, MSG_NOSIGNAL) >= 0;
			if (closed && n_last == 0)
				_exit(0);
		}
	}
	close(e->theirs);
	e->theirs = -1;
	return pid;
}

static int send_all(struct env *e, PagemapEntry **entries, size_t n, size_t n_pages, size_t chunk, struct ps_client **c)
{
	struct img_dir *dir;
	struct pages_out *out;
	uint8_t page = 0;
	size_t cap;
	void *buf;
	int r;

	assert_ok(e, img_dir_create(&e->op, &dir));
	r = ps_client_new(&e->op, dir, &e->s, c);
	r = r ?: pages_announce(&e->op, dir, IMG_PAGEMAP, 42, entries, n);
	if (r == 0 && n_pages)
		r = pages_create(&e->op, dir, 1, n_pages * PAGE_SIZE, &out);
	for (size_t done = 0; r == 0 && done < n_pages;) {
		size_t part = MIN(chunk, n_pages - done);

		r = pages_buffer(&e->op, out, &buf, &cap);
		part = MIN(part, cap / PAGE_SIZE);
		if (r == 0)
			fill(buf, part, page);
		page += (uint8_t)part;
		done += part;
		r = r ?: pages_submit(&e->op, out, part * PAGE_SIZE);
	}
	if (r == 0 && n_pages)
		r = pages_close(&e->op, out);
	img_dir_close(dir);
	return r;
}

static void what_we_send_is_as_described(void **state)
{
	struct env *e = *state;
	struct ps_client *c = NULL;
	struct script want = { 0 };
	PagemapEntry *entries[] = {
		entry(e, 0x10000, 3, PS_F_PRESENT), entry(e, 0x20000, 7, PS_F_LAZY), entry(e, 0x30000, 1, PS_F_PRESENT | PS_F_LAZY),
		entry(e, 0x40000, 2, PS_F_PARENT), entry(e, 0x50000, 300, PS_F_PRESENT), entry(e, 0x900000, 1, PS_F_LAZY),
	};
	uint8_t *heard;
	pid_t pid;
	size_t n;

	command(&want, 4, 0, 0, TASK(42));
	command(&want, 0x00040006, 3, 0x10000, TASK(42));
	pages(&want, 3, 0);
	command(&want, 0x00020006, 7, 0x20000, TASK(42));
	command(&want, 0x00060006, 1, 0x30000, TASK(42));
	pages(&want, 1, 3);
	command(&want, 0x00010006, 2, 0x40000, TASK(42));
	command(&want, 0x00040006, 300, 0x50000, TASK(42));
	pages(&want, 300, 4);
	command(&want, 0x00020006, 1, 0x900000, TASK(42));
	command(&want, 0x1023, 0, 0, 0);
	for (size_t chunk = 1; chunk <= 64; chunk *= 8) {
		pid = listen_to(e, in_folder(e, "heard"), (uint8_t[]){ 1, 0, 0, 0, 0 }, 1, 4);
		assert_ok(e, send_all(e, entries, ARRAY_SIZE(entries), 304, chunk, &c));
		assert_ok(e, ps_client_close(&e->op, c, false));
		ps_client_free(c);
		close(TAKE_FD(e->ours));
		assert_int_equal(end_of(pid, false), 0);
		n = get_file(e, "heard", &heard);
		assert_int_equal(n, want.n);
		assert_memory_equal(heard, want.v, n);
		assert_int_equal(count_files(e), 1); /* nothing of it here */
		teardown(state), setup(state), e = *state;
		for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
			entries[i] = entry(e, (uint64_t[]){ 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x900000 }[i],
					   (uint64_t[]){ 3, 7, 1, 2, 300, 1 }[i],
					   (uint32_t[]){ 4, 2, 6, 1, 4, 2 }[i]);
	}
	free(want.v);
}

static void servers_that_are_wrong(void **state)
{
	struct env *e = *state;
	PagemapEntry *entries[] = { entry(e, 0x10000, 3, PS_F_PRESENT), entry(e, 0x40000, 2, PS_F_PARENT) };
	struct ps_client *c = NULL;
	pid_t pid;

	/* an alert of TLS */
	pid = listen_to(e, in_folder(e, "heard"), (uint8_t[]){ 0x15, 3, 3, 0, 2 }, 5, 0);
	assert_code(e, send_all(e, entries, 1, 3, 64, &c), CKPT_E_SYS, "another protocol");
	ps_client_free(c);
	end_of(pid, true);
	teardown(state), setup(state), e = *state;

	entries[0] = entry(e, 0x10000, 3, PS_F_PRESENT), entries[1] = entry(e, 0x40000, 2, PS_F_PARENT);
	pid = listen_to(e, in_folder(e, "heard"), (uint8_t[]){ 0 }, 1, 0);
	assert_code(e, send_all(e, entries, 2, 3, 64, &c), CKPT_E_CHANGED, "previous images");
	ps_client_free(c);
	end_of(pid, true);
	teardown(state), setup(state), e = *state;

	entries[0] = entry(e, 0x10000, 3, PS_F_PRESENT);
	pid = listen_to(e, in_folder(e, "heard"), (uint8_t[]){ 0, 0xff, 0xff, 0xff, 0xff }, 1, 4);
	assert_ok(e, send_all(e, entries, 1, 3, 64, &c));
	assert_code(e, ps_client_close(&e->op, c, false), CKPT_E_SYS, "status -1");
	ps_client_free(c);
	end_of(pid, true);
	teardown(state), setup(state), e = *state;

	/* It goes without a word, as one does that expects 24 bytes. */
	close(TAKE_FD(e->theirs));
	entries[0] = entry(e, 0x10000, 3, PS_F_PRESENT);
	assert_code(e, send_all(e, entries, 1, 3, 64, &c), CKPT_E_SYS, "peer");
	ps_client_free(c);
	teardown(state), setup(state), e = *state;

	/* It takes nothing any more. */
	entries[0] = entry(e, 0x10000, 3000, PS_F_PRESENT);
	send(e->theirs, "", 1, 0);
	assert_code(e, send_all(e, entries, 1, 3000, 64, &c), CKPT_E_TIMEOUT, "took nothing for 1 s");
	ps_client_free(c);
}

/* ---- on demand */

static int fake_have(struct op *op, void *arg, uint32_t id, uint64_t start, uint64_t max, uint64_t *n)
{
	(void)op;
	(void)arg;
	*n = id == 42 && start < 0x100000 ? MIN(max, (0x100000 - start) / PAGE_SIZE) : 0;
	return 0;
}

static int fake_read(struct op *op, void *arg, uint32_t id, uint64_t start, size_t n, void *buf)
{
	(void)id;
	if (arg && start >= 0x80000)
		return op_fail(op, CKPT_E_IMAGE, NULL, "a page that cannot be read");
	fill(buf, n, (uint8_t)(start / PAGE_SIZE));
	return 0;
}

static const struct ps_source fake = { .have = fake_have, .read = fake_read };

static void get_is_answered_as_described(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 }, want = { 0 };
	uint8_t *heard;
	int status;
	pid_t pid;
	size_t n;

	command(&want, 0x00040006, 3, 0x10000, 42);
	pages(&want, 3, 0x10);
	command(&want, 0x00040006, 2, 0xfe000, 42); /* as many as there are */
	pages(&want, 2, 0xfe);
	le(&want, 0, 4);
	pid = fork();
	if (pid == 0) {
		int fd = open(in_folder(e, "heard"), O_WRONLY | O_CREAT, 0600);
		uint8_t buf[8192];
		ssize_t got;

		close(e->ours);
		command(&sc, 7, 3, 0x10000, 42); /* one after the other, without waiting */
		command(&sc, 7, 100, 0xfe000, 42);
		command(&sc, 0x1023, 0, 0, 0);
		send(e->theirs, sc.v, sc.n, MSG_NOSIGNAL);
		while ((got = read(e->theirs, buf, sizeof(buf))) > 0)
			if (write(fd, buf, (size_t)got) != got)
				_exit(1);
		_exit(0);
	}
	close(TAKE_FD(e->theirs));
	assert_ok(e, ps_serve(&e->op, &e->s, &fake, false));
	close(TAKE_FD(e->ours));
	waitpid(pid, &status, 0);
	n = get_file(e, "heard", &heard);
	assert_int_equal(n, want.n);
	assert_memory_equal(heard, want.v, n);
	free(want.v);
}

static void get_of_what_is_not_there(void **state)
{
	struct env *e = *state;
	struct script sc = { 0 };
	pid_t pid;

	command(&sc, 7, 3, 0x200000, 42);
	pid = play(e, &sc, 0, true);
	assert_code(e, ps_serve(&e->op, &e->s, &fake, false), CKPT_E_IMAGE, "0x200000");
	end_of(pid, true);
	teardown(state), setup(state), e = *state;

	command(&sc, 4, 0, 0, TASK(42));
	pid = play(e, &sc, 0, true);
	assert_code(e, ps_serve(&e->op, &e->s, &fake, false), CKPT_E_IMAGE, "only served");
	end_of(pid, true);
	teardown(state), setup(state), e = *state;

	command(&sc, 7, 1, 0x10000, 42);
	pid = play(e, &sc, 32 + PAGE_SIZE, false);
	assert_code(e, ps_serve(&e->op, &e->s, &fake, false), CKPT_E_SYS, "before it said that it has all");
	end_of(pid, false);
}

/* Our two ends of GET against each other, many requests ahead. */
static void get_pipelined(void **state)
{
	struct env *e = *state;
	struct ps_get_reply reply;
	struct ps_get *g;
	uint8_t page[PAGE_SIZE];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int r;

		close(e->ours);
		ps_stream_init(&e->s, e->theirs, "peer", 5);
		r = ps_serve(&e->op, &e->s, &fake, false);
		if (r)
			fprintf(stderr, "%s\n", ckpt_err_message(e->op.err));
		_exit(r != 0);
	}
	close(TAKE_FD(e->theirs));
	e->opts.ps_socket = e->ours;
	assert_ok(e, ps_get_open(&e->op, &g));
	for (unsigned i = 0; i < 128; i++)
		assert_ok(e, ps_get_request(&e->op, g, 42, i * PAGE_SIZE, 1 + i % 3));
	for (unsigned i = 0; i < 128; i++) {
		assert_ok(e, ps_get_reply(&e->op, g, &reply));
		assert_true(reply.pid == 42 && reply.start == i * PAGE_SIZE && reply.n_pages == 1 + i % 3 && reply.n_got == reply.n_pages);
		for (unsigned k = 0; k < reply.n_got; k++) {
			assert_ok(e, ps_get_data(&e->op, g, page, 1));
			assert_int_equal(page[4095], (uint8_t)(i + k));
		}
	}
	assert_int_equal(ps_get_pending(g), 0);
	assert_ok(e, ps_get_close(&e->op, g));
	ps_get_free(g);
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

/* A reply that is not what was asked for is never taken for a page. */
static void get_lied_to(void **state)
{
	static const uint64_t lies[][4] = {
		{ 0x00040006, 1, 0x11000, 42 }, { 0x00040006, 1, 0x10000, 43 }, { 0x00040006, 3, 0x10000, 42 },
		{ 0x00040006, 0, 0x10000, 42 }, { 0x00020006, 1, 0x10000, 42 }, { 7, 1, 0x10000, 42 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct env *e = *state;
		struct script sc = { 0 };
		struct ps_get_reply reply;
		struct ps_get *g;
		pid_t pid;

		command(&sc, (uint32_t)lies[i][0], lies[i][1], lies[i][2], lies[i][3]);
		pid = play(e, &sc, 0, true);
		e->opts.ps_socket = e->ours;
		assert_ok(e, ps_get_open(&e->op, &g));
		assert_ok(e, ps_get_request(&e->op, g, 42, 0x10000, 2));
		assert_code(e, ps_get_reply(&e->op, g, &reply), CKPT_E_IMAGE, "was asked for");
		ps_get_free(g);
		end_of(pid, true);
		teardown(state), setup(state);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(commands_are_taken_apart), T(nothing_is_believed), T(a_session_is_stored), T(entries_keep_their_flags),
		T(liars_are_refused), T(other_languages), T(peers_that_vanish), T(peers_that_stall), T(with_parent),
		T(folders_that_are_taken), T(what_we_send_is_as_described), T(servers_that_are_wrong),
		T(get_is_answered_as_described), T(get_of_what_is_not_there), T(get_pipelined), T(get_lied_to), T(no_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
