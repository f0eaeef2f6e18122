/* SPDX-License-Identifier: MIT */
#include "lib/state/chain.h"

#include <sys/stat.h>

static bool seen(const struct chain *c, const struct img_parent *p)
{
	struct stat st;

	for (size_t i = 0; i < c->levels.n; i++)
		if (c->levels.v[i].dev == p->dev && c->levels.v[i].ino == p->ino)
			return true;
	return fstat(img_dir_fd(c->dir), &st) == 0 && st.st_dev == p->dev && st.st_ino == p->ino;
}

static int check(struct op *op, const struct chain *c, const struct img_parent *p, const char *expected)
{
	if (seen(c, p))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "parent"), "the chain of parents leads back to where it came from");
	if (c->levels.n >= CHAIN_MAX)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "parent"), "the chain of parents has more than %d folders", CHAIN_MAX);
	if (expected && (!p->run_id || strcmp(p->run_id, expected)))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "parent", .hint = "the link `parent` must lead to the folder of --prev-images-dir"),
			       "the parent is another set of images (%s) than the one that was built upon (%s)", p->run_id ?: "without an id",
			       expected);
	return 0;
}

static int add_level(struct op *op, struct chain *c)
{
	const struct img_parent *last = c->levels.n ? &c->levels.v[c->levels.n - 1] : NULL;
	struct img_parent p, *slot;
	int r = img_parent_follow(op, last ? last->dir : c->dir, &p);

	if (r)
		return r < 0 ? op_wrap(op, r, "parent number %zu", c->levels.n + 1) : r;
	r = check(op, c, &p, last ? last->parent_run_id : c->expected);
	slot = r ? NULL : ARRAY_ADD(op->arena, &c->levels);
	if (!slot) {
		img_dir_close(p.dir);
		return r ? op_wrap(op, r, "parent number %zu", c->levels.n + 1) : op_nomem(op);
	}
	*slot = p;
	return 0;
}

int chain_level(struct op *op, struct chain *c, size_t i, struct img_parent **ret)
{
	int r = 0;

	while (c->levels.n <= i && !r)
		r = add_level(op, c);
	if (!r)
		*ret = &c->levels.v[i];
	return r;
}

void chain_done(struct chain *c)
{
	for (size_t i = 0; i < c->levels.n; i++)
		c->levels.v[i].dir = img_dir_close(c->levels.v[i].dir);
	c->levels.n = 0;
}
