// SPDX-License-Identifier: MIT
/*
 * Both halves of the file layer, without a checkpoint around them: a stopped child has something open, its descriptors are
 * dumped into an image folder, the folder is read in a new operation and opened again, and the result is compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/memfd.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/file/tty/tty.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#define MIB (1u << 20)

/* One operation and its snapshot. */
struct life {
	struct op op;
	struct snapshot s;
	struct ckpt_stats stats;
};

struct env {
	char base[64], images[96], cwd[256];
	struct ckpt_opts opts;
	struct life dump, restore;
	pid_t child, pid; /* pid: also after its end */
	int pidfd;
	uint8_t *extra; /* packed */
	size_t extra_len;
	CkptExtraEntry *extra_read;
	void *shared; /* memory the child can report through */
};

static void life_start(struct env *e, struct life *l)
{
	memset(l, 0, sizeof(*l));
	l->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &l->stats };
	assert_non_null(l->op.arena);
}

static void life_end(struct life *l)
{
	l->s.dir = img_dir_close(l->s.dir);
	l->op.arena = arena_free(l->op.arena);
	l->op.err = ckpt_err_free(l->op.err);
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e || !getcwd(e->cwd, sizeof(e->cwd)))
		return -1;
	strcpy(e->base, "/tmp/test-files-XXXXXX");
	if (!mkdtemp(e->base) || chdir(e->base) < 0 || mkdir("img", 0700) < 0)
		return -1;
	snprintf(e->images, sizeof(e->images), "%s/img", e->base);
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->images;
	e->pidfd = -1;
	e->shared = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	life_start(e, &e->dump);
	life_start(e, &e->restore);
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

static void end_child(struct env *e)
{
	if (e->child > 0) {
		kill(e->child, SIGKILL);
		waitpid(e->child, NULL, 0);
	}
	e->child = 0;
	close_fd_p(&e->pidfd);
	e->pidfd = -1;
}

static int teardown(void **state)
{
	struct env *e = *state;

	end_child(e);
	if (e->restore.op.arena)
		files_restore_done(&e->restore.op, &e->restore.s, false);
	if (e->dump.op.arena)
		files_dump_done(&e->dump.op, &e->dump.s, false);
	life_end(&e->dump);
	life_end(&e->restore);
	munmap(e->shared, PAGE_SIZE);
	if (e->extra_read)
		ckpt_extra_entry__free_unpacked(e->extra_read, NULL);
	free(e->extra);
	if (chdir(e->cwd) < 0)
		return -1;
	nftw(e->base, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

/* A child that opens what @fn opens, above three descriptors of /dev/null, and stops. Exits when continued. */
static void start_child(struct env *e, void (*fn)(struct env *e))
{
	int status;

	e->child = fork();
	assert_true(e->child >= 0);
	if (e->child == 0) {
		int null = open("/dev/null", O_RDWR);

		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		sys_close_range(3, ~0u, 0);
		fn(e);
		raise(SIGSTOP);
		_exit(0);
	}
	e->pid = e->child;
	assert_int_equal(waitpid(e->child, &status, WUNTRACED), e->child);
	assert_true(WIFSTOPPED(status));
	e->pidfd = sys_pidfd_open(e->child, 0);
	assert_true(e->pidfd >= 0);
}

static int succeeded(struct life *l, int r)
{
	if (r < 0)
		print_error("%s (%s)\n", ckpt_err_message(l->op.err), ckpt_err_hint(l->op.err));
	return r;
}
#define OK(l, call) assert_int_equal(succeeded(l, call), 0)

static TaskKobjIdsEntry *new_ids(struct op *op, uint32_t n)
{
	TaskKobjIdsEntry *ids = op_new(op, TaskKobjIdsEntry);

	assert_non_null(ids);
	task_kobj_ids_entry__init(ids);
	ids->vm_id = ids->files_id = ids->fs_id = ids->sighand_id = n;
	ids->has_uts_ns_id = true;
	ids->uts_ns_id = 4;
	return ids;
}

static struct snap_task *new_task(struct env *e, struct life *l)
{
	struct snap_task *t = ARRAY_ADD(l->op.arena, &l->s.tasks);

	assert_non_null(t);
	t->pid = t->host = e->pid;
	t->ids = new_ids(&l->op, 2);
	return t;
}

static int dump_fds(struct env *e)
{
	struct life *l = &e->dump;
	struct snap_task *t = new_task(e, l);
	int r;

	if (!l->s.dir)
		OK(l, img_dir_create(&l->op, &l->s.dir));
	l->s.extra = op_new(&l->op, CkptExtraEntry);
	assert_non_null(l->s.extra);
	ckpt_extra_entry__init(l->s.extra);
	l->s.extra->version = arena_strdup(l->op.arena, "test");
	r = files_dump_task(&l->op, &l->s, t, e->pidfd);
	return r ? r : files_dump_complete(&l->op, &l->s);
}

static void write_images(struct env *e)
{
	struct life *l = &e->dump;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;

	OK(l, files_dump_contents(&l->op, &l->s));
	OK(l, files_write(&l->op, &l->s));
	e->extra_len = ckpt_extra_entry__get_packed_size(l->s.extra);
	e->extra = malloc(e->extra_len + 1);
	ckpt_extra_entry__pack(l->s.extra, e->extra);
	inventory.img_version = 2;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.root_ids = new_ids(&l->op, 1);
	OK(l, img_dir_commit(&l->op, l->s.dir, &inventory));
	files_dump_done(&l->op, &l->s, true);
}

static void full_dump(struct env *e)
{
	OK(&e->dump, dump_fds(e));
	write_images(e);
}

static int read_images(struct env *e)
{
	struct life *l = &e->restore;

	OK(l, img_dir_open(&l->op, &l->s.dir, &l->s.inventory));
	if (!e->extra_read)
		e->extra_read = ckpt_extra_entry__unpack(NULL, e->extra_len, e->extra);
	l->s.extra = e->extra_read;
	new_task(e, l);
	return files_read(&l->op, &l->s);
}

static int reopen(struct env *e)
{
	int r = read_images(e);

	return r ? r : files_open(&e->restore.op, &e->restore.s);
}

/* The task is gone, as it is when a checkpoint is restored. */
static void full_restore(struct env *e)
{
	full_dump(e);
	end_child(e);
	OK(&e->restore, reopen(e));
}

static const FdinfoEntry *info_of(const struct life *l, int fd)
{
	const struct snap_task *t = &l->s.tasks.v[0];

	for (size_t i = 0; i < t->fds.n; i++)
		if (t->fds.v[i]->fd == (uint32_t)fd)
			return t->fds.v[i];
	fail_msg("descriptor %d is not in the snapshot", fd);
	return NULL;
}

static const struct snap_file *file_of(const struct life *l, int fd)
{
	const struct snap_file *f = snapshot_file(&l->s, info_of(l, fd)->id);

	assert_non_null(f);
	return f;
}

/* The restored descriptor of the child's @fd. */
static int fd_of(struct env *e, int fd)
{
	int got = file_of(&e->restore, fd)->fd;

	assert_true(got > 2);
	assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
	return got;
}

static const char *link_of(int fd)
{
	static char buf[4096];
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, buf, sizeof(buf) - 1);
	assert_true(n > 0);
	buf[n] = 0;
	return buf;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(1);
	close(fd);
}

static void assert_refused(struct life *l, int r, int code, const char *kind, const char *hint)
{
	assert_int_equal(r, code);
	assert_non_null(l->op.err);
	assert_non_null(ckpt_err_message(l->op.err));
	if (kind) {
		assert_non_null(ckpt_err_kind(l->op.err));
		assert_string_equal(ckpt_err_kind(l->op.err), kind);
	}
	if (hint) {
		assert_non_null(ckpt_err_hint(l->op.err));
		assert_non_null(strstr(ckpt_err_hint(l->op.err), hint));
	}
}

/* ----------------------------------------------------------------------------------------------- eventfd */

static void open_eventfds(struct env *e)
{
	(void)e;
	dup2(eventfd(3, EFD_NONBLOCK), 10);
	dup2(eventfd(5, EFD_SEMAPHORE), 11);
}

static void test_eventfd(void **state)
{
	struct env *e = *state;
	uint64_t v;

	start_child(e, open_eventfds);
	full_restore(e);
	assert_true(fcntl(fd_of(e, 10), F_GETFL) & O_NONBLOCK);
	assert_int_equal(read(fd_of(e, 10), &v, 8), 8);
	assert_int_equal(v, 3);
	assert_int_equal(read(fd_of(e, 10), &v, 8), -1);
	assert_false(fcntl(fd_of(e, 11), F_GETFL) & O_NONBLOCK);
	assert_int_equal(read(fd_of(e, 11), &v, 8), 8);
	assert_int_equal(v, 1);
}

/* ----------------------------------------------------------------------------------------- named files */

static void open_named(struct env *e)
{
	(void)e;
	put("a", "0123456789");
	put("log", "x");
	dup2(open("a", O_RDWR), 10);
	lseek(10, 4, SEEK_SET);
	dup2(10, 11);
	dup3(open("log", O_WRONLY | O_APPEND), 12, O_CLOEXEC);
	dup2(open(".", O_RDONLY | O_DIRECTORY), 13);
	dup2(open("/dev/urandom", O_RDONLY), 14);
	dup2(open("a", O_PATH), 15);
	dup2(open("a", O_RDONLY | O_NONBLOCK), 16);
	symlink("a", "sym");
	dup2(open("sym", O_PATH | O_NOFOLLOW), 17);
}

static void test_named(void **state)
{
	struct env *e = *state;

	start_child(e, open_named);
	full_dump(e);
	assert_int_equal(info_of(&e->dump, 0)->id, info_of(&e->dump, 1)->id);
	assert_int_equal(info_of(&e->dump, 10)->id, info_of(&e->dump, 11)->id);
	assert_int_not_equal(info_of(&e->dump, 10)->id, info_of(&e->dump, 16)->id);
	assert_int_equal(info_of(&e->dump, 12)->flags, FD_CLOEXEC);
	assert_int_equal(info_of(&e->dump, 10)->flags, 0);
	assert_int_equal(file_of(&e->dump, 10)->msg->reg->pos, 4);
	assert_int_equal(file_of(&e->dump, 10)->msg->reg->flags, O_RDWR | 0100000);
	assert_int_equal(file_of(&e->dump, 10)->msg->reg->size, 10);
	assert_false(file_of(&e->dump, 12)->msg->reg->has_size);
	end_child(e);
	OK(&e->restore, reopen(e));
	assert_int_equal(lseek(fd_of(e, 10), 0, SEEK_CUR), 4);
	assert_int_equal(fcntl(fd_of(e, 10), F_GETFL) & O_ACCMODE, O_RDWR);
	assert_true(fcntl(fd_of(e, 12), F_GETFL) & O_APPEND);
	assert_string_equal(link_of(fd_of(e, 13)), e->base);
	assert_string_equal(link_of(fd_of(e, 14)), "/dev/urandom");
	assert_true(fcntl(fd_of(e, 15), F_GETFL) & O_PATH);
	assert_true(fcntl(fd_of(e, 16), F_GETFL) & O_NONBLOCK);
	assert_non_null(strstr(link_of(fd_of(e, 17)), "/sym"));
}

static void test_between_tasks(void **state)
{
	struct env *e = *state;
	pid_t first;
	int first_fd;

	start_child(e, open_named);
	OK(&e->dump, dump_fds(e));
	first = e->child;
	first_fd = e->pidfd;
	start_child(e, open_named);
	OK(&e->dump, dump_fds(e));
	assert_int_not_equal(e->dump.s.tasks.v[0].fds.v[3]->id, e->dump.s.tasks.v[1].fds.v[3]->id);
	kill(first, SIGKILL);
	waitpid(first, NULL, 0);
	close(first_fd);
}

static void open_exe(struct env *e)
{
	(void)e;
	dup2(open("/proc/self/exe", O_RDONLY), 10);
}

static void test_build_id(void **state)
{
	struct env *e = *state;
	uint32_t id;
	int fd;

	start_child(e, open_exe);
	OK(&e->dump, dump_fds(e));
	OK(&e->dump, files_dump_special(&e->dump.op, &e->dump.s, e->child, "exe", &id));
	assert_int_equal(snapshot_file(&e->dump.s, id)->msg->reg->n_build_id, 5);
	assert_int_not_equal(id, info_of(&e->dump, 10)->id);
	write_images(e);
	OK(&e->restore, reopen(e));
	OK(&e->restore, files_open_special(&e->restore.op, &e->restore.s, id, "exe", &fd));
	e->restore.s.file_state->shared = (struct file_index){ 0 }; /* it would be remembered */
	snapshot_file(&e->restore.s, id)->msg->reg->build_id[0] ^= 1;
	snapshot_file(&e->restore.s, id)->priv = NULL;
	assert_refused(&e->restore, files_open_special(&e->restore.op, &e->restore.s, id, "exe", &fd), CKPT_E_CHANGED,
		       "file", NULL);
}

static void open_a(struct env *e)
{
	(void)e;
	put("a", "0123456789");
	dup2(open("a", O_RDONLY), 10);
}

static void test_changed_size(void **state)
{
	struct env *e = *state;

	start_child(e, open_a);
	full_dump(e);
	put("a", "other");
	assert_refused(&e->restore, reopen(e), CKPT_E_CHANGED, "file", NULL);
	assert_non_null(strstr(ckpt_err_message(e->restore.op.err), "size"));
}

static void test_changed_mode(void **state)
{
	struct env *e = *state;

	start_child(e, open_a);
	full_dump(e);
	chmod("a", 0600);
	assert_refused(&e->restore, reopen(e), CKPT_E_CHANGED, "file", "--skip-file-rwx-check");
	e->restore.op.err = ckpt_err_free(e->restore.op.err);
	e->opts.skip_file_rwx_check = true;
	OK(&e->restore, files_open(&e->restore.op, &e->restore.s));
}

static void test_gone(void **state)
{
	struct env *e = *state;

	start_child(e, open_a);
	full_dump(e);
	unlink("a");
	assert_refused(&e->restore, reopen(e), CKPT_E_CHANGED, "file", NULL);
	assert_non_null(strstr(ckpt_err_message(e->restore.op.err), "gone"));
}

/* ---------------------------------------------------------------------------------------- deleted files */

static void open_deleted(struct env *e)
{
	char buf[20000];

	(void)e;
	put("small", "boo");
	dup2(open("small", O_RDWR), 10);
	dup2(open("small", O_RDONLY), 11);
	unlink("small");
	memset(buf, 'x', sizeof(buf));
	dup2(open("big", O_RDWR | O_CREAT, 0640), 12);
	write(12, buf, sizeof(buf));
	pwrite(12, buf, sizeof(buf), 8 * MIB);
	lseek(12, 5, SEEK_SET);
	unlink("big");
	mkdir("dir", 0751);
	put("dir/inside", "deep");
	dup2(open("dir/inside", O_RDONLY), 13);
	unlink("dir/inside");
	rmdir("dir");
	dup2(open(".", O_TMPFILE | O_RDWR, 0600), 14);
	write(14, "tmp", 3);
}

static void test_deleted(void **state)
{
	struct env *e = *state;
	char buf[16] = "";
	struct stat st;

	start_child(e, open_deleted);
	full_restore(e);
	assert_int_equal(e->restore.s.ghosts.n, 4);
	assert_int_equal(pread(fd_of(e, 10), buf, sizeof(buf), 0), 3);
	assert_memory_equal(buf, "boo", 3);
	assert_int_equal(pwrite(fd_of(e, 10), "new", 3, 0), 3);
	assert_int_equal(pread(fd_of(e, 11), buf, sizeof(buf), 0), 3);
	assert_memory_equal(buf, "new", 3);
	assert_non_null(strstr(link_of(fd_of(e, 10)), "/small (deleted)"));
	assert_int_equal(fstat(fd_of(e, 12), &st), 0);
	assert_int_equal(st.st_size, 8 * MIB + 20000);
	assert_true(st.st_blocks * 512 < MIB);
	assert_int_equal(st.st_mode, S_IFREG | 0640);
	assert_int_equal(pread(fd_of(e, 12), buf, 4, 8 * MIB + 19998), 2);
	assert_int_equal(lseek(fd_of(e, 12), 0, SEEK_CUR), 5);
	assert_int_equal(pread(fd_of(e, 13), buf, sizeof(buf), 0), 4);
	assert_int_equal(pread(fd_of(e, 14), buf, sizeof(buf), 0), 3);
	files_restore_done(&e->restore.op, &e->restore.s, true);
	rmdir("img"); /* not empty: stays */
	assert_int_equal(system("test \"$(ls)\" = img"), 0);
}

static void test_ghost_limit(void **state)
{
	struct env *e = *state;

	start_child(e, open_deleted);
	e->opts.ghost_limit = 8192;
	assert_refused(&e->dump, dump_fds(e), CKPT_E_UNSUPPORTED, "deleted file", "--ghost-limit");
}

static void in_deleted_dir(struct env *e)
{
	(void)e;
	mkdir("gone", 0751);
	if (chdir("gone") < 0 || rmdir("../gone") < 0)
		_exit(1);
}

static void test_deleted_cwd(void **state)
{
	struct env *e = *state;
	uint32_t cwd, root;
	struct stat st;
	int fd, root_fd;

	start_child(e, in_deleted_dir);
	OK(&e->dump, dump_fds(e));
	OK(&e->dump, files_dump_special(&e->dump.op, &e->dump.s, e->child, "cwd", &cwd));
	OK(&e->dump, files_dump_special(&e->dump.op, &e->dump.s, e->child, "root", &root));
	write_images(e);
	OK(&e->restore, reopen(e));
	OK(&e->restore, files_open_special(&e->restore.op, &e->restore.s, cwd, "cwd", &fd));
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	OK(&e->restore, files_open_special(&e->restore.op, &e->restore.s, root, "root", &root_fd));
	assert_string_equal(link_of(root_fd), "/");
	files_restore_done(&e->restore.op, &e->restore.s, true);
	assert_non_null(strstr(link_of(fd), "/gone (deleted)"));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0751);
	close(fd);
}

static void open_linked(struct env *e)
{
	(void)e;
	put("one", "linked");
	mkdir("sub", 0755);
	link("one", "sub/two");
	dup2(open("one", O_RDONLY), 10);
	unlink("one");
}

static void test_link_remap(void **state)
{
	struct env *e = *state;
	char buf[16];

	start_child(e, open_linked);
	assert_refused(&e->dump, dump_fds(e), CKPT_E_UNSUPPORTED, "unlinked file", "--link-remap");
	files_dump_done(&e->dump.op, &e->dump.s, false);
	img_dir_abort(&e->dump.op, e->dump.s.dir);
	life_end(&e->dump);
	life_start(e, &e->dump);

	e->opts.link_remap = true;
	OK(&e->dump, dump_fds(e));
	assert_int_equal(system("ls | grep -q link_remap"), 0);
	files_dump_done(&e->dump.op, &e->dump.s, false);
	assert_int_not_equal(system("ls | grep -q link_remap"), 0);
	img_dir_abort(&e->dump.op, e->dump.s.dir);
	life_end(&e->dump);
	life_start(e, &e->dump);

	full_restore(e);
	assert_int_equal(read(fd_of(e, 10), buf, sizeof(buf)), 6);
	assert_non_null(strstr(link_of(fd_of(e, 10)), "/one (deleted)"));
	assert_int_equal(system("ls | grep -q link_remap"), 0);
	files_restore_done(&e->restore.op, &e->restore.s, true);
	assert_int_not_equal(system("ls | grep -q link_remap"), 0);
	assert_int_equal(access("sub/two", F_OK), 0);
}

/* ------------------------------------------------------------------------------------- pipes and FIFOs */

static void open_pipes(struct env *e)
{
	int p[2];

	(void)e;
	pipe2(p, O_NONBLOCK);
	dup2(p[0], 10);
	dup2(p[1], 11);
	fcntl(10, F_SETPIPE_SZ, 256 << 10);
	write(11, "hello", 5);
	write(11, "world", 5);
	dup2(open("/proc/self/fd/10", O_RDWR), 12);
	pipe2(p, O_DIRECT);
	dup2(p[0], 13);
	dup2(p[1], 14);
	write(14, "one", 3);
	write(14, "three", 5);
	pipe2(p, 0); /* only its read end stays */
	dup2(p[0], 15);
	write(p[1], "dangling", 8);
	close(p[0]), close(p[1]);
	sys_close_range(16, ~0u, 0);
	for (int fd = 3; fd < 10; fd++)
		close(fd);
}

static void test_pipes(void **state)
{
	struct env *e = *state;
	char buf[64];

	start_child(e, open_pipes);
	full_dump(e);
	{
		int copy = sys_pidfd_getfd(e->pidfd, 10);

		assert_int_equal(read(copy, buf, sizeof(buf)), 10); /* nothing was taken away */
		close(copy);
	}
	end_child(e);
	OK(&e->restore, reopen(e));
	assert_int_equal(fcntl(fd_of(e, 10), F_GETPIPE_SZ), 256 << 10);
	assert_true(fcntl(fd_of(e, 10), F_GETFL) & O_NONBLOCK);
	assert_int_equal(fcntl(fd_of(e, 12), F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(read(fd_of(e, 10), buf, sizeof(buf)), 10);
	assert_memory_equal(buf, "helloworld", 10);
	assert_int_equal(write(fd_of(e, 11), "x", 1), 1);
	assert_int_equal(read(fd_of(e, 12), buf, sizeof(buf)), 1);
	assert_true(fcntl(fd_of(e, 14), F_GETFL) & O_DIRECT);
	assert_int_equal(read(fd_of(e, 13), buf, sizeof(buf)), 3);
	assert_int_equal(read(fd_of(e, 13), buf, 2), 2); /* the rest of a packet is lost, as it would have been */
	assert_int_equal(write(fd_of(e, 14), "z", 1), 1);
	assert_int_equal(read(fd_of(e, 13), buf, sizeof(buf)), 1);
	assert_int_equal(read(fd_of(e, 15), buf, sizeof(buf)), 8);
	assert_int_equal(read(fd_of(e, 15), buf, sizeof(buf)), 0); /* nobody writes to it */
}

static void test_inherit_pipe(void **state)
{
	struct env *e = *state;
	char text[64];
	const char *list[] = { text };
	int p[2];

	start_child(e, open_pipes);
	full_dump(e);
	assert_int_equal(pipe(p), 0);
	snprintf(text, sizeof(text), "fd[%d]:pipe:[%u]", p[1], file_of(&e->dump, 11)->msg->pipe->pipe_id);
	e->opts.inherit_fd.v = list;
	e->opts.inherit_fd.n = 1;
	OK(&e->restore, reopen(e));
	assert_int_equal(write(fd_of(e, 11), "out", 3), 3);
	assert_int_equal(read(p[0], text, sizeof(text)), 3);
	assert_false(fcntl(p[1], F_GETFL) & O_NONBLOCK);
	close(p[0]);
	close(p[1]);
}

static void test_inherit_malformed(void **state)
{
	struct env *e = *state;
	const char *list[] = { "fd[x]:a" };

	start_child(e, open_a);
	full_dump(e);
	e->opts.inherit_fd.v = list;
	e->opts.inherit_fd.n = 1;
	assert_refused(&e->restore, reopen(e), CKPT_E_INVAL, NULL, "fd[N]:KEY");
}

static void open_fifo(struct env *e)
{
	(void)e;
	mkfifo("fifo", 0600);
	dup2(open("fifo", O_RDONLY | O_NONBLOCK), 10);
	dup2(open("fifo", O_WRONLY), 11);
	write(11, "queued", 6);
}

static void test_fifo(void **state)
{
	struct env *e = *state;
	char buf[16];

	start_child(e, open_fifo);
	full_restore(e);
	assert_non_null(strstr(link_of(fd_of(e, 10)), "/fifo"));
	assert_int_equal(fcntl(fd_of(e, 11), F_GETFL) & O_ACCMODE, O_WRONLY);
	assert_int_equal(read(fd_of(e, 10), buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "queued", 6);
}

/* -------------------------------------------------------------------------------------- shared memory */

static void open_memfd(struct env *e)
{
	uint64_t *report = e->shared;
	char *p;

	dup2(sys_memfd_create("sealed", MFD_ALLOW_SEALING), 10);
	ftruncate(10, 10 * MIB + 100);
	pwrite(10, "begin", 5, 0);
	pwrite(10, "end", 3, 10 * MIB + 97);
	fchmod(10, 0600);
	lseek(10, 77, SEEK_SET);
	fcntl(10, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE);
	dup2(open("/proc/self/fd/10", O_RDONLY), 11);
	p = mmap(NULL, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	strcpy(p + PAGE_SIZE, "shared");
	report[0] = (uint64_t)p;
}

static const struct proc_vma *vma_at(struct env *e, uint64_t addr)
{
	struct proc_maps maps;

	OK(&e->dump, proc_read_maps(&e->dump.op, e->child, &maps));
	for (size_t i = 0; i < maps.vmas.n; i++)
		if (maps.vmas.v[i].start == addr)
			return &maps.vmas.v[i];
	fail_msg("no mapping at 0x%lx", (unsigned long)addr);
	return NULL;
}

static void test_memfd(void **state)
{
	struct env *e = *state;
	uint32_t id, again, fdflags;
	bool is_shmem;
	char buf[16], *p;
	struct stat st;
	int fd;

	start_child(e, open_memfd);
	OK(&e->dump, dump_fds(e));
	for (int i = 0; i < 2; i++) {
		OK(&e->dump, files_dump_mapping(&e->dump.op, &e->dump.s, e->child,
						vma_at(e, *(uint64_t *)e->shared), i ? &again : &id, &is_shmem, &fdflags));
		assert_true(is_shmem);
		assert_int_equal(fdflags, O_RDWR);
	}
	assert_int_equal(id, again);
	write_images(e);
	end_child(e);
	OK(&e->restore, reopen(e));
	assert_string_equal(link_of(fd_of(e, 10)), "/memfd:sealed (deleted)");
	assert_int_equal(fstat(fd_of(e, 10), &st), 0);
	assert_int_equal(st.st_size, 10 * MIB + 100);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(st.st_blocks <= 16);
	assert_int_equal(lseek(fd_of(e, 10), 0, SEEK_CUR), 77);
	assert_int_equal(pread(fd_of(e, 11), buf, 8, 10 * MIB + 97), 3);
	assert_memory_equal(buf, "end", 3);
	assert_int_equal(write(fd_of(e, 11), "x", 1), -1);
	assert_int_equal(fcntl(fd_of(e, 10), F_GET_SEALS), 0); /* until the mappings are made */
	OK(&e->restore, files_open_mapping(&e->restore.op, &e->restore.s, id, O_RDWR, &fd));
	assert_string_equal(link_of(fd), "/dev/zero (deleted)");
	p = mmap(NULL, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	assert_string_equal(p + PAGE_SIZE, "shared");
	munmap(p, 4 * PAGE_SIZE);
	fd = fcntl(fd_of(e, 10), F_DUPFD_CLOEXEC, 3);
	files_restore_done(&e->restore.op, &e->restore.s, true);
	assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE);
	close(fd);
}

/* -------------------------------------------------------------------------------------------------- locks */

static void open_locked(struct env *e)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3 };

	open_a(e);
	dup2(10, 11);
	flock(10, LOCK_EX);
	put("b", "0123456789");
	dup2(open("b", O_RDWR), 12);
	fcntl(12, F_SETLK, &fl);
	dup2(12, 13);
	dup2(open("b", O_RDWR), 14);
	fl.l_start = 7;
	fcntl(14, F_OFD_SETLK, &fl);
}

static void test_locks(void **state)
{
	struct env *e = *state;
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 1 };
	int other;

	start_child(e, open_locked);
	e->opts.file_locks = true;
	full_dump(e);
	assert_int_equal(e->dump.s.locks.n, 3);
	assert_int_equal(e->dump.s.locks.v[0]->flag, 2);
	assert_int_equal(e->dump.s.locks.v[0]->type, F_WRLCK);
	assert_int_equal(info_of(&e->dump, e->dump.s.locks.v[0]->fd)->id, info_of(&e->dump, 10)->id);
	assert_int_equal(e->dump.s.locks.v[1]->flag, 1);
	assert_int_equal(e->dump.s.locks.v[1]->start, 2);
	assert_int_equal(e->dump.s.locks.v[1]->len, 3);
	assert_int_equal(e->dump.s.locks.v[2]->flag, 4);
	assert_refused(&e->restore, reopen(e), CKPT_E_SYS, "file lock", "another process");
	end_child(e);
	files_restore_done(&e->restore.op, &e->restore.s, false);
	life_end(&e->restore);
	life_start(e, &e->restore);
	OK(&e->restore, reopen(e));
	other = open("a", O_RDONLY);
	assert_int_equal(flock(other, LOCK_SH | LOCK_NB), -1);
	close(other);
	other = open("b", O_RDWR);
	assert_int_equal(fcntl(other, F_OFD_SETLK, &fl), -1);
	close(other);
}

static void test_locks_refused(void **state)
{
	struct env *e = *state;

	start_child(e, open_locked);
	assert_refused(&e->dump, dump_fds(e), CKPT_E_UNSUPPORTED, "file lock", "--file-locks");
}

/* ---------------------------------------------------------------------------------------------- terminals */

static void test_tty(void **state)
{
	struct env *e = *state;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave, saved[3];
	struct termios t;

	assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	tcgetattr(slave, &t);
	t.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(slave, TCSANOW, &t);
	e->child = fork();
	if (e->child == 0) {
		dup2(slave, 10);
		for (int fd = 0; fd < 3; fd++)
			dup2(slave, fd);
		sys_close_range(11, ~0u, 0);
		sys_close_range(3, 9, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(e->child, NULL, WUNTRACED);
	e->pid = e->child;
	e->pidfd = sys_pidfd_open(e->child, 0);

	assert_refused(&e->dump, dump_fds(e), CKPT_E_UNSUPPORTED, "terminal", "--shell-job");
	files_dump_done(&e->dump.op, &e->dump.s, false);
	img_dir_abort(&e->dump.op, e->dump.s.dir);
	life_end(&e->dump);
	life_start(e, &e->dump);
	e->opts.shell_job = true;
	full_dump(e);
	assert_int_equal(e->dump.s.ttys.n, 1);
	assert_int_equal(e->dump.s.ttys.v[0]->termios->n_c_cc, 19);
	assert_int_equal(e->dump.s.ttys.v[0]->termios->c_cc[0] & 0xff, t.c_cc[0]);
	end_child(e);

	t.c_lflag |= ECHO;
	tcsetattr(slave, TCSANOW, &t);
	for (int fd = 0; fd < 3; fd++) {
		saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 20);
		dup2(slave, fd);
	}
	int r = reopen(e);

	for (int fd = 0; fd < 3; fd++) {
		dup2(saved[fd], fd);
		close(saved[fd]);
	}
	OK(&e->restore, r);
	assert_true(isatty(fd_of(e, 10)));
	tcgetattr(slave, &t);
	assert_false(t.c_lflag & ECHO); /* as the program had it */
	files_restore_done(&e->restore.op, &e->restore.s, false);
	tcgetattr(slave, &t);
	assert_true(t.c_lflag & ECHO);
	close(slave);
	close(master);
}

/* ------------------------------------------------------------------------------------------- what is refused */

static void count(void *arg, const struct ckpt_err *err)
{
	const char **want = arg;

	assert_int_equal(ckpt_err_code(err), CKPT_E_UNSUPPORTED);
	for (; *want; want += 1)
		if (strcmp(*want, ckpt_err_kind(err)) == 0) {
			*want = "seen";
			return;
		}
	fail_msg("unexpected: %s", ckpt_err_message(err));
}

static void open_unsupported(struct env *e)
{
	int sv[2];

	open_deleted(e);
	socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
	dup2(socket(AF_INET, SOCK_STREAM, 0), 20); /* no obstacle as long as it is not connected */
	dup2((int)syscall(430 /* fsopen */, "tmpfs", 0), 21);
	dup2(eventfd(0, 0), 22);
	dup2(open("/proc/self/ns/mnt", O_RDONLY), 23); /* these two are no obstacle */
	dup2(open("/proc/self/stat", O_RDONLY), 24);
	dup2(open("/dev/ptmx", O_RDWR | O_NOCTTY), 25); /* nor this one */
	dup2(sv[0], 26); /* nor this one, whose other end is closed */
	dup2(sys_pidfd_open(getpid(), 0), 27);
	dup2(open("/dev/kmsg", O_RDONLY), 28);
	open_locked(e);
	sys_close_range(29, ~0u, 0);
	sys_close_range(15, 19, 0);
	sys_close_range(3, 9, 0);
}

static void test_check(void **state)
{
	struct env *e = *state;
	const char *kinds[] = { "anonymous inode", "character device", "file lock", "file lock", "file lock", NULL };
	int n;

	start_child(e, open_unsupported);
	n = files_check_task(&e->dump.op, e->child, count, kinds);
	assert_int_equal(n, 5);
	for (const char **k = kinds; *k; k++)
		assert_string_equal(*k, "seen");
}

static void open_context(struct env *e)
{
	(void)e;
	dup2((int)syscall(430 /* fsopen */, "tmpfs", 0), 10);
}

static void test_unsupported(void **state)
{
	struct env *e = *state;

	start_child(e, open_context);
	assert_refused(&e->dump, dump_fds(e), CKPT_E_UNSUPPORTED, "anonymous inode", "");
	assert_int_equal(ckpt_err_pid(e->dump.op.err), e->child);
	assert_true(ckpt_err_fd(e->dump.op.err) >= 3);
}

static void test_external(void **state)
{
	struct env *e = *state;
	char key[64], given[80], path[64], line[128];
	const char *ext[] = { key }, *inherit[] = { given };
	unsigned mnt = 0;
	struct stat st;
	FILE *f;
	int fd;

	start_child(e, open_a);
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/10", e->child);
	f = fopen(path, "r");
	while (fgets(line, sizeof(line), f))
		sscanf(line, "mnt_id: %u", &mnt);
	fclose(f);
	stat("a", &st);
	snprintf(key, sizeof(key), "file[%x:%lx]", mnt, (unsigned long)st.st_ino);
	e->opts.external.v = ext;
	e->opts.external.n = 1;
	full_dump(e);
	assert_true(file_of(&e->dump, 10)->msg->reg->ext);
	assert_string_equal(file_of(&e->dump, 10)->msg->reg->name, key);
	assert_refused(&e->restore, reopen(e), CKPT_E_INVAL, "file", "--inherit-fd");
	files_restore_done(&e->restore.op, &e->restore.s, false);
	life_end(&e->restore);
	life_start(e, &e->restore);
	put("z", "instead");
	fd = open("z", O_RDONLY);
	snprintf(given, sizeof(given), "fd[%d]:%s", fd, key);
	e->opts.inherit_fd.v = inherit;
	e->opts.inherit_fd.n = 1;
	OK(&e->restore, reopen(e));
	assert_non_null(strstr(link_of(fd_of(e, 10)), "/z"));
	close(fd);
}

/* ---------------------------------------------------------------------------------------------- bad images */

/* Changes the messages of a good dump before they are written. */
static void bad(struct env *e, void (*spoil)(struct env *e), int code)
{
	OK(&e->dump, dump_fds(e));
	spoil(e);
	write_images(e);
	end_child(e);
	assert_refused(&e->restore, reopen(e), code, NULL, NULL);
}

static void spoil_id(struct env *e)
{
	e->dump.s.tasks.v[0].fds.v[3]->id = 999;
}

static void spoil_type(struct env *e)
{
	e->dump.s.tasks.v[0].fds.v[3]->type = FD_TYPES__PIPE;
}

static void spoil_name(struct env *e)
{
	file_of(&e->dump, 10)->msg->reg->name = arena_strdup(e->dump.op.arena, "relative");
}

static void spoil_fd(struct env *e)
{
	e->dump.s.tasks.v[0].fds.v[3]->fd = 0xffffffffu;
}

static void spoil_twice(struct env *e)
{
	e->dump.s.tasks.v[0].fds.v[3]->fd = 0;
}

static void spoil_sub(struct env *e)
{
	file_of(&e->dump, 10)->msg->reg->id = 77;
}

static void spoil_pos(struct env *e)
{
	file_of(&e->dump, 10)->msg->reg->pos = 1ull << 63;
}

#define BAD_TEST(what)                                      \
	static void test_bad_##what(void **state)           \
	{                                                   \
		start_child(*state, open_a);                \
		bad(*state, spoil_##what, CKPT_E_IMAGE);    \
	}
BAD_TEST(id)
BAD_TEST(type)
BAD_TEST(name)
BAD_TEST(fd)
BAD_TEST(twice)
BAD_TEST(sub)
BAD_TEST(pos)

/* A device, of which our own file knows nothing. */
static void spoil_device(struct env *e)
{
	RegFileEntry *m = file_of(&e->dump, 10)->msg->reg;

	m->name = arena_strdup(e->dump.op.arena, "/dev/kmsg");
	m->flags = O_WRONLY;
	m->has_mode = m->has_size = false;
	m->n_build_id = 0;
}
BAD_TEST(device)

static void spoil_procfs(struct env *e)
{
	RemapFilePathEntry *m = arena_alloc(e->dump.op.arena, sizeof(*m)), **slot;

	remap_file_path_entry__init(m);
	m->orig_id = file_of(&e->dump, 10)->id;
	m->remap_id = 12345;
	m->has_remap_type = true;
	m->remap_type = REMAP_TYPE__PROCFS;
	slot = ARRAY_ADD(e->dump.op.arena, &e->dump.s.remaps);
	*slot = m;
}
BAD_TEST(procfs)

static void open_ns(struct env *e)
{
	(void)e;
	dup2(open("/proc/self/ns/uts", O_RDONLY), 10);
}

static void spoil_ns_type(struct env *e)
{
	file_of(&e->dump, 10)->msg->nsf->ns_cflag = 1;
}

static void test_bad_ns_type(void **state)
{
	start_child(*state, open_ns);
	bad(*state, spoil_ns_type, CKPT_E_IMAGE);
}

static void spoil_ns_id(struct env *e)
{
	file_of(&e->dump, 10)->msg->nsf->ns_id = 4711;
}

static void test_bad_ns_id(void **state)
{
	start_child(*state, open_ns);
	bad(*state, spoil_ns_id, CKPT_E_IMAGE);
}

static void spoil_lease(struct env *e)
{
	for (size_t i = 0; i < e->dump.s.locks.n; i++) {
		e->dump.s.locks.v[i]->flag = 8;
		e->dump.s.locks.v[i]->type = 7;
	}
}

static void test_bad_lease(void **state)
{
	struct env *e = *state;

	e->opts.file_locks = true;
	start_child(e, open_locked);
	bad(e, spoil_lease, CKPT_E_UNSUPPORTED);
}

static void spoil_queue(struct env *e)
{
	for (size_t i = 0; i < e->dump.s.pipes.n; i++)
		e->dump.s.pipes.v[i].msg->size = 1u << 31;
}

static void test_bad_queue(void **state)
{
	start_child(*state, open_pipes);
	bad(*state, spoil_queue, CKPT_E_IMAGE);
}

/* A pseudo terminal with something in its queues. */
static void open_pty(struct env *e)
{
	int master = dup2(open("/dev/ptmx", O_RDWR | O_NOCTTY), 10), slave;

	(void)e;
	unlockpt(master);
	slave = dup2(open(ptsname(master), O_RDWR | O_NOCTTY), 11);
	if (write(master, "line\nrest", 9) != 9 || write(slave, "out", 3) != 3)
		abort();
	sys_close_range(3, 9, 0);
}

static TtyInfoEntry *spoiled_tty(struct env *e, bool master)
{
	for (size_t i = 0; i < e->dump.s.ttys.n; i++)
		if ((e->dump.s.ttys.v[i]->id & 1) == master)
			return e->dump.s.ttys.v[i];
	return NULL;
}

static void spoil_tty_number(struct env *e)
{
	spoiled_tty(e, true)->pty->index++;
}

static void spoil_tty_huge(struct env *e)
{
	TtyInfoEntry *m = spoiled_tty(e, true);

	m->pty->index = 1u << 30;
	m->id = m->pty->index << 1 | 1;
}

static void spoil_tty_cc(struct env *e)
{
	spoiled_tty(e, false)->termios->n_c_cc = 3;
}

static void spoil_tty_half(struct env *e)
{
	spoiled_tty(e, false)->winsize = NULL;
}

static void spoil_tty_twice(struct env *e)
{
	spoiled_tty(e, true)->id ^= 1;
}

static void spoil_tty_alone(struct env *e)
{
	spoiled_tty(e, true)->termios = spoiled_tty(e, true)->termios_locked = NULL;
	spoiled_tty(e, true)->winsize = NULL;
}

static void spoil_tty_info(struct env *e)
{
	file_of(&e->dump, 11)->msg->tty->tty_info_id = 4711;
}

/* The second description of a master: it has one. */
static void spoil_tty_master(struct env *e)
{
	file_of(&e->dump, 11)->msg->tty->tty_info_id |= 1;
}

static void spoil_tty_ptmx(struct env *e)
{
	snapshot_file(&e->dump.s, file_of(&e->dump, 10)->msg->tty->regf_id)->msg->reg->name = (char *)"/dev/null";
}

static void spoil_tty_long(struct env *e)
{
	TtyDataEntry *m = e->dump.s.file_state->tty->data.v[0];

	m->data.len = TTY_QUEUE_MAX;
	m->data.data = op_alloc(&e->dump.op, m->data.len);
}

static void spoil_tty_data_twice(struct env *e)
{
	e->dump.s.file_state->tty->data.v[1] = e->dump.s.file_state->tty->data.v[0];
}

static void spoil_tty_data_whose(struct env *e)
{
	e->dump.s.file_state->tty->data.v[0]->tty_id = 0xfffffffe;
}

static void spoil_tty_line(struct env *e)
{
	e->dump.s.file_state->tty->extras.v[0]->line_ends[0] = 0x7fffffff;
}

static void spoil_tty_extra(struct env *e)
{
	e->dump.s.file_state->tty->extras.v[0]->index = 0x80000000u;
}

#define BAD_TTY(what, code)                                 \
	static void test_bad_tty_##what(void **state)       \
	{                                                   \
		start_child(*state, open_pty);              \
		bad(*state, spoil_tty_##what, code);        \
	}
BAD_TTY(number, CKPT_E_IMAGE)
BAD_TTY(huge, CKPT_E_IMAGE)
BAD_TTY(cc, CKPT_E_IMAGE)
BAD_TTY(half, CKPT_E_IMAGE)
BAD_TTY(twice, CKPT_E_IMAGE)
BAD_TTY(alone, CKPT_E_IMAGE)
BAD_TTY(info, CKPT_E_IMAGE)
BAD_TTY(master, CKPT_E_IMAGE)
BAD_TTY(ptmx, CKPT_E_CHANGED)
BAD_TTY(long, CKPT_E_IMAGE)
BAD_TTY(data_twice, CKPT_E_IMAGE)
BAD_TTY(data_whose, CKPT_E_IMAGE)
BAD_TTY(line, CKPT_E_IMAGE)
BAD_TTY(extra, CKPT_E_IMAGE)

/* ------------------------------------------------------------------- sets that the reference engine wrote */

/* Their files lie at fixed places, which are covered for this process alone. */
static void unpack_reference(const char *set)
{
	char cmd[512];
	int r;

	mkdir("/tmp/ckpt-golden", 0755);
	mkdir("/opt/ckpt-golden", 0755);
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL), 0);
	assert_int_equal(mount("none", "/tmp/ckpt-golden", "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("none", "/opt/ckpt-golden", "tmpfs", 0, NULL), 0);
	snprintf(cmd, sizeof(cmd), "tar -C / -xf %s/golden/images/%s/fs.tar && install -D -m 755 %s/golden/bin/golden "
		 "/opt/ckpt-golden/bin/golden", getenv("CKPT_SHARED"), set, getenv("CKPT_SHARED"));
	r = system(cmd);
	assert_int_equal(r, 0);
}

static void open_reference(struct env *e, const char *set, pid_t pid)
{
	if (!getenv("CKPT_SHARED"))
		skip();
	unpack_reference(set);
	snprintf(e->images, sizeof(e->images), "%s/golden/images/%s/img", getenv("CKPT_SHARED"), set);
	e->pid = pid;
	e->opts.file_locks = true;
	e->extra = (uint8_t *)strdup("");
	OK(&e->restore, img_dir_open(&e->restore.op, &e->restore.s.dir, &e->restore.s.inventory));
	new_task(e, &e->restore);
	OK(&e->restore, files_read(&e->restore.op, &e->restore.s));
	OK(&e->restore, files_open(&e->restore.op, &e->restore.s));
}

static void test_reference_files(void **state)
{
	struct env *e = *state;
	char buf[8];
	int fd;

	open_reference(e, "files", 2410);
	assert_int_equal(file_of(&e->restore, 3), file_of(&e->restore, 4));
	assert_int_equal(read(fd_of(e, 4), buf, 3), 3);
	assert_memory_equal(buf, "456", 3);
	assert_true(fcntl(fd_of(e, 5), F_GETFL) & O_APPEND);
	assert_int_equal(pread(fd_of(e, 6), buf, 3, 0), 3);
	assert_memory_equal(buf, "boo", 3);
	assert_true(access("/tmp/ckpt-golden/files.d/ghost", F_OK) < 0);
	OK(&e->restore, files_open_special(&e->restore.op, &e->restore.s, 1, "exe", &fd));
	OK(&e->restore, files_open_special(&e->restore.op, &e->restore.s, 8, "cwd", &fd));
	assert_string_equal(link_of(fd), "/tmp/ckpt-golden/files.d");
}

static void test_reference_memory(void **state)
{
	struct env *e = *state;
	struct stat st;
	int fd;

	open_reference(e, "memory", 2194);
	OK(&e->restore, files_open_mapping(&e->restore.op, &e->restore.s, 2, O_RDWR, &fd));
	assert_string_equal(link_of(fd), "/dev/zero (deleted)");
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 65536);
	assert_int_equal(st.st_mode, 0100777);
	assert_int_equal(st.st_blocks, 8);
	OK(&e->restore, files_open_mapping(&e->restore.op, &e->restore.s, 3, O_RDWR, &fd));
}

static void open_many(struct env *e)
{
	struct rlimit rl = { 20000, 20000 };

	(void)e;
	setrlimit(RLIMIT_NOFILE, &rl);
	put("a", "0123456789");
	for (int i = 0; i < 5000; i++)
		open("a", O_RDONLY);
	for (int i = 0; i < 5000; i++)
		dup(10 + i);
}

static void test_many(void **state)
{
	struct env *e = *state;
	uint64_t t0, t1, t2;

	start_child(e, open_many);
	t0 = now_ns();
	full_dump(e);
	t1 = now_ns();
	end_child(e);
	OK(&e->restore, reopen(e));
	t2 = now_ns();
	assert_int_equal(e->dump.s.tasks.v[0].fds.n, 10003);
	assert_int_equal(e->dump.s.files.n, 5001);
	print_message("10,000 descriptors of 5,000 descriptions: dump %lu ms, open %lu ms\n",
		      (unsigned long)(t1 - t0) / 1000000, (unsigned long)(t2 - t1) / 1000000);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(eventfd), T(named), T(between_tasks), T(build_id), T(changed_size), T(changed_mode), T(gone),
		T(deleted), T(ghost_limit), T(deleted_cwd), T(link_remap),
		T(pipes), T(inherit_pipe), T(inherit_malformed), T(fifo),
		T(memfd), T(locks), T(locks_refused), T(tty),
		T(check), T(unsupported), T(external),
		T(bad_id), T(bad_type), T(bad_name), T(bad_fd), T(bad_twice), T(bad_sub), T(bad_pos), T(bad_queue), T(bad_device), T(bad_procfs),
		T(bad_ns_type), T(bad_ns_id), T(bad_lease), T(many),
		T(bad_tty_number), T(bad_tty_huge), T(bad_tty_cc), T(bad_tty_half), T(bad_tty_twice), T(bad_tty_alone),
		T(bad_tty_info), T(bad_tty_master), T(bad_tty_ptmx), T(bad_tty_long), T(bad_tty_data_twice),
		T(bad_tty_data_whose), T(bad_tty_line), T(bad_tty_extra),
		T(reference_files), T(reference_memory),
	};

	if (geteuid() != 0) {
		printf("skipped: descriptors of other processes need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
