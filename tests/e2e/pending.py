#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Connections that wait to be accepted: saved with their listener, put back into a live one, dropped, refused. The clients are
outside of the tree, on this host, or on another (a network namespace). Run in a network namespace of its own."""
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import harness as h

CASES = []
# (bytes, whether the end was sent), connection by connection
USUAL = [(0, False), (10, False), (70000, False), (3000, True), (0, True)]


def case(fn):
    CASES.append(fn)
    return fn


# ------------------------------------------------------------------------------------------------------- clients

def content(number, n):
    period = bytes((i * 7 % 251 + number) & 255 for i in range(251 * 256))
    return (period * (n // len(period) + 1))[:n]


class Clients:
    def __init__(self, host, port, plan=USUAL):
        self.plan, self.socks = plan, []
        for i, (n, end) in enumerate(plan):
            s = socket.create_connection((host, port), timeout=20)
            self.socks.append(s)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
            s.sendall(struct.pack("=III", i, n, end) + content(i, n))
            if end:
                s.shutdown(socket.SHUT_WR)
        time.sleep(0.1)

    def answers(self):
        """Each has its number, and the end."""
        for i, s in enumerate(self.socks):
            got = b""
            while len(got) < 5:
                k = s.recv(5 - len(got))
                if not k:
                    break
                got += k
            h.require(got == struct.pack("=I", i), f"client {i} got {got}")
            s.close()

    def resets(self):
        """Each hears that nobody knows it."""
        for i, s in enumerate(self.socks):
            try:
                s.settimeout(5)
                got = s.recv(1)
                raise h.Failure(f"client {i} got {got}")
            except ConnectionResetError:
                pass


class Remote:
    """Clients on another host: 10.77.0.2 and fd77::2."""

    def __init__(self, plan=USUAL):
        self.proc = subprocess.Popen(["unshare", "--net", sys.executable, os.path.abspath(__file__), "--client"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.plan = plan
        h.require(self.proc.stdout.readline() == "here\n", "no other host")
        name = f"ck{os.getpid() % 10**6}"
        self.name = name
        for cmd in (f"ip link add {name} type veth peer name far netns {self.proc.pid}", f"ip addr add 10.77.0.1/24 dev {name}",
                    f"ip -6 addr add fd77::1/64 dev {name} nodad", f"ip link set {name} up"):
            h.must(h.run(cmd.split()), cmd)
        self.say("up")

    def say(self, *words):
        self.proc.stdin.write(" ".join(map(str, words)) + "\n")
        self.proc.stdin.flush()
        line = self.proc.stdout.readline().strip()
        h.require(line == "done", f"the other host: {line}")

    def connect(self, host, port):
        self.say("connect", host, port, repr(self.plan).replace(" ", ""))

    def answers(self):
        self.say("answers")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.stdin.close()
        self.proc.wait(20)
        h.run(["ip", "link", "del", self.name])


def client_main():
    """The other host."""
    clients = None
    print("here", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            if word == "up":
                with open("/proc/sys/net/ipv6/conf/far/accept_dad", "w") as f:
                    f.write("0\n")  # its address on the link is there at once
                for cmd in ("ip addr add 10.77.0.2/24 dev far", "ip -6 addr add fd77::2/64 dev far nodad", "ip link set far up",
                            "ip link set lo up"):
                    h.must(h.run(cmd.split()), cmd)
            elif word == "connect":
                clients = Clients(rest[0], int(rest[1]), eval(rest[2]))  # by ourselves
            else:
                clients.answers()
            print("done", flush=True)
        except (h.Failure, OSError) as e:
            print(f"{type(e).__name__}: {e}", flush=True)


# --------------------------------------------------------------------------------------------------------- cases

def port(t):
    return int(h.read_text(t.files + "/port"))


def table():
    r = h.run(["nft", "list", "tables"])
    return r.out if r.rc == 0 else ""


def refused(r, *words):
    h.require(r.rc == 1, f"not refused: {r}")
    for w in words:
        h.require(w in r.out, f"it does not say '{w}': {r}")


SAVE = ["--tcp-established"]


def restore(t, images, *args):
    t.reap()
    h.must(h.ckpt("restore", "-d", "-D", images, *SAVE, *args), "restore")
    h.require("CRIU-" not in table(), f"a network lock is left: {table()}")


def ways(work, t, answers):
    """Left running, then killed and restored, twice."""
    h.must(h.dump(t.pid, work + "/r", "-R", *SAVE), "dump -R")
    h.require("CRIU-" not in table(), f"a network lock is left: {table()}")
    for i in range(2):
        h.must(h.dump(t.pid, f"{work}/{i}", *SAVE), "dump")
        time.sleep(0.3)  # what the peers retransmit meets the lock
        restore(t, f"{work}/{i}")
    t.go()
    answers()


@case
def on_this_host():
    for host in ("127.0.0.1", "::1"):
        with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
            t.ready()
            c = Clients(host, port(t))
            ways(w, t, c.answers)


@case
def on_another_host():
    for host in ("10.77.0.1", "fd77::1"):
        with h.Workdir() as w, h.Target(w, "pending", "outside") as t, Remote() as far:
            t.ready()
            far.connect(host, port(t))
            ways(w, t, far.answers)


@case
def left_running():
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        for i in range(3):
            h.must(h.dump(t.pid, f"{w}/{i}", "-R", *SAVE), "dump -R")
        h.must(h.dump(t.pid, f"{w}/s", "-s", *SAVE), "dump -s")
        os.kill(t.pid, signal.SIGCONT)
        t.go()
        c.answers()


@case
def full_window():
    """More than fits into a new window; what is not sent yet comes after."""
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t, Remote([(3000000, False), (5, False)]) as far:
        t.ready()
        far.connect("10.77.0.1", port(t))
        ways(w, t, far.answers)


@case
def failed_late():
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        for stage in ("ipc", "snapshot", "write images", "commit"):
            refused(h.dump(t.pid, w + "/i", "--fault-stage", stage, *SAVE), "fault")
            h.require("CRIU-" not in table(), f"{stage}: a network lock is left: {table()}")
        t.go()
        c.answers()


@case
def newcomers():
    """Those that come while dumps are under way are neither lost nor in the way."""
    with h.Workdir() as w, h.Target(w, "pending", "crowd") as t:
        t.ready()
        first, later, stop = Clients("127.0.0.1", port(t), [(100, False)] * 4), [], threading.Event()

        def come():
            while len(later) < 100 and not stop.is_set():
                s = socket.create_connection(("127.0.0.1", port(t)), timeout=20)
                s.sendall(struct.pack("=III", 4 + len(later), 50, 0) + content(4 + len(later), 50))
                later.append(s)
                time.sleep(0.004)

        crowd = threading.Thread(target=come)
        crowd.start()
        try:
            for i in range(6):
                h.must(h.dump(t.pid, f"{w}/{i}", "-R", *SAVE), "dump -R")
        finally:
            stop.set()
            crowd.join()
        print(f"#   {len(later)} newcomers")
        t.go()
        first.socks += later
        first.answers()


@case
def reuseport():
    """Several listeners of the tree at one port."""
    code = ("import socket,signal,sys,time\n"
            "l=[]\n"
            "port=0\n"
            "for i in range(3):\n"
            "    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEPORT,1); s.bind(('127.0.0.1',port))\n"
            "    s.listen(64); s.setblocking(False); port=s.getsockname()[1]; l.append(s)\n"
            "open('port','w').write(str(port))\n"
            "signal.signal(signal.SIGUSR1, lambda *a: None)\n"
            "signal.pause()\n"
            "n=[0,0,0]\n"
            "for i,s in enumerate(l):\n"
            "    while True:\n"
            "        try: c,a=s.accept()\n"
            "        except BlockingIOError: break\n"
            "        c.setblocking(True); assert c.recv(5)==b'hello'; c.sendall(bytes([i])); n[i]+=1\n"
            "open('done','w').write(repr(n))\n")
    with h.Workdir() as w:
        p = subprocess.Popen([sys.executable, "-c", code], cwd=w, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            where = int(h.wait_until(lambda: h.read_text(w + "/port"), "the port"))
            socks = [socket.create_connection(("127.0.0.1", where), timeout=20) for _ in range(24)]
            for s in socks:
                s.sendall(b"hello")
            time.sleep(0.1)
            queues = lambda: re.findall(r"LISTEN +(\d+)", h.run(["ss", "-Hltn", f"sport = :{where}"]).out)
            before = sorted(queues())
            h.must(h.dump(p.pid, w + "/i", *SAVE), "dump")
            p.wait()
            h.must(h.ckpt("restore", "-d", "-D", w + "/i", *SAVE), "restore")
            h.require(sorted(queues()) == before and len(before) == 3, f"queues: {before}, then {queues()}")
            os.kill(p.pid, signal.SIGUSR1)
            h.wait_until(lambda: h.read_text(w + "/done"), "the end")
            for s in socks:
                h.require(len(s.recv(1)) == 1, "no answer")
        finally:
            h.kill_hard(p.pid)


@case
def link_local():
    """An address that holds for one link: of a listener that is bound to its device it is known which."""
    code = ("import signal,socket,struct,sys\n"
            "s=socket.socket(socket.AF_INET6); dev=sys.argv[1].encode()\n"
            "if dev: s.setsockopt(socket.SOL_SOCKET,socket.SO_BINDTODEVICE,dev)\n"
            "s.bind(('::',0)); s.listen(64); open('port','w').write(str(s.getsockname()[1]))\n"
            "signal.signal(signal.SIGUSR1, lambda *a: None); signal.pause()\n"
            "for i in range(2):\n"
            "    c,a=s.accept(); h=c.recv(12, socket.MSG_WAITALL); n=struct.unpack('=III', h)\n"
            "    assert len(c.recv(n[1], socket.MSG_WAITALL))==n[1]; c.sendall(struct.pack('=I',n[0])); c.close()\n")
    for bound in (True, False):
        with h.Workdir() as w, Remote([(10, False), (9000, False)]) as far:
            h.must(h.run(["ip", "-6", "addr", "add", "fe80::77/64", "dev", far.name, "nodad"]), "address")
            h.wait_until(lambda: "tentative" not in h.run(["ip", "-6", "addr"]).out, "addresses")
            p = subprocess.Popen([sys.executable, "-c", code, far.name if bound else ""], cwd=w, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                where = int(h.wait_until(lambda: h.read_text(w + "/port"), "the port"))
                time.sleep(0.1)
                far.connect("fe80::77%far", where)
                if not bound:
                    refused(h.dump(p.pid, w + "/i", *SAVE), "one link only")
                else:
                    h.must(h.dump(p.pid, w + "/i", *SAVE), "dump")
                    p.wait()
                    time.sleep(0.2)
                    h.must(h.ckpt("restore", "-d", "-D", w + "/i", *SAVE), "restore")
                os.kill(p.pid, signal.SIGUSR1)
                far.answers()
            finally:
                h.kill_hard(p.pid)


@case
def refused_without_permission():
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        r = h.ckpt("check", "-t", t.pid)
        h.require(r.rc and "5 connections are not accepted yet" in r.out, f"check: {r}")
        h.must(h.ckpt("check", "-t", t.pid, *SAVE), "check --tcp-established")
        refused(h.dump(t.pid, w + "/i"), f"[::]:{port(t)}", "5 connections are not accepted yet", "--tcp-established",
                "--skip-in-flight", "fd ")
        h.must(h.dump(t.pid, w + "/j", *SAVE), "dump")
        t.reap()
        refused(h.ckpt("restore", "-d", "-D", w + "/j"), "5 connections that were not accepted yet", "--skip-in-flight")
        h.must(h.ckpt("restore", "-d", "-D", w + "/j", *SAVE), "restore after a refused one")
        t.go()
        c.answers()


@case
def impossible():
    """A kernel that cannot put them back: said before anything is touched."""
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        with open("/proc/sys/net/ipv4/tcp_syncookies", "w") as f:
            f.write("0\n")
        try:
            refused(h.dump(t.pid, w + "/i", *SAVE), "could not be given back", "tcp_syncookies", "--skip-in-flight")
        finally:
            with open("/proc/sys/net/ipv4/tcp_syncookies", "w") as f:
                f.write("1\n")
        t.go()
        c.answers()


@case
def dropped_by_the_dump():
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        r = h.must(h.dump(t.pid, w + "/i", "--skip-in-flight"), "dump")
        h.require("5 connections are not accepted yet: dropped" in r.out, f"it does not say so: {r}")
        c.resets()
        restore(t, w + "/i")
        t.go()


@case
def dropped_by_the_restore():
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t), [(10, False)] * 2)
        h.must(h.dump(t.pid, w + "/i", *SAVE), "dump")
        t.reap()
        r = h.must(h.ckpt("restore", "-d", "-D", w + "/i", "--skip-in-flight"), "restore")
        h.require("2 connections that were not accepted yet: dropped" in r.out, f"it does not say so: {r}")
        for s in c.socks:
            s.sendall(b"x")
        c.resets()
        t.go()


@case
def other_readers():
    """They must not forget the connections: the checkpoint is marked."""
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        c = Clients("127.0.0.1", port(t))
        h.must(h.dump(t.pid, w + "/j", "-R", *SAVE), "dump")
        marked = [b"ckpt-pending-connections" in open(f"{w}/{d}/inventory.img", "rb").read() for d in "ij"]
        h.require(marked == [False, True], f"marks: {marked}")
        t.go()
        c.answers()


@case
def killed_engine():
    """Whenever the engine is killed, nothing is lost."""
    rnd = random.Random(os.environ.get("CKPT_SEED", "7"))
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t), [(20000, False)] * 10)
        cut, takes = 0, h.must(h.dump(t.pid, w + "/whole", "-R", *SAVE), "dump").seconds
        for i in range(60):
            images = f"{w}/{i}"
            os.makedirs(images)
            p = subprocess.Popen([h.CKPT, "dump", "-t", str(t.pid), "-D", images, "-R", *SAVE], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rnd.uniform(0, takes))
            p.kill()
            cut += p.wait() != 0
            h.wait_until(lambda: h.state(t.pid) == "S", f"round {i}: the program to go on")
            h.wait_until(lambda: "CRIU-" not in table(), f"round {i}: the lock to go")
        h.require(cut > 10, f"only {cut} dumps were cut short")
        print(f"#   {cut} of 60 dumps were cut short")
        t.go()
        c.answers()


@case
def failed_restore():
    """The lock of the dump stays, so that the next restore finds everybody there."""
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t))
        h.must(h.dump(t.pid, w + "/i", *SAVE), "dump")
        t.reap()
        for stage in ("plan", "spawn", "restorer"):
            refused(h.ckpt("restore", "-d", "-D", w + "/i", *SAVE, "--fault-stage", stage), stage)
            h.require("CRIU-" in table(), f"{stage}: the lock is gone")
            time.sleep(0.1)
        restore(t, w + "/i")
        t.go()
        c.answers()


@case
def killed_restore():
    rnd = random.Random(os.environ.get("CKPT_SEED", "8"))
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t:
        t.ready()
        c = Clients("127.0.0.1", port(t), [(20000, i % 3 == 2) for i in range(10)])
        h.must(h.dump(t.pid, w + "/i", *SAVE), "dump")
        t.reap()
        for i in range(15):
            p = subprocess.Popen([h.CKPT, "restore", "-d", "-D", w + "/i", *SAVE], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rnd.uniform(0, 0.05))
            p.kill()
            if p.wait() == 0:
                break  # it was through
            try:
                h.wait_until(lambda: not h.alive(t.pid), "the rest to go", 3)
            except h.Failure:
                break  # it was, but for saying so
            h.reap(t.pid)
            if "CRIU-" not in table():
                print(f"#   killed in the moment between the end of the lock and the program's start (round {i})")
                return
        else:
            restore(t, w + "/i")
        t.go()
        c.answers()


@case
def without_the_lock_of_the_dump():
    """As on another host: the restore holds packets itself."""
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t, Remote() as far:
        t.ready()
        far.connect("10.77.0.1", port(t))
        h.must(h.dump(t.pid, w + "/i", *SAVE), "dump")
        h.must(h.ckpt("unlock", "-D", w + "/i"), "unlock")
        restore(t, w + "/i")
        t.go()
        far.answers()


@case
def held_by_iptables():
    if h.run(["iptables", "-L", "-n"]).rc != 0:
        return
    with h.Workdir() as w, h.Target(w, "pending", "outside") as t, Remote() as far:
        t.ready()
        far.connect("10.77.0.1", port(t))
        for i in range(2):
            h.must(h.dump(t.pid, f"{w}/{i}", "--network-lock", "iptables", *SAVE), "dump")
            time.sleep(0.2)
            restore(t, f"{w}/{i}")
        t.go()
        far.answers()


def main():
    if sys.argv[1:] == ["--client"]:
        return client_main()
    try:
        h.need_engine()
        h.must(h.run(["ip", "link", "set", "lo", "up"]), "lo")
    except h.Skip as e:
        print(f"skipped: {e}")
        return h.SKIP_CODE
    h.become_subreaper()
    failed = 0
    for fn in CASES:
        if sys.argv[1:] and fn.__name__ not in sys.argv[1:]:
            continue
        try:
            fn()
            print(f"ok {fn.__name__}")
        except (h.Failure, OSError) as e:
            failed += 1
            h.ckpt("unlock", "--all")
            print(f"not ok {fn.__name__}: {e!r}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
