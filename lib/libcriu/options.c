// SPDX-License-Identifier: MIT
/* Options: each is kept as the field of a request that it will be. */
#include "lib/libcriu/libcriu.h"

#include "lib/base/base.h"

criu_opts *libcriu_global;

/* ------------------------------------------------------------------------------------------ begin and end */

int criu_local_init_opts(criu_opts **opts)
{
	criu_opts *o = calloc(1, sizeof(*o));

	if (o)
		o->rpc = malloc(sizeof(*o->rpc));
	if (!o || !o->rpc) {
		free(o);
		return -ENOMEM;
	}
	criu_opts__init(o->rpc);
	o->fd = -1;
	criu_local_free_opts(*opts);
	*opts = o;
	return 0;
}

void criu_local_free_opts(criu_opts *o)
{
	if (!o)
		return;
	criu_opts__free_unpacked(o->rpc, NULL);
	free(o->address);
	free(o->binary);
	free(o);
}

int criu_init_opts(void)
{
	return criu_local_init_opts(&libcriu_global);
}

void criu_free_opts(void)
{
	criu_local_free_opts(libcriu_global);
	libcriu_global = NULL;
}

/* -------------------------------------------------------------------------------------------------- fields */

static int replace(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int append(void ***list, size_t *n, void *item)
{
	void **grown = item ? realloc(*list, (*n + 1) * sizeof(*grown)) : NULL;

	if (!grown)
		return -ENOMEM;
	grown[(*n)++] = item;
	*list = grown;
	return 0;
}

static int append_string(char ***list, size_t *n, const char *value)
{
	char *copy = strdup(value);
	int r = append((void ***)list, n, copy);

	if (r)
		free(copy);
	return r;
}

#define SET(name, field, type)                                     \
	void criu_local_set_##name(criu_opts *opts, type value)    \
	{                                                          \
		opts->rpc->has_##field = true;                     \
		opts->rpc->field = value;                          \
	}                                                          \
	void criu_set_##name(type value)                           \
	{                                                          \
		criu_local_set_##name(libcriu_global, value);      \
	}
#define SET_BOOL(name) SET(name, name, bool)
#define SET_STRING(fn, field)                                      \
	int criu_local_##fn(criu_opts *opts, const char *value)    \
	{                                                          \
		return replace(&opts->rpc->field, value);          \
	}                                                          \
	int criu_##fn(const char *value)                           \
	{                                                          \
		return criu_local_##fn(libcriu_global, value);     \
	}
#define ADD_STRING(fn, field)                                                              \
	int criu_local_##fn(criu_opts *opts, const char *value)                            \
	{                                                                                  \
		return append_string(&opts->rpc->field, &opts->rpc->n_##field, value);     \
	}                                                                                  \
	int criu_##fn(const char *value)                                                   \
	{                                                                                  \
		return criu_local_##fn(libcriu_global, value);                             \
	}

SET_BOOL(leave_running)
SET_BOOL(leave_stopped)
SET_BOOL(ext_unix_sk)
SET_BOOL(tcp_established)
SET_BOOL(tcp_skip_in_flight)
SET_BOOL(tcp_close)
SET_BOOL(weak_sysctls)
SET_BOOL(evasive_devices)
SET_BOOL(shell_job)
SET_BOOL(skip_file_rwx_check)
SET_BOOL(unprivileged)
SET_BOOL(orphan_pts_master)
SET_BOOL(file_locks)
SET_BOOL(track_mem)
SET_BOOL(auto_dedup)
SET_BOOL(force_irmap)
SET_BOOL(link_remap)
SET_BOOL(auto_ext_mnt)
SET_BOOL(ext_sharing)
SET_BOOL(ext_masters)
SET_BOOL(mntns_compat_mode)
SET_BOOL(display_stats)
SET(manage_cgroups, manage_cgroups, bool)
SET(pid, pid, int)
SET(work_dir_fd, work_dir_fd, int)
SET(log_level, log_level, int)
SET(pidfd_store_sk, pidfd_store_sk, int)
SET(timeout, timeout, unsigned)
SET(ghost_limit, ghost_limit, unsigned)
SET(cpu_cap, cpu_cap, unsigned)
SET_STRING(set_images_dir, images_dir)
SET_STRING(set_parent_images, parent_img)
SET_STRING(set_log_file, log_file)
SET_STRING(set_root, root)
SET_STRING(set_freeze_cgroup, freeze_cgroup)
SET_STRING(set_lsm_profile, lsm_profile)
SET_STRING(set_lsm_mount_context, lsm_mount_context)
SET_STRING(set_config_file, config_file)
SET_STRING(add_cg_props, cgroup_props)
SET_STRING(add_cg_props_file, cgroup_props_file)
SET_STRING(add_cg_yard, cgroup_yard)
ADD_STRING(add_enable_fs, enable_fs)
ADD_STRING(add_skip_mnt, skip_mnt)
ADD_STRING(add_irmap_path, irmap_scan_paths)
ADD_STRING(add_external, external)
ADD_STRING(add_cg_dump_controller, cgroup_dump_controller)

void criu_local_set_images_dir_fd(criu_opts *opts, int fd)
{
	opts->rpc->images_dir_fd = fd;
}

void criu_set_images_dir_fd(int fd)
{
	criu_local_set_images_dir_fd(libcriu_global, fd);
}

/* ----------------------------------------------------------------------------------------------- choices */

void criu_local_set_manage_cgroups_mode(criu_opts *opts, enum criu_cg_mode mode)
{
	opts->rpc->has_manage_cgroups_mode = true;
	opts->rpc->manage_cgroups_mode = (CriuCgMode)mode;
}

void criu_set_manage_cgroups_mode(enum criu_cg_mode mode)
{
	criu_local_set_manage_cgroups_mode(libcriu_global, mode);
}

int criu_local_set_network_lock(criu_opts *opts, enum criu_network_lock_method method)
{
	opts->rpc->has_network_lock = true;
	opts->rpc->network_lock = (CriuNetworkLockMethod)method;
	return method >= CRIU_NETWORK_LOCK_IPTABLES && method <= CRIU_NETWORK_LOCK_SKIP ? 0 : -EINVAL;
}

int criu_set_network_lock(enum criu_network_lock_method method)
{
	return criu_local_set_network_lock(libcriu_global, method);
}

int criu_local_set_pre_dump_mode(criu_opts *opts, enum criu_pre_dump_mode mode)
{
	opts->rpc->has_pre_dump_mode = true;
	opts->rpc->pre_dump_mode = (CriuPreDumpMode)mode;
	return mode == CRIU_PRE_DUMP_SPLICE || mode == CRIU_PRE_DUMP_READ ? 0 : -EINVAL;
}

int criu_set_pre_dump_mode(enum criu_pre_dump_mode mode)
{
	return criu_local_set_pre_dump_mode(libcriu_global, mode);
}

/* -------------------------------------------------------------------------------------------- messages */

/* An item that goes to a list, or is freed. */
#define ADD(field, item, free_unpacked)                                                           \
	({                                                                                        \
		int _r = append((void ***)&opts->rpc->field, &opts->rpc->n_##field, item);        \
		if (_r && (item))                                                                 \
			free_unpacked(item, NULL);                                                \
		_r;                                                                               \
	})

int criu_local_add_ext_mount(criu_opts *opts, const char *key, const char *val)
{
	ExtMountMap *m = malloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	ext_mount_map__init(m);
	m->key = strdup(key);
	m->val = strdup(val);
	if (!m->key || !m->val) {
		ext_mount_map__free_unpacked(m, NULL);
		return -ENOMEM;
	}
	return ADD(ext_mnt, m, ext_mount_map__free_unpacked);
}

int criu_add_ext_mount(const char *key, const char *val)
{
	return criu_local_add_ext_mount(libcriu_global, key, val);
}

int criu_local_add_veth_pair(criu_opts *opts, const char *in, const char *out)
{
	CriuVethPair *v = malloc(sizeof(*v));

	if (!v)
		return -ENOMEM;
	criu_veth_pair__init(v);
	v->if_in = strdup(in);
	v->if_out = strdup(out);
	if (!v->if_in || !v->if_out) {
		criu_veth_pair__free_unpacked(v, NULL);
		return -ENOMEM;
	}
	return ADD(veths, v, criu_veth_pair__free_unpacked);
}

int criu_add_veth_pair(const char *in, const char *out)
{
	return criu_local_add_veth_pair(libcriu_global, in, out);
}

int criu_local_add_cg_root(criu_opts *opts, const char *ctrl, const char *path)
{
	CgroupRoot *c = malloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	cgroup_root__init(c);
	c->ctrl = ctrl ? strdup(ctrl) : NULL;
	c->path = strdup(path);
	if (!c->path || (ctrl && !c->ctrl)) {
		cgroup_root__free_unpacked(c, NULL);
		return -ENOMEM;
	}
	return ADD(cg_root, c, cgroup_root__free_unpacked);
}

int criu_add_cg_root(const char *ctrl, const char *path)
{
	return criu_local_add_cg_root(libcriu_global, ctrl, path);
}

int criu_local_add_inherit_fd(criu_opts *opts, int fd, const char *key)
{
	InheritFd *i = malloc(sizeof(*i));

	if (!i)
		return -ENOMEM;
	inherit_fd__init(i);
	i->fd = fd;
	i->key = strdup(key);
	if (!i->key) {
		inherit_fd__free_unpacked(i, NULL);
		return -ENOMEM;
	}
	return ADD(inherit_fd, i, inherit_fd__free_unpacked);
}

int criu_add_inherit_fd(int fd, const char *key)
{
	return criu_local_add_inherit_fd(libcriu_global, fd, key);
}

int criu_local_join_ns_add(criu_opts *opts, const char *ns, const char *ns_file, const char *extra_opt)
{
	JoinNamespace *j = malloc(sizeof(*j));

	if (!j)
		return -ENOMEM;
	join_namespace__init(j);
	j->ns = strdup(ns);
	j->ns_file = strdup(ns_file);
	j->extra_opt = extra_opt ? strdup(extra_opt) : NULL;
	if (!j->ns || !j->ns_file || (extra_opt && !j->extra_opt)) {
		join_namespace__free_unpacked(j, NULL);
		return -ENOMEM;
	}
	return ADD(join_ns, j, join_namespace__free_unpacked);
}

int criu_join_ns_add(const char *ns, const char *ns_file, const char *extra_opt)
{
	return criu_local_join_ns_add(libcriu_global, ns, ns_file, extra_opt);
}

int criu_local_add_unix_sk(criu_opts *opts, unsigned int inode)
{
	UnixSk *u = malloc(sizeof(*u));

	if (!u)
		return -ENOMEM;
	unix_sk__init(u);
	u->inode = inode;
	opts->rpc->has_ext_unix_sk = opts->rpc->ext_unix_sk = true;
	return ADD(unix_sk_ino, u, unix_sk__free_unpacked);
}

int criu_add_unix_sk(unsigned int inode)
{
	return criu_local_add_unix_sk(libcriu_global, inode);
}

int criu_local_set_page_server_address_port(criu_opts *opts, const char *address, int port)
{
	CriuPageServerInfo *ps = malloc(sizeof(*ps));

	if (!ps)
		return -ENOMEM;
	criu_page_server_info__init(ps);
	ps->address = strdup(address);
	ps->has_port = true;
	ps->port = port;
	if (!ps->address) {
		free(ps);
		return -ENOMEM;
	}
	if (opts->rpc->ps)
		criu_page_server_info__free_unpacked(opts->rpc->ps, NULL);
	opts->rpc->ps = ps;
	return 0;
}

int criu_set_page_server_address_port(const char *address, int port)
{
	return criu_local_set_page_server_address_port(libcriu_global, address, port);
}

int criu_local_set_exec_cmd(criu_opts *opts, int argc, char *argv[])
{
	int r = 0;

	for (size_t i = 0; i < opts->rpc->n_exec_cmd; i++)
		free(opts->rpc->exec_cmd[i]);
	opts->rpc->n_exec_cmd = 0;
	for (int i = 0; i < argc && !r; i++)
		r = append_string(&opts->rpc->exec_cmd, &opts->rpc->n_exec_cmd, argv[i]);
	return r;
}

int criu_set_exec_cmd(int argc, char *argv[])
{
	return criu_local_set_exec_cmd(libcriu_global, argc, argv);
}

/* ------------------------------------------------------------------------------------- who does the work */

void criu_local_set_service_address(criu_opts *opts, const char *path)
{
	if (path && replace(&opts->address, path) != 0)
		return;
	opts->comm = CRIU_COMM_SK;
	opts->served = path != NULL;
}

void criu_set_service_address(const char *path)
{
	criu_local_set_service_address(libcriu_global, path);
}

void criu_local_set_service_fd(criu_opts *opts, int fd)
{
	opts->fd = fd;
	opts->comm = CRIU_COMM_FD;
	opts->served = true;
}

void criu_set_service_fd(int fd)
{
	criu_local_set_service_fd(libcriu_global, fd);
}

int criu_local_set_service_binary(criu_opts *opts, const char *path)
{
	if (path && replace(&opts->binary, path) != 0)
		return -ENOMEM;
	opts->comm = CRIU_COMM_BIN;
	opts->served = path != NULL;
	return 0;
}

int criu_set_service_binary(const char *path)
{
	return criu_local_set_service_binary(libcriu_global, path);
}

void criu_local_set_notify_cb(criu_opts *opts, int (*cb)(char *action, criu_notify_arg_t na))
{
	opts->notify = cb;
	opts->rpc->has_notify_scripts = true;
	opts->rpc->notify_scripts = cb != NULL;
}

void criu_set_notify_cb(int (*cb)(char *action, criu_notify_arg_t na))
{
	criu_local_set_notify_cb(libcriu_global, cb);
}
