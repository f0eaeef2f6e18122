#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Netlink and packet sockets: what is in the images, addresses that others have taken, images that lie. In a network
namespace of its own."""
import os
import socket

import bad_input as b
import harness as h
import images as im

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def entries(images, field):
    """The messages of one kind in files.img."""
    return [getattr(m, field) for m in im.read(os.path.join(images, "files.img")) if m.HasField(field)]


def lies(checkpoint, index, field, what):
    """Each lie about that entry of files.img, or in our own file, must be found before anything is made."""
    for lie, word in what:
        path = checkpoint.copy()
        if lie.__name__.startswith("extra"):
            im.change(os.path.join(path, "ckpt-extra"), lie)
        else:
            im.change(os.path.join(path, "files.img"), lambda m, fn=lie: fn(getattr(m, field)), index)
        r = h.ckpt("restore", "-d", "-D", path)
        h.require(r.rc == 1 and word in r.out, f"lie about '{word}': {r}")


@case
def netlink_image():
    with h.Workdir() as w, h.Target(w, "netlink", "route") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        monitor = next(m for m in entries(w + "/i", "nlsk") if m.groups)
        h.require(monitor.protocol == 0 and monitor.state == 7 and monitor.portid and monitor.dst_portid == 0,
                  f"the monitor: {monitor}")
        h.require(list(monitor.groups) == [1 | 1 << 24], f"groups: {monitor.groups}") # LINK, IPV6_NETCONF
        extra = im.read(w + "/i/ckpt-extra")[0].netlink_sockets
        h.require([list(x.more_groups) for x in extra if x.id == monitor.id] == [[1 << 2]], f"more groups: {extra}") # TUNNEL
        h.require([x.type for x in extra if x.id != monitor.id] == [socket.SOCK_DGRAM], f"types: {extra}")
        t.go()


@case
def netlink_address_taken():
    """The program is restored all the same, with another address, and its user is told. (The target notices.)"""
    with h.Workdir() as w, h.Target(w, "netlink", "route") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        monitor = next(m for m in entries(w + "/i", "nlsk") if m.groups)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as s:
            s.bind((monitor.portid, 0))
            r = h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        h.require(f"its address {monitor.portid} is in use" in r.out, f"nobody is told: {r}")
        t.kill()


@case
def netlink_lies():
    def extra(m): m.netlink_sockets[0].id = 99
    def extra_type(m): m.netlink_sockets[0].type = 77
    def extra_option(m): m.netlink_sockets[0].options = 1 << 9
    def extra_group(m): m.netlink_sockets[0].more_groups.append(1 << 31)
    def protocol(m): m.protocol = 77
    def groups(m): m.groups.extend([1] * 3000)
    def no_groups(m): del m.groups[:]
    def peer(m): m.dst_group = 33
    with b.Checkpoint("netlink", "route") as c:
        files = im.read(os.path.join(c.images, "files.img"))
        index = next(i for i, m in enumerate(files) if m.HasField("nlsk") and m.nlsk.groups)
        lies(c, index, "nlsk", (
            (protocol, "no such protocol"), (groups, "too many groups"), (no_groups, "groups make no sense"),
            (peer, "nobody can connect"), (extra, "no netlink socket"), (extra_type, "type is unknown"),
            (extra_option, "not known"), (extra_group, "cannot join its group 96")))


def links(*args):
    h.must(h.run(["ip", "link", *args]), "ip link " + " ".join(args))


@case
def packet_image():
    with h.Workdir() as w, h.Target(w, "packet", "blocks") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        m, = entries(w + "/i", "psk")
        ring = m.rx_ring
        h.require(m.type == socket.SOCK_RAW and m.protocol == socket.htons(0x88b5) and m.ifindex == 1 and m.version == 2
                  and not m.HasField("tx_ring") and m.fanout == 2**32 - 1, f"the socket: {m}")
        h.require((ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr, ring.retire_tmo, ring.sizeof_priv, ring.features)
                  == (65536, 4, 2048, 128, 20, 64, 1), f"its ring: {ring}")
        area, = [v for v in im.read(w + f"/i/mm-{t.pid}.img")[0].vmas if v.status & 0x800]
        h.require(area.status == 0x801 and area.shmid == m.id and area.end - area.start == 4 * 65536 and area.flags & 1
                  and area.pgoff == 0, f"its mapping: {area}")
        t.go()


@case
def packet_device():
    """The device must be there, with the number that it had: the program has that in its memory."""
    with h.Workdir() as w, h.Target(w, "packet", "members") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        index = socket.if_nametoindex("ckpta")
        links("del", "ckpta")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and f"network device ckpta (index {index}) is gone" in r.out, f"gone: {r}")
        links("add", "ckpta", "index", str(index + 1000), "type", "veth", "peer", "name", "ckptb")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and f"network device ckpta has index {index + 1000} now, and had {index}" in r.out, f"another: {r}")
        links("del", "ckpta")
        links("add", "ckpta", "index", str(index), "type", "veth", "peer", "name", "ckptb")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        t.go()
        links("del", "ckpta")


@case
def packet_fanout_taken():
    """The group is there, and of another kind."""
    with h.Workdir() as w, h.Target(w, "packet", "fanout") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5)) as s:
            s.bind(("lo", 0x88b5))
            s.setsockopt(263, 18, 77)
            r = h.ckpt("restore", "-d", "-D", w + "/i")
            h.require(r.rc == 1 and "fanout group 77" in r.out, f"not refused: {r}")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        t.go()


@case
def packet_loopback_down():
    """By it a ring is brought to where it was."""
    with h.Workdir() as w, h.Target(w, "packet", "taken") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        links("set", "lo", "down")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and "the loopback device is down" in r.out and "ip link set lo up" in r.out, f"not refused: {r}")
        links("set", "lo", "up")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        t.go()


@case
def packet_lying_frames():
    def extra_next(m): m.packet_sockets[0].rx_next = 4
    def extra_index(m): m.packet_sockets[0].rx_frames[0].index = 4
    def extra_open(m): m.packet_sockets[0].rx_frames[0].index = m.packet_sockets[0].rx_next
    def extra_long(m): m.packet_sockets[0].rx_frames[0].data = b"1" * 65537
    def extra_short(m): m.packet_sockets[0].rx_frames[0].data = b"1" * 47
    def extra_none(m): m.packet_sockets[0].ClearField("rx_next")
    def no_ring(m): m.ClearField("rx_ring")
    def ring(m): m.rx_ring.frame_size = 2**20
    with b.Checkpoint("packet", "blocks2") as c:
        files = im.read(os.path.join(c.images, "files.img"))
        number = next(i for i, m in enumerate(files) if m.HasField("psk"))
        lies(c, number, "psk", [(lie, "what is in its ring makes no sense") for lie in (
            extra_next, extra_index, extra_open, extra_long, extra_short, extra_none, no_ring, ring)])


@case
def packet_lies():
    def extra(m): m.packet_sockets[0].id = 99
    def extra_option(m): m.packet_sockets[0].options = 2
    def extra_name(m): m.packet_sockets[0].devices[0].name = "a" * 40
    def kind(m): m.type = 77
    def index(m): m.ifindex = 2**31
    def no_device(m): m.ifindex = 2**31 - 1
    def version(m): m.version = 3
    def membership(m): m.mclist.add(index=1, type=1, addr=b"1" * 33)
    def block(m): m.rx_ring.block_size = 1234
    def huge(m): m.rx_ring.block_size, m.rx_ring.block_nr = 2**30, 2**31
    def frame(m): m.rx_ring.frame_size = 1
    def longer(m): m.rx_ring.block_nr, m.rx_ring.frame_nr = 8, 256
    with b.Checkpoint("packet", "blocks") as c:
        files = im.read(os.path.join(c.images, "files.img"))
        number = next(i for i, m in enumerate(files) if m.HasField("psk"))
        lies(c, number, "psk", (
            (kind, "type is unknown"), (index, "bound to makes no sense"), (no_device, "(index 2147483647) is gone"),
            (version, "properties make no sense"), (membership, "membership makes no sense"), (block, "ring makes no sense"),
            (huge, "larger than the memory"), (frame, "cannot make its receive ring"), (longer, "map"),
            (extra, "no packet socket"), (extra_option, "not known"), (extra_name, "name that none can have")))
        path = c.copy()

        def other_file(m):
            next(v for v in m.vmas if v.status & 0x800).shmid = 4711
        im.change(os.path.join(path, f"mm-{c.pid}.img"), other_file)
        r = h.ckpt("restore", "-d", "-D", path)
        h.require(r.rc == 1 and "4711" in r.out, f"a ring of no socket: {r}")


if __name__ == "__main__":
    h.run_cases(CASES)
