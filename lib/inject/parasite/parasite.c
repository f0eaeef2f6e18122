/* SPDX-License-Identifier: MIT */
/* The code that runs inside a stopped thread. Freestanding, position independent, no data but the area it is given. */
#include "lib/inject/parasite/parasite.h"

#include <stddef.h>
#include <asm/unistd.h>

#define PR_GET_PDEATHSIG 2
#define PR_GET_DUMPABLE 3
#define PR_GET_SECUREBITS 27
#define PR_GET_TIMERSLACK 30
#define PR_MCE_KILL_GET 34
#define PR_GET_CHILD_SUBREAPER 37
#define PR_GET_TID_ADDRESS 40
#define PR_GET_THP_DISABLE 42
#define PR_GET_IO_FLUSHER 58
#define PR_GET_TSC 25
#define PR_GET_SPECULATION_CTRL 52
#define PR_GET_MDWE 66
#define PR_GET_MEMORY_MERGE 68
#define ARCH_GET_CPUID 0x1011
#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_GET_UNTAG_MASK 0x4001
#define KEYCTL_READ 11
#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22
#define MADV_DONTNEED 4
#define MEMBARRIER_CMD_GET_REGISTRATIONS 512
#define MPOL_F_ADDR 2
#define KERNEL_ADDRESS 0xffff800000000000ull
#define ENOMEM 12
#define SIGKILL 9
#define SIGSTOP 19

static inline int64_t call5(int64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	int64_t ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}
#define call(nr, a, b, c, d) call5(nr, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), 0)

struct kernel_stack {
	uint64_t sp;
	int32_t flags, pad;
	uint64_t size;
};

static void collect_thread(struct parasite_args *a)
{
	struct kernel_stack ss = { 0 };
	uint64_t list[2];

	a->tid_address = call(__NR_prctl, PR_GET_TID_ADDRESS, &a->tid_address_value, 0, 0);
	a->sas_result = call(__NR_sigaltstack, 0, &ss, 0, 0);
	a->ss_sp = ss.sp;
	a->ss_flags = (uint32_t)ss.flags;
	a->ss_size = ss.size;
	a->pdeath_result = call(__NR_prctl, PR_GET_PDEATHSIG, &a->pdeath_signal, 0, 0);
	a->securebits = call(__NR_prctl, PR_GET_SECUREBITS, 0, 0, 0);
	a->timerslack = call(__NR_prctl, PR_GET_TIMERSLACK, 0, 0, 0);
	a->mce_kill = call(__NR_prctl, PR_MCE_KILL_GET, 0, 0, 0);
	for (int which = 0; which < 3; which++)
		a->speculation[which] = call(__NR_prctl, PR_GET_SPECULATION_CTRL, which, 0, 0);
	for (int which = 0; which < 2; which++) /* KEY_SPEC_THREAD_KEYRING is -1, ..._PROCESS_... -2; none is made */
		a->keyrings[which] = call(__NR_keyctl, KEYCTL_READ, -1 - which, 0, 0);
	if (a->peer)
		a->peer_result = call(__NR_get_robust_list, a->peer, &list[0], &list[1], 0);
	a->tsc = 1;
	call(__NR_prctl, PR_GET_TSC, &a->tsc, 0, 0);
	a->cpuid = call(__NR_arch_prctl, ARCH_GET_CPUID, 0, 0, 0);
	a->io_flusher = call(__NR_prctl, PR_GET_IO_FLUSHER, 0, 0, 0);
	a->mempolicy_result = call(__NR_get_mempolicy, &a->mempolicy, a->nodes, 64 * PARASITE_NODE_WORDS + 1, 0);
}

/*
 * Which protection keys are allocated, nobody tells. A change of an area of the kernel's, which no process has, is refused
 * for another reason if the key is not.
 */
static void collect_pkeys(struct parasite_args *a)
{
	for (int key = 1; key < 16; key++)
		if (call(__NR_pkey_mprotect, KERNEL_ADDRESS, 4096, 0, key) == -ENOMEM)
			a->pkeys |= 1u << key;
}

static void collect_process(struct parasite_args *a)
{
	a->dumpable = call(__NR_prctl, PR_GET_DUMPABLE, 0, 0, 0);
	a->subreaper_result = call(__NR_prctl, PR_GET_CHILD_SUBREAPER, &a->subreaper, 0, 0);
	a->thp_disable = call(__NR_prctl, PR_GET_THP_DISABLE, 0, 0, 0);
	a->membarrier = call(__NR_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, 0);
	a->mdwe = call(__NR_prctl, PR_GET_MDWE, 0, 0, 0);
	a->memory_merge = call(__NR_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0);
	collect_pkeys(a);
	a->ldt_result = call(__NR_modify_ldt, 0, a->ldt, sizeof(a->ldt[0]), 0);
	a->xcomp_result = call(__NR_arch_prctl, ARCH_GET_XCOMP_PERM, &a->xcomp_perm, 0, 0);
	a->untag_result = call(__NR_arch_prctl, ARCH_GET_UNTAG_MASK, &a->untag_mask, 0, 0);
	a->brk = call(__NR_brk, 0, 0, 0, 0);
	for (int sig = 1; sig <= PARASITE_NSIG; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			a->sigaction_result[sig - 1] =
				call(__NR_rt_sigaction, sig, 0, &a->sigactions[sig - 1], sizeof(uint64_t));
	for (int which = 0; which < 3; which++)
		call(__NR_getitimer, which, &a->itimers[which], 0, 0);
}

static void collect_timers(struct parasite_args *a)
{
	for (int i = 0; i < a->n_timers && i < PARASITE_TIMERS; i++) {
		struct parasite_timer *t = &a->timers[i];

		t->overrun = (int32_t)call(__NR_timer_getoverrun, t->id, 0, 0, 0);
		call(__NR_timer_gettime, t->id, &t->interval_sec, 0, 0);
	}
}

/* The call reads from the first entry on: a part of the table goes by way of memory that is there for a moment only. */
static void collect_ldt(struct parasite_args *a)
{
	const uint64_t size = PARASITE_LDT_MAX * sizeof(uint64_t);
	int64_t at = call5(__NR_mmap, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, (uint64_t)-1);

	a->ldt_result = at;
	if (at < 0 && at > -4096)
		return;
	a->ldt_result = call(__NR_modify_ldt, 0, at, size, 0);
	for (int i = 0; i < PARASITE_LDT_WORDS && a->ldt_result > 0; i++)
		a->ldt[i] = ((volatile uint64_t *)at)[a->ldt_first + i];
	call(__NR_munmap, at, size, 0, 0);
}

static void collect_areas(struct parasite_args *a)
{
	for (int i = 0; i < a->n_areas && i < PARASITE_AREAS_N; i++)
		a->areas[i].result = (int32_t)call5(__NR_get_mempolicy, (uint64_t)&a->areas[i].mode, (uint64_t)a->nodes,
						    64 * PARASITE_NODE_WORDS + 1, a->areas[i].addr, MPOL_F_ADDR);
}

/*
 * Entered with the stack in struct parasite_area and the arguments in rdi. It never returns: rt_sigreturn at its end puts
 * everything back when nobody stops the thread at the notification.
 */
__attribute__((noreturn, used, section(".text.entry"))) void parasite_main(struct parasite_args *a);
void parasite_main(struct parasite_args *a)
{
	for (int i = 0; a->release_mask >> i; i++)
		if (a->release_mask >> i & 1)
			call(__NR_madvise, a->release_page + (uint64_t)i * 4096, 4096, MADV_DONTNEED, 0);
	if (a->what & PARASITE_THREAD)
		collect_thread(a);
	if (a->what & PARASITE_PROCESS)
		collect_process(a);
	if (a->what & PARASITE_TIMER)
		collect_timers(a);
	if (a->what & PARASITE_LDT)
		collect_ldt(a);
	if (a->what & PARASITE_AREAS)
		collect_areas(a);
	a->done = 1;
	call(__NR_tgkill, a->pid, a->tid, a->notify_signal, 0);
	__asm__ volatile("mov %0, %%rsp\n\tmov %1, %%eax\n\tsyscall" : : "r"(a->frame), "i"(__NR_rt_sigreturn) : "memory");
	__builtin_unreachable();
}
