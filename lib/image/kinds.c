// SPDX-License-Identifier: MIT
/* The table of image kinds: what a file is called, what it starts with, and which messages are in it. */
#include "lib/image/dir.h"

/* An image with one entry, with many of one type, with a head of its own type, and one without any framing. */
#define ONE(p, name, m, msg) { .pattern = p, .crit_magic = name, .magic = m, .first = &msg##__descriptor }
#define MANY(p, name, m, msg) \
	{ .pattern = p, .crit_magic = name, .magic = m, .first = &msg##__descriptor, .rest = &msg##__descriptor }
#define HEADED(p, name, m, head, msg) \
	{ .pattern = p, .crit_magic = name, .magic = m, .first = &head##__descriptor, .rest = &msg##__descriptor }
#define RAW(p, name) { .pattern = p, .crit_magic = name }
#define SERVICE(p, name, m, msg) \
	{ .pattern = p, .crit_magic = name, .magic = m, .first = &msg##__descriptor, .service = true }

static const struct img_kind_info kinds[IMG_N_KINDS] = {
	[IMG_INVENTORY] = ONE("inventory.img", "INVENTORY", 0x58313116, inventory_entry),
	[IMG_FDINFO] = MANY("fdinfo-%u.img", "FDINFO", 0x56213732, fdinfo_entry),
	[IMG_PAGEMAP] = HEADED("pagemap-%u.img", "PAGEMAP", 0x56084025, pagemap_head, pagemap_entry),
	[IMG_SHMEM_PAGEMAP] = HEADED("pagemap-shmem-%u.img", "PAGEMAP", 0x56084025, pagemap_head, pagemap_entry),
	[IMG_CORE] = ONE("core-%u.img", "CORE", 0x55053847, core_entry),
	[IMG_IDS] = ONE("ids-%u.img", "IDS", 0x54432030, task_kobj_ids_entry),
	[IMG_MM] = ONE("mm-%u.img", "MM", 0x57492820, mm_entry),
	[IMG_PIPES_DATA] = MANY("pipes-data.img", "PIPES_DATA", 0x56453709, pipe_data_entry),
	[IMG_FIFO_DATA] = MANY("fifo-data.img", "FIFO_DATA", 0x59333054, pipe_data_entry),
	[IMG_PSTREE] = MANY("pstree.img", "PSTREE", 0x50273030, pstree_entry),
	[IMG_FS] = ONE("fs-%u.img", "FS", 0x51403912, fs_entry),
	[IMG_REMAP_FPATH] = MANY("remap-fpath.img", "REMAP_FPATH", 0x59133954, remap_file_path_entry),
	[IMG_GHOST_FILE] = ONE("ghost-file-%x.img", "GHOST_FILE", 0x52583605, ghost_file_entry),
	[IMG_MEMFD] = MANY("memfd.img", "MEMFD_INODE", 0x48453499, memfd_inode_entry),
	[IMG_TTY_INFO] = MANY("tty-info.img", "TTY_INFO", 0x59453036, tty_info_entry),
	[IMG_TTY_DATA] = MANY("tty-data.img", "TTY_DATA", 0x59413026, tty_data_entry),
	[IMG_FILE_LOCKS] = MANY("filelocks.img", "FILE_LOCKS", 0x54323616, file_lock_entry),
	[IMG_PAGES] = RAW("pages-%u.img", "PAGES"),
	[IMG_SECCOMP] = ONE("seccomp.img", "SECCOMP", 0x64413049, seccomp_entry),
	[IMG_FILES] = MANY("files.img", "FILES", 0x56303138, file_entry),
	[IMG_TIMENS] = ONE("timens-%u.img", "TIMENS", 0x43114433, timens_entry),
	[IMG_CGROUP] = ONE("cgroup.img", "CGROUP", 0x59383330, cgroup_entry),
	[IMG_CPUINFO] = ONE("cpuinfo.img", "CPUINFO", 0x61404013, cpuinfo_entry),
	[IMG_UTSNS] = ONE("utsns-%u.img", "UTSNS", 0x54473203, utsns_entry),
	[IMG_IPC_VAR] = ONE("ipcns-var-%u.img", "IPC_VAR", 0x53115007, ipc_var_entry),
	[IMG_IPCNS_SHM] = MANY("ipcns-shm-%u.img", "IPCNS_SHM", 0x46283044, ipc_shm_entry),
	[IMG_IPCNS_MSG] = MANY("ipcns-msg-%u.img", "IPCNS_MSG", 0x55453737, ipc_msg_entry),
	[IMG_IPCNS_SEM] = MANY("ipcns-sem-%u.img", "IPCNS_SEM", 0x59573019, ipc_sem_entry),
	[IMG_TCP_STREAM] = ONE("tcp-stream-%x.img", "TCP_STREAM", 0x51465506, tcp_stream_entry),
	[IMG_MNTS] = MANY("mountpoints-%u.img", "MNTS", 0x55563928, mnt_entry),
	[IMG_NETDEV] = MANY("netdev-%u.img", "NETDEV", 0x57373951, net_device_entry),
	[IMG_NETNS] = ONE("netns-%u.img", "NETNS", 0x55933752, netns_entry),
	[IMG_IFADDR] = RAW("ifaddr-%u.img", "IFADDR"),
	[IMG_ROUTE] = RAW("route-%u.img", "ROUTE"),
	[IMG_ROUTE6] = RAW("route6-%u.img", "ROUTE6"),
	[IMG_RULE] = RAW("rule-%u.img", "RULE"),
	[IMG_IPTABLES] = RAW("iptables-%u.img", "IPTABLES"),
	[IMG_IP6TABLES] = RAW("ip6tables-%u.img", "IP6TABLES"),
	[IMG_NFTABLES] = RAW("nftables-%u.img", "NFTABLES"),
	[IMG_TMPFS_DEV] = RAW("tmpfs-dev-%u.tar.gz.img", "TMPFS_DEV"),
	[IMG_TMPFS] = RAW("tmpfs-%u.tar.gz.img", "TMPFS_IMG"), /* by older writers */
	[IMG_AUTOFS] = ONE("autofs-%u.img", "AUTOFS", 0x49353943, autofs_entry),
	[IMG_BINFMT_MISC] = MANY("binfmt-misc.img", "BINFMT_MISC", 0x67343323, binfmt_misc_entry),
	[IMG_SK_QUEUES] = MANY("sk-queues.img", "SK_QUEUES", 0x56264026, sk_packet_entry),
	[IMG_USERNS] = ONE("userns-%u.img", "USERNS", 0x55474906, userns_entry),
	[IMG_NETNF_CT] = RAW("netns-ct-%u.img", "NETNF_CT"),
	[IMG_NETNF_EXP] = RAW("netns-exp-%u.img", "NETNF_EXP"),
	[IMG_PIDNS] = ONE("pidns-%u.img", "PIDNS", 0x61157326, pidns_entry),
	[IMG_BPFMAP_DATA] = MANY("bpfmap-data.img", "BPFMAP_DATA", 0x64324033, bpfmap_data_entry),
	[IMG_APPARMOR] = ONE("apparmor.img", "APPARMOR", 0x59423047, apparmor_entry),
	[IMG_STATS_DUMP] = SERVICE("stats-dump", "STATS", 0x57093306, stats_entry),
	[IMG_STATS_RESTORE] = SERVICE("stats-restore", "STATS", 0x57093306, stats_entry),
	[IMG_SENT] = HEADED("ckpt-sent-%u", "PAGEMAP", 0x56084025, pagemap_head, pagemap_entry),
	[IMG_EXTRA] = SERVICE("ckpt-extra", "CKPT_EXTRA", 0x54504b43, ckpt_extra_entry),
	[IMG_BLOCKS] = RAW("ckpt-blocks", "CKPT_BLOCKS"),
	[IMG_SUMS] = SERVICE("ckpt-sums", "CKPT_SUMS", 0x53504b43, ckpt_sums_entry),
};

const struct img_kind_info *img_kind_info(enum img_kind kind)
{
	return (unsigned)kind < IMG_N_KINDS ? &kinds[kind] : NULL;
}

const char *img_name(enum img_kind kind, uint64_t id, char *buf, size_t n)
{
	const char *pattern = kinds[kind].pattern;
	const char *num = strchr(pattern, '%');

	if (!num)
		snprintf(buf, n, "%s", pattern);
	else if (num[1] == 'x')
		snprintf(buf, n, "%.*s%llx%s", (int)(num - pattern), pattern, (unsigned long long)id, num + 2);
	else
		snprintf(buf, n, "%.*s%llu%s", (int)(num - pattern), pattern, (unsigned long long)id, num + 2);
	return buf;
}

static bool name_is(const char *name, const char *pattern)
{
	const char *num = strchr(pattern, '%');
	size_t digits;

	if (!num)
		return strcmp(name, pattern) == 0;
	if (strncmp(name, pattern, num - pattern) != 0)
		return false;
	name += num - pattern;
	digits = strspn(name, num[1] == 'x' ? "0123456789abcdef" : "0123456789");
	return digits > 0 && strcmp(name + digits, num + 2) == 0;
}

bool img_name_known(const char *name)
{
	for (size_t i = 0; i < IMG_N_KINDS; i++)
		if (i != IMG_STATS_DUMP && i != IMG_STATS_RESTORE && name_is(name, kinds[i].pattern))
			return true;
	return false;
}

size_t img_put_head(enum img_kind kind, uint32_t head[2])
{
	const struct img_kind_info *info = &kinds[kind];

	if (!info->magic)
		return 0;
	if (kind == IMG_INVENTORY) {
		head[0] = info->magic;
		return sizeof(head[0]);
	}
	head[0] = info->service ? IMG_SERVICE_HEAD : IMG_COMMON_HEAD;
	head[1] = info->magic;
	return 2 * sizeof(head[0]);
}
