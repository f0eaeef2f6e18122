/* SPDX-License-Identifier: MIT */
/*
 * Devices that can be opened again by their name: those that behave the same whenever they are opened. What a driver keeps
 * for each open file nobody can ask for, so every other device is refused. The image format has no place for which device
 * it was: that goes to our own file, and must be the same at the restore.
 */
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

#define MEM_MAJOR 1
#define MEM_KMSG 11
#define MISC_MAJOR 10

/* null, zero, full, random, urandom: the same everywhere */
bool device_is_memory(dev_t rdev)
{
	unsigned n = minor(rdev);

	return major(rdev) == MEM_MAJOR && (n == 3 || n == 5 || n == 7 || n == 8 || n == 9);
}

static bool is_terminal(dev_t rdev)
{
	return major(rdev) == 4 || major(rdev) == 5 || (major(rdev) >= 136 && major(rdev) <= 143);
}

/* Misc devices have names; many have their number from the kernel at random. What is listed only makes other things. */
static bool is_plain_misc(unsigned number)
{
	static const char *const plain[] = { "loop-control", "btrfs-control", "kvm", "userfaultfd", "udmabuf", "hw_random" };
	_cleanup_fclose_ FILE *f = fopen("/proc/misc", "re");
	char name[64];
	unsigned n;

	while (f && fscanf(f, "%u %63s", &n, name) == 2)
		for (size_t i = 0; n == number && i < ARRAY_SIZE(plain); i++)
			if (strcmp(name, plain[i]) == 0)
				return true;
	return false;
}

static bool is_plain(mode_t mode, dev_t rdev, uint32_t flags)
{
	if (S_ISBLK(mode))
		return true;
	if (major(rdev) == MEM_MAJOR && minor(rdev) == MEM_KMSG)
		return (flags & O_ACCMODE) == O_WRONLY; /* a reader has a place in the log */
	return major(rdev) == MISC_MAJOR && is_plain_misc(minor(rdev));
}

int device_check(struct op *op, const struct fd_view *v)
{
	const struct stat *st = &v->st;

	if (device_is_memory(st->st_rdev) && S_ISCHR(st->st_mode))
		return 0;
	if (S_ISCHR(st->st_mode) && is_terminal(st->st_rdev))
		return 0;
	if (v->fd >= 0 && is_plain(st->st_mode, st->st_rdev, v->info.flags))
		return 0;
	return file_refuse(op, v, S_ISCHR(st->st_mode) ? "character device" : "block device",
			   "close the device before the checkpoint",
			   "%s (%u:%u) has state that only its driver knows: not supported yet", v->link, major(st->st_rdev),
			   minor(st->st_rdev));
}

int device_note(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id)
{
	DeviceEntry *m, **slot;

	if (v->info.flags & O_PATH || device_is_memory(v->st.st_rdev) || is_terminal(v->st.st_rdev))
		return 0;
	m = op_new(op, DeviceEntry);
	slot = m ? ARRAY_ADD(op->arena, &s->file_state->devices) : NULL;
	if (!slot)
		return op_nomem(op);
	device_entry__init(m);
	m->file_id = id;
	m->major = major(v->st.st_rdev);
	m->minor = minor(v->st.st_rdev);
	*slot = m;
	return 0;
}

/* ------------------------------------------------------------------------------------------- restore half */

static const DeviceEntry *entry_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_devices; i++)
		if (s->extra->devices[i]->file_id == id)
			return s->extra->devices[i];
	return NULL;
}

int device_verify(struct op *op, const struct snapshot *s, const RegFileEntry *m, const struct stat *st)
{
	const DeviceEntry *was = entry_of(s, m->id);

	if (S_ISCHR(st->st_mode) && device_is_memory(st->st_rdev))
		return 0;
	if (!was || !is_plain(st->st_mode, st->st_rdev, m->flags))
		return image_bad(op, "files.img: id %u: %s is a device that cannot be opened again (mode 0%o)", m->id, m->name,
				 st->st_mode);
	if (was->major == major(st->st_rdev) && was->minor == minor(st->st_rdev))
		return 0;
	return op_fail(op, CKPT_E_CHANGED, AT(.kind = "device"), "%s: it was device %u:%u, it is %u:%u now", m->name, was->major,
		       was->minor, major(st->st_rdev), minor(st->st_rdev));
}
