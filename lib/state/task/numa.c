/* SPDX-License-Identifier: MIT */
/* The memory policy of a thread: set_mempolicy(2). That of areas is in lib/state/mem/numa.c. */
#include <sys/syscall.h>

#include "lib/state/msg.h"
#include "lib/state/task/numa.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/task/task.h"

int numa_message(struct op *op, int32_t mode, const uint64_t *nodes, NumaPolicy **ret)
{
	NumaPolicy *p = msg_new(op, NumaPolicy, numa_policy);
	size_t n = PARASITE_NODE_WORDS;

	if (!p)
		return CKPT_E_NOMEM;
	while (n > 1 && !nodes[n - 1])
		n--;
	p->mode = (uint32_t)mode;
	p->nodes.len = n * sizeof(*nodes);
	p->nodes.data = arena_memdup(op->arena, nodes, p->nodes.len);
	*ret = p;
	return p->nodes.data ? 0 : op_nomem(op);
}

int numa_nodes(struct op *op, pid_t pid, const NumaPolicy *p, uint64_t *nodes)
{
	memset(nodes, 0, PARASITE_NODE_WORDS * sizeof(*nodes));
	if (p->nodes.len > PARASITE_NODE_WORDS * sizeof(*nodes))
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = pid, .kind = "NUMA policy"),
			       "a memory policy of task %d names %zu bytes of nodes", pid, p->nodes.len);
	if (p->nodes.len)
		memcpy(nodes, p->nodes.data, p->nodes.len);
	return 0;
}

int numa_dump(struct op *op, const struct parasite_args *a, ThreadExtra *x)
{
	return a->mempolicy_result < 0 ? 0 : numa_message(op, a->mempolicy, a->nodes, &x->mempolicy);
}

int plan_numa(struct plan_build *b, size_t thread)
{
	const ThreadExtra *x = b->task->threads.v[thread].extra;
	uint64_t own[PARASITE_NODE_WORDS] = { 0 }, nodes[PARASITE_NODE_WORDS], at;
	int mode = 0, r;

	if (!x->mempolicy)
		return 0;
	r = numa_nodes(b->op, b->task->pid, x->mempolicy, nodes);
	if (r)
		return r;
	if (syscall(__NR_get_mempolicy, &mode, own, NUMA_MAX_NODE, 0, 0) < 0 && !x->mempolicy->mode)
		return 0; /* a kernel without NUMA */
	if (mode == (int)x->mempolicy->mode && !memcmp(own, nodes, sizeof(own)))
		return 0;
	r = plan_put(b, nodes, sizeof(nodes), &at);
	/* The nodes may be others here: as with processors, it then runs where it may. */
	r = r ?: plan_thread_call(b, thread, &(struct plan_call){
		.nr = __NR_set_mempolicy, .flags = PLAN_CALL_MAY_FAIL, .data_args = 1 << 1,
		.args = { x->mempolicy->mode, at, NUMA_MAX_NODE },
	}, "memory policy (set_mempolicy)");
	return MIN(r, 0);
}
