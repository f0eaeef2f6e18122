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


if __name__ == "__main__":
    h.run_cases(CASES)
