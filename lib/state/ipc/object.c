/* SPDX-License-Identifier: MIT */
/* What all System V objects have in common: key, owner, creator, mode, and an id that has to be the same again. */
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "lib/state/ipc/core.h"
#include "lib/state/msg.h"

/* Others may use up the id that we asked for, in a namespace that is not the tree's own. */
#define TRIES 100
#define REMEDY "restore it in an IPC namespace of its own: unshare --ipc ckpt restore ..."

IpcDescEntry *ipc_desc(struct op *op, const struct ipc_perm *p, int id)
{
	IpcDescEntry *d = msg_new(op, IpcDescEntry, ipc_desc_entry);

	if (!d)
		return NULL;
	d->key = (uint32_t)p->__key;
	d->uid = p->uid;
	d->gid = p->gid;
	d->cuid = p->cuid;
	d->cgid = p->cgid;
	d->mode = p->mode & 0777;
	d->id = (uint32_t)id;
	return d;
}

int ipc_check_desc(struct op *op, const IpcDescEntry *d, const char *image)
{
	if (d->id > INT32_MAX || (d->mode & ~0777u))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "IPC"), "%s: the id or mode of object %u makes no sense", image, d->id);
	return 0;
}

bool ipc_of_tree(const struct snapshot *s, pid_t pid)
{
	for (size_t i = 0; pid > 0 && i < s->tasks.n; i++)
		if (s->tasks.v[i].host == pid)
			return true;
	return false;
}

static const char *name_of(const char *kind)
{
	return !strcmp(kind, "shm") ? "shared memory segment" : !strcmp(kind, "sem") ? "semaphore set" : "message queue";
}

int ipc_in_the_way(struct op *op, const IpcDescEntry *d, const char *kind, const char *why)
{
	const char *hint = arena_printf(op->arena, "remove it (ipcrm -%c %u) if nobody needs it, or " REMEDY,
					!strcmp(kind, "shm") ? 'm' : !strcmp(kind, "sem") ? 's' : 'q', d->id);

	return op_fail(op, CKPT_E_EXISTS, AT(.kind = "SysV IPC", .hint = hint), "%s %u (key 0x%x): %s", name_of(kind), d->id, d->key,
		       why);
}

int ipc_errno(struct op *op, const IpcDescEntry *d, const char *kind, const char *what)
{
	const char *hint = errno == ENOMEM && !strcmp(kind, "shm") ? "if it is of huge pages, raise vm.nr_hugepages" : NULL;

	return op_errno(op, errno, AT(.kind = "SysV IPC", .hint = hint), "%s %s %u (key 0x%x)", what, name_of(kind), d->id, d->key);
}

bool ipc_same(const IpcDescEntry *d, const struct ipc_perm *p)
{
	return (uint32_t)p->__key == d->key && p->cuid == d->cuid && p->cgid == d->cgid;
}

static int ask_for_id(struct op *op, const char *kind, uint32_t id)
{
	_cleanup_close_ int fd = -1;
	char path[64], text[16];
	int n = snprintf(text, sizeof(text), "%u", id);

	snprintf(path, sizeof(path), "/proc/sys/kernel/%s_next_id", kind);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)n) != n)
		return op_errno(op, errno, AT(.kind = "SysV IPC"), "ask for the id %u with %s", id, path);
	return 0;
}

/*
 * The creator of an object is the effective user of the thread at that moment, and nothing changes it afterwards. Only this
 * thread becomes that user: libc would change them all. That makes the whole process undumpable, which is put back.
 */
static int get_as(const IpcDescEntry *d, int (*get)(const void *arg, int key, int flags), const void *arg)
{
	int flags = IPC_CREAT | IPC_EXCL | (int)d->mode, id, eno;
	bool switch_user = d->cuid != geteuid() || d->cgid != getegid();
	int dumpable = switch_user ? prctl(PR_GET_DUMPABLE) : 0;
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (!switch_user)
		return get(arg, (int)d->key, flags);
	if (syscall(SYS_setresgid, -1, d->cgid, -1) < 0)
		return -1;
	id = syscall(SYS_setresuid, -1, d->cuid, -1) < 0 ? -1 : get(arg, (int)d->key, flags);
	eno = errno;
	syscall(SYS_setresuid, -1, uid, -1);
	syscall(SYS_setresgid, -1, gid, -1);
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	errno = eno;
	return id;
}

int ipc_create(struct op *op, const IpcDescEntry *d, const char *kind, int (*get)(const void *arg, int key, int flags),
	       void (*remove)(int id), const void *arg)
{
	for (int i = 0; i < TRIES; i++) {
		int id, r = ask_for_id(op, kind, d->id);

		if (r)
			return r;
		id = get_as(d, get, arg);
		if (id == (int)d->id)
			return 0;
		if (id < 0 && errno == EEXIST)
			return ipc_in_the_way(op, d, kind, "its key is in use by another one, which has another id");
		if (id < 0)
			return ipc_errno(op, d, kind, "make");
		remove(id);
	}
	return ipc_in_the_way(op, d, kind, "its id is in use by another one");
}
