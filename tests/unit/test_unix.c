// SPDX-License-Identifier: MIT
/* What images may say of UNIX sockets: lies are found out, before or while the sockets are made, and nothing is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>

#include "lib/state/sock/unix/unix.h"

struct env {
	char dir[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	int fds; /* of ours before */
};

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	strcpy(e->dir, "/tmp/test-unix-XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->dir;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	e->fds = count_fds();
	*state = e;
	return img_dir_create(&e->op, &e->s.dir);
}

static int teardown(void **state)
{
	struct env *e = *state;

	files_restore_done(&e->op, &e->s, false);
	img_dir_abort(&e->op, e->s.dir);
	img_dir_close(e->s.dir);
	assert_int_equal(count_fds(), e->fds);
	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	rmdir(e->dir);
	free(e);
	return 0;
}

static UnixSkEntry *add(struct env *e, uint32_t type, uint32_t state, const char *name, uint32_t peer)
{
	struct snap_file *f;
	UnixSkEntry *m = msg_new(&e->op, UnixSkEntry, unix_sk_entry);

	if (!files_state(&e->op, &e->s))
		return NULL;
	f = file_new(&e->op, &e->s, &file_unix);
	m->id = f->id;
	m->ino = 100 + f->id;
	m->type = type;
	m->state = state;
	m->flags = O_RDWR;
	m->peer = peer ? 100 + peer : 0;
	m->fown = msg_new(&e->op, FownEntry, fown_entry);
	m->opts = msg_new(&e->op, SkOptsEntry, sk_opts_entry);
	m->opts->so_sndbuf = m->opts->so_rcvbuf = 212992;
	m->name.len = name ? strlen(name) + 1 : 0;
	m->name.data = (uint8_t *)arena_strdup(e->op.arena, name ? name : "");
	if (name)
		msg_set(m, deleted, 1);
	f->msg->usk = m;
	return m;
}

static UnixSkExtra *add_extra(struct env *e, uint32_t id)
{
	UnixSkExtra *x = msg_new(&e->op, UnixSkExtra, unix_sk_extra);

	if (!e->s.extra) {
		e->s.extra = msg_new(&e->op, CkptExtraEntry, ckpt_extra_entry);
		e->s.extra->unix_sockets = op_alloc(&e->op, 16 * sizeof(x));
		e->s.extra->sock_packets = op_alloc(&e->op, 16 * sizeof(x));
	}
	x->id = id;
	e->s.extra->unix_sockets[e->s.extra->n_unix_sockets++] = x;
	return x;
}

static void add_packet(struct env *e, uint32_t id, const char *text, uint32_t scm_type, uint32_t right)
{
	SkPacketEntry m = SK_PACKET_ENTRY__INIT;
	ScmEntry scm = SCM_ENTRY__INIT, *list[] = { &scm };
	struct img_out *out;

	m.id_for = id;
	m.length = (uint32_t)strlen(text);
	scm.type = scm_type;
	scm.rights = &right;
	scm.n_rights = 1;
	m.scm = list;
	m.n_scm = scm_type ? 1 : 0;
	assert_int_equal(img_create(&e->op, e->s.dir, IMG_SK_QUEUES, 0, &out), 0);
	assert_int_equal(img_write(&e->op, out, &m.base), 0);
	assert_int_equal(img_write_payload(&e->op, out, text, m.length), 0);
	assert_int_equal(img_close(&e->op, out), 0);
}

static int restore(struct env *e)
{
	int r = file_unix.read(&e->op, &e->s);

	for (size_t i = 0; !r && i < e->s.files.n; i++)
		r = file_open(&e->op, &e->s, e->s.files.v[i]);
	return r;
}

static void expect(struct env *e, int code, const char *word)
{
	int r = restore(e);

	if (r != code)
		print_error("%d: %s\n", r, e->op.err ? ckpt_err_message(e->op.err) : "");
	assert_int_equal(r, code);
	if (word && !strstr(ckpt_err_message(e->op.err), word))
		fail_msg("'%s' does not say '%s'", ckpt_err_message(e->op.err), word);
}

/* The helpers themselves tell the truth. */
static void test_truth(void **state)
{
	struct env *e = *state;
	char b[8];

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 1);
	add(e, SOCK_SEQPACKET, UNIX_LISTEN, "/l", 0);
	add(e, SOCK_SEQPACKET, UNIX_ESTABLISHED, "/l", 5);
	add(e, SOCK_SEQPACKET, UNIX_ESTABLISHED, NULL, 4);
	add(e, SOCK_DGRAM, UNIX_CLOSE, "/d", 0);
	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, NULL, 6);
	add(e, SOCK_SEQPACKET, UNIX_ESTABLISHED, NULL, 3);
	add_packet(e, 2, "hello", SCM_RIGHTS, 5);
	expect(e, 0, NULL);
	assert_int_equal(recv(e->s.files.v[1]->fd, b, 8, MSG_DONTWAIT), 5);
	assert_int_equal(send(e->s.files.v[6]->fd, "x", 1, MSG_DONTWAIT), 1);
	assert_int_equal(recv(e->s.files.v[5]->fd, b, 8, MSG_DONTWAIT), 1);
	assert_int_equal(send(e->s.files.v[3]->fd, "y", 1, MSG_DONTWAIT), 1);
	assert_int_equal(recv(e->s.files.v[4]->fd, b, 8, MSG_DONTWAIT), 1);
}

static void test_same_inode(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0)->ino = 101;
	expect(e, CKPT_E_IMAGE, "inode 101");
}

static void test_fields(void **state)
{
	struct env *e = *state;
	static const struct {
		uint32_t type, state;
		const char *name;
	} bad[] = { { 3, UNIX_CLOSE, NULL }, { SOCK_STREAM, 2, NULL }, { SOCK_STREAM, UNIX_LISTEN, NULL }, { SOCK_DGRAM, UNIX_LISTEN, "/x" } };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		e->s = (struct snapshot){ .dir = e->s.dir };
		add(e, bad[i].type, bad[i].state, bad[i].name, 0);
		expect(e, CKPT_E_IMAGE, NULL);
		op_forget(&e->op);
	}
	e->s = (struct snapshot){ .dir = e->s.dir };
	add(e, SOCK_STREAM, UNIX_CLOSE, "/", 0)->name.len = 200;
	expect(e, CKPT_E_IMAGE, "name is too long");
}

static void test_one_sided(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 3);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	expect(e, CKPT_E_IMAGE, "not connected to it");
}

static void test_peer_of_itself(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 1);
	expect(e, CKPT_E_IMAGE, NULL);
}

static void test_missing_peer(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 77);
	expect(e, CKPT_E_UNSUPPORTED, "not in the checkpoint");
}

static void test_three_in_a_pair(void **state)
{
	struct env *e = *state;

	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, NULL, 1);
	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, NULL, 2);
	expect(e, CKPT_E_IMAGE, "no name");
}

static void test_circle(void **state)
{
	struct env *e = *state;

	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, "/a", 2);
	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, "/b", 3);
	add(e, SOCK_DGRAM, UNIX_ESTABLISHED, "/c", 1);
	expect(e, CKPT_E_IMAGE, "circle");
}

static void test_pending(void **state)
{
	struct env *e = *state;
	uint32_t ino = 102;
	UnixSkExtra *x;

	add(e, SOCK_STREAM, UNIX_LISTEN, "/l", 0);
	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	x = add_extra(e, 1);
	x->pending = &ino;
	x->n_pending = 1;
	expect(e, CKPT_E_IMAGE, "does not wait");
}

static void test_extra_of_nothing(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	add_extra(e, 9);
	expect(e, CKPT_E_IMAGE, "no unix socket");
}

static void test_extra_twice(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	add_extra(e, 1);
	add_extra(e, 1);
	expect(e, CKPT_E_IMAGE, "twice");
}

static void test_option(void **state)
{
	struct env *e = *state;
	SockOption o = SOCK_OPTION__INIT, *list[] = { &o };
	UnixSkExtra *x;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	x = add_extra(e, 1);
	o.name = SO_ATTACH_FILTER;
	o.value = (ProtobufCBinaryData){ 4, (uint8_t[4]){ 0 } };
	x->options = list;
	x->n_options = 1;
	expect(e, CKPT_E_IMAGE, "not a socket option");
}

static void test_packets(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	add_packet(e, 7, "x", 0, 0);
	expect(e, CKPT_E_IMAGE, "no unix socket");
}

static void test_packet_nowhere(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_CLOSE, NULL, 0);
	add_packet(e, 1, "x", 0, 0);
	expect(e, CKPT_E_IMAGE, "not connected");
}

static void test_packet_rights(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 1);
	add_packet(e, 1, "x", SCM_RIGHTS, 55);
	expect(e, CKPT_E_IMAGE, "55");
}

static void test_packet_control(void **state)
{
	struct env *e = *state;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 1);
	add_packet(e, 1, "x", 9, 1);
	expect(e, CKPT_E_IMAGE, "control");
}

static void test_packet_extra(void **state)
{
	struct env *e = *state;
	SockPacketExtra x = SOCK_PACKET_EXTRA__INIT;

	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 2);
	add(e, SOCK_STREAM, UNIX_ESTABLISHED, NULL, 1);
	add_packet(e, 1, "x", 0, 0);
	add_extra(e, 1);
	x.index = 1;
	e->s.extra->sock_packets[e->s.extra->n_sock_packets++] = &x;
	expect(e, CKPT_E_IMAGE, "packet 1");
}

static void test_datagram_to_unnamed(void **state)
{
	struct env *e = *state;

	add(e, SOCK_DGRAM, UNIX_CLOSE, NULL, 0);
	add_packet(e, 1, "x", 0, 0);
	expect(e, CKPT_E_IMAGE, "nobody could have sent");
}

static void test_relative_name(void **state)
{
	struct env *e = *state;

	add(e, SOCK_DGRAM, UNIX_CLOSE, "name", 0)->deleted = 0;
	expect(e, CKPT_E_IMAGE, "no folder");
}

/* Out of the folder that is made for a name that does not exist any more it cannot lead. */
static void test_name_goes_up(void **state)
{
	struct env *e = *state;

	add(e, SOCK_DGRAM, UNIX_CLOSE, "../../../test-unix-up", 0);
	expect(e, 0, NULL);
	assert_int_not_equal(access("/test-unix-up", F_OK), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_truth), TEST(test_same_inode), TEST(test_fields), TEST(test_one_sided), TEST(test_peer_of_itself),
		TEST(test_missing_peer), TEST(test_three_in_a_pair), TEST(test_circle), TEST(test_pending),
		TEST(test_extra_of_nothing), TEST(test_extra_twice), TEST(test_option), TEST(test_packets), TEST(test_packet_nowhere),
		TEST(test_packet_rights), TEST(test_packet_control), TEST(test_packet_extra), TEST(test_datagram_to_unnamed),
		TEST(test_relative_name), TEST(test_name_goes_up),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
