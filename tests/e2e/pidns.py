#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Trees with PID namespaces of their own: the numbers in the images, what of others is in there, namespaces from outside."""
import fcntl
import glob
import json
import os
import signal
import subprocess

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def crit(path):
    r = h.run(["crit", "show", path])
    if r.rc:
        raise h.Skip(f"crit: {r}")
    return json.loads(r.out)["entries"]


class Namespace:
    """A PID namespace that lives outside of any tree, with an init that reaps."""

    def __enter__(self):
        self.unshare = subprocess.Popen(["unshare", "--fork", "--pid", "sh", "-c", "trap '' CHLD; sleep 1000; :"])
        h.wait_until(lambda: h.children(self.unshare.pid), "the init of a namespace")
        self.init = h.children(self.unshare.pid)[0]
        self.ino = os.stat(f"/proc/{self.init}/ns/pid").st_ino
        return self

    def __exit__(self, *exc):
        h.kill_hard(self.init)
        self.unshare.wait()


def inside_target(ns, work, *argv):
    """A target in that namespace: self.pid is its number as we see it."""
    t = h.Target(work, *argv, enter=["nsenter", "-t", str(ns.init), "-p", "setsid"])
    return t


@case
def numbers_in_images():
    """All numbers are those of the namespace: threads, groups, sessions, zombies, names of images."""
    with h.Workdir() as w, h.Target(w, "tree", "zombies", pidns=True) as t:
        t.ready()
        tree = [t.pid, *h.descendants(t.pid)]
        want = {h.inside(p): (h.inside(p, "NSpgid"), h.inside(p, "NSsid")) for p in tree}
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        got = {e["pid"]: (e["pgid"], e["sid"]) for e in crit(w + "/i/pstree.img")}
        h.require(got == want and 1 in got, f"pstree.img has {got}, the tree {want}")
        names = {int(os.path.basename(f)[5:-4]) for f in glob.glob(w + "/i/core-*.img")}
        h.require(set(want) <= names and not names & set(tree), f"core images of {names}, tasks {want}")
        t.go()


@case
def stranger():
    """A process that was put there from outside is named and not lost; it is no obstacle where the tree runs on."""
    with h.Workdir() as w, h.Target(w, "size", "1M", pidns=True) as t:
        t.ready()
        s = subprocess.Popen(["nsenter", "-t", str(t.pid), "-p", "-m", "sleep", "1000"])
        try:
            h.wait_until(lambda: h.children(s.pid), "the stranger")
            stranger = h.children(s.pid)[0]
            h.wait_until(lambda: h.read_text(f"/proc/{stranger}/comm").strip() == "sleep", "it to run sleep")
            before = h.settled_snapshot(t.pid)
            os.makedirs(w + "/i")
            r = h.dump(t.pid, w + "/i")
            h.require(r.rc == 1 and f"process {stranger} (sleep)" in r.out, f"the dump does not name {stranger}: {r}")
            h.require(h.alive(stranger), "it is not alive any more")
            h.same_process(before, t.pid, "after the refused dump")
            r = h.must(h.dump(t.pid, w + "/j", "-R"), "dump -R")
            h.require(f"process {stranger} (sleep)" in r.out, f"no warning: {r}")
        finally:
            h.kill_hard(h.children(s.pid)[0]) if h.children(s.pid) else None
            s.wait()
        h.must(h.dump(t.pid, w + "/k"), "dump without it")
        t.reap()


@case
def not_the_init():
    """A part of a namespace that is not external cannot be made again."""
    with h.Workdir() as w, Namespace() as ns, inside_target(ns, w, "size", "1M") as t:
        t.ready()
        os.makedirs(w + "/i")
        r = h.dump(t.pid, w + "/i")
        h.require(r.rc == 1 and "PID namespace" in r.out and str(t.pid) in r.out, f"it was not refused: {r}")
        h.untouched(t.pid)
        t.go()


@case
def external():
    """--external pid[INODE]:KEY: the tree comes back into a namespace that is given, with its numbers."""
    with h.Workdir() as w, Namespace() as ns, inside_target(ns, w, "tree", "basic") as t:
        t.ready()
        before, number = h.settled_snapshot(t.pid), h.inside(t.pid)
        h.must(h.dump(t.pid, w + "/i", "--external", f"pid[{ns.ino}]:theirs"), "dump")
        t.reap()
        h.require(crit(glob.glob(w + "/i/pidns-*.img")[0]) == [{"ext_key": "theirs"}], "pidns image")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and "theirs" in r.out, f"restored without the namespace: {r}")
        fd = os.open(f"/proc/{ns.init}/ns/pid", os.O_RDONLY)
        h.must(h.ckpt("restore", "-d", "-D", w + "/i", "--pidfile", w + "/pid", "--inherit-fd", f"fd[{fd}]:theirs",
                      pass_fds=[fd]), "restore")
        os.close(fd)
        t.pid = int(h.read_text(w + "/pid"))
        h.require(h.inside(t.pid) == number and os.stat(f"/proc/{t.pid}/ns/pid").st_ino == ns.ino, "another number, or namespace")
        h.same_process(before, t.pid, "after the restore")
        # its number is taken now
        fd = os.open(f"/proc/{ns.init}/ns/pid", os.O_RDONLY)
        r = h.ckpt("restore", "-d", "-D", w + "/i", "--inherit-fd", f"fd[{fd}]:theirs", pass_fds=[fd])
        os.close(fd)
        h.require(r.rc == 1 and f"PID {number} is in use" in r.out, f"a taken number: {r}")
        t.go()


def there_and_back(work, t, *opts):
    """Through a dump and a restore of whoever started target @t: the numbers of all stay. The new root."""
    root = t.proc.pid
    before = h.settled_snapshot(root)
    numbers = sorted(h.levels(p)[1:] for p in h.descendants(root))
    h.must(h.dump(root, work + "/i"), "dump")
    t.proc.wait()
    h.gone([t.pid])
    h.must(h.ckpt("restore", "-d", "-D", work + "/i", "--pidfile", work + "/pid", *opts), "restore")
    new = int(h.read_text(work + "/pid"))
    h.same_process(before, new, "after the restore")
    again = sorted(h.levels(p)[1:] for p in h.descendants(new))
    h.require(again == numbers, f"numbers {numbers} became {again}")
    return new


@case
def nested():
    """A namespace below that of the root task, with a whole tree in it: unshare(1) is the root, and its children go there."""
    for variant in ("basic", "zombies", "threads", "stopped"):
        with h.Workdir() as w, h.Target(w, "tree", variant, enter=["unshare", "--fork", "--pid", "setsid"]) as t:
            t.ready()
            root = there_and_back(w, t)
            t.pid = h.children(root)[0]
            h.require(os.stat(f"/proc/{root}/ns/pid_for_children").st_ino == os.stat(f"/proc/{t.pid}/ns/pid").st_ino,
                      "children to come would be elsewhere")
            os.kill(t.pid, signal.SIGUSR1)
            h.wait_until(t.verdict, "the verdict")
            h.require(t.verdict() == "PASS", f"{variant}: {t.verdict()}")
            h.reap(root)


@case
def nested_orphans():
    """What could not be made again is refused while it lives."""
    with h.Workdir() as w, h.Target(w, "tree", "deadsession", enter=["unshare", "--fork", "--pid", "setsid"]) as t:
        t.ready()
        r = h.dump(t.proc.pid, w + "/i")
        h.require(r.rc == 1 and "nested PID namespace" in r.out, f"it was not refused: {r}")
        h.untouched(t.pid)


@case
def namespace_to_come():
    """After unshare(2) the next child is the first one of a new namespace."""
    code = "syscall(272, 0x20000000) == 0 or die; sleep 1 while 1"  # unshare(CLONE_NEWPID)
    with h.Workdir() as w:
        p = subprocess.Popen(["perl", "-e", code], cwd=w, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        h.wait_until(lambda: not os.path.exists(f"/proc/{p.pid}/ns/pid_for_children"), "the unshare")
        h.must(h.dump(p.pid, w + "/i"), "dump")
        p.wait()
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        h.require(not os.path.exists(f"/proc/{p.pid}/ns/pid_for_children"), "children to come would be in its own namespace")
        h.kill_hard(p.pid)


@case
def failed_restore_leaves_nothing():
    """Where the init fails when its tree is there (somebody has its lock), all of it ends."""
    with h.Workdir() as w, h.Target(w, "locks", "ranges", pidns=True) as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "--file-locks"), "dump")
        t.reap()
        held = []
        for path in glob.glob(w + "/files/*"):
            held.append(open(path, "r+b"))
            fcntl.lockf(held[-1], fcntl.LOCK_EX)
        r = h.ckpt("restore", "-d", "-D", w + "/i", "--root", "/", "--file-locks")
        h.require(r.rc == 1 and "lock" in r.out, f"a lock that somebody has: {r}")
        left = [p for p in os.listdir("/proc") if p.isdigit() and h.read_text(f"/proc/{p}/comm") in ("locks\n", "ckpt-restorer\n")]
        h.require(not left, f"left: {left}")
        for f in held:
            f.close()
        h.must(h.ckpt("restore", "-d", "-D", w + "/i", "--root", "/", "--file-locks", "--pidfile", w + "/pid"), "restore")
        t.pid = int(h.read_text(w + "/pid"))
        t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
