/* SPDX-License-Identifier: MIT */
/*
 * Memory protection keys: which are allocated, and which area has which. What a key allows is in a register of each thread.
 *
 * The kernel gives an area that is only executable a key that nobody allocated, the first free one. Numbers come out the
 * same when all keys up to the highest are allocated in order, and those that were free are given back.
 */
#include <sys/mman.h>

#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/uapi.h"
#include "lib/state/mem/areas.h"
#include "lib/state/msg.h"

#define MAX_KEY 15u

static bool is_only_executable(const struct proc_vma *v)
{
	return strncmp(v->perms, "--x", 3) == 0;
}

int pkeys_dump(struct op *op, struct task_dump *d)
{
	TaskExtra *x = d->task->extra;
	size_t cap = 0;

	for (size_t i = 0; i < d->maps->vmas.n; i++) {
		const struct proc_vma *v = &d->maps->vmas.v[i];
		AreaKey *k;

		if (!v->protection_key)
			continue;
		k = msg_new(op, AreaKey, area_key);
		if (!k || (x->n_area_keys == cap &&
			   arena_grow(op->arena, (void **)&x->area_keys, &cap, x->n_area_keys, sizeof(*x->area_keys))))
			return op_nomem(op);
		k->start = v->start;
		k->end = v->end;
		k->key = v->protection_key;
		if (is_only_executable(v))
			msg_set(k, only_executable, 1);
		x->area_keys[x->n_area_keys++] = k;
	}
	return 0;
}

static bool is_allocated(const TaskExtra *x, uint32_t key)
{
	return x->has_pkeys && (x->pkeys >> key & 1);
}

/* The kernel's own key for areas that are only executable: none that the program has. */
static bool is_kernels(const TaskExtra *x, const AreaKey *k)
{
	return k->has_only_executable && k->only_executable && !is_allocated(x, k->key);
}

static struct plan_vma *area_of(struct plan_build *b, const AreaKey *k)
{
	struct plan_vma *v = areas_planned(b, k->start);

	return v && k->end > k->start && k->end <= v->start + v->len ? v : NULL;
}

/* Readable for the time being, so that the kernel does not pick its key when it is mapped. */
static void map_readable(struct plan_build *b, const AreaKey *k)
{
	struct plan_vma *v = area_of(b, k);

	v->prot |= PROT_READ;
	v->final_prot |= PROT_READ;
}

static int check_keys(struct plan_build *b, const TaskExtra *x, uint32_t *used, uint32_t *kernels)
{
	*used = x->has_pkeys ? x->pkeys & ~1u : 0;
	*kernels = 0;
	for (size_t i = 0; i < x->n_area_keys; i++) {
		const AreaKey *k = x->area_keys[i];

		if (k->key < 1 || k->key > MAX_KEY || !area_of(b, k) ||
		    (is_kernels(x, k) && *kernels && *kernels != k->key))
			return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = k->start, .kind = "protection key"),
				       "protection key %u of the area at %#lx of task %d makes no sense in the image", k->key,
				       k->start, b->task->pid);
		if (is_kernels(x, k))
			*kernels = k->key;
		*used |= 1u << k->key;
	}
	if (*used >> (MAX_KEY + 1))
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "protection key"),
			       "the protection keys of task %d make no sense in the image", b->task->pid);
	return 0;
}

static int simple_call(struct plan_build *b, uint32_t nr, uint32_t flags, uint64_t arg, int64_t expect, const char *what)
{
	return MIN(plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = nr, .flags = flags, .args = { arg }, .expect = expect },
			     what), 0);
}

static int allocate(struct plan_build *b, uint32_t used)
{
	uint32_t highest = 31u - (uint32_t)__builtin_clz(used);
	int r = 0;

	for (uint32_t key = 1; key <= highest && !r; key++)
		r = simple_call(b, __NR_pkey_alloc, PLAN_CALL_EXPECT, 0, key,
				"allocate a memory protection key, which not every processor has");
	return r;
}

/* Those that only filled the row, and those whose program gave them back while areas had them. */
static int give_back(struct plan_build *b, const TaskExtra *x, uint32_t used, uint32_t kernels)
{
	uint32_t highest = 31u - (uint32_t)__builtin_clz(used);
	int r = 0;

	for (uint32_t key = 1; key <= highest && !r; key++)
		if (!is_allocated(x, key) && key != kernels)
			r = simple_call(b, __NR_pkey_free, 0, key, 0, "give back a memory protection key");
	return r;
}

int pkeys_plan(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	uint32_t used, kernels;
	int r = check_keys(b, x, &used, &kernels);

	if (r || !used)
		return r;
	/* Without keys what can only be executed can be read as well, but the program has none of its own to miss. */
	if (used == 1u << kernels && !x86_has_protection_keys())
		return 0;
	r = allocate(b, used);
	if (!r && kernels)
		r = simple_call(b, __NR_pkey_free, 0, kernels, 0, "give back a memory protection key");
	for (size_t i = 0; i < x->n_area_keys && !r; i++) {
		const AreaKey *k = x->area_keys[i];

		if (is_kernels(x, k)) {
			map_readable(b, k);
			r = areas_call(b, PLAN_MEMORY, __NR_mprotect, 0, k->start, k->end, (const uint64_t[4]){ PROT_EXEC },
				       "make it only executable");
		} else {
			r = areas_call(b, PLAN_MEMORY, __NR_pkey_mprotect, 0, k->start, k->end,
				       (const uint64_t[4]){ area_of(b, k)->final_prot, k->key }, "give it its protection key");
		}
	}
	return r ?: give_back(b, x, used, kernels);
}
