/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what a client says to a page server that stores: nothing but an error or complete images may come of it. What
 * was accepted must be what every reader of images accepts: ascending, whole pages, with as many of them as there are entries for.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/image/dir.h"
#include "lib/image/ps_proto.h"
#include "lib/image/ps_store.h"
#include "tests/fuzz/fuzz.h"

#define MUST(cond) ((cond) ? (void)0 : broken(#cond))

static void broken(const char *what)
{
	fprintf(stderr, "not true: %s\n", what);
	abort();
}

static char folder[64];

static void clean_up(void)
{
	rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	strcpy(folder, "/tmp/fuzz-page-server-XXXXXX");
	if (!mkdtemp(folder))
		abort();
	atexit(clean_up);
	return 0;
}

static void check_parsed(const uint8_t *data, size_t size)
{
	struct ps_request q;
	struct ps_wire w;

	for (; size >= sizeof(w); data += sizeof(w), size -= sizeof(w)) {
		memcpy(&w, data, sizeof(w));
		ps_foreign(&w, sizeof(w));
		if (ps_parse(&w, &q))
			continue;
		MUST(q.cmd != PS_ADD && q.cmd != PS_HOLE);
		if (q.cmd != PS_CLOSE && q.cmd != PS_FORCE_CLOSE)
			MUST(q.type == PS_TASK || q.type == PS_SHMEM);
		if (q.cmd == PS_ADD_F || q.cmd == PS_GET)
			MUST(q.n_pages > 0 && q.start % PAGE_SIZE == 0 && q.start + q.n_pages * PAGE_SIZE > q.start);
	}
}

static void check_map(struct op *op, struct img_dir *dir, const char *name)
{
	enum img_kind kind = strncmp(name, "pagemap-shmem-", 14) == 0 ? IMG_SHMEM_PAGEMAP : IMG_PAGEMAP;
	uint64_t end = 0, bytes = 0, size = 0;
	struct img_in *in;
	ProtobufCMessage *m;
	uint32_t pages_id;
	int fd;

	MUST(img_open(op, dir, kind, strtoull(name + (kind == IMG_PAGEMAP ? 8 : 14), NULL, 10), &in) == 0);
	MUST(img_read(op, in, &m) == 0);
	pages_id = ((PagemapHead *)m)->pages_id;
	MUST(pages_id >= PS_FIRST_PAGES_ID);
	while (img_read(op, in, &m) == 0) {
		const PagemapEntry *e = (const PagemapEntry *)m;

		MUST(e->vaddr >= end && e->vaddr % PAGE_SIZE == 0 && e->nr_pages > 0);
		end = e->vaddr + e->nr_pages * PAGE_SIZE;
		if (e->flags & PS_F_PRESENT)
			bytes += e->nr_pages * PAGE_SIZE;
	}
	img_in_close(in);
	if (bytes == 0)
		return;
	MUST(img_open_pages(op, dir, pages_id, &fd, &size) == 0);
	MUST(size == bytes);
	close(fd);
}

static void serve(struct op *op, int fd)
{
	static const struct ps_store_hooks hooks;
	struct ps_stream s;
	struct img_dir *dir;
	bool told;
	int r;

	ps_stream_init(&s, fd, "peer", 1);
	MUST(img_dir_receive(op, &dir) == 0);
	r = ps_store(op, dir, &s, true, &hooks, &told);
	MUST(r < 0 || told);
	for (size_t i = 0; i < dir->made.n && told; i++)
		if (strncmp(dir->made.v[i].name, "pagemap-", 8) == 0)
			check_map(op, dir, dir->made.v[i].name);
	img_dir_abort(op, dir);
	img_dir_close(dir);
	ps_stream_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { 0 };
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	int pair[2], room = 1 << 20;

	check_parsed(data, size);
	opts.images_dir = folder;
	if (!op.arena || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (send(pair[1], data, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size || size == 0) {
		shutdown(pair[1], SHUT_WR);
		serve(&op, pair[0]);
	}
	close(pair[0]);
	close(pair[1]);
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return 0;
}

static size_t command(uint8_t *buf, uint32_t cmd, uint64_t nr_pages, uint64_t vaddr, uint64_t dst_id)
{
	struct ps_wire w = { .cmd = cmd, .nr_pages = nr_pages, .vaddr = vaddr, .dst_id = dst_id };

	memcpy(buf, &w, sizeof(w));
	return sizeof(w);
}

/* Whole sessions: two images, no pages, old commands, an older peer. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	size_t n = 0;

	if (i > 3 || cap < 4 * 4096)
		return 0;
	if (i == 3) {
		memset(buf, 0, 48);
		buf[0] = 4;
		buf[16] = 1;
		buf[17] = 42;
		return 48;
	}
	n += command(buf + n, i == 2 ? 3 : 4, 0, 0, 42 << 8 | 1);
	if (i == 1)
		n += command(buf + n, 0x00020006, 5, 0x1000, 42 << 8 | 1);
	if (i != 1) {
		n += command(buf + n, i == 2 ? 1 : 0x00040006, 1, 0x10000, 42 << 8 | 1);
		memset(buf + n, 'x', 4096);
		n += 4096;
	}
	n += command(buf + n, 4, 0, 0, 77 << 8 | 2);
	n += command(buf + n, 0x00040006, 1, 0, 77 << 8 | 2);
	memset(buf + n, 'y', 4096);
	n += 4096;
	return n + command(buf + n, 0x1023, 0, 0, 0);
}
