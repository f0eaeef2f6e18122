/* SPDX-License-Identifier: MIT */
/* Kinds of descriptors that are not saved yet: recognised, named, refused. Nothing is ever dropped silently. */
#include "lib/state/file/core.h"
#include "lib/state/sock/sock.h"

struct named {
	const char *prefix, *kind, *hint;
};

/* By the text of the link. Longer ones first where one is the beginning of another. */
static const struct named by_link[] = {
	{ "anon_inode:[userfaultfd]", "userfaultfd", NULL },
	{ "anon_inode:[perf_event]", "perf event", NULL },
	{ "anon_inode:bpf-prog", "bpf program", NULL },
	{ "anon_inode:bpf", "bpf object", NULL },
	{ "anon_inode:btf", "bpf object", NULL },
	{ "anon_inode:seccomp notify", "seccomp listener", NULL },
	{ "anon_inode:[landlock-ruleset]", "landlock ruleset", NULL },
	{ "anon_inode:kvm", "virtual machine", NULL },
	{ "anon_inode:dmabuf", "dma buffer", NULL },
	{ "/dmabuf:", "dma buffer", NULL },
	{ "anon_inode:", "anonymous inode", NULL },
	{ "/secretmem", "secret memory", NULL },
	{ "/SYSV", "SysV shared memory", NULL },
	{ "/anon_hugepage", "shared huge pages", NULL },
	{ "/[aio]", "AIO ring", NULL },
	{ "socket:[", "socket", NULL },
};

static bool has_name(const struct fd_view *v)
{
	struct stat st;

	return view_stat(v->view, v->link, &st) == 0;
}

static const struct named *by_text(const struct fd_view *v)
{
	for (size_t i = 0; i < ARRAY_SIZE(by_link); i++) {
		const struct named *n = &by_link[i];

		if (strncmp(v->link, n->prefix, strlen(n->prefix)) != 0)
			continue;
		/* What looks like a path is one, unless it lies where no path leads. */
		if (n->prefix[0] != '/' || v->st.st_dev == v->shm_dev || v->fs_magic == FS_HUGETLBFS ||
		    v->fs_magic == FS_SECRETMEM || !has_name(v))
			return n;
	}
	return NULL;
}

static const char *kind_of(const struct fd_view *v)
{
	const struct named *n;

	if (v->fs_magic == FS_MQUEUE)
		return "message queue";
	if (S_ISSOCK(v->st.st_mode) && !(v->info.flags & O_PATH))
		return "socket";
	n = by_text(v);
	if (n)
		return n->kind;
	/* Everything that the other kinds know has a path, or is a pipe or shared memory. */
	return v->link[0] == '/' || v->link[0] == '(' ? NULL : "unknown object";
}

static bool unsupported_match(const struct fd_view *v)
{
	return kind_of(v) != NULL;
}

/* Families of sockets, by number: the C library lacks some. All of this is said where nothing of it was saved. */
static const struct family {
	int family;
	const char *kind, *why;
} families[] = {
	{ 3, "AX.25 socket", "its connections are the radio link's" },
	{ 4, "IPX socket", NULL },
	{ 5, "AppleTalk socket", NULL },
	{ 6, "NET/ROM socket", "its connections are the radio link's" },
	{ 8, "ATM socket", "its circuits are the network card's" },
	{ 9, "X.25 socket", "its circuits are the network's" },
	{ 11, "ROSE socket", "its connections are the radio link's" },
	{ 15, "key socket (PF_KEY)", "what the kernel has noted for it, is not shown" },
	{ 20, "ATM socket", "its circuits are the network card's" },
	{ 21, "RDS socket", "what is on its way is in memory of the kernel and of a network card" },
	{ 24, "PPP over network socket (PPPoE, L2TP, PPTP)", "its session is that of a network device and of a peer" },
	{ 26, "LLC socket", NULL },
	{ 27, "InfiniBand socket", "its queues are the network card's" },
	{ 28, "MPLS socket", NULL },
	{ 29, "CAN socket", "its filters and what is on its way are not shown in full" },
	{ 30, "TIPC socket", "its address and its connections are those of a cluster" },
	{ 31, "bluetooth socket", "its connections are kept by a bluetooth controller and the device at the other end" },
	{ 32, "IUCV socket", "its peer is another virtual machine of the same hypervisor" },
	{ 33, "RxRPC socket", "its calls and keys are in the kernel, which shows neither" },
	{ 34, "ISDN socket", "its calls are the network's" },
	{ 35, "Phonet socket", "its connections are the modem's" },
	{ 36, "IEEE 802.15.4 socket", NULL },
	{ 37, "CAIF socket", "its connections are the modem's" },
	{ 38, "crypto socket (AF_ALG)", "its keys, and what it has computed so far, are in the kernel, which gives them to nobody" },
	{ 39, "NFC socket", "its connections are with a device near by" },
	{ 40, "vsock socket", "its peer is the hypervisor or a virtual machine, which nothing can make go on with another socket" },
	{ 41, "KCM socket", "the kernel splits its messages by an eBPF program, which cannot be read" },
	{ 42, "QIPCRTR socket", "its peer is a processor of its own (a modem)" },
	{ 43, "SMC socket", "its connections are in memory that it shares with a network card" },
	{ 44, "XDP socket", "its rings are shared with the driver of a network card" },
	{ 45, "MCTP socket", "its peer is the firmware of a device" },
};

static int refuse_family(struct op *op, const struct fd_view *v)
{
	int family = sock_family_of(v);

	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (families[i].family == family)
			return file_refuse(op, v, families[i].kind,
					   "have the program close it before the checkpoint, and open another one afterwards",
					   "sockets of this family are not supported%s%s (%s)", families[i].why ? ": " : "",
					   families[i].why ?: "", v->link);
	return file_refuse(op, v, "socket", "the program must close it before the checkpoint",
			   "sockets of its family (%d) are not supported (%s)", family, v->link);
}

static int unsupported_check(struct op *op, const struct fd_view *v)
{
	const struct named *n = by_text(v);
	const char *hint = n ? n->hint : NULL;

	if (S_ISSOCK(v->st.st_mode) && !(v->info.flags & O_PATH))
		return refuse_family(op, v);
	return file_refuse(op, v, kind_of(v), hint ? hint : "the program must close it before the checkpoint",
			   "not supported yet (%s)", v->link);
}

static int unsupported_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	(void)s;
	(void)f;
	return unsupported_check(op, v);
}

const struct file_kind file_unsupported = {
	.name = "unsupported",
	.type = FD_TYPES__UND,
	.match = unsupported_match,
	.check = unsupported_check,
	.dump = unsupported_dump,
};
