#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Several dumps at once: they are all right, take turns, and the death of one in the middle holds nobody and harms nothing."""
import json
import os
import signal
import subprocess
import sys
import time

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


class Dump:
    """A dump in the background, with --json."""

    def __init__(self, w, name, size, *args):
        self.dir = os.path.join(w, name)
        self.images = os.path.join(self.dir, "images")
        os.makedirs(self.images)
        self.target = h.Target(self.dir, "size", size)
        self.args = args

    def start(self):
        self.proc = subprocess.Popen([h.CKPT, "dump", "-t", str(self.target.pid), "-D", self.images, "--json", *self.args],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def end(self, seconds=60):
        out, _ = self.proc.communicate(timeout=seconds * h.PATIENCE)
        self.at = time.monotonic()
        h.require(self.proc.returncode == 0, f"dump {self.dir}: {self.proc.returncode}: {out}")
        self.json = json.loads(out)
        return self.json

    def writes(self):
        """Some of its memory is in the folder."""
        return any(e.name.startswith("pages-") and e.stat().st_blocks for e in os.scandir(self.images))

    def restore(self):
        self.target.reap()
        h.must(h.ckpt("restore", "-d", "-D", self.images), f"restore {self.dir}")
        self.target.go()

    def close(self):
        if getattr(self, "proc", None) and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        h.kill_hard(self.target.pid)


def several(*dumps):
    for d in dumps:
        d.target.ready(60)
    return dumps


@case
def two_at_once_are_both_right(w):
    for policy in ("least-left", "fair", "none"):
        a, b = several(Dump(w, f"a-{policy}", "200M", "--io-policy", policy), Dump(w, f"b-{policy}", "60M", "--io-policy", policy))
        try:
            a.start()
            b.start()
            a.end()
            b.end()
            for d in (a, b):
                d.restore()
        finally:
            a.close()
            b.close()


@case
def the_small_one_does_not_wait_for_the_large_one(w):
    """With the large one held back by nothing but the order, it is not in the way."""
    large, small = several(Dump(w, "large", "600M"), Dump(w, "small", "8M"))
    try:
        large.start()
        h.wait_until(large.writes, "the large one to write")
        took = small.start().end()
        h.require(large.proc.poll() is None or took["total_us"] < 1000000, "the small one ended after the large one")
        large.end()
        h.require(took["waited_us"] <= 100000, f"the small one waited: {took}")
        small.restore()
        large.restore()
    finally:
        large.close()
        small.close()


@case
def one_is_killed_in_the_middle(w):
    """The one that has least left, and goes first, is killed: nobody waits for it, and its target is let go."""
    killed, other = several(Dump(w, "killed", "500M"), Dump(w, "other", "700M"))
    try:
        killed.start()
        h.wait_until(killed.writes, "the first one to write")
        other.start()
        killed.proc.send_signal(signal.SIGKILL)
        killed.proc.wait()
        done = other.end()
        h.require(done["waited_us"] < 2500000, f"it waited for a dead one: {done}")
        h.wait_until(lambda: h.state(killed.target.pid) in "SR", "the target of the killed dump to run")
        killed.target.go()
        other.restore()
    finally:
        killed.close()
        other.close()


@case
def one_is_stopped_in_the_middle(w):
    stopped, other = several(Dump(w, "stopped", "500M"), Dump(w, "other", "600M"))
    try:
        stopped.start()
        h.wait_until(stopped.writes, "the first one to write")
        stopped.proc.send_signal(signal.SIGSTOP)
        done = other.start().end()
        h.require(done["waited_us"] < 3000000, f"it waited for a stopped one: {done}")
        stopped.proc.send_signal(signal.SIGCONT)
        stopped.end()
        stopped.restore()
        other.restore()
    finally:
        stopped.close()
        other.close()


@case
def a_limit_is_kept(w):
    (d,) = several(Dump(w, "paced", "20M", "--io-max", "20M", "-R"))
    try:
        o = d.start().end()
        h.require(900000 < o["total_us"] < 10000000 and o["waited_us"] > 700000, f"20 MiB at 20 MiB/s: {o}")
        d.target.go()
    finally:
        d.close()


@case
def a_cancelled_one_leaves_no_trace(w):
    """Ctrl-C while a dump waits for its turn, or for its limit: the target runs, the folder is empty."""
    (d,) = several(Dump(w, "paced", "20M", "--io-max", "1M"))
    try:
        d.start()
        h.wait_until(d.writes, "it to write")
        d.proc.send_signal(signal.SIGINT)
        out, _ = d.proc.communicate(timeout=20 * h.PATIENCE)
        h.require(d.proc.returncode == 1 and '"canceled"' in out, f"{d.proc.returncode}: {out}")
        h.require(not os.listdir(d.images), f"left: {os.listdir(d.images)}")
        d.target.go()
    finally:
        d.close()


def main():
    h.become_subreaper()
    try:
        h.need_engine()
        h.own_neighbours()
    except h.Skip as e:
        print(f"skipped: {e}")
        sys.exit(h.SKIP_CODE)
    bad = 0
    for fn in CASES:
        if sys.argv[1:] and fn.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        try:
            with h.Workdir() as w:
                fn(w)
            print(f"ok {fn.__name__} ({time.monotonic() - start:.2f} s)", flush=True)
        except h.Failure as e:
            bad += 1
            print(f"not ok {fn.__name__}: {e}", flush=True)
    sys.exit(bad != 0)


main()
