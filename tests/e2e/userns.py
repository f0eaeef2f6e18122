#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""User namespaces: targets that check themselves live in one, with PID, IPC, UTS and network namespaces that belong to it. What
they see of themselves, and what is seen from outside, is after a restore as it was."""
import ctypes
import functools
import os
import random
import re
import shutil
import subprocess
import sys
import time

import harness as h
import images as img

CASES = []
NEWTIME, NEWUSER, NEWPID, NEWIPC, NEWUTS, NEWNET, NEWNS = 0x80, 0x10000000, 0x20000000, 0x8000000, 0x4000000, 0x40000000, 0x20000
ALL = NEWUSER | NEWPID | NEWIPC | NEWUTS | NEWNET
UIDS, GIDS = "0 100000 65536\n70000 1000 1000\n", "0 200000 65536\n70000 3000 1000\n"


def case(fn):
    @functools.wraps(fn)
    def in_folder():
        with h.Workdir() as work:
            fn(work)
    CASES.append(in_folder)
    return fn


class Inside(h.Target):
    """A target that is root, and init, in namespaces of its own."""

    def __init__(self, work, name, variant="", flags=ALL, deny=False, uids=UIDS, gids=GIDS, groups=(), keep=False):
        self.work, self.out = work, os.path.join(work, "out")
        self.files = os.path.join(work, "files")
        os.makedirs(self.files, exist_ok=True)
        os.chmod(self.files, 0o777)
        if flags & NEWUSER:
            os.chown(self.files, int(uids.split()[1]), int(gids.split()[1]))
        argv = [os.path.join(h.TARGETS, name), self.out] + ([variant] if variant else [])
        ask, told = os.pipe(), os.pipe()
        self.proc = subprocess.Popen([sys.executable, __file__, "--inside", str(flags), str(ask[1]), str(told[0]),
                                      uids.split()[0], gids.split()[0], *argv], cwd=self.files,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     pass_fds=[ask[1], told[0]], start_new_session=True, extra_groups=groups or None)
        os.close(ask[1])
        os.close(told[0])
        text = os.read(ask[0], 20).decode()
        os.close(ask[0])
        if not text:
            self.proc.wait()
            raise h.Skip("no such namespaces here")
        self.pid = int(text)
        if flags & NEWUSER:
            for file, value in ([("setgroups", "deny")] if deny else []) + [("uid_map", uids), ("gid_map", gids)]:
                with open(f"/proc/{self.pid}/{file}", "w") as f:
                    f.write(value)
        os.write(told[1], b"d" if deny or keep or not flags & NEWUSER else b"g")
        os.close(told[1])

    def seen(self):
        """From outside."""
        keys = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        status = h.read_text(f"/proc/{self.pid}/status")
        return [re.search(rf"^{k}:.*", status, re.M)[0].split() for k in keys] + [
            h.read_text(f"/proc/{self.pid}/{file}") for file in ("uid_map", "gid_map", "setgroups", "limits")]

    def namespaces(self):
        return {n: os.readlink(f"/proc/{self.pid}/ns/{n}") for n in ("user", "pid", "ipc", "uts", "net", "time")}

    def restored(self, images, *args):
        pidfile = os.path.join(self.work, "pid")
        if os.path.exists(pidfile):
            os.unlink(pidfile)
        r = h.ckpt("restore", "-d", "-D", images, "--pidfile", pidfile, *args)
        h.require(r.rc == 0, f"restore: {r}")
        self.pid = int(h.read_text(pidfile))
        return r

    def reap(self):
        if self.proc.returncode is None:
            self.proc.returncode = 0
        rc = h.reap(self.proc.pid)
        h.gone([self.pid])
        return rc


def inside(flags, ask, told, uid, gid, argv):
    """Of the script, again: makes the namespaces, and the target in them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        sys.exit(1)
    pid = os.fork()
    if pid:
        os.write(ask, str(pid).encode())
        os._exit(0)
    word = os.read(told, 1)
    if word == b"g":
        os.setgroups([])
    if flags & NEWUSER:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    os.setsid()
    os.close(ask)
    os.close(told)
    os.execv(argv[0], argv)


def depots():
    return [p for p in os.listdir("/proc") if p.isdigit() and h.read_text(f"/proc/{p}/comm") == "ckpt-depot\n"]


def there_and_back(work, name, variant="", times=1, args=(), **kw):
    """Killed and restored; the target itself finds nothing changed, and neither do we."""
    with Inside(work, name, variant, **kw) as t:
        t.ready()
        before, spaces = t.seen(), t.namespaces()
        for i in range(times):
            images = os.path.join(work, f"images{i}")
            r = h.dump(t.pid, images, *args)
            h.require(r.rc == 0, f"dump: {r}")
            h.gone([t.pid])
            t.restored(images, *args)
            h.require(t.seen() == before, f"seen from outside before:\n{before}\nafter:\n{t.seen()}")
        now = t.namespaces()
        ours = {n: os.readlink(f"/proc/self/ns/{n}") for n in now}
        h.require({n for n in now if now[n] != ours[n]} == {n for n in spaces if spaces[n] != ours[n]},
                  f"lived in {spaces}, now in {now}, we in {ours}")
        t.go()


@case
def credentials(work):
    """Ids of all kinds, groups, capabilities, secure bits: as the namespace calls them."""
    for variant in ("ids", "fsids", "nogroups", "caps", "ambient", "securebits", "nnp", "threads"):
        with h.Workdir() as folder:
            there_and_back(folder, "creds", variant)


@case
def running(work):
    """It runs on after a dump, as it was."""
    for name, variant in (("creds", "caps"), ("tree", "basic"), ("ipc", "queue")):
        with h.Workdir() as folder, Inside(folder, name, variant) as t:
            t.ready()
            before = t.seen()
            for i in range(2):
                r = h.dump(t.pid, os.path.join(folder, f"images{i}"), "-R")
                h.require(r.rc == 0, f"dump: {r}")
            h.require(t.seen() == before, f"{t.seen()}")
            t.go()


@case
def twice(work):
    there_and_back(work, "creds", "ids", times=2)


@case
def trees(work):
    """Children have their numbers, and their descriptors from the engine."""
    for name, variant in (("tree", "basic"), ("tree", "zombies"), ("tree", "files"), ("threads", "few"), ("unix", "pairs"), ("unix", "peercred"), ("unix", "creds")):
        with h.Workdir() as folder:
            there_and_back(folder, name, variant)


@case
def ipc(work):
    """Owners and creators of System V objects."""
    for variant in ("semaphores", "queue", "locked"):
        with h.Workdir() as folder:
            there_and_back(folder, "ipc", variant)


@case
def groups_denied(work):
    """Where nobody may set groups, everybody has those from before, which the namespace has no numbers for."""
    there_and_back(work, "size", "1M", deny=True, groups=[4711, 4712])


@case
def no_root(work):
    """Nobody in there is root: the map begins with another user."""
    there_and_back(work, "size", "1M", uids="5 100000 10\n", gids="7 200000 10\n")


@case
def no_number(work):
    """A group that the namespace has no number for could not be given again: refused, and the program runs on."""
    with Inside(work, "size", "1M", flags=NEWUSER | NEWPID, keep=True, groups=[4711]) as t:
        t.ready()
        r = h.dump(t.pid, os.path.join(work, "images"))
        h.require(r.rc != 0 and "has no number for" in r.out, f"dump: {r}")
        t.go()


@case
def alone(work):
    """A user namespace and nothing else: the numbers of children could not be chosen."""
    there_and_back(work, "size", "1M", flags=NEWUSER)
    with h.Workdir() as folder, Inside(folder, "tree", "basic", flags=NEWUSER) as t:
        t.ready()
        r = h.dump(t.pid, os.path.join(folder, "images"))
        h.require(r.rc != 0 and "without a PID namespace of its own" in r.out, f"dump: {r}")
        t.go()


@case
def failed(work):
    """After a restore that failed nothing is left: no process, no depot."""
    with Inside(work, "creds", "ids") as t:
        t.ready()
        images = os.path.join(work, "images")
        h.require(h.dump(t.pid, images).rc == 0, "dump")
        h.gone([t.pid])
        before = set(os.listdir("/proc"))
        for stage in ("namespaces", "plan", "spawn", "restorer", "finish"):
            r = h.ckpt("restore", "-d", "-D", images, "--fault-stage", stage)
            h.require(r.rc != 0 and stage in r.out, f"restore: {r}")
            h.require(not depots(), f"after a failure at {stage}: a depot is left")
        t.restored(images)
        h.require(not depots(), "a depot is left")
        t.go()


@case
def lazily(work):
    """Pages that come later: inside nobody has the right to wait for those that the kernel needs."""
    with Inside(work, "size", "20M") as t:
        t.ready()
        images = os.path.join(work, "images")
        h.require(h.dump(t.pid, images).rc == 0, "dump")
        h.gone([t.pid])
        t.restored(images, "--lazy-pages")
        h.lazy_done([t.pid])
        t.go()


@case
def killed(work):
    """An engine that is killed leaves no depot, and no process of the tree; the next restore works."""
    with Inside(work, "tree", "many") as t:
        t.ready()
        images = os.path.join(work, "images")
        h.require(h.dump(t.pid, images).rc == 0, "dump")
        h.gone([t.pid])
        for i in range(20):
            p = subprocess.Popen([h.CKPT, "restore", "-D", images], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0.001, 0.05))
            p.kill()
            p.wait()
            h.gone(h.descendants(os.getpid()))
            h.require(not depots(), "a depot is left")
        t.restored(images)
        t.go()


@case
def lies(work):
    """Maps and names that make no sense, and images that are missing: an error that names them, and nothing is left."""
    with Inside(work, "size", "1M") as t:
        t.ready()
        images = os.path.join(work, "images")
        h.require(h.dump(t.pid, images).rc == 0, "dump")
        h.gone([t.pid])

        def none(m):
            m.uid_map[0].count = 0

        def beyond(m):
            m.gid_map[0].first = 0xffffffff

        def many(m):
            m.uid_map.extend([m.uid_map[0]] * 400)

        def twice_the_same(m):
            m.uid_map.extend([m.uid_map[0]])

        def nobody(m):
            del m.uid_map[:]

        def long(m):
            m.nodename = "x" * 65

        for kind, fn, why in (("userns", none, "makes no sense"), ("userns", beyond, "makes no sense"), ("userns", many, "makes no sense"),
                              ("userns", twice_the_same, "uid_map"), ("userns", nobody, ""), ("utsns", long, "more than 64"),
                              ("userns", None, "is missing"), ("utsns", None, "is missing")):
            with h.Workdir() as folder:
                copy = os.path.join(folder, "images")
                shutil.copytree(images, copy)
                name = next(f for f in os.listdir(copy) if f.startswith(kind))
                if fn:
                    img.change(os.path.join(copy, name), fn)
                else:
                    os.unlink(os.path.join(copy, name))
                    h.without_sums(copy)
                r = h.ckpt("restore", "-d", "-D", copy)
                h.require(r.rc == 1 and why in r.out, f"{kind} {fn and fn.__name__}: {r}")
                h.require(not depots(), "a depot is left")
        t.restored(images)
        t.go()


@case
def labels(work):
    """A label of a security module that is not here is refused, or dropped."""
    if os.path.exists("/sys/fs/selinux/enforce") or os.path.exists("/sys/kernel/security/apparmor/profiles"):
        raise h.Skip("there is a security module")
    with h.Target(work, "size", "1M") as t:
        t.ready()
        images = os.path.join(work, "images")
        h.require(h.dump(t.pid, images).rc == 0, "dump")
        h.gone([t.pid])
        img.change(os.path.join(images, "inventory.img"), lambda m: setattr(m, "lsmtype", 2))
        img.change(os.path.join(images, f"core-{t.pid}.img"), lambda m: setattr(m.thread_core.creds, "lsm_profile", "docker-default"))
        for args, why in (([], 'had the label "docker-default" of apparmor'), (["--lsm-profile", "apparmor:x"], "the security module here is none"),
                          (["--lsm-profile", "smack:x"], "apparmor:NAME"), (["--lsm-profile", "apparmor"], "apparmor:NAME")):
            r = h.ckpt("restore", "-d", "-D", images, *args)
            h.require(r.rc == 1 and why in r.out, f"{args}: {r}")
        r = h.ckpt("restore", "-d", "-D", images, "--lsm-profile", "none")
        h.require(r.rc == 0, str(r))
        t.go()


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(*map(int, sys.argv[2:7]), sys.argv[7:])
    h.need_engine()
    h.become_subreaper()
    h.run_cases(CASES)


if __name__ == "__main__":
    main()
