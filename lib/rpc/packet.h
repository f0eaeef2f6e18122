/* SPDX-License-Identifier: MIT */
/* One message, one packet. */
#ifndef CKPT_RPC_PACKET_H
#define CKPT_RPC_PACKET_H

#include "rpc.pb-c.h"

/*
 * The next request. Returns 0; 1: the other side has closed; or negative: -EBADMSG for what is no request, else the errno of the
 * socket. criu_req__free_unpacked().
 */
int packet_receive(int fd, CriuReq **ret);
/* An answer, with descriptor @pass if that is not -1. Returns 0 or a negative errno. */
int packet_send(int fd, const CriuResp *resp, int pass);

/* The other way round, for clients. */
int packet_receive_answer(int fd, CriuResp **ret, int *passed);
int packet_send_request(int fd, const CriuReq *req);

#endif
