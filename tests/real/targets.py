#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Programs of ours that are big in one way:  targets.py threads1000 | 2gib | restarts | hundred"""
import os
import sys

import real
from real import h


def cycle(t, work, n=0):
    images = os.path.join(work, f"images{n % 2}")
    d = h.must(h.dump(t.pid, images), f"dump {n}")
    t.reap()
    r = h.must(h.ckpt("restore", "-d", "-D", images), f"restore {n}")
    h.shutil.rmtree(images)
    return d.seconds, r.seconds


def threads1000(work):
    with h.Target(work, "threads", "thousand") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        d, r = cycle(t, work)
        h.same_process(before, t.pid, "after the restore")
        t.go()
        return f"1,001 threads, dump {d:.2f} s, restore {r:.2f} s"


def two_gib(work):
    free = os.statvfs(work)
    mem = int(h.re.search(r"MemAvailable:\s+(\d+)", h.read_text("/proc/meminfo"))[1]) >> 10
    if free.f_bavail * free.f_frsize < 3 << 30 or mem < 3500:
        raise h.Skip(f"needs 3 GiB of disk and 3.5 GiB of memory ({mem} MiB are there)")
    with h.Target(work, "size", "2G") as t:
        t.ready(60)
        before = h.settled_snapshot(t.pid)
        d, r = cycle(t, work)
        h.same_process(before, t.pid, "after the restore")
        t.go()
        return f"2 GiB, dump {d:.2f} s, restore {r:.2f} s"


def restarts(work):
    with h.Target(work, "restart", "all") as t:
        t.ready()
        for i in range(3):
            cycle(t, work, i)
            h.must(h.dump(t.pid, os.path.join(work, f"running{i}"), "-R"), "dump -R")
        t.go()
        return "16 calls, 3 restores, 3 more dumps"


def hundred(work):
    with h.Target(work, "size", "1M,3,w") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        took = [cycle(t, work, i) for i in range(100)]
        h.same_process(before, t.pid, "after 100 restores")
        t.go()
        d, r = (sorted(x)[50] * 1000 for x in zip(*took))
        return f"100 dumps and restores, median {d:.1f} and {r:.1f} ms"


TESTS = {"threads1000": threads1000, "2gib": two_gib, "restarts": restarts, "hundred": hundred}
real.main(TESTS[sys.argv[1]])
