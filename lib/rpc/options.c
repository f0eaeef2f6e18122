// SPDX-License-Identifier: MIT
/* One row for each field that has an option of the library behind it; what has to be put together comes below them. */
#include "lib/rpc/options.h"

#include <sched.h>
#include <stdarg.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/front/config.h"

/* ------------------------------------------------------------------------------------------------- rows */

struct row {
	size_t has, from, to; /* @has: 0 for strings, which are NULL if they are not given */
};

#define ROW(f, t) { offsetof(CriuOpts, has_##f), offsetof(CriuOpts, f), offsetof(struct ckpt_opts, t) }
#define SAME(f) ROW(f, f)
#define STRING(f, t) { 0, offsetof(CriuOpts, f), offsetof(struct ckpt_opts, t) }

static const struct row bools[] = {
	SAME(leave_running),   SAME(leave_stopped), SAME(ext_unix_sk),	   SAME(tcp_established), SAME(evasive_devices),
	SAME(shell_job),       SAME(file_locks),    SAME(track_mem),	   SAME(auto_dedup),	  SAME(link_remap),
	SAME(force_irmap),     SAME(ext_sharing),   SAME(ext_masters),	   SAME(weak_sysctls),	  SAME(lazy_pages),
	SAME(tcp_close),       SAME(tls),	    SAME(tls_no_cn_verify), SAME(unprivileged),	  SAME(display_stats),
	SAME(orphan_pts_master), SAME(mntns_compat_mode), SAME(skip_file_rwx_check),
	ROW(tcp_skip_in_flight, skip_in_flight), ROW(rst_sibling, restore_sibling),
};

static const struct row numbers[] = { SAME(log_level), SAME(timeout) };

static const struct row strings[] = {
	STRING(images_dir, images_dir),	      STRING(root, root),
	STRING(parent_img, prev_images_dir),  STRING(cgroup_props, cgroup_props),
	STRING(cgroup_props_file, cgroup_props_file), STRING(freeze_cgroup, freeze_cgroup),
	STRING(lsm_profile, lsm_profile),     STRING(lsm_mount_context, lsm_mount_context),
	STRING(tls_cacert, tls_cacert),	      STRING(tls_cacrl, tls_cacrl),
	STRING(tls_cert, tls_cert),	      STRING(tls_key, tls_key),
	STRING(cgroup_yard, cgroup_yard),     STRING(log_file, log_file),
};

/* Lists of strings: in the message an array and its length. */
static const struct {
	size_t n, v, to;
} lists[] = {
#define LIST(f, t) { offsetof(CriuOpts, n_##f), offsetof(CriuOpts, f), offsetof(struct ckpt_opts, t) }
	LIST(skip_mnt, skip_mnt),	      LIST(enable_fs, enable_fs),
	LIST(irmap_scan_paths, irmap_scan_path), LIST(external, external),
	LIST(cgroup_dump_controller, cgroup_dump_controller),
};

/* A field of @type at @offset into the struct at @p. */
#define FIELD(type, p, offset) ((type *)((char *)(p) + (offset)))
#define CONST_FIELD(type, p, offset) ((type const *)((const char *)(p) + (offset)))

static void set_rows(struct ckpt_opts *to, const CriuOpts *from)
{
	for (size_t i = 0; i < ARRAY_SIZE(bools); i++)
		if (*CONST_FIELD(protobuf_c_boolean, from, bools[i].has))
			*FIELD(bool, to, bools[i].to) = *CONST_FIELD(protobuf_c_boolean, from, bools[i].from);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (*CONST_FIELD(protobuf_c_boolean, from, numbers[i].has))
			*FIELD(uint32_t, to, numbers[i].to) = *CONST_FIELD(uint32_t, from, numbers[i].from);
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
		if (*CONST_FIELD(char *, from, strings[i].from))
			*FIELD(const char *, to, strings[i].to) = *CONST_FIELD(char *, from, strings[i].from);
}

/* ------------------------------------------------------------------------------------------------- words */

static int strv_add(struct ckpt_strv *strv, const char *value)
{
	const char **grown = realloc((void *)strv->v, (strv->n + 1) * sizeof(*grown));

	if (!grown)
		return -1;
	grown[strv->n] = value;
	*strv = (struct ckpt_strv){ .v = grown, .n = strv->n + 1 };
	return 0;
}

/* The text lives as long as @o. NULL: out of memory. */
static const char *word(struct rpc_opts *o, const char *fmt, ...) PRINTF_LIKE(2, 3);
static const char *word(struct rpc_opts *o, const char *fmt, ...)
{
	char **grown = realloc(o->strings, (o->n_strings + 1) * sizeof(*grown)), *text;
	va_list ap;
	int n;

	if (!grown)
		return NULL;
	o->strings = grown;
	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : (grown[o->n_strings++] = text);
}

static int add(struct ckpt_strv *strv, const char *text)
{
	return text ? strv_add(strv, text) : -1;
}

static int set_lists(struct rpc_opts *o, const CriuOpts *from)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct ckpt_strv *to = FIELD(struct ckpt_strv, &o->opts, lists[i].to);
		char *const *v = *CONST_FIELD(char **, from, lists[i].v);

		for (size_t j = 0; !r && j < *CONST_FIELD(size_t, from, lists[i].n); j++)
			r = strv_add(to, v[j]);
	}
	return r;
}

/* Pairs and triples get the form that they have on the command line. */
static int set_pairs(struct rpc_opts *o, const CriuOpts *from)
{
	struct ckpt_opts *to = &o->opts;
	int r = 0;

	for (size_t i = 0; !r && i < from->n_ext_mnt; i++)
		r = add(&to->external, word(o, "mnt[%s]:%s", from->ext_mnt[i]->key, from->ext_mnt[i]->val));
	if (!r && from->has_auto_ext_mnt && from->auto_ext_mnt)
		r = strv_add(&to->ext_mount_map, "auto");
	for (size_t i = 0; !r && i < from->n_veths; i++)
		r = add(&to->veth_pair, word(o, "%s=%s", from->veths[i]->if_in, from->veths[i]->if_out));
	for (size_t i = 0; !r && i < from->n_cg_root; i++)
		r = add(&to->cgroup_root, word(o, "%s%s%s", from->cg_root[i]->ctrl ?: "", from->cg_root[i]->ctrl ? ":" : "",
					       from->cg_root[i]->path));
	for (size_t i = 0; !r && i < from->n_join_ns; i++)
		r = add(&to->join_ns, word(o, "%s:%s%s%s", from->join_ns[i]->ns, from->join_ns[i]->ns_file,
					   from->join_ns[i]->extra_opt ? "," : "", from->join_ns[i]->extra_opt ?: ""));
	for (size_t i = 0; !r && i < from->n_inherit_fd; i++)
		r = add(&to->inherit_fd, word(o, "fd[%d]:%s", from->inherit_fd[i]->fd, from->inherit_fd[i]->key));
	return r;
}

/* Sockets that may have a peer outside: all, or, where some are named, these. */
static int set_unix(struct rpc_opts *o, const CriuOpts *from)
{
	const char *inodes = NULL;

	for (size_t i = 0; i < from->n_unix_sk_ino; i++) {
		inodes = word(o, "%s%s%u", inodes ?: "", inodes ? "," : "", from->unix_sk_ino[i]->inode);
		if (!inodes)
			return -1;
	}
	if (inodes) {
		o->opts.ext_unix_sk = false;
		o->opts.ext_unix_sk_inodes = inodes;
	}
	return 0;
}

static int set_cpu_cap(struct rpc_opts *o, const CriuOpts *from)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} caps[] = { { 1, "fpu" }, { 2, "cpu" }, { 4, "ins" } };
	const char *list = "none,image"; /* only what is named */

	if (!from->has_cpu_cap)
		return 0;
	if (from->cpu_cap == UINT32_MAX) {
		o->opts.cpu_cap = "all";
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(caps) && list; i++)
		if (from->cpu_cap & caps[i].bit)
			list = word(o, "%s,%s", list, caps[i].name);
	o->opts.cpu_cap = list;
	return list ? 0 : -1;
}

/* ------------------------------------------------------------------------------------------------- choices */

static int set_cgroup_mode(struct ckpt_opts *to, const CriuOpts *from, char **wrong)
{
	static const enum ckpt_cgroup_mode modes[] = {
		[CRIU_CG_MODE__IGNORE] = CKPT_CGROUP_IGNORE, [CRIU_CG_MODE__CG_NONE] = CKPT_CGROUP_NONE,
		[CRIU_CG_MODE__PROPS] = CKPT_CGROUP_PROPS,   [CRIU_CG_MODE__SOFT] = CKPT_CGROUP_SOFT,
		[CRIU_CG_MODE__FULL] = CKPT_CGROUP_FULL,     [CRIU_CG_MODE__STRICT] = CKPT_CGROUP_STRICT,
		[CRIU_CG_MODE__DEFAULT] = CKPT_CGROUP_SOFT,
	};

	if (from->has_manage_cgroups)
		to->manage_cgroups = from->manage_cgroups ? CKPT_CGROUP_SOFT : CKPT_CGROUP_IGNORE;
	if (!from->has_manage_cgroups_mode)
		return 0;
	if ((size_t)from->manage_cgroups_mode >= ARRAY_SIZE(modes))
		return config_wrong(wrong, "manage_cgroups_mode: there is no mode %d", (int)from->manage_cgroups_mode);
	to->manage_cgroups = modes[from->manage_cgroups_mode];
	return 0;
}

static int set_choices(struct ckpt_opts *to, const CriuOpts *from, char **wrong)
{
	if (from->has_network_lock) {
		if (from->network_lock < CRIU_NETWORK_LOCK_METHOD__IPTABLES || from->network_lock > CRIU_NETWORK_LOCK_METHOD__SKIP)
			return config_wrong(wrong, "network_lock: there is no method %d", (int)from->network_lock);
		to->network_lock = (enum ckpt_network_lock)from->network_lock;
	}
	if (from->has_pre_dump_mode) {
		if (from->pre_dump_mode != CRIU_PRE_DUMP_MODE__SPLICE && from->pre_dump_mode != CRIU_PRE_DUMP_MODE__VM_READ)
			return config_wrong(wrong, "pre_dump_mode: there is no mode %d", (int)from->pre_dump_mode);
		to->pre_dump_mode = from->pre_dump_mode == CRIU_PRE_DUMP_MODE__SPLICE ? CKPT_PRE_DUMP_SPLICE : CKPT_PRE_DUMP_READ;
	}
	if (from->has_empty_ns) {
		if (from->empty_ns & ~(uint32_t)CLONE_NEWNET)
			return config_wrong(wrong, "empty_ns: only a network namespace can be left empty, not those of 0x%x", from->empty_ns);
		to->empty_ns = from->empty_ns ? CKPT_EMPTY_NS_NET : CKPT_EMPTY_NS_NONE;
	}
	if (from->has_ghost_limit)
		to->ghost_limit = from->ghost_limit;
	return set_cgroup_mode(to, from, wrong);
}

static int set_page_server(struct ckpt_opts *to, const CriuPageServerInfo *ps, char **wrong)
{
	if (!ps)
		return 0;
	if (ps->has_port && (ps->port < 0 || ps->port > UINT16_MAX))
		return config_wrong(wrong, "ps: %d is no port", ps->port);
	if (ps->has_fd && ps->fd < 0)
		return config_wrong(wrong, "ps: %d is no descriptor", ps->fd);
	to->page_server = true;
	if (ps->address)
		to->address = ps->address;
	if (ps->has_port)
		to->port = (uint32_t)ps->port;
	if (ps->has_fd)
		to->ps_socket = ps->fd;
	return 0;
}

/* ------------------------------------------------------------------------------------------------- all of it */

static int check(const CriuOpts *from, unsigned may, char **wrong)
{
	if (from->log_file && strchr(from->log_file, '/'))
		return config_wrong(wrong, "log_file: '%s' is not a name in the work folder", from->log_file);
	if (from->log_level < 0)
		return config_wrong(wrong, "log_level: there is no level %d", from->log_level);
	if (may & RPC_OWN_FDS)
		return 0;
	if (from->has_rst_sibling && from->rst_sibling)
		return config_wrong(wrong, "rst_sibling: a service has no parent that its client knows");
	if (from->n_inherit_fd)
		return config_wrong(wrong, "inherit_fd: a service inherits no descriptors from its client");
	if (from->ps && from->ps->has_fd)
		return config_wrong(wrong, "ps: a service inherits no descriptors from its client");
	return 0;
}

static int copy_defaults(struct ckpt_opts *to, const struct ckpt_opts *defaults)
{
	const struct ckpt_option *table;
	size_t n;
	int r = 0;

	*to = (struct ckpt_opts)CKPT_OPTS_INIT;
	if (!defaults)
		return 0;
	*to = *defaults;
	table = ckpt_option_table(&n);
	for (size_t i = 0; i < n; i++) { /* lists grow, and are freed, apart; some options share one */
		if (table[i].type == CKPT_OPT_STRV && !(table[i].flags & CKPT_OPTF_NOT_YET))
			*FIELD(struct ckpt_strv, to, table[i].offset) = (struct ckpt_strv){ 0 };
	}
	for (size_t i = 0; i < n && !r; i++) {
		const struct ckpt_strv *from = CONST_FIELD(struct ckpt_strv, defaults, table[i].offset);
		struct ckpt_strv *list = FIELD(struct ckpt_strv, to, table[i].offset);

		if (table[i].type != CKPT_OPT_STRV || (table[i].flags & CKPT_OPTF_NOT_YET) || list->n)
			continue;
		for (size_t j = 0; j < from->n && !r; j++)
			r = strv_add(list, from->v[j]);
	}
	return r;
}

/* Names of options that mean something to the program on the command line, and nothing here. */
static const char *const cli_options[] = {
	"tree", "json", "config", "no-default-config", "help", "version", "daemon", "restore-detached", "pidfile", NULL
};

static int set_config(struct rpc_opts *o, const char *path, char **wrong)
{
	const char *images_dir = o->opts.images_dir, *work_dir = o->opts.work_dir;

	o->opts.images_dir = o->opts.work_dir = NULL;
	if (config_read(&o->config, path, wrong) != 0)
		return -1;
	if (config_apply(&o->config, CKPT_FOR_DUMP | CKPT_FOR_RESTORE | CKPT_FOR_PRE_DUMP, cli_options, &o->opts, wrong) != 0)
		return -1;
	/* Folders that are named here go before those that were given as descriptors. */
	if (o->opts.images_dir)
		o->images_dir_fd = -1;
	if (o->opts.work_dir)
		o->work_dir_fd = -1;
	o->opts.images_dir = o->opts.images_dir ?: images_dir;
	o->opts.work_dir = o->opts.work_dir ?: work_dir;
	return 0;
}

static int set_words(struct rpc_opts *o, const CriuOpts *from)
{
	int r = set_lists(o, from);

	r = r ?: set_pairs(o, from);
	r = r ?: set_unix(o, from);
	return r ?: set_cpu_cap(o, from);
}

static int set_all(struct rpc_opts *o, const CriuOpts *from, unsigned may, char **wrong)
{
	int r = check(from, may, wrong);

	o->images_dir_fd = from->images_dir_fd;
	o->work_dir_fd = from->has_work_dir_fd ? from->work_dir_fd : -1;
	o->status_fd = from->has_status_fd ? from->status_fd : -1;
	/* A service's is not for the words of everybody. */
	o->log_to_stderr = may && from->has_log_to_stderr && from->log_to_stderr;
	if (r)
		return r;
	set_rows(&o->opts, from);
	o->opts.log_level = (uint32_t)from->log_level;
	r = set_words(o, from);
	r = r ?: set_choices(&o->opts, from, wrong);
	r = r ?: set_page_server(&o->opts, from->ps, wrong);
	if (!r && from->config_file && (may & RPC_SCRIPTS))
		r = set_config(o, from->config_file, wrong);
	return r;
}

int rpc_opts_set(struct rpc_opts *to, const CriuOpts *from, const struct ckpt_opts *defaults, unsigned may, char **wrong)
{
	int r;

	*wrong = NULL;
	*to = (struct rpc_opts){ .images_dir_fd = -1, .work_dir_fd = -1, .status_fd = -1 };
	r = copy_defaults(&to->opts, defaults);
	if (!r && from)
		r = set_all(to, from, may, wrong);
	if (!(may & RPC_SCRIPTS))
		to->opts.action_script.n = 0;
	if (to->opts.leave_stopped)
		to->opts.leave_running = false;
	return r;
}

void rpc_opts_clear(struct rpc_opts *o)
{
	ckpt_opts_clear(&o->opts);
	for (size_t i = 0; i < o->n_strings; i++)
		free(o->strings[i]);
	free(o->strings);
	config_clear(&o->config);
	*o = (struct rpc_opts){ .images_dir_fd = -1, .work_dir_fd = -1, .status_fd = -1 };
}
