// SPDX-License-Identifier: MIT
/*
 * Pages that a page server has. It gives each page once; but after a fork two processes may need the same. So what came is
 * kept in a file without a name in the work folder, and read from there the second time.
 */
#include <fcntl.h>

#include "lib/engine/lazy.h"
#include "lib/image/ps_get.h"
#include "lib/kernel/sys.h"
#include "lib/state/pieces.h"

#define AT_ONCE 64u /* pages of one request: faults wait for no longer than that */

struct lazy_remote {
	pthread_mutex_t lock;
	struct ps_get *get;
	int kept;      /* descriptor of the file, page k of all at k * PAGE_SIZE; -1: there is no room */
	uint64_t *got; /* bit: it is in there */
	bool failed;
};

static bool is_got(const struct lazy_remote *r, uint64_t page)
{
	return r->got[page / 64] >> page % 64 & 1;
}

static int make_file(struct op *op)
{
	const char *path = op->opts->work_dir ?: op->opts->images_dir ?: ".";
	int fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd >= 0 ? fd : sys_memfd_create("ckpt-lazy-pages", MFD_CLOEXEC);
}

int lazy_remote_open(struct op *op, uint64_t n_pages, struct lazy_remote **ret)
{
	struct lazy_remote *r = op_new(op, struct lazy_remote);
	int err;

	if (!r)
		return CKPT_E_NOMEM;
	if (!op->opts->page_server && op->opts->ps_socket < 0)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "lazy pages", .hint = "add --page-server --address HOST --port PORT"),
			       "some pages of the checkpoint are with a page server");
	pthread_mutex_init(&r->lock, NULL);
	r->kept = make_file(op);
	r->got = op_alloc(op, (n_pages / 64 + 1) * sizeof(*r->got));
	err = r->got ? ps_get_open(op, &r->get) : CKPT_E_NOMEM;
	if (err)
		close_fd_p(&r->kept);
	else
		*ret = r;
	return err;
}

/* What could not be kept is only missed by who needs it a second time. */
static void keep(struct lazy_remote *r, uint64_t page, const void *buf, uint64_t n)
{
	if (r->kept < 0 || pwrite(r->kept, buf, n * PAGE_SIZE, (off_t)(page * PAGE_SIZE)) != (ssize_t)(n * PAGE_SIZE))
		return;
	for (uint64_t i = page; i < page + n; i++)
		r->got[i / 64] |= 1ull << i % 64;
}

static int ask(struct op *op, struct lazy_remote *r, const struct lazy_map *map, uint64_t addr, uint64_t n, uint8_t *buf)
{
	int err = 0;

	/* A server may give fewer than it was asked for. */
	for (uint64_t done = 0; done < n && !err;) {
		struct ps_get_reply reply;

		err = ps_get_request(op, r->get, (uint32_t)map->pid, addr + done * PAGE_SIZE, n - done);
		err = err ?: ps_get_reply(op, r->get, &reply);
		err = err ?: ps_get_data(op, r->get, buf + done * PAGE_SIZE, reply.n_got);
		done += err ? 0 : reply.n_got;
	}
	r->failed = r->failed || err;
	return err;
}

/* The next few, all of them kept or all of them not. The caller has the lock. */
static int some(struct op *op, struct lazy_remote *r, const struct lazy_map *map, uint64_t first, uint64_t addr, uint64_t *n,
		uint8_t *buf)
{
	uint64_t page = map->base + first, run = 1;
	bool got = is_got(r, page);
	int err;

	while (run < *n && run < AT_ONCE && is_got(r, page + run) == got)
		run++;
	*n = run;
	if (got && pread(r->kept, buf, run * PAGE_SIZE, (off_t)(page * PAGE_SIZE)) == (ssize_t)(run * PAGE_SIZE))
		return 0;
	if (got)
		return op_errno(op, errno, NULL, "read a page that was kept");
	if (r->failed)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "lazy pages"), "the page server is gone");
	err = ask(op, r, map, addr, run, buf);
	if (!err)
		keep(r, page, buf, run);
	return err;
}

int lazy_remote_read(struct lazy_thread *t, const struct lazy_map *map, uint64_t first, uint64_t n, uint64_t addr, uint8_t *buf)
{
	struct lazy_remote *r = t->lz->remote;
	int err = 0;

	for (uint64_t done = 0, run; done < n && !err; done += run) {
		/* Faults first. */
		if (t->epoll < 0 && atomic_load(&t->lz->busy_faults))
			usleep(100);
		run = n - done;
		pthread_mutex_lock(&r->lock);
		err = some(&t->op, r, map, first + done, addr + done * PAGE_SIZE, &run, buf + done * PAGE_SIZE);
		pthread_mutex_unlock(&r->lock);
	}
	return err;
}

int lazy_remote_close(struct op *op, struct lazy_remote *r, bool all)
{
	int err = 0;

	if (!r)
		return 0;
	if (all && !r->failed)
		err = ps_get_close(op, r->get);
	r->get = ps_get_free(r->get);
	close_fd_p(&r->kept);
	return err;
}
