/* SPDX-License-Identifier: MIT */
/* Writing of the file images, from what the walk put into the snapshot. */
#include "lib/state/file/core.h"

int file_write_list(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, void *const *v, size_t n)
{
	struct img_out *out = NULL;
	int r, r2;

	if (!n)
		return 0;
	r = img_create(op, s->dir, kind, id, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < n; i++)
		r = img_write(op, out, v[i]);
	r2 = img_close(op, out);
	return r ? r : r2;
}
#define WRITE_LIST(kind, id, arr) file_write_list(op, s, kind, id, (void *const *)(arr).v, (arr).n)

/* A tun descriptor is two entries with one id. */
static int write_file(struct op *op, struct img_out *out, FileEntry *m)
{
	FileEntry reg = FILE_ENTRY__INIT, tun = *m;
	int r;

	if (m->type != FD_TYPES__TUNF)
		return img_write(op, out, &m->base);
	reg.type = FD_TYPES__REG;
	reg.id = m->id;
	reg.reg = m->reg;
	tun.reg = NULL;
	r = img_write(op, out, &reg.base);
	return r ? r : img_write(op, out, &tun.base);
}

static int write_files(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r, r2;

	if (!s->files.n)
		return 0;
	r = img_create(op, s->dir, IMG_FILES, 0, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < s->files.n; i++)
		r = write_file(op, out, s->files.v[i]->msg);
	r2 = img_close(op, out);
	return r ? r : r2;
}

/* One image a descriptor table: tasks that share theirs have one number. */
static bool table_written(const struct snapshot *s, size_t task)
{
	for (size_t i = 0; i < task; i++)
		if (s->tasks.v[i].ids && s->tasks.v[i].ids->files_id == s->tasks.v[task].ids->files_id)
			return true;
	return false;
}

static int write_fdinfos(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->tasks.n; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		if (t->ids && !table_written(s, i))
			r = WRITE_LIST(IMG_FDINFO, t->ids->files_id, t->fds);
	}
	return r;
}

static int write_queues(struct op *op, struct snapshot *s, enum img_kind kind, bool fifo)
{
	struct img_out *out = NULL;
	int r, r2;

	r = img_create(op, s->dir, kind, 0, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < s->pipes.n; i++) {
		const struct snap_pipe_data *d = &s->pipes.v[i];

		if (d->fifo != fifo)
			continue;
		r = img_write(op, out, &d->msg->base);
		if (!r && d->msg->bytes)
			r = img_write_payload(op, out, d->bytes, d->msg->bytes);
	}
	r2 = img_close(op, out);
	return r ? r : r2;
}

int files_dump_contents(struct op *op, struct snapshot *s)
{
	int r = shmem_dump_contents(op, s);

	for (size_t i = 0; !r && i < s->ghosts.n; i++)
		r = ghost_write(op, s, &s->ghosts.v[i]);
	return r;
}

static int write_shmems(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r, r2;

	if (!s->shmems.n)
		return 0;
	r = img_create(op, s->dir, IMG_MEMFD, 0, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = img_write(op, out, &s->shmems.v[i]->msg->base);
	r2 = img_close(op, out);
	r = r ? r : r2;
	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = shmem_write(op, s, s->shmems.v[i]);
	return r;
}

/* What the format has no place for goes into our own file, which the caller writes. */
static int fill_extra(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	int r = queues_note_packets(op, s);

	if (r || (!fs->packet_pipes.n && !fs->semaphores.n && !fs->foreign_procs.n && !fs->ghost_extras.n &&
	    !fs->devices.n))
		return r;
	if (!s->extra)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "there is no place for what the format cannot hold of files");
	s->extra->n_packet_pipes = fs->packet_pipes.n;
	s->extra->packet_pipes = fs->packet_pipes.v;
	s->extra->n_eventfd_semaphores = fs->semaphores.n;
	s->extra->eventfd_semaphores = fs->semaphores.v;
	s->extra->n_foreign_procs = fs->foreign_procs.n;
	s->extra->foreign_procs = fs->foreign_procs.v;
	s->extra->n_ghosts = fs->ghost_extras.n;
	s->extra->ghosts = fs->ghost_extras.v;
	s->extra->n_devices = fs->devices.n;
	s->extra->devices = fs->devices.v;
	return 0;
}

int files_write(struct op *op, struct snapshot *s)
{
	int r;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	r = write_files(op, s);
	r = r ? r : write_fdinfos(op, s);
	r = r ? r : write_queues(op, s, IMG_PIPES_DATA, false);
	r = r ? r : write_queues(op, s, IMG_FIFO_DATA, true);
	r = r ? r : fill_extra(op, s);
	r = r ? r : WRITE_LIST(IMG_REMAP_FPATH, 0, s->remaps);
	r = r ? r : write_shmems(op, s);
	r = r ? r : WRITE_LIST(IMG_FILE_LOCKS, 0, s->locks);
	for (size_t i = 0; !r && file_kinds[i]; i++)
		r = file_kinds[i]->write ? file_kinds[i]->write(op, s) : 0;
	return r;
}
