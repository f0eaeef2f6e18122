// SPDX-License-Identifier: MIT
/*
 * Who is told of events: first the action scripts, the most recent one first, each of them whatever the others said; then the
 * caller. The caller may name more things that are outside.
 */
#include "lib/api/ctx.h"

#include <fcntl.h>

#include "lib/kernel/run.h"

enum { N_HOME = 2, N_ENV = 3 };

struct events {
	struct op *op;
	struct event_sink caller;
	int home[N_HOME]; /* network and IPC namespaces of the caller: the operation may be in those of the tree meanwhile */
	pid_t root;	  /* where it is known */
};

/* ------------------------------------------------------------------------------------------------ scripts */

/* Only the caller can answer, or take a descriptor. */
static bool is_for_scripts(enum ckpt_event event)
{
	return event != CKPT_EVENT_QUERY_EXT_FILES;
}

static bool is_canceled(void *arg)
{
	const struct op *op = arg;

	return op->cancel && atomic_load_explicit(op->cancel, memory_order_relaxed);
}

static int run(struct events *ev, const char *path, char *const envp[], const char *name)
{
	struct op *op = ev->op;
	int status;

	log_info(op, "running the action script %s at %s", path, name);
	status = run_script(path, envp, ev->home, N_HOME, is_canceled, op);
	if (status)
		log_warn(op, "action script %s: exit status %d at %s", path, status, name);
	return status;
}

extern char **environ;

/* Ours, and what scripts go by; it is the arena's. */
static char **environment(struct op *op, char *const more[N_ENV])
{
	size_t n = 0, at = 0;
	char **envp;

	while (environ && environ[n])
		n++;
	envp = op_alloc(op, (n + N_ENV + 1) * sizeof(*envp));
	if (!envp)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "CRTOOLS_", strlen("CRTOOLS_")) != 0)
			envp[at++] = environ[i];
	for (size_t i = 0; i < N_ENV; i++)
		if (more[i])
			envp[at++] = more[i];
	envp[at] = NULL;
	return envp;
}

static int run_scripts(struct events *ev, const struct ckpt_event_info *info)
{
	const struct ckpt_opts *o = ev->op->opts;
	_cleanup_close_ int opened = o->images_dir_fd >= 0 ? -1 : open(o->images_dir ?: ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char action[64], dir[64], pid[64], **envp;
	int failed = 0;

	snprintf(action, sizeof(action), "CRTOOLS_SCRIPT_ACTION=%s", info->name);
	snprintf(dir, sizeof(dir), "CRTOOLS_IMAGE_DIR=/proc/%d/fd/%d", (int)getpid(), opened >= 0 ? opened : o->images_dir_fd);
	snprintf(pid, sizeof(pid), "CRTOOLS_INIT_PID=%d", (int)ev->root);
	envp = environment(ev->op, (char *const[N_ENV]){ action, dir, ev->root > 0 ? pid : NULL });
	if (!envp)
		return CKPT_E_NOMEM;
	for (size_t i = o->action_script.n; i-- > 0;) {
		int status = run(ev, o->action_script.v[i], envp, info->name);

		if (!status || failed)
			continue;
		failed = status;
		if (!event_is_late(info->event))
			op_fail(ev->op, CKPT_E_REFUSED, AT(.kind = "action-script", .status = info->event == CKPT_EVENT_POST_DUMP ? status : 0),
				"the action script %s failed at %s: exit status %d",
				o->action_script.v[i], info->name, status);
	}
	return failed;
}

/* ------------------------------------------------------------------------------------------------- caller */

static int add_external(struct op *op, const struct ckpt_strv *more)
{
	struct ckpt_opts *o = (struct ckpt_opts *)op->opts; /* our copy */
	const char **v;
	int r = op_check_external(op, more);

	if (r || !more->n)
		return r;
	v = op_alloc(op, (o->external.n + more->n) * sizeof(*v));
	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < o->external.n; i++)
		v[i] = o->external.v[i];
	for (size_t i = 0; i < more->n; i++)
		v[o->external.n + i] = more->v[i];
	o->external = (struct ckpt_strv){ .v = v, .n = o->external.n + more->n };
	return 0;
}

static int tell_caller(struct events *ev, const struct ckpt_event_info *info)
{
	struct ckpt_event_info full = *info;
	struct ckpt_strv more = { 0 };
	int r;

	if (info->event == CKPT_EVENT_QUERY_EXT_FILES)
		full.external = &more;
	r = ev->caller.fn(ev->caller.arg, &full);
	return r ?: add_external(ev->op, &more);
}

static int tell(void *arg, const struct ckpt_event_info *info)
{
	struct events *ev = arg;
	int r = 0, r2 = 0;

	if (info->pid > 0)
		ev->root = info->pid;
	if (ev->op->opts->action_script.n && is_for_scripts(info->event))
		r = run_scripts(ev, info);
	if (r && !event_is_late(info->event))
		return r;
	if (ev->caller.fn)
		r2 = tell_caller(ev, info);
	return r ?: r2;
}

/* ------------------------------------------------------------------------------------------- begin and end */

int events_begin(struct op *op)
{
	static const char *const home[N_HOME] = { "/proc/thread-self/ns/net", "/proc/thread-self/ns/ipc" };
	struct events *ev;

	if (!op->opts->action_script.n && !op->events.fn)
		return 0;
	ev = op_new(op, struct events);
	if (!ev)
		return CKPT_E_NOMEM;
	*ev = (struct events){ .op = op, .caller = op->events, .home = { -1, -1 } };
	for (size_t i = 0; i < N_HOME && op->opts->action_script.n; i++)
		ev->home[i] = open(home[i], O_RDONLY | O_CLOEXEC);
	op->events = (struct event_sink){ .fn = tell, .arg = ev };
	return 0;
}

void events_end(struct op *op)
{
	struct events *ev = op->events.fn == tell ? op->events.arg : NULL;

	for (size_t i = 0; ev && i < N_HOME; i++)
		close_fd_p(&ev->home[i]);
}
