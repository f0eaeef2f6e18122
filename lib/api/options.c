// SPDX-License-Identifier: MIT
/*
 * The option table: one row describes an option to the command line, to configuration files, to the RPC service, to
 * --help and to the manual pages. Options of the field that this version lacks have a row, too, so that their arguments
 * are parsed right and they are refused by name instead of being mistaken for something else.
 */
#include "lib/base/base.h"
#include "lib/base/op.h"

#define NOWHERE ((size_t)-1)
#define AT_FIELD(f) offsetof(struct ckpt_opts, f)
#define D CKPT_FOR_DUMP
#define R CKPT_FOR_RESTORE
#define C CKPT_FOR_CHECK
#define I CKPT_FOR_INSPECT
#define P CKPT_FOR_PRE_DUMP
#define PS CKPT_FOR_PAGE_SERVER
#define LP CKPT_FOR_LAZY_PAGES
#define DR (D | R)
#define DRC (D | R | C) /* what a dump may do, a check of a process has to know */
#define DRP (D | R | P)
#define ALL (D | R | C | I | P | PS | LP | CKPT_FOR_DEDUP | CKPT_FOR_LOCK | CKPT_FOR_CPUINFO)
#define NEG CKPT_OPTF_NEGATABLE
#define HID CKPT_OPTF_HIDDEN
#define OPTARG CKPT_OPTF_OPTIONAL_ARG

/* A flag, an option with an argument, one with a list of words; and the same for what is not implemented. */
#define FLAG(n, s, fl, field, h) { n, s, CKPT_OPT_BOOL, fl, AT_FIELD(field), NULL, NULL, h }
#define OPT(n, s, t, fl, field, a, h) { n, s, CKPT_OPT_##t, fl, AT_FIELD(field), a, NULL, h }
#define WORD(n, s, fl, field, words, a, h) { n, s, CKPT_OPT_ENUM, fl, AT_FIELD(field), a, words, h }
#define LATER_FLAG(n, s, fl, h) { n, s, CKPT_OPT_BOOL, (fl) | CKPT_OPTF_NOT_YET, NOWHERE, NULL, NULL, h }
#define LATER(n, s, t, fl, a, h) { n, s, CKPT_OPT_##t, (fl) | CKPT_OPTF_NOT_YET, NOWHERE, a, NULL, h }

static const char *const pid_methods[] = { "auto", "set-tid", "ns-last-pid", NULL };
static const char *const validations[] = { "buildid", "filesize", NULL };
static const char *const io_policies[] = { "least-left", "fair", "none", NULL };
static const char *const pre_dump_modes[] = { "splice", "read", NULL };
static const char *const network_locks[] = { "auto", "iptables", "nftables", "skip", "none", NULL };
static const char *const cgroup_modes[] = { "soft", "none", "props", "full", "strict", "ignore", NULL };
static const char *const compress_alone[] = { "lz4", NULL }; /* what the option means without a value */
static const char *const cpu_caps_alone[] = { "all", NULL };
static const char *const empty_nss[] = { "none", "net", NULL };

static const struct ckpt_option table[] = {
	/* where things are */
	OPT("images-dir", 'D', STRING, ALL, images_dir, "DIR", "folder of the images (default: the current one)"),
	OPT("work-dir", 'W', STRING, ALL, work_dir, "DIR",
	    "folder of log, statistics and pidfile (default: the images folder)"),
	OPT("log-file", 'o', STRING, ALL, log_file, "FILE", "write messages to FILE, relative to the work folder"),
	OPT("verbosity", 'v', VERBOSITY, ALL | OPTARG, log_level, "N",
	    "more messages: 0 none, 1 errors, 2 warnings (default), 3 what is done, 4 details; -v adds one"),
	FLAG("display-stats", 0, DRP | NEG, display_stats, "print a table of what took how long"),
	OPT("pidfile", 0, STRING, R | PS | LP, pidfile, "FILE",
	    "write the PID of the root task, or of the server in the background, to FILE, which must not exist"),

	/* what happens to the tasks */
	FLAG("leave-running", 'R', D, leave_running, "let the tasks run on after the dump instead of killing them"),
	FLAG("leave-stopped", 's', DR, leave_stopped,
	     "dump: leave the tasks stopped; restore: let them start stopped (SIGCONT continues them)"),
	FLAG("restore-detached", 'd', R | PS | LP | NEG, restore_detached,
	     "return when the tasks run, do not wait for their end; of a server: go into the background"),
	FLAG("daemon", 0, PS | LP, restore_detached, "go into the background when the server is ready"),
	FLAG("restore-sibling", 'S', R | NEG, restore_sibling,
	     "make the root task a child of the caller's parent; needs --restore-detached"),
	FLAG("new-pidns", 0, R, new_pidns, "restore into a fresh PID namespace, where all PIDs are free"),
	OPT("timeout", 0, U32, DRP, timeout, "SECONDS",
	    "give up, and undo everything, after this time (0: never). A dump: if the tree is not stopped and collected by then, "
	    "which does not count the writing of its memory (default: 10)"),
	OPT("fault-stage", 0, STRING, DRP | CKPT_OPTF_HIDDEN, fault_stage, "NAME",
	    "tests: fail at the stage of this name"),
	FLAG("copy-pages", 0, D, copy_pages,
	     "copy all pages before they are written, also those that a helper process could write from where they are"),
	FLAG("no-sync", 0, D, no_sync, "do not wait for stable storage; only with --leave-running"),
	WORD("io-policy", 0, D | P, io_policy, io_policies, "POLICY",
	     "how dumps that write to one disk share it: least-left, who has least left goes first (default); fair, each as much; "
	     "none, without regard for others"),
	OPT("io-max", 0, SIZE, D | P, io_max, "RATE", "write at most so many bytes of memory a second, N or N with K, M or G"),
	OPT("freeze-cgroup", 0, STRING, D | P, freeze_cgroup, "DIR",
	    "hold the tasks of this cgroup (v1 freezer, or v2) by its freezer while they are seized"),
	WORD("pid-method", 0, R | HID, pid_method, pid_methods, "METHOD",
	     "how PIDs are chosen: auto, set-tid, ns-last-pid"),

	/* what is allowed */
	FLAG("shell-job", 'j', DRC | NEG, shell_job,
	     "the root task may belong to the session and terminal of a shell; restore gives it, and those with it, the caller's"),
	FLAG("file-locks", 'l', DRC | NEG, file_locks, "dump and restore file locks; without it they make a dump fail"),
	FLAG("link-remap", 0, DRC | NEG, link_remap,
	     "deleted files that have other names may be kept by a temporary hard link"),
	OPT("ghost-limit", 0, SIZE, DRC, ghost_limit, "SIZE",
	    "largest deleted file whose contents are stored, N or N with K, M or G (default: 1M)"),
	FLAG("evasive-devices", 0, DRC | NEG, evasive_devices, "a device node may be found at another path"),
	WORD("file-validation", 0, DR, file_validation, validations, "HOW",
	     "recognise changed files by filesize, or by size and buildid (default)"),
	FLAG("skip-file-rwx-check", 0, DRC | NEG, skip_file_rwx_check,
	     "the permission bits of files may have changed since the dump"),
	FLAG("force-irmap", 0, D | NEG, force_irmap,
	     "always search for the names of files that inotify and fanotify watch, even if the file system can tell them"),
	OPT("irmap-scan-path", 0, STRV, D, irmap_scan_path, "DIR",
	    "search this folder first for the names of watched files; may be repeated"),
	FLAG("ext-unix-sk", 'x', DRC | OPTARG, ext_unix_sk,
	     "allow UNIX sockets whose peer is outside; with a value, INODE,INODE..., only these peers"),
	FLAG("tcp-established", 0, DRC | NEG, tcp_established, "allow TCP connections: saved, and restored under the peer's eyes"),
	FLAG("tcp-close", 0, DRC | NEG, tcp_close,
	     "TCP connections are not saved; they are restored as closed sockets. Where a dump had it, a restore needs it"),
	FLAG("skip-in-flight", 0, DR | NEG, skip_in_flight, "drop TCP connections that were not accepted yet"),
	WORD("network-lock", 0, DR, network_lock, network_locks, "METHOD",
	     "how packets of TCP connections are held until the restore: nftables (default), iptables, skip or none; a restore goes "
	     "by what the dump did"),
	{ "compress", 0, CKPT_OPT_STRING, D | P | OPTARG, AT_FIELD(compress), "HOW", compress_alone,
	  "store pages compressed, and equal ones once: lz4 (default), zstd, zstd:LEVEL; or dups: only the latter. Such a "
	  "checkpoint is refused by other programs" },
	FLAG("no-verify", 0, R, no_verify,
	     "restore also from images that were changed since they were written: sums are not checked"),
	FLAG("unprivileged", 0, ALL | NEG, unprivileged, "accept the limits of running without being root"),

	/* things that come from outside */
	OPT("external", 0, STRV, DRC, external, "RESOURCE",
	    "the caller takes care of this: file[MNT:INODE], tty[RDEV:DEV], unix[INODE], shm[ID],"
	    " shmem[INODE], sem-undo[]; may be repeated"),
	OPT("inherit-fd", 0, STRV, R, inherit_fd, "fd[N]:KEY",
	    "use the open descriptor N in place of KEY: a pipe:[INODE], socket:[INODE], file[MNT:INODE], tty[RDEV:DEV]"
	    " or path; may be repeated"),

	/* pages that go to another host, or come from there */
	FLAG("page-server", 0, D | R | P | LP | NEG, page_server, "dump: send pages to the page server at --address and --port; lazy pages: get them from there"),
	FLAG("lazy-pages", 0, D | R | PS, lazy_pages,
	     "dump, page-server: serve pages when they are asked for; restore: let the program run before its pages are there"),
	OPT("address", 0, STRING, D | R | P | PS | LP, address, "ADDRESS",
	    "name or address of the page server; where it listens (default: any)"),
	OPT("port", 0, U32, D | R | P | PS | LP, port, "PORT", "port of the page server; 0, for the server: one that is free"),
	OPT("ps-socket", 0, U32, D | R | P | PS | LP, ps_socket, "FD", "use this connected stream socket instead"),
	OPT("ps-timeout", 0, U32, D | R | P | PS | LP, ps_timeout, "SECONDS",
	    "give the other side up when nothing moves for so long (default: 60; 0: never)"),
	FLAG("tls", 0, D | R | P | PS | LP | NEG, tls, "encrypt the connection, and verify certificates on both sides"),
	OPT("tls-cacert", 0, STRING, D | R | P | PS | LP, tls_cacert, "FILE",
	    "certificates of the authorities (default: /etc/pki/CA/cacert.pem)"),
	OPT("tls-cacrl", 0, STRING, D | R | P | PS | LP, tls_cacrl, "FILE",
	    "revoked certificates (default: /etc/pki/CA/cacrl.pem, if it is there)"),
	OPT("tls-cert", 0, STRING, D | R | P | PS | LP, tls_cert, "FILE", "own certificate (default: /etc/pki/criu/cert.pem)"),
	OPT("tls-key", 0, STRING, D | R | P | PS | LP, tls_key, "FILE", "its key (default: /etc/pki/criu/private/key.pem)"),
	FLAG("tls-no-cn-verify", 0, D | R | P | LP, tls_no_cn_verify,
	     "the server's certificate need not be for the name in --address"),
	OPT("record-faults", 0, STRING, R | LP, record_faults, "FILE",
	    "note in which order pages are used first, in FILE in the images folder; later lazy restores go by the one named "
	    "ckpt-faults"),
	OPT("status-fd", 0, U32, D | PS | LP, status_fd, "FD", "write a zero byte to FD, and close it, when the server is ready"),

	/* memory in several steps */
	FLAG("track-mem", 0, D | P | NEG, track_mem,
	     "track what is written to memory from now on, for the next dump; pre-dump does it anyway"),
	OPT("prev-images-dir", 0, STRING, D | P | PS, prev_images_dir, "DIR",
	    "folder of the previous dump or pre-dump, relative to the images folder: store only what was written since"),
	FLAG("auto-dedup", 0, DRP | NEG, auto_dedup,
	     "dump: free pages of the previous images that this dump supersedes; restore: free the pages that were restored"),
	WORD("pre-dump-mode", 0, D | P, pre_dump_mode, pre_dump_modes, "MODE",
	     "how a pre-dump reads memory: splice or read; both do the same here"),

	/* containers: namespaces, mounts, control groups */
	OPT("root", 'r', STRING, DR, root, "DIR", "restore: folder that becomes the root of the tree's mount namespace"),
	OPT("ext-mount-map", 'M', STRV, DR, ext_mount_map, "KEY:VALUE",
	    "dump: the mount at KEY is external, and known as VALUE; restore: the one known as KEY is found at VALUE; auto: find them"),
	FLAG("enable-external-sharing", 0, DR, ext_sharing, "allow mounts that are shared with the outside"),
	FLAG("enable-external-masters", 0, DR, ext_masters, "allow mounts whose master is outside"),
	OPT("skip-mnt", 0, STRV, D, skip_mnt, "PATH", "leave out the mount at PATH; may be repeated"),
	OPT("enable-fs", 0, STRV, DR, enable_fs, "NAME", "mount file systems of these types by their names (NAME,NAME... or all)"),
	OPT("join-ns", 'J', STRV, R, join_ns, "NS:PID",
	    "restore into an existing namespace, of a process or a file: net, uts, time, ipc, user or mnt; user: NS:PID,UID,GID"),
	WORD("empty-ns", 0, DR, empty_ns, empty_nss, "NS", "net: the network namespace is made anew, and nothing in it restored"),
	OPT("veth-pair", 0, STRV, R, veth_pair, "IN=OUT", "name of the outer end of a pair of network devices"),
	WORD("manage-cgroups", 0, DR | OPTARG, manage_cgroups, cgroup_modes, "MODE",
	     "control groups: soft, missing ones are made with their properties (default); none; props; full; strict; ignore"),
	OPT("cgroup-root", 0, STRV, DR, cgroup_root, "[CTRL:]/PATH", "root of the control groups, of one hierarchy or of all"),
	OPT("cgroup-yard", 0, STRING, DR, cgroup_yard, "DIR", "folder where the hierarchies of control groups are mounted"),
	OPT("cgroup-dump-controller", 0, STRV, D, cgroup_dump_controller, "NAME", "dump only these controllers"),
	OPT("cgroup-props", 0, STRING, D, cgroup_props, "TEXT", "properties of control groups to dump"),
	OPT("cgroup-props-file", 0, STRING, D, cgroup_props_file, "FILE", "the same from a file"),
	OPT("lsm-profile", 0, STRING, R, lsm_profile, "TYPE:NAME", "replace the label of the security module"),
	OPT("lsm-mount-context", 0, STRING, R, lsm_mount_context, "CONTEXT", "replace the SELinux context of mounts"),
	FLAG("weak-sysctls", 0, R | NEG, weak_sysctls, "leave out sysctls that do not exist here"),
	FLAG("mntns-compat-mode", 0, R | NEG, mntns_compat_mode, "make mounts without the new mount API"),
	FLAG("orphan-pts-master", 0, R | NEG, orphan_pts_master, "give terminals without a master a new one"),
	OPT("action-script", 0, STRV, DRP, action_script, "FILE", "run FILE at each event, with its name in CRTOOLS_SCRIPT_ACTION"),
	FLAG("exec-cmd", 0, R, exec_cmd, "after the restore become the command that follows --, as parent of the root task"),

	{ "cpu-cap", 0, CKPT_OPT_STRING, DR | CKPT_FOR_CPUINFO | OPTARG, AT_FIELD(cpu_cap), "LIST", cpu_caps_alone,
	  "dump: record what the processor can do; restore: this one must do the same: fpu (state of the same layout), ins (no "
	  "instruction less), cpu (in everything), all; ^WORD takes one away" },

	/* refused by name */
	LATER_FLAG("log-pid", 0, DRP | NEG, "a log file per task"),
	LATER("libdir", 'L', STRING, DRP, "DIR", "folder of plugins"),
	LATER("close", 0, U32, DRP, "FD", "close an inherited descriptor first"),
	LATER_FLAG("deprecated", 0, DRP | NEG, "accept old forms of images"),
	LATER_FLAG("stream", 0, DRP | NEG, "send and receive images through a streamer"),
	LATER_FLAG("allow-uprobes", 0, DR | NEG, "allow areas of uprobes"),
	LATER_FLAG("ghost-fiemap", 0, D | NEG, "find holes of deleted files by FIEMAP"),
};

const struct ckpt_option *ckpt_option_table(size_t *n)
{
	*n = ARRAY_SIZE(table);
	return table;
}

/* ---------------------------------------------------------------------------------------------- values */

static int fail(struct ckpt_err **err, int code, const char *hint, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int fail(struct ckpt_err **err, int code, const char *hint, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (!err)
		return code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	*err = err_new(code, AT(.hint = hint), "%s", text);
	return code;
}

static int parse_bool(const struct ckpt_option *opt, const char *value, bool *ret, struct ckpt_err **err)
{
	*ret = !value || strcmp(value, "0") != 0;
	if (!value || strcmp(value, "0") == 0 || strcmp(value, "1") == 0)
		return 0;
	return fail(err, CKPT_E_INVAL, NULL, "option --%s takes no value, and '%s' was given", opt->name, value);
}

/* Digits only: strtoull() would take blanks and signs. Returns what follows the number, or NULL. */
static const char *parse_digits(const char *s, uint64_t *ret)
{
	uint64_t n = 0;

	if (*s < '0' || *s > '9')
		return NULL;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
			return NULL;
	*ret = n;
	return s;
}

static int parse_u32(const struct ckpt_option *opt, const char *value, uint32_t *ret, struct ckpt_err **err)
{
	uint64_t n;
	const char *end = parse_digits(value, &n);

	if (!end || *end || n > UINT32_MAX)
		return fail(err, CKPT_E_INVAL, NULL, "option --%s: '%s' is not a number from 0 to %u", opt->name, value,
			    UINT32_MAX);
	*ret = (uint32_t)n;
	return 0;
}

static int parse_size(const struct ckpt_option *opt, const char *value, uint64_t *ret, struct ckpt_err **err)
{
	static const char units[] = "KMG";
	const char *end, *unit = NULL;
	uint64_t n = 0;

	end = parse_digits(value, &n);
	if (end && *end) {
		unit = strchr(units, *end);
		if (!unit || end[1] || __builtin_mul_overflow(n, 1ull << 10 * (unit - units + 1), &n))
			end = NULL;
	}
	if (!end || n == 0)
		return fail(err, CKPT_E_INVAL, "for example 512K, 1M or 2G",
			    "option --%s: '%s' is not a size greater than 0", opt->name, value);
	*ret = n;
	return 0;
}

static int parse_enum(const struct ckpt_option *opt, const char *value, int *ret, struct ckpt_err **err)
{
	char words[256] = "";
	size_t used = 0;

	for (int i = 0; opt->values[i]; i++) {
		if (strcmp(opt->values[i], value) == 0) {
			*ret = i;
			return 0;
		}
		used += (size_t)snprintf(words + used, sizeof(words) - used, "%s%s", i ? ", " : "", opt->values[i]);
		used = MIN(used, sizeof(words) - 1);
	}
	return fail(err, CKPT_E_INVAL, NULL, "option --%s: '%s' is not one of %s", opt->name, value, words);
}

/* -v, -vv (the text is what follows the first letter), -v4, --verbosity=4 */
static int parse_verbosity(const struct ckpt_option *opt, const char *value, uint32_t *level, struct ckpt_err **err)
{
	uint32_t n = value ? (uint32_t)strspn(value, "v") : 0;

	if (!value || !value[n]) {
		*level += 1 + n;
		return 0;
	}
	return parse_u32(opt, value, level, err);
}

static int strv_add(struct ckpt_strv *strv, const char *value, struct ckpt_err **err)
{
	const char **v = realloc((void *)strv->v, (strv->n + 1) * sizeof(*v));

	if (!v)
		return fail(err, CKPT_E_NOMEM, NULL, "out of memory");
	v[strv->n] = value;
	strv->v = v;
	strv->n++;
	return 0;
}

/* An argument that is missing or malformed is a mistake also where the option is refused anyway. */
static int check_later(const struct ckpt_option *opt, const char *value, struct ckpt_err **err)
{
	uint32_t u32;
	bool on = true;
	int word, r = 0;

	if (opt->type == CKPT_OPT_BOOL)
		r = parse_bool(opt, value, &on, err);
	else if (opt->type == CKPT_OPT_U32)
		r = parse_u32(opt, value, &u32, err);
	else if (opt->type == CKPT_OPT_ENUM && value)
		r = parse_enum(opt, value, &word, err);
	if (r || !on)
		return r;
	if (opt->type == CKPT_OPT_BOOL || !value)
		return fail(err, CKPT_E_NOT_YET, NULL, "option --%s is not implemented yet", opt->name);
	return fail(err, CKPT_E_NOT_YET, NULL, "option --%s is not implemented yet (it was given as '%s')", opt->name,
		    value);
}

/* "123,456" narrows a permission down to these inodes. */
static int parse_inodes(const struct ckpt_option *opt, const char *value, const char **field, struct ckpt_err **err)
{
	const char *at = value;
	uint64_t inode;

	do {
		at = parse_digits(at, &inode);
		if (!at || !inode || inode > UINT32_MAX || (*at && *at != ','))
			return fail(err, CKPT_E_INVAL, NULL, "option --%s: %s is no list of inodes (123,456)", opt->name, value);
	} while (*at++);
	*field = value;
	return 0;
}

int ckpt_opts_set(struct ckpt_opts *opts, const struct ckpt_option *opt, const char *value, struct ckpt_err **err)
{
	bool optional = opt->flags & CKPT_OPTF_OPTIONAL_ARG;
	void *field;

	if (err)
		*err = NULL;
	if (opt->type != CKPT_OPT_BOOL && !optional && !value)
		return fail(err, CKPT_E_INVAL, NULL, "option --%s needs a value (%s)", opt->name, opt->arg);
	if (opt->flags & CKPT_OPTF_NOT_YET)
		return check_later(opt, value, err);
	field = (char *)opts + opt->offset;
	switch (opt->type) {
	case CKPT_OPT_BOOL:
		if (optional && value && strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
			return parse_inodes(opt, value, &opts->ext_unix_sk_inodes, err);
		return parse_bool(opt, value, field, err);
	case CKPT_OPT_U32:
		return parse_u32(opt, value, field, err);
	case CKPT_OPT_SIZE:
		return parse_size(opt, value, field, err);
	case CKPT_OPT_STRING:
		*(const char **)field = value || !optional ? value : opt->values[0];
		return 0;
	case CKPT_OPT_STRV:
		return strv_add(field, value, err);
	case CKPT_OPT_ENUM:
		if (!value) { /* an optional one: the first word */
			*(int *)field = 0;
			return 0;
		}
		return parse_enum(opt, value, field, err);
	case CKPT_OPT_VERBOSITY:
		return parse_verbosity(opt, value, field, err);
	}
	return fail(err, CKPT_E_INTERNAL, NULL, "option --%s has an unknown type", opt->name);
}

void ckpt_opts_clear(struct ckpt_opts *opts)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].type == CKPT_OPT_STRV && !(table[i].flags & CKPT_OPTF_NOT_YET))
			free((void *)((struct ckpt_strv *)((char *)opts + table[i].offset))->v);
	*opts = (struct ckpt_opts)CKPT_OPTS_INIT;
}
