// SPDX-License-Identifier: MIT
/*
 * State that is not supported yet, one variant a kind: a dump must refuse it by name and leave the program as it was.
 * Each variant goes on to use what it has.
 */
#include "target.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_alg.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* A listener of a virtual machine, or on its host. */
static void vsock(void)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VMADDR_PORT_ANY };
	socklen_t n = sizeof(a);
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0)
		SKIP("no vsock sockets here: %s", strerror(errno));
	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof(a)) && !listen(fd, 1));
	t_wait();
	CHECK(!getsockname(fd, (struct sockaddr *)&a, &n) && a.svm_port != VMADDR_PORT_ANY);
}

static void xdp(void)
{
	int fd = socket(AF_XDP, SOCK_RAW, 0);

	if (fd < 0)
		SKIP("no XDP sockets here: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void crypto(void)
{
	struct sockaddr_alg a = { .salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256" };
	int fd = socket(AF_ALG, SOCK_SEQPACKET, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)))
		SKIP("no crypto sockets here: %s", strerror(errno));
	t_wait();
	CHECK(accept(fd, NULL, NULL) >= 0);
}

/* Datagrams pass as an eBPF program says: the first two bytes of each. */
static void program(void)
{
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 2 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = ARRAY_SIZE(code),
		.license = (uintptr_t)"GPL",
	};
	int prog = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr)), fd[2];
	char b[8];

	if (prog < 0)
		SKIP("no eBPF programs here: %s", strerror(errno));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, fd));
	CHECK(!setsockopt(fd[1], SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof(prog)) && !close(prog));
	t_wait();
	CHECK(send(fd[0], "abcd", 4, 0) == 4 && recv(fd[1], b, sizeof(b), 0) == 2);
}

static void secretmem(void)
{
	int fd = syscall(447 /* memfd_secret */, 0);
	char *p;

	if (fd < 0)
		SKIP("this kernel has no secret memory");
	CHECK(!ftruncate(fd, PAGE));
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP("secret memory cannot be mapped here");
	strcpy(p, "secret");
	close(fd);
	t_wait();
	CHECK(!strcmp(p, "secret"));
}

/* Somebody (here: the program itself) would be asked at each getpriority(); nobody can be asked in a restored program. */
static int ask_at_getpriority(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

static void listener(void)
{
	int fd = ask_at_getpriority();

	if (fd < 0)
		SKIP("no seccomp listener here: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

/* The listener is elsewhere (here: nowhere any more): only the filter tells. */
static void asking(void)
{
	int fd = ask_at_getpriority();

	if (fd < 0)
		SKIP("no seccomp listener here: %s", strerror(errno));
	close(fd);
	t_wait();
	CHECK(syscall(SYS_getpriority, 0, 0) < 0 && errno == ENOSYS);
}

static void uffd(void)
{
	int fd = syscall(SYS_userfaultfd, O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API };

	if (fd < 0)
		SKIP("no userfaultfd here: %s", strerror(errno));
	CHECK(!ioctl(fd, UFFDIO_API, &api));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void perf(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_PAGE_FAULTS };
	int fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	uint64_t n;

	if (fd < 0)
		SKIP("no perf events here: %s", strerror(errno));
	t_wait();
	CHECK(read(fd, &n, 8) == 8);
}

static void landlock(void)
{
	uint64_t attr[1] = { 1 }; /* LANDLOCK_ACCESS_FS_EXECUTE */
	int fd = syscall(SYS_landlock_create_ruleset, attr, sizeof(attr), 0);

	if (fd < 0)
		SKIP("no Landlock here: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void machine(void)
{
	int kvm = open("/dev/kvm", O_RDWR), fd = kvm < 0 ? -1 : ioctl(kvm, 0xae01 /* KVM_CREATE_VM */, 0);

	if (fd < 0)
		SKIP("no virtual machines here: %s", strerror(errno));
	close(kvm);
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "vsock", vsock }, { "xdp", xdp }, { "crypto", crypto }, { "program", program },
		{ "secretmem", secretmem },
		{ "uffd", uffd }, { "perf", perf }, { "landlock", landlock }, { "machine", machine },
		{ "listener", listener }, { "asking", asking },
	};

	T_RUN(variants, t_init(argc, argv));
}
