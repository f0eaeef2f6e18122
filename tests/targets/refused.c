// SPDX-License-Identifier: MIT
/*
 * State that is not supported yet, one variant a kind: a dump must refuse it by name and leave the program as it was.
 * Each variant goes on to use what it has.
 */
#include "target.h"

#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

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
		{ "secretmem", secretmem },
		{ "uffd", uffd }, { "perf", perf }, { "landlock", landlock }, { "machine", machine },
		{ "listener", listener }, { "asking", asking },
	};

	T_RUN(variants, t_init(argc, argv));
}
