// SPDX-License-Identifier: MIT
/* The lines of /proc/PID/fdinfo/N that belong to one kind: epoll, signalfd, timerfd, inotify, fanotify, pidfd. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

/* "KEY: VALUE" somewhere in the rest of a line whose fields are separated by blanks. */
static bool field(const struct scan *line, const char *key, unsigned base, uint64_t *value)
{
	struct scan s = *line, word;
	size_t n = strlen(key);

	while (scan_word(&s, &word)) {
		if (SCAN_LEN(&word) < n || memcmp(word.p, key, n) != 0)
			continue;
		word.p += n;
		/* The kernel pads some values. */
		if (scan_end(&word) && !scan_word(&s, &word))
			return false;
		return scan_number(&word, base, value) && scan_end(&word);
	}
	return false;
}

static bool field32(const struct scan *line, const char *key, unsigned base, uint32_t *value)
{
	uint64_t v;

	if (!field(line, key, base, &v) || v > UINT32_MAX)
		return false;
	*value = (uint32_t)v;
	return true;
}

static bool begins(const struct scan *line, const char *word)
{
	size_t n = strlen(word);

	return SCAN_LEN(line) >= n && memcmp(line->p, word, n) == 0;
}

/* "tfd:        5 events:       19 data:        b  pos:0 ino:1a sdev:10" */
int proc_parse_epoll(struct arena *a, const char *text, size_t len, struct proc_epoll *out)
{
	struct scan s = SCAN(text, len), line;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_epoll_entry *e;

		if (!begins(&line, "tfd:"))
			continue;
		e = ARRAY_ADD(a, &out->v);
		if (!e || !field32(&line, "tfd:", 10, &e->tfd) || !field32(&line, "events:", 16, &e->events) ||
		    !field(&line, "data:", 16, &e->data))
			return -1;
		/* Since Linux 5.5; not needed to find the target. */
		e->has_inode = field(&line, "pos:", 10, &e->pos) && field(&line, "ino:", 16, &e->ino) &&
			       field32(&line, "sdev:", 16, &e->dev);
	}
	return 0;
}

int proc_parse_signalfd(const char *text, size_t len, uint64_t *mask)
{
	struct scan s = SCAN(text, len), line;

	while (scan_line(&s, &line))
		if (field(&line, "sigmask:", 16, mask))
			return 0;
	return -1;
}

/* "it_value: (4999, 145355909)" */
static bool parse_span(struct scan *line, uint64_t *sec, uint64_t *nsec)
{
	scan_blanks(line);
	if (!scan_char(line, '(') || !scan_u64(line, sec) || !scan_char(line, ','))
		return false;
	scan_blanks(line);
	return scan_u64(line, nsec) && *nsec < 1000000000 && scan_char(line, ')') && scan_end(line);
}

int proc_parse_timerfd(const char *text, size_t len, struct proc_timerfd *out)
{
	struct scan s = SCAN(text, len), line;
	unsigned have = 0;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct scan key = scan_until(&line, ':');
		bool ok = true;

		scan_blanks(&line);
		if (scan_is(&key, "clockid"))
			ok = scan_u32(&line, 10, &out->clock), have |= 1;
		else if (scan_is(&key, "ticks"))
			ok = scan_u64(&line, &out->ticks), have |= 2;
		else if (scan_is(&key, "settime flags"))
			ok = scan_u32(&line, 8, &out->flags), have |= 4;
		else if (scan_is(&key, "it_value"))
			ok = parse_span(&line, &out->value_s, &out->value_ns), have |= 8;
		else if (scan_is(&key, "it_interval"))
			ok = parse_span(&line, &out->interval_s, &out->interval_ns), have |= 16;
		if (!ok)
			return -1;
	}
	return have == 31 ? 0 : -1;
}

/* "fhandle-bytes:8 fhandle-type:1 f_handle:0c22a7006c393b07"; none where the file system has no handles. */
static bool parse_handle(const struct scan *line, struct proc_handle *h)
{
	struct scan s = *line, word;
	uint32_t bytes;

	h->bytes = 0;
	if (!field32(line, "fhandle-bytes:", 16, &bytes))
		return true;
	if (bytes > sizeof(h->data) || !field32(line, "fhandle-type:", 16, &h->type))
		return false;
	while (scan_word(&s, &word))
		if (begins(&word, "f_handle:"))
			break;
	if (!begins(&word, "f_handle:") || SCAN_LEN(&word) != strlen("f_handle:") + 2ul * bytes)
		return false;
	word.p += strlen("f_handle:");
	for (uint32_t i = 0; i < bytes; i++) {
		int hi = scan_digit(word.p[2 * i]), lo = scan_digit(word.p[2 * i + 1]);

		if (hi > 15 || lo > 15)
			return false;
		h->data[i] = (uint8_t)(hi << 4 | lo);
	}
	h->bytes = bytes;
	return true;
}

/* "inotify wd:1 ino:a7220c sdev:fe00000 mask:4000100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:..." */
int proc_parse_inotify(struct arena *a, const char *text, size_t len, struct proc_inotify *out)
{
	struct scan s = SCAN(text, len), line;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_watch *w;

		if (!begins(&line, "inotify "))
			continue;
		w = ARRAY_ADD(a, &out->v);
		if (!w || !field32(&line, "wd:", 16, &w->wd) || !field(&line, "ino:", 16, &w->ino) ||
		    !field32(&line, "sdev:", 16, &w->dev) || !field32(&line, "mask:", 16, &w->mask) ||
		    !parse_handle(&line, &w->handle))
			return -1;
	}
	return 0;
}

static bool parse_mark(const struct scan *line, struct proc_mark *m)
{
	bool ok = field32(line, "mflags:", 16, &m->flags) && field32(line, "mask:", 16, &m->mask) &&
		  field32(line, "ignored_mask:", 16, &m->ignored);

	if (field(line, "ino:", 16, &m->ino)) {
		m->type = PROC_MARK_INODE;
		return ok && field32(line, "sdev:", 16, &m->dev) && parse_handle(line, &m->handle);
	}
	if (field32(line, "mnt_id:", 16, &m->mnt_id)) {
		m->type = PROC_MARK_MOUNT;
		return ok;
	}
	m->type = PROC_MARK_OTHER;
	if (field32(line, "sdev:", 16, &m->dev))
		m->type = PROC_MARK_FILESYSTEM;
	return ok;
}

/* "fanotify flags:26 event-flags:8000", then a line a mark: "fanotify ino:... ", "fanotify mnt_id:... ", "fanotify sdev:..." */
int proc_parse_fanotify(struct arena *a, const char *text, size_t len, struct proc_fanotify *out)
{
	struct scan s = SCAN(text, len), line;
	bool have_flags = false;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct proc_mark *m;

		if (!begins(&line, "fanotify "))
			continue;
		if (begins(&line, "fanotify flags:")) {
			have_flags = field32(&line, "flags:", 16, &out->flags) &&
				     field32(&line, "event-flags:", 16, &out->event_flags);
			continue;
		}
		m = ARRAY_ADD(a, &out->v);
		if (!m || !parse_mark(&line, m))
			return -1;
	}
	return have_flags ? 0 : -1;
}

/* "Pid: 4711" as the reader sees it, "NSpid: 4711 12" in the namespaces below; -1 when it was waited for. */
int proc_parse_pidfd(const char *text, size_t len, struct proc_pidfd *out)
{
	struct scan s = SCAN(text, len), line;
	bool have = false;

	memset(out, 0, sizeof(*out));
	while (scan_line(&s, &line)) {
		struct scan key = scan_until(&line, ':'), word;

		if (scan_is(&key, "Pid")) {
			scan_blanks(&line);
			have = scan_int(&line, &out->pid) && scan_end(&line);
			out->nspid = out->pid;
		} else if (scan_is(&key, "NSpid")) {
			while (scan_word(&line, &word))
				if (!scan_int(&word, &out->nspid) || !scan_end(&word))
					return -1;
		}
	}
	return have ? 0 : -1;
}
