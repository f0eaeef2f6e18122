/* SPDX-License-Identifier: MIT */
/* Which view the names of a file belong to. */
#include <fcntl.h>

#include "lib/state/mount/core.h"

static const struct fs_view ours = FS_VIEW_OURS;

const struct fs_view *mounts_view(const struct snapshot *s, int32_t mnt_id)
{
	const struct mount_state *st = s->mounts;
	const struct mnt *m = st && mnt_id > 0 ? mnt_find(st, (uint32_t)mnt_id) : NULL;

	if (m && m->ns->view.root >= 0)
		return &m->ns->view;
	if (st && st->joined.view.root >= 0)
		return &st->joined.view;
	/* The first one is the root task's, if that has one. */
	return st && st->nss.n && st->nss.v[0]->view.root >= 0 && ns_own(s, NS_MNT) ? &st->nss.v[0]->view : &ours;
}

bool mounts_own(const struct snapshot *s)
{
	return s->mounts && s->mounts->nss.n;
}

bool mounts_know(const struct snapshot *s, int32_t mnt_id)
{
	const struct mnt *m = mounts_own(s) && mnt_id > 0 ? mnt_find(s->mounts, (uint32_t)mnt_id) : NULL;

	return !mounts_own(s) || (m && !mnt_hidden(m));
}

void mounts_done(struct op *op, struct snapshot *s, bool success)
{
	struct mount_state *st = s->mounts;

	(void)op;
	(void)success;
	if (!st)
		return;
	for (size_t i = 0; i < st->nss.n; i++)
		close_fd_p(&st->nss.v[i]->view.root);
	for (size_t i = 0; i < st->all.n; i++) {
		mnt_unmake(st->all.v[i]);
		close_fd_p(&st->all.v[i]->fd);
		close_fd_p(&st->all.v[i]->target);
	}
	for (size_t i = 0; i < st->bases.n; i++) {
		close_fd_p(&st->bases.v[i]->fd);
		close_fd_p(&st->bases.v[i]->outside);
		close_fd_p(&st->bases.v[i]->archive);
	}
	for (size_t i = 0; i < st->groups.n; i++)
		if (st->groups.v[i])
			close_fd_p(&st->groups.v[i]->fd);
	for (size_t i = 0; i < st->ptys.n; i++)
		close_fd_p(&st->ptys.v[i].fd);
	close_fd_p(&st->joined.view.root);
	close_fd_p(&st->proc);
	s->mounts = NULL;
}
