// SPDX-License-Identifier: MIT
#include "lib/image/ps_stream.h"

#include <poll.h>
#include <sys/socket.h>

#define TICK_MS 200 /* how often a wait looks whether it was cancelled */
#define TLS_CHUNK (64u << 10)

void ps_stream_init(struct ps_stream *s, int fd, const char *peer, uint32_t stall_s)
{
	*s = (struct ps_stream){ .fd = fd, .peer = peer, .stall_s = stall_s,
				   .hint = "the other side's messages may say why" };
}

void ps_stream_done(struct ps_stream *s)
{
	s->tls = tls_free(s->tls);
	free(TAKE_PTR(s->ahead));
}

static int stalled(struct op *op, struct ps_stream *s, bool sending)
{
	return op_fail(op, CKPT_E_TIMEOUT, AT(.kind = "page server", .hint = "more time: --ps-timeout SECONDS (0: never give up)"),
		       "%s %s for %u s", s->peer, sending ? "took nothing" : "sent nothing", s->stall_s);
}

static int lost(struct op *op, struct ps_stream *s, int eno)
{
	return op_errno(op, eno, AT(.kind = "page server", .hint = s->hint), "the connection to the %s was lost", s->peer);
}

/* Waits until the stream can move on. @since: when it last did. */
static int wait_for(struct op *op, struct ps_stream *s, short events, uint64_t since)
{
	struct pollfd p = { .fd = s->fd, .events = events };
	int r = op_check_cancel(op), n;

	while (r == 0) {
		n = poll(&p, 1, TICK_MS);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return lost(op, s, errno);
		r = op_check_cancel(op);
		if (r == 0 && s->stall_s && now_ns() - since > s->stall_s * 1000000000ull)
			return stalled(op, s, events == POLLOUT);
	}
	return r;
}

/* ---- TLS */

static int tls_wait(struct op *op, struct ps_stream *s, int want, uint64_t since)
{
	return wait_for(op, s, want == TLS_WANT_WRITE ? POLLOUT : POLLIN, since);
}

int ps_stream_tls(struct op *op, struct ps_stream *s, const char *host)
{
	uint64_t since = now_ns();
	int r = tls_new(op, s->fd, host, &s->tls);

	if (r)
		return r;
	while ((r = tls_handshake(op, s->tls)) > 0) {
		r = tls_wait(op, s, r, since);
		if (r)
			break;
	}
	return r ? op_wrap(op, r, "%s", s->peer) : 0;
}

int ps_stream_bye(struct op *op, struct ps_stream *s)
{
	uint64_t since = now_ns();
	int r = 0;

	while (s->tls && (r = tls_bye(op, s->tls)) > 0) {
		r = tls_wait(op, s, r, since);
		if (r)
			return r;
	}
	return r;
}

/* ---- sending */

/* Moves @iov behind @n bytes that are done with. */
static void advance(struct iovec **iov, int *count, size_t n)
{
	while (*count && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*count)--;
	}
	if (*count) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

static int send_plain(struct op *op, struct ps_stream *s, struct iovec *iov, int count)
{
	uint64_t since = now_ns();
	int r;

	while (count) {
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)count };
		ssize_t n = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0) {
			s->sent += (size_t)n;
			advance(&iov, &count, (size_t)n);
			since = now_ns();
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return lost(op, s, errno);
		r = wait_for(op, s, POLLOUT, since);
		if (r)
			return r;
	}
	return 0;
}

/* A record that could not be sent at once must be offered again as it was. */
static int send_record(struct op *op, struct ps_stream *s, const void *p, size_t n)
{
	uint64_t since = now_ns();
	size_t done = 0, sent;

	while (done < n) {
		int r = tls_send(op, s->tls, (const char *)p + done, n - done, &sent);

		if (r == 0) {
			done += sent;
			since = now_ns();
			continue;
		}
		r = r > 0 ? tls_wait(op, s, r, since) : op_wrap(op, r, "%s", s->peer);
		if (r)
			return r;
	}
	s->sent += n;
	return 0;
}

/* Small pieces are put together: a record each would be dear. */
static int send_tls(struct op *op, struct ps_stream *s, const struct iovec *iov, int count)
{
	uint8_t buf[TLS_CHUNK];
	size_t used = 0;
	int r = 0;

	for (int i = 0; i < count && r == 0; i++) {
		if (used + iov[i].iov_len <= sizeof(buf)) {
			memcpy(buf + used, iov[i].iov_base, iov[i].iov_len);
			used += iov[i].iov_len;
			continue;
		}
		if (used)
			r = send_record(op, s, buf, used);
		used = 0;
		if (r == 0 && iov[i].iov_len > sizeof(buf) / 2) {
			r = send_record(op, s, iov[i].iov_base, iov[i].iov_len);
		} else if (r == 0) {
			memcpy(buf, iov[i].iov_base, iov[i].iov_len);
			used = iov[i].iov_len;
		}
	}
	return r ?: used ? send_record(op, s, buf, used) : 0;
}

int ps_sendv(struct op *op, struct ps_stream *s, struct iovec *iov, int n)
{
	return s->tls ? send_tls(op, s, iov, n) : send_plain(op, s, iov, n);
}

int ps_send(struct op *op, struct ps_stream *s, const void *p, size_t n)
{
	struct iovec iov = { (void *)p, n };

	return ps_sendv(op, s, &iov, 1);
}

/* ---- receiving */

/* Some bytes, into @iov. Returns 0 with *@got, which is 0 at the end of the stream. */
static int recv_some(struct op *op, struct ps_stream *s, struct iovec *iov, int count, size_t *got)
{
	uint64_t since = now_ns();
	int r;

	for (;;) {
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)count };
		ssize_t n;

		if (s->tls) {
			r = tls_recv(op, s->tls, iov->iov_base, iov->iov_len, got);
			if (r <= 0)
				return r ? op_wrap(op, r, "%s", s->peer) : 0;
			r = tls_wait(op, s, r, since);
		} else {
			n = recvmsg(s->fd, &m, MSG_DONTWAIT);
			if (n >= 0) {
				*got = (size_t)n;
				return 0;
			}
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				return lost(op, s, errno);
			r = wait_for(op, s, POLLIN, since);
		}
		if (r)
			return r;
	}
}

static size_t take_ahead(struct ps_stream *s, void *p, size_t n)
{
	n = MIN(n, s->ahead_to - s->ahead_from);
	if (n)
		memcpy(p, s->ahead + s->ahead_from, n);
	s->ahead_from += n;
	return n;
}

static int receive(struct op *op, struct ps_stream *s, void *p, size_t n, bool ahead, size_t *ret)
{
	size_t done = take_ahead(s, p, n), got;
	int r;

	while (done < n) {
		struct iovec iov[2] = { { (char *)p + done, n - done }, { s->ahead, PS_AHEAD } };

		r = recv_some(op, s, iov, ahead ? 2 : 1, &got);
		if (r)
			return r;
		if (got == 0)
			break;
		s->received += got;
		if (got > n - done) {
			s->ahead_from = 0;
			s->ahead_to = got - (n - done);
			got = n - done;
		}
		done += got;
	}
	*ret = done;
	return 0;
}

int ps_recv(struct op *op, struct ps_stream *s, void *p, size_t n, size_t *got)
{
	return receive(op, s, p, n, false, got);
}

int ps_recv_ahead(struct op *op, struct ps_stream *s, void *p, size_t n, size_t *got)
{
	if (!s->ahead && !s->tls) /* TLS keeps what is left of a record by itself */
		s->ahead = malloc(PS_AHEAD);
	return receive(op, s, p, n, s->ahead != NULL, got);
}

int ps_recv_all(struct op *op, struct ps_stream *s, void *p, size_t n, const char *what)
{
	size_t got;
	int r = ps_recv(op, s, p, n, &got);

	if (r || got == n)
		return r;
	return op_fail(op, CKPT_E_SYS, AT(.kind = "page server", .hint = s->hint), "the %s closed the connection instead of sending %s", s->peer,
		       what);
}

bool ps_stream_pending(const struct ps_stream *s)
{
	return s->ahead_from < s->ahead_to || (s->tls && tls_pending(s->tls));
}

int ps_wait(struct op *op, struct ps_stream *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	int r = op_check_cancel(op);

	while (r == 0 && !ps_stream_pending(s) && poll(&p, 1, TICK_MS) <= 0)
		r = op_check_cancel(op);
	return r;
}
