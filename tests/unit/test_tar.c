/* SPDX-License-Identifier: MIT */
/* Archives of what is in a tmpfs: written and read by us, and by GNU tar; and hostile ones. Needs root for devices and owners. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "lib/state/mount/gzip.h"
#include "lib/state/mount/tar.h"
#include "lib/state/mount/tar_head.h"

static char base[] = "/tmp/ckpt-tar-XXXXXX";
static struct ckpt_opts opts = CKPT_OPTS_INIT;

static struct op *new_op(void)
{
	struct op *op = calloc(1, sizeof(*op));

	op->arena = arena_new();
	op->opts = &opts;
	return op;
}

static void free_op(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
	free(op);
}

/* Functions that do it go elsewhere: each runs in a child. */
static int in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		fn();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

#define MUST(cond) ((cond) ? (void)0 : (fprintf(stderr, "line %d: %s: %s\n", __LINE__, #cond, strerror(errno)), _exit(1)))

static const char *sh(const char *fmt, ...)
{
	static char cmd[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd) != 0) {
		fprintf(stderr, "failed: %s\n", cmd);
		_exit(1);
	}
	return cmd;
}

static void put(const char *path, const char *text, off_t at)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0640);

	MUST(fd >= 0 && pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text));
	close(fd);
}

static void populate(void)
{
	char longname[256] = "", path[600];

	memset(longname, 'n', 200);
	put("file", "text", 0);
	MUST(chown("file", 12, 34) == 0 && chmod("file", 04755) == 0);
	MUST(setxattr("file", "trusted.ckpt", "a\0b", 3, 0) == 0);
	MUST(link("file", "other name") == 0 && mkdir("folder", 01777) == 0 && symlink("../file", "folder/link") == 0);
	MUST(chmod("folder", 01777) == 0);
	snprintf(path, sizeof(path), "folder/%s", longname);
	put(path, "long", 0);
	MUST(symlink(path, "longlink") == 0 && link(path, "folder/second") == 0);
	MUST(mknod("null", S_IFCHR | 0666, makedev(1, 3)) == 0 && mkfifo("fifo", 0600) == 0);
	put("sparse", "begin", 0);
	put("sparse", "middle", 10 << 20);
	MUST(truncate("sparse", 20 << 20) == 0);
	put("hole", "", 0);
	MUST(truncate("hole", 1 << 20) == 0);
	put("empty", "", 0);
	MUST(chown("empty", 3000000, 4000000000u) == 0);
	MUST(mkdir("folder/old", 0700) == 0);
	MUST(utimensat(AT_FDCWD, "folder/old", (struct timespec[]){ { 1, 2 }, { -5, 250000000 } }, 0) == 0);
	MUST(chmod(".", 0751) == 0);
}

static void compare(const char *a, const char *b)
{
	/* names, kinds, modes, owners, sizes, devices, links, times to the nanosecond, attributes, contents */
	sh("list() { cd $1 && find . ! -type s -printf '%%p %%y %%m %%U %%G %%n %%l %%T@\\n' | sort; "
	   "find . -type f -printf '%%p %%s\\n' | sort; stat -c '%%n %%t %%T' null; getfattr -R -h -d -m - . 2>/dev/null | sort;"
	   "find . -type f | sort | xargs -d '\\n' md5sum; }; list %s >%s/a.txt; list %s >%s/b.txt; diff %s/a.txt %s/b.txt",
	   a, base, b, base, base, base);
}

static void make_places(void)
{
	char path[256];

	MUST(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	MUST(mount("none", base, "tmpfs", 0, NULL) == 0);
	for (const char *const *d = (const char *const[]){ "from", "to", "img", NULL }; *d; d++) {
		snprintf(path, sizeof(path), "%s/%s", base, *d);
		MUST(mkdir(path, 0755) == 0);
		if (strcmp(*d, "img") != 0)
			MUST(mount("none", path, "tmpfs", 0, NULL) == 0);
	}
	snprintf(path, sizeof(path), "%s/from", base);
	MUST(chdir(path) == 0);
}

static const char *image(void)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/img/tmpfs-dev-1.tar.gz.img", base);
	return path;
}

static void write_archive(void)
{
	struct op *op = new_op();
	struct img_dir *dir;
	struct img_out *out;
	struct gz_out *gz;
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/img", base);
	opts.images_dir = path;
	MUST(img_dir_create(op, &dir) == 0 && img_create(op, dir, IMG_TMPFS_DEV, 1, &out) == 0 && gz_create(op, out, &gz) == 0);
	fd = open(".", O_PATH);
	MUST(fd >= 0 && tar_write_tree(op, gz, fd) == 0 && gz_finish(gz) == 0);
	gz_out_free(gz);
	MUST(img_close(op, out) == 0);
	img_dir_close(dir);
	free_op(op);
}

static int read_archive_to(const char *folder)
{
	struct op *op = new_op();
	struct tar_in *in;
	struct gz_in *gz;
	struct stat st;
	int root = open(folder, O_PATH | O_DIRECTORY), fd = open(image(), O_RDONLY), r;

	MUST(root >= 0 && fd >= 0 && fstat(fd, &st) == 0 && gz_open(op, fd, 0, (uint64_t)st.st_size, &gz) == 0);
	MUST(in = tar_open(gz_read, gz));
	r = tar_extract(op, in, root);
	if (r)
		fprintf(stderr, "%s\n", ckpt_err_message(op->err));
	tar_close(in);
	gz_in_free(gz);
	close(fd);
	close(root);
	free_op(op);
	return r;
}

static void check_there_and_back(void)
{
	char from[256], to[256];

	make_places();
	populate();
	MUST(mkdir("below", 0700) == 0 && mount("none", "below", "tmpfs", 0, NULL) == 0);
	put("below/hidden", "not a part of it", 0);
	write_archive();
	MUST(umount("below") == 0 && rmdir("below") == 0);
	snprintf(from, sizeof(from), "%s/from", base);
	snprintf(to, sizeof(to), "%s/to", base);
	/* The folder that something was mounted on is not in it when it is not read through a clone. */
	MUST(utimensat(AT_FDCWD, ".", (struct timespec[]){ { 1, 0 }, { 1, 0 } }, 0) == 0);
	write_archive();
	MUST(read_archive_to(to) == 0);
	compare(from, to);
	sh("test $(stat -c %%b %s/sparse) -lt 100 -a $(stat -c %%i %s/file) = $(stat -c %%i '%s/other name')", to, to, to);
}

static void check_gnu_reads(void)
{
	char from[256], to[256];

	make_places();
	populate();
	MUST(utimensat(AT_FDCWD, ".", (struct timespec[]){ { 1, 0 }, { 1, 0 } }, 0) == 0);
	write_archive();
	snprintf(from, sizeof(from), "%s/from", base);
	snprintf(to, sizeof(to), "%s/to", base);
	sh("tar --extract --gzip --no-unquote --no-wildcards --xattrs --xattrs-include='*' --numeric-owner --preserve-permissions "
	   "--directory %s <%s", to, image());
	compare(from, to);
}

static void check_gnu_writes(const char *format)
{
	char from[256], to[256];

	make_places();
	populate();
	MUST(removexattr("file", "trusted.ckpt") == 0);
	/* whole seconds, which are all that this form has */
	sh("find . -depth ! -name old -exec touch -h -d @1000 {} +; touch -d @7 folder/old; touch -d @8 folder; touch -d @9 .");
	snprintf(from, sizeof(from), "%s/from", base);
	snprintf(to, sizeof(to), "%s/to", base);
	sh("tar --create --gzip --format=%s --no-unquote --no-wildcards --one-file-system --check-links --preserve-permissions --sparse "
	   "--numeric-owner --directory %s . >%s", format, from, image());
	MUST(read_archive_to(to) == 0);
	compare(from, to);
}

static void check_gnu_writes_gnu(void)
{
	check_gnu_writes("gnu");
}

static void check_gnu_writes_posix(void)
{
	check_gnu_writes("posix");
}

/* ---- hostile ones: an archive of heads, in memory */

struct bytes {
	const char *p;
	size_t n;
};

static ssize_t read_bytes(void *arg, void *buf, size_t n)
{
	struct bytes *b = arg;

	n = MIN(n, b->n);
	memcpy(buf, b->p, n);
	b->p += n;
	b->n -= n;
	return (ssize_t)n;
}

static void seal(struct tar_head *h)
{
	unsigned sum = 0;

	memcpy(h->magic, "ustar\00000", 8);
	memset(h->sum, ' ', 8);
	for (size_t i = 0; i < sizeof(*h); i++)
		sum += ((uint8_t *)h)[i];
	snprintf(h->sum, sizeof(h->sum), "%06o", sum);
}

static int extract(const struct tar_head *h, size_t n)
{
	struct bytes b = { (const char *)h, n * sizeof(*h) };
	struct op *op = new_op();
	struct tar_in *in = tar_open(read_bytes, &b);
	int root = open(".", O_PATH | O_DIRECTORY), r = tar_extract(op, in, root);

	MUST(fchdir(root) == 0);
	close(root);
	tar_close(in);
	free_op(op);
	return r;
}

static void check_hostile(void)
{
	static struct tar_head h[4];
	struct stat st;

	make_places();
	MUST(mkdir("in", 0755) == 0 && chdir("in") == 0);
	/* names that lead out */
	h[0] = (struct tar_head){ .name = "../escaped", .type = '0', .size = "0" };
	seal(&h[0]);
	MUST(extract(h, 1) == CKPT_E_IMAGE);
	h[0] = (struct tar_head){ .name = "/absolute", .type = '0', .size = "0" };
	seal(&h[0]);
	MUST(extract(h, 1) == 0 && stat("absolute", &st) == 0);
	/* by way of a link */
	h[0] = (struct tar_head){ .name = "link", .type = '2', .link = ".." };
	h[1] = (struct tar_head){ .name = "link/escaped", .type = '0' };
	seal(&h[0]);
	seal(&h[1]);
	MUST(extract(h, 2) != 0 && stat("../escaped", &st) < 0);
	h[0] = (struct tar_head){ .name = "hard", .type = '1', .link = "../../etc/passwd" };
	seal(&h[0]);
	MUST(extract(h, 1) == CKPT_E_IMAGE);
	h[0] = (struct tar_head){ .name = "hard", .type = '1', .link = "link/from" };
	seal(&h[0]);
	MUST(extract(h, 1) != 0);
	/* a link where a file is to be is replaced, not followed */
	put("../victim", "untouched", 0);
	h[0] = (struct tar_head){ .name = "trap", .type = '2', .link = "../victim" };
	h[1] = (struct tar_head){ .name = "trap", .type = '0', .mode = "0600" };
	seal(&h[0]);
	seal(&h[1]);
	MUST(extract(h, 2) == 0 && lstat("trap", &st) == 0 && S_ISREG(st.st_mode) && stat("../victim", &st) == 0 && st.st_size == 9);
	/* sizes that are not there, sums that are wrong */
	h[0] = (struct tar_head){ .name = "big", .type = '0', .size = "77777777777" };
	seal(&h[0]);
	MUST(extract(h, 1) == CKPT_E_IMAGE);
	h[0].name[0] = 'c';
	MUST(extract(h, 1) == CKPT_E_IMAGE);
	/* extents beyond the end */
	h[0] = (struct tar_head){ .name = "holes", .type = 'S', .size = "0" };
	memcpy(h[0].gnu.sparse[0].offset, "00000001000", 12);
	memcpy(h[0].gnu.sparse[0].size, "00000001000", 12);
	memcpy(h[0].gnu.real_size, "00000000100", 12);
	seal(&h[0]);
	MUST(extract(h, 1) == CKPT_E_IMAGE);
}

static void run_in_child(void **state, void (*fn)(void))
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_non_null(mkdtemp(base));
	assert_int_equal(in_child(fn), 0);
	rmdir(base);
	memcpy(base + strlen(base) - 6, "XXXXXX", 6);
}

static void there_and_back(void **state)
{
	run_in_child(state, check_there_and_back);
}

static void gnu_reads(void **state)
{
	run_in_child(state, check_gnu_reads);
}

static void gnu_writes(void **state)
{
	run_in_child(state, check_gnu_writes_gnu);
	run_in_child(state, check_gnu_writes_posix);
}

static void hostile(void **state)
{
	run_in_child(state, check_hostile);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back), cmocka_unit_test(gnu_reads), cmocka_unit_test(gnu_writes), cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
