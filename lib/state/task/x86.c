/* SPDX-License-Identifier: MIT */
/*
 * What an x86 process has besides registers: a local descriptor table, the permission to use components of the processor
 * state that have to be asked for (AMX), tagged addresses. Ports (ioperm) are refused.
 */
#include <asm/ldt.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "lib/kernel/sys.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/task/task.h"

#define LDT_WRITE 0x11
#define FIRST_ASKED_FOR 18 /* AMX tile data; the components below come without asking */

/* ------------------------------------------------------------------------------------------------------ dump */

static int ldt_dump(struct op *op, struct task_dump *d)
{
	struct parasite_args *a = op_new(op, struct parasite_args);
	uint64_t *all = op_alloc(op, PARASITE_LDT_MAX * sizeof(*all));
	size_t n = PARASITE_LDT_MAX;

	if (!a || !all)
		return CKPT_E_NOMEM;
	for (int at = 0; at < PARASITE_LDT_MAX; at += PARASITE_LDT_WORDS) {
		int r;

		*a = (struct parasite_args){ .what = PARASITE_LDT, .ldt_first = at };
		r = parasite_run(op, d->target, &d->target->threads.v[0], d->parasite, a);
		if (r)
			return r;
		if (a->ldt_result < 0)
			return op_errno(op, (int)-a->ldt_result, AT(.pid = d->task->host, .kind = "LDT"),
					"read the local descriptor table of task %d", d->task->host);
		memcpy(all + at, a->ldt, sizeof(a->ldt));
	}
	while (n && !all[n - 1])
		n--;
	d->task->extra->has_ldt = n > 0;
	d->task->extra->ldt.len = n * sizeof(*all);
	d->task->extra->ldt.data = (uint8_t *)all;
	return 0;
}

int x86_dump_task(struct op *op, struct task_dump *d, const struct parasite_args *a)
{
	TaskExtra *x = d->task->extra;

	if (a->xcomp_result == 0)
		msg_set(x, xcomp_perm, a->xcomp_perm);
	if (!d->task->mm)
		return 0;
	if (a->untag_result == 0 && ~a->untag_mask)
		msg_set(x, tag_bits, (uint32_t)__builtin_popcountll(~a->untag_mask));
	return a->ldt_result > 0 ? ldt_dump(op, d) : 0;
}

int x86_check_thread(struct op *op, const struct tracee *tr)
{
	uint8_t bitmap[8192];
	struct iovec iov = { bitmap, sizeof(bitmap) };

	if (ptrace(PTRACE_GETREGSET, tr->tid, NT_386_IOPERM, &iov) < 0 || !iov.iov_len)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = tr->tid, .kind = "I/O ports", .hint = "give them back with ioperm(2) for the checkpoint"),
		       "thread %d may use I/O ports of the machine (ioperm)", tr->tid);
}

/* --------------------------------------------------------------------------------------------------- restore */

static struct user_desc to_user_desc(uint32_t entry, uint64_t v)
{
	uint32_t type = v >> 40 & 15;

	return (struct user_desc){
		.entry_number = entry,
		.base_addr = (uint32_t)((v >> 16 & 0xffffff) | v >> 56 << 24),
		.limit = (uint32_t)((v & 0xffff) | (v >> 48 & 15) << 16),
		.seg_32bit = v >> 54 & 1,
		.contents = type >> 2,
		.read_exec_only = !(type >> 1 & 1),
		.limit_in_pages = v >> 55 & 1,
		.seg_not_present = !(v >> 47 & 1),
		.useable = v >> 52 & 1,
	};
}

static int plan_ldt(struct plan_build *b, const TaskExtra *x)
{
	size_t n = x->ldt.len / sizeof(uint64_t);
	int r = 0;

	if (x->ldt.len % sizeof(uint64_t) || n > PARASITE_LDT_MAX)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "LDT"),
			       "the local descriptor table of task %d has %zu bytes in the image", b->task->pid, x->ldt.len);
	for (size_t i = 0; i < n && !r; i++) {
		struct user_desc u;
		uint64_t v, at;

		memcpy(&v, x->ldt.data + i * sizeof(v), sizeof(v));
		if (!v)
			continue;
		u = to_user_desc((uint32_t)i, v);
		r = plan_put(b, &u, sizeof(u), &at);
		r = r ?: MIN(plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = __NR_modify_ldt, .data_args = 1 << 1,
			.args = { LDT_WRITE, at, sizeof(u) } }, "an entry of the local descriptor table (modify_ldt)"), 0);
	}
	return r;
}

static int plan_xcomp(struct plan_build *b, const TaskExtra *x)
{
	unsigned long here = 0;
	int r = 0;

	if (!x->has_xcomp_perm || !(x->xcomp_perm >> FIRST_ASKED_FOR))
		return 0;
	sys_arch_prctl(ARCH_GET_XCOMP_SUPP, (unsigned long)&here);
	for (uint64_t bit = FIRST_ASKED_FOR; bit < 64 && !r; bit++) {
		if (!(x->xcomp_perm >> bit & 1))
			continue;
		if (!(here >> bit & 1))
			return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .kind = "processor state"),
				       "task %d may use component %lu of the processor state%s, which is not to be had here",
				       b->task->pid, bit, bit == FIRST_ASKED_FOR ? " (AMX)" : "");
		r = MIN(plan_call(b, PLAN_MEMORY, &(struct plan_call){ .nr = __NR_arch_prctl, .args = { ARCH_REQ_XCOMP_PERM, bit } },
				  "permission to use AMX"), 0);
	}
	return r;
}

int x86_plan_task(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	int r = plan_xcomp(b, x);

	if (!r && !b->shares_memory)
		r = plan_ldt(b, x);
	if (!r && !b->shares_memory && x->has_tag_bits)
		r = MIN(plan_call(b, PLAN_MEMORY,
				  &(struct plan_call){ .nr = __NR_arch_prctl, .args = { ARCH_ENABLE_TAGGED_ADDR, x->tag_bits } },
				  "tagged addresses (ARCH_ENABLE_TAGGED_ADDR)"), 0);
	return r;
}
