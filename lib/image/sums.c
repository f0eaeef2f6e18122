// SPDX-License-Identifier: MIT
/*
 * ckpt-sums: the size and a sum of every image, taken as it was written. It is written before the inventory gets its name,
 * and read before any other image is; a sum at its end guards itself.
 */
#include "lib/image/sums.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/blocks.h"

#define SUMS_MAX (256ull << 20)
#define CHUNK (256u << 10)

/* ---- writing */

int sums_add(struct op *op, struct img_dir *dir, const char *name, uint64_t size, uint64_t sum)
{
	struct img_sum *s = ARRAY_ADD(op->arena, &dir->summed);

	if (!s)
		return op_nomem(op);
	*s = (struct img_sum){ arena_strdup(op->arena, name), size, sum };
	return s->name ? 0 : op_nomem(op);
}

static int fill(struct op *op, const struct img_dir *dir, CkptSumsEntry *e)
{
	ImageSumEntry *v = op_alloc(op, (dir->summed.n + 1) * sizeof(*v));

	e->images = op_alloc(op, (dir->summed.n + 1) * sizeof(*e->images));
	if (!v || !e->images)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < dir->summed.n; i++) {
		image_sum_entry__init(&v[i]);
		v[i].name = (char *)dir->summed.v[i].name;
		v[i].size = dir->summed.v[i].size;
		v[i].sum = dir->summed.v[i].sum;
		e->images[i] = &v[i];
	}
	e->n_images = dir->summed.n;
	e->dump = dir->id;
	e->has_blocks = e->blocks = dir->blocks != NULL;
	return 0;
}

int sums_write(struct op *op, struct img_dir *dir)
{
	CkptSumsEntry e = CKPT_SUMS_ENTRY__INIT;
	_cleanup_free_ uint8_t *buf = NULL;
	uint64_t sum;
	size_t n;
	int fd, r = fill(op, dir, &e);

	r = r ?: img_pack(op, "ckpt-sums", IMG_SUMS, &e.base, &buf, &n);
	r = r ?: img_make(op, dir, "ckpt-sums", &fd);
	if (r < 0)
		return r;
	sum = XXH3_64bits(buf, n);
	r = img_write_all(op, fd, "ckpt-sums", buf, n);
	r = r ?: img_write_all(op, fd, "ckpt-sums", &sum, sizeof(sum));
	dir->bytes += n + sizeof(sum);
	img_made_done(dir, "ckpt-sums", fd);
	return r;
}

/* ---- reading */

static int bad(struct op *op, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, NULL, "image ckpt-sums is damaged: %s", what);
}

static int order(const void *a, const void *b)
{
	return strcmp(((const struct img_sum *)a)->name, ((const struct img_sum *)b)->name);
}

static int take(struct op *op, const CkptSumsEntry *e, struct sums *s)
{
	s->dump = e->dump;
	s->blocks = e->has_blocks && e->blocks;
	s->v = op_alloc(op, (e->n_images + 1) * sizeof(*s->v));
	if (!s->v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < e->n_images; i++) {
		const ImageSumEntry *m = e->images[i];

		if (!img_name_known(m->name))
			return bad(op, "it tells of a file that is no image");
		s->v[i] = (struct img_sum){ m->name, m->size, m->sum };
	}
	s->n = e->n_images;
	qsort(s->v, s->n, sizeof(*s->v), order);
	for (size_t i = 1; i < s->n; i++)
		if (order(&s->v[i - 1], &s->v[i]) == 0)
			return bad(op, "it tells of an image twice");
	return 0;
}

static void *in_arena(void *arena, size_t n)
{
	return arena_alloc(arena, n);
}

static void stays(void *arena, void *p)
{
	(void)arena; /* the arena goes as a whole */
	(void)p;
}

int sums_parse(struct op *op, const void *bytes, size_t n, struct sums **ret)
{
	ProtobufCAllocator alloc = { .alloc = in_arena, .free = stays, .allocator_data = op->arena };
	const char *p = bytes;
	uint32_t head[3], want[2];
	struct sums *s;
	CkptSumsEntry *e;
	uint64_t sum;

	if (n < sizeof(head) + sizeof(sum))
		return bad(op, "it is too short");
	img_put_head(IMG_SUMS, want);
	memcpy(head, p, sizeof(head));
	memcpy(&sum, p + n - sizeof(sum), sizeof(sum));
	n -= sizeof(sum);
	if (memcmp(head, want, sizeof(want)))
		return bad(op, "it does not start as such a file does");
	if (XXH3_64bits(p, n) != sum)
		return bad(op, "its sum is not right");
	if (head[2] != n - sizeof(head))
		return bad(op, "the length of its entry is not right");
	e = (CkptSumsEntry *)protobuf_c_message_unpack(&ckpt_sums_entry__descriptor, &alloc, head[2],
						       (const uint8_t *)p + sizeof(head));
	if (!e)
		return bad(op, "its entry cannot be read");
	s = op_new(op, struct sums);
	if (!s)
		return CKPT_E_NOMEM;
	*ret = s;
	return take(op, e, s);
}

int sums_read(struct op *op, int dirfd, struct sums **ret)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n;
	int r = img_read_own(op, dirfd, "ckpt-sums", SUMS_MAX, &bytes, &n);

	return r ?: sums_parse(op, bytes, n, ret);
}

const struct img_sum *sums_find(const struct sums *s, const char *name)
{
	struct img_sum key = { .name = name };

	return bsearch(&key, s->v, s->n, sizeof(*s->v), order);
}

int sums_of_fd(struct op *op, int fd, const char *name, uint64_t size, uint64_t *sum)
{
	_cleanup_free_ char *buf = malloc(CHUNK);
	XXH3_state_t *state = XXH3_createState();
	int r = buf && state ? 0 : op_nomem(op);

	if (r == 0)
		XXH3_64bits_reset(state);
	for (uint64_t off = 0; off < size && r == 0; off += CHUNK) {
		size_t n = MIN(size - off, (uint64_t)CHUNK);

		r = op_check_cancel(op);
		r = r ?: img_pread(op, fd, name, buf, n, off);
		if (r == 0)
			XXH3_64bits_update(state, buf, n);
	}
	if (r == 0)
		*sum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return r;
}

int sums_compare(struct op *op, const struct img_sum *want, uint64_t size, uint64_t sum)
{
	if (size != want->size)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image %s is damaged: it has %llu bytes, and had %llu when it was written",
			       want->name, (unsigned long long)size, (unsigned long long)want->size);
	if (sum != want->sum)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image %s is damaged: its content is not what was written (sum %016llx, was "
			       "%016llx)", want->name, (unsigned long long)sum, (unsigned long long)want->sum);
	return 0;
}

/* Pages that went to a page server have their pagemaps there, too. */
static bool may_be_foreign(const struct sums *s, enum img_kind kind)
{
	return !s->blocks && (kind == IMG_PAGEMAP || kind == IMG_SHMEM_PAGEMAP);
}

int sums_want(struct op *op, const struct sums *s, enum img_kind kind, const char *name, const struct img_sum **ret)
{
	*ret = NULL;
	if (!s || kind == IMG_STATS_DUMP || kind == IMG_STATS_RESTORE)
		return 0;
	*ret = sums_find(s, name);
	if (*ret || may_be_foreign(s, kind))
		return 0;
	return op_fail(op, CKPT_E_IMAGE, AT(.hint = "remove it, if it came from elsewhere"),
		       "image %s does not belong to this checkpoint: its ckpt-sums does not know it", name);
}
