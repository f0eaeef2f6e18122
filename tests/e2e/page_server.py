#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Page servers: every way in which the two ends of a connection can fail each other. In each the program that was dumped
is unharmed, and nothing that looks like an image stays with the server."""
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import harness as h
from bad_input import Bed, refused

CASES = []
PAGE = 4096


def case(fn):
    CASES.append(fn)
    return fn


def command(cmd, nr_pages=0, vaddr=0, dst_id=0):
    return struct.pack("<IIQQQ", cmd, 0, nr_pages, vaddr, dst_id)


def old_command(cmd, nr_pages=0, vaddr=0, dst_id=0):
    return struct.pack("<IIQQ", cmd, nr_pages, vaddr, dst_id)


def task(pid):
    return pid << 8 | 1


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 10)


def receive(s, n):
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        h.require(part, f"the connection ended after {len(got)} of {n} bytes")
        got += part
    return got


class Peer(threading.Thread):
    """A listener that lets @fn talk to the first who connects."""

    def __init__(self, fn):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.fn, self.over = self.socket.getsockname()[1], fn, threading.Event()
        self.start()

    def run(self):
        s, _ = self.socket.accept()
        with s:
            try:
                self.fn(self, s)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.socket.close()

    def client(self, *args):
        return ["--page-server", "--address", "127.0.0.1", "--port", str(self.port), *args]


def nothing_left(folder):
    left = [n for n in os.listdir(folder) if not n.startswith(".")]
    h.require(not left, f"left with the server: {left}")


def big():
    return Bed("size", "300M,2,w")


# ---------------------------------------------------------------------------------------------------- that it works

@case
def left_running():
    with Bed() as b, h.PageServer(b.work + "/srv") as server:
        h.must(h.dump(b.pid, b.images, "-R", *server.client()), "dump -R")
        h.must(server.result(), "the server")
        h.require(sorted(n for n in os.listdir(server.folder) if n.endswith(".img"))
                  == [f"pagemap-{b.pid}.img", "pages-65537.img"], f"files: {os.listdir(server.folder)}")
        h.require("pages received" in server.text(), server.text())


@case
def into_the_folder_of_the_dump():
    with h.Workdir() as w, h.Target(w, "tree", "basic") as t:
        t.ready()
        images = w + "/images"
        below = h.descendants(t.pid)
        with h.PageServer(images) as server:
            os.rename(server.log, w + "/log")
            h.must(h.dump(t.pid, images, *server.client()), "dump")
            server.log = w + "/log"
            h.must(server.result(), "the server")
        t.reap()
        h.gone(below)
        h.must(h.ckpt("restore", "-D", images, "-d"), "restore")
        t.go()


@case
def over_ipv6():
    if not os.path.exists("/proc/net/if_inet6") or not h.read_text("/proc/net/if_inet6"):
        raise h.Skip("no IPv6 here")
    with Bed() as b, h.PageServer(b.work + "/srv", "--address", "::1") as server:
        h.must(h.dump(b.pid, b.images, "-R", "--page-server", "--address", "::1", "--port", server.port), "dump")
        h.must(server.result(), "the server")


@case
def given_a_socket():
    a, z = socket.socketpair()
    with Bed() as b:
        os.mkdir(b.work + "/srv")
        server = subprocess.Popen([h.CKPT, "page-server", "-D", b.work + "/srv", "--ps-socket", str(a.fileno())], pass_fds=[a.fileno()])
        r = h.dump(b.pid, b.images, "-R", "--page-server", "--ps-socket", z.fileno(), pass_fds=[z.fileno()])
        h.must(r, "dump")
        h.require(server.wait(20) == 0, "the server failed")
        h.require(os.path.exists(b.work + "/srv/pages-65537.img"), "no pages")
        z.send(b"x")  # the connection goes on
        h.require(a.recv(1) == b"x", "the socket was closed")


@case
def in_the_background():
    with Bed() as b:
        srv = b.work + "/srv"
        os.mkdir(srv)
        r, wr = os.pipe()
        res = h.run([h.CKPT, "page-server", "-D", srv, "--port", "0", "-d", "--pidfile", "ps.pid", "-o", "ps.log", "-v3", "--status-fd", str(wr)],
                    pass_fds=[wr])
        os.close(wr)
        h.must(res, "the server in the background")
        h.require(os.read(r, 2) == b"\0", "not told that it is ready")
        pid = int(h.read_text(srv + "/ps.pid"))
        h.require(h.alive(pid), f"process {pid} of the pidfile is not there")
        port = h.read_text(srv + "/ps.log").split("port ")[1].split()[0]
        h.must(h.dump(b.pid, b.images, "-R", "--page-server", "--address", "localhost", "--port", port), "dump")
        h.require(h.reap(pid) == 0, "the server failed: " + h.read_text(srv + "/ps.log"))
        h.require("finished successfully" in h.read_text(srv + "/ps.log"), "its log says nothing")
        again = h.run([h.CKPT, "page-server", "-D", b.work, "-W", srv, "--port", "0", "--daemon", "--pidfile", "ps.pid"])
        refused(again, "ps.pid", "exists")


@case
def chain_of_dumps():
    """Pre-dump, pre-dump, dump, each to a server of its own: the later ones send what was written since."""
    if h.ckpt("check", "--feature", "mem_dirty_track").rc:
        raise h.Skip("this kernel cannot track memory")
    with h.Workdir() as w, h.Target(w, "size", "64M") as t:
        t.ready()
        sent, servers = [], []
        for i, what in enumerate(("pre-dump", "pre-dump", "dump")):
            prev = ["--prev-images-dir", f"../{i - 1}"] if i else []
            os.makedirs(f"{w}/srv/{i}")
            os.makedirs(f"{w}/{i}")
            with h.PageServer(f"{w}/srv/{i}", *prev) as server:
                h.must(h.ckpt(what, "-t", t.pid, "-D", f"{w}/{i}", *prev, *server.client()), f"{what} {i}")
                h.must(server.result(), f"server {i}")
                sent.append(int(server.text().split(" pages received")[0].split()[-1]))
                h.require(not [n for n in os.listdir(f"{w}/{i}") if n.startswith("pagemap-")], "a pagemap in the dump's own folder")
                servers.append(server)
        for i, server in enumerate(servers):
            server.bring(f"{w}/{i}")
        h.require(sent[0] > 16000 and sent[1] < 4000 and sent[2] < 4000, f"pages sent: {sent}")
        t.reap()
        h.must(h.ckpt("restore", "-D", f"{w}/2", "-d"), "restore")
        t.go()


@case
def chain_that_the_server_does_not_have():
    if h.ckpt("check", "--feature", "mem_dirty_track").rc:
        raise h.Skip("this kernel cannot track memory")
    with Bed("size", "20M") as b:
        b.unharmed = lambda: (h.untouched(b.pid), b.t.go())  # its areas are tracked now
        os.mkdir(b.work + "/1")
        with h.PageServer(b.work + "/srv1") as server:
            h.must(h.ckpt("pre-dump", "-t", b.pid, "-D", b.work + "/1", *server.client()), "pre-dump")
            h.must(server.result(), "server")
        with h.PageServer(b.work + "/srv2") as server:
            refused(h.dump(b.pid, b.images, "--prev-images-dir", "../1", *server.client()), "does not have the previous images")
            h.require(server.result().rc == 1, "the server took half a dump for a whole one")
            nothing_left(server.folder)
        b.empty()
        refused(h.ckpt("page-server", "-D", b.images, "--port", 0, "--prev-images-dir", "../nothing"), "../nothing")


# ------------------------------------------------------------------------------------------------ mistakes of users

@case
def nowhere_to_go():
    with Bed() as b:
        closed = socket.create_server(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        for args, words in (
                (["--address", "127.0.0.1", "--port", port], ["127.0.0.1", port, "refused"]),
                (["--address", "no-such-host.invalid", "--port", port], ["no-such-host.invalid", "resolve"]),
                (["--port", port], ["--address"]), (["--address", "127.0.0.1"], ["--port"]),
                (["--ps-socket", "77"], ["--ps-socket 77", "bad file descriptor"]), (["--ps-socket", "0"], ["--ps-socket 0"])):
            refused(h.dump(b.pid, b.images, "--page-server", *args), *words)
            b.empty()


@case
def ports_and_folders():
    with h.Workdir() as w, h.PageServer(w + "/one") as server:
        refused(h.ckpt("page-server", "-D", w, "--port", server.port), server.port, "in use")
        refused(h.ckpt("page-server", "-D", w, "--address", "no-such-host.invalid", "--port", 0), "resolve")
        refused(h.ckpt("page-server", "-D", w + "/nothing", "--port", 0), "/nothing")
        refused(h.ckpt("page-server", "-D", w + "/one", "--port", 0), "another page server")
        refused(h.ckpt("page-server", "-D", w, "--port", 0, "--daemon", "--address", "no-such-host.invalid"), "resolve")
        open(w + "/inventory.img", "w").close()
        refused(h.ckpt("page-server", "-D", w, "--port", 0), "already holds a checkpoint")


@case
def one_connection_only():
    with Bed() as b, h.PageServer(b.work + "/srv") as server:
        first = connect(server)
        first.sendall(command(4, dst_id=task(7)))
        h.require(receive(first, 1) == b"\0", "a parent image that there is not")
        refused(h.dump(b.pid, b.images, *server.client()), "refused")
        first.sendall(command(0x1023))
        h.require(receive(first, 4) == bytes(4), "status")
        first.close()
        h.must(server.result(), "the server")
        b.empty()


# -------------------------------------------------------------------------------------- peers that are not as they should

@case
def garbage():
    for words, sent in ((("24 bytes",), old_command(4, dst_id=task(1))), (("tls",), b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03"),
                        (("no command",), b"GET / HTTP/1.1\r\n\r\n"), (("byte order",), struct.pack(">IIQQQ", 4, 0, 0, 0, task(1))),
                        (("0x7001", "page"), command(4, dst_id=task(1)) + command(0x40006, 1, 0x7001, task(1))),
                        (("beyond",), command(0x40006, 1 << 50, 0, task(1))),
                        (("wants pages",), command(7, 1, 0, 1)), (("unknown type",), command(4, dst_id=5))):
        with h.Workdir() as w, h.PageServer(w + "/srv") as server, connect(server) as s:
            s.sendall(sent)
            refused(server.result(), *words)
            nothing_left(server.folder)


@case
def silence():
    with h.Workdir() as w, h.PageServer(w + "/srv", "--ps-timeout", 1) as server, connect(server) as s:
        s.sendall(command(4, dst_id=task(1)) + command(0x40006, 2, 0, task(1)) + bytes(PAGE))
        refused(server.result(), "nothing for 1 s", "127.0.0.1")
        nothing_left(server.folder)


@case
def server_of_another_version():
    """It reads 24 bytes, finds no destination in them, and goes."""
    def old(peer, s):
        _, _, _, dst = struct.unpack("<IIQQ", receive(s, 24))
        h.require(dst == 0, "an old server would have understood")

    with Bed() as b, Peer(old) as peer:
        refused(h.dump(b.pid, b.images, *peer.client()), "page server", "4.2")
        b.empty()


@case
def server_that_speaks_something_else():
    with Bed() as b, Peer(lambda peer, s: (s.sendall(b"220 mail.example.org ESMTP\r\n"), peer.over.wait(20))) as peer:
        refused(h.dump(b.pid, b.images, *peer.client()), "another protocol")
        b.empty()


@case
def server_that_stalls():
    def stall(peer, s):
        receive(s, 32)
        s.sendall(b"\0")
        receive(s, 100000)
        peer.over.wait(60)

    with big() as b, Peer(stall) as peer:
        refused(h.dump(b.pid, b.images, *peer.client("--ps-timeout", 1)), "took nothing for 1 s")
        b.empty()


@case
def server_that_never_confirms():
    def lazy(peer, s):
        receive(s, 32)
        s.sendall(b"\0")
        s.settimeout(0.2)
        while True:
            try:
                if not s.recv(1 << 20):
                    return
            except socket.timeout:
                if peer.over.wait(0.2):
                    return

    with Bed() as b, Peer(lazy) as peer:
        refused(h.dump(b.pid, b.images, *peer.client("--ps-timeout", 1)), "sent nothing for 1 s")
        b.empty()


@case
def server_that_reports_failure():
    def fails(peer, s):
        receive(s, 32)
        s.sendall(b"\0")
        last = b""
        while not (last[-32:-28] == b"\x23\x10\0\0"):
            part = s.recv(1 << 20)
            if not part:
                return
            last = (last + part)[-32:]
        s.sendall(struct.pack("<i", -5))

    with Bed() as b, Peer(fails) as peer:
        refused(h.dump(b.pid, b.images, *peer.client()), "could not store")
        b.empty()


# ------------------------------------------------------------------------------------------- ends that go in the middle

def begun(server):
    return h.wait_until(lambda: any(n.startswith("pages-") and os.stat(os.path.join(server.folder, n)).st_size
                                    for n in os.listdir(server.folder)), "the first pages to arrive", interval=0.0005)


@case
def server_killed_in_the_middle():
    with big() as b, h.PageServer(b.work + "/srv") as server:
        p = subprocess.Popen([h.CKPT, "dump", "-t", str(b.pid), "-D", b.images, *server.client()], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        begun(server)
        server.proc.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        server.proc.kill()
        _, said = p.communicate(timeout=60)
        h.require(p.returncode == 1 and b"page server" in said, f"dump: {p.returncode} {said}")
        b.empty()
        shown = [n for n in os.listdir(server.folder) if n.startswith("pagemap")]
        h.require(not shown, f"looks like an image: {shown}")
        # and the next server cleans up
        with h.PageServer(b.work + "/srv") as again:
            with connect(again) as s:
                s.sendall(b"x" * 32)
            h.require(again.result().rc == 1, "garbage was taken")
        h.require(not [n for n in os.listdir(server.folder) if "pagemap" in n], "not cleaned up")


@case
def server_told_to_end():
    with big() as b, h.PageServer(b.work + "/srv") as server:
        p = subprocess.Popen([h.CKPT, "dump", "-t", str(b.pid), "-D", b.images, *server.client()], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        begun(server)
        server.proc.send_signal(signal.SIGTERM)
        refused(server.result(), "cancel")
        h.require(p.wait(60) == 1, "the dump did not fail")
        nothing_left(server.folder)
        b.empty()


@case
def client_killed_in_the_middle():
    with big() as b, h.PageServer(b.work + "/srv") as server:
        p = subprocess.Popen([h.CKPT, "dump", "-t", str(b.pid), "-D", b.images, *server.client()], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        begun(server)
        p.kill()
        p.wait()
        refused(server.result(), "closed the connection")
        nothing_left(server.folder)
        h.wait_until(lambda: "TracerPid:\t0" in h.read_text(f"/proc/{b.pid}/status") and h.state(b.pid) in "SR", "the program to run")
        h.time.sleep(0.2)  # for the guardian
        for name in os.listdir(b.images):
            os.unlink(os.path.join(b.images, name))


@case
def disk_full_at_the_server():
    with big() as b:
        srv = b.work + "/srv"
        with h.PageServer(srv, wrapper=["unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size=8m none {srv} && exec \"$0\" \"$@\""]) as server:
            r = h.dump(b.pid, b.images, *server.client())
            h.require(r.rc == 1 and "page server" in r.out, f"dump: {r}")
            refused(server.result(), "no space")
        nothing_left(srv)
        b.empty()


@case
def dump_fails_after_sending():
    with Bed() as b, h.PageServer(b.work + "/srv") as server:
        refused(h.dump(b.pid, b.images, *server.client("--fault-stage", "write images")), "write images")
        refused(server.result(), "before it said CLOSE")
        nothing_left(server.folder)
        b.empty()


# ------------------------------------------------------------------------------------- the reference engine, where it is

@case
def older_engine_as_client():
    criu = shutil.which("criu")
    if not criu or "Version: 3." not in h.run([criu, "--version"]).out:
        raise h.Skip("no criu of release 3 here")
    with h.Workdir() as w, h.PageServer(w + "/srv") as server:
        p = subprocess.Popen(["sleep", "100"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        try:
            os.mkdir(w + "/i")
            r = h.run([criu, "dump", "-t", str(p.pid), "-D", w + "/i", "--page-server", "--address", "127.0.0.1", "--port", str(server.port)])
            h.require(r.rc != 0, "it succeeded against a server of another version")
            if not server.text().count("serving"):
                raise h.Skip(f"it did not come to the point: {r}")
            refused(server.result(), "24 bytes")
            nothing_left(server.folder)
            h.require(p.poll() is None, "its program is gone")
        finally:
            p.kill()
            p.wait()


@case
def older_engine_as_server():
    criu = shutil.which("criu")
    if not criu or "Version: 3." not in h.run([criu, "--version"]).out:
        raise h.Skip("no criu of release 3 here")
    with Bed() as b:
        os.mkdir(b.work + "/srv")
        r, wr = os.pipe()
        server = subprocess.Popen([criu, "page-server", "-D", b.work + "/srv", "--address", "127.0.0.1", "--port", "0", "-o", "log", "-v4",
                                   "--status-fd", str(wr)], pass_fds=[wr], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(wr)
        try:
            os.read(r, 1)
            log = h.read_text(b.work + "/srv/log")
            if "port: " not in log:
                raise h.Skip("it does not say its port")
            port = log.split("port: ")[1].split()[0]
            refused(h.dump(b.pid, b.images, "--page-server", "--address", "127.0.0.1", "--port", port), "page server")
            b.empty()
        finally:
            server.kill()
            server.wait()


# ---------------------------------------------------------------------------------------------------- pages on demand

class Checkpoint:
    """A folder with a checkpoint, and what is in its page image."""

    def __enter__(self):
        self.dir = h.Workdir()
        w = self.dir.__enter__()
        self.images = w + "/images"
        with h.Target(w, "mem", "anon") as t:
            t.ready()
            h.must(h.dump(t.pid, self.images), "dump")
            self.pid = t.pid
        pages = open(self.images + "/pages-1.img", "rb").read()
        import images
        self.pages, at = {}, 0
        for e in images.read(self.images + f"/pagemap-{t.pid}.img")[1:]:
            for i in range(e.nr_pages):
                self.pages[e.vaddr + i * PAGE] = pages[at:at + PAGE]
                at += PAGE
        return self

    def __exit__(self, *exc):
        self.dir.__exit__(*exc)


def get(s, pid, start, n):
    s.sendall(command(7, n, start, pid))
    cmd, _, got, vaddr, dst = struct.unpack("<IIQQQ", receive(s, 32))
    h.require((cmd, vaddr, dst) == (0x40006, start, pid) and 0 < got <= n, f"reply {cmd:#x} {got} {vaddr:#x} {dst}")
    return [receive(s, PAGE) for _ in range(got)]


def serving(c, *args):
    server = h.PageServer(c.images, "--lazy-pages", *args)
    h.require(server.port, f"the server does not listen: {server.text()}")
    return server


@case
def pages_on_demand():
    with Checkpoint() as c, serving(c) as server, connect(server) as s:
        todo = sorted(c.pages)
        for start in todo[::-1][:20] + todo[:200:3]:
            for i, page in enumerate(get(s, c.pid, start, 3)):
                h.require(page == c.pages[start + i * PAGE], f"the page at {start + i * PAGE:#x} is not what it was")
        # many at once, without waiting
        for start in todo[:100]:
            s.sendall(command(7, 1, start, c.pid))
        for start in todo[:100]:
            cmd, _, n, vaddr, dst = struct.unpack("<IIQQQ", receive(s, 32))
            h.require((cmd, n, vaddr, dst) == (0x40006, 1, start, c.pid), "a reply out of order")
            h.require(receive(s, PAGE) == c.pages[start], "a wrong page")
        s.sendall(command(0x1023))
        h.require(receive(s, 4) == bytes(4), "status")
        s.close()
        h.must(server.result(), "the server")


@case
def pages_that_are_not_there():
    for what, words in ((lambda c: command(7, 1, 0x1000, c.pid), ["0x1000", "not here"]),
                        (lambda c: command(7, 1, min(c.pages), c.pid + 1), ["not in the checkpoint"]),
                        (lambda c: command(7, 1, 5, c.pid), ["address"]),
                        (lambda c: command(4, 0, 0, task(c.pid)), ["only served"]),
                        (lambda c: b"", ["before it said"])):
        with Checkpoint() as c, serving(c) as server, connect(server) as s:
            s.sendall(what(c))
            s.shutdown(socket.SHUT_WR)
            h.require(s.recv(1) == b"", "an answer")
            refused(server.result(), *words)


@case
def damaged_pages_are_not_served():
    with Checkpoint() as c:
        with open(c.images + "/pages-1.img", "r+b") as f:
            f.seek(5 * PAGE + 77)
            old = f.read(1)
            f.seek(5 * PAGE + 77)
            f.write(bytes([old[0] ^ 1]))
        with serving(c) as server, connect(server) as s:
            s.sendall(command(7, 1, sorted(c.pages)[5], c.pid))
            h.require(s.recv(1) == b"", "a damaged page was served")
            refused(server.result(), "pages-1.img", "damaged")


if __name__ == "__main__":
    h.run_cases(CASES)
