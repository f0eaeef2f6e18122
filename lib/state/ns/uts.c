/* SPDX-License-Identifier: MIT */
/* UTS namespaces: the names of host and domain. */
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/image/image.h"
#include "lib/state/msg.h"
#include "lib/state/ns/core.h"

#define MAX_NAME 64 /* __NEW_UTS_LEN */

static int ask(struct op *op, void *arg)
{
	return uname(arg) == 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "read the host name of a UTS namespace");
}

static int uts_dump(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct errand_where where = ERRAND_HERE;
	UtsnsEntry *e = msg_new(op, UtsnsEntry, utsns_entry);
	/* Not on our stack: another process fills it. */
	struct utsname *names = op_new(op, struct utsname);
	int r;

	(void)s;
	if (!e || !names)
		return CKPT_E_NOMEM;
	where.uts = ns->fd;
	r = errand_run(op, &where, ask, names);
	if (r)
		return r;
	e->nodename = names->nodename;
	e->domainname = names->domainname;
	ns->priv = e;
	return 0;
}

static int uts_write(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	return img_write_one(op, s->dir, IMG_UTSNS, ns->id, ns->priv);
}

static int uts_read(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	ProtobufCMessage *m = NULL;
	const UtsnsEntry *e;
	int r = img_read_one(op, s->dir, IMG_UTSNS, ns->id, &m);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "utsns-%u.img is missing", ns->id);
	if (r)
		return r;
	e = (const UtsnsEntry *)m;
	if (strlen(e->nodename) > MAX_NAME || strlen(e->domainname) > MAX_NAME)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "utsns-%u.img: a name of more than %d characters", ns->id,
			       MAX_NAME);
	ns->priv = m;
	return 0;
}

static int name(struct op *op, void *arg)
{
	const UtsnsEntry *e = arg;

	if (sethostname(e->nodename, strlen(e->nodename)) == 0 && setdomainname(e->domainname, strlen(e->domainname)) == 0)
		return 0;
	return op_errno(op, errno, AT(.kind = "namespace"), "set the host name %s", e->nodename);
}

static int uts_make(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct errand_where where = ERRAND_HERE;

	(void)s;
	where.uts = ns->fd;
	return errand_run(op, &where, name, ns->priv);
}

const struct ns_content ns_uts = { .dump = uts_dump, .write = uts_write, .read = uts_read, .make = uts_make };
