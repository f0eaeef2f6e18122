// SPDX-License-Identifier: MIT
/* Images of an IPC namespace that lie: each is refused as a damaged image before anything is made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>

#include "lib/state/file/core.h"
#include "lib/state/ipc/core.h"
#include "lib/state/mem/mem.h"

#define NS 9

struct env {
	char images[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	InventoryEntry inventory;
	TaskKobjIdsEntry root, ids;
	struct snap_task task;
	IpcDescEntry desc;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	strcpy(e->images, "/tmp/test-ipc-XXXXXX");
	if (!mkdtemp(e->images))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->images;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	inventory_entry__init(&e->inventory);
	task_kobj_ids_entry__init(&e->root);
	task_kobj_ids_entry__init(&e->ids);
	ipc_desc_entry__init(&e->desc);
	e->root.has_ipc_ns_id = e->ids.has_ipc_ns_id = 1;
	e->root.ipc_ns_id = 3;
	e->ids.ipc_ns_id = NS;
	e->inventory.root_ids = &e->root;
	e->task.pid = 100;
	e->task.ids = &e->ids;
	e->s.inventory = &e->inventory;
	e->s.tasks.v = &e->task;
	e->s.tasks.n = 1;
	e->desc.id = 5;
	e->desc.mode = 0600;
	*state = e;
	return img_dir_create(&e->op, &e->s.dir);
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

	ipc_done(&e->op, &e->s, false);
	img_dir_close(e->s.dir);
	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	nftw(e->images, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

static void write_var(struct env *e, size_t n_sem)
{
	uint32_t sem[8] = { 32000, 1024000000, 500, 32000 };
	IpcVarEntry m = IPC_VAR_ENTRY__INIT;

	m.n_sem_ctls = n_sem;
	m.sem_ctls = sem;
	assert_int_equal(img_write_one(&e->op, e->s.dir, IMG_IPC_VAR, NS, &m.base), 0);
}

static struct img_out *begin(struct env *e, enum img_kind kind)
{
	struct img_out *out;

	assert_int_equal(img_create(&e->op, e->s.dir, kind, NS, &out), 0);
	return out;
}

static void put(struct env *e, struct img_out *out, const ProtobufCMessage *m, const void *p, size_t n)
{
	assert_int_equal(img_write(&e->op, out, m), 0);
	if (n)
		assert_int_equal(img_write_payload(&e->op, out, p, n), 0);
}

static void is_bad(struct env *e, const char *word)
{
	int r = ipc_read(&e->op, &e->s);

	assert_int_equal(r, CKPT_E_IMAGE);
	assert_non_null(strstr(ckpt_err_message(e->op.err), word));
}

static void no_limits(void **state)
{
	is_bad(*state, "ipcns-var-9.img is missing");
}

static void few_limits(void **state)
{
	write_var(*state, 3);
	is_bad(*state, "3 limits");
}

static void put_sem(struct env *e, uint32_t nsems, size_t bytes)
{
	static const char zeroes[64];
	IpcSemEntry m = IPC_SEM_ENTRY__INIT;
	struct img_out *out = begin(e, IMG_IPCNS_SEM);

	write_var(e, 4);
	m.desc = &e->desc;
	m.nsems = nsems;
	put(e, out, &m.base, zeroes, bytes);
	assert_int_equal(img_close(&e->op, out), 0);
}

static void good_set(void **state)
{
	struct env *e = *state;

	put_sem(e, 5, 16);
	assert_int_equal(ipc_read(&e->op, &e->s), 0);
	assert_int_equal(e->s.ipc->sems.n, 1);
}

static void no_semaphores(void **state)
{
	put_sem(*state, 0, 0);
	is_bad(*state, "0 semaphores");
}

static void too_many_semaphores(void **state)
{
	put_sem(*state, UINT32_MAX, 16);
	is_bad(*state, "semaphores");
}

static void short_values(void **state)
{
	put_sem(*state, 20, 16);
	assert_true(ipc_read(&((struct env *)*state)->op, &((struct env *)*state)->s) < 0);
}

static void bad_id(void **state)
{
	struct env *e = *state;

	e->desc.id = UINT32_MAX;
	put_sem(e, 1, 8);
	is_bad(e, "makes no sense");
}

static void put_msg(struct env *e, uint32_t qnum, uint64_t type, uint32_t size)
{
	IpcMsgEntry q = IPC_MSG_ENTRY__INIT;
	IpcMsg m = IPC_MSG__INIT;
	struct img_out *out = begin(e, IMG_IPCNS_MSG);

	write_var(e, 4);
	q.desc = &e->desc;
	q.qbytes = 100;
	q.qnum = qnum;
	m.mtype = type;
	m.msize = size;
	put(e, out, &q.base, NULL, 0);
	put(e, out, &m.base, "12345678", 8);
	assert_int_equal(img_close(&e->op, out), 0);
}

static void good_queue(void **state)
{
	struct env *e = *state;

	put_msg(e, 1, 7, 3);
	assert_int_equal(ipc_read(&e->op, &e->s), 0);
	assert_int_equal(e->s.ipc->queues.n, 1);
	assert_memory_equal(e->s.ipc->queues.v[0]->texts.v[0], "123", 3);
}

static void missing_message(void **state)
{
	put_msg(*state, 2, 7, 3);
	is_bad(*state, "missing");
}

static void absurd_messages(void **state)
{
	put_msg(*state, UINT32_MAX, 7, 3);
	is_bad(*state, "messages");
}

static void no_type(void **state)
{
	put_msg(*state, 1, 0, 3);
	is_bad(*state, "makes no sense");
}

static void long_message(void **state)
{
	put_msg(*state, 1, 7, UINT32_MAX);
	is_bad(*state, "makes no sense");
}

static void put_shm(struct env *e, unsigned times, uint64_t size, uint32_t huge)
{
	IpcShmEntry m = IPC_SHM_ENTRY__INIT;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct img_out *out = begin(e, IMG_IPCNS_SHM);

	write_var(e, 4);
	m.desc = &e->desc;
	m.size = size;
	m.has_in_pagemaps = m.in_pagemaps = 1;
	m.has_hugetlb_flag = huge != 0;
	m.hugetlb_flag = huge;
	for (unsigned i = 0; i < times; i++)
		put(e, out, &m.base, NULL, 0);
	assert_int_equal(img_close(&e->op, out), 0);
	head.pages_id = 1;
	assert_int_equal(img_create(&e->op, e->s.dir, IMG_SHMEM_PAGEMAP, e->desc.id, &out), 0);
	put(e, out, &head.base, NULL, 0);
	assert_int_equal(img_close(&e->op, out), 0);
}

static void segment_twice(void **state)
{
	put_shm(*state, 2, 8192, 0);
	is_bad(*state, "twice");
}

static void no_size(void **state)
{
	put_shm(*state, 1, 0, 0);
	is_bad(*state, "no sense");
}

static void absurd_size(void **state)
{
	put_shm(*state, 1, UINT64_MAX, 0);
	is_bad(*state, "no sense");
}

static void absurd_pages(void **state)
{
	put_shm(*state, 1, 8192, 04000 | 63u << 26);
	is_bad(*state, "no sense");
}

/* Areas that are attachments of the segment, of 8 pages. */
static int check_areas(struct env *e, VmaEntry *v, size_t n)
{
	VmaEntry *list[4];
	MmEntry mm = MM_ENTRY__INIT;
	int r;

	put_shm(e, 1, 8 * PAGE_SIZE, 0);
	assert_int_equal(ipc_read(&e->op, &e->s), 0);
	for (size_t i = 0; i < n; i++)
		list[i] = &v[i];
	mm.vmas = list;
	mm.n_vmas = n;
	e->task.mm = &mm;
	r = ipc_check_attachments(&e->op, &e->s);
	e->task.mm = NULL;
	return r;
}

static VmaEntry area(uint64_t start, unsigned pages, uint64_t pgoff, uint64_t id)
{
	VmaEntry v = VMA_ENTRY__INIT;

	v.start = start;
	v.end = start + pages * PAGE_SIZE;
	v.pgoff = pgoff;
	v.shmid = id;
	v.status = VMA_REGULAR | VMA_ANON_SHARED | VMA_SYSVIPC;
	return v;
}

static void attached_in_parts(void **state)
{
	VmaEntry v[] = { area(0x10000, 2, 0, 5), area(0x14000, 4, 0x4000, 5), area(0x20000, 8, 0, 5) };

	assert_int_equal(check_areas(*state, v, 3), 0);
}

static void no_such_segment(void **state)
{
	VmaEntry v = area(0x10000, 2, 0, 6);

	assert_int_equal(check_areas(*state, &v, 1), CKPT_E_IMAGE);
}

static void before_the_beginning(void **state)
{
	VmaEntry v = area(0x10000, 2, 0x20000, 5);

	assert_int_equal(check_areas(*state, &v, 1), CKPT_E_IMAGE);
}

static void beyond_the_end(void **state)
{
	VmaEntry v = area(0x10000, 9, 0, 5);

	assert_int_equal(check_areas(*state, &v, 1), CKPT_E_IMAGE);
}

static void something_in_the_gap(void **state)
{
	VmaEntry v[] = { area(0x10000, 2, 0, 5), area(0x13000, 1, 0, 0), area(0x14000, 4, 0x4000, 5) };

	v[1].status = VMA_REGULAR | VMA_ANON_PRIVATE;
	assert_int_equal(check_areas(*state, v, 3), CKPT_E_UNSUPPORTED);
}

static void two_namespaces(void **state)
{
	struct env *e = *state;
	struct snap_task tasks[2] = { e->task, e->task };
	TaskKobjIdsEntry other = e->ids;

	write_var(e, 4);
	other.ipc_ns_id = 10;
	tasks[1].ids = &other;
	e->s.tasks.v = tasks;
	e->s.tasks.n = 2;
	assert_int_equal(ipc_read(&e->op, &e->s), CKPT_E_UNSUPPORTED);
	e->s.tasks.v = &e->task;
	e->s.tasks.n = 1;
}

static int read_mqueue(struct env *e, const char *name, uint64_t maxmsg, size_t n_messages, uint32_t priority, uint32_t file)
{
	CkptExtraEntry x = CKPT_EXTRA_ENTRY__INIT;
	MqueueEntry q = MQUEUE_ENTRY__INIT, *qs[] = { &q };
	MqueueMessage m = MQUEUE_MESSAGE__INIT, *ms[] = { &m, &m };
	MqueueFile f = MQUEUE_FILE__INIT, *fs[] = { &f };
	int r;

	q.name = (char *)name;
	q.maxmsg = maxmsg;
	q.msgsize = 4;
	q.n_messages = n_messages;
	q.messages = ms;
	m.priority = priority;
	f.file_id = file;
	q.files = fs;
	q.n_files = file != 0;
	x.mqueues = qs;
	x.n_mqueues = 1;
	e->s.extra = &x;
	r = file_mqueue.read(&e->op, &e->s);
	e->s.extra = NULL;
	if (e->s.ipc)
		e->s.ipc->mqueues.n = 0;
	op_forget(&e->op);
	return r;
}

static void queues_of_posix(void **state)
{
	assert_int_equal(read_mqueue(*state, "good", 2, 2, 5, 0), 0);
	assert_int_equal(read_mqueue(*state, "../bad", 2, 0, 0, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "..", 2, 0, 0, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "", 2, 0, 0, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "few", 1, 2, 0, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "absurd", UINT64_MAX, 0, 0, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "urgent", 2, 1, 32768, 0), CKPT_E_IMAGE);
	assert_int_equal(read_mqueue(*state, "nofile", 2, 0, 0, 77), CKPT_E_IMAGE);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(no_limits), TEST(few_limits), TEST(good_set), TEST(no_semaphores), TEST(too_many_semaphores), TEST(short_values),
		TEST(bad_id), TEST(good_queue), TEST(missing_message), TEST(absurd_messages), TEST(no_type), TEST(long_message),
		TEST(segment_twice), TEST(no_size), TEST(absurd_size), TEST(absurd_pages), TEST(attached_in_parts),
		TEST(no_such_segment), TEST(before_the_beginning), TEST(beyond_the_end), TEST(something_in_the_gap),
		TEST(two_namespaces), TEST(queues_of_posix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
