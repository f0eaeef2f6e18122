#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The engine is ended at moments nobody chose while it checkpoints, or restores, a whole container.

  containers.py [--rounds N] [--seed N] [CASE]...

  kill-dump     kill -9 of the engine at a random moment of dump -R: the container goes on as it was, with the same processes,
                mounts, network and cgroups, nobody traced or frozen
  cancel-dump   SIGINT or SIGTERM instead: the same, and the folder is left empty
  fail-dump     the dump fails at each of its stages: the same
  kill-restore  kill -9 of the engine at a random moment of a restore: no process, mount or lock is left, and the checkpoint
                still restores
  fail-restore  the restore fails at each of its stages: nothing is left, also no cgroup
"""
import glob
import os
import re
import shutil
import signal
import sys
import time

import fault
from fault import h

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "real"))
import lxc  # noqa: E402
import runtimes  # noqa: E402


def stages(out):
    """Names of the stages that an operation went through, of its statistics."""
    rows = (re.match(r"(?:\(\d+\.\d+\) )?(\S.{23}) +\d+\.\d{3}( |$)", line) for line in out.splitlines())
    return [row.group(1).strip() for row in rows if row and row.group(1).strip() != "total"]


class Bed:
    """A container of lxc.py, and the calls of the engine on it."""

    def __init__(self, site):
        self.site = site
        self.c = lxc.Container(site, runtimes.Shell()).start()

    def options(self):
        """Without the scripts: events are somebody else's test."""
        args = iter(self.c.common())
        return [a for a in args if a != "--action-script" or not next(args)]

    def dump(self, *more):
        pre = [x for c in self.c.cgroups[:1] for x in ("--freeze-cgroup", c)]
        return ["dump", *self.options(), *pre, "-t", str(self.c.init), *more]

    def restore(self, *more):
        return ["restore", *self.options(), "--root", self.c.rootfs, "-d", "-o", os.path.join(self.c.dir, "log"), *more]

    def find(self):
        """The init of the restored container: our child in another PID namespace."""
        mine = os.readlink("/proc/self/ns/pid")
        for pid in h.children(os.getpid()):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") != mine and h.state(pid) != "Z":
                    return pid
            except OSError:
                pass
        return None

    def seen(self):
        """What a checkpoint must leave as it was."""
        init, ns = self.c.init, {}
        for name in ("mnt", "net", "ipc", "uts", "pid", "cgroup"):
            ns[name] = os.readlink(f"/proc/{init}/ns/{name}")
        fds = {n: os.readlink(f"/proc/{init}/fd/{n}") for n in sorted(os.listdir(f"/proc/{init}/fd"))}
        return {"namespaces": ns, "threads": os.listdir(f"/proc/{init}/task"), "descriptors": fds, "mounts": h.read_text(f"/proc/{init}/mountinfo"), "cgroups": h.read_text(f"/proc/{init}/cgroup"),
                "links": h.run(["nsenter", "-t", str(init), "-n", "ip", "-o", "link"]).out,
                "rules": h.run(["nsenter", "-t", str(init), "-n", "nft", "list", "ruleset"]).out}


def settled(bed, seen, what):
    h.wait_until(lambda: not [g for g in fault.guardians() if h.alive(g)], f"{what}: the guardian to end", 30)
    init = bed.c.init
    h.wait_until(lambda: h.state(init) in "RS", f"{what}: the container to run", 10)
    h.untouched(init)
    after = bed.seen()
    for key, value in seen.items():
        h.require(after[key] == value, f"{what}: {key} are not what they were: {value} {after[key]}")
    bed.c.app.before(bed.c)
    bed.c.app.check(bed.c)


def disturb_dump(rounds, rnd, signals):
    with h.Workdir() as w, runtimes.Site(w) as site:
        bed = Bed(site)
        images = bed.c.images
        seen = bed.seen()
        took = []
        for _ in range(3):
            took.append(h.must(h.ckpt(*bed.dump("-R")), "a dump that nobody disturbs").seconds)
            shutil.rmtree(images)
            os.mkdir(images)
        span, early = sorted(took)[1] * 1.1, 0
        for i in range(rounds):
            sig, delay = rnd.choice(signals), rnd.uniform(0, span)
            p = fault.start(bed.dump("-R"))
            time.sleep(delay)
            p.send_signal(sig)
            rc = p.wait(20 * h.PATIENCE)
            early += rc != 0
            what = f"round {i}: {sig.name} after {delay * 1000:.2f} ms (engine: {rc})"
            settled(bed, seen, what)
            if sig != signal.SIGKILL and rc != 0:
                h.require(not os.listdir(images), f"{what}: left in the folder: {os.listdir(images)}")
            shutil.rmtree(images)
            os.mkdir(images)
        h.require(early > rounds // 10, f"only {early} of {rounds} rounds met a dump under way")
        print(f"#   {early} of {rounds} dumps were cut short")


def kill_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGKILL])


def cancel_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGINT, signal.SIGTERM])


def fail_dump(rounds, rnd):
    with h.Workdir() as w, runtimes.Site(w) as site:
        bed = Bed(site)
        images = bed.c.images
        seen = bed.seen()
        names = stages(h.must(h.ckpt(*bed.dump("-R", "--display-stats")), "a dump that nobody disturbs").out)
        h.require(len(names) > 20, f"the stages are not told: {names}")
        shutil.rmtree(images)
        os.mkdir(images)
        for name in names:
            if name == "finish":  # the folder is a checkpoint by then
                continue
            r = h.ckpt(*bed.dump("-R", "--fault-stage", name))
            h.require(r.rc == 1, f"stage {name}: {r}")
            settled(bed, seen, f"stage {name}")
            h.require(not os.listdir(images), f"stage {name}: left in the folder: {os.listdir(images)}")


class Gone:
    """The host as it was before anything was restored."""

    def __init__(self, bed):
        self.bed = bed
        self.mounts = h.read_text("/proc/self/mountinfo")
        self.cgroups = self.groups()

    def groups(self):
        found = []
        for pattern in ("/sys/fs/cgroup/*/", "/sys/fs/cgroup/"):
            found += glob.glob(pattern + self.bed.c.id + "*")
        return sorted(found)

    def check(self, what, cgroups):
        h.wait_until(lambda: self.bed.find() is None, f"{what}: its processes to be gone", 10)
        h.require(h.read_text("/proc/self/mountinfo") == self.mounts, f"{what}: mounts were left")
        h.require(not h.network_locks(), f"{what}: still held back: {h.network_locks()}")
        if cgroups:
            h.require(self.groups() == self.cgroups, f"{what}: cgroups were left: {self.groups()}")


def dumped(bed):
    bed.c.app.before(bed.c)
    h.must(h.ckpt(*bed.dump()), "dump")
    h.reap(bed.c.outer.pid)
    runtimes.remove_cgroups(bed.c.id)
    return Gone(bed)


def in_earnest(bed):
    h.must(h.ckpt(*bed.restore()), "the restore in earnest")
    bed.c.init = bed.find()
    h.require(bed.c.init, "there is no container")
    bed.c.app.check(bed.c)


def kill_restore(rounds, rnd):
    with h.Workdir() as w, runtimes.Site(w) as site:
        bed = Bed(site)
        gone = dumped(bed)
        begin = time.monotonic()
        h.must(h.ckpt(*bed.restore()), "restore")
        span, early = (time.monotonic() - begin) * 1.1, 0
        end_it(bed)
        for i in range(rounds):
            delay = rnd.uniform(0, span)
            p = fault.start(bed.restore())
            time.sleep(delay)
            p.kill()
            rc = p.wait(20)
            what = f"round {i}: killed after {delay * 1000:.2f} ms (engine: {rc})"
            time.sleep(0.02)
            pid = bed.find()
            if pid:
                h.untouched(pid)  # it was let go just before
                end_it(bed)
            early += not pid
            gone.check(what, False)
            # folders of cgroups that a killed engine made, and nobody is in, are taken as they are by the next one
            runtimes.remove_cgroups(bed.c.id)
        h.require(early > rounds // 10, f"only {early} of {rounds} rounds met a restore under way")
        print(f"#   {early} of {rounds} restores were cut short")
        in_earnest(bed)


def end_it(bed):
    pid = bed.find()
    if pid:
        h.kill_hard(pid)
        h.reap(pid)
    runtimes.remove_cgroups(bed.c.id)


def fail_restore(rounds, rnd):
    with h.Workdir() as w, runtimes.Site(w) as site:
        bed = Bed(site)
        gone = dumped(bed)
        h.must(h.ckpt(*bed.restore("--display-stats")), "restore")
        names = stages(h.read_text(os.path.join(bed.c.dir, "log")))
        end_it(bed)
        h.require(len(names) > 10, f"the stages are not told: {names}")
        for name in names:
            r = h.ckpt(*bed.restore("--fault-stage", name))
            h.require(r.rc == 1, f"stage {name}: {r}")
            gone.check(f"stage {name}", True)
        in_earnest(bed)


CASES = {"kill-dump": kill_dump, "cancel-dump": cancel_dump, "fail-dump": fail_dump, "kill-restore": kill_restore,
         "fail-restore": fail_restore}

if __name__ == "__main__":
    fault.main(CASES, rounds=60)
