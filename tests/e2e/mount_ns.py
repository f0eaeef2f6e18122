#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Programs in mount namespaces of their own: what /proc/PID/mountinfo shows after a restore is what it showed before, but for
numbers. All of it happens in a mount namespace of this script's."""
import ctypes
import os
import re
import shutil
import stat
import subprocess

import harness as h

CASES = []
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWPID = 0x20000, 0x20000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC = 1, 2, 4, 8, 32, 4096, 16384
UNBINDABLE, PRIVATE, SLAVE, SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
PROGRAMS = ("sleep", "sh")


def case(fn):
    CASES.append(fn)
    return fn


def ok(r, what):
    if r:
        raise OSError(ctypes.get_errno(), what)


def mount(source, place, kind=None, flags=0, data=None):
    enc = [None if x is None else str(x).encode() for x in (source, place, kind, data)]
    ok(LIBC.mount(enc[0], enc[1], enc[2], ctypes.c_ulong(flags), enc[3]), f"mount {place}")


def umount(place):
    ok(LIBC.umount2(str(place).encode(), 2), f"umount {place}")


def go_in(root):
    mount(root, root, None, BIND | REC)
    os.chdir(root)
    ok(LIBC.syscall(155, b".", b"."), "pivot_root")
    umount(".")
    os.chdir("/")


def become(*argv):
    """Descriptors of ours are of other mounts than the program will have."""
    null = os.open("/dev/null", os.O_RDWR)
    for i in range(3):
        os.dup2(null, i)
    os.closerange(3, 1000)
    os.execv(argv[0], argv)


def root_folder(w):
    """Enough to run a program."""
    root = os.path.join(w, "root")
    for d in ("proc", "sys", "dev", "etc", "bin", "a", "b", "c", "d", "tmp"):
        os.makedirs(os.path.join(root, d))
    for name in PROGRAMS:
        program = os.path.realpath(shutil.which(name))
        shutil.copy(program, os.path.join(root, "bin", name))
        for lib in re.findall(r"(/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout):
            os.makedirs(root + os.path.dirname(lib), exist_ok=True)
            shutil.copy(lib, root + lib)
    with open(os.path.join(root, "etc", "file"), "w") as f:
        f.write("of the root")
    os.mknod(os.path.join(root, "etc", "null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return root


def basic(root):
    """What every container has, /dev without anything in it first."""
    go_in(root)
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    mount("tmpfs", "/dev", "tmpfs", NOSUID, "mode=755,size=65536k")
    os.mknod("/dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


class Tree:
    """A process in a mount namespace that `fn` fills; with `pidns`, as number 1 of a new PID namespace."""

    def __init__(self, fn, pidns=True):
        r, w = os.pipe()
        first = os.fork()
        if first == 0:
            try:
                os.setsid()
                ok(LIBC.unshare(NEWNS | (NEWPID if pidns else 0)), "unshare")
                pid = os.fork() if pidns else 0
                if pid:
                    os.write(w, f"{pid}\n".encode())
                    os._exit(0)
                if pidns:
                    os.setsid()
                fn()
                become("/bin/sleep", "1000")
            except BaseException as e:
                os.write(w, f"failed: {e}".encode())
            os._exit(1)
        os.close(w)
        with os.fdopen(r) as f:
            said = f.read()
        if pidns:
            os.waitpid(first, 0)
        if "failed" in said:
            raise h.Failure(said)
        self.pid = int(said) if pidns else first
        self.pids = [self.pid]
        h.wait_until(lambda: h.read_text(f"/proc/{self.pid}/comm").strip() == "sleep", "the program")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pid in [*h.descendants(self.pid), self.pid]:
            h.kill_hard(pid)

    def again(self, w, *args, dump=(), rounds=2):
        """Away and back, compared."""
        for i in range(rounds):
            images = os.path.join(w, f"img{i}")
            before = [mounts(p) for p in self.all()]
            h.must(h.dump(self.pid, images, *dump), "dump")
            h.wait_until(lambda: not h.alive(self.pid), "its end")
            self.restore(images, *args)
            compare(before, [mounts(p) for p in self.all()])
            shutil.rmtree(images)

    def restore(self, images, *args):
        pidfile = os.path.join(images, "pid")
        h.must(h.ckpt("restore", "-D", images, "-d", "--pidfile", pidfile, *args), "restore")
        self.pid = int(h.read_text(pidfile))

    def all(self):
        return [self.pid, *sorted(h.descendants(self.pid))]

    def text(self, path, pid=None):
        return h.read_text(f"/proc/{pid or self.pid}/root{path}")


def mounts(pid):
    """[(number, parent, what there is to be compared)]"""
    out = []
    for line in h.read_text(f"/proc/{pid}/mountinfo").splitlines():
        left, right = line.split(" - ")
        f = left.split(" ")
        out.append({"id": f[0], "parent": f[1], "dev": f[2], "root": f[3], "place": f[4], "options": f[5], "more": f[6:], "fs": right})
    return out


def describe(all_mounts):
    """Numbers of mounts, devices and groups are replaced by what they stand for."""
    lines = []
    for k, ns in enumerate(all_mounts):
        by_id = {m["id"]: m for m in ns}

        def chain(m, by_id=by_id):
            up = by_id.get(m["parent"])
            return m["place"] + (f" on {up['fs'].split()[0]} {chain(up)}" if up else "")
        for m in ns:
            groups = []
            for word in m["more"]:
                name, _, number = word.partition(":")
                peers = sorted(f"{j}:{p['place']}" for j, other in enumerate(all_mounts) for p in other if f"shared:{number}" in p["more"])
                groups.append(f"{name} {peers[0] if peers else 'outside' if number else ''}")
            same = sorted(f"{j}:{p['place']}" for j, other in enumerate(all_mounts) for p in other if p["dev"] == m["dev"])
            root = "" if m["place"] == "/" and m["parent"] not in by_id else m["root"]
            lines.append(f"{k} {chain(m)} {root} {m['options']} {groups} {m['fs']} with {same[0]}")
    return sorted(lines)


def compare(before, after):
    a, b = describe(before), describe(after)
    h.require(a == b, "mounts changed:\n" + "\n".join([f"- {x}" for x in a if x not in b] + [f"+ {x}" for x in b if x not in a]))


# ------------------------------------------------------------------------------------------------------ cases

@case
def container():
    """The mounts of a container, with contents."""
    with h.Workdir() as w:
        root = root_folder(w)

        def make():
            basic(root)
            for d in ("pts", "shm", "mqueue"):
                os.mkdir(f"/dev/{d}")
            mount("devpts", "/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
            mount("shm", "/dev/shm", "tmpfs", NOSUID | NODEV | NOEXEC, "mode=1777,size=65536k")
            mount("mqueue", "/dev/mqueue", "mqueue", NOSUID | NODEV | NOEXEC)
            mount("sysfs", "/sys", "sysfs", NOSUID | NODEV | NOEXEC)
            mount("/proc/sys", "/proc/sys", None, BIND)
            mount(None, "/proc/sys", None, REMOUNT | BIND | RDONLY | NOSUID)
            mount("/dev/null", "/proc/timer_list", None, BIND)
            mount("tmpfs", "/proc/scsi" if os.path.exists("/proc/scsi") else "/proc/irq", "tmpfs", RDONLY)
            with open("/dev/shm/data", "w") as f:
                f.write("kept")
            mount(None, "/", None, REMOUNT | BIND | RDONLY)
        with Tree(make) as t:
            t.again(w, "--root", root)
            t.again(w, "--root", root, "--mntns-compat-mode", rounds=1)
            h.require(t.text("/dev/shm/data") == "kept", "contents of a tmpfs are gone")


@case
def machine():
    """`unshare -m`: the mounts of the machine, as they are; the root is the machine's."""
    with h.Workdir() as w:
        for line in h.read_text("/proc/self/mountinfo").splitlines():
            if " - overlay " in line:  # somebody else's: only this namespace's copy goes
                umount(line.split(" ")[4])
        with Tree(lambda: None, pidns=False) as t:
            before = [mounts(t.pid)]
            h.must(h.dump(t.pid, w + "/img"), "dump")
            h.reap(t.pid)
            t.restore(w + "/img", "--root", "/")
            after = [mounts(t.pid)]
            h.require(sorted(m["place"] for m in before[0]) == sorted(m["place"] for m in after[0]), f"{before}\n{after}")


@case
def slaves():
    """As services are started: all mounts are slaves of the machine's, and are again, with --external 'mnt[]'."""
    with h.Workdir() as w:
        for line in h.read_text("/proc/self/mountinfo").splitlines():
            if " - overlay " in line:
                umount(line.split(" ")[4])
        for place in ("one", "two"):
            os.mkdir(f"{w}/{place}")
        mount("vol", f"{w}/one", "tmpfs")
        os.mkdir(f"{w}/one/in")
        mount(None, "/", None, REC | SHARED)
        try:
            with Tree(lambda: mount(None, "/", None, REC | SLAVE), pidns=False) as t:
                r = h.dump(t.pid, w + "/img")
                h.require(r.rc == 1 and "slave of mounts outside" in r.out, f"not refused: {r}")
                h.must(h.dump(t.pid, w + "/img", "--external", "mnt[]"), "dump")
                h.reap(t.pid)
                t.restore(w + "/img", "--root", "/", "--external", "mnt[]")
                mount("later", f"{w}/one/in", "tmpfs")
                mount("later", f"{w}/two", "tmpfs")
                for place in ("one/in", "two"):
                    h.require(f" {w}/{place} " in h.read_text(f"/proc/{t.pid}/mountinfo"), f"{place} did not arrive")
        finally:
            mount(None, "/", None, REC | PRIVATE)
            for place in ("one/in", "one", "two"):
                LIBC.umount2(f"{w}/{place}".encode(), 2)


@case
def nested():
    """A child in a second mount namespace, with peers and slaves in the first."""
    with h.Workdir() as w:
        root = root_folder(w)

        def make():
            basic(root)
            mount("s", "/a", "tmpfs")
            mount(None, "/a", None, SHARED)
            os.mkdir("/a/in")
            pid = os.fork()
            if pid == 0:
                ok(LIBC.unshare(NEWNS), "unshare")
                mount("/a", "/b", None, BIND)
                mount(None, "/b", None, SLAVE)
                mount("here", "/c", "tmpfs")
                with open("/c/file", "w") as f:
                    f.write("of the second")
                become("/bin/sleep", "999")
        with Tree(make) as t:
            h.wait_until(lambda: len(t.all()) == 2 and "sleep" in h.read_text(f"/proc/{t.all()[1]}/comm") and
                         "here" in h.read_text(f"/proc/{t.all()[1]}/mountinfo"), "the child")
            t.again(w, "--root", root)
            first, second = t.all()
            h.require(t.text("/c/file", second) == "of the second" and not t.text("/c/file"), "the namespaces are not two")
            # What is mounted in one arrives in the other.
            h.must(in_ns(first, lambda: mount("later", "/a/in", "tmpfs")), "mount in the first")
            for place in ("/a/in", "/b/in"):
                h.require(f" {place} " in h.read_text(f"/proc/{second}/mountinfo"), f"{place} did not arrive in the second")


def in_ns(pid, fn):
    """Calls fn in the mount namespace of pid."""
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
            ok(LIBC.setns(fd, NEWNS), "setns")
            fn()
            os._exit(0)
        except BaseException as e:
            print(f"# {e}", flush=True)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return h.Result(status, "", 0)


@case
def external():
    """Files and folders of somebody outside, by key, and found without one."""
    with h.Workdir() as w:
        root = root_folder(w)
        for name in ("one", "two"):
            os.mkdir(f"{w}/{name}")
            with open(f"{w}/{name}/file", "w") as f:
                f.write(name)
            mount("vol", f"{w}/{name}", "tmpfs")
            with open(f"{w}/{name}/file", "w") as f:
                f.write(name)
        with open(f"{w}/plain", "w") as f:
            f.write("plain")

        def make():
            mount(f"{w}/one", f"{root}/a", None, BIND)
            mount(f"{w}/plain", f"{root}/etc/file", None, BIND)
            basic(root)
        with Tree(make) as t:
            r = h.dump(t.pid, w + "/img")
            h.require(r.rc == 1 and "/etc/file" in r.out and "--external" in r.out, f"not refused: {r}")
            h.require(h.alive(t.pid), "it did not survive that")
            dump = ["--external", "mnt[/a]:volume", "--ext-mount-map", "/etc/file:plain"]
            h.must(h.dump(t.pid, w + "/img", *dump), "dump")
            r = h.ckpt("restore", "-D", w + "/img", "-d", "--root", root)
            h.require(r.rc == 1 and "volume" in r.out, f"restored without its volume: {r}")
            t.restore(w + "/img", "--root", root, "--external", f"mnt[volume]:{w}/two", "--ext-mount-map", f"plain:{w}/plain")
            h.require(t.text("/a/file") == "two" and t.text("/etc/file") == "plain", f"{t.text('/a/file')} {t.text('/etc/file')}")
            h.must(h.dump(t.pid, w + "/auto", "--external", "mnt[]"), "dump that finds them itself")
            t.restore(w + "/auto", "--root", root, "--external", "mnt[]")
            h.require(t.text("/a/file") == "two" and t.text("/etc/file") == "plain", "found ones are others")


@case
def refused():
    """What cannot be made again is refused by name, and the program runs on; with an option it can be."""
    with h.Workdir() as w:
        root = root_folder(w)

        def make():
            basic(root)
            mount("ram", "/a", "ramfs")
        with Tree(make) as t:
            r = h.dump(t.pid, w + "/img")
            h.require(r.rc == 1 and "ramfs on /a" in r.out and "--enable-fs ramfs" in r.out, f"not refused: {r}")
            h.require(h.alive(t.pid) and not os.listdir(w + "/img"), "something is left of it")
            t.again(w, "--root", root, dump=["--enable-fs", "ramfs"], rounds=1)
            h.must(h.dump(t.pid, w + "/img", "--skip-mnt", "/a"), "dump without it")
            t.restore(w + "/img", "--root", root)
            h.require("ramfs" not in h.read_text(f"/proc/{t.pid}/mountinfo"), "it was not left out")


@case
def failed_restore():
    """A new root that lacks a place: the restore says so, and leaves nothing."""
    with h.Workdir() as w:
        root = root_folder(w)

        def make():
            basic(root)
            mount("s", "/a", "tmpfs")
        with Tree(make) as t:
            h.must(h.dump(t.pid, w + "/img"), "dump")
            os.rmdir(root + "/a")
            before = h.read_text("/proc/self/mountinfo"), h.folder_listing(root)
            r = h.ckpt("restore", "-D", w + "/img", "-d", "--root", root)
            h.require(r.rc == 1 and "tmpfs on /a" in r.out and "new root" in r.out, f"{r}")
            r = h.ckpt("restore", "-D", w + "/img", "-d")
            h.require(r.rc == 1 and "--root" in r.out, f"{r}")
            h.require(before == (h.read_text("/proc/self/mountinfo"), h.folder_listing(root)), "something is left")
            os.mkdir(root + "/a")
            t.restore(w + "/img", "--root", root)


def main():
    if os.geteuid() == 0:
        ok(LIBC.unshare(NEWNS), "unshare")
        mount(None, "/", None, REC | PRIVATE)
    h.become_subreaper()
    h.run_cases(CASES)


if __name__ == "__main__":
    main()
