/* SPDX-License-Identifier: MIT */
/*
 * Options of SOL_SOCKET. Those that the format knows go to sk_opts_entry; of the others, what differs from a new socket of
 * the same kind goes to our own file as the bytes that getsockopt gave.
 */
#include <linux/filter.h>
#include <net/if.h>
#include <sys/time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/sock.h"

#define FILTER_MAX 4096 /* BPF_MAXINSNS */

/* ---------------------------------------------------------------------------------- what the format has no place for */

static const int others[] = {
	SO_DEBUG, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, 63 /* SO_TIMESTAMP_NEW */, 64 /* SO_TIMESTAMPNS_NEW */,
	65 /* SO_TIMESTAMPING_NEW */, SO_RXQ_OVFL, SO_WIFI_STATUS, SO_PEEK_OFF, SO_NOFCS, SO_SELECT_ERR_QUEUE, SO_BUSY_POLL,
	SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_ZEROCOPY, SO_TXTIME, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET, SO_RESERVE_MEM,
	SO_TXREHASH, SO_RCVMARK, SO_PASSPIDFD, SO_RCVPRIORITY, SO_PASSRIGHTS, SO_LOCK_FILTER /* last: it bars others */,
};

#define VALUE_MAX 64

struct sock_fresh {
	uint8_t value[ARRAY_SIZE(others)][VALUE_MAX];
	int len[ARRAY_SIZE(others)]; /* -1: the kernel does not have it */
};

static int fresh_options(struct op *op, const struct fd_view *v, struct sock_fresh **ret)
{
	int type = sock_get_int(v->copy, SO_TYPE), protocol = sock_get_int(v->copy, SO_PROTOCOL);
	_cleanup_close_ int fd = socket(sock_family(v->copy), type | SOCK_CLOEXEC, protocol);
	struct sock_fresh *f = op_new(op, struct sock_fresh);

	if (!f)
		return CKPT_E_NOMEM;
	if (fd < 0)
		return file_errno(op, v, "make a socket of its kind, to compare options");
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		socklen_t n = VALUE_MAX;

		f->len[i] = getsockopt(fd, SOL_SOCKET, others[i], f->value[i], &n) < 0 ? -1 : (int)n;
	}
	*ret = f;
	return 0;
}

static int dump_others(struct op *op, const struct fd_view *v, struct sock_fresh **fresh, struct sock_options *ret)
{
	int r = *fresh ? 0 : fresh_options(op, v, fresh);
	const struct sock_fresh *f = *fresh;

	for (size_t i = 0; !r && i < ARRAY_SIZE(others); i++) {
		uint8_t a[VALUE_MAX] = { 0 };
		socklen_t na = sizeof(a);
		SockOption *o, **slot;

		if (f->len[i] < 0 || getsockopt(v->copy, SOL_SOCKET, others[i], a, &na) < 0 ||
		    ((int)na == f->len[i] && !memcmp(a, f->value[i], na)))
			continue;
		o = op_new(op, SockOption);
		slot = o ? ARRAY_ADD(op->arena, &ret->more) : NULL;
		if (!slot)
			return op_nomem(op);
		sock_option__init(o);
		o->name = (uint32_t)others[i];
		o->value.len = na;
		o->value.data = arena_memdup(op->arena, a, na);
		if (!o->value.data)
			return op_nomem(op);
		*slot = o;
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------------- dump */

static int dump_filter(struct op *op, const struct fd_view *v, SkOptsEntry *m)
{
	struct sock_filter *code;
	socklen_t n = 0;

	/* The length is in instructions here, not in bytes. */
	if (getsockopt(v->copy, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0)
		return errno == EACCES ? file_refuse(op, v, "socket", "detach the program before the checkpoint",
						     "its filter is an eBPF program, which cannot be read")
				       : file_errno(op, v, "read its filter");
	if (!n)
		return 0;
	code = op_alloc(op, n * sizeof(*code));
	m->so_filter = op_alloc(op, n * sizeof(*m->so_filter));
	if (!code || !m->so_filter)
		return CKPT_E_NOMEM;
	if (getsockopt(v->copy, SOL_SOCKET, SO_GET_FILTER, code, &n) < 0)
		return file_errno(op, v, "read its filter");
	m->n_so_filter = n;
	for (socklen_t i = 0; i < n; i++)
		m->so_filter[i] = (uint64_t)code[i].code << 48 | (uint64_t)code[i].jt << 40 | (uint64_t)code[i].jf << 32 |
				  code[i].k;
	return 0;
}

static int dump_device(struct op *op, int fd, SkOptsEntry *m)
{
	char name[IFNAMSIZ + 1] = "";
	socklen_t n = IFNAMSIZ;

	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n) < 0 || !n || !name[0])
		return 0;
	m->so_bound_dev = arena_strdup(op->arena, name);
	return m->so_bound_dev ? 0 : op_nomem(op);
}

#define DUMP_OPTION(m, fd, field, option)                \
	do {                                             \
		(m)->has_##field = 1;                    \
		(m)->field = sock_get_int((fd), option); \
	} while (0)

static void dump_numbers(int fd, SkOptsEntry *m)
{
	struct linger l = { 0 };
	socklen_t n = sizeof(l);

	m->so_sndbuf = (uint32_t)sock_get_int(fd, SO_SNDBUF);
	m->so_rcvbuf = (uint32_t)sock_get_int(fd, SO_RCVBUF);
	DUMP_OPTION(m, fd, reuseaddr, SO_REUSEADDR);
	DUMP_OPTION(m, fd, so_priority, SO_PRIORITY);
	DUMP_OPTION(m, fd, so_rcvlowat, SO_RCVLOWAT);
	DUMP_OPTION(m, fd, so_passcred, SO_PASSCRED);
	DUMP_OPTION(m, fd, so_passsec, SO_PASSSEC);
	DUMP_OPTION(m, fd, so_dontroute, SO_DONTROUTE);
	DUMP_OPTION(m, fd, so_no_check, SO_NO_CHECK);
	DUMP_OPTION(m, fd, so_reuseport, SO_REUSEPORT);
	DUMP_OPTION(m, fd, so_broadcast, SO_BROADCAST);
	DUMP_OPTION(m, fd, so_keepalive, SO_KEEPALIVE);
	DUMP_OPTION(m, fd, so_oobinline, SO_OOBINLINE);
	DUMP_OPTION(m, fd, so_buf_lock, SO_BUF_LOCK);
	m->so_mark = (uint32_t)sock_get_int(fd, SO_MARK);
	m->has_so_mark = m->so_mark != 0;
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n) == 0 && l.l_onoff) {
		m->has_so_linger = 1;
		m->so_linger = (uint32_t)l.l_linger;
	}
}

static void dump_timeout(int fd, int name, uint64_t *sec, uint64_t *usec)
{
	struct timeval tv = { 0 };
	socklen_t n = sizeof(tv);

	if (getsockopt(fd, SOL_SOCKET, name, &tv, &n) < 0)
		return;
	*sec = (uint64_t)tv.tv_sec;
	*usec = (uint64_t)tv.tv_usec;
}

int sock_options_dump(struct op *op, const struct fd_view *v, struct sock_fresh **fresh, struct sock_options *ret)
{
	SkOptsEntry *m = op_new(op, SkOptsEntry);
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	sk_opts_entry__init(m);
	ret->opts = m;
	dump_numbers(v->copy, m);
	dump_timeout(v->copy, SO_SNDTIMEO, &m->so_snd_tmo_sec, &m->so_snd_tmo_usec);
	dump_timeout(v->copy, SO_RCVTIMEO, &m->so_rcv_tmo_sec, &m->so_rcv_tmo_usec);
	r = dump_device(op, v->copy, m);
	r = r ? r : dump_filter(op, v, m);
	return r ? r : dump_others(op, v, fresh, ret);
}

/* ---------------------------------------------------------------------------------------------------- restore */

/* What the new socket has already is not set: setting some of these needs rights, and buffers lock their size. */
static int set_int(int fd, int name, int set_name, int want, int value)
{
	if (sock_get_int(fd, name) == want)
		return 0;
	return setsockopt(fd, SOL_SOCKET, set_name, &value, sizeof(value));
}

#define APPLY(field, option)                                                                              \
	if (m->has_##field && set_int(fd, option, option, (int)m->field, (int)m->field) < 0)             \
		return #option

static const char *apply_numbers(int fd, const SkOptsEntry *m)
{
	APPLY(reuseaddr, SO_REUSEADDR);
	APPLY(so_priority, SO_PRIORITY);
	APPLY(so_rcvlowat, SO_RCVLOWAT);
	APPLY(so_mark, SO_MARK);
	APPLY(so_passcred, SO_PASSCRED);
	APPLY(so_passsec, SO_PASSSEC);
	APPLY(so_dontroute, SO_DONTROUTE);
	APPLY(so_no_check, SO_NO_CHECK);
	APPLY(so_reuseport, SO_REUSEPORT);
	APPLY(so_broadcast, SO_BROADCAST);
	APPLY(so_keepalive, SO_KEEPALIVE);
	APPLY(so_oobinline, SO_OOBINLINE);
	if (set_int(fd, SO_SNDBUF, SO_SNDBUFFORCE, (int)m->so_sndbuf, (int)m->so_sndbuf / 2) < 0)
		return "SO_SNDBUF";
	if (set_int(fd, SO_RCVBUF, SO_RCVBUFFORCE, (int)m->so_rcvbuf, (int)m->so_rcvbuf / 2) < 0)
		return "SO_RCVBUF";
	APPLY(so_buf_lock, SO_BUF_LOCK);
	return NULL;
}

static const char *apply_times(int fd, const SkOptsEntry *m)
{
	const struct linger l = { 1, (int)m->so_linger };
	struct timeval snd = { (time_t)m->so_snd_tmo_sec, (suseconds_t)m->so_snd_tmo_usec };
	struct timeval rcv = { (time_t)m->so_rcv_tmo_sec, (suseconds_t)m->so_rcv_tmo_usec };

	if ((snd.tv_sec || snd.tv_usec) && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &snd, sizeof(snd)) < 0)
		return "SO_SNDTIMEO";
	if ((rcv.tv_sec || rcv.tv_usec) && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &rcv, sizeof(rcv)) < 0)
		return "SO_RCVTIMEO";
	if (m->has_so_linger && setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)) < 0)
		return "SO_LINGER";
	if (m->so_bound_dev && *m->so_bound_dev &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, m->so_bound_dev, (socklen_t)strnlen(m->so_bound_dev, IFNAMSIZ)) < 0)
		return "SO_BINDTODEVICE";
	return NULL;
}

static const char *apply_filter(int fd, const SkOptsEntry *m)
{
	struct sock_filter code[FILTER_MAX];
	struct sock_fprog prog = { (unsigned short)m->n_so_filter, code };

	if (!m->n_so_filter)
		return NULL;
	errno = EINVAL;
	if (m->n_so_filter > FILTER_MAX)
		return "SO_ATTACH_FILTER";
	for (size_t i = 0; i < m->n_so_filter; i++) {
		uint64_t x = m->so_filter[i];

		code[i] = (struct sock_filter){ (uint16_t)(x >> 48), (uint8_t)(x >> 40), (uint8_t)(x >> 32), (uint32_t)x };
	}
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ? "SO_ATTACH_FILTER" : NULL;
}

static bool is_other(uint32_t name)
{
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (others[i] == (int)name)
			return true;
	return false;
}

int sock_options_apply(struct op *op, int fd, const SkOptsEntry *opts, SockOption *const *more, size_t n_more, const char *what)
{
	const char *failed = apply_numbers(fd, opts);

	failed = failed ? failed : apply_times(fd, opts);
	failed = failed ? failed : apply_filter(fd, opts);
	if (failed)
		return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot set %s", what, failed);
	for (size_t i = 0; i < n_more; i++) {
		const SockOption *o = more[i];

		if (!is_other(o->name) || o->value.len > 64)
			return image_bad(op, "ckpt-extra: %s: %u is not a socket option that is kept there", what, o->name);
		if (setsockopt(fd, SOL_SOCKET, (int)o->name, o->value.data, (socklen_t)o->value.len) < 0)
			return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot set socket option %u", what, o->name);
	}
	return 0;
}
