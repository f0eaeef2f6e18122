// SPDX-License-Identifier: MIT
/* BPF maps: what is in them, what they are called, what their descriptors may do. */
#include "target.h"

#include <linux/bpf.h>

static int bpf(int cmd, union bpf_attr *a)
{
	return (int)syscall(SYS_bpf, cmd, a, sizeof(*a));
}

static int make(uint32_t type, uint32_t value_size, uint32_t entries, uint32_t flags, const char *name)
{
	union bpf_attr a = { .map_type = type, .key_size = 4, .value_size = value_size, .max_entries = entries, .map_flags = flags };
	int fd;

	strncpy(a.map_name, name, sizeof(a.map_name) - 1);
	fd = bpf(BPF_MAP_CREATE, &a);
	if (fd < 0)
		SKIP("no BPF maps here: %s", strerror(errno));
	return fd;
}

static int set(int fd, uint32_t key, const void *value)
{
	union bpf_attr a = { .map_fd = fd };

	a.key = (uintptr_t)&key;
	a.value = (uintptr_t)value;
	return bpf(BPF_MAP_UPDATE_ELEM, &a);
}

static int get(int fd, uint32_t key, void *value)
{
	union bpf_attr a = { .map_fd = fd };

	a.key = (uintptr_t)&key;
	a.value = (uintptr_t)value;
	return bpf(BPF_MAP_LOOKUP_ELEM, &a);
}

static struct bpf_map_info info(int fd)
{
	struct bpf_map_info i = { 0 };
	union bpf_attr a = { .info = { .bpf_fd = fd, .info_len = sizeof(i), .info = (uintptr_t)&i } };

	CHECK(!bpf(BPF_OBJ_GET_INFO_BY_FD, &a));
	return i;
}

static int again(int fd, uint32_t flags)
{
	union bpf_attr a = { .map_id = info(fd).id, .open_flags = flags };

	return bpf(BPF_MAP_GET_FD_BY_ID, &a);
}

static void same_info(struct bpf_map_info a, struct bpf_map_info b)
{
	CHECK(a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size && a.max_entries == b.max_entries);
	CHECK(a.map_flags == b.map_flags && !strcmp(a.name, b.name));
}

static void hash(void)
{
	int fd = make(BPF_MAP_TYPE_HASH, 12, 1000, BPF_F_NO_PREALLOC, "some_hash");
	struct bpf_map_info before = info(fd);
	char value[12] = "value";

	for (uint32_t i = 0; i < 600; i++) {
		memcpy(value + 8, &i, 4);
		CHECK(!set(fd, i * 7, value));
	}
	t_wait();
	same_info(before, info(fd));
	for (uint32_t i = 0; i < 600; i++) {
		memset(value, 0, 12);
		CHECK(!get(fd, i * 7, value) && !strcmp(value, "value") && !memcmp(value + 8, &i, 4));
	}
	CHECK(get(fd, 1, value) < 0 && errno == ENOENT);
	for (uint32_t i = 600; i < 1000; i++)
		CHECK(!set(fd, i * 7, value));
	CHECK(set(fd, 1, value) < 0);
}

static void array(void)
{
	int fd = make(BPF_MAP_TYPE_ARRAY, 20, 50, 0, ""), empty = make(BPF_MAP_TYPE_HASH, 4, 3, 0, "empty");
	char value[20];

	t_fill(value, 16, 1);
	memcpy(value + 16, "end", 4);
	CHECK(!set(fd, 49, value));
	CHECK(fcntl(empty, F_SETFD, 0) == 0);
	t_wait();
	CHECK(!get(fd, 49, value) && t_same(value, 16, 1) && !strcmp(value + 16, "end"));
	CHECK(!get(fd, 0, value) && !value[0] && !value[19]);
	CHECK(get(empty, 0, value) < 0 && errno == ENOENT);
	CHECK(!set(empty, 9, "abc") && !get(empty, 9, value) && !strcmp(value, "abc"));
	CHECK(fcntl(empty, F_GETFD) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

static void frozen(void)
{
	int fd = make(BPF_MAP_TYPE_ARRAY, 8, 2, BPF_F_RDONLY_PROG, "ice");
	union bpf_attr a = { .map_fd = fd };
	char value[8];

	CHECK(!set(fd, 1, "kept it"));
	CHECK(!bpf(BPF_MAP_FREEZE, &a));
	t_wait();
	CHECK(!get(fd, 1, value) && !strcmp(value, "kept it"));
	CHECK(set(fd, 1, "changed") < 0 && errno == EPERM);
}

/* Several descriptions of one map, with different rights, and two descriptors of one of them. */
static void shared(void)
{
	int w, r, rw, two, fd = make(BPF_MAP_TYPE_HASH, 8, 4, 0, "shared");
	char value[8];

	CHECK((w = again(fd, BPF_F_WRONLY)) >= 0 && (r = again(fd, BPF_F_RDONLY)) >= 0 && (rw = again(fd, 0)) >= 0);
	CHECK(dup2(w, 20) == 20 && !close(fd) && (two = dup(rw)) >= 0);
	CHECK(!set(w, 5, "five..."));
	t_wait();
	CHECK(!get(r, 5, value) && !strcmp(value, "five..."));
	CHECK(get(w, 5, value) < 0 && errno == EPERM && set(r, 5, value) < 0 && errno == EPERM);
	CHECK(!set(20, 5, "changed") && !get(two, 5, value) && !strcmp(value, "changed"));
	CHECK(info(two).id == info(rw).id && info(r).id == info(rw).id);
}

/* Refused. */
static void percpu(void)
{
	int fd = make(BPF_MAP_TYPE_PERCPU_ARRAY, 8, 4, 0, "percpu");

	t_wait();
	CHECK(info(fd).type == BPF_MAP_TYPE_PERCPU_ARRAY);
}

static void mapped(void)
{
	int fd = make(BPF_MAP_TYPE_ARRAY, 8, 512, BPF_F_MMAPABLE, "mapped");
	uint64_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), value;

	CHECK(p != MAP_FAILED);
	p[3] = 33;
	t_wait();
	CHECK(!get(fd, 3, &value) && value == 33);
}

static void used(void)
{
	int fd = make(BPF_MAP_TYPE_ARRAY, 8, 4, 0, "used"), prog;
	struct bpf_insn code[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = fd }, { 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 }, { .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr a = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = 4, .license = (uintptr_t)"MIT",
	};

	prog = bpf(BPF_PROG_LOAD, &a);
	if (prog < 0)
		SKIP("no BPF programs here: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(prog, F_GETFD) >= 0);
}

static void prog(void)
{
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 }, { .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr a = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = 2, .license = (uintptr_t)"MIT",
	};
	int fd = bpf(BPF_PROG_LOAD, &a);

	if (fd < 0)
		SKIP("no BPF programs here: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "hash", hash }, { "array", array }, { "frozen", frozen }, { "shared", shared },
		{ "percpu", percpu }, { "mapped", mapped }, { "used", used }, { "prog", prog },
	};

	T_RUN(variants, t_init(argc, argv));
}
