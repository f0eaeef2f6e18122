#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UNIX sockets and what is around the tree: peers outside, names that others have, restores that fail half way."""
import os
import re
import signal
import socket

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


class Outer:
    """The other end, under the name that the target connects to."""

    def __init__(self, work, kind):
        os.makedirs(work + "/files", exist_ok=True)
        self.s = socket.socket(socket.AF_UNIX, kind)
        self.s.bind(work + "/files/outer.sock")
        self.s.settimeout(10)
        if kind == socket.SOCK_STREAM:
            self.s.listen(5)

    def __enter__(self):
        return self.s

    def __exit__(self, *exc):
        self.s.close()


def inode(fd):
    return re.search(r"\d+", os.readlink(f"/proc/self/fd/{fd.fileno()}"))[0]


def socket_of(pid):
    """Inode of the only socket that a process has."""
    found = [m[1] for m in (re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{n}"))
                            for n in os.listdir(f"/proc/{pid}/fd")) if m]
    h.require(len(found) == 1, f"sockets: {found}")
    return found[0]


def refused(r, *words):
    h.require(r.rc == 1, f"not refused: {r}")
    for w in words:
        h.require(w in r.out, f"it does not say '{w}': {r}")


def datagrams(option):
    with h.Workdir() as w, Outer(w, socket.SOCK_DGRAM) as outer, h.Target(w, "unix", "logger") as t:
        t.ready()
        h.require(outer.recv(99) == b"before", "no datagram")
        refused(h.dump(t.pid, w + "/i", "-R"), "outside of the tree", "outer.sock", "--ext-unix-sk")
        h.must(h.dump(t.pid, w + "/j", *option(inode(outer))), "dump")
        t.reap()
        h.must(h.ckpt("restore", "-d", "-D", w + "/j"), "restore")
        t.go()
        h.require(outer.recv(99) == b"after", "no datagram after the restore")


@case
def outside_datagrams_all():
    datagrams(lambda ino: ["--ext-unix-sk"])


@case
def outside_datagrams_external():
    datagrams(lambda ino: ["--external", f"unix[{ino}]"])


@case
def outside_datagrams_list():
    datagrams(lambda ino: [f"--ext-unix-sk=1234567,{ino}"])


@case
def outside_another_one():
    """Permission for another socket is none."""
    with h.Workdir() as w, Outer(w, socket.SOCK_DGRAM), h.Target(w, "unix", "logger") as t:
        t.ready()
        refused(h.dump(t.pid, w + "/i", "-R", "--ext-unix-sk=7,8", "--external", "unix[2]"), "outside of the tree")
        t.go()


@case
def outside_datagrams_gone():
    """Nobody is there any more under that name."""
    with h.Workdir() as w, Outer(w, socket.SOCK_DGRAM) as outer, h.Target(w, "unix", "logger") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-x"), "dump")
        t.reap()
        outer.close()
        refused(h.ckpt("restore", "-d", "-D", w + "/i"), "outer.sock", "refused")


@case
def outside_connection():
    """A connection is given from outside."""
    with h.Workdir() as w, Outer(w, socket.SOCK_STREAM) as outer, h.Target(w, "unix", "client") as t:
        t.ready()
        there, _ = outer.accept()
        h.require(there.recv(99) == b"before", "nothing received")
        ino = socket_of(t.pid)
        refused(h.dump(t.pid, w + "/i", "-R"), "outside of the tree", inode(there))
        r = h.must(h.dump(t.pid, w + "/j", "-x"), "dump")
        h.require(f"socket:[{ino}]" in r.out, f"the dump does not say what the restore needs: {r}")
        t.reap()
        refused(h.ckpt("restore", "-d", "-D", w + "/j"), "--inherit-fd")
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        fd = theirs.fileno()
        os.set_inheritable(fd, True)
        h.must(h.ckpt("restore", "-d", "-D", w + "/j", "--inherit-fd", f"fd[{fd}]:socket:[{ino}]", pass_fds=[fd]), "restore")
        theirs.close()
        ours.send(b"answer")
        t.go()
        h.require(ours.recv(99) == b"after", "nothing received after the restore")
        h.require(ours.recv(99) == b"", "somebody holds the connection")


@case
def inherit_nonsense():
    with h.Workdir() as w, Outer(w, socket.SOCK_STREAM) as outer, h.Target(w, "unix", "client") as t:
        t.ready()
        there, _ = outer.accept()
        ino = socket_of(t.pid)
        h.must(h.dump(t.pid, w + "/j", "-x"), "dump")
        t.reap()
        there.close()
        r, _ = os.pipe()
        os.set_inheritable(r, True)
        refused(h.ckpt("restore", "-d", "-D", w + "/j", "--inherit-fd", f"fd[{r}]:socket:[{ino}]", pass_fds=[r]), "no unix socket")


@case
def name_in_use():
    """The original still runs: its names are its own."""
    with h.Workdir() as w, h.Target(w, "unix", "path") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump -R")
        os.kill(t.pid, signal.SIGSTOP)
        before = os.stat(w + "/files/unix.sock")
        refused(h.ckpt("restore", "-d", "-D", w + "/i"), "in use")
        h.require(os.stat(w + "/files/unix.sock").st_ino == before.st_ino, "its file is another one")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def name_of_a_file():
    with h.Workdir() as w, h.Target(w, "unix", "path") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        os.unlink(w + "/files/unix.sock")
        with open(w + "/files/unix.sock", "w") as f:
            f.write("mine")
        refused(h.ckpt("restore", "-d", "-D", w + "/i"), "no socket")
        h.require(h.read_text(w + "/files/unix.sock") == "mine", "the file was touched")


def failed_restore(variant, *names):
    """What lay there lies there again, and a second attempt works."""
    with h.Workdir() as w, h.Target(w, "unix", variant) as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        inodes = [os.stat(f"{w}/files/{n}").st_ino for n in names]
        listing = sorted(os.listdir(w + "/files"))
        for stage in ("plan", "spawn"):
            r = h.ckpt("restore", "-d", "-D", w + "/i", "--fault-stage", stage)
            h.require(r.rc == 1, f"it did not fail: {r}")
            h.require(sorted(os.listdir(w + "/files")) == listing, f"left: {os.listdir(w + '/files')}, not {listing}")
            h.require([os.stat(f"{w}/files/{n}").st_ino for n in names] == inodes, "other files")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        h.require(sorted(os.listdir(w + "/files")) == listing, f"after the restore: {os.listdir(w + '/files')}, not {listing}")
        t.go()


@case
def failed_restore_path():
    failed_restore("path", "unix.sock")


@case
def failed_restore_moved():
    failed_restore("moved", "final.sock")


@case
def folder_is_new():
    """On another machine: the folder is there, the socket file is not."""
    with h.Workdir() as w, h.Target(w, "unix", "relative") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        os.unlink(w + "/files/sub/unix.sock")
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
