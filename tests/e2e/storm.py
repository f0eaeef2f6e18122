#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Trees that do not keep still: processes fork, exec and exit while the dump begins. Either the dump freezes all of them, or it says
why not and leaves them alone; nobody is lost, as the target counts.

  storm.py [--rounds N] [CASE]..."""
import os
import random
import sys
import time

import harness as h

ROUNDS = 12
if "--rounds" in sys.argv:
    at = sys.argv.index("--rounds")
    ROUNDS = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]


def left_over():
    """Children of ours that no target is: orphans of the tree that a dump forgot to end."""
    return [c for c in h.children(os.getpid()) if h.state(c) not in "ZX"]


def reap_orphans(root):
    """All of the dead tree but the root are ours now."""
    for c in h.children(os.getpid()):
        if c != root and h.state(c) in "ZX":
            h.reap(c)


def storm(*, ends):
    """Dumps at random moments, which end the storm and restore it, or let it go on."""
    rnd, done, refused = random.Random(7), 0, 0
    with h.Workdir() as w, h.Target(w, "crowd", "storm") as t:
        t.ready()
        for i in range(ROUNDS):
            time.sleep(rnd.uniform(0.005, 0.06))
            images = os.path.join(w, f"i{i}")
            r = h.dump(t.pid, images, *([] if ends else ["-R"]))
            what = f"round {i}"
            if r.rc != 0:
                refused += 1
                h.require(r.rc == 1 and str(r).strip(), f"{what}: {r}")
                h.require(not os.listdir(images), f"{what}: left in the folder: {os.listdir(images)}; {r}")
            h.require(not t.verdict(), f"{what}: {t.verdict()}")
            if r.rc == 0 and ends:
                t.reap()
                h.wait_until(lambda: not left_over(), f"{what}: the tree to be gone: {left_over()}", 3)
                reap_orphans(t.pid)
                h.must(h.ckpt("restore", "-d", "-D", images), f"{what}: restore")
            else:
                h.require(h.alive(t.pid), f"{what}: gone")
            done += r.rc == 0
            h.shutil.rmtree(images)
            time.sleep(0.02)
            h.require(not t.verdict() and h.alive(t.pid), f"{what}, afterwards: {t.verdict()} (state {h.state(t.pid)})")
        h.require(done > ROUNDS // 2, f"only {done} of {ROUNDS} dumps froze the storm")
        t.go()
        print(f"#   {done} dumps, {refused} refused")


def ends_and_comes_back():
    storm(ends=True)


def goes_on():
    storm(ends=False)


def itself():
    with h.Workdir() as w, h.Target(w, "crowd", "storm") as t:
        t.ready()
        time.sleep(0.3)
        t.go()


h.run_cases([itself, goes_on, ends_and_comes_back])
