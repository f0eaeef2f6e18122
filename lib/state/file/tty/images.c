/* SPDX-License-Identifier: MIT */
/* tty-info.img, tty-data.img, and what of terminals our own file has. What is read is checked here. */
#include "lib/state/file/tty/tty.h"

/* -------------------------------------------------------------------------------------------------------- dump */

static TtyDataEntry *data_entry(struct op *op, struct tty_state *ts, uint32_t id, const struct tty_queue *q)
{
	TtyDataEntry *m = op_new(op, TtyDataEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &ts->data) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	tty_data_entry__init(m);
	m->tty_id = id;
	m->data.len = q->n;
	m->data.data = op_alloc(op, q->n);
	if (!m->data.data)
		return NULL;
	memcpy(m->data.data, q->bytes, q->n);
	*slot = m;
	return m;
}

static int note_marks(struct op *op, const struct tty_queue *q, enum tty_mark mark, uint32_t **v, size_t *n)
{
	*n = 0;
	for (uint32_t i = 0; i < q->n; i++)
		*n += q->marks[i] == mark;
	*v = *n ? op_alloc(op, *n * sizeof(**v)) : NULL;
	if (*n && !*v)
		return CKPT_E_NOMEM;
	*n = 0;
	for (uint32_t i = 0; i < q->n; i++)
		if (q->marks[i] == mark)
			(*v)[(*n)++] = i;
	return 0;
}

int tty_note_queues(struct op *op, struct tty_state *ts, struct terminal *t)
{
	const struct tty_job *j = t->job;
	PtyExtraEntry *x = t->extra, **slot;
	int r;

	if (j->output.n && !(t->output = data_entry(op, ts, t->index << 1 | 1, &j->output)))
		return CKPT_E_NOMEM;
	if (j->input.n && !(t->input = data_entry(op, ts, t->index << 1, &j->input)))
		return CKPT_E_NOMEM;
	r = note_marks(op, &j->input, TTY_END, &x->line_ends, &x->n_line_ends);
	r = r ? r : note_marks(op, &j->input, TTY_EOF, &x->eofs, &x->n_eofs);
	if (r)
		return r;
	if (j->stopped)
		x->has_stopped = x->stopped = true;
	if (!t->slave) {
		x->has_mode = true;
		x->mode = t->slave_mode;
	}
	if (t->slave && !x->stopped && !j->input.n)
		return 0;
	slot = ARRAY_ADD(op->arena, &ts->extras);
	if (!slot)
		return op_nomem(op);
	*slot = x;
	return 0;
}

int tty_write(struct op *op, struct snapshot *s)
{
	struct tty_state *ts = s->file_state->tty;
	int r;

	if (!ts)
		return 0;
	r = file_write_list(op, s, IMG_TTY_INFO, 0, (void *const *)s->ttys.v, s->ttys.n);
	r = r ? r : file_write_list(op, s, IMG_TTY_DATA, 0, (void *const *)ts->data.v, ts->data.n);
	if (r || (!ts->extras.n && !ts->ctty_entries.n && !ts->no_ctty.n))
		return r;
	if (!s->extra)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "there is no place for what the format cannot hold of terminals");
	s->extra->n_ptys = ts->extras.n;
	s->extra->ptys = ts->extras.v;
	s->extra->n_ctty_files = ts->ctty_entries.n;
	s->extra->ctty_files = ts->ctty_entries.v;
	s->extra->n_no_ctty = ts->no_ctty.n;
	s->extra->no_ctty = ts->no_ctty.v;
	return 0;
}

/* ----------------------------------------------------------------------------------------------------- restore */

static int check_info(struct op *op, const TtyInfoEntry *m)
{
	const TermiosEntry *all[] = { m->termios, m->termios_locked };

	if (!m->termios != !m->termios_locked || !m->termios != !m->winsize)
		return image_bad(op, "tty-info.img: terminal %u has only a part of its attributes", m->id);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i] && all[i]->n_c_cc < 19)
			return image_bad(op, "tty-info.img: terminal %u has %zu characters instead of 19", m->id, all[i]->n_c_cc);
	if (m->type != TTY_TYPE__PTY)
		return 0;
	if (!m->pty || m->pty->index > PTY_INDEX_MAX || m->pty->index != m->id >> 1)
		return image_bad(op, "tty-info.img: the number of pseudo terminal %u is missing or wrong", m->id);
	return m->id & 1 && !m->termios ? image_bad(op, "tty-info.img: master %u has no attributes", m->id) : 0;
}

static int add_info(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	TtyInfoEntry *m = (TtyInfoEntry *)msg, **slot;
	struct tty_state *ts = arg;
	struct terminal *t;
	int r = check_info(op, m);

	(void)in;
	if (r)
		return r;
	if (info_by_id(s, m->id))
		return image_bad(op, "tty-info.img: terminal %u appears twice", m->id);
	slot = ARRAY_ADD(op->arena, &s->ttys);
	if (!slot)
		return op_nomem(op);
	*slot = m;
	if (m->type != TTY_TYPE__PTY)
		return 0;
	t = terminal_of(op, ts, m->pty->index, 0);
	if (!t)
		return CKPT_E_NOMEM;
	*(m->id & 1 ? &t->master : &t->slave) = m;
	if (!(m->id & 1))
		t->hung_up = !m->termios;
	return 0;
}

struct terminal *terminal_of_info(struct tty_state *ts, uint32_t info_id)
{
	for (size_t i = 0; i < ts->all.n; i++)
		if (ts->all.v[i]->index == info_id >> 1)
			return ts->all.v[i];
	return NULL;
}

static int add_data(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	TtyDataEntry *m = (TtyDataEntry *)msg, **place;
	struct terminal *t = terminal_of_info(arg, m->tty_id);

	(void)in;
	(void)s;
	if (!t || !t->master)
		return image_bad(op, "tty-data.img: terminal %u has no master in tty-info.img", m->tty_id);
	if (m->data.len >= TTY_QUEUE_MAX)
		return image_bad(op, "tty-data.img: terminal %u has %zu bytes, more than it can hold", m->tty_id, m->data.len);
	place = m->tty_id & 1 ? &t->output : &t->input;
	if (*place)
		return image_bad(op, "tty-data.img: terminal %u appears twice", m->tty_id);
	*place = m;
	return 0;
}

static int check_offsets(struct op *op, const struct terminal *t, const uint32_t *v, size_t n)
{
	size_t len = t->input ? t->input->data.len : 0;

	for (size_t i = 0; i < n; i++)
		if (v[i] >= len)
			return image_bad(op, "ckpt-extra: terminal %u: a line ends behind its input", t->index);
	return 0;
}

static int add_extras(struct op *op, struct snapshot *s, struct tty_state *ts)
{
	int r = 0;

	for (size_t i = 0; s->extra && i < s->extra->n_ptys && !r; i++) {
		PtyExtraEntry *x = s->extra->ptys[i];
		struct terminal *t = x->index > PTY_INDEX_MAX ? NULL : terminal_of_info(ts, x->index << 1);

		if (!t || !t->master || t->extra)
			return image_bad(op, "ckpt-extra: terminal %u is not in tty-info.img, or is there twice", x->index);
		t->extra = x;
		r = check_offsets(op, t, x->line_ends, x->n_line_ends);
		r = r ? r : check_offsets(op, t, x->eofs, x->n_eofs);
	}
	return r;
}

int tty_read(struct op *op, struct snapshot *s)
{
	struct tty_state *ts = tty_state(op, s);
	int r = ts ? file_read_list(op, s, IMG_TTY_INFO, 0, add_info, ts) : CKPT_E_NOMEM;

	r = r ? r : file_read_list(op, s, IMG_TTY_DATA, 0, add_data, ts);
	return r ? r : add_extras(op, s, ts);
}
