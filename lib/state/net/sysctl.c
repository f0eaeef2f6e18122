/* SPDX-License-Identifier: MIT */
/*
 * Settings of a network namespace below /proc/sys/net, which shows those of the namespace of whoever looks. The format has some, by
 * their place in arrays; the others are kept by name. Only what differs from what is there already is written.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/state/msg.h"
#include "lib/state/net/core.h"

#define ROOT "/proc/sys/net"
#define VALUE_MAX 1024
#define DEPTH_MAX 4

static const char *const conf4[] = {
	"accept_local", "accept_redirects", "accept_source_route", "arp_accept", "arp_announce", "arp_filter", "arp_ignore", "arp_notify",
	"bootp_relay", "disable_policy", "disable_xfrm", "force_igmp_version", "forwarding", "igmpv2_unsolicited_report_interval",
	"igmpv3_unsolicited_report_interval", "log_martians", "medium_id", "promote_secondaries", "proxy_arp", "proxy_arp_pvlan",
	"route_localnet", "rp_filter", "secure_redirects", "send_redirects", "shared_media", "src_valid_mark", "tag",
	"ignore_routes_with_linkdown", "drop_gratuitous_arp", "drop_unicast_in_l2_multicast",
};
static const char *const conf6[] = {
	"accept_dad", "accept_ra", "accept_ra_defrtr", "accept_ra_from_local", "accept_ra_min_hop_limit", "accept_ra_mtu", "accept_ra_pinfo",
	"accept_ra_rt_info_max_plen", "accept_ra_rtr_pref", "accept_redirects", "accept_source_route", "autoconf", "dad_transmits",
	"disable_ipv6", "drop_unicast_in_l2_multicast", "drop_unsolicited_na", "force_mld_version", "force_tllao", "forwarding", "hop_limit",
	"ignore_routes_with_linkdown", "keep_addr_on_down", "max_addresses", "max_desync_factor", "mldv1_unsolicited_report_interval",
	"mldv2_unsolicited_report_interval", "mtu", "ndisc_notify", "optimistic_dad", "proxy_ndp", "regen_max_retry", "router_probe_interval",
	"router_solicitation_delay", "router_solicitation_interval", "router_solicitations", "stable_secret", "suppress_frag_ndisc",
	"temp_prefered_lft", "temp_valid_lft", "use_oif_addrs_only", "use_optimistic", "use_tempaddr",
};

/* An array of the format. Writing "accept_redirects" is last: others change it. */
struct conf {
	const char *family;
	const char *const *names;
	size_t n;
};
static const struct conf confs[] = { { "ipv4", conf4, ARRAY_SIZE(conf4) }, { "ipv6", conf6, ARRAY_SIZE(conf6) } };

#define UNIX_QLEN "unix/max_dgram_qlen"
#define PING_RANGE "ipv4/ping_group_range"

static bool is_text(const char *name)
{
	return !strcmp(name, "stable_secret") || !strcmp(name, PING_RANGE);
}

/* -------------------------------------------------------------------------------------------------- one of them */

/* False: there is none, or it has no value. Without the line's end. */
static bool get(int dir, const char *name, char *value, size_t size)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, value, size - 1);

	if (n < 0)
		return false;
	while (n > 0 && (value[n - 1] == '\n' || value[n - 1] == ' '))
		n--;
	value[n] = 0;
	return true;
}

static int set(int dir, const char *name, const char *value)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	return write(fd, value, strlen(value)) < 0 ? errno : 0;
}

static void to_text(const SysctlEntry *e, char *buf, size_t n)
{
	if (e->sarg)
		snprintf(buf, n, "%s", e->sarg);
	else
		snprintf(buf, n, "%d", e->iarg);
}

static bool has_value(const SysctlEntry *e)
{
	return e->sarg || e->has_iarg;
}

/* Same numbers may be told with other white space. */
static bool same_value(const char *a, const char *b)
{
	for (;;) {
		size_t na = strcspn(a, " \t"), nb = strcspn(b, " \t");

		if (na != nb || memcmp(a, b, na))
			return false;
		a += na + strspn(a + na, " \t");
		b += nb + strspn(b + nb, " \t");
		if (!*a || !*b)
			return *a == *b;
	}
}

/* What the kernel does not have any more, or not yet, changes nothing for --weak-sysctls; the rest is worth a warning. */
static void put(struct op *op, int dir, const char *where, const char *name, const char *value)
{
	char now[VALUE_MAX];
	int err;

	if (get(dir, name, now, sizeof(now)) && same_value(now, value))
		return;
	err = set(dir, name, value);
	if (err && !(err == ENOENT && op->opts->weak_sysctls))
		log_warn(op, "%s/%s cannot be set to %s: %s", where, name, value, strerror(err));
}

/* ------------------------------------------------------------------------------------------------------- dump */

static SysctlEntry *entry(struct op *op, int dir, const char *name)
{
	SysctlEntry *e = msg_new(op, SysctlEntry, sysctl_entry);
	char value[VALUE_MAX];

	if (!e)
		return NULL;
	e->type = is_text(name) ? SYSCTL_TYPE__CTL_STR : SYSCTL_TYPE__CTL_32;
	if (!get(dir, name, value, sizeof(value)))
		return e;
	if (e->type == SYSCTL_TYPE__CTL_32)
		msg_set(e, iarg, (int32_t)strtoll(value, NULL, 0));
	else if (!(e->sarg = arena_strdup(op->arena, value)))
		return op_nomem(op), NULL;
	return e;
}

static int dump_conf(struct op *op, const struct conf *c, const char *device, size_t *n, SysctlEntry ***v)
{
	char path[64 + IFNAMSIZ];
	_cleanup_close_ int dir = -1;

	snprintf(path, sizeof(path), ROOT "/%s/conf/%s", c->family, device);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return 0; /* without IPv6 */
	*v = op_alloc(op, c->n * sizeof(**v));
	for (*n = 0; *v && *n < c->n; ++*n)
		if (!((*v)[*n] = entry(op, dir, c->names[*n])))
			return CKPT_E_NOMEM;
	return *v ? 0 : CKPT_E_NOMEM;
}

int net_device_conf_dump(struct op *op, NetDeviceEntry *dev)
{
	return dump_conf(op, &confs[0], dev->name, &dev->n_conf4, &dev->conf4) ?:
	       dump_conf(op, &confs[1], dev->name, &dev->n_conf6, &dev->conf6);
}

static int dump_one(struct op *op, int dir, const char *name, size_t *n, SysctlEntry ***v)
{
	*v = op_alloc(op, sizeof(**v));
	if (!*v || !((*v)[0] = entry(op, dir, name)))
		return CKPT_E_NOMEM;
	*n = has_value((*v)[0]) ? 1 : 0;
	return 0;
}

/* Settings by name: those that can be read and written, and that the arrays do not have. */
struct settings {
	struct op *op;
	ARRAY(NetSetting *) v;
};

static int note(struct settings *t, int dir, const char *name, const char *path)
{
	char value[VALUE_MAX];
	NetSetting *m, **slot;

	if (!strcmp(path, UNIX_QLEN) || !strcmp(path, PING_RANGE) || !get(dir, name, value, sizeof(value)))
		return 0;
	m = msg_new(t->op, NetSetting, net_setting);
	slot = m ? ARRAY_ADD(t->op->arena, &t->v) : NULL;
	if (!slot)
		return op_nomem(t->op);
	*slot = m;
	m->name = arena_strdup(t->op->arena, path);
	m->value = arena_strdup(t->op->arena, value);
	return m->name && m->value ? 0 : op_nomem(t->op);
}

static void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

static int walk(struct settings *t, int parent, const char *name, const char *path, unsigned depth)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	_cleanup_(close_dir) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d && fd >= 0)
		close(fd);
	while (d && !r && (e = readdir(d))) {
		char sub[256];
		struct stat st;

		if (e->d_name[0] == '.' || !strcmp(e->d_name, "conf") || !strcmp(e->d_name, "neigh") ||
		    fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
		    (size_t)snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "/" : "", e->d_name) >= sizeof(sub))
			continue;
		if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
			r = walk(t, dirfd(d), e->d_name, sub, depth + 1);
		else if (S_ISREG(st.st_mode) && (st.st_mode & 0600) == 0600)
			r = note(t, dirfd(d), e->d_name, sub);
	}
	return r;
}

int net_settings_dump(struct op *op, struct net_ns *n)
{
	_cleanup_close_ int root = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct settings t = { .op = op };
	NetnsEntry *e = n->entry;
	int r;

	if (root < 0)
		return op_errno(op, errno, AT(.kind = "network"), "open %s", ROOT);
	r = dump_conf(op, &confs[0], "default", &e->n_def_conf4, &e->def_conf4);
	r = r ?: dump_conf(op, &confs[0], "all", &e->n_all_conf4, &e->all_conf4);
	r = r ?: dump_conf(op, &confs[1], "default", &e->n_def_conf6, &e->def_conf6);
	r = r ?: dump_conf(op, &confs[1], "all", &e->n_all_conf6, &e->all_conf6);
	r = r ?: dump_one(op, root, UNIX_QLEN, &e->n_unix_conf, &e->unix_conf);
	r = r ?: dump_one(op, root, PING_RANGE, &e->n_ipv4_sysctl, &e->ipv4_sysctl);
	r = r ?: walk(&t, root, ".", "", 0);
	n->extra->n_settings = t.v.n;
	n->extra->settings = t.v.v;
	return r;
}

/* ---------------------------------------------------------------------------------------------------- restore */

/* It is to stay below the folder. */
static bool is_setting_name(const char *name)
{
	return *name && *name != '/' && !strstr(name, "..") && strlen(name) < 256;
}

static int check_array(struct op *op, const struct net_ns *n, SysctlEntry *const *v, size_t len, const char *what)
{
	for (size_t i = 0; i < len; i++)
		if (v[i]->type != SYSCTL_TYPE__CTL_STR && v[i]->type != SYSCTL_TYPE__CTL_32)
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "netns-%u.img: %s: setting %zu has type %u", n->ns->id, what, i,
				       v[i]->type);
	return 0;
}

static int check_whole(struct op *op, const struct net_ns *n, SysctlEntry *const *v, size_t len, const struct conf *c)
{
	if (len && len < c->n)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "netns-%u.img has %zu settings of %s instead of %zu", n->ns->id, len,
			       c->family, c->n);
	return check_array(op, n, v, len, c->family);
}

int net_settings_check(struct op *op, const struct net_ns *n)
{
	const NetnsEntry *e = n->entry;
	int r = check_whole(op, n, e->def_conf4, e->n_def_conf4, &confs[0]);

	r = r ?: check_whole(op, n, e->all_conf4, e->n_all_conf4, &confs[0]);
	r = r ?: check_whole(op, n, e->def_conf6, e->n_def_conf6, &confs[1]);
	r = r ?: check_whole(op, n, e->all_conf6, e->n_all_conf6, &confs[1]);
	r = r ?: check_array(op, n, e->unix_conf, e->n_unix_conf, "unix");
	r = r ?: check_array(op, n, e->ipv4_sysctl, e->n_ipv4_sysctl, "ipv4");
	for (size_t i = 0; i < n->links.n && !r; i++)
		r = check_array(op, n, n->links.v[i].dev->conf4, n->links.v[i].dev->n_conf4, n->links.v[i].dev->name) ?:
		    check_array(op, n, n->links.v[i].dev->conf6, n->links.v[i].dev->n_conf6, n->links.v[i].dev->name);
	for (size_t i = 0; n->extra && i < n->extra->n_settings && !r; i++)
		if (!is_setting_name(n->extra->settings[i]->name))
			r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "ckpt-extra: '%s' is no setting of a network",
				    n->extra->settings[i]->name);
	return r;
}

/* @like: what a new device has: equal values need not be written. */
static void apply_conf(struct op *op, const struct conf *c, const char *device, SysctlEntry *const *v, size_t len, SysctlEntry *const *like,
		       size_t n_like)
{
	char path[64 + IFNAMSIZ], value[VALUE_MAX], same[VALUE_MAX];
	_cleanup_close_ int dir = -1;

	snprintf(path, sizeof(path), ROOT "/%s/conf/%s", c->family, device);
	dir = len ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir < 0)
		return;
	if (len > c->n)
		log_warn(op, "%s: %zu settings that are not known are left out", path, len - c->n);
	for (int last = 0; last < 2; last++)
		for (size_t i = 0; i < MIN(len, c->n); i++) {
			if (!has_value(v[i]) || (strcmp(c->names[i], "accept_redirects") == 0) != last)
				continue;
			to_text(v[i], value, sizeof(value));
			if (i < n_like && has_value(like[i]) && strcmp(c->names[i], "mtu")) {
				to_text(like[i], same, sizeof(same));
				if (!strcmp(same, value))
					continue;
			}
			put(op, dir, path, c->names[i], value);
		}
}

int net_device_conf_apply(struct op *op, const struct net_ns *n, const NetDeviceEntry *dev)
{
	const NetnsEntry *e = n->entry;
	bool fresh = dev->type != ND_TYPE__LOOPBACK; /* that one is older than our defaults */

	apply_conf(op, &confs[0], dev->name, dev->conf4, dev->n_conf4, e->def_conf4, fresh ? e->n_def_conf4 : 0);
	apply_conf(op, &confs[1], dev->name, dev->conf6, dev->n_conf6, e->def_conf6, fresh ? e->n_def_conf6 : 0);
	return 0;
}

int net_settings_apply(struct op *op, const struct net_ns *n)
{
	_cleanup_close_ int root = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	const NetnsEntry *e = n->entry;
	char value[VALUE_MAX];

	if (root < 0)
		return op_errno(op, errno, AT(.kind = "network"), "open %s", ROOT);
	/* ip_forward and the like write into "all", "all" into "default". */
	for (size_t i = 0; n->extra && i < n->extra->n_settings; i++)
		put(op, root, ROOT, n->extra->settings[i]->name, n->extra->settings[i]->value);
	apply_conf(op, &confs[0], "all", e->all_conf4, e->n_all_conf4, NULL, 0);
	apply_conf(op, &confs[0], "default", e->def_conf4, e->n_def_conf4, NULL, 0);
	apply_conf(op, &confs[1], "all", e->all_conf6, e->n_all_conf6, NULL, 0);
	apply_conf(op, &confs[1], "default", e->def_conf6, e->n_def_conf6, NULL, 0);
	if (e->n_unix_conf && has_value(e->unix_conf[0])) {
		to_text(e->unix_conf[0], value, sizeof(value));
		put(op, root, ROOT, UNIX_QLEN, value);
	}
	if (e->n_ipv4_sysctl && has_value(e->ipv4_sysctl[0])) {
		to_text(e->ipv4_sysctl[0], value, sizeof(value));
		put(op, root, ROOT, PING_RANGE, value);
	}
	return 0;
}
