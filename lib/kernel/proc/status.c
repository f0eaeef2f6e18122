// SPDX-License-Identifier: MIT
/* /proc/PID/status: "Key:\tvalue" lines. A table says which key goes where, and which ones there must be. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

enum {
	HAVE_NAME = 1 << 0,
	HAVE_STATE = 1 << 1,
	HAVE_TGID = 1 << 2,
	HAVE_PID = 1 << 3,
	HAVE_PPID = 1 << 4,
	HAVE_UID = 1 << 5,
	HAVE_GID = 1 << 6,
	HAVE_ALL = (1 << 7) - 1,
};

enum type { T_NAME, T_STATE, T_INT, T_BOOL, T_UNSIGNED, T_OCTAL, T_KB, T_HEX64, T_IDS, T_GROUPS, T_LEVELS, T_FEATURES };

#define AT_FIELD(f) offsetof(struct proc_status, f)
static const struct {
	const char *key;
	enum type type;
	size_t offset;
	unsigned have;
} fields[] = {
	{ "Name", T_NAME, AT_FIELD(name), HAVE_NAME },
	{ "State", T_STATE, AT_FIELD(state), HAVE_STATE },
	{ "Umask", T_OCTAL, AT_FIELD(umask), 0 },
	{ "Tgid", T_INT, AT_FIELD(tgid), HAVE_TGID },
	{ "Pid", T_INT, AT_FIELD(pid), HAVE_PID },
	{ "PPid", T_INT, AT_FIELD(ppid), HAVE_PPID },
	{ "TracerPid", T_INT, AT_FIELD(tracer), 0 },
	{ "Uid", T_IDS, AT_FIELD(uid), HAVE_UID },
	{ "Gid", T_IDS, AT_FIELD(gid), HAVE_GID },
	{ "Groups", T_GROUPS, 0, 0 },
	{ "NSpid", T_LEVELS, AT_FIELD(nspid), 0 },
	{ "NStgid", T_LEVELS, AT_FIELD(nstgid), 0 },
	{ "NSpgid", T_LEVELS, AT_FIELD(nspgid), 0 },
	{ "NSsid", T_LEVELS, AT_FIELD(nssid), 0 },
	{ "Kthread", T_BOOL, AT_FIELD(kernel_thread), 0 },
	{ "VmLck", T_KB, AT_FIELD(vm_locked_kb), 0 },
	{ "VmRSS", T_KB, AT_FIELD(vm_rss_kb), 0 },
	{ "RssAnon", T_KB, AT_FIELD(rss_anon_kb), 0 },
	{ "VmSwap", T_KB, AT_FIELD(vm_swap_kb), 0 },
	{ "THP_enabled", T_INT, AT_FIELD(thp_enabled), 0 },
	{ "Threads", T_UNSIGNED, AT_FIELD(threads), 0 },
	{ "SigPnd", T_HEX64, AT_FIELD(sig_pending), 0 },
	{ "ShdPnd", T_HEX64, AT_FIELD(shd_pending), 0 },
	{ "SigBlk", T_HEX64, AT_FIELD(sig_blocked), 0 },
	{ "SigIgn", T_HEX64, AT_FIELD(sig_ignored), 0 },
	{ "SigCgt", T_HEX64, AT_FIELD(sig_caught), 0 },
	{ "CapInh", T_HEX64, AT_FIELD(cap_inh), 0 },
	{ "CapPrm", T_HEX64, AT_FIELD(cap_prm), 0 },
	{ "CapEff", T_HEX64, AT_FIELD(cap_eff), 0 },
	{ "CapBnd", T_HEX64, AT_FIELD(cap_bnd), 0 },
	{ "CapAmb", T_HEX64, AT_FIELD(cap_amb), 0 },
	{ "NoNewPrivs", T_BOOL, AT_FIELD(no_new_privs), 0 },
	{ "Seccomp", T_INT, AT_FIELD(seccomp), 0 },
	{ "Seccomp_filters", T_INT, AT_FIELD(seccomp_filters), 0 },
	{ "x86_Thread_features", T_FEATURES, AT_FIELD(x86_thread_features), 0 },
};

static bool parse_ids(struct scan v, uint32_t ids[4])
{
	for (int i = 0; i < 4; i++) {
		scan_blanks(&v);
		if (!scan_u32(&v, 10, &ids[i]))
			return false;
	}
	return true;
}

static bool parse_groups(struct arena *a, struct scan v, struct proc_status *out)
{
	struct scan count = v, word;
	size_t n = 0;

	while (scan_word(&count, &word))
		n++;
	if (n > PROC_MAX_GROUPS)
		return false;
	if (!n)
		return true;
	out->groups = arena_alloc(a, n * sizeof(*out->groups));
	if (!out->groups)
		return false;
	for (size_t i = 0; i < n; i++) {
		scan_blanks(&v);
		if (!scan_u32(&v, 10, &out->groups[i]))
			return false;
	}
	out->n_groups = n;
	return true;
}

static bool parse_levels(struct scan v, struct proc_levels *l)
{
	l->n = 0;
	for (scan_blanks(&v); !scan_end(&v); scan_blanks(&v)) {
		if (l->n == PROC_PID_LEVELS || !scan_int(&v, &l->v[l->n]) || l->v[l->n] < 0)
			return false;
		l->n++;
	}
	return l->n > 0;
}

/* The kernel writes a newline in a name as \n and a backslash as \\. */
static void parse_name(struct scan v, char *buf, size_t size)
{
	size_t n = 0;

	while (v.p < v.end && n < size - 1) {
		char c = *v.p++;

		if (c == '\\' && v.p < v.end) {
			c = *v.p++;
			if (c == 'n')
				c = '\n';
		}
		buf[n++] = c;
	}
	buf[n] = 0;
}

static bool parse_bool(struct scan v, bool *out)
{
	int n;

	if (!scan_int(&v, &n))
		return false;
	*out = n != 0;
	return true;
}

static bool parse_field(struct arena *a, enum type type, void *to, struct scan v, struct proc_status *out)
{
	switch (type) {
	case T_NAME:
		parse_name(v, to, sizeof(out->name));
		return true;
	case T_STATE:
		*(char *)to = scan_end(&v) ? 0 : *v.p;
		return !scan_end(&v);
	case T_INT:
		return scan_int(&v, to);
	case T_BOOL:
		return parse_bool(v, to);
	case T_UNSIGNED:
		return scan_u32(&v, 10, to);
	case T_OCTAL:
		return scan_u32(&v, 8, to);
	case T_KB:
		return scan_u64(&v, to);
	case T_HEX64:
		return scan_hex(&v, to);
	case T_IDS:
		return parse_ids(v, to);
	case T_GROUPS:
		return parse_groups(a, v, out);
	case T_LEVELS:
		return parse_levels(v, to);
	case T_FEATURES:
		scan_copy(&v, to, sizeof(out->x86_thread_features));
		return true;
	}
	return false;
}

int proc_parse_status(struct arena *a, const char *text, size_t len, struct proc_status *out)
{
	struct scan s = SCAN(text, len), line;
	unsigned have = 0;

	memset(out, 0, sizeof(*out));
	out->seccomp_filters = -1;
	out->thp_enabled = -1;
	while (scan_line(&s, &line)) {
		struct scan key = scan_until(&line, ':');

		/* One tab, not more: a name may begin with blanks. */
		scan_char(&line, '\t');
		if (scan_is(&key, "VmSize"))
			out->has_mm = true;
		for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
			if (!scan_is(&key, fields[i].key))
				continue;
			if (fields[i].type != T_NAME)
				scan_blanks(&line);
			if (!parse_field(a, fields[i].type, (char *)out + fields[i].offset, line, out))
				return -1;
			have |= fields[i].have;
			break;
		}
	}
	if (have != HAVE_ALL)
		return -1;
	if (!out->nspid.n)
		out->nspid = (struct proc_levels){ .v = { out->pid }, .n = 1 };
	if (!out->nstgid.n)
		out->nstgid = (struct proc_levels){ .v = { out->tgid }, .n = 1 };
	return 0;
}

int proc_parse_stat(const char *text, size_t len, struct proc_stat *out)
{
	const char *open = len ? memchr(text, '(', len) : NULL;
	const char *close = len ? memrchr(text, ')', len) : NULL;
	struct scan s = SCAN(text, len), word;
	uint64_t f[53] = { 0 };
	unsigned n;

	memset(out, 0, sizeof(*out));
	if (!open || !close || close < open || !scan_int(&s, &out->pid) || !scan_char(&s, ' ') || s.p != open)
		return -1;
	/* The last parenthesis ends the name: numbers follow, the name may hold anything, and here nothing is escaped. */
	scan_copy(&(struct scan){ open + 1, close }, out->comm, sizeof(out->comm));
	s.p = close + 1;
	s.end = memchr(s.p, '\n', SCAN_LEN(&s)) ?: s.end;
	if (!scan_word(&s, &word) || SCAN_LEN(&word) != 1)
		return -1;
	out->state = *word.p;
	/* Numbered as in proc_pid_stat(5). Signed ones are kept in two's complement. */
	for (n = 4; n < ARRAY_SIZE(f); n++) {
		scan_blanks(&s);
		if (scan_end(&s))
			break;
		if (*s.p == '-') {
			int64_t v;

			if (!scan_s64(&s, &v))
				return -1;
			f[n] = (uint64_t)v;
		} else if (!scan_u64(&s, &f[n])) {
			return -1;
		}
	}
	if (n < ARRAY_SIZE(f))
		return -1;
	out->ppid = (pid_t)f[4];
	out->pgrp = (pid_t)f[5];
	out->session = (pid_t)f[6];
	out->tty_nr = (int)f[7];
	out->tpgid = (pid_t)f[8];
	out->flags = (uint32_t)f[9];
	out->nice = (int)f[19];
	out->num_threads = (long)f[20];
	out->starttime = f[22];
	out->vsize = f[23];
	out->rss = f[24];
	out->start_code = f[26];
	out->end_code = f[27];
	out->start_stack = f[28];
	out->exit_signal = (int)f[38];
	out->start_data = f[45];
	out->end_data = f[46];
	out->start_brk = f[47];
	out->arg_start = f[48];
	out->arg_end = f[49];
	out->env_start = f[50];
	out->env_end = f[51];
	out->exit_code = (uint32_t)f[52];
	return 0;
}
