/* SPDX-License-Identifier: MIT */
/* Stages that a dump and a pre-dump have in common. */
#include "lib/engine/dump_parts.h"

int stage_prepare(struct op *op, void *arg)
{
	return frame_begin(op, arg);
}

int stage_open_folder(struct op *op, void *arg)
{
	struct dump *d = arg;

	return img_dir_create(op, &d->s.dir);
}

void stage_close_folder(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (d->s.dir)
		img_dir_abort(op, d->s.dir);
	d->s.dir = img_dir_close(d->s.dir);
}

int stage_open_parent(struct op *op, void *arg)
{
	return track_open_parent(op, arg);
}

int stage_connect_server(struct op *op, void *arg)
{
	struct dump *d = arg;

	return remote_begin(op, d->s.dir, &d->remote);
}

void stage_disconnect_server(struct op *op, void *arg)
{
	struct dump *d = arg;

	(void)op;
	remote_end(&d->remote);
}

int stage_start_guardian(struct op *op, void *arg)
{
	struct dump *d = arg;

	d->s.guardian = &d->guardian;
	return guardian_claim(op, d->pid, &d->claim) ?: guardian_start(op, &d->guardian, d->claim);
}

void stage_stop_guardian(struct op *op, void *arg)
{
	struct dump *d = arg;

	(void)op;
	guardian_stop(&d->guardian);
	close_fd_p(&d->claim);
	d->claim = -1;
}

void stage_thaw(struct op *op, void *arg)
{
	tree_release(op, arg);
}

int stage_begin_tracking(struct op *op, void *arg)
{
	return track_begin(op, arg);
}

void stage_tracking_undo(struct op *op, void *arg)
{
	track_undo(op, arg);
}
