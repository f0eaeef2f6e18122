/* SPDX-License-Identifier: MIT */
/*
 * A label is read from /proc, and set by the thread itself, which writes it to its own attr/current: AppArmor wants the word
 * "changeprofile" before it.
 */
#include "lib/state/task/lsm.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/task/plan_build.h"

static const char *const names[] = { [LSMTYPE__NO_LSM] = "none", [LSMTYPE__SELINUX] = "selinux", [LSMTYPE__APPARMOR] = "apparmor" };

Lsmtype lsm_here(void)
{
	if (access("/sys/fs/selinux/enforce", F_OK) == 0)
		return LSMTYPE__SELINUX;
	return access("/sys/kernel/security/apparmor/profiles", F_OK) == 0 ? LSMTYPE__APPARMOR : LSMTYPE__NO_LSM;
}

static size_t colons(const char *text, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += text[i] == ':';
	return n;
}

int lsm_parse(struct op *op, Lsmtype type, const char *text, size_t len, char **label)
{
	size_t n = 0;

	*label = NULL;
	while (n < len && text[n] && text[n] != '\n' && (type == LSMTYPE__SELINUX || text[n] != ' '))
		n++;
	if (!n || (type == LSMTYPE__APPARMOR && n == strlen("unconfined") && !memcmp(text, "unconfined", n)))
		return 0;
	if (type == LSMTYPE__SELINUX && colons(text, n) < 3)
		return -1;
	*label = arena_strndup(op->arena, text, n);
	return *label ? 0 : -1;
}

static int read_label(struct op *op, Lsmtype type, pid_t tgid, pid_t tid, const char *which, char **label)
{
	char file[64], *text;
	size_t len;
	int r;

	snprintf(file, sizeof(file), "task/%d/attr/%s", tid, which);
	r = proc_read_file(op, tgid, file, &text, &len);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = tid), "thread %d went away", tid);
	if (lsm_parse(op, type, text, len, label) < 0)
		return op_fail(op, CKPT_E_SYS, AT(.pid = tid, .kind = "credentials"), "cannot make sense of /proc/%d/%s", tgid, file);
	return 0;
}

int lsm_dump(struct op *op, pid_t tgid, pid_t tid, CredsEntry *c)
{
	Lsmtype type = lsm_here();
	int r;

	if (type == LSMTYPE__NO_LSM)
		return 0;
	r = read_label(op, type, tgid, tid, "current", &c->lsm_profile);
	if (!r && type == LSMTYPE__SELINUX)
		r = read_label(op, type, tgid, tid, "sockcreate", &c->lsm_sockcreate);
	return r;
}

/* ------------------------------------------------------------------------------------------------ restore */

int lsm_parse_option(struct op *op, struct lsm_choice *c)
{
	const char *spec = op->opts->lsm_profile, *colon = spec ? strchr(spec, ':') : NULL;
	size_t n = colon ? (size_t)(colon - spec) : spec ? strlen(spec) : 0;

	*c = (struct lsm_choice){ .given = spec };
	if (op->opts->lsm_mount_context && lsm_here() == LSMTYPE__SELINUX)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "option"), "--lsm-mount-context is not supported yet");
	if (!spec)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strlen(names[i]) != n || strncmp(names[i], spec, n) != 0)
			continue;
		c->type = (Lsmtype)i;
		if (i == LSMTYPE__NO_LSM)
			return 0;
		c->label = colon && colon[1] ? colon + 1 : NULL;
		if (c->label)
			return 0;
	}
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "option"), "--lsm-profile %s: it must be apparmor:NAME, selinux:CONTEXT or none", spec);
}

static int write_own(struct plan_build *b, size_t thread, const char *which, const char *text)
{
	struct plan_call open_it = { .nr = __NR_openat, .fd = -1, .data_args = 1 << 1, .args = { (uint64_t)AT_FDCWD, 0, O_WRONLY | O_CLOEXEC } };
	struct plan_call write_it = { .nr = __NR_write, .fd = -1, .data_args = 1 << 1, .result_args = 1 << 0, .args = { 0, 0, strlen(text) },
				      .flags = PLAN_CALL_EXPECT, .expect = (int64_t)strlen(text) };
	struct plan_call close_it = { .nr = __NR_close, .fd = -1, .result_args = 1 << 0 };
	char path[64];
	int n, r;

	snprintf(path, sizeof(path), "/proc/thread-self/attr/%s", which);
	r = plan_put(b, path, strlen(path) + 1, &open_it.args[1]) ?: plan_put(b, text, strlen(text), &write_it.args[1]);
	n = r ?: plan_thread_call(b, thread, &open_it, "security label: open attr");
	if (n < 0)
		return n;
	write_it.args[0] = close_it.args[0] = (uint64_t)n;
	r = plan_thread_call(b, thread, &write_it, "security label: take it");
	r = r < 0 ? r : plan_thread_call(b, thread, &close_it, "security label: close attr");
	return MIN(r, 0);
}

static int take(struct plan_build *b, size_t thread, Lsmtype type, const char *label)
{
	const char *text = type == LSMTYPE__APPARMOR ? arena_printf(b->op->arena, "changeprofile %s", label) : label;

	return text ? write_own(b, thread, "current", text) : op_nomem(b->op);
}

int lsm_plan(struct plan_build *b, size_t thread)
{
	const struct snap_thread *t = &b->task->threads.v[thread];
	const CredsEntry *e = t->core->thread_core->creds;
	const char *label = e && e->lsm_profile && *e->lsm_profile ? e->lsm_profile : NULL;
	const char *sockets = e && e->lsm_sockcreate && *e->lsm_sockcreate ? e->lsm_sockcreate : NULL;
	Lsmtype here, was = b->s->inventory->has_lsmtype ? b->s->inventory->lsmtype : LSMTYPE__NO_LSM;
	struct lsm_choice c;
	int r = lsm_parse_option(b->op, &c);

	if (r || (c.given && c.type == LSMTYPE__NO_LSM) || (!label && !sockets && !c.given))
		return r;
	here = lsm_here();
	if (c.given && c.type != here)
		return op_fail(b->op, CKPT_E_INVAL, AT(.kind = "option"), "--lsm-profile %s: the security module here is %s",
			       b->op->opts->lsm_profile, names[here]);
	/* Who had none gets none. */
	if (!label && !sockets)
		return 0;
	if (!c.given && here != was)
		return op_fail(b->op, CKPT_E_UNSUPPORTED,
			       AT(.pid = t->tid, .kind = "credentials", .hint = "--lsm-profile none restores it without a label"),
			       "thread %d had the label \"%s\" of %s; the security module here is %s", t->tid, label ?: sockets,
			       was < ARRAY_SIZE(names) ? names[was] : "another one", names[here]);
	if (sockets && here == LSMTYPE__SELINUX)
		r = write_own(b, thread, "sockcreate", sockets);
	return r || !label ? r : take(b, thread, here, c.given ? c.label : label);
}
