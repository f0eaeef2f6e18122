#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Namespaces that are there already (--join-ns), and clocks: a tree lives in a namespace of somebody else after its restore, or
in a time namespace of its own, in which its clocks go on."""
import functools
import os
import re
import subprocess
import time

import harness as h

CASES = []
KINDS = ("uts", "net", "ipc", "time", "mnt")


def case(fn):
    @functools.wraps(fn)
    def in_folder():
        with h.Workdir() as work:
            fn(work)
    CASES.append(in_folder)
    return fn


class Neighbour:
    """A process in namespaces of its own."""

    def __enter__(self):
        self.proc = subprocess.Popen(["unshare", "-unimT", "--monotonic", "50000", "sleep", "1000"], start_new_session=True)
        self.pid = self.proc.pid
        h.wait_until(lambda: h.read_text(f"/proc/{self.pid}/comm") == "sleep\n", "the neighbour")
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()


def space(pid, kind):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def dumped(t, work):
    t.ready()
    images = os.path.join(work, "images")
    h.must(h.dump(t.pid, images), "dump")
    h.gone([t.pid])
    return images


@case
def join(work):
    """By number and by file, one and all; a checkpoint of a tree that has such a namespace itself joins, too."""
    ours = {k: space("self", k) for k in KINDS}
    with Neighbour() as n:
        for kinds in (("uts",), ("net",), ("ipc",), ("time",), ("mnt",), ("uts", "net", "ipc", "time")):
            with h.Workdir() as folder, h.Target(folder, "size", "1M") as t:
                images = dumped(t, folder)
                args = [a for k in kinds for a in ("--join-ns", f"{k}:{n.pid}" if k == kinds[0] else f"{k}:/proc/{n.pid}/ns/{k}")]
                h.must(h.ckpt("restore", "-d", "-D", images, *args), "restore")
                for k in KINDS[:4]:
                    h.require(space(t.pid, k) == (space(n.pid, k) if k in kinds else ours[k]), f"{kinds}: {k} is {space(t.pid, k)}")
                if len(kinds) > 1:
                    again = os.path.join(folder, "again")
                    h.must(h.dump(t.pid, again), "dump")
                    h.gone([t.pid])
                    h.must(h.ckpt("restore", "-d", "-D", again, "--join-ns", f"uts:{n.pid}", "--join-ns", f"net:{n.pid}"), "restore")
                    h.require(space(t.pid, "uts") == space(n.pid, "uts"), "uts")
                    h.require(space(t.pid, "ipc") not in (space(n.pid, "ipc"), ours["ipc"]), "ipc is its own")
                t.go()


@case
def refused(work):
    """Nothing is made, and what is wrong is said."""
    with Neighbour() as n, h.Target(work, "size", "1M") as t:
        images = dumped(t, work)
        for args, why in (([f"pid:{n.pid}"], "PID namespace cannot be joined"), (["foo:1"], "namespaces to join are"), (["uts:"], "NS:PID or NS:FILE"),
                          ([f"uts:/proc/{n.pid}/ns/net"], "no UTS namespace"), (["uts:/dev/null"], "no UTS namespace"), (["uts:999999999"], "open"),
                          (["net:1,2"], "only a user namespace"), (["user:1,70000"], "up to 65535"), (["user:1,-1"], "up to 65535"),
                          (["user:1,2,3,4"], "up to 65535"), ([f"user:{n.pid}"], "not supported")):
            r = h.ckpt("restore", "-d", "-D", images, *[a for x in args for a in ("--join-ns", x)])
            h.require(r.rc != 0 and why in r.out, f"{args}: {r}")
        r = h.ckpt("restore", "-d", "-D", images, "--join-ns", f"net:{n.pid}", "--empty-ns", "net")
        h.require(r.rc != 0 and "contradicts" in r.out, str(r))
        h.must(h.ckpt("restore", "-d", "-D", images), "restore")
        t.go()


class Clocked(h.Target):
    """A target in a time namespace of its own."""

    def __init__(self, work, name, variant, monotonic, boottime):
        self.work, self.out, self.files = work, os.path.join(work, "out"), work
        self.proc = subprocess.Popen(["unshare", "-T", "--monotonic", str(monotonic), "--boottime", str(boottime),
                                      os.path.join(h.TARGETS, name), self.out, variant], cwd=work, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.proc.pid


def offsets(pid):
    return {m[1]: int(m[2]) + int(m[3]) / 1e9
            for m in re.finditer(r"^(\w+)\s+(-?\d+)\s+(\d+)$", h.read_text(f"/proc/{pid}/timens_offsets"), re.M)}


@case
def clocks(work):
    """They go on from where they were, ahead of the machine's and behind them; timers at their points."""
    for variant, mono, boot in (("timers.absolute", 100000, 7), ("timers.posix", -5, 90000), ("events.timerabs", 30000, 0)):
        name, variant = variant.split(".")
        with h.Workdir() as folder, Clocked(folder, name, variant, mono, boot) as t:
            t.ready()
            start, images = time.monotonic(), os.path.join(folder, "images")
            h.must(h.dump(t.pid, images), "dump")
            h.gone([t.pid])
            h.require(any(re.fullmatch(r"timens-[1-9]\d*\.img", f) for f in os.listdir(images)), f"{os.listdir(images)}")
            time.sleep(0.3)
            h.must(h.ckpt("restore", "-d", "-D", images), "restore")
            away, now = time.monotonic() - start, offsets(t.pid)
            h.require(mono - away - 0.1 <= now["monotonic"] <= mono - 0.3 and boot - away - 0.1 <= now["boottime"] <= boot - 0.3,
                      f"offsets were {mono} and {boot}, {away:.2f} s ago: {now}")
            t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
