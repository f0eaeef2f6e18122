/* SPDX-License-Identifier: MIT */
/*
 * TLS by GnuTLS, which is loaded only when it is asked for: linking it would slow down every start. Both sides show a
 * certificate and verify the other's. Calls do not block: they say what to wait for.
 */
#ifndef CKPT_BASE_TLS_H
#define CKPT_BASE_TLS_H

#include "lib/base/op.h"

struct tls;

#define TLS_WANT_READ 1 /* positive returns: wait for this, then call again */
#define TLS_WANT_WRITE 2

/*
 * Prepares a session on the connected @fd: loads the library and the certificates that @op's options name.
 * @host: we are the client, and the peer's certificate has to be for that name; NULL: we are the server.
 */
int tls_new(struct op *op, int fd, const char *host, struct tls **ret);
/* Could tls_new() do its part? For those who wait for a peer, and want to know before. */
int tls_check(struct op *op);
struct tls *tls_free(struct tls *t); /* NULL allowed; returns NULL */
/* Returns 0 when done and the peer verified, TLS_WANT_*, or a recorded failure; so do the others. */
int tls_handshake(struct op *op, struct tls *t);
int tls_send(struct op *op, struct tls *t, const void *p, size_t n, size_t *sent);
int tls_recv(struct op *op, struct tls *t, void *p, size_t n, size_t *got); /* *got 0: the peer said good-bye */
bool tls_pending(const struct tls *t); /* something was received that no poll(2) of the descriptor shows */
int tls_bye(struct op *op, struct tls *t);

#endif
