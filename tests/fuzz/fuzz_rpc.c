/* SPDX-License-Identifier: MIT */
/* Any bytes as a request of the service protocol: what its options become has to be in its bounds, and to be freed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/options.h"
#include "tests/fuzz/fuzz.h"

#define MUST(cond) ((cond) ? (void)0 : broken(#cond))

static void broken(const char *what)
{
	fprintf(stderr, "not true: %s\n", what);
	abort();
}

static size_t read_all(const struct ckpt_strv *list)
{
	size_t n = 0;

	for (size_t i = 0; i < list->n; i++)
		n += strlen(list->v[i]);
	return n;
}

static void check(const struct rpc_opts *o, const CriuOpts *from, unsigned may, const struct ckpt_opts *defaults)
{
	const struct ckpt_opts *c = &o->opts;

	MUST((unsigned)c->network_lock <= CKPT_LOCK_NONE && (unsigned)c->pre_dump_mode <= CKPT_PRE_DUMP_READ);
	MUST((unsigned)c->empty_ns <= CKPT_EMPTY_NS_NET && (unsigned)c->manage_cgroups <= CKPT_CGROUP_IGNORE);
	MUST(c->port <= UINT16_MAX && c->ps_socket >= -1);
	MUST(!c->log_file || !strchr(c->log_file, '/'));
	MUST(!(c->leave_running && c->leave_stopped));
	MUST(c->external.n == from->n_external + from->n_ext_mnt + (defaults ? defaults->external.n : 0));
	MUST(may & RPC_OWN_FDS || (!c->inherit_fd.n && !c->restore_sibling));
	MUST(!c->action_script.n);
	read_all(&c->external);
	read_all(&c->inherit_fd);
	read_all(&c->join_ns);
	read_all(&c->cgroup_root);
	read_all(&c->veth_pair);
	MUST(!c->ext_unix_sk_inodes || from->n_unix_sk_ino);
	MUST(!c->cpu_cap || strlen(c->cpu_cap) < 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const list[] = { "file[1:2]" };
	struct ckpt_opts defaults = CKPT_OPTS_INIT;
	CriuReq *req = criu_req__unpack(NULL, size, data);

	if (!req)
		return 0;
	defaults.external = (struct ckpt_strv){ .v = list, .n = 1 };
	defaults.action_script = (struct ckpt_strv){ .v = list, .n = 1 };
	defaults.leave_running = true;
	/* Configuration files have a target of their own: any name of a file is not to be opened here. */
	for (unsigned i = 0; i < 4 && req->opts; i++) {
		const struct ckpt_opts *d = i & 2 ? &defaults : NULL;
		unsigned may = i & 1 ? RPC_OWN_FDS : 0;
		struct rpc_opts o;
		char *wrong;

		if (rpc_opts_set(&o, req->opts, d, may, &wrong) == 0)
			check(&o, req->opts, may, d);
		else
			MUST(wrong && *wrong);
		free(wrong);
		rpc_opts_clear(&o);
	}
	criu_req__free_unpacked(req, NULL);
	return 0;
}

/* As runc asks for a dump, and for a restore; and one with all that is left. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	CriuReq req = CRIU_REQ__INIT;
	CriuOpts opts = CRIU_OPTS__INIT;
	char *strings[] = { "net[4026531840]:extRootNetNS" }, *modules[] = { "all" };
	ExtMountMap mount = EXT_MOUNT_MAP__INIT, *mounts[] = { &mount };
	CgroupRoot root = CGROUP_ROOT__INIT, *roots[] = { &root };
	InheritFd fd = INHERIT_FD__INIT, *fds[] = { &fd };
	JoinNamespace join = JOIN_NAMESPACE__INIT, *joins[] = { &join };
	CriuVethPair veth = CRIU_VETH_PAIR__INIT, *veths[] = { &veth };
	UnixSk sk = UNIX_SK__INIT, *sks[] = { &sk, &sk };
	CriuPageServerInfo ps = CRIU_PAGE_SERVER_INFO__INIT;

	mount.key = "/etc/hosts", mount.val = "/run/hosts";
	root.ctrl = "cpu,cpuacct", root.path = "/c";
	fd.key = "pipe:[1]", fd.fd = 1;
	join.ns = "user", join.ns_file = "/proc/1/ns/user", join.extra_opt = "0,0";
	veth.if_in = "eth0", veth.if_out = "veth0";
	ps.address = "127.0.0.1", ps.has_port = true, ps.port = 27;
	req.opts = &opts;
	opts.images_dir_fd = 5;
	opts.n_ext_mnt = 1, opts.ext_mnt = mounts;
	opts.has_manage_cgroups = opts.manage_cgroups = true;
	opts.has_notify_scripts = opts.notify_scripts = true;
	opts.has_empty_ns = true, opts.empty_ns = 0x40000000;
	switch (i) {
	case 0:
		req.type = CRIU_REQ_TYPE__DUMP;
		opts.n_external = 1, opts.external = strings;
		opts.log_level = 4, opts.log_file = "dump.log", opts.root = "/c/rootfs", opts.freeze_cgroup = "/sys/fs/cgroup/freezer/c";
		opts.has_pid = true, opts.pid = 77;
		break;
	case 1:
		req.type = CRIU_REQ_TYPE__RESTORE;
		opts.has_rst_sibling = opts.rst_sibling = true;
		opts.n_cg_root = 1, opts.cg_root = roots;
		opts.n_inherit_fd = 1, opts.inherit_fd = fds;
		opts.n_join_ns = 1, opts.join_ns = joins;
		opts.n_veths = 1, opts.veths = veths;
		break;
	case 2:
		req.type = CRIU_REQ_TYPE__PRE_DUMP;
		opts.has_manage_cgroups_mode = true, opts.manage_cgroups_mode = CRIU_CG_MODE__STRICT;
		opts.has_network_lock = true, opts.network_lock = CRIU_NETWORK_LOCK_METHOD__SKIP;
		opts.has_pre_dump_mode = true, opts.pre_dump_mode = CRIU_PRE_DUMP_MODE__VM_READ;
		opts.has_cpu_cap = true, opts.cpu_cap = 7;
		opts.n_unix_sk_ino = 2, opts.unix_sk_ino = sks;
		opts.n_enable_fs = 1, opts.enable_fs = modules;
		opts.ps = &ps;
		break;
	default:
		return 0;
	}
	return criu_req__get_packed_size(&req) <= cap ? criu_req__pack(&req, buf) : 0;
}
