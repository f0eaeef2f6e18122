/* SPDX-License-Identifier: MIT */
/*
 * Puts the plans together, each into a memfd that the process will map and we have mapped; and the restorer into another.
 *
 * A process runs in its own area from the moment it is forked, beside that of its creator, whose copy it still is: so the
 * areas of two that follow each other are at two places, and those of processes that share an address space at places of
 * their own. All of them are in a stretch of addresses that is free in every task.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mman.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/depot.h"
#include "lib/kernel/features.h"
#include "lib/kernel/sys.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/mem/restore_inherit.h"
#include "lib/state/ns/ns.h"
#include "lib/state/ns/nested.h"

extern const char blob_restorer_start[], blob_restorer_end[];
#define BLOB_LEN ((size_t)(blob_restorer_end - blob_restorer_start))
#define ZONE_MARGIN (64u << 10)
#define SCRATCH_ALIGN (2ull << 20)

static int new_memfd(struct op *op, const char *name)
{
	int fd = sys_memfd_create(name, MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = sys_memfd_create(name, MFD_CLOEXEC);
	return fd >= 0 ? fd : op_errno(op, errno, NULL, "memfd_create");
}

static int write_at(struct op *op, int fd, const void *p, size_t n, uint64_t off)
{
	const char *c = p;

	while (n) {
		ssize_t w = pwrite(fd, c, n, (off_t)off);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return op_errno(op, errno, NULL, "write the plan of the restore");
		c += w;
		off += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

/* A file that is open for writing cannot be executed: opened again for reading. */
int restore_make_elf(struct op *op, struct restore *r)
{
	_cleanup_close_ int fd = new_memfd(op, "ckpt-restorer");
	char path[32];
	int ret;

	if (fd < 0)
		return fd;
	ret = write_at(op, fd, blob_restorer_start, BLOB_LEN, 0);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r->elf_fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->elf_fd >= 0 ? 0 : op_errno(op, errno, NULL, "open the restorer again");
}

/* ------------------------------------------------------------------------------------------- what is in a plan */

struct snap_task *restore_memory_from(struct restore *r, const struct tree_node *n)
{
	while (n->creator != TREE_NONE) {
		n = &r->tree.nodes.v[n->creator];
		if (n->kind != TREE_STEP)
			return n->task == TREE_NONE ? NULL : &r->s.tasks.v[n->task];
	}
	return NULL;
}

static pid_t join_of(const struct restore *r, const struct tree_node *n)
{
	/* What was outside is where the caller is; the others were born there. */
	return n == &r->tree.nodes.v[0] && n->join == r->tree.outside_pgid ? 0 : n->join;
}

/* Above all numbers that the tree is to have. */
static pid_t step_pid(const struct restore *r)
{
	pid_t highest = 0;

	for (size_t i = 0; i < r->n_tasks; i++) {
		highest = MAX(highest, r->tasks[i].node->pid);
		for (size_t k = 0; r->tasks[i].task && k < r->tasks[i].task->threads.n; k++)
			highest = MAX(highest, r->tasks[i].task->threads.v[k].tid);
	}
	return highest + 1;
}

/* In a PID namespace below the root task's a process has more numbers than one; its init makes that. */
static int fill_numbers(struct new_task *t, struct new_task *k, struct plan_child *c)
{
	int32_t v[NESTED_MAX + 1];
	size_t n = k->node->pid ? nested_numbers(&t->r->s, k->node->pid, v) : 1;

	k->own_number = n > 1 ? v[0] : k->node->pid;
	if (n > 1 && (!t->task || t->node->kind == TREE_STEP || k->node->as_sibling))
		return op_fail(t->build.op, CKPT_E_UNSUPPORTED, AT(.pid = k->node->pid, .kind = "namespace"),
			       "process %d of a nested PID namespace cannot be made again: its parent did not fork it", k->node->pid);
	if (n > 1 && k->node->kind == TREE_TASK && nested_is_init(&t->r->s, k->node->pid))
		c->flags |= CLONE_NEWPID;
	if (n == 1 && t->task && nested_seen(&t->r->s, t->task, t->task->pid) != t->task->pid)
		return op_fail(t->build.op, CKPT_E_UNSUPPORTED, AT(.pid = k->node->pid, .kind = "namespace"),
			       "process %d of a nested PID namespace cannot be made again: its numbers are not known", k->node->pid);
	return n > 1 ? plan_put_array(&t->build, v, n, sizeof(*v), &c->tids) : 0;
}

static int fill_place(struct new_task *t)
{
	struct plan_build *b = &t->build;
	struct plan_child *v = op_alloc(b->op, (t->n_kids + 1) * sizeof(*v));
	int32_t *helpers = op_alloc(b->op, (t->n_kids + 1) * sizeof(*helpers));
	struct plan_array children, awaited;
	bool late_session = false;
	size_t n = 0;
	int r;

	if (!v || !helpers)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->n_kids; i++) {
		const struct tree_node *k = t->kids[i]->node;

		v[i] = (struct plan_child){
			.pid = k->kind == TREE_STEP ? step_pid(t->r) : k->pid, .when = k->when, .flags = k->shares | (k->as_sibling ? CLONE_PARENT : 0),
			.await = k->kind == TREE_STEP,
		};
		r = fill_numbers(t, t->kids[i], &v[i]);
		if (r)
			return r;
		late_session = late_session || k->when == TREE_LATE_OUTSIDE;
		if (k->kind == TREE_LEADER)
			helpers[n++] = nested_seen(&t->r->s, t->task, k->pid);
	}
	r = plan_put_array(b, v, t->n_kids, sizeof(*v), &children);
	r = r ?: plan_put_array(b, helpers, n, sizeof(*helpers), &awaited);
	if (r)
		return r;
	PLAN(b)->children = children;
	PLAN(b)->helpers = awaited;
	PLAN(b)->late_session = late_session;
	PLAN(b)->become = t->node == &t->r->tree.nodes.v[0] && ns_own(&t->r->s, NS_USER);
	ns_user_first(&t->r->s, &PLAN(b)->become_uid, &PLAN(b)->become_gid);
	PLAN(b)->setsid = t->node->setsid;
	PLAN(b)->leads_group = t->node->leads_group;
	PLAN(b)->join = nested_seen(&t->r->s, t->task, join_of(t->r, t->node));
	PLAN(b)->kind = t->node->kind == TREE_TASK ? PLAN_TASK : t->node->kind == TREE_STEP ? PLAN_FORKS : PLAN_ENDS;
	if (t->node->kind == TREE_ZOMBIE) {
		const TaskCoreEntry *tc = t->task->threads.v[0].core->tc;

		PLAN(b)->end = (int32_t)tc->exit_code;
		snprintf(PLAN(b)->comm, sizeof(PLAN(b)->comm), "%s", tc->comm);
	}
	return 0;
}

/* Faults of the kernel are for root of the machine, or for who has this device open. Without it the task will say so. */
static int fetch_uffd_device(struct plan_build *b)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return fd < 0 ? 0 : plan_fetch(b, fd, true, &PLAN(b)->uffd_device);
}

static int fill_task(struct new_task *t)
{
	struct plan_build *b = &t->build;
	struct restore *r = t->r;
	int ret = 0;

	b->shares_memory = t->node->shares & CLONE_VM;
	b->shares_files = t->node->shares & CLONE_FILES;
	b->memory_from = t->node->inherits ? restore_memory_from(r, t->node) : NULL;
	PLAN(b)->shares_memory = b->shares_memory;
	PLAN(b)->shares_files = b->shares_files;
	PLAN(b)->shares_folders = !!(t->node->shares & CLONE_FS);
	PLAN(b)->shares_actions = !!(t->node->shares & CLONE_SIGHAND);
	PLAN(b)->lazy = r->lazy && !b->shares_memory;
	if (!b->shares_memory)
		ret = plan_memory(b) ?: plan_vdso(b);
	ret = ret ?: ns_plan(b);
	ret = ret ?: plan_task(b);
	if (!ret && PLAN(b)->lazy && ns_own(&r->s, NS_USER))
		ret = fetch_uffd_device(b);
	if (!ret && t->node == &r->tree.nodes.v[0] && ns_own(&r->s, NS_TIME) && ns_own(&r->s, NS_TIME)->joined)
		ret = plan_fetch(b, ns_own(&r->s, NS_TIME)->fd, false, &PLAN(b)->time_ns);
	ret = ret ?: cgroups_plan(b);
	if (ret)
		return ret;
	PLAN(b)->restore_ids = PLAN(b)->timers.n && feature_has(b->op->features, FEATURE_TIMER_CR_IDS);
	if (r->last_pid_fd >= 0) {
		if (b->shares_files)
			return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = t->task->pid, .kind = "process tree"),
				       "task %d shares its descriptor table, which needs clone3 with set_tid", t->task->pid);
		ret = plan_fetch(b, r->last_pid_fd, false, &PLAN(b)->last_pid_file);
	}
	return ret;
}

static int fill(struct op *op, struct new_task *t)
{
	struct plan_build *b = &t->build;
	int ret = plan_begin(b, op, &t->r->s, t->task, &t->r->host);

	ret = ret ?: fill_place(t);
	if (!ret && t->node->kind == TREE_TASK)
		ret = fill_task(t);
	if (!ret && t->node->kind != TREE_TASK && t->r->last_pid_fd >= 0)
		ret = plan_fetch(b, t->r->last_pid_fd, false, &PLAN(b)->last_pid_file);
	PLAN(b)->engine_fd = t->r->source_fd;
	return ret;
}

/* Descriptors: of all tasks in order, for who comes first opens what only a task can. */
static int fill_files(struct new_task *t)
{
	return t->node->kind == TREE_TASK ? plan_files(&t->build) : 0;
}

/* --------------------------------------------------------------------------------------------- where it lies */

static uint64_t parking_room(const struct plan_build *b)
{
	const struct plan_vdso_area *a = PLAN_AT(PLAN(b), struct plan_vdso_area, PLAN(b)->vdso);
	uint64_t n = PLAN(b)->vdso.n;

	return n ? (uint64_t)(a[n - 1].off - a[0].off) + a[n - 1].len : 0;
}

static void lay_out(struct new_task *t)
{
	struct plan_build *b = &t->build;
	uint64_t at;

	t->plan_off = ALIGN_UP(BLOB_LEN, PAGE_SIZE);
	t->plan_len = ALIGN_UP(b->len, PAGE_SIZE);
	at = t->plan_off + t->plan_len;
	PLAN(b)->stacks = at;
	at += PLAN_MAIN_STACK + (t->n_threads ? t->n_threads - 1 : 0) * PLAN_THREAD_STACK;
	PLAN(b)->child_stacks = at;
	at = ALIGN_UP(at + t->n_kids * PLAN_CHILD_STACK, PAGE_SIZE);
	PLAN(b)->bounce = b->inherited.n ? at : 0;
	at += b->inherited.n ? PLAN_BOUNCE : 0;
	PLAN(b)->map_len = at + PLAN_SCRATCH;
	PLAN(b)->area_len = PLAN(b)->map_len + parking_room(b);
	if (PLAN(b)->fill.scratch_len)
		PLAN(b)->area_len += PLAN(b)->fill.scratch_len + SCRATCH_ALIGN;
}

static uint64_t zone_of(const struct new_task *t, uint64_t *own)
{
	return t->node->shares & CLONE_VM ? 2 + (*own)++ : t->node->depth % 2;
}

static int place_all(struct op *op, struct restore *r)
{
	uint64_t zone = 0, zones = r->n_tasks > 1 ? 2 : 1, own = 0, start;
	int ret;

	for (size_t i = 0; i < r->n_tasks; i++) {
		lay_out(&r->tasks[i]);
		zone = MAX(zone, PLAN(&r->tasks[i].build)->area_len);
		zones += !!(r->tasks[i].node->shares & CLONE_VM);
	}
	zone = ALIGN_UP(zone + ZONE_MARGIN, PAGE_SIZE);
	ret = plan_find_area(op, &r->s, zones * zone, &start);
	for (size_t i = 0; i < r->n_tasks && !ret; i++) {
		struct plan_build *b = &r->tasks[i].build;

		PLAN(b)->base = start + zone_of(&r->tasks[i], &own) * zone;
		pages_place(b, ALIGN_UP(PLAN(b)->base + PLAN(b)->map_len + parking_room(b), SCRATCH_ALIGN));
		inherit_keep_area(b);
	}
	return ret;
}

static uint32_t barriers(const struct restore *r)
{
	uint32_t bits = r->n_tasks > 1 ? PLAN_BARRIER_TREE | PLAN_BARRIER_OPEN : 0;
	bool joins = r->tree.helpers;

	if (r->lazy)
		bits |= PLAN_BARRIER_TREE;

	for (size_t i = 0; i < r->n_tasks; i++)
		joins = joins || (r->tasks[i].node->leads_group && r->tasks[i].node->join);
	return joins ? bits | PLAN_BARRIER_JOINED : bits;
}

/* What a process has to know of its children's plans. */
static void tell_of_kids(struct new_task *t)
{
	struct plan_build *b = &t->build;
	struct plan_child *v = PLAN_AT(PLAN(b), struct plan_child, PLAN(b)->children);

	for (size_t i = 0; i < t->n_kids; i++) {
		const struct new_task *k = t->kids[i];

		v[i].plan_fd = k->plan_fd;
		v[i].base = PLAN(&k->build)->base;
		v[i].map_len = PLAN(&k->build)->map_len;
		v[i].plan_off = k->plan_off;
	}
}

static int make_memfd(struct op *op, struct new_task *t)
{
	t->plan_fd = new_memfd(op, "ckpt-plan");
	if (t->plan_fd < 0)
		return t->plan_fd;
	if (ftruncate(t->plan_fd, (off_t)PLAN(&t->build)->map_len) < 0)
		return op_errno(op, errno, NULL, "size the plan of the restore");
	return 0;
}

static int write_plan(struct op *op, struct new_task *t, uint64_t syscall_off)
{
	struct plan_build *b = &t->build;
	int ret = write_at(op, t->plan_fd, blob_restorer_start, BLOB_LEN, 0);

	PLAN(b)->barriers = barriers(t->r);
	ret = ret ?: write_at(op, t->plan_fd, b->buf, b->len, t->plan_off);
	if (ret)
		return ret;
	t->plan = mmap(NULL, t->plan_len, PROT_READ | PROT_WRITE, MAP_SHARED, t->plan_fd, (off_t)t->plan_off);
	if (t->plan == MAP_FAILED) {
		t->plan = NULL;
		return op_errno(op, errno, NULL, "map the plan of the restore");
	}
	t->syscall_at = PLAN(b)->base + syscall_off;
	return 0;
}

static int find_syscall(struct op *op, uint64_t *off)
{
	const char *at = memmem(blob_restorer_start, BLOB_LEN, "\x0f\x05", 2);

	*off = at ? (uint64_t)(at - blob_restorer_start) : 0;
	return at ? 0 : op_fail(op, CKPT_E_INTERNAL, NULL, "the restorer makes no system calls");
}

static void make_argv(struct restore *r)
{
	const struct new_task *root = &r->tasks[0];

	snprintf(r->argv[0], sizeof(r->argv[0]), "%d", root->plan_fd);
	snprintf(r->argv[1], sizeof(r->argv[1]), "%lu", PLAN(&root->build)->base);
	snprintf(r->argv[2], sizeof(r->argv[2]), "%lu", PLAN(&root->build)->map_len);
	snprintf(r->argv[3], sizeof(r->argv[3]), "%lu", root->plan_off);
}

#define EACH_TASK(r, ret, t) for (struct new_task *t = (r)->tasks; t < (r)->tasks + (r)->n_tasks && !ret; t++)

/* Who lives in a user namespace may not take anything from a process outside. */
static int open_source(struct op *op, struct restore *r)
{
	const struct snap_ns *user = ns_own(&r->s, NS_USER);

	if (user && !user->joined)
		return depot_open(op, user->fd, &r->depot, &r->source_fd);
	r->source_fd = sys_pidfd_open(getpid(), 0);
	return r->source_fd >= 0 ? 0 : op_errno(op, errno, NULL, "open a pidfd for ourselves");
}

int restore_plan(struct op *op, struct restore *r)
{
	uint64_t syscall_off;
	int ret = find_syscall(op, &syscall_off);

	ret = ret ?: plan_host_look(op, &r->host);
	ret = ret ?: open_source(op, r);
	EACH_TASK(r, ret, t)
		ret = fill(op, t) ?: op_check_cancel(op);
	EACH_TASK(r, ret, t)
		ret = fill_files(t);
	EACH_TASK(r, ret, t)
		ret = (t->node->kind == TREE_TASK ? plan_props(&t->build) : 0) ?: plan_finish(&t->build);
	ret = ret ?: place_all(op, r);
	EACH_TASK(r, ret, t)
		ret = make_memfd(op, t);
	EACH_TASK(r, ret, t)
		tell_of_kids(t);
	EACH_TASK(r, ret, t) {
		ret = write_plan(op, t, syscall_off);
		r->n_pages += t->build.pieces.n_pages - t->build.n_lazy_pages;
	}
	op_bytes_total(op, r->n_pages * PAGE_SIZE);
	if (!ret)
		make_argv(r);
	return ret;
}

void restore_plan_done(struct restore *r)
{
	int none = 0;

	EACH_TASK(r, none, t) {
		plan_free(&t->build);
		if (t->plan)
			munmap(t->plan, t->plan_len);
		t->plan = NULL;
		close_fd_p(&t->plan_fd);
		t->plan_fd = -1;
	}
	close_fd_p(&r->elf_fd);
	close_fd_p(&r->self_pidfd);
	close_fd_p(&r->source_fd);
	depot_close(r->depot);
	r->depot = NULL;
	close_fd_p(&r->last_pid_fd);
	close_fd_p(&r->pidfd);
	r->elf_fd = r->self_pidfd = r->source_fd = r->last_pid_fd = r->pidfd = -1;
}
