// SPDX-License-Identifier: MIT
/*
 * Verification: folder by folder, from the child to its parents. The images are compared with ckpt-sums here, the page
 * images with ckpt-blocks in verify_pages.c. A damage is told and counted, and the search goes on.
 */
#include "lib/engine/verify.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define MAX_PARENTS 10000 /* a chain that is longer goes in circles */

static void hand_over(struct verify *v, const struct ckpt_err *err)
{
	v->found++;
	if (v->fn && err)
		v->fn(v->arg, err);
}

void verify_tell(struct verify *v, struct op *op, pid_t pid, uint64_t addr, const char *more)
{
	struct ckpt_err *err = err_new(ckpt_err_code(op->err), AT(.pid = pid, .addr = addr, .kind = ckpt_err_kind(op->err) ?: "image",
				       .hint = ckpt_err_hint(op->err)), "%s%s%s", v->where, ckpt_err_message(op->err), more);

	op_forget(op);
	hand_over(v, err);
	ckpt_err_free(err);
}

bool verify_damage(struct verify *v, int r)
{
	if (r != CKPT_E_IMAGE && r != CKPT_E_SYS && r != CKPT_E_UNSUPPORTED)
		return false;
	verify_tell(v, v->op, 0, 0, "");
	return true;
}

/* ---- images */

static int check_image(struct verify *v, const struct img_sum *want)
{
	_cleanup_close_ int fd = openat(img_dir_fd(v->dir), want->name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	uint64_t sum = 0;
	int r = 0;

	if (fd < 0 && errno == ENOENT)
		return op_fail(v->op, CKPT_E_IMAGE, NULL, "image %s is missing", want->name);
	if (fd < 0 || fstat(fd, &st) < 0)
		return op_errno(v->op, errno, NULL, "open image %s", want->name);
	if (!S_ISREG(st.st_mode))
		return op_fail(v->op, CKPT_E_IMAGE, NULL, "image %s is not a regular file", want->name);
	if ((uint64_t)st.st_size == want->size)
		r = sums_of_fd(v->op, fd, want->name, want->size, &sum);
	r = r ?: sums_compare(v->op, want, (uint64_t)st.st_size, sum);
	v->stats->images += r == 0;
	v->stats->image_bytes += r == 0 ? want->size : 0;
	return r;
}

static int check_images(struct verify *v)
{
	const struct sums *s = v->dir->sums;

	for (size_t i = 0; s && i < s->n; i++) {
		int r = check_image(v, &s->v[i]) ?: op_check_cancel(v->op);

		if (r < 0 && !verify_damage(v, r))
			return r;
	}
	return 0;
}

static void close_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Images that ckpt-sums does not tell of. */
static int check_others(struct verify *v)
{
	int fd = openat(img_dir_fd(v->dir), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(close_dir_p) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return op_errno(v->op, errno, NULL, "read the images folder");
	while ((e = readdir(d))) {
		const char *name = e->d_name;
		bool shared = !strncmp(name, "pagemap-", 8);
		const struct img_sum *known;
		int r;

		if (!img_name_known(name) || !strncmp(name, "pages-", 6) || !strcmp(name, "ckpt-sums") ||
		    !strcmp(name, "ckpt-blocks"))
			continue;
		r = sums_want(v->op, v->dir->sums, shared ? IMG_PAGEMAP : IMG_CORE, name, &known);
		if (r < 0 && !verify_damage(v, r))
			return r;
		v->stats->unknown += r == 0 && !known;
	}
	return 0;
}

/* ---- folders */

static bool is_there(const struct verify *v, const char *name)
{
	return faccessat(img_dir_fd(v->dir), name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A page server's folder has no inventory, and a folder with nothing of ours is not one to ask about. */
static int check_kind(struct verify *v)
{
	if (is_there(v, "inventory.img") || is_there(v, "ckpt-blocks"))
		return 0;
	if (is_there(v, "ckpt-sums"))
		return op_fail(v->op, CKPT_E_IMAGE, NULL, "image inventory.img is missing");
	return op_fail(v->op, CKPT_E_IMAGE, NULL, "images folder %s is not a checkpoint: it has no inventory.img",
		       v->op->opts->images_dir ?: ".");
}

static int check_folder(struct verify *v)
{
	int r = check_kind(v);

	if (r)
		return r;
	v->stats->folders++;
	r = img_dir_sums(v->op, v->dir);
	if (r < 0 && !verify_damage(v, r))
		return r;
	r = r < 0 ? 0 : check_images(v) ?: check_others(v); /* without it nothing can be said of them */
	return r ?: verify_pages(v);
}

static int go_up(struct verify *v)
{
	struct img_dir *parent = NULL;
	size_t used = strlen(v->where);
	int r = img_dir_open_parent(v->op, v->dir, &parent);

	if (r == 0) {
		img_dir_close(v->dir);
		v->dir = parent;
		if (used + sizeof("parent/") < sizeof(v->where))
			strcat(v->where, "parent/");
	}
	return r;
}

int verify_run(struct op *op, struct ckpt_verify_stats *stats, ckpt_damage_fn fn, void *arg)
{
	struct verify v = { .op = op, .stats = stats, .fn = fn, .arg = arg };
	int r = img_dir_open_any(op, &v.dir), level = 0;

	if (r < 0)
		return r;
	do {
		r = check_folder(&v);
		if (level && verify_damage(&v, r)) /* a parent that is none is a damage of the chain */
			r = 0;
		r = r ?: go_up(&v);
		if (verify_damage(&v, r))
			r = IMG_ABSENT;
		if (++level > MAX_PARENTS && r == 0)
			r = op_fail(op, CKPT_E_IMAGE, NULL, "the links called parent lead in a circle");
	} while (r == 0);
	img_dir_close(v.dir);
	return r < 0 ? r : v.found;
}
