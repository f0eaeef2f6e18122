// SPDX-License-Identifier: MIT
/*
 * The image folder as a whole: how it is opened, how the files made in it become a checkpoint, and how they vanish again.
 *
 * Commit, in this order: the inventory under a temporary name; leftovers of earlier attempts removed; write-back started
 * for all files; all files and the folder synced in one batch; the inventory renamed; the folder synced again. Whoever
 * finds an inventory therefore finds everything else complete, also after a power failure.
 */
#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/image/gate.h"
#include "lib/image/pages_pack.h"
#include "lib/image/sums.h"

#define INVENTORY_TMP ".inventory.img.tmp"
#define SYNC_BATCH 128
#define LOCK_TRIES 50 /* of 10 ms */
#define RECEIVE_LOCK ".ckpt-page-server.lock"

static const char *folder_name(const struct op *op)
{
	if (op->opts->images_dir)
		return op->opts->images_dir;
	return op->opts->images_dir_fd >= 0 ? "(given as descriptor)" : ".";
}

static int open_folder(struct op *op, struct img_dir **ret)
{
	const char *path = op->opts->images_dir ? op->opts->images_dir : ".";
	struct img_dir *dir = op_new(op, struct img_dir);

	if (!dir)
		return CKPT_E_NOMEM;
	if (op->opts->images_dir_fd >= 0)
		dir->fd = openat(op->opts->images_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	else
		dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0 && errno == ENOENT)
		return op_errno(op, errno, AT(.hint = "name an existing folder with -D"), "images folder %s",
				folder_name(op));
	if (dir->fd < 0)
		return op_errno(op, errno, NULL, "open images folder %s", folder_name(op));
	*ret = dir;
	return 0;
}

static int check_vacant(struct op *op, struct img_dir *dir)
{
	struct stat st;

	if (fstatat(dir->fd, "inventory.img", &st, AT_SYMLINK_NOFOLLOW) == 0)
		return op_fail(op, CKPT_E_EXISTS, AT(.hint = "choose an empty folder, or remove the old checkpoint first"),
			       "images folder %s already holds a checkpoint", folder_name(op));
	if (faccessat(dir->fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return op_errno(op, errno, AT(.hint = "choose a folder that can be written to"),
				"images folder %s cannot be written to", folder_name(op));
	return 0;
}

/* Two dumps into one folder would mix their files. File systems that cannot lock a folder do without. */
static int lock_folder(struct op *op, struct img_dir *dir)
{
	for (int i = 0; flock(dir->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; i++) {
		if (i == LOCK_TRIES)
			return op_fail(op, CKPT_E_BUSY, AT(.hint = "wait for it, or choose another folder"),
				       "images folder %s: another dump is writing to it", folder_name(op));
		usleep(10000); /* one that was killed a moment ago may have syncs under way, which hold it */
	}
	return 0;
}

static int check_writable(struct op *op, struct img_dir *dir)
{
	int r = check_vacant(op, dir);

	if (r < 0)
		return r;
	return lock_folder(op, dir);
}

static void begin_writing(struct img_dir *dir)
{
	dir->writing = true;
	/* Only to be told apart: where there is no chance, the time will do. */
	if (getrandom(&dir->id, sizeof(dir->id), GRND_NONBLOCK) != sizeof(dir->id))
		dir->id = now_ns();
}

int img_dir_create(struct op *op, struct img_dir **ret)
{
	struct img_dir *dir;
	int r = open_folder(op, &dir);

	if (r < 0)
		return r;
	r = check_writable(op, dir);
	if (r < 0) {
		img_dir_close(dir);
		return r;
	}
	begin_writing(dir);
	r = gate_open(op, dir->fd, &dir->gate);
	if (r == 0 && op->opts->compress)
		r = pages_pack(op, dir, op->opts->compress);
	if (r < 0) {
		img_dir_close(dir);
		return r;
	}
	*ret = dir;
	return 0;
}

int img_dir_fd(const struct img_dir *dir)
{
	return dir->fd;
}

struct gate *img_dir_gate(const struct img_dir *dir)
{
	return dir->gate;
}

uint64_t img_dir_bytes(const struct img_dir *dir)
{
	return dir->bytes;
}

int img_dir_space(struct op *op, struct img_dir *dir, uint64_t *bytes)
{
	struct statvfs st;

	if (fstatvfs(dir->fd, &st) < 0)
		return op_errno(op, errno, NULL, "images folder %s: free space", folder_name(op));
	if (__builtin_mul_overflow((uint64_t)st.f_bavail, (uint64_t)st.f_frsize, bytes))
		*bytes = UINT64_MAX;
	return 0;
}

static bool made_before(const struct img_dir *dir, const char *name)
{
	for (size_t i = 0; i < dir->made.n; i++)
		if (strcmp(dir->made.v[i].name, name) == 0)
			return true;
	return false;
}

int img_make(struct op *op, struct img_dir *dir, const char *name, int *ret)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
	struct img_made *made;
	char *copy = arena_strdup(op->arena, name);
	int fd;

	if (!copy)
		return op_nomem(op);
	fd = openat(dir->fd, name, flags, 0600);
	if (fd < 0 && errno == EEXIST) {
		if (made_before(dir, name))
			return op_fail(op, CKPT_E_INTERNAL, NULL, "image %s is written twice", name);
		if (unlinkat(dir->fd, name, 0) < 0)
			return op_errno(op, errno, NULL, "remove the %s of an earlier attempt", name);
		fd = openat(dir->fd, name, flags, 0600);
	}
	if (fd < 0)
		return op_errno(op, errno, NULL, "create image %s", name);
	made = ARRAY_ADD(op->arena, &dir->made);
	if (!made) {
		close(fd);
		unlinkat(dir->fd, name, 0);
		return op_nomem(op);
	}
	made->name = copy;
	made->fd = -1;
	*ret = fd;
	return 0;
}

void img_made_done(struct img_dir *dir, const char *name, int fd)
{
	/* From the end: it is nearly always the last one. */
	for (size_t i = dir->made.n; i-- > 0 && dir->n_kept < IMG_KEEP_OPEN;) {
		if (strcmp(dir->made.v[i].name, name) != 0)
			continue;
		dir->made.v[i].fd = fd;
		dir->n_kept++;
		return;
	}
	close(fd);
}

/* ---- leftovers */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void close_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

/*
 * Removes images that an earlier, unfinished dump left here: next to our inventory they would be taken for ours.
 */
static int remove_leftovers(struct op *op, struct img_dir *dir)
{
	_cleanup_(close_dir_p) DIR *d = NULL;
	_cleanup_free_ char **names = NULL;
	_cleanup_close_ int fd = -1;
	struct dirent *e;

	names = calloc(dir->made.n + 1, sizeof(*names));
	if (!names)
		return op_nomem(op);
	for (size_t i = 0; i < dir->made.n; i++)
		names[i] = dir->made.v[i].name;
	qsort(names, dir->made.n, sizeof(*names), by_name);
	fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		d = fdopendir(fd);
	if (!d)
		return op_errno(op, errno, NULL, "read images folder %s", folder_name(op));
	fd = -1;
	while (errno = 0, (e = readdir(d))) {
		const char *name = e->d_name;

		/* Of memory that went elsewhere: perhaps its page server writes into this very folder. */
		if (pages_elsewhere(dir) && (!strncmp(name, "pagemap-", 8) || !strncmp(name, "pages-", 6) || !strcmp(name, "ckpt-blocks")))
			continue;
		if (!img_name_known(name) || bsearch(&name, names, dir->made.n, sizeof(*names), by_name))
			continue;
		log_info(op, "removing %s, left by an earlier dump", name);
		if (unlinkat(dir->fd, name, 0) < 0 && errno != ENOENT)
			return op_errno(op, errno, NULL, "remove the %s of an earlier attempt", name);
	}
	if (errno)
		return op_errno(op, errno, NULL, "read images folder %s", folder_name(op));
	return 0;
}

/* ---- stable storage */

/* Files that are synced together. */
struct sync_batch {
	struct img_made *made;
	size_t n;
	size_t folder; /* index of the folder itself, which goes with the last files; SIZE_MAX: not in this one */
	int fd[SYNC_BATCH];
	bool ours[SYNC_BATCH]; /* opened for the batch */
};

static void batch_close(struct sync_batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->ours[i])
			close(b->fd[i]);
}

static int batch_open(struct op *op, struct img_dir *dir, struct sync_batch *b, size_t from, size_t n)
{
	b->made = dir->made.v + from;
	b->folder = SIZE_MAX;
	for (b->n = 0; b->n < n; b->n++) {
		struct img_made *m = &b->made[b->n];

		b->fd[b->n] = m->fd;
		b->ours[b->n] = m->fd < 0;
		if (m->fd < 0)
			b->fd[b->n] = openat(dir->fd, m->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (b->fd[b->n] < 0)
			return op_errno(op, errno, NULL, "open image %s to sync it", m->name);
		sync_file_range(b->fd[b->n], 0, 0, SYNC_FILE_RANGE_WRITE); /* only a head start */
	}
	if (from + n < dir->made.n)
		return 0;
	b->folder = b->n++;
	b->fd[b->folder] = dir->fd;
	b->ours[b->folder] = false;
	return 0;
}

static int sync_result(struct op *op, const struct sync_batch *b, size_t i, int eno)
{
	if (eno == 0 || (i == b->folder && eno == EINVAL)) /* a file system that has no such thing */
		return 0;
	if (i == b->folder)
		return op_errno(op, eno, NULL, "sync images folder %s", folder_name(op));
	return op_errno(op, eno, NULL, "sync image %s", b->made[i].name);
}

static int batch_sync_plain(struct op *op, struct sync_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		int r = op_check_cancel(op);

		if (r == 0)
			r = sync_result(op, b, i, fsync(b->fd[i]) < 0 ? errno : 0);
		if (r < 0)
			return r;
	}
	return 0;
}

static int batch_sync_ring(struct op *op, struct sync_batch *b, struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int r;

	for (size_t i = 0; i < b->n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		io_uring_prep_fsync(sqe, b->fd[i], 0);
		io_uring_sqe_set_data64(sqe, i);
	}
	for (size_t sent = 0; sent < b->n; sent += r) {
		r = io_uring_submit(ring);
		if (r <= 0)
			return op_errno(op, r < 0 ? -r : EIO, NULL, "submit the syncs of the images");
	}
	for (size_t done = 0; done < b->n; done++) {
		do {
			r = op_check_cancel(op);
			if (r < 0)
				return r;
			r = io_uring_wait_cqe(ring, &cqe);
		} while (r == -EINTR);
		if (r < 0)
			return op_errno(op, -r, NULL, "wait for the syncs of the images");
		r = sync_result(op, b, io_uring_cqe_get_data64(cqe), cqe->res < 0 ? -cqe->res : 0);
		io_uring_cqe_seen(ring, cqe);
		if (r < 0)
			return r;
	}
	return 0;
}

/* All files and the folder; the folder with the last of them, for one wait more or less is felt in a small dump. */
static int sync_made(struct op *op, struct img_dir *dir)
{
	const size_t files = SYNC_BATCH - 1;
	bool have_ring;
	struct io_uring ring;
	int r = 0;

	have_ring = dir->made.n > 1 && io_uring_queue_init(SYNC_BATCH, &ring, 0) == 0;
	for (size_t from = 0; from < dir->made.n && r == 0; from += files) {
		struct sync_batch b;

		r = batch_open(op, dir, &b, from, MIN(dir->made.n - from, files));
		if (r == 0)
			r = have_ring ? batch_sync_ring(op, &b, &ring) : batch_sync_plain(op, &b);
		batch_close(&b);
	}
	if (have_ring)
		io_uring_queue_exit(&ring);
	return r;
}

static int sync_folder(struct op *op, struct img_dir *dir)
{
	/* EINVAL: a file system that has no such thing */
	if (fsync(dir->fd) < 0 && errno != EINVAL)
		return op_errno(op, errno, NULL, "sync images folder %s", folder_name(op));
	return 0;
}

/* Under its temporary name; the sums, which have that of the inventory, just before it. */
static int write_inventory(struct op *op, struct img_dir *dir, const InventoryEntry *inventory)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t n;
	int fd, r = img_pack(op, "inventory.img", IMG_INVENTORY, &inventory->base, &buf, &n);

	r = r ?: sums_add(op, dir, "inventory.img", n, XXH3_64bits(buf, n));
	r = r ?: sums_write(op, dir);
	r = r ?: img_make(op, dir, INVENTORY_TMP, &fd);
	if (r < 0)
		return r;
	r = img_write_all(op, fd, INVENTORY_TMP, buf, n);
	dir->bytes += n;
	img_made_done(dir, INVENTORY_TMP, fd);
	return r;
}

/* Readers that take page images for plain must not read these. */
static int mark_packed(struct op *op, const InventoryEntry **inventory)
{
	const PluginsEntry *old = (*inventory)->plugins_entry;
	InventoryEntry *inv = op_new(op, InventoryEntry);
	PluginsEntry *plugins = op_new(op, PluginsEntry);
	size_t n = old ? old->n_plugins : 0;
	char **names = op_alloc(op, (n + 1) * sizeof(*names));

	if (!inv || !plugins || !names)
		return CKPT_E_NOMEM;
	*inv = **inventory;
	plugins_entry__init(plugins);
	if (n)
		memcpy(names, old->plugins, n * sizeof(*names));
	names[n] = (char *)IMG_OWN_PACKED;
	plugins->plugins = names;
	plugins->n_plugins = n + 1;
	inv->plugins_entry = plugins;
	*inventory = inv;
	return 0;
}

int img_dir_commit(struct op *op, struct img_dir *dir, const InventoryEntry *inventory)
{
	bool sync = !op->opts->no_sync;
	int r;

	gate_commit(dir->gate);
	if (dir->outs)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "commit with an image that is still being written");
	/* What is packed has its records with the last page; the disk of the others has until the rest is done. */
	r = pages_are_packed(dir) ? pages_settle(op, dir) ?: mark_packed(op, &inventory) : 0;
	r = r ?: blocks_finish(op, dir);
	r = r ?: write_inventory(op, dir, inventory);
	r = r ?: remove_leftovers(op, dir);
	r = r ?: pages_settle(op, dir);
	if (r == 0 && sync)
		r = sync_made(op, dir);
	if (r < 0)
		return r;
	if (renameat(dir->fd, INVENTORY_TMP, dir->fd, "inventory.img") < 0)
		return op_errno(op, errno, NULL, "rename the inventory");
	strcpy(dir->made.v[dir->made.n - 1].name, "inventory.img"); /* shorter than what it replaces */
	r = sync ? sync_folder(op, dir) : 0;
	dir->gate = gate_close(dir->gate);
	return r;
}

void img_dir_abort(struct op *op, struct img_dir *dir)
{
	dir->ring = pages_ring_free(dir->ring);
	dir->gate = gate_close(dir->gate);
	img_outs_free(dir);
	pack_pool_free(dir);
	blocks_out_free(dir);
	dir->summed.n = 0;
	/* Backwards: the inventory goes first. */
	for (size_t i = dir->made.n; i-- > 0;) {
		struct img_made *m = &dir->made.v[i];

		if (m->fd >= 0)
			close(m->fd);
		if (unlinkat(dir->fd, m->name, 0) < 0 && errno != ENOENT)
			log_warn(op, "cannot remove %s: %s", m->name, strerror(errno));
	}
	if (dir->link_made)
		unlinkat(dir->fd, "parent", 0);
	dir->link_made = false;
	dir->made.n = 0;
	dir->n_kept = 0;
	dir->bytes = 0;
}

struct img_dir *img_dir_close(struct img_dir *dir)
{
	if (!dir)
		return NULL;
	dir->ring = pages_ring_free(dir->ring);
	dir->gate = gate_close(dir->gate);
	img_outs_free(dir);
	pack_pool_free(dir);
	blocks_out_free(dir);
	pages_reader_free(dir);
	free(TAKE_PTR(dir->spare));
	for (size_t i = 0; i < dir->made.n; i++)
		if (dir->made.v[i].fd >= 0)
			close(dir->made.v[i].fd);
	dir->made.n = 0;
	if (dir->lock > 0) { /* nobody else can have it yet */
		unlinkat(dir->fd, RECEIVE_LOCK, 0);
		close(dir->lock);
	}
	dir->lock = -1;
	if (dir->fd >= 0) {
		flock(dir->fd, LOCK_UN); /* a child forked meanwhile may still hold the description */
		close(dir->fd);
	}
	dir->fd = -1;
	return NULL;
}

/* ---- receiving */

static bool is_hidden(const char *name)
{
	size_t len = strlen(name), tail = strlen(IMG_HIDDEN_SUFFIX);

	return name[0] == '.' && len > tail && strcmp(name + len - tail, IMG_HIDDEN_SUFFIX) == 0 &&
	       strncmp(name, ".pagemap-", strlen(".pagemap-")) == 0;
}

/* What a page server that was killed left would look like what this one has got. */
static int remove_hidden(struct op *op, struct img_dir *dir)
{
	_cleanup_(close_dir_p) DIR *d = NULL;
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;

	d = fd >= 0 ? fdopendir(fd) : NULL;
	if (!d) {
		close_fd_p(&fd);
		return op_errno(op, errno, NULL, "read images folder %s", folder_name(op));
	}
	while ((e = readdir(d)))
		if (is_hidden(e->d_name))
			unlinkat(dir->fd, e->d_name, 0);
	return 0;
}

/* A lock of its own: that of the folder belongs to a dump, which may write its part there meanwhile. */
static int lock_for_receiving(struct op *op, struct img_dir *dir)
{
	dir->lock = openat(dir->fd, RECEIVE_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (dir->lock < 0)
		return op_errno(op, errno, NULL, "images folder %s: lock it", folder_name(op));
	if (flock(dir->lock, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
		close(TAKE_FD(dir->lock));
		return op_fail(op, CKPT_E_BUSY, AT(.hint = "wait for it, or choose another folder"),
			       "images folder %s: another page server is writing to it", folder_name(op));
	}
	return 0;
}

int img_dir_receive(struct op *op, struct img_dir **ret)
{
	struct img_dir *dir;
	int r = open_folder(op, &dir);

	if (r < 0)
		return r;
	dir->lock = -1;
	r = check_vacant(op, dir);
	r = r ?: lock_for_receiving(op, dir);
	r = r ?: remove_hidden(op, dir);
	if (r < 0) {
		img_dir_close(dir);
		return r;
	}
	begin_writing(dir);
	*ret = dir;
	return 0;
}

static int reveal(struct op *op, struct img_dir *dir, char *name)
{
	char shown[IMG_NAME_MAX];

	if (!is_hidden(name))
		return 0;
	snprintf(shown, sizeof(shown), "%.*s", (int)(strlen(name) - 1 - strlen(IMG_HIDDEN_SUFFIX)), name + 1);
	if (renameat(dir->fd, name, dir->fd, shown) < 0)
		return op_errno(op, errno, NULL, "rename image %s", shown);
	strcpy(name, shown);
	return 0;
}

int img_dir_publish(struct op *op, struct img_dir *dir)
{
	int r = pages_settle(op, dir) ?: blocks_finish(op, dir) ?: sync_made(op, dir);

	for (size_t i = 0; i < dir->made.n && r == 0; i++)
		r = reveal(op, dir, dir->made.v[i].name);
	return r ?: sync_folder(op, dir);
}

/* ---- reading */

/* Names by which we mark what only we restore. */
static bool is_own(const char *plugin)
{
	static const char *const own[] = { IMG_OWN_SHARED_VM, IMG_OWN_SHARED_FS, IMG_OWN_IO_URING, IMG_OWN_SYSV_IPC,
					   IMG_OWN_MQUEUE, IMG_OWN_BELOW, IMG_OWN_NESTED_PIDNS,
					   IMG_OWN_PENDING, IMG_OWN_PACKED, IMG_OWN_NET_DEVICES, IMG_OWN_NET_FILTER };

	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		if (!strcmp(plugin, own[i]))
			return true;
	return false;
}

static bool has_plugin(const InventoryEntry *inv, const char *name)
{
	for (size_t i = 0; inv->plugins_entry && i < inv->plugins_entry->n_plugins; i++)
		if (!strcmp(inv->plugins_entry->plugins[i], name))
			return true;
	return false;
}

static int check_inventory(struct op *op, const InventoryEntry *inv)
{
	if (inv->img_version != 2)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image inventory.img: format version %u is not supported, only 2 is",
			       inv->img_version);
	if (inv->pre_dump_mode && inv->has_pre_dump_mode && !inv->root_ids)
		return op_fail(op, CKPT_E_IMAGE, NULL, "images folder %s holds a pre-dump, not a checkpoint",
			       folder_name(op));
	if (!inv->fdinfo_per_id || !inv->root_ids)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image inventory.img: %s is missing",
			       inv->root_ids ? "fdinfo_per_id" : "root_ids");
	for (size_t i = 0; inv->plugins_entry && i < inv->plugins_entry->n_plugins; i++)
		if (!is_own(inv->plugins_entry->plugins[i]))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "plugin"),
				       "the checkpoint was made with plugin \"%s\", which is not there",
				       inv->plugins_entry->plugins[i]);
	return 0;
}

int img_dir_sums(struct op *op, struct img_dir *dir)
{
	int r;

	if (dir->sums)
		return 0;
	r = sums_read(op, dir->fd, &dir->sums);
	if (r == IMG_ABSENT)
		log_debug(op, "there is no ckpt-sums: images are read without verification");
	return r == IMG_ABSENT ? 0 : r;
}

int img_dir_identify(struct op *op, struct img_dir *dir, InventoryEntry **inventory)
{
	ProtobufCMessage *msg;
	int r = op->opts->no_verify ? 0 : img_dir_sums(op, dir);

	r = r ?: img_read_one(op, dir, IMG_INVENTORY, 0, &msg);
	if (r)
		return r;
	*inventory = (InventoryEntry *)msg;
	dir->packed = has_plugin(*inventory, IMG_OWN_PACKED);
	return 0;
}

static int open_checkpoint(struct op *op, bool verify, struct img_dir **ret, InventoryEntry **inventory)
{
	struct img_dir *dir;
	ProtobufCMessage *msg;
	int r = open_folder(op, &dir);

	if (r < 0)
		return r;
	/* What was left by an unfinished dump is no damaged checkpoint. */
	if (verify && faccessat(dir->fd, "inventory.img", F_OK, 0) == 0)
		r = img_dir_sums(op, dir);
	r = r ?: img_read_one(op, dir, IMG_INVENTORY, 0, &msg);
	if (r == IMG_ABSENT)
		r = op_fail(op, CKPT_E_IMAGE, NULL, "images folder %s is not a checkpoint: it has no inventory.img",
			    folder_name(op));
	if (r == 0) {
		*inventory = (InventoryEntry *)msg;
		r = check_inventory(op, *inventory);
		dir->packed = r == 0 && has_plugin(*inventory, IMG_OWN_PACKED);
	}
	if (r < 0) {
		img_dir_close(dir);
		return r;
	}
	*ret = dir;
	return 0;
}

int img_dir_open(struct op *op, struct img_dir **ret, InventoryEntry **inventory)
{
	return open_checkpoint(op, false, ret, inventory);
}

int img_dir_open_verified(struct op *op, struct img_dir **ret, InventoryEntry **inventory)
{
	return open_checkpoint(op, !op->opts->no_verify, ret, inventory);
}

int img_dir_open_any(struct op *op, struct img_dir **ret)
{
	return open_folder(op, ret);
}

int img_dir_open_parent(struct op *op, const struct img_dir *child, struct img_dir **ret)
{
	struct img_dir *dir = op_new(op, struct img_dir);

	if (!dir)
		return CKPT_E_NOMEM;
	dir->fd = openat(child->fd, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0 && errno == ENOENT) {
		struct stat st;

		if (fstatat(child->fd, "parent", &st, AT_SYMLINK_NOFOLLOW) < 0)
			return IMG_ABSENT;
		return op_fail(op, CKPT_E_IMAGE, NULL, "the folder that the link parent leads to is not there");
	}
	if (dir->fd < 0)
		return op_errno(op, errno, NULL, "open the parent folder");
	*ret = dir;
	return 0;
}
