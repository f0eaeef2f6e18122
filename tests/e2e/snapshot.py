#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""dump --leave-running: the program goes on while its memory is written, and does what it likes. The images hold what was there
when it was stopped, and nobody notices the snapshot."""
import os
import subprocess
import time

import harness as h

CASES = []
STILL = "stands still until its memory is written"


def case(fn):
    CASES.append(fn)
    return fn


def no_twin(t):
    h.untouched(t.pid)
    h.require(not h.children(t.pid), f"children are left: {h.children(t.pid)}")


def restored_passes(t, images):
    h.must(h.ckpt("restore", "-d", "-D", images), "restore")
    with open(t.out, "w"):
        pass  # what the original said is not the restored one's word
    t.go()


def goes_on(variant, dumps=3):
    """It never stops changing; some dumps are made, and the last is restored when the original has passed."""
    def run():
        with h.Workdir() as w, h.Target(w, "moving", variant) as t:
            t.ready()
            for i in range(dumps):
                r = h.must(h.dump(t.pid, f"{w}/i{i}", "-R"), "dump -R")
                h.require(STILL not in r.out, f"no snapshot was made: {r}")
                h.untouched(t.pid)
                time.sleep(0.02)
            t.go()
            restored_passes(t, f"{w}/i{dumps - 1}")
    run.__name__ = run.__qualname__ = f"goes_on_{variant}"
    CASES.append(run)


for name in "rewrite", "remap", "alone", "forker":
    goes_on(name)


def act(variant, ends=False):
    """Something is done to the program, or by it, while its snapshot is written."""
    def once(w, i):
        images = f"{w}/i{i}"
        os.mkdir(images)
        with h.Target(w, "moving", variant) as t:
            t.ready()
            p = subprocess.Popen([h.CKPT, "dump", "-R", "-t", str(t.pid), "-D", images], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                h.wait_until(lambda: h.children(t.pid) or p.poll() is not None, "the snapshot", interval=0.0005)
                # the tree is still stopped for a moment
                h.wait_until(lambda: h.state(t.pid) not in "tT" or p.poll() is not None, "the program to go on", interval=0.0005)
                os.kill(t.pid, 12)
                h.wait_until(lambda: h.state(t.pid) == "Z" if ends else "did it" in t.lines(), "what the program does")
                in_time = p.poll() is None
                out = p.communicate(timeout=120)[0]
            finally:
                if p.poll() is None:
                    p.kill()
                    p.wait()
            h.require(p.returncode == 0, f"the dump failed: {out}")
            h.require(STILL not in out, f"no snapshot was made: {out}")
            if ends:
                h.require(t.reap() == 0, "the program did not end as it wanted to")
            else:
                no_twin(t)
                h.kill_hard(t.pid)
            restored_passes(t, images)
            os.remove(t.out)
            return in_time

    def run():
        with h.Workdir() as w:
            h.require(any(once(w, i) for i in range(6)), "the dump was over each time before the program did it")
    run.__name__ = run.__qualname__ = f"while_written_{variant}"
    CASES.append(run)


for name in "exec", "scramble", "unmap", "fork":
    act(name)
act("exit", True)


@case
def snapshot_killed():
    """As when memory runs out: the dump fails, the program is unharmed."""
    with h.Workdir() as w, h.Target(w, "moving", "scramble") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        for i in range(6):
            images = f"{w}/i{i}"
            os.mkdir(images)
            p = subprocess.Popen([h.CKPT, "dump", "-R", "-t", str(t.pid), "-D", images], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            h.wait_until(lambda: h.children(t.pid) or p.poll() is not None, "the snapshot", interval=0.0005)
            h.wait_until(lambda: h.state(t.pid) not in "tT" or p.poll() is not None, "the program to go on", interval=0.0005)
            for child in h.children(t.pid):
                os.kill(child, 9)
            out = p.communicate(timeout=120)[0]
            h.same_process(before, t.pid, "after the dump")
            no_twin(t)
            if p.returncode:
                h.require("snapshot" in out and not os.listdir(images), f"another failure: {out}; left {os.listdir(images)}")
                break
        else:
            raise h.Failure("the dump was over each time before its snapshot was ended")
        t.go()


@case
def not_copied_by_a_fork():
    """More than there is room for elsewhere: it stands still, and that is said."""
    with h.Workdir() as w, h.Target(w, "moving", "apart") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        r = h.must(h.dump(t.pid, w + "/i", "-R"), "dump -R")
        h.require(STILL in r.out and "DONTFORK" in r.out, f"not told: {r}")
        h.same_process(before, t.pid, "after the dump")
        no_twin(t)
        t.go()
        restored_passes(t, w + "/i")


class Cgroup:
    """One of a v1 controller below our own, with one process in it."""

    def __init__(self, controller):
        own = [l.split(":")[2] for l in h.read_text("/proc/self/cgroup").splitlines() if controller in l.split(":")[1].split(",")]
        if not own:
            raise h.Skip(f"no v1 hierarchy of {controller}")
        self.path = f"/sys/fs/cgroup/{controller}{own[0].rstrip('/')}/ckpt-test-{os.getpid()}"

    def __enter__(self):
        try:
            os.mkdir(self.path)
        except OSError as e:
            raise h.Skip(f"no cgroup can be made: {e}") from None
        return self

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as f:
            f.write(str(value))

    def read(self, name):
        return int(h.read_text(f"{self.path}/{name}"))

    def __exit__(self, *exc):
        for _ in range(200):
            try:
                return os.rmdir(self.path)
            except OSError:
                time.sleep(0.01)
        return None


def limited(controller, limit, word):
    with Cgroup(controller) as c, h.Workdir() as w, h.Target(w, "moving", "scramble") as t:
        c.write("tasks", t.pid)
        t.ready()
        before = h.settled_snapshot(t.pid)
        limit(c)
        r = h.must(h.dump(t.pid, w + "/i", "-R"), "dump -R")
        h.require(STILL in r.out and word in r.out, f"not told: {r}")
        h.same_process(before, t.pid, "after the dump")
        no_twin(t)
        t.go()
        restored_passes(t, w + "/i")


@case
def no_room_in_the_memory_cgroup():
    limited("memory", lambda c: c.write("memory.limit_in_bytes", c.read("memory.usage_in_bytes") + (64 << 20)), "memory cgroup")


@case
def no_room_in_the_pids_cgroup():
    limited("pids", lambda c: c.write("pids.max", 1), "cloned")


if __name__ == "__main__":
    h.run_cases(CASES)
