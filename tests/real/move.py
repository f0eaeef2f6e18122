#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A server moves from one host to another, with its address, while a client that stays where it is talks to it: two network
namespaces are the hosts, a third one has the client and the switch. Data is in flight both ways; no byte is lost or
doubled, and nobody sees a reset. Then it moves back."""
import os
import socket
import struct

import network
import real
from real import h

ADDRESS, CLIENT_ADDRESS, PORT = "10.9.0.2", "10.9.0.1", 7000
# Sends numbered records as fast as the other side takes them until stop() says so, and checks those that come, to their end.
BULK = r"""
import os, select, socket, sys

def bulk(s, stop):
    s.setblocking(False)
    sent = got = 0
    out = tail = b""
    ended = closed = False
    while not (ended and closed):
        r, w, _ = select.select([] if ended else [s], [] if closed else [s], [])
        if w and not out and stop(ended):
            s.shutdown(socket.SHUT_WR)
            closed = True
        elif w:
            if not out:
                out = b"".join(b"%015d\n" % i for i in range(sent, sent + 4096))
                sent += 4096
            out = out[s.send(out):]
        if r:
            data = s.recv(1 << 16)
            ended = not data
            tail += data
            for at in range(0, len(tail) // 16 * 16, 16):
                if tail[at:at + 16] != b"%015d\n" % got:
                    sys.exit("record %d is %r" % (got, tail[at:at + 16]))
                got += 1
            tail = tail[len(tail) // 16 * 16:]
    if tail:
        sys.exit("ends with half a record")
    return sent, got
"""
# A connection for the records, and one on which a child answers lines.
SERVER = BULK + r"""
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listens", flush=True)
a, _ = l.accept()
b, _ = l.accept()
child = os.fork()
if not child:
    f = b.makefile("rwb")
    for line in f:
        f.write(b"heard " + line)
        f.flush()
    os._exit(0)
b.close()
print(*bulk(a, lambda ended: ended), os.waitpid(child, 0)[1], flush=True)
"""
CLIENT = BULK + r"""
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
print(*bulk(s, lambda ended: select.select([0], [], [], 0)[0]))
"""
LINES = r"""
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
f = s.makefile("rwb")
print("connected", flush=True)
for line in sys.stdin:
    f.write(line.encode())
    f.flush()
    print(f.readline().decode().strip(), flush=True)
"""


class Hosts:
    """Namespaces a and b, whose eth0 is plugged into a switch in c."""

    def __init__(self):
        self.names = {k: f"ckpt-{os.getpid()}-{k}" for k in "abc"}

    def inside(self, host, *argv):
        return ["nsenter", f"--net=/run/netns/{self.names[host]}", *map(str, argv)]

    def ip(self, host, *argv):
        h.must(h.run(self.inside(host, "ip", *argv)), f"ip {' '.join(argv)} on host {host}")

    def __enter__(self):
        for name in self.names.values():
            h.must(h.run(["ip", "netns", "add", name]), "ip netns add")
        try:
            self.plug_in()
        except BaseException:
            self.__exit__()
            raise
        return self

    def plug_in(self):
        for k in "abc":
            self.ip(k, "link", "set", "lo", "up")
        self.ip("c", "link", "add", "switch", "type", "bridge")
        self.ip("c", "addr", "add", CLIENT_ADDRESS + "/24", "dev", "switch")
        self.ip("c", "link", "set", "switch", "up")
        for k in "ab":
            self.ip("c", "link", "add", "port-" + k, "type", "veth", "peer", "name", "eth0", "netns", self.names[k])
            self.ip("c", "link", "set", "port-" + k, "up")
            self.ip(k, "link", "set", "eth0", "up")
        self.take("a")
        self.cable("a", True)

    def take(self, host):
        self.ip(host, "addr", "add", ADDRESS + "/24", "dev", "eth0")

    def give_up(self, host):
        self.ip(host, "addr", "del", ADDRESS + "/24", "dev", "eth0")

    def cable(self, host, there):
        self.ip("c", "link", "set", "port-" + host, *(("master", "switch") if there else ("nomaster",)))

    def announce(self, host):
        """Tells everybody where the address is now: an ARP request for oneself."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.names[host]}", os.O_RDONLY)
        setns(there)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as s:
                s.bind(("eth0", 0x0806))
                mac, ip = s.getsockname()[4], socket.inet_aton(ADDRESS)
                s.send(b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + ip + b"\0" * 6 + ip)
        finally:
            setns(home)
            os.close(home)
            os.close(there)

    def tables(self, host):
        text = h.must(h.run(self.inside(host, "nft", "list", "tables")), "nft list tables").out
        return [line.split()[-1] for line in text.splitlines() if "CRIU-" in line]

    def __exit__(self, *exc):
        for name in self.names.values():
            h.run(["ip", "netns", "del", name])


def setns(fd):
    if h.ctypes.CDLL(None, use_errno=True).setns(fd, 0):
        raise h.Skip("cannot enter a network namespace")


def move(p, hosts, origin, goal, images, pause):
    """Dump, address, restore. The cable of the new host is put in when all is there: whatever came before would be answered
    by a reset, as by any host that does not know a connection."""
    os.makedirs(images)
    h.must(h.run(hosts.inside(origin, h.CKPT, "dump", "-t", p.pid, "-D", images, "--tcp-established")), "dump")
    h.reap(p.pid)
    h.gone([c for c in h.children(os.getpid()) if c not in [o.pid for o in p.outside]])
    h.require(len(hosts.tables(origin)) == 1, f"tables of the origin: {hosts.tables(origin)}")
    hosts.cable(origin, False)
    hosts.give_up(origin)
    real.time.sleep(pause)
    hosts.take(goal)
    h.must(h.run(hosts.inside(goal, h.CKPT, "restore", "-d", "-D", images, "--tcp-established")), "restore")
    h.require(not hosts.tables(goal), f"tables of the goal: {hosts.tables(goal)}")
    hosts.cable(goal, True)
    hosts.announce(goal)
    # what holds the connections back where they were is still there: nobody has told that host
    h.must(h.run(hosts.inside(origin, h.CKPT, "unlock", "-D", images)), "ckpt unlock")
    h.require(not hosts.tables(origin), f"tables of the origin after ckpt unlock: {hosts.tables(origin)}")


def say(c, text):
    c.p.stdin.write(text.encode() + b"\n")
    c.p.stdin.flush()
    got = c.line()
    h.require(got == "heard " + text, f"the answer to {text} is {got}")


def test(work):
    with Hosts() as hosts, network.Program(work, hosts.inside("a", "python3", "-c", SERVER, ADDRESS, PORT)) as p:
        p.wait_for(lambda t: "listens" in t, "the server")
        bulk = p.client(hosts.inside("c", "python3", "-c", CLIENT, ADDRESS, PORT))
        h.require(bulk.line() == "connected", "no connection")
        lines = p.client(hosts.inside("c", "python3", "-c", LINES, ADDRESS, PORT))
        h.require(lines.line() == "connected", "no connection")
        say(lines, "at the first host")
        real.time.sleep(0.5)
        if not real.SELF:
            move(p, hosts, "a", "b", os.path.join(work, "i1"), 1)
            say(lines, "at the second host")
            real.time.sleep(0.5)
            bulk.well()
            move(p, hosts, "b", "a", os.path.join(work, "i2"), 0)
        say(lines, "at home")
        real.time.sleep(1)
        h.require(lines.stop() == "", "more was said")
        sent, got = map(int, bulk.stop().split())
        p.finish()
        h.require(p.text().split() == ["listens", str(got), str(sent), "0"], f"{sent} sent and {got} got by the client: {p.text()}")
        return f"{sent} and {got} records of 16 bytes"


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skip: needs root")
        raise SystemExit(h.SKIP_CODE)
    real.main(test)
