// SPDX-License-Identifier: MIT
/* The other end of the service protocol: a worker that is started, or a service. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/base/base.h"
#include "lib/libcriu/libcriu.h"
#include "lib/rpc/packet.h"

int libcriu_pts_master = -1;

/* ---------------------------------------------------------------------------------------------- starting */

/* The program that was installed with this library: it is found from where that is. */
static char *own_program(void)
{
	char *path = NULL;
	const char *slash;
	Dl_info info;

	if (!dladdr((void *)own_program, &info) || !info.dli_fname || !(slash = strrchr(info.dli_fname, '/')) ||
	    asprintf(&path, "%.*s/%s/ckpt", (int)(slash - info.dli_fname), info.dli_fname, CKPT_BIN_FROM_LIB) < 0)
		return NULL;
	if (access(path, X_OK) == 0)
		return path;
	free(path);
	return NULL;
}

__attribute__((noreturn)) static void become_worker(const char *program, int fd)
{
	char number[16];
	sigset_t none;

	snprintf(number, sizeof(number), "%d", fd);
	fcntl(fd, F_SETFD, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (program) {
		execlp(program, program, "swrk", number, (char *)NULL);
		_exit(127);
	}
	execlp("criu", "criu", "swrk", number, (char *)NULL);
	execlp("ckpt", "ckpt", "swrk", number, (char *)NULL);
	_exit(127);
}

static int start_worker(const criu_opts *o, pid_t *pid)
{
	_cleanup_free_ char *own = o->binary ? NULL : own_program();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*pid = fork();
	if (*pid == 0)
		become_worker(o->binary ?: own, pair[1]);
	close(pair[1]);
	if (*pid > 0)
		return pair[0];
	close(pair[0]);
	return -EAGAIN;
}

static int connect_to(const criu_opts *o)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (o->comm == CRIU_COMM_FD)
		return fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
	if (strlen(o->address) >= sizeof(addr.sun_path))
		return -1;
	strcpy(addr.sun_path, o->address);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* ----------------------------------------------------------------------------------------------- talking */

static int answer_event(criu_opts *o, int sock, const CriuResp *event, int passed)
{
	struct _criu_notify na = { .pid = event->notify && event->notify->has_pid ? event->notify->pid : 0 };
	CriuReq req = CRIU_REQ__INIT;
	int r = 0;

	libcriu_pts_master = passed;
	if (o->notify && event->notify && event->notify->script)
		r = o->notify(event->notify->script, &na);
	else if (passed >= 0)
		close(passed); /* nobody takes it */
	libcriu_pts_master = -1;
	req.type = CRIU_REQ_TYPE__NOTIFY;
	req.has_notify_success = true;
	req.notify_success = r == 0;
	return packet_send_request(sock, &req);
}

static int talk(criu_opts *o, int sock, const CriuReq *req, CriuResp **resp)
{
	int r = packet_send_request(sock, req), passed;

	if (r)
		return -ECOMM;
	for (;;) {
		r = packet_receive_answer(sock, resp, &passed);
		if (r)
			return r == -EBADMSG ? -EBADMSG : -ECOMM;
		if ((*resp)->type != CRIU_REQ_TYPE__NOTIFY)
			return 0;
		r = answer_event(o, sock, *resp, passed);
		criu_resp__free_unpacked(*resp, NULL);
		*resp = NULL;
		if (r)
			return -ECOMM;
	}
}

int libcriu_send(criu_opts *o, const CriuReq *req, bool fork, CriuResp **resp)
{
	bool start = fork || !o->served || o->comm == CRIU_COMM_BIN;
	pid_t worker = -1;
	int sock = start ? start_worker(o, &worker) : connect_to(o), r;

	*resp = NULL;
	if (sock < 0)
		return -ECONNREFUSED;
	r = talk(o, sock, req, resp);
	close(sock);
	while (worker > 0 && waitpid(worker, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}
