#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""System V objects that are not the tree's alone: those of the caller's IPC namespace, which outlive the program. Used again
when they are still there and the same, made anew when they are gone, in the way when they are not the same any more."""
import ctypes
import os
import re
import subprocess
import sys

import harness as h

CASES = []
libc = ctypes.CDLL(None, use_errno=True)


def case(fn):
    CASES.append(fn)
    return fn


def objects():
    """All there are: {("shm", 5), ("sem", 0)}."""
    return {(kind, int(line.split()[1])) for kind in ("shm", "sem", "msg")
            for line in h.read_text(f"/proc/sysvipc/{kind}").splitlines()[1:]}


def remove(objs):
    for kind, number in objs:
        subprocess.run(["ipcrm", {"shm": "-m", "sem": "-s", "msg": "-q"}[kind], str(number)], check=False)


class Objects:
    """Those that came up meanwhile go at the end. Other tests make some, too: @pid made these, or used them last."""

    def __init__(self, pid):
        self.pid, self.mine = pid, set()

    def find(self):
        """That the target of this test has used: by the process numbers in /proc/sysvipc."""
        for kind, columns in (("shm", (4, 5)), ("msg", (5, 6))):
            for line in h.read_text(f"/proc/sysvipc/{kind}").splitlines()[1:]:
                words = line.split()
                if str(self.pid) in [words[c] for c in columns]:
                    self.mine.add((kind, int(words[1])))
        for line in h.read_text("/proc/sysvipc/sem").splitlines()[1:]:
            number = int(line.split()[1])
            if libc.semctl(number, 0, 11) == self.pid:  # GETPID
                self.mine.add(("sem", number))
        return self.mine

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        remove(self.mine & objects())


def restore(images, *args, **kw):
    return h.ckpt("restore", "-d", "-D", images, *args, **kw)


def gone_and_made(variant):
    """What was removed meanwhile is made anew, under its id."""
    with h.Workdir() as w, h.Target(w, "ipc", variant) as t, Objects(t.pid) as o:
        t.ready()
        mine = set(o.find())
        h.require(mine, "the target has no objects")
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        remove(mine)
        h.require(not mine & objects(), "still there")
        h.must(restore(w + "/i"), "restore")
        h.require(mine <= objects(), f"{mine} are not all there again: {objects()}")
        t.go()


@case
def segment_gone():
    gone_and_made("attachments")


@case
def set_gone():
    gone_and_made("semaphores")


@case
def queue_gone():
    gone_and_made("queue")


def changed(variant, change, word):
    """What is not the same any more is in the way; removed, it is not."""
    with h.Workdir() as w, h.Target(w, "ipc", variant) as t, Objects(t.pid) as o:
        t.ready()
        mine = set(o.find())
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        for kind, number in mine:
            change(number)
        r = restore(w + "/i")
        h.require(r.rc != 0 and word in r.out and "ipcrm" in r.out, f"not refused as it should: {r}")
        h.require(mine <= objects(), "the refused restore has removed what was there")
        remove(mine)
        h.must(restore(w + "/i"), "restore")
        t.go()


@case
def set_changed():
    changed("semaphores", lambda n: libc.semctl(n, 0, 16, 77), "values")


@case
def queue_changed():
    def take(n):
        buf = ctypes.create_string_buffer(100)
        h.require(libc.msgrcv(n, buf, 92, ctypes.c_long(0), 0o4000) >= 0, "no message to take")
    changed("queue", take, "messages")


def attach(number):
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(number, None, 0)
    h.require(at != ctypes.c_void_p(-1).value, "shmat")
    return at


@case
def segment_changed():
    def write(n):
        at = attach(n)
        ctypes.memset(at + 5000, 1, 1)
        libc.shmdt(ctypes.c_void_p(at))
    changed("attachments", write, "content")


@case
def attached_outside():
    """Somebody else has the segment attached: refused, unless it is said to be there at the restore."""
    with h.Workdir() as w, h.Target(w, "ipc", "attachments") as t, Objects(t.pid) as o:
        t.ready()
        (_, number), = o.find()
        at = attach(number)
        try:
            r = h.dump(t.pid, w + "/i")
            h.require(r.rc != 0 and "outside the tree" in r.out and f"shm[{number}]" in r.out, f"not refused as it should: {r}")
            h.untouched(t.pid)
            h.must(h.dump(t.pid, w + "/i", "--external", f"shm[{number}]"), "dump --external")
            t.reap()
            ctypes.memset(at + 12 * 4096, 0, 1)
            ctypes.memset(at + 12 * 4096, 0x5a, 1)
            was = ctypes.string_at(at, 8)
            h.must(restore(w + "/i"), "restore")
            h.require(ctypes.string_at(at, 8) == was, "the segment of others was changed")
            h.require(re.search(rf"^ *\S+ +{number} ", h.read_text("/proc/sysvipc/shm"), re.M), "no such segment")
        finally:
            libc.shmdt(ctypes.c_void_p(at))


@case
def failed_restore_leaves_none():
    """A restore that fails after the objects were made takes them away again."""
    for variant in ("attachments", "semaphores", "queue", "own_shm"):
        with h.Workdir() as w, h.Target(w, "ipc", variant) as t, Objects(t.pid) as o:
            t.ready()
            mine = set(o.find()) if not variant.startswith("own") else set()
            h.must(h.dump(t.pid, w + "/i"), "dump")
            t.reap()
            remove(mine)
            r = restore(w + "/i", "--fault-stage", "spawn")
            h.require(r.rc != 0, f"the restore did not fail: {r}")
            h.require(not mine & objects(), f"{variant}: left: {mine & objects()}")
            h.must(restore(w + "/i"), "restore")
            t.go()


@case
def in_a_new_namespace():
    """The way out where ids are taken."""
    with h.Workdir() as w, h.Target(w, "ipc", "attachments") as t, Objects(t.pid) as o:
        t.ready()
        o.find()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        os.kill(t.pid, 9)
        t.reap()
        r = h.run(["unshare", "--ipc", h.CKPT, "restore", "-d", "-D", w + "/i"])
        h.must(r, "restore")
        h.require(os.readlink(f"/proc/{t.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc"), "it is in our namespace")
        t.go()


@case
def own_namespace_again():
    """A tree that had a namespace of its own gets a new one."""
    with h.Workdir() as w, h.Target(w, "ipc", "own_semaphores") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump -R")
        os.kill(t.pid, 9)
        t.reap()
        h.must(restore(w + "/i"), "restore")
        h.require(os.readlink(f"/proc/{t.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc"), "it is in our namespace")
        t.go()


class Queues:
    """POSIX message queues."""

    def __init__(self):
        self.librt = ctypes.CDLL(None, use_errno=True)

    def open(self, name, flags=0o4000 | os.O_RDWR):
        return self.librt.mq_open(name.encode(), flags)

    def unlink(self, name):
        return self.librt.mq_unlink(name.encode())


def mqueue_names(t):
    return [f"/ckpt-{t.pid}-9", f"/ckpt-{t.pid}-5"]


@case
def mqueue_gone():
    """Queues that were removed meanwhile are made anew, with what was in them."""
    q = Queues()
    with h.Workdir() as w, h.Target(w, "ipc", "mqueue") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        try:
            for name in mqueue_names(t):
                h.require(q.unlink(name) == 0, f"{name} was not there")
            r = restore(w + "/i", "--fault-stage", "spawn")
            h.require(r.rc != 0 and all(q.unlink(name) for name in mqueue_names(t)), f"a failed restore has left queues: {r}")
            h.must(restore(w + "/i"), "restore")
            t.go()
        finally:
            for name in mqueue_names(t):
                q.unlink(name)


@case
def mqueue_changed():
    """One that has not as many messages any more is in the way."""
    q = Queues()
    with h.Workdir() as w, h.Target(w, "ipc", "mqueue") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        try:
            fd = q.open(mqueue_names(t)[0])
            h.require(fd >= 0 and libc.mq_receive(fd, ctypes.create_string_buffer(128), 128, None) >= 0, "no message to take")
            os.close(fd)
            r = restore(w + "/i")
            h.require(r.rc != 0 and "messages" in r.out and "/dev/mqueue/" in r.out, f"not refused as it should: {r}")
            q.unlink(mqueue_names(t)[0])
            h.must(restore(w + "/i"), "restore")
            t.go()
        finally:
            for name in mqueue_names(t):
                q.unlink(name)


@case
def mqueue_outside():
    """Somebody else has it open: nothing is taken out, and at the restore it must be there, whatever is in it by then."""
    q = Queues()
    with h.Workdir() as w, h.Target(w, "ipc", "mqueue") as t:
        t.ready()
        name = mqueue_names(t)[1]
        fd = q.open(name)
        os.set_inheritable(fd, True)
        p = subprocess.Popen(["sleep", "1000"], close_fds=False)
        os.close(fd)
        try:
            h.must(h.dump(t.pid, w + "/i"), "dump")
            t.reap()
            h.must(restore(w + "/i"), "restore")
            h.require(h.alive(p.pid), "the other one is gone")
            t.go()
        finally:
            h.kill_hard(p.pid)
            p.returncode = 0
            for n in mqueue_names(t):
                q.unlink(n)


PARENT = """
import mmap, os, signal, sys, time
memory = mmap.mmap(-1, 8192)
child = os.fork()
if not child:
    os.setsid()
    os.closerange(0, 100)
else:
    open(sys.argv[1], "w").write(str(child))
while 1: time.sleep(1000)
"""


@case
def mapped_outside():
    """Shared memory of a parent that is not dumped."""
    with h.Workdir() as w:
        p = subprocess.Popen([sys.executable, "-S", "-c", PARENT, w + "/child"], start_new_session=True, stdin=subprocess.DEVNULL)
        child = 0
        try:
            child = int(h.wait_until(lambda: h.read_text(w + "/child"), "the child"))
            h.wait_until(lambda: h.state(child) == "S" and not os.listdir(f"/proc/{child}/fd"), "the child to sleep")
            r = h.dump(child, w + "/i")
            h.require(r.rc != 0 and f"process {p.pid}" in r.out and "mapped" in r.out, f"not refused as it should: {r}")
            inode = re.search(r"shmem\[(\d+)\]", r.out)[1]
            h.must(h.dump(child, w + "/i", "--external", f"shmem[{inode}]"), "dump --external")
            h.reap(child)
        finally:
            h.kill_hard(p.pid)
            p.returncode = 0
            if child:
                h.kill_hard(child)


if __name__ == "__main__":
    h.run_cases(CASES)
