// SPDX-License-Identifier: MIT
/* /proc/PID/fdinfo/N: what all kinds have in common, and the locks. */
#include "lib/kernel/proc/proc.h"

#include "lib/kernel/proc/scan.h"

static bool parse_lock_kind(struct scan *s, struct proc_lock *lock)
{
	struct scan word;

	if (!scan_word(s, &word))
		return false;
	if (scan_is(&word, "->")) {
		lock->blocked = true;
		if (!scan_word(s, &word))
			return false;
	}
	if (scan_is(&word, "FLOCK"))
		lock->kind = PROC_LOCK_FLOCK;
	else if (scan_is(&word, "POSIX"))
		lock->kind = PROC_LOCK_POSIX;
	else if (scan_is(&word, "OFDLCK"))
		lock->kind = PROC_LOCK_OFD;
	else if (scan_is(&word, "LEASE"))
		lock->kind = PROC_LOCK_LEASE;
	else if (scan_is(&word, "DELEG"))
		lock->kind = PROC_LOCK_DELEG;
	else
		return false;
	/* ADVISORY or MANDATORY; of a lease, its state. */
	if (!scan_word(s, &word))
		return false;
	lock->mandatory = scan_is(&word, "MANDATORY");
	if (lock->kind == PROC_LOCK_LEASE || lock->kind == PROC_LOCK_DELEG)
		scan_copy(&word, lock->lease_type, sizeof(lock->lease_type));
	return true;
}

/* "MAJOR:MINOR:INODE", the numbers of the device in hex; "<none>:0" when the file is gone. */
static bool parse_lock_file(struct scan *s, struct proc_lock *lock)
{
	scan_blanks(s);
	if (scan_lit(s, "<none>:0"))
		return true;
	return scan_u32(s, 16, &lock->dev_major) && scan_char(s, ':') && scan_u32(s, 16, &lock->dev_minor) &&
	       scan_char(s, ':') && scan_u64(s, &lock->inode);
}

static bool parse_lock_range(struct scan *s, struct proc_lock *lock)
{
	scan_blanks(s);
	if (!scan_u64(s, &lock->start))
		return false;
	scan_blanks(s);
	if (scan_lit(s, "EOF"))
		lock->end = UINT64_MAX;
	else if (!scan_u64(s, &lock->end))
		return false;
	return scan_end(s);
}

/* "1: POSIX  ADVISORY  WRITE 5433 08:01:12345 0 EOF" */
static bool parse_lock(struct scan *s, struct proc_lock *lock)
{
	struct scan word;
	uint64_t id;

	scan_blanks(s);
	if (!scan_u64(s, &id) || !scan_char(s, ':') || !parse_lock_kind(s, lock) || !scan_word(s, &word))
		return false;
	lock->write = scan_is(&word, "WRITE");
	if (!lock->write && !scan_is(&word, "READ") && !scan_is(&word, "UNLCK"))
		return false;
	scan_blanks(s);
	return scan_int(s, &lock->pid) && parse_lock_file(s, lock) && parse_lock_range(s, lock);
}

int proc_parse_fdinfo(struct arena *a, const char *text, size_t len, struct proc_fdinfo *out)
{
	struct scan s = SCAN(text, len), line;
	bool have_pos = false, have_flags = false;
	char *rest = arena_alloc(a, len + 2);

	memset(out, 0, sizeof(*out));
	if (!rest)
		return -1;
	out->rest = rest;
	while (scan_line(&s, &line)) {
		struct scan whole = line, key = scan_until(&line, ':');
		bool ok = true;

		scan_blanks(&line);
		if (scan_is(&key, "pos") && !have_pos) {
			int64_t pos;

			have_pos = ok = scan_s64(&line, &pos);
			out->pos = ok ? (uint64_t)pos : 0;
		} else if (scan_is(&key, "flags") && !have_flags) {
			have_flags = ok = scan_u32(&line, 8, &out->flags);
		} else if (scan_is(&key, "mnt_id")) {
			ok = scan_int(&line, &out->mnt_id);
		} else if (scan_is(&key, "ino") && !out->ino) {
			ok = scan_u64(&line, &out->ino);
		} else if (scan_is(&key, "lock")) {
			struct proc_lock *lock = ARRAY_ADD(a, &out->locks);

			ok = lock && parse_lock(&line, lock);
		} else {
			memcpy(rest + out->rest_len, whole.p, SCAN_LEN(&whole));
			out->rest_len += SCAN_LEN(&whole);
			/* @rest has room for this newline where the text lacks its last one. */
			rest[out->rest_len++] = '\n';
		}
		if (!ok)
			return -1;
	}
	return have_pos && have_flags ? 0 : -1;
}
