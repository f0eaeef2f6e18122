/* SPDX-License-Identifier: MIT */
/* Options of mounts: words of mountinfo, bits of mount(2), which are those of the images, and bits of mount_setattr(2). */
#include <sys/mount.h>

#include "lib/state/mount/core.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

struct word {
	const char *name;
	uint32_t flag;
};
static const struct word mount_words[] = {
	{ "ro", MS_RDONLY }, { "nosuid", MS_NOSUID }, { "nodev", MS_NODEV }, { "noexec", MS_NOEXEC }, { "noatime", MS_NOATIME },
	{ "nodiratime", MS_NODIRATIME }, { "relatime", MS_RELATIME }, { "nosymfollow", MS_NOSYMFOLLOW },
};
static const struct word sb_words[] = {
	{ "rw", 0 }, { "ro", MS_RDONLY }, { "sync", MS_SYNCHRONOUS }, { "dirsync", MS_DIRSYNC }, { "mand", MS_MANDLOCK },
	{ "lazytime", MS_LAZYTIME },
};

static const struct word *look_up(const struct word *words, size_t n, const char *p, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(words[i].name) == len && memcmp(words[i].name, p, len) == 0)
			return &words[i];
	return NULL;
}

uint32_t mnt_flags(const char *options)
{
	uint32_t flags = 0;

	for (const char *p = options; *p; p += *p == ',') {
		size_t len = strcspn(p, ",");
		const struct word *w = look_up(mount_words, ARRAY_SIZE(mount_words), p, len);

		flags |= w ? w->flag : 0;
		p += len;
	}
	return flags & (MS_NOATIME | MS_RELATIME) ? flags : flags | MS_STRICTATIME;
}

/* A comma within quotes, or after a backslash, divides no options. */
static size_t option_length(const char *p)
{
	bool quoted = false;
	size_t n;

	for (n = 0; p[n] && (quoted || p[n] != ','); n++) {
		if (p[n] == '\\' && p[n + 1])
			n++;
		else if (p[n] == '"')
			quoted = !quoted;
	}
	return n;
}

int mnt_sb_flags(struct op *op, const char *sb_options, uint32_t *flags, char **rest)
{
	char *q = op_alloc(op, strlen(sb_options) + 1);

	*flags = 0;
	*rest = q;
	if (!q)
		return CKPT_E_NOMEM;
	for (const char *p = sb_options; *p; p += *p == ',') {
		size_t len = option_length(p);
		const struct word *w = look_up(sb_words, ARRAY_SIZE(sb_words), p, len);

		if (w) {
			*flags |= w->flag;
		} else {
			if (q > *rest)
				*q++ = ',';
			memcpy(q, p, len);
			q += len;
		}
		p += len;
	}
	*q = 0;
	return 0;
}

void mnt_attr(uint32_t flags, struct mount_attr *attr)
{
	static const struct {
		uint32_t flag;
		uint64_t attr;
	} bits[] = {
		{ MS_RDONLY, MOUNT_ATTR_RDONLY }, { MS_NOSUID, MOUNT_ATTR_NOSUID }, { MS_NODEV, MOUNT_ATTR_NODEV },
		{ MS_NOEXEC, MOUNT_ATTR_NOEXEC }, { MS_NODIRATIME, MOUNT_ATTR_NODIRATIME }, { MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW },
	};

	*attr = (struct mount_attr){ 0 };
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		*(flags & bits[i].flag ? &attr->attr_set : &attr->attr_clr) |= bits[i].attr;
	attr->attr_clr |= MOUNT_ATTR__ATIME;
	if (flags & MS_NOATIME)
		attr->attr_set |= MOUNT_ATTR_NOATIME;
	else if (flags & MS_STRICTATIME)
		attr->attr_set |= MOUNT_ATTR_STRICTATIME;
}
