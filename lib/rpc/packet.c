// SPDX-License-Identifier: MIT
#include "lib/rpc/packet.h"

#include <string.h>
#include <sys/socket.h>

#include "lib/base/base.h"

enum { MAX_PACKET = 16 << 20 }; /* more than a socket buffer takes; what a peer can make us allocate */

/* Returns the length of the packet in *@buf (malloc), 0 at the end, or a negative errno. */
static ssize_t receive(int fd, uint8_t **buf, int *passed)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	const struct cmsghdr *cmsg;
	ssize_t n;

	do
		n = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n > MAX_PACKET)
		return -EMSGSIZE;
	*buf = malloc((size_t)n + 1);
	if (!*buf)
		return -ENOMEM;
	iov = (struct iovec){ .iov_base = *buf, .iov_len = (size_t)n + 1 };
	if (passed) {
		msg.msg_control = control.room;
		msg.msg_controllen = sizeof(control.room);
	}
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	cmsg = n >= 0 && passed ? CMSG_FIRSTHDR(&msg) : NULL;
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS && cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(passed, CMSG_DATA(cmsg), sizeof(int));
	return n < 0 ? -errno : n;
}

static int send_packet(int fd, const void *buf, size_t len, int pass)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (pass >= 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = control.room;
		msg.msg_controllen = sizeof(control.room);
		cmsg = CMSG_FIRSTHDR(&msg);
		*cmsg = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(cmsg), &pass, sizeof(pass));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int packet_receive(int fd, CriuReq **ret)
{
	_cleanup_free_ uint8_t *buf = NULL;
	ssize_t n = receive(fd, &buf, NULL);

	*ret = NULL;
	if (n <= 0)
		return n < 0 ? (int)n : 1;
	*ret = criu_req__unpack(NULL, (size_t)n, buf);
	return *ret ? 0 : -EBADMSG;
}

int packet_send(int fd, const CriuResp *resp, int pass)
{
	_cleanup_free_ uint8_t *buf = malloc(criu_resp__get_packed_size(resp) + 1);

	return buf ? send_packet(fd, buf, criu_resp__pack(resp, buf), pass) : -ENOMEM;
}

int packet_receive_answer(int fd, CriuResp **ret, int *passed)
{
	_cleanup_free_ uint8_t *buf = NULL;
	ssize_t n;

	*ret = NULL;
	*passed = -1;
	n = receive(fd, &buf, passed);
	if (n <= 0)
		return n < 0 ? (int)n : 1;
	*ret = criu_resp__unpack(NULL, (size_t)n, buf);
	return *ret ? 0 : -EBADMSG;
}

int packet_send_request(int fd, const CriuReq *req)
{
	_cleanup_free_ uint8_t *buf = malloc(criu_req__get_packed_size(req) + 1);

	return buf ? send_packet(fd, buf, criu_req__pack(req, buf), -1) : -ENOMEM;
}
