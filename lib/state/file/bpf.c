/* SPDX-License-Identifier: MIT */
/* Who holds a BPF map besides the program that is saved: the kernel does not count for us, so everything is looked at. */
#include "lib/state/file/bpf.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define FS_BPF 0xcafe4a11u
#define MAX_DEPTH 8

int bpf_call(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return (int)syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static const char *const kinds[] = {
	[BPF_MAP_TYPE_HASH] = "hash",
	[BPF_MAP_TYPE_ARRAY] = "array",
	[BPF_MAP_TYPE_PROG_ARRAY] = "array of programs",
	[BPF_MAP_TYPE_PERF_EVENT_ARRAY] = "array of perf events",
	[BPF_MAP_TYPE_PERCPU_HASH] = "per-cpu hash",
	[BPF_MAP_TYPE_PERCPU_ARRAY] = "per-cpu array",
	[BPF_MAP_TYPE_STACK_TRACE] = "stack trace",
	[BPF_MAP_TYPE_CGROUP_ARRAY] = "array of cgroups",
	[BPF_MAP_TYPE_LRU_HASH] = "LRU hash",
	[BPF_MAP_TYPE_LRU_PERCPU_HASH] = "per-cpu LRU hash",
	[BPF_MAP_TYPE_LPM_TRIE] = "LPM trie",
	[BPF_MAP_TYPE_ARRAY_OF_MAPS] = "array of maps",
	[BPF_MAP_TYPE_HASH_OF_MAPS] = "hash of maps",
	[BPF_MAP_TYPE_DEVMAP] = "device map",
	[BPF_MAP_TYPE_SOCKMAP] = "socket map",
	[BPF_MAP_TYPE_CPUMAP] = "cpu map",
	[BPF_MAP_TYPE_XSKMAP] = "XDP socket map",
	[BPF_MAP_TYPE_SOCKHASH] = "socket hash",
	[BPF_MAP_TYPE_QUEUE] = "queue",
	[BPF_MAP_TYPE_STACK] = "stack",
	[BPF_MAP_TYPE_SK_STORAGE] = "socket storage",
	[BPF_MAP_TYPE_STRUCT_OPS] = "struct_ops",
	[BPF_MAP_TYPE_RINGBUF] = "ring buffer",
	[BPF_MAP_TYPE_INODE_STORAGE] = "inode storage",
	[BPF_MAP_TYPE_TASK_STORAGE] = "task storage",
	[BPF_MAP_TYPE_BLOOM_FILTER] = "bloom filter",
	[BPF_MAP_TYPE_USER_RINGBUF] = "user ring buffer",
};

const char *bpf_map_kind_name(uint32_t type)
{
	return type < ARRAY_SIZE(kinds) && kinds[type] ? kinds[type] : "unknown";
}

static int info_of(int fd, void *info, size_t n)
{
	union bpf_attr a = { .info = { .bpf_fd = (uint32_t)fd, .info_len = (uint32_t)n, .info = (uintptr_t)info } };

	return bpf_call(BPF_OBJ_GET_INFO_BY_FD, &a);
}

static bool prog_uses(int fd, uint32_t map)
{
	struct bpf_prog_info info = { 0 };
	_cleanup_free_ uint32_t *ids = NULL;
	uint32_t n;
	bool uses = false;

	if (info_of(fd, &info, sizeof(info)) < 0 || !info.nr_map_ids)
		return false;
	n = info.nr_map_ids;
	ids = calloc(n, sizeof(*ids));
	if (!ids)
		return false;
	memset(&info, 0, sizeof(info));
	info.nr_map_ids = n;
	info.map_ids = (uintptr_t)ids;
	if (info_of(fd, &info, sizeof(info)) < 0)
		return false;
	for (uint32_t i = 0; i < MIN(n, info.nr_map_ids) && !uses; i++)
		uses = ids[i] == map;
	return uses;
}

static const char *used_by_program(struct op *op, uint32_t map)
{
	union bpf_attr a = { 0 };

	while (bpf_call(BPF_PROG_GET_NEXT_ID, &a) == 0) {
		union bpf_attr b = { .prog_id = a.next_id };
		_cleanup_close_ int fd = bpf_call(BPF_PROG_GET_FD_BY_ID, &b);

		if (fd >= 0 && prog_uses(fd, map))
			return arena_printf(op->arena, "BPF program %u", a.next_id);
		a.start_id = a.next_id;
	}
	return NULL;
}

static bool pinned_here(const char *path, uint32_t map)
{
	union bpf_attr a = { .pathname = (uintptr_t)path, .file_flags = BPF_F_RDONLY };
	struct bpf_map_info info = { 0 };
	_cleanup_close_ int fd = bpf_call(BPF_OBJ_GET, &a);
	char link[64], target[64];
	ssize_t n;

	if (fd < 0)
		return false;
	/* A program or a link answers with a description of its own: only maps are compared. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	return !strcmp(target, "anon_inode:bpf-map") && info_of(fd, &info, sizeof(info)) == 0 && info.id == map;
}

static const char *pinned_below(struct op *op, const char *dir, uint32_t map, int depth)
{
	const char *found = NULL;
	struct dirent *e;
	DIR *d = depth < MAX_DEPTH ? opendir(dir) : NULL;

	if (!d)
		return NULL;
	while (!found && (e = readdir(d))) {
		char *path = e->d_name[0] == '.' ? NULL : arena_printf(op->arena, "%s/%s", dir, e->d_name);

		if (!path)
			continue;
		if (e->d_type == DT_DIR)
			found = pinned_below(op, path, map, depth + 1);
		else if (pinned_here(path, map))
			found = arena_printf(op->arena, "it is pinned at %s", path);
	}
	closedir(d);
	return found;
}

const char *bpf_map_user(struct op *op, uint32_t id)
{
	const char *user = used_by_program(op, id);
	struct statfs fs;

	if (!user && statfs("/sys/fs/bpf", &fs) == 0 && (uint32_t)fs.f_type == FS_BPF)
		user = pinned_below(op, "/sys/fs/bpf", id, 0);
	return user;
}
