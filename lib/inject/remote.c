/* SPDX-License-Identifier: MIT */
#include "lib/inject/remote.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/inject/sud.h"
#include "lib/kernel/uapi.h"

extern const char blob_parasite_start[], blob_parasite_end[];

#define RED_ZONE 128
#define REGAIN_ROUNDS 5000 /* of 0.1 ms */
#define SYSCALL_STOP (SIGTRAP | 0x80)

/* ------------------------------------------------------------------------------------------------- gadgets */

static const uint8_t code_syscall_ret[] = { 0x0f, 0x05, 0xc3 };
static const uint8_t code_sigreturn_rax[] = { 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05 };
static const uint8_t code_sigreturn_eax[] = { 0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05 };

static uint64_t find_code(const uint8_t *text, size_t len, uint64_t at, const uint8_t *code, size_t n)
{
	const uint8_t *hit = memmem(text, len, code, n);

	return hit ? at + (uint64_t)(hit - text) : 0;
}

static void search_text(const uint8_t *text, size_t len, uint64_t at, struct gadgets *g)
{
	if (!g->syscall_ret)
		g->syscall_ret = find_code(text, len, at, code_syscall_ret, sizeof(code_syscall_ret));
	if (!g->sigreturn)
		g->sigreturn = find_code(text, len, at, code_sigreturn_rax, sizeof(code_sigreturn_rax));
	if (!g->sigreturn)
		g->sigreturn = find_code(text, len, at, code_sigreturn_eax, sizeof(code_sigreturn_eax));
}

/* The C library is the likeliest place; looking there first saves reading the text of everything else. */
static bool looks_like_libc(const char *name)
{
	const char *base = strrchr(name, '/');

	return base && (strncmp(base, "/libc.", 6) == 0 || strncmp(base, "/libc-", 6) == 0 ||
			strncmp(base, "/ld-musl", 8) == 0);
}

static void search_mappings(const struct target *t, const struct proc_maps *maps, bool libc, struct gadgets *g)
{
	/* Small steps: both pieces are mostly found early, and pages of text that nobody used yet have to be faulted in. */
	const size_t step = 64u << 10;
	_cleanup_free_ uint8_t *buf = malloc(step);

	for (size_t i = 0; buf && i < maps->vmas.n && !(g->syscall_ret && g->sigreturn); i++) {
		const struct proc_vma *v = &maps->vmas.v[i];

		if (v->perms[2] != 'x' || v->perms[0] != 'r' || !v->name[0] || looks_like_libc(v->name) != libc ||
		    !strcmp(v->name, "[vsyscall]"))
			continue;
		/* Steps overlap a little, so that nothing is cut in two. */
		for (uint64_t at = v->start; at < v->end && !(g->syscall_ret && g->sigreturn); at += step - 16) {
			ssize_t n = pread(t->mem, buf, MIN(step, v->end - at), (off_t)at);

			if (n > 0)
				search_text(buf, (size_t)n, at, g);
			if (n < (ssize_t)step)
				break;
		}
	}
}

_Static_assert(PARASITE_FRAME == SIGFRAME_MAX, "the frame fits into the parasite's area");

/* Bits: which of the pages that a frame can take do not exist. */
static uint32_t absent_pages(const struct target *t, uint64_t at)
{
	uint64_t entry[SIGFRAME_MAX / PAGE_SIZE] = { 0 };
	uint32_t absent = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (pread(fd, entry, sizeof(entry), (off_t)(at / PAGE_SIZE * sizeof(*entry))) == sizeof(entry))
		for (size_t i = 0; i < ARRAY_SIZE(entry); i++)
			absent |= !(entry[i] >> 62) ? 1u << i : 0; /* neither present nor swapped */
	close(fd);
	return absent;
}

/* The lowest pages of the main stack, unless some thread is using them. */
static void find_scratch(const struct target *t, const struct proc_maps *maps, struct gadgets *g)
{
	for (size_t i = 0; i < maps->vmas.n; i++) {
		const struct proc_vma *v = &maps->vmas.v[i];

		if (strcmp(v->name, "[stack]") || v->perms[1] != 'w' || v->end - v->start < SIGFRAME_MAX)
			continue;
		for (size_t k = 0; k < t->threads.n; k++) {
			uint64_t sp = t->threads.v[k].regs.rsp;

			if (sp >= v->start && sp < v->end && sp - v->start < SIGFRAME_MAX + PAGE_SIZE + RED_ZONE)
				return;
		}
		g->scratch = v->start;
		g->scratch_absent = absent_pages(t, v->start);
		return;
	}
}

int gadgets_find(struct op *op, const struct target *t, const struct proc_maps *maps, struct gadgets *g)
{
	*g = (struct gadgets){ 0 };
	search_mappings(t, maps, true, g);
	search_mappings(t, maps, false, g);
	if (!g->syscall_ret) {
		/* Without protection any system call instruction will do, and the vDSO has one. */
		for (size_t i = 0; i < maps->vmas.n && !g->syscall_ret; i++) {
			const struct proc_vma *v = &maps->vmas.v[i];
			uint8_t text[4 * PAGE_SIZE];
			ssize_t n;

			if (strcmp(v->name, "[vdso]"))
				continue;
			n = pread(t->mem, text, MIN(sizeof(text), v->end - v->start), (off_t)v->start);
			if (n > 0)
				g->syscall_ret = find_code(text, (size_t)n, v->start, code_syscall_ret, 2);
		}
		g->sigreturn = 0;
	}
	if (!g->syscall_ret)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "code"),
			       "task %d has no system call instruction in its memory to enter it by", t->pid);
	find_scratch(t, maps, g);
	if (!g->sigreturn || !g->scratch) {
		g->scratch = 0;
		log_info(op, "task %d: no signal return code of its own found, remote calls do not heal by themselves", t->pid);
	}
	return 0;
}

/* -------------------------------------------------------------------------------------------- remote calls */

static void note_child(struct tracee *tr)
{
	unsigned long child = 0;

	ptrace(PTRACE_GETEVENTMSG, tr->tid, 0, &child);
	tr->cloned = (pid_t)child;
}

/*
 * Lets the thread run to the next system call stop. A SIGSTOP that comes now is kept for later: the thread is in the middle
 * of something that is ours.
 */
static int run_to_syscall_stop(struct op *op, const struct target *t, struct tracee *tr)
{
	int status, r;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, tr->tid, 0, 0) < 0)
			return op_errno(op, errno, AT(.pid = t->pid), "resume thread %d", tr->tid);
		tr->stopped = false;
		r = tracee_wait(op, t, tr, &status);
		if (r)
			return r;
		if (WSTOPSIG(status) == SYSCALL_STOP)
			return 0;
		if (status >> 16 == PTRACE_EVENT_CLONE)
			note_child(tr);
		else if (status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP)
			tr->late_stop = true;
		else if (status >> 16 == 0)
			return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->pid),
				       "thread %d got signal %d in a remote call", tr->tid, WSTOPSIG(status));
	}
}

/* Frame into the scratch pages; the @len bytes that were there go to @saved. */
static int place_frame(struct op *op, const struct target *t, const struct tracee *tr, const struct gadgets *g, void *saved,
		       size_t *len)
{
	struct user_regs_struct cooked = tr->regs;
	uint8_t frame[SIGFRAME_MAX];
	size_t n;
	int r;

	/* rt_sigreturn ends every restart the kernel had in mind: the frame goes back to the call itself. */
	regs_cook_restart(&cooked, false, false);
	n = sigframe_build(frame, sizeof(frame), g->scratch, g->sigreturn, &cooked, tr->xstate, tr->xstate_len,
			   tr->sigmask);
	if (!n)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "registers"),
			       "thread %d has an extended state of %zu bytes, more than fits", tr->tid, tr->xstate_len);
	*len = n;
	r = target_read(op, t, (struct raddr){ g->scratch }, saved, n);
	return r ?: target_write(op, t, (struct raddr){ g->scratch }, frame, n);
}

static struct user_regs_struct call_regs(const struct tracee *tr, const struct gadgets *g, long nr, const uint64_t a[6])
{
	struct user_regs_struct regs = tr->regs;

	regs.rip = g->syscall_ret;
	if (g->scratch)
		regs.rsp = g->scratch;
	regs.rax = (uint64_t)nr;
	regs.rdi = a[0], regs.rsi = a[1], regs.rdx = a[2], regs.r10 = a[3], regs.r8 = a[4], regs.r9 = a[5];
	regs.orig_rax = (uint64_t)-1; /* not in a system call: nothing for the kernel to restart */
	regs.eflags &= ~0x100ull;
	return regs;
}

static bool at_syscall_entry(pid_t tid, int status)
{
	struct __ptrace_syscall_info info = { 0 };

	return WSTOPSIG(status) == SYSCALL_STOP && ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) > 0 &&
	       info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

/* After a remote run that was given up half way (cancelled, out of time): the thread in our hands again, or ended. */
static bool regain(struct tracee *tr)
{
	int status;

	if (tr->exited || tr->stopped)
		return !tr->exited;
	ptrace(PTRACE_INTERRUPT, tr->tid, 0, 0);
	/*
	 * What it runs makes no call that blocks, so that this ends at once; unless the process is dying, when the main
	 * thread reports nothing before all others were waited for.
	 */
	for (int round = 0; round < REGAIN_ROUNDS && !tr->stopped && !tr->exited; round++) {
		pid_t got = waitpid(tr->tid, &status, __WALL | WNOHANG);

		if (got == tr->tid && WIFSTOPPED(status) && at_syscall_entry(tr->tid, status))
			ptrace(PTRACE_SYSCALL, tr->tid, 0, 0); /* to the exit: registers set at the entry would choose the call */
		else if (got == tr->tid && WIFSTOPPED(status))
			tr->stopped = true;
		else if (got != 0 && !(got < 0 && errno == EINTR))
			tr->exited = true;
		else
			nanosleep(&(struct timespec){ 0, 100000 }, NULL);
	}
	tr->exited = !tr->stopped;
	return tr->stopped;
}

/*
 * The order of both halves keeps the thread right at every instant: the registers that lead to the frame come before the
 * mask and go after it, and the frame holds the old mask.
 */
static int divert(struct op *op, struct tracee *tr, const struct user_regs_struct *regs, uint64_t mask)
{
	int r = tracee_set_regs(op, tr->tid, regs);

	return r ?: tracee_set_sigmask(op, tr->tid, mask);
}

static int put_back(struct op *op, struct tracee *tr)
{
	int r = tracee_set_sigmask(op, tr->tid, tr->sigmask);

	return r ?: tracee_set_regs(op, tr->tid, &tr->regs);
}

int remote_syscall(struct op *op, const struct target *t, struct tracee *tr, const struct gadgets *g, long nr,
		   const uint64_t args[6], int64_t *ret)
{
	struct user_regs_struct regs = call_regs(tr, g, nr, args);
	const atomic_bool *cancel = op->cancel;
	uint8_t saved[SIGFRAME_MAX];
	size_t len = 0;
	int r = g->scratch ? place_frame(op, t, tr, g, saved, &len) : 0, r2;

	if (r)
		return r;
	op->cancel = NULL; /* microseconds: a cancellation can wait until the thread is itself again */
	r = divert(op, tr, &regs, ~0ull);
	r = r ?: run_to_syscall_stop(op, t, tr); /* entry */
	r = r ?: run_to_syscall_stop(op, t, tr); /* exit */
	op->cancel = cancel;
	r = r ?: tracee_get_regs(op, tr->tid, &regs);
	if (!regain(tr))
		return r;
	r2 = put_back(op, tr);
	if (g->scratch && !r2)
		r2 = target_write(op, t, (struct raddr){ g->scratch }, saved, len);
	*ret = (int64_t)regs.rax;
	return r ?: r2;
}

/* ------------------------------------------------------------------------------------------- the parasite */

/* The start of the largest gap between mappings: nobody's heap or stack grows into the middle of our few milliseconds. */
uint64_t remote_gap(const struct proc_maps *maps, uint64_t size)
{
	uint64_t best = 0, best_len = 0, prev_end = 1u << 20;

	for (size_t i = 0; i < maps->vmas.n; i++) {
		const struct proc_vma *v = &maps->vmas.v[i];

		if (v->start > 0x7fffffffe000)
			break;
		if (v->start > prev_end && v->start - prev_end > best_len) {
			best = prev_end;
			best_len = v->start - prev_end;
		}
		prev_end = v->end;
	}
	if (best_len < size + (4u << 20))
		return best_len >= size ? best : 0;
	return ALIGN_UP(best + (1u << 20), PAGE_SIZE);
}

/* A signal that nobody would notice: its default is to be ignored, and no handler is installed. */
static int pick_notify_signal(const struct target *t)
{
	static const int candidates[] = { SIGURG, SIGWINCH, SIGCHLD };

	for (size_t i = 0; i < ARRAY_SIZE(candidates); i++)
		if (!(t->threads.v[0].status.sig_caught >> (candidates[i] - 1) & 1))
			return candidates[i];
	return 0;
}

static int remote_expect(struct op *op, const struct target *t, const struct gadgets *g, const char *what, long nr,
			 const uint64_t args[6], uint64_t want)
{
	int64_t ret = -1;
	int r = remote_syscall(op, t, &t->threads.v[0], g, nr, args, &ret);

	if (!r && (uint64_t)ret != want)
		return op_errno(op, ret < 0 && ret > -4096 ? (int)-ret : EFAULT, AT(.pid = t->pid, .addr = want),
				"%s in task %d", what, t->pid);
	return r;
}

static struct journal_entry *journal_open(struct journal *j, const struct target *t, const struct parasite *p)
{
	uint32_t n = j ? atomic_load(&j->n) : JOURNAL_TARGETS;
	struct journal_entry *e;

	if (n >= JOURNAL_TARGETS)
		return NULL;
	e = &j->entries[n];
	e->pid = t->pid;
	e->starttime = t->stat.starttime;
	e->gadget_syscall_ret = p->g.syscall_ret;
	e->gadget_sigreturn = p->g.sigreturn;
	e->scratch = p->g.scratch;
	e->area_size = p->size;
	atomic_store(&e->runner, 0);
	atomic_store(&e->area, p->base);
	atomic_store(&j->n, n + 1);
	return e;
}

int parasite_inject(struct op *op, struct target *t, const struct proc_maps *maps, struct parasite *p,
		    struct journal *journal)
{
	size_t code_len = (size_t)(blob_parasite_end - blob_parasite_start);
	int r;

	*p = (struct parasite){ .notify_signal = pick_notify_signal(t), .all = journal };
	r = gadgets_find(op, t, maps, &p->g);
	if (r)
		return r;
	p->size = PARASITE_CODE_MAX + ALIGN_UP(sizeof(struct parasite_area), PAGE_SIZE);
	p->base = remote_gap(maps, p->size);
	if (!p->base)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "address space"),
			       "task %d has no free %lu bytes in its address space", t->pid, p->size);
	p->journal = journal_open(journal, t, p);
	r = sud_suspend(op, t, journal);
	if (r)
		return r;
	/* First readable and executable, then the data part writable: no area is ever both, as MDWE and SELinux want it. */
	r = remote_expect(op, t, &p->g, "map the parasite", SYS_mmap,
			  (uint64_t[6]){ p->base, p->size, PROT_READ | PROT_EXEC,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0 },
			  p->base);
	r = r ?: remote_expect(op, t, &p->g, "protect the parasite", SYS_mprotect,
			       (uint64_t[6]){ p->base + PARASITE_CODE_MAX, p->size - PARASITE_CODE_MAX,
					      PROT_READ | PROT_WRITE },
			       0);
	return r ?: target_write(op, t, (struct raddr){ p->base }, blob_parasite_start, code_len);
}

int parasite_cure(struct op *op, struct target *t, struct parasite *p)
{
	int r;

	if (!p->base)
		return 0;
	r = remote_expect(op, t, &p->g, "remove the parasite", SYS_munmap, (uint64_t[6]){ p->base, p->size }, 0);
	if (!r && p->journal)
		atomic_store(&p->journal->area, 0);
	p->base = 0;
	sud_resume(t, p->all);
	return r;
}

/* Runs until the parasite's last call: by its notification, or call by call where no signal is free for that. */
static int run_to_notification(struct op *op, const struct target *t, struct tracee *tr, const struct parasite *p)
{
	struct user_regs_struct regs;
	int status, r;

	for (;;) {
		if (ptrace(p->notify_signal ? PTRACE_CONT : PTRACE_SYSCALL, tr->tid, 0, 0) < 0)
			return op_errno(op, errno, AT(.pid = t->pid), "resume thread %d", tr->tid);
		tr->stopped = false;
		r = tracee_wait(op, t, tr, &status);
		if (r)
			return r;
		if (WSTOPSIG(status) == SYSCALL_STOP) {
			r = tracee_get_regs(op, tr->tid, &regs);
			if (r || (regs.orig_rax == SYS_tgkill && (long)regs.rax != -ENOSYS))
				return r;
			continue;
		}
		if (status >> 16)
			continue;
		if (p->notify_signal && WSTOPSIG(status) == p->notify_signal)
			return 0;
		if (WSTOPSIG(status) != SIGSTOP)
			return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->pid),
				       "thread %d got signal %d while the parasite ran", tr->tid, WSTOPSIG(status));
		tr->late_stop = true;
	}
}

static void note_runner(const struct parasite *p, pid_t tid)
{
	if (p->journal)
		atomic_store(&p->journal->runner, tid);
}

int parasite_run(struct op *op, const struct target *t, struct tracee *tr, const struct parasite *p,
		 struct parasite_args *args)
{
	uint64_t area = p->base + PARASITE_CODE_MAX;
	uint64_t args_at = area + offsetof(struct parasite_area, args);
	struct user_regs_struct cooked = tr->regs, regs = tr->regs;
	const atomic_bool *cancel = op->cancel;
	uint8_t frame[SIGFRAME_MAX];
	uint64_t mask = ~0ull;
	size_t n;
	int r, r2;

	args->frame = area + sizeof(uint64_t);
	args->pid = proc_own_number(&tr->status.nstgid);
	args->tid = proc_own_number(&tr->status.nspid);
	args->notify_signal = p->notify_signal;
	args->done = 0;
	regs_cook_restart(&cooked, false, false);
	n = sigframe_build(frame, sizeof(frame), area, p->g.sigreturn, &cooked, tr->xstate, tr->xstate_len, tr->sigmask);
	if (!n)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "registers"),
			       "thread %d has an extended state of %zu bytes, more than fits", tr->tid, tr->xstate_len);
	r = target_write(op, t, (struct raddr){ area }, frame, n);
	r = r ?: target_write(op, t, (struct raddr){ args_at }, args, sizeof(*args));
	if (r)
		return r;
	regs.rip = p->base;
	regs.rdi = args_at;
	regs.rsp = area + offsetof(struct parasite_area, args) - sizeof(uint64_t);
	regs.orig_rax = (uint64_t)-1;
	regs.eflags &= ~0x500ull; /* no single step, and the direction that C expects */
	if (p->notify_signal)
		mask &= ~(1ull << (p->notify_signal - 1));
	note_runner(p, tr->tid);
	op->cancel = NULL;
	r = divert(op, tr, &regs, mask);
	r = r ?: run_to_notification(op, t, tr, p);
	op->cancel = cancel;
	if (!regain(tr))
		return r;
	r2 = put_back(op, tr);
	note_runner(p, 0);
	r = r ?: r2;
	r = r ?: target_read(op, t, (struct raddr){ args_at }, args, sizeof(*args));
	if (!r && !args->done)
		return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->pid), "the parasite did not finish in thread %d", tr->tid);
	return r;
}
