// SPDX-License-Identifier: MIT
/* Requests of the service protocol: their options, packets, and what they come to before any engine is asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>

#include "lib/base/base.h"
#include "lib/rpc/packet.h"
#include "lib/rpc/session.h"

static struct rpc_opts set;

static int apply(const CriuOpts *from, const struct ckpt_opts *defaults, unsigned may)
{
	char *wrong;
	int r;

	rpc_opts_clear(&set);
	r = rpc_opts_set(&set, from, defaults, may, &wrong);
	assert_true(r == 0 || (wrong && *wrong));
	free(wrong);
	return r;
}

static void nothing_is_asked_for(void **state)
{
	CriuOpts o = CRIU_OPTS__INIT;

	(void)state;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_int_equal(set.images_dir_fd, -1);
	assert_int_equal(set.work_dir_fd, -1);
	assert_int_equal(set.opts.log_level, 2);
	assert_int_equal(set.opts.manage_cgroups, CKPT_CGROUP_SOFT);
	assert_int_equal(set.opts.network_lock, CKPT_LOCK_AUTO);
	assert_null(set.opts.cpu_cap);
	assert_int_equal(apply(NULL, NULL, 0), 0);
}

/* Each boolean goes to the field of its name, and only where it was given. */
static void booleans(void **state)
{
	CriuOpts o = CRIU_OPTS__INIT;
	struct ckpt_opts d = CKPT_OPTS_INIT;

	(void)state;
#define ONE(f, t)                                                       \
	do {                                                            \
		o = (CriuOpts)CRIU_OPTS__INIT;                          \
		o.has_##f = o.f = true;                                 \
		assert_int_equal(apply(&o, NULL, RPC_OWN_FDS), 0);      \
		assert_true(set.opts.t);                                \
		o.f = false;                                            \
		d.t = true;                                             \
		assert_int_equal(apply(&o, &d, RPC_OWN_FDS), 0);        \
		assert_false(set.opts.t);                               \
		o.has_##f = false;                                      \
		assert_int_equal(apply(&o, &d, RPC_OWN_FDS), 0);        \
		assert_true(set.opts.t);                                \
		d.t = false;                                            \
	} while (0)
	ONE(leave_running, leave_running);
	ONE(leave_stopped, leave_stopped);
	ONE(ext_unix_sk, ext_unix_sk);
	ONE(tcp_established, tcp_established);
	ONE(tcp_close, tcp_close);
	ONE(tcp_skip_in_flight, skip_in_flight);
	ONE(evasive_devices, evasive_devices);
	ONE(shell_job, shell_job);
	ONE(file_locks, file_locks);
	ONE(track_mem, track_mem);
	ONE(auto_dedup, auto_dedup);
	ONE(link_remap, link_remap);
	ONE(force_irmap, force_irmap);
	ONE(ext_sharing, ext_sharing);
	ONE(ext_masters, ext_masters);
	ONE(weak_sysctls, weak_sysctls);
	ONE(lazy_pages, lazy_pages);
	ONE(tls, tls);
	ONE(tls_no_cn_verify, tls_no_cn_verify);
	ONE(unprivileged, unprivileged);
	ONE(display_stats, display_stats);
	ONE(orphan_pts_master, orphan_pts_master);
	ONE(mntns_compat_mode, mntns_compat_mode);
	ONE(skip_file_rwx_check, skip_file_rwx_check);
	ONE(rst_sibling, restore_sibling);
}

static void texts(void **state)
{
	CriuOpts o = CRIU_OPTS__INIT;

	(void)state;
#define TEXT(f, t)                                         \
	do {                                               \
		o = (CriuOpts)CRIU_OPTS__INIT;             \
		o.f = "some text";                         \
		assert_int_equal(apply(&o, NULL, 0), 0);   \
		assert_string_equal(set.opts.t, "some text"); \
	} while (0)
	TEXT(images_dir, images_dir);
	TEXT(root, root);
	TEXT(parent_img, prev_images_dir);
	TEXT(log_file, log_file);
	TEXT(freeze_cgroup, freeze_cgroup);
	TEXT(cgroup_yard, cgroup_yard);
	TEXT(cgroup_props, cgroup_props);
	TEXT(cgroup_props_file, cgroup_props_file);
	TEXT(lsm_profile, lsm_profile);
	TEXT(lsm_mount_context, lsm_mount_context);
	TEXT(tls_cacert, tls_cacert);
	TEXT(tls_cacrl, tls_cacrl);
	TEXT(tls_cert, tls_cert);
	TEXT(tls_key, tls_key);
}

static void lists(void **state)
{
	static const char *const first[] = { "file[1:2]" };
	struct ckpt_opts d = CKPT_OPTS_INIT;
	CriuOpts o = CRIU_OPTS__INIT;
	char *v[] = { "net[1]:key" };
	ExtMountMap m = EXT_MOUNT_MAP__INIT, *mounts[] = { &m };
	CgroupRoot c[2] = { CGROUP_ROOT__INIT, CGROUP_ROOT__INIT }, *roots[] = { &c[0], &c[1] };
	InheritFd i = INHERIT_FD__INIT, *fds[] = { &i };
	JoinNamespace j[2] = { JOIN_NAMESPACE__INIT, JOIN_NAMESPACE__INIT }, *joins[] = { &j[0], &j[1] };
	CriuVethPair p = CRIU_VETH_PAIR__INIT, *veths[] = { &p };
	UnixSk s[2] = { UNIX_SK__INIT, UNIX_SK__INIT }, *sks[] = { &s[0], &s[1] };

	(void)state;
	m.key = "/a:b", m.val = "/c";
	c[0].path = "/x", c[1].ctrl = "cpu,cpuacct", c[1].path = "/y";
	i.key = "pipe:[5]", i.fd = 7;
	j[0].ns = "ipc", j[0].ns_file = "/proc/1/ns/ipc";
	j[1].ns = "user", j[1].ns_file = "/u", j[1].extra_opt = "1,2";
	p.if_in = "eth0", p.if_out = "veth0";
	s[0].inode = 12, s[1].inode = 34;
	d.external = (struct ckpt_strv){ .v = first, .n = 1 };
	o.n_external = 1, o.external = v, o.n_ext_mnt = 1, o.ext_mnt = mounts, o.n_cg_root = 2, o.cg_root = roots;
	o.n_inherit_fd = 1, o.inherit_fd = fds, o.n_join_ns = 2, o.join_ns = joins, o.n_veths = 1, o.veths = veths;
	o.n_unix_sk_ino = 2, o.unix_sk_ino = sks, o.has_ext_unix_sk = o.ext_unix_sk = true;
	o.has_auto_ext_mnt = o.auto_ext_mnt = true;
	assert_int_equal(apply(&o, &d, RPC_OWN_FDS), 0);
	assert_int_equal(set.opts.external.n, 3);
	assert_string_equal(set.opts.external.v[0], "file[1:2]");
	assert_string_equal(set.opts.external.v[1], "net[1]:key");
	assert_string_equal(set.opts.external.v[2], "mnt[/a:b]:/c");
	assert_string_equal(set.opts.ext_mount_map.v[0], "auto");
	assert_string_equal(set.opts.cgroup_root.v[0], "/x");
	assert_string_equal(set.opts.cgroup_root.v[1], "cpu,cpuacct:/y");
	assert_string_equal(set.opts.inherit_fd.v[0], "fd[7]:pipe:[5]");
	assert_string_equal(set.opts.join_ns.v[0], "ipc:/proc/1/ns/ipc");
	assert_string_equal(set.opts.join_ns.v[1], "user:/u,1,2");
	assert_string_equal(set.opts.veth_pair.v[0], "eth0=veth0");
	assert_string_equal(set.opts.ext_unix_sk_inodes, "12,34");
	assert_false(set.opts.ext_unix_sk); /* these alone */
	assert_int_equal(d.external.n, 1);
}

static void choices(void **state)
{
	static const enum ckpt_cgroup_mode modes[] = { CKPT_CGROUP_IGNORE, CKPT_CGROUP_NONE, CKPT_CGROUP_PROPS, CKPT_CGROUP_SOFT,
						       CKPT_CGROUP_FULL, CKPT_CGROUP_STRICT, CKPT_CGROUP_SOFT };
	CriuOpts o = CRIU_OPTS__INIT;

	(void)state;
	o.has_manage_cgroups = true;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_int_equal(set.opts.manage_cgroups, CKPT_CGROUP_IGNORE);
	o.manage_cgroups = o.has_manage_cgroups_mode = true;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		o.manage_cgroups_mode = (CriuCgMode)i;
		assert_int_equal(apply(&o, NULL, 0), 0);
		assert_int_equal(set.opts.manage_cgroups, modes[i]);
	}
	o.manage_cgroups_mode = (CriuCgMode)7;
	assert_int_equal(apply(&o, NULL, 0), -1);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_network_lock = true;
	for (int i = -1; i < 6; i++) {
		o.network_lock = (CriuNetworkLockMethod)i;
		assert_int_equal(apply(&o, NULL, 0), i >= 1 && i <= 3 ? 0 : -1);
	}
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_pre_dump_mode = true;
	o.pre_dump_mode = CRIU_PRE_DUMP_MODE__VM_READ;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_int_equal(set.opts.pre_dump_mode, CKPT_PRE_DUMP_READ);
	o.pre_dump_mode = (CriuPreDumpMode)9;
	assert_int_equal(apply(&o, NULL, 0), -1);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_empty_ns = true, o.empty_ns = CLONE_NEWNET;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_int_equal(set.opts.empty_ns, CKPT_EMPTY_NS_NET);
	o.empty_ns |= CLONE_NEWNS;
	assert_int_equal(apply(&o, NULL, 0), -1);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_cpu_cap = true;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_string_equal(set.opts.cpu_cap, "all");
	o.cpu_cap = 5;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_string_equal(set.opts.cpu_cap, "none,image,fpu,ins");
}

static void page_servers(void **state)
{
	CriuPageServerInfo ps = CRIU_PAGE_SERVER_INFO__INIT;
	CriuOpts o = CRIU_OPTS__INIT;

	(void)state;
	o.ps = &ps;
	ps.address = "host", ps.has_port = true, ps.port = 4711;
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_true(set.opts.page_server);
	assert_string_equal(set.opts.address, "host");
	assert_int_equal(set.opts.port, 4711);
	assert_int_equal(set.opts.ps_socket, -1);
	ps.has_fd = true, ps.fd = 5;
	assert_int_equal(apply(&o, NULL, 0), -1); /* a service has no descriptors of its client */
	assert_int_equal(apply(&o, NULL, RPC_OWN_FDS), 0);
	assert_int_equal(set.opts.ps_socket, 5);
	ps.fd = -1;
	assert_int_equal(apply(&o, NULL, RPC_OWN_FDS), -1);
	ps.has_fd = false, ps.port = -1;
	assert_int_equal(apply(&o, NULL, RPC_OWN_FDS), -1);
}

static void rights(void **state)
{
	static const char *const scripts[] = { "/script" };
	struct ckpt_opts d = CKPT_OPTS_INIT;
	InheritFd i = INHERIT_FD__INIT, *fds[] = { &i };
	CriuOpts o = CRIU_OPTS__INIT;
	char path[] = "/tmp/ckpt-rpc-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	d.action_script = (struct ckpt_strv){ .v = scripts, .n = 1 };
	assert_int_equal(apply(&o, &d, 0), 0);
	assert_int_equal(set.opts.action_script.n, 0);
	assert_int_equal(apply(&o, &d, RPC_SCRIPTS), 0);
	assert_int_equal(set.opts.action_script.n, 1);
	assert_int_equal(write(fd, "action-script /other\nlog-file x\n", 32), 32);
	o.config_file = path;
	assert_int_equal(apply(&o, &d, 0), 0);
	assert_null(set.opts.log_file);
	assert_int_equal(apply(&o, &d, RPC_SCRIPTS), 0);
	assert_string_equal(set.opts.log_file, "x");
	assert_int_equal(set.opts.action_script.n, 2);
	close(fd);
	unlink(path);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_rst_sibling = o.rst_sibling = true;
	assert_int_equal(apply(&o, NULL, 0), -1);
	o.rst_sibling = false;
	assert_int_equal(apply(&o, NULL, 0), 0);
	i.key = "x";
	o.n_inherit_fd = 1, o.inherit_fd = fds;
	assert_int_equal(apply(&o, NULL, 0), -1);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.has_log_to_stderr = o.log_to_stderr = true;
	assert_int_equal(apply(&o, NULL, RPC_SCRIPTS), 0);
	assert_true(set.log_to_stderr);
	assert_int_equal(apply(&o, NULL, 0), 0);
	assert_false(set.log_to_stderr);
	o = (CriuOpts)CRIU_OPTS__INIT;
	o.log_file = "a/b";
	assert_int_equal(apply(&o, NULL, RPC_OWN_FDS), -1);
}

static void packets(void **state)
{
	CriuReq req = CRIU_REQ__INIT, *got;
	CriuResp resp = CRIU_RESP__INIT, *answer;
	int pair[2], passed;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	req.type = CRIU_REQ_TYPE__VERSION;
	assert_int_equal(packet_send_request(pair[0], &req), 0);
	assert_int_equal(packet_receive(pair[1], &got), 0);
	assert_int_equal(got->type, CRIU_REQ_TYPE__VERSION);
	criu_req__free_unpacked(got, NULL);
	assert_int_equal(write(pair[0], "\xff\xff", 2), 2);
	assert_int_equal(packet_receive(pair[1], &got), -EBADMSG);
	resp.type = CRIU_REQ_TYPE__NOTIFY;
	assert_int_equal(packet_send(pair[1], &resp, STDIN_FILENO), 0);
	assert_int_equal(packet_receive_answer(pair[0], &answer, &passed), 0);
	assert_true(passed > 2);
	close(passed);
	criu_resp__free_unpacked(answer, NULL);
	assert_int_equal(packet_send(pair[1], &resp, -1), 0);
	assert_int_equal(packet_receive_answer(pair[0], &answer, &passed), 0);
	assert_int_equal(passed, -1);
	criu_resp__free_unpacked(answer, NULL);
	close(pair[0]);
	assert_int_equal(packet_receive(pair[1], &got), 1);
	assert_int_equal(packet_send(pair[1], &resp, -1), -EPIPE);
	close(pair[1]);
	assert_int_equal(packet_receive(pair[1], &got), -EBADF);
}

/* What a request comes to without anything of the kind being done. */
static void requests(void **state)
{
	struct rpc_conf conf = { 0 };
	struct rpc_session s = RPC_SESSION_INIT;
	struct rpc_answer a;
	CriuOpts opts = CRIU_OPTS__INIT;
	CriuReq req = CRIU_REQ__INIT;

	(void)state;
	assert_int_equal(ckpt_ctx_new(&conf.ctx), 0);
	s.conf = &conf;
	s.peer = getpid();
	req.type = (CriuReqType)99;
	rpc_session_run(&s, &req, &a);
	assert_int_equal(a.resp.type, CRIU_REQ_TYPE__EMPTY);
	assert_false(a.resp.success);
	assert_non_null(strstr(a.resp.cr_errmsg, "Error (ckpt): there is no request of type 99"));
	rpc_session_end(&s);
	req.type = CRIU_REQ_TYPE__DUMP;
	req.opts = &opts;
	rpc_session_run(&s, &req, &a);
	assert_int_equal(a.resp.type, CRIU_REQ_TYPE__DUMP);
	assert_true(a.resp.has_cr_errno);
	assert_int_equal(a.resp.cr_errno, EBADRQC);
	rpc_session_end(&s);
	req.type = CRIU_REQ_TYPE__RESTORE;
	opts.images_dir = "/nowhere";
	rpc_session_run(&s, &req, &a);
	assert_int_equal(a.resp.restore->pid, -1);
	assert_int_equal(a.resp.cr_errno, EBADRQC);
	rpc_session_end(&s);
	ckpt_ctx_free(conf.ctx);
}

static int clear(void **state)
{
	(void)state;
	rpc_opts_clear(&set);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_asked_for), cmocka_unit_test(booleans), cmocka_unit_test(texts),
		cmocka_unit_test(lists),		cmocka_unit_test(choices),  cmocka_unit_test(page_servers),
		cmocka_unit_test(rights),		cmocka_unit_test(packets),  cmocka_unit_test(requests),
	};

	return cmocka_run_group_tests(tests, NULL, clear);
}
