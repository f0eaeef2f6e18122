#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Files on other file systems: tmpfs, bind mounts, overlayfs (programs, too), and what a mount hides. Everything happens in
a mount namespace of its own, in which this script starts itself again."""
import contextlib
import os
import shutil
import subprocess
import sys

import harness as h

CASES = []
INSIDE = "CKPT_TEST_MOUNTS"


def case(fn):
    CASES.append(fn)
    return fn


def mount(*args):
    r = h.run(["mount", *args])
    if r.rc != 0:
        raise h.Skip(f"mount {' '.join(args)}: {r.out.strip()}")


def populate(folder):
    os.makedirs(folder + "/folder")
    for name, text in (("file", "file"), ("other", "other"), ("folder/1", "1"), ("folder/2", "2"), ("folder/3", "3")):
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)


@contextlib.contextmanager
def mounted(path):
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=False, stderr=subprocess.DEVNULL)


def make_plain(w, here):
    populate(here)


def make_tmpfs(w, here):
    mount("-t", "tmpfs", "tmpfs", here)
    populate(here)


def make_bind(w, here):
    populate(w + "/there")
    mount("--bind", w + "/there", here)


def make_overlay(w, here, upper_fs=None):
    top = w + "/top"
    os.makedirs(top)
    if upper_fs:
        mount("-t", upper_fs, upper_fs, top)
    os.makedirs(top + "/upper")
    os.makedirs(top + "/work")
    populate(w + "/lower")
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={w}/lower,upperdir={top}/upper,workdir={top}/work", here)


def make_overlay_tmpfs(w, here):
    make_overlay(w, here, "tmpfs")


PLACES = (make_plain, make_tmpfs, make_bind, make_overlay, make_overlay_tmpfs)


def round_trip(make, variant):
    with h.Workdir() as w:
        here = w + "/files/here"
        os.makedirs(here)
        with mounted(here):
            make(w, here)
            with h.Target(w, "places", variant) as t:
                t.ready()
                before = h.settled_snapshot(t.pid)
                h.must(h.dump(t.pid, w + "/i"), f"dump ({make.__name__})")
                t.reap()
                h.must(h.ckpt("restore", "-d", "-D", w + "/i"), f"restore ({make.__name__})")
                h.same_process(before, t.pid, f"after the restore ({make.__name__})")
                t.go()
        subprocess.run(["umount", "-l", w + "/top"], check=False, stderr=subprocess.DEVNULL)


@case
def files():
    for make in PLACES:
        round_trip(make, "files")


@case
def position_in_folder():
    for make in PLACES:
        round_trip(make, "position")
        round_trip(make, "at_end")


@case
def named_since():
    """Their own names are gone, but they have others beside: they are opened by those."""
    with h.Workdir() as w, h.Target(w, "odd", "named") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
        h.require(os.readlink(f"/proc/{t.pid}/fd/3").endswith("/name"), "not opened by the name it has")
        t.go()


@case
def covered_by_mount():
    """What a mount hides cannot be opened again."""
    with h.Workdir() as w:
        here = w + "/files/here"
        os.makedirs(here)
        populate(here)
        with h.Target(w, "places", "covered") as t:
            h.wait_until(lambda: os.path.exists(w + "/files/opened"), "the target to open its file")
            with mounted(here):
                mount("-t", "tmpfs", "tmpfs", here)
                open(here + "/covered", "w").close()
                t.ready()
                r = h.dump(t.pid, w + "/i")
                h.require(r.rc == 1 and "leads to another file, or to none" in r.out and "mount" in r.out, f"said: {r}")
                h.untouched(t.pid)
            h.must(h.dump(t.pid, w + "/j"), "dump when the mount is gone")
            t.reap()
            h.must(h.ckpt("restore", "-d", "-D", w + "/j"), "restore")
            t.go()


def targets_on(folder, names, **env):
    """The targets' folder, or their programs, on a file system."""
    r = h.run([sys.executable, os.path.join(h.HERE, "run.py"), "--way", "running", "--way", "kill", *names], timeout=200,
              env={**os.environ, **env})
    lines = [l for l in r.out.splitlines() if not l.startswith(("ok", "skip"))]
    h.require(r.rc == 0, f"on {folder}:\n" + "\n".join(lines[:20]))


NAMES = ["files.*", "ghosts.*", "locks.*", "mem.sh*", "mem.cow*", "mem.deleted", "mem.memfd"]


@case
def targets_on_tmpfs():
    with h.Workdir() as w, mounted(w):
        mount("-t", "tmpfs", "tmpfs", w)
        os.chmod(w, 0o777)
        targets_on("tmpfs", NAMES, CKPT_TEST_DIR=w)


@case
def targets_on_overlay():
    with h.Workdir() as w:
        here = w + "/here"
        os.makedirs(here)
        with mounted(here):
            make_overlay(w, here)
            os.chmod(here, 0o777)
            targets_on("overlayfs", NAMES, CKPT_TEST_DIR=here)


@case
def programs_on_overlay():
    """Mapped programs: /proc may show the device and inode of the file below."""
    with h.Workdir() as w:
        here = w + "/here"
        os.makedirs(here)
        with mounted(here), mounted(w + "/top"):
            make_overlay(w, here, "tmpfs")
            names = ("threads", "vdso", "mem", "attrs", "places")
            for name in names:
                shutil.copy(os.path.join(h.TARGETS, name), here)
            targets_on("overlayfs", ["threads.few", "vdso.calls", "mem.cow", "attrs.names"], CKPT_TARGETS=here)


@case
def copied_up_while_mapped():
    """The file of a mapping is the lower one, its name leads to the upper one, which has the same content."""
    with h.Workdir() as w:
        here = w + "/files/here"
        os.makedirs(here)
        with mounted(here):
            make_overlay(w, here)
            with h.Target(w, "places", "files") as t:
                t.ready()
                os.utime(here + "/file")  # copies it up, and changes nothing of what is looked at
                h.must(h.dump(t.pid, w + "/i"), "dump")
                t.reap()
                h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
                t.go()


if __name__ == "__main__":
    if os.geteuid() == 0 and INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv],
                   {**os.environ, INSIDE: "1"})
    h.run_cases(CASES)
