/* SPDX-License-Identifier: MIT */
/*
 * What a ring is, found out through our own descriptor of it while its tasks are frozen. The kernel tells neither how it
 * was set up nor all that is registered with it, but what it answers to questions that change nothing says enough.
 */
#include <sys/mman.h>
#include <sys/uio.h>

#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/state/file/uring_kind.h"

#define NOWHERE ((void *)-4096L)
#define N_GROUPS 65536u

int uring_read_info(struct op *op, pid_t pid, int fd, struct proc_uring *info)
{
	struct proc_fdinfo f;
	int r = proc_read_fdinfo(op, pid, fd, &f);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d went away", pid);
	return proc_parse_uring(op->arena, f.rest, f.rest_len, info) == 0 ? 0 : IMG_ABSENT;
}

/* ----------------------------------------------------------------------------------------- what is registered */

static int refuse(struct op *op, const struct fd_view *v, const char *hint, const char *why)
{
	return file_refuse(op, v, "io_uring", hint, "%s", why);
}

static int check_pbufs(struct op *op, const struct fd_view *v)
{
	struct {
		uint32_t group, head, reserved[8];
	} st = { 0 };

	for (; st.group < N_GROUPS; st.group++) {
		if (uring_register(v->copy, CKPT_IORING_REGISTER_PBUF_STATUS, &st, 1) < 0 && errno == ENOENT)
			continue;
		/* The first group that was never there says whether the kernel knows the question. */
		if (st.group == 0 && errno == EINVAL)
			return 0;
		return file_refuse(op, v, "io_uring", "unregister the buffers before the checkpoint",
				   "buffers are provided to it (group %u)", st.group);
	}
	return 0;
}

/* Whether an eventfd is registered: the kernel takes no second one. */
static int find_eventfd(struct op *op, const struct fd_view *v, bool *has)
{
	_cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC);

	*has = false;
	if (fd < 0)
		return file_errno(op, v, "make an eventfd");
	if (uring_register(v->copy, IORING_REGISTER_EVENTFD, &fd, 1) == 0) {
		uring_register(v->copy, IORING_UNREGISTER_EVENTFD, NULL, 0);
		return 0;
	}
	if (errno == EACCES)
		return refuse(op, v, NULL, "its operations are restricted (IORING_REGISTER_RESTRICTIONS)");
	if (errno != EBUSY)
		return file_errno(op, v, "ask for its eventfd");
	*has = true;
	return 0;
}

/* The flags that show in what the kernel answers. */
static int ask_flags(struct op *op, const struct fd_view *v, uint32_t *flags)
{
	_cleanup_uring_ struct uring plain = URING_INIT;

	if (uring_register(v->copy, CKPT_IORING_REGISTER_NAPI, NOWHERE, 1) == 0)
		return file_errno(op, v, "ask what it is");
	if (errno == EEXIST)
		return refuse(op, v, NULL, "it is bound to one thread (IORING_SETUP_SINGLE_ISSUER)");
	if (errno == EACCES)
		return refuse(op, v, NULL, "its operations are restricted (IORING_REGISTER_RESTRICTIONS)");
	/* A ring that polls does not do NAPI; but some kernels do not either. */
	if (errno == EINVAL && uring_make(&plain, 0, 1, 2) == 0 &&
	    uring_register(plain.fd, CKPT_IORING_REGISTER_NAPI, NOWHERE, 1) < 0 && errno == EFAULT)
		*flags |= IORING_SETUP_IOPOLL;
	if (uring_enter(v->copy, 0, 0, 0) < 0 && errno == EBADFD)
		return refuse(op, v, NULL, "it is not enabled yet (IORING_SETUP_R_DISABLED)");
	return 0;
}

/* ------------------------------------------------------------------------------------------------- the layout */

/* How much of the mapping at @p, of @len bytes, there is. */
static size_t present(const char *p, size_t len)
{
	size_t n = 0;
	char c;

	for (; n < len; n += PAGE_SIZE) {
		struct iovec to = { &c, 1 }, from = { (void *)(p + n), 1 };

		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1)
			break;
	}
	return n;
}

static size_t region_len(int fd, uint64_t off, size_t most)
{
	char *p = mmap(NULL, most, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)off);
	size_t n;

	if (p == MAP_FAILED)
		return 0;
	n = present(p, most);
	munmap(p, most);
	return n;
}

/*
 * fdinfo lists entries that wait, and how they look. With none waiting, the head that programs see is put back by one for
 * the moment of the question. That of the submission queue is only for their information, and the kernel writes it anew
 * each time.
 */
static int ask_entry(struct op *op, const struct fd_view *v, const struct uring *u, uint32_t head, uint32_t tail,
		     struct proc_uring *info)
{
	uint32_t *h = uring_word(u, head), was = *h, *t = uring_word(u, tail);
	bool none = was == *t;
	int r;

	if (none)
		__atomic_store_n(h, was - 1, __ATOMIC_RELEASE);
	r = uring_read_info(op, getpid(), v->copy, info);
	if (none)
		__atomic_store_n(h, was, __ATOMIC_RELEASE);
	return r > 0 ? refuse(op, v, "a newer kernel does", "the kernel does not show its state") : r;
}

static const uint32_t layouts[] = {
	0,
	IORING_SETUP_NO_SQARRAY,
	IORING_SETUP_SQE128,
	IORING_SETUP_SQE128 | IORING_SETUP_NO_SQARRAY,
	IORING_SETUP_CQE32,
	IORING_SETUP_CQE32 | IORING_SETUP_NO_SQARRAY,
	IORING_SETUP_CQE32 | IORING_SETUP_SQE128,
	IORING_SETUP_CQE32 | IORING_SETUP_SQE128 | IORING_SETUP_NO_SQARRAY,
};

/* How much memory the ring behind @v has: the largest layout that the kernel knows is more than enough. */
static bool measure(const struct fd_view *v, const struct proc_uring *info, size_t *rings, size_t *sqes)
{
	_cleanup_uring_ struct uring largest = URING_INIT;

	if (uring_make(&largest, IORING_SETUP_CQE32 | IORING_SETUP_SQE128, info->sq_mask + 1, info->cq_mask + 1) < 0 &&
	    uring_make(&largest, 0, info->sq_mask + 1, info->cq_mask + 1) < 0)
		return false;
	*rings = region_len(v->copy, IORING_OFF_SQ_RING, uring_rings_len(&largest.p) + PAGE_SIZE);
	*sqes = region_len(v->copy, IORING_OFF_SQES, uring_sqes_len(&largest.p) + PAGE_SIZE);
	return true;
}

struct candidates {
	bool possible[ARRAY_SIZE(layouts)];
};

static bool undecided(const struct candidates *c, uint32_t flag)
{
	bool with = false, without = false;

	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		with = with || (c->possible[i] && (layouts[i] & flag));
		without = without || (c->possible[i] && !(layouts[i] & flag));
	}
	return with && without;
}

static void decide(struct candidates *c, uint32_t flag, bool with)
{
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
		if (!!(layouts[i] & flag) != with)
			c->possible[i] = false;
}

static int ask_layout(struct op *op, const struct fd_view *v, const struct uring *u, struct candidates *c)
{
	const struct io_uring_params *p = &u->p;
	struct proc_uring info;
	int r;

	if (undecided(c, IORING_SETUP_NO_SQARRAY) || undecided(c, IORING_SETUP_SQE128)) {
		r = ask_entry(op, v, u, p->sq_off.head, p->sq_off.tail, &info);
		if (r)
			return r;
		decide(c, IORING_SETUP_NO_SQARRAY, !info.sqe_lines);
		if (info.sqe_lines)
			decide(c, IORING_SETUP_SQE128, info.big_sqes);
	}
	if (undecided(c, IORING_SETUP_CQE32)) {
		r = ask_entry(op, v, u, p->cq_off.head, p->cq_off.tail, &info);
		if (r)
			return r;
		decide(c, IORING_SETUP_CQE32, info.big_cqes);
	}
	return 0;
}

/* Entries that follow each other by 128 bytes use the second half of the memory, too. */
static bool second_half_used(const struct uring *u)
{
	const char *p = u->sqes + (size_t)u->p.sq_entries * 64;

	for (size_t i = 0; i < (size_t)u->p.sq_entries * 64 && p + i < u->sqes + u->sqes_len; i++)
		if (p[i])
			return true;
	return false;
}

static int open_as(struct op *op, const struct fd_view *v, uint32_t layout, const struct proc_uring *info, struct uring *u)
{
	_cleanup_uring_ struct uring probe = URING_INIT;

	if (uring_make(&probe, layout, info->sq_mask + 1, info->cq_mask + 1) < 0)
		return file_errno(op, v, "make a ring like it");
	uring_unmap(u);
	u->p = probe.p;
	u->fd = v->copy;
	return uring_map(u) == 0 ? 0 : file_errno(op, v, "map its memory");
}

/* On success @u is mapped, and has the right layout. Its descriptor is v->copy. */
static int find_layout(struct op *op, const struct fd_view *v, const struct proc_uring *info, struct uring *u)
{
	struct candidates c = { 0 };
	size_t rings = 0, sqes = 0, first = ARRAY_SIZE(layouts);
	int r;

	if (!measure(v, info, &rings, &sqes))
		return file_errno(op, v, "make a ring like it");
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		_cleanup_uring_ struct uring probe = URING_INIT;

		if (uring_make(&probe, layouts[i], info->sq_mask + 1, info->cq_mask + 1) < 0)
			continue;
		c.possible[i] = uring_rings_len(&probe.p) == rings && uring_sqes_len(&probe.p) == sqes;
		first = c.possible[i] ? MIN(first, i) : first;
	}
	if (first == ARRAY_SIZE(layouts))
		return refuse(op, v, NULL, "its memory is not mapped by the kernel (IORING_SETUP_NO_MMAP), or of a kind that is not known");
	/* Where the heads and tails are does not depend on what is undecided. */
	r = open_as(op, v, layouts[first], info, u);
	r = r ? r : ask_layout(op, v, u, &c);
	if (!r && undecided(&c, IORING_SETUP_SQE128))
		decide(&c, IORING_SETUP_SQE128, second_half_used(u));
	for (size_t i = 0; !r && i < ARRAY_SIZE(layouts); i++)
		if (c.possible[i])
			return open_as(op, v, layouts[i], info, u);
	return r ? r : refuse(op, v, NULL, "its memory is of a kind that is not known");
}

int uring_look(struct op *op, const struct fd_view *v, const struct proc_uring *info, struct uring *u, bool *has_eventfd)
{
	uint32_t flags = 0;
	int r = ask_flags(op, v, &flags);

	r = r ? r : find_eventfd(op, v, has_eventfd);
	r = r ? r : check_pbufs(op, v);
	r = r ? r : find_layout(op, v, info, u);
	if (!r)
		u->p.flags = (u->p.flags & URING_LAYOUT) | flags;
	return r;
}
