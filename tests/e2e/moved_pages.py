#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pages that are written from where they are, by a helper in the task's memory: the same images as by copying, nothing of the
helper stays, and what a fork shares stays shared."""
import os
import re
import signal

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def dump_stopped(t, images, *opts):
    """Leaves it stopped; returns how many MiB were moved, 0 if none."""
    r = h.must(h.dump(t.pid, images, "-s", "-v4", *opts), "dump")
    h.require("had to be copied" not in r.out, f"moving failed: {r}")
    return sum(int(n) for n in re.findall(r"(\d+) of \d+ MiB are written from where they are", r.out))


@case
def same_images():
    with h.Workdir() as w, h.Target(w, "size", "80M") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        moved, copied = os.path.join(w, "moved"), os.path.join(w, "copied")
        n = dump_stopped(t, moved)
        h.require(n >= 78, f"{n} MiB were moved")
        n = dump_stopped(t, copied, "--copy-pages")
        h.require(n == 0, f"{n} MiB were moved though all was to be copied")
        with open(os.path.join(moved, "pages-1.img"), "rb") as a, open(os.path.join(copied, "pages-1.img"), "rb") as b:
            for at in range(80):  # what follows is stack and rseq areas, which a dump touches
                h.require(a.read(1 << 20) == b.read(1 << 20), f"MiB {at} of pages-1.img differs")
        h.must(h.ckpt("verify", moved), "verify")
        os.kill(t.pid, signal.SIGCONT)
        h.same_process(before, t.pid, "after both")
        os.kill(t.pid, signal.SIGKILL)
        t.reap()
        h.must(h.ckpt("restore", "-d", "-D", moved), "restore")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def a_fork_shares():
    """Of 24 MiB that five processes share nothing is moved; 40 MiB of one are. The target looks at the memory of all."""
    with h.Workdir() as w, h.Target(w, "tree", "cowlarge") as t:
        t.ready()
        n = dump_stopped(t, os.path.join(w, "images"))
        h.require(38 <= n <= 44, f"{n} MiB were moved")
        for pid in [t.pid, *h.descendants(t.pid)]:
            os.kill(pid, signal.SIGCONT)
        t.go()


@case
def small_ones_are_copied():
    with h.Workdir() as w, h.Target(w, "size", "20M") as t:
        t.ready()
        h.require(dump_stopped(t, os.path.join(w, "images")) == 0, "20 MiB were moved")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def limits_of_the_task():
    """Its limit on the size of files holds for the helper as well: then the pages are copied, and it is said."""
    with h.Workdir() as w, h.Target(w, "size", "64M") as t:
        t.ready()
        h.must(h.run(["prlimit", "--pid", str(t.pid), "--fsize=33554432:"]), "prlimit")
        images = os.path.join(w, "images")
        r = h.must(h.dump(t.pid, images, "-s"), "dump")
        h.require("had to be copied" in r.out, f"nothing was said: {r}")
        h.must(h.ckpt("verify", images), "verify")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def limits_of_its_cgroup():
    """Writes of the helper count as the task's: where those are limited nothing is moved, and the dump is not slower for it."""
    group = f"/sys/fs/cgroup/blkio/ckpt-test-{os.getpid()}"
    try:
        os.mkdir(group)
    except OSError as e:
        raise h.Skip(f"no cgroup v1 for block devices: {e.strerror}") from None
    try:
        with h.Workdir() as w, h.Target(w, "size", "64M") as t:
            t.ready()
            dev = os.stat(w).st_dev
            with open(f"{group}/blkio.throttle.write_bps_device", "w") as f:
                f.write(f"{os.major(dev)}:{os.minor(dev)} 1048576")
            with open(f"{group}/cgroup.procs", "w") as f:
                f.write(str(t.pid))
            h.require(dump_stopped(t, os.path.join(w, "images")) == 0, "pages were moved")
            os.kill(t.pid, signal.SIGCONT)
            t.go()
    except OSError as e:
        raise h.Skip(f"no limit can be set here: {e}") from None
    finally:
        h.wait_until(lambda: not h.read_text(f"{group}/cgroup.procs"), "the cgroup to be empty", 5)
        os.rmdir(group)


h.run_cases(CASES)
