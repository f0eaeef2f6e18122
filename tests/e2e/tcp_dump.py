#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Dump of TCP connections: what is refused, in which words, and that a program which goes on notices nothing. The program is a
child of this process, in a network namespace of its own."""
import array
import glob
import os
import socket
import struct

import harness as h
import images as im

CASES = []
EST = "--tcp-established"
SIOCINQ, SO_PEEK_OFF, SO_ZEROCOPY, TCP_REPAIR, IPPROTO_MPTCP = 0x541b, 42, 60, 19, 262


def case(fn):
    CASES.append(fn)
    return fn


class Program:
    """A session of its own that runs @setup, waits, and then @check, which gets what @setup returned."""

    def __init__(self, setup, check=None, keep=()):
        go, told = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.child(setup, check, go[0], told[1], keep)
        os.close(go[0]), os.close(told[1])
        self.go, self.told = go[1], told[0]
        said = os.read(self.told, 1000)
        h.require(said == b"r", f"the program could not set itself up: {said}")

    @staticmethod
    def child(setup, check, go, told, keep):
        try:
            os.setsid()
            for fd in map(int, os.listdir("/proc/self/fd")):
                if fd > 2 and fd not in (go, told, *keep):
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            null = os.open("/dev/null", os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            made = setup()
            os.write(told, b"r")
            os.read(go, 1)
            if check:
                check(made)
            os.write(told, b"p")
            os._exit(0)
        except BaseException as e:  # noqa: B036
            os.write(told, repr(e).encode())
            os._exit(1)

    def passes(self):
        os.write(self.go, b"g")
        said = os.read(self.told, 1000)
        h.require(said == b"p", f"the program found: {said}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        h.kill_hard(self.pid)
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        os.close(self.go), os.close(self.told)


def pair(family=socket.AF_INET, address="127.0.0.1"):
    with socket.socket(family) as l:
        l.bind((address, 0))
        l.listen(1)
        c = socket.socket(family)
        c.connect(l.getsockname())
        return c, l.accept()[0]


def inq(s):
    import fcntl
    return struct.unpack("i", fcntl.ioctl(s, SIOCINQ, b"\0" * 4))[0]


def await_bytes(s, n):
    h.wait_until(lambda: inq(s) == n, f"{n} bytes")


def refused(p, *words, opts=(EST,)):
    with h.Workdir() as w:
        r = h.dump(p.pid, w + "/i", *opts)
        h.require(r.rc == 1 and all(x in r.out for x in (*words, str(p.pid), "fd ", "hint")), f"expected {words}: {r}")
        h.require(not os.listdir(w + "/i"), f"left: {os.listdir(w + '/i')}")
        h.require(not h.network_locks(), "packets are still held")


def dumped(p, w, *opts):
    h.must(h.dump(p.pid, w + "/i", EST, "-R", *opts), "dump -R")
    h.require(not h.network_locks(), "packets are still held")
    return w + "/i"


def streams(folder):
    return [im.split(p)[2][0] for p in glob.glob(folder + "/tcp-stream-*.img")]


# -------------------------------------------------------------------------------------------------------- permission

@case
def names_the_first_and_the_number():
    with Program(lambda: [pair(), pair()]) as p:
        refused(p, "it is connected (127.0.0.1:", "as 4 sockets are", EST, "--tcp-close", opts=())


@case
def check_says_the_same():
    def setup():
        c, s = pair()
        s.close()
        return c
    with Program(setup) as p:
        refused(p, "it is connected", opts=())
        with h.Workdir() as w:
            said = [x for x in h.dump(p.pid, w + "/i").out.splitlines() if "it is connected" in x][0]
        said = said[said.index("task "):]
        r = h.ckpt("check", "-t", p.pid)
        h.require(r.rc == 1 and said in r.out, f"not '{said}': {r}")
        for opt in (EST, "--tcp-close"):
            h.must(h.ckpt("check", "-t", p.pid, opt), f"check with {opt}")


@case
def closed_ones_are_connections():
    """What came before the end waits to be read: it must not be lost for want of an option."""
    def setup():
        c, s = pair()
        s.send(b"last words")
        s.shutdown(socket.SHUT_WR), c.shutdown(socket.SHUT_WR)
        h.wait_until(lambda: c.getsockopt(6, 11, 1) == b"\x07", "the end")
        return c, s
    with Program(setup) as p:
        refused(p, "it is connected", opts=())


# ----------------------------------------------------------------------------------------------------------- refusals

@case
def shared_with_others():
    c, s = pair()
    with Program(lambda: None, keep=(c.fileno(),)) as p:
        refused(p, "is shared with process", str(os.getpid()))
        c.close()
        with h.Workdir() as w:
            dumped(p, w)
    s.close()


@case
def an_urgent_byte_that_was_read():
    """Where it was is a gap in the stream, and what comes behind is not counted."""
    def setup():
        c, s = pair()
        c.send(b"abc"), c.send(b"!", socket.MSG_OOB), c.send(b"defg")
        h.wait_until(lambda: len(s.recv(99, socket.MSG_PEEK)) == 3, "the first bytes")
        h.require(s.recv(1, socket.MSG_OOB) == b"!", "no urgent byte")
        return c, s
    with Program(setup) as p:
        refused(p, "urgent data")


@case
def sends_without_a_copy():
    def setup():
        c, s = pair()
        c.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        c.setblocking(False)
        try:
            while True:
                c.send(b"x" * 65536)
        except BlockingIOError:
            return c, s
    with Program(setup) as p:
        refused(p, "SO_ZEROCOPY")


@case
def notices_of_sent_packets():
    def setup():
        c, s = pair()
        c.setsockopt(socket.SOL_SOCKET, 37, 0x2 | 0x10 | 0x80)  # SO_TIMESTAMPING: when it was sent, told by software
        c.send(b"x")
        import select
        poll = select.poll()
        poll.register(c, 0)
        h.wait_until(lambda: poll.poll(0), "the notice")
        return c, s
    with Program(setup) as p:
        refused(p, "MSG_ERRQUEUE")


@case
def multipath():
    def setup():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as l:
            l.bind(("127.0.0.1", 0))
            l.listen(1)
            c = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
            c.connect(l.getsockname())
            return c, l.accept()[0]
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as e:
        raise h.Skip(f"no MPTCP: {e}") from None
    with Program(setup) as p:
        refused(p, "Multipath TCP cannot be saved")
        refused(p, "Multipath TCP cannot be saved", opts=("--tcp-close",))


# ------------------------------------------------------------------------------------------------ a program that goes on

@case
def goes_on_as_it_was():
    """SO_REUSEADDR, which repair mode forgets, the place where a program looks ahead, and repair mode itself."""
    def setup():
        c, s = pair()
        c.send(b"0123456789")
        await_bytes(s, 10)
        s.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 3)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return c, s

    def check(made):
        c, s = made
        h.require(s.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) == 3, "SO_PEEK_OFF was moved")
        h.require(s.recv(3, socket.MSG_PEEK) == b"345", "it looks elsewhere")
        s.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, -1)
        for x, reuse in ((c, 1), (s, 0)):
            h.require(x.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == reuse, "SO_REUSEADDR")
            h.require(x.getsockopt(6, TCP_REPAIR) == 0, "repair mode")
        h.require(s.recv(99) == b"0123456789", "what was received")
        s.send(b"back")
        h.require(c.recv(4, socket.MSG_WAITALL) == b"back", "what was sent")
    with Program(setup, check) as p, h.Workdir() as w:
        got = streams(dumped(p, w))
        h.require(sorted(payload for _, _, payload in got) == [b"", b"0123456789"], f"streams: {got}")
        p.passes()


@case
def lengths_without_ends():
    """SIOCOUTQ counts a FIN that was not acknowledged, and the numbers do, too; lengths in the image do not."""
    def setup():
        with socket.socket() as l:
            l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2500)
            l.bind(("127.0.0.1", 0))
            l.listen(1)
            c = socket.create_connection(l.getsockname())
            s = l.accept()[0]
        c.setblocking(False)
        sent = 0
        try:
            while sent < 100000:
                sent += c.send(b"x" * 10000)
        except BlockingIOError:
            pass
        c.shutdown(socket.SHUT_WR)
        return c, s
    with Program(setup) as p, h.Workdir() as w:
        c, s = sorted((im.read(x)[0] for x in glob.glob(dumped(p, w) + "/tcp-stream-*.img")), key=lambda m: -m.outq_len)
        h.require(c.inq_len == 0 and s.outq_len == 0 and 0 < c.unsq_len <= c.outq_len, f"{c} {s}")
        h.require((c.outq_seq - 1 - (s.inq_seq - s.inq_len)) % 2**32 == 100000, f"bytes from end to end: {c} {s}")
        # what is not acknowledged may have arrived
        h.require((s.inq_seq - (c.outq_seq - 1 - c.outq_len)) % 2**32 <= s.inq_len, f"{c} {s}")


@case
def in_flight():
    """In the queue of a UNIX socket, and in no table."""
    def setup():
        c, s = pair()
        a, b = socket.socketpair()
        s.send(b"for whoever gets it")
        await_bytes(c, 19)
        a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [c.fileno()]))])
        c.close()
        return a, b, s

    def check(made):
        a, b, s = made
        _, anc, _, _ = b.recvmsg(1, 99)
        c = socket.socket(fileno=array.array("i", anc[0][2])[0])
        h.require(c.recv(99) == b"for whoever gets it", "what was received")
        c.send(b"thanks")
        h.require(s.recv(6, socket.MSG_WAITALL) == b"thanks", "what was sent")
    with Program(setup, check) as p, h.Workdir() as w:
        h.require(len(streams(dumped(p, w))) == 2, "streams")
        p.passes()


@case
def of_one_link():
    """An address that means nothing without its interface."""
    h.must(h.run(["ip", "addr", "add", "fe80::77/64", "dev", "lo", "nodad"]), "ip addr")

    def setup():
        with socket.socket(socket.AF_INET6) as l:
            l.bind(("fe80::77", 0, 0, socket.if_nametoindex("lo")))
            l.listen(1)
            c = socket.socket(socket.AF_INET6)
            c.connect(l.getsockname())
            return c, l.accept()[0]
    with Program(setup) as p, h.Workdir() as w:
        names = [m.isk.ifname for m in im.read(dumped(p, w) + "/files.img") if m.HasField("isk")]
        h.require(names == ["lo", "lo"], f"interfaces: {names}")


@case
def left_out():
    """--tcp-close: they are put down, without a stream, and nothing is held."""
    with Program(pair) as p, h.Workdir() as w:
        h.must(h.dump(p.pid, w + "/i", "-R", "--tcp-close"), "dump")
        socks = [m.isk for m in im.read(w + "/i/files.img") if m.HasField("isk")]
        h.require(len(socks) == 2 and all(m.state == 1 and m.dst_port for m in socks), f"{socks}")
        h.require(not streams(w + "/i") and im.read(w + "/i/inventory.img")[0].tcp_close, "streams, or no mark")
        p.passes()


if __name__ == "__main__":
    h.become_subreaper()
    h.own_network()
    h.run_cases(CASES)
