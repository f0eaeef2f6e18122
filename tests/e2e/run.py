#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs self-checking targets through dumps and restores.

  run.py [--way WAY]... [--quick] [--pidns | --box] [TARGET.VARIANT | TARGET | PREFIX*]...     (default: all of tests/targets/targets.list)

Ways:  self            no checkpoint: the target must pass on its own
       kill            dump (the target is killed), restore
       running         dump --leave-running; the original goes on and passes
       running-restore dump --leave-running; the original is then killed, and restored
       twice           dump, restore, dump, restore
       foreground      dump, restore without -d: ckpt ends as the program ends
       server          kill, with the pages sent to a page server that stores them in another folder
       lazy            kill, with a restore that brings the pages while the target runs
       nslast          kill, with PIDs chosen through ns_last_pid
       refuse          the dump is refused, saying why; the target goes on and passes
       check           `ckpt check -t` agrees with the dump, and stops nothing

Around every dump and restore, what /proc shows of the process is compared: areas with their flags, descriptors,
identity, limits, masks, timers, threads. With --pidns the target is the init of a PID namespace of its own,
with --box of a container. Prints ok / not ok / skip lines; exits with 77 when everything was skipped.
"""
import argparse
import fnmatch
import os
import signal
import sys

import harness as h

WAYS = ("self", "check", "kill", "running", "running-restore", "twice")


class Entry:
    def __init__(self, line):
        words = line.split()
        self.name = words[0]
        self.target, _, self.variant = words[0].partition(".")
        self.dump, self.restore, self.ways, self.refuse = [], [], WAYS, None
        self.stop = self.slow = False
        extra = []
        for w in words[1:]:
            key, _, value = w.partition("=")
            if key in ("dump", "restore"):
                setattr(self, key, value.split(","))
            elif key == "ways":
                self.ways = tuple(value.split(","))
            elif key == "refuse":
                self.refuse, self.ways = value, ("self", "check", "refuse")
            elif key in ("stop", "slow"):
                setattr(self, key, True)
            elif w.startswith("+"):
                extra.append(w[1:])
            else:
                sys.exit(f"targets.list: {line}")
        self.ways += tuple(extra)


def load():
    with open(os.path.join(h.SOURCE, "tests", "targets", "targets.list")) as f:
        return [Entry(l) for l in f if l.strip() and not l.startswith("#")]


class Run:
    """One target on one way."""

    def __init__(self, entry, work, pidns=False, box=None):
        self.e, self.work, self.box = entry, work, box
        self.images = os.path.join(work, "images")
        self.pidfile = os.path.join(work, "restored.pid")
        self.in_root = ["--root", "/"] if pidns else []
        self.t = h.Target(work, entry.target, entry.variant, pidns, box)

    def prepare(self):
        self.t.ready()
        if self.e.stop:
            os.kill(self.t.pid, signal.SIGSTOP)
            h.wait_until(lambda: h.state(self.t.pid) == "T", "the target to stop")
        self.before = h.settled_snapshot(self.t.pid)

    def log(self, name):
        return ["-o", os.path.join(self.work, name), "-v4"]

    def explain(self, result, what, log):
        if result.rc != 0:
            tail = "\n".join(h.read_text(os.path.join(self.work, log)).splitlines()[-12:])
            raise h.Failure(f"{what}: {result}\n{tail}")
        return result

    def around(self, what):
        """Options that the container needs."""
        return getattr(self.box, what + "_options")() if self.box else []

    def dump(self, *opts):
        below = h.descendants(self.t.pid)
        r = h.dump(self.t.pid, self.images, *self.log("dump.log"), *self.e.dump, *self.around("dump"), *opts)
        self.explain(r, "dump", "dump.log")
        if "-R" in opts:
            h.require(h.alive(self.t.pid), "the target is gone after dump -R")
            h.same_process(self.before, self.t.pid, "after dump -R")
        else:
            code = self.t.reap()
            h.require(code == -signal.SIGKILL, f"the target ended with {code} after the dump, not by SIGKILL")
            h.gone(below)

    def restore(self, *opts):
        r = h.ckpt("restore", "-D", self.images, "-d", "--pidfile", self.pidfile, *self.in_root, *self.log("restore.log"),
                   *self.e.restore, *self.around("restore"), *opts)
        if r.rc == 0:
            self.t.pid = int(h.read_text(self.pidfile))
        if "--lazy-pages" in opts and r.rc == 0:
            h.lazy_done([self.t.pid, *h.descendants(self.t.pid)])
            r.out += h.read_text(os.path.join(self.images, "lazy-pages.log"))
        self.explain(r, "restore", "restore.log")
        h.require(h.alive(self.t.pid), f"not alive after the restore (state {h.state(self.t.pid)}); {r}\n"
                  + "\n".join(h.read_text(os.path.join(self.work, "restore.log")).splitlines()[-6:]))
        h.same_process(self.before, self.t.pid, "after the restore")

    def finish(self):
        if self.e.stop:
            h.require(h.state(self.t.pid) == "T", f"state {h.state(self.t.pid)}, not stopped any more")
            os.kill(self.t.pid, signal.SIGCONT)
        self.t.go()

    def next_images(self):
        self.images += "2"
        self.pidfile += "2"


def way_self(run):
    run.finish()


def way_kill(run):
    run.dump()
    run.restore()
    run.finish()


def way_running(run):
    run.dump("-R")
    run.finish()


def way_running_restore(run):
    run.dump("-R")
    below = h.descendants(run.t.pid)
    for pid in below:
        os.kill(pid, signal.SIGKILL)
    os.kill(run.t.pid, signal.SIGKILL)
    run.t.reap()
    h.gone(below)
    run.restore()
    run.finish()


def way_twice(run):
    run.dump()
    run.restore()
    run.next_images()
    run.dump()
    run.restore()
    run.finish()


def way_server(run):
    with h.PageServer(os.path.join(run.work, "received")) as server:
        run.dump(*server.client())
        h.must(server.result(), "the page server")
    h.require(not [n for n in os.listdir(run.images) if n.startswith("pages-")], "page images in the dump's own folder")
    server.bring(run.images)
    run.restore()
    run.finish()


def way_lazy(run):
    run.dump()
    run.restore("--lazy-pages")
    run.finish()


def way_lazy_at_once(run, *opts):
    """Checks while the pages are still coming."""
    run.dump()
    r = h.ckpt("restore", "-D", run.images, "-d", "--lazy-pages", *opts, *run.log("restore.log"), *run.e.restore)
    run.explain(r, "restore", "restore.log")
    run.finish()
    h.require(not os.path.exists(run.images + "/lazy-pages.log") or "lost" not in h.read_text(run.images + "/lazy-pages.log")
              or " 0 pages were lost" in h.read_text(run.images + "/lazy-pages.log"), h.read_text(run.images + "/lazy-pages.log"))


def way_lazy_recorded(run):
    """Nothing comes but what is asked for."""
    way_lazy_at_once(run, "--record-faults", "ckpt-faults")


def way_nslast(run):
    run.dump()
    run.restore("--pid-method=ns-last-pid")
    run.finish()


def way_foreground(run):
    import subprocess
    run.dump()
    p = subprocess.Popen([h.CKPT, "restore", "-D", run.images, *run.log("restore.log"), *run.e.restore],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        h.wait_until(lambda: h.alive(run.t.pid) or p.poll() is not None, "the restored program")
        h.require(p.poll() is None, f"ckpt restore ended early with {p.returncode}")
        # it exists from early in the restore on: wait until nobody holds it any more
        h.wait_until(lambda: h.state(run.t.pid) in "SR" and "TracerPid:\t0" in h.read_text(f"/proc/{run.t.pid}/status")
                     and h.read_text(f"/proc/{run.t.pid}/comm") == run.before["comm"], "the program to run")
        h.time.sleep(0.2)
        os.kill(run.t.pid, signal.SIGUSR1)
        h.wait_until(run.t.verdict, "the verdict")
        h.require(run.t.verdict() == "PASS", run.t.verdict())
        code = p.wait(10)
        h.require(code == 0, f"ckpt restore ended with {code}, the program with 0")
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


def way_refuse(run):
    os.makedirs(run.images)
    r = h.dump(run.t.pid, run.images, *run.e.dump)
    h.require(r.rc == 1, f"the dump was not refused: {r}")
    h.require(str(run.t.pid) in r.out, f"the message does not name process {run.t.pid}: {r}")
    h.require(run.e.refuse.lower() in r.out.lower(), f"the message does not say '{run.e.refuse}': {r}")
    left = os.listdir(run.images)
    h.require(not left, f"left in the folder: {left}")
    h.untouched(run.t.pid)
    h.same_process(run.before, run.t.pid, "after the refused dump")
    run.finish()


def way_check(run):
    r = h.ckpt("check", "-t", run.t.pid, *run.e.dump)
    if run.e.refuse is None:
        h.require(r.rc == 0, f"check found something in the way: {r}")
    else:
        h.require(r.rc == 1, f"check found nothing in the way: {r}")
        h.require(run.e.refuse.lower() in r.out.lower(), f"check does not say '{run.e.refuse}': {r}")
    h.same_process(run.before, run.t.pid, "after check")
    run.finish()


FUNCTIONS = {"self": way_self, "check": way_check, "kill": way_kill, "running": way_running,
             "running-restore": way_running_restore, "twice": way_twice, "server": way_server, "nslast": way_nslast,
             "lazy": way_lazy, "lazy-at-once": way_lazy_at_once, "lazy-recorded": way_lazy_recorded,
             "foreground": way_foreground, "refuse": way_refuse}


def one(entry, way, pidns, boxed=False):
    if way != "self":
        h.need_engine()
    with h.Workdir() as work:
        box = h.Box(work) if boxed else None
        try:
            run = Run(entry, work, pidns, box)
            with run.t:
                run.prepare()
                FUNCTIONS[way](run)
        finally:
            if box:
                box.close()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--way", action="append", choices=sorted(FUNCTIONS))
    ap.add_argument("--quick", action="store_true", help="leave out what is slow, and run only the way kill")
    ap.add_argument("--pidns", action="store_true", help="the targets are inits of PID namespaces of their own")
    ap.add_argument("--box", action="store_true", help="the targets are in containers: PID and mount namespaces, an overlay as root")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("names", nargs="*")
    args = ap.parse_args()
    h.become_subreaper()
    entries = load()
    if args.names:
        entries = [e for e in entries if any(fnmatch.fnmatchcase(e.name, n) or e.target == n for n in args.names)]
        if not entries:
            sys.exit(f"no such target: {args.names}")
    if args.list:
        print("\n".join(e.name for e in entries))
        return
    report = h.Report()
    for e in entries:
        if args.quick and e.slow:
            continue
        if args.way:  # asked for: run it, unless the target is one that is refused
            ways = [w for w in args.way if w in e.ways or (e.refuse is None and w != "refuse")]
        else:
            ways = [w for w in e.ways if not args.quick or w in ("kill", "refuse")]
        if args.pidns or args.box:
            ways = [w for w in ways if w != "nslast"]  # it decides the numbers of our namespace only
        for way in ways:
            report.case(f"{e.name} {way}", one, e, way, args.pidns, args.box)
    report.finish()


if __name__ == "__main__":
    main()
