// SPDX-License-Identifier: MIT
#include "lib/base/tls.h"

#include <dlfcn.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/socket.h>

#define LIBRARY "libgnutls.so.30"
#define CA "/etc/pki/CA/cacert.pem"
#define CRL "/etc/pki/CA/cacrl.pem"
#define CERT "/etc/pki/criu/cert.pem"
#define KEY "/etc/pki/criu/private/key.pem"

/* What we use of the library, by name. */
#define FUNCTIONS(X)                                                                                                 \
	X(alert_get) X(alert_get_name) X(alert_send_appropriate) X(bye) X(certificate_allocate_credentials)             \
	X(certificate_free_credentials) X(certificate_server_set_request)              \
	X(certificate_set_x509_crl_file) X(certificate_set_x509_key_file) X(certificate_set_x509_trust_file)           \
	X(certificate_verification_status_print) X(certificate_verify_peers3) X(credentials_set) X(deinit)             \
	X(error_is_fatal) X(handshake) X(init) X(record_check_pending) X(record_get_direction) X(record_recv) X(record_send)                   \
	X(session_set_verify_cert) X(set_default_priority) X(strerror)                              \
	X(transport_set_errno) X(transport_set_ptr) X(transport_set_pull_function)                                     \
	X(transport_set_pull_timeout_function) X(transport_set_push_function)

struct functions {
#define MEMBER(name) __typeof__(gnutls_##name) *name;
	FUNCTIONS(MEMBER)
	__typeof__(gnutls_free) *free;
};

struct tls {
	struct functions f;
	int fd;
	bool server, shaken;
	gnutls_certificate_credentials_t cred;
	gnutls_session_t session;
};

static int load(struct op *op, struct functions *f)
{
	/* Not closed again: it would take its threads' data with it. */
	void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

	if (!lib)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "tls", .hint = "install GnuTLS (the package libgnutls30)"),
			       "option --tls needs the library " LIBRARY ", which cannot be loaded: %s", dlerror());
#define LOOK_UP(name)                                                                                                \
	f->name = (__typeof__(f->name))dlsym(lib, "gnutls_" #name);                                                   \
	if (!f->name)                                                                                                 \
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "tls"), LIBRARY " has no gnutls_" #name);
	FUNCTIONS(LOOK_UP)
	f->free = dlsym(lib, "gnutls_free");
	return 0;
}

/* ---- between the library and the socket */

static ssize_t push(gnutls_transport_ptr_t ptr, const void *p, size_t n)
{
	struct tls *t = ptr;
	ssize_t r = send(t->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (r < 0)
		t->f.transport_set_errno(t->session, errno);
	return r;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *p, size_t n)
{
	struct tls *t = ptr;
	ssize_t r = recv(t->fd, p, n, MSG_DONTWAIT);

	if (r < 0)
		t->f.transport_set_errno(t->session, errno);
	return r;
}

/* Nothing ever waits in there. */
static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
	(void)ptr;
	(void)ms;
	return 1;
}

/* ---- certificates */

static int cannot_use(struct op *op, struct tls *t, int code, const char *what, const char *path)
{
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "tls"), "%s %s cannot be used: %s", what, path, t->f.strerror(code));
}

static int set_credentials(struct op *op, struct tls *t)
{
	const struct ckpt_opts *o = op->opts;
	const char *ca = o->tls_cacert ?: CA, *crl = o->tls_cacrl ?: CRL, *cert = o->tls_cert ?: CERT, *key = o->tls_key ?: KEY;
	int r = t->f.certificate_allocate_credentials(&t->cred);

	if (r < 0)
		return op_nomem(op);
	r = t->f.certificate_set_x509_trust_file(t->cred, ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		return cannot_use(op, t, r ?: GNUTLS_E_NO_CERTIFICATE_FOUND, "the certificates of authorities in", ca);
	/* A list that was named must be there; the usual place may be empty. */
	if (o->tls_cacrl || access(crl, F_OK) == 0) {
		r = t->f.certificate_set_x509_crl_file(t->cred, crl, GNUTLS_X509_FMT_PEM);
		if (r < 0)
			return cannot_use(op, t, r, "the list of revoked certificates in", crl);
	}
	r = t->f.certificate_set_x509_key_file(t->cred, cert, key, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		return cannot_use(op, t, r, "our certificate with its key, ", arena_printf(op->arena, "%s and %s,", cert, key));
	return 0;
}

static int start(struct op *op, struct tls *t, const char *host)
{
	int r = t->f.init(&t->session, (host ? GNUTLS_CLIENT : GNUTLS_SERVER) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);

	if (r < 0)
		return op_nomem(op);
	r = t->f.set_default_priority(t->session);
	if (r == 0)
		r = t->f.credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->cred);
	if (r < 0)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "tls"), "TLS cannot be set up: %s", t->f.strerror(r));
	if (!host)
		t->f.certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
	t->f.session_set_verify_cert(t->session, host && !op->opts->tls_no_cn_verify ? host : NULL, 0);
	t->f.transport_set_ptr(t->session, t);
	t->f.transport_set_push_function(t->session, push);
	t->f.transport_set_pull_function(t->session, pull);
	t->f.transport_set_pull_timeout_function(t->session, pull_timeout);
	return 0;
}

int tls_new(struct op *op, int fd, const char *host, struct tls **ret)
{
	struct tls *t = op_new(op, struct tls);
	int r;

	if (!t)
		return CKPT_E_NOMEM;
	if (host && !host[0] && !op->opts->tls_no_cn_verify)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "tls", .hint = "add --address NAME, or --tls-no-cn-verify"),
			       "--tls: the name that the peer's certificate has to be for is not known");
	t->fd = fd;
	t->server = !host;
	r = load(op, &t->f);
	r = r ?: set_credentials(op, t);
	r = r ?: start(op, t, host);
	if (r) {
		tls_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

int tls_check(struct op *op)
{
	struct tls *t = op_new(op, struct tls);
	int r = t ? load(op, &t->f) ?: set_credentials(op, t) : CKPT_E_NOMEM;

	tls_free(t);
	return r;
}

struct tls *tls_free(struct tls *t)
{
	if (!t)
		return NULL;
	if (t->session)
		t->f.deinit(t->session);
	if (t->cred)
		t->f.certificate_free_credentials(t->cred);
	t->session = NULL;
	t->cred = NULL;
	return NULL;
}

/* ---- the session */

/* What is wrong with the peer's certificate, in the library's words. */
static int not_verified(struct op *op, struct tls *t)
{
	gnutls_datum_t text = { 0 };
	unsigned status = 0;
	int r;

	if (t->f.certificate_verify_peers3(t->session, NULL, &status) == 0 && status &&
	    t->f.certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
		r = op_fail(op, CKPT_E_PERM, AT(.kind = "tls"), "the peer's certificate is not accepted: %s",
			    (const char *)text.data);
		(*t->f.free)(text.data);
		return r;
	}
	return op_fail(op, CKPT_E_PERM, AT(.kind = "tls", .hint = "its name must be that of --address, or use --tls-no-cn-verify"),
		       "the peer's certificate is not accepted: it is for another name");
}

static int failed(struct op *op, struct tls *t, int code, const char *what)
{
	bool first = !t->shaken;

	switch (code) {
	case GNUTLS_E_AGAIN:
		return t->f.record_get_direction(t->session) ? TLS_WANT_WRITE : TLS_WANT_READ;
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		t->f.alert_send_appropriate(t->session, code);
		return not_verified(op, t);
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return op_fail(op, CKPT_E_PERM, AT(.kind = "tls"), "%s: the peer refused: %s", what,
			       t->f.alert_get_name(t->f.alert_get(t->session)) ?: "no reason given");
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
	case GNUTLS_E_CERTIFICATE_REQUIRED:
		t->f.alert_send_appropriate(t->session, code);
		return op_fail(op, CKPT_E_PERM, AT(.kind = "tls"), "%s: the peer shows no certificate of our authorities", what);
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_RECORD_OVERFLOW:
	case GNUTLS_E_UNEXPECTED_PACKET:
		if (first)
			return op_fail(op, CKPT_E_SYS, AT(.kind = "tls", .hint = "both sides need --tls"),
				       "%s: the peer does not speak TLS", what);
		break;
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return op_fail(op, CKPT_E_SYS, AT(.kind = "tls", .hint = first ? "both sides need --tls" : NULL),
			       "%s: the connection was cut off", what);
	}
	return op_fail(op, CKPT_E_SYS, AT(.kind = "tls"), "%s: %s", what, t->f.strerror(code));
}

static bool again(const struct tls *t, int code)
{
	/* Warnings and messages between records; -EINTR comes as GNUTLS_E_INTERRUPTED. */
	return code < 0 && code != GNUTLS_E_AGAIN && !t->f.error_is_fatal(code);
}

int tls_handshake(struct op *op, struct tls *t)
{
	int r;

	do
		r = t->f.handshake(t->session);
	while (again(t, r));
	if (r < 0)
		return failed(op, t, r, "TLS handshake");
	t->shaken = true;
	return 0;
}

int tls_send(struct op *op, struct tls *t, const void *p, size_t n, size_t *sent)
{
	ssize_t r;

	do
		r = t->f.record_send(t->session, p, n);
	while (again(t, (int)r));
	if (r < 0)
		return failed(op, t, (int)r, "TLS");
	*sent = (size_t)r;
	return 0;
}

int tls_recv(struct op *op, struct tls *t, void *p, size_t n, size_t *got)
{
	ssize_t r;

	do
		r = t->f.record_recv(t->session, p, n);
	while (again(t, (int)r));
	if (r < 0)
		return failed(op, t, (int)r, "TLS");
	*got = (size_t)r;
	return 0;
}

bool tls_pending(const struct tls *t)
{
	return t->f.record_check_pending(t->session) > 0;
}

int tls_bye(struct op *op, struct tls *t)
{
	int r;

	do
		r = t->f.bye(t->session, GNUTLS_SHUT_RDWR);
	while (again(t, r));
	return r < 0 ? failed(op, t, r, "end of TLS") : 0;
}
