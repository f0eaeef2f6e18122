#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UDP, raw and ICMP sockets, multicast groups and options of network sockets: what is told where something is lost or not
there, and images that lie. In a network namespace of its own."""
import os
import socket
import struct

import bad_input as b
import harness as h
import images as im

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def ip(*args):
    return h.must(h.run(["ip", *args]), "ip " + " ".join(args))


def lies(checkpoint, what):
    """Each must be found, and named."""
    for lie, word in what:
        path = checkpoint.copy()
        im.change(os.path.join(path, "ckpt-extra"), lie)
        r = h.ckpt("restore", "-d", "-D", path)
        h.require(r.rc == 1 and word in r.out, f"{lie.__name__}: lie about '{word}': {r}")


def warned(target, variant, word):
    with h.Workdir() as w, h.Target(w, target, variant) as t:
        t.ready()
        r = h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        h.require(word in r.out, f"nobody is told: {r}")
        t.go()


@case
def lost_at_the_dump():
    warned("raw", "queued", "what waits in it to be received is lost")
    warned("udp", "error", "an error that waits to be reported, and what waits behind it, is lost")


@case
def datagrams_in_the_image():
    with h.Workdir() as w, h.Target(w, "udp", "info") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        queues = [list(x.queue) for x in im.read(w + "/i/ckpt-extra")[0].inet_sockets if x.queue]
        h.require(len(queues) == 1 and len(queues[0]) == 1, f"queues: {queues}")
        d = queues[0][0]
        h.require(d.data == b"one" and d.to == bytes([127, 0, 0, 7]) and d.tos == 0x28 and d.ttl == 31, f"{d}")
        sender = struct.pack("=H", socket.AF_INET) + struct.pack(">H", 7172) + bytes([127, 0, 0, 1])
        h.require(getattr(d, "from")[:8] == sender, f"{d}")
        t.go()


@case
def datagrams_shut_out():
    """A firewall that drops them at the restore: the program is restored, and told how many are lost."""
    with h.Workdir() as w, h.Target(w, "udp", "queue4") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        rules = "table inet mine { chain input { type filter hook input priority 0; udp dport 7101 drop; }; }"
        h.must(h.run(["nft", rules]), "nft")
        r = h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        h.require("of 5 datagrams that waited in it, 5 are lost" in r.out, f"nobody is told: {r}")
        left = h.must(h.run(["nft", "list", "tables"]), "nft").out
        h.require(left.split() == ["table", "inet", "mine"], f"tables: {left}")
        h.must(h.run(["nft", "delete", "table", "inet", "mine"]), "nft")
        t.kill()


@case
def datagram_lies():
    def data(m): q(m)[0].data = bytes(65536)
    def sender(m): setattr(q(m)[0], "from", b"12345678")
    def family(m): setattr(q(m)[0], "from", struct.pack("=H", socket.AF_INET6) + bytes(14))
    def to(m): q(m)[0].to = bytes(16)
    def ttl(m): q(m)[0].ttl = 256

    def q(m):
        return next(x for x in m.inet_sockets if x.queue).queue

    with b.Checkpoint("udp", "queue4") as c:
        lies(c, [(lie, "datagram 0 in it is none") for lie in (data, sender, family, to, ttl)])
    with b.Checkpoint("raw", "whole") as c:
        first = next(m.isk.id for m in im.read(os.path.join(c.images, "files.img")) if m.HasField("isk"))

        def in_a_raw_one(m):
            m.inet_sockets.add(id=first).queue.add(data=b"x")
        lies(c, [(in_a_raw_one, "there cannot be datagrams in it")])


@case
def group_without_its_device():
    with h.Workdir() as w, h.Target(w, "multicast", "both") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        ip("link", "set", "v0", "down")
        ip("link", "set", "v0", "name", "v9")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and "multicast group ff1" in r.out and "on device v0, which is not there" in r.out, f"{r}")
        ip("link", "delete", "v9")


@case
def device_with_another_number():
    """Groups and options go by its name."""
    with h.Workdir() as w, h.Target(w, "multicast", "both") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        ip("link", "delete", "v0")
        ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        ip("addr", "add", "fd00::5/64", "dev", "v0", "nodad")
        ip("link", "set", "v1", "up")
        ip("link", "set", "v0", "up")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        members = h.read_text("/proc/net/igmp6")
        h.require("v0              ff150000000000000000000000000077" in members, f"groups: {members}")
        t.kill()
        ip("link", "delete", "v0")


@case
def group_lies():
    def extra(m): return next(x for x in m.inet_sockets if x.groups).groups[0]
    def family(m): extra(m).family = 77
    def group(m): extra(m).group = b"123"
    def mode(m): extra(m).mode = 2
    def nobody(m): extra(m).mode = 1
    def name(m): extra(m).ifname = "x" * 16
    def source(m): extra(m).sources.append(b"1")
    def unicast(m): extra(m).group = bytes([10, 0, 0, 1]) if len(extra(m).group) == 4 else bytes(16)
    with b.Checkpoint("multicast", "any") as c:
        lies(c, [(lie, "no multicast group") for lie in (family, group, mode, nobody, name, source)] + [(unicast, "cannot join")])


@case
def option_lies():
    def options(m): return m.inet_sockets[0].options
    def unknown(m): options(m).add(level=0, name=200, value=b"1234")
    def level(m): options(m).add(level=77, name=1, value=b"1234")
    def repair(m): options(m).add(level=6, name=19, value=b"\1\0\0\0")
    def size(m): options(m).add(level=0, name=12, value=b"12345")
    def short(m): options(m).add(level=0, name=12, value=b"1")
    def device(m): options(m).add(level=41, name=17, value=b"nothing0")
    def congestion(m): options(m).add(level=6, name=13, value=b"nonesuch")
    with b.Checkpoint("netopts", "tcp4") as c:
        lies(c, [(unknown, "200 of level 0 is not a socket option"), (level, "1 of level 77"), (repair, "19 of level 6"),
                 (size, "no value of IP_RECVTTL"), (short, "no value of IP_RECVTTL"), (congestion, "TCP_CONGESTION to nonesuch")])
    with b.Checkpoint("netopts", "udp6") as c:
        lies(c, [(device, "IPV6_MULTICAST_IF to device nothing0")])


@case
def ping_not_allowed():
    with h.Workdir() as w, h.Target(w, "raw", "ping4") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as f:
            f.write("1 0")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and "ICMP socket" in r.out and "ping_group_range" in r.out, f"{r}")


@case
def ping_not_allowed_at_the_dump():
    """Options are compared with those of a new socket; there need not be one."""
    with h.Workdir() as w, h.Target(w, "raw", "ping4") as t:
        t.ready()
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as f:
            f.write("1 0")
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        t.go()


if __name__ == "__main__":
    h.own_network()
    h.run_cases(CASES)
