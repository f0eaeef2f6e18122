/* SPDX-License-Identifier: MIT */
/*
 * Options of SOL_SOCKET. Those that the format knows go to sk_opts_entry; of the others, and of those of other levels, what
 * differs from a new socket of the same kind goes to our own file as the bytes that getsockopt gave.
 */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/sock.h"

#define FILTER_MAX 4096 /* BPF_MAXINSNS */

/* ---------------------------------------------------------------------------------- what the format has no place for */

struct fresh_value {
	const uint8_t *value;
	socklen_t len;
	bool there; /* the kernel has it, for such a socket */
};

struct sock_fresh {
	size_t n;
	struct fresh_value v[]; /* of each in the list */
};

/* Some kinds may be made by few: then one that has at least the options of SOL_SOCKET and IP. */
static int fresh_socket(const struct fd_view *v)
{
	int type = sock_get_int(v->copy, SO_TYPE), protocol = sock_get_int(v->copy, SO_PROTOCOL), family = sock_family(v->copy);
	int fd = socket(family, type | SOCK_CLOEXEC, protocol);

	return fd < 0 && errno == EACCES && type == SOCK_DGRAM ? socket(family, type | SOCK_CLOEXEC, 0) : fd;
}

static int fresh_options(struct op *op, const struct fd_view *v, struct sock_fresh **ret)
{
	_cleanup_close_ int fd = fresh_socket(v);
	uint8_t value[SOCK_OPT_MAX];
	size_t n;
	const struct sock_opt *list = sock_opt_list(&n);
	struct sock_fresh *f = op_alloc(op, sizeof(*f) + n * sizeof(f->v[0]));

	if (!f)
		return CKPT_E_NOMEM;
	if (fd < 0)
		return file_errno(op, v, "make a socket of its kind, to compare options");
	for (f->n = 0; f->n < n; f->n++) {
		const size_t i = f->n;
		struct fresh_value *x = &f->v[i];

		x->len = list[i].size;
		if (getsockopt(fd, list[i].level, list[i].name, value, &x->len) < 0)
			continue;
		x->there = true;
		x->value = arena_memdup(op->arena, value, x->len ? x->len : 1);
		if (!x->value)
			return op_nomem(op);
	}
	*ret = f;
	return 0;
}

/* Numbers of network devices are nothing for another machine. */
static int name_device(struct op *op, const struct fd_view *v, const struct sock_opt *o, const uint8_t *value,
		       ProtobufCBinaryData *ret)
{
	char name[IF_NAMESIZE];
	uint32_t index;

	memcpy(&index, value, sizeof(index));
	if (!if_indextoname(o->flags & SOCK_OPT_BIG_ENDIAN ? ntohl(index) : index, name))
		return op_errno(op, errno, AT(.pid = v->pid, AT_FD(v->fd), .kind = "socket"),
				"socket: cannot find the network device that %s names", o->text);
	ret->len = strlen(name);
	ret->data = arena_memdup(op->arena, name, ret->len + 1);
	return ret->data ? 0 : op_nomem(op);
}

static int add_other(struct op *op, const struct fd_view *v, const struct sock_opt *o, const uint8_t *value, size_t n,
		     struct sock_options *ret)
{
	SockOption *m = op_new(op, SockOption), **slot;

	slot = m ? ARRAY_ADD(op->arena, &ret->more) : NULL;
	if (!slot)
		return op_nomem(op);
	sock_option__init(m);
	*slot = m;
	m->name = (uint32_t)o->name;
	if (o->level != SOL_SOCKET) {
		m->has_level = 1;
		m->level = (uint32_t)o->level;
	}
	if (o->flags & SOCK_OPT_DEVICE)
		return name_device(op, v, o, value, &m->value);
	m->value.len = n;
	m->value.data = arena_memdup(op->arena, value, n ? n : 1);
	return m->value.data ? 0 : op_nomem(op);
}

static int dump_others(struct op *op, const struct fd_view *v, struct sock_fresh **fresh, struct sock_options *ret)
{
	int r = *fresh ? 0 : fresh_options(op, v, fresh);
	const bool stream = sock_get_int(v->copy, SO_TYPE) == SOCK_STREAM;
	uint8_t value[SOCK_OPT_MAX];
	size_t n;
	const struct sock_opt *list = sock_opt_list(&n);

	for (size_t i = 0; !r && i < n; i++) {
		const struct fresh_value *x = &(*fresh)->v[i];
		socklen_t len = list[i].size;

		if (!x->there || (ret->connected && list[i].flags & SOCK_OPT_IDLE) ||
		    (stream && list[i].flags & SOCK_OPT_PACKETS) ||
		    getsockopt(v->copy, list[i].level, list[i].name, value, &len) < 0)
			continue;
		if (list[i].flags & SOCK_OPT_ALWAYS || len != x->len || memcmp(value, x->value, len))
			r = add_other(op, v, &list[i], value, len, ret);
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
	m->has_so_passcred = m->so_passcred || sock_family(fd) == AF_UNIX; /* few families have them */
	m->has_so_passsec = m->so_passsec || m->has_so_passcred;
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

/* The value to set; false: it is none of that option's. */
static bool value_of(const struct sock_opt *o, const SockOption *m, uint8_t *value, socklen_t *len)
{
	char name[IF_NAMESIZE];
	uint32_t index;

	*len = (socklen_t)m->value.len;
	if (!(o->flags & SOCK_OPT_DEVICE)) {
		if (m->value.len > o->size || (m->value.len < o->size && !(o->flags & SOCK_OPT_VARIES)))
			return false;
		if (m->value.len)
			memcpy(value, m->value.data, m->value.len);
		return true;
	}
	if (!m->value.len || m->value.len >= sizeof(name))
		return false;
	memcpy(name, m->value.data, m->value.len);
	name[m->value.len] = 0;
	index = if_nametoindex(name); /* 0: setsockopt would take it for none */
	index = !index ? UINT32_MAX : index;
	index = o->flags & SOCK_OPT_BIG_ENDIAN ? htonl(index) : index;
	*len = sizeof(index);
	memcpy(value, &index, sizeof(index));
	return true;
}

static int failed_other(struct op *op, const struct sock_opt *o, const SockOption *m, const char *what)
{
	const char *text = arena_printf(op->arena, "%.*s", (int)m->value.len, m->value.len ? (const char *)m->value.data : "");
	int eno = errno;

	if (!text)
		return op_nomem(op);
	if (o->flags & SOCK_OPT_DEVICE)
		return op_errno(op, eno, AT(.kind = "socket", .hint = "the device must be there"), 
				"%s: cannot set %s to device %s", what, o->text, text);
	if (o->level == IPPROTO_TCP && o->name == TCP_CONGESTION)
		return op_errno(op, eno, AT(.kind = "socket", .hint = "load the module that has it: tcp_NAME"),
				"%s: cannot set %s to %s", what, o->text, text);
	return op_errno(op, eno, AT(.kind = "socket"), "%s: cannot set %s", what, o->text);
}

/* What it has already is not set: some of these can only be set at certain times. */
static int apply_other(struct op *op, int fd, const struct sock_opt *o, const SockOption *m, const char *what)
{
	uint8_t value[SOCK_OPT_MAX], now[SOCK_OPT_MAX];
	socklen_t len, n = o->size;

	if (!value_of(o, m, value, &len))
		return image_bad(op, "ckpt-extra: %s: %zu bytes are no value of %s", what, m->value.len, o->text);
	if (getsockopt(fd, o->level, o->name, now, &n) == 0 && n == len && !memcmp(now, value, n))
		return 0;
	return setsockopt(fd, o->level, o->name, value, len) < 0 ? failed_other(op, o, m, what) : 0;
}

enum pass { PASS_EARLY, PASS_PROTOCOLS, PASS_SOCKET };

static int apply_others(struct op *op, int fd, SockOption *const *more, size_t n, const char *what, enum pass pass)
{
	int r = 0;

	for (size_t i = 0; !r && i < n; i++) {
		const struct sock_opt *o = sock_opt_find(more[i]->level, more[i]->name);

		if (!o)
			return image_bad(op, "ckpt-extra: %s: %u of level %u is not a socket option that is kept there", what,
					 more[i]->name, more[i]->level);
		if (pass == PASS_EARLY ? o->flags & SOCK_OPT_EARLY : (o->level == SOL_SOCKET) == (pass == PASS_SOCKET))
			r = apply_other(op, fd, o, more[i], what);
	}
	return r;
}

int sock_options_prepare(struct op *op, int fd, SockOption *const *more, size_t n_more, const char *what)
{
	return apply_others(op, fd, more, n_more, what, PASS_EARLY);
}

/* Some of IP change the priority. */
int sock_options_apply(struct op *op, int fd, const SkOptsEntry *opts, SockOption *const *more, size_t n_more, const char *what)
{
	int r = apply_others(op, fd, more, n_more, what, PASS_PROTOCOLS);
	const char *failed;

	if (r)
		return r;
	failed = apply_numbers(fd, opts);
	failed = failed ? failed : apply_times(fd, opts);
	failed = failed ? failed : apply_filter(fd, opts);
	if (failed)
		return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot set %s", what, failed);
	return apply_others(op, fd, more, n_more, what, PASS_SOCKET);
}
