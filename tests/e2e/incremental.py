#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Dumps that build upon each other: pre-dumps, --track-mem, chains of parents, what is done when tracking was lost, and the
freeing of what was superseded. The target (tests/targets/dirty.c) changes its memory in steps and checks every page."""
import glob
import os
import re
import shutil
import signal
import subprocess
import time

import harness as h

h.FORGET_VMFLAGS.add("uw")  # how writes are tracked, as long as they are
CASES = []
PARENT, PRESENT = 1, 4


def case(fn):
    CASES.append(fn)
    return fn


class Chain:
    """A target, and folders 1, 2, 3... of dumps of it."""

    def __init__(self, variant="storm", name="dirty"):
        self.name, self.variant = name, variant

    def __enter__(self):
        self.dir = h.Workdir()
        self.work = self.dir.__enter__()
        self.t = h.Target(self.work, self.name, self.variant).ready()
        self.pid, self.n, self.pids = self.t.pid, 0, []
        return self

    def __exit__(self, kind, value, tb):
        pids = h.descendants(self.pid)
        self.t.kill()
        for pid in pids:
            h.kill_hard(pid)
        self.dir.__exit__(kind, value, tb)

    def folder(self, n):
        return os.path.join(self.work, str(n))

    def run(self, command, *args, prev=None, **kw):
        """Into the folder self.n + 1; counts it if that went well."""
        images = self.folder(self.n + 1)
        os.makedirs(images, exist_ok=True)
        prev = self.n if prev is None else prev
        more = ["--prev-images-dir", f"../{prev}"] if prev else []
        self.pids = h.descendants(self.pid)
        r = h.ckpt(command, "-t", self.pid, "-D", images, *more, *args, **kw)
        if r.rc == 0:
            self.n += 1
        return r

    def pre(self, *args, **kw):
        r = h.must(self.run("pre-dump", *args, **kw), "pre-dump")
        h.untouched(self.pid)
        return r

    def dump(self, *args, **kw):
        return h.must(self.run("dump", *args, **kw), "dump")

    def steps(self):
        return sum(line.startswith("step") for line in self.t.lines())

    def step(self, n=1):
        for _ in range(n):
            before = self.steps()
            os.kill(self.pid, signal.SIGUSR2)
            h.wait_until(lambda: self.steps() > before or self.t.verdict(), "a step")
            h.require(not self.t.verdict(), self.t.verdict())

    def restore(self, *args, n=None):
        h.reap(self.pid)
        self.t.proc.returncode = 0
        h.gone(self.pids)
        return h.must(h.ckpt("restore", "-d", "-D", self.folder(n or self.n), *args), "restore")

    def finish(self, *args):
        """Restores the last folder; everything in memory must be right, and stay so."""
        self.restore(*args)
        if self.variant in ("storm", "fork", "few", "exec"):
            self.step()
        self.t.go()


def entries(folder, pid):
    """[(address, pages, flags)] of a pagemap, without a decoder: varints of a protobuf."""
    def varint(b, i):
        n = shift = 0
        while True:
            n |= (b[i] & 127) << shift
            i += 1
            if not b[i - 1] & 128:
                return n, i
            shift += 7
    with open(os.path.join(folder, f"pagemap-{pid}.img"), "rb") as f:
        data = f.read()
    at, found, first = 8, [], True
    while at < len(data):
        size = int.from_bytes(data[at:at + 4], "little")
        msg, at = data[at + 4:at + 4 + size], at + 4 + size
        if first:
            first = False
            continue
        i, fields = 0, {}
        while i < len(msg):
            key, i = varint(msg, i)
            fields[key >> 3], i = varint(msg, i)
        found.append((fields[1], fields[5], fields[4]))
    return found


def pages(folder, pid, flag):
    return sum(n for _, n, flags in entries(folder, pid) if flags & flag)


def tracker_of(pid):
    """The process that tracks the memory of @pid, or None: by the name of its socket."""
    m = re.search(rf"^\S+: \S+ \S+ \S+ \S+ \S+ +(\d+) @ckpt-tracker/\d+/{pid}/", h.read_text("/proc/net/unix"), re.M)
    for comm in glob.glob("/proc/[0-9]*/comm") if m else []:
        if h.read_text(comm).strip() != "ckpt-tracker":
            continue
        for fd in glob.glob(os.path.join(os.path.dirname(comm), "fd", "*")):
            try:
                if os.readlink(fd) == f"socket:[{m[1]}]":
                    return int(comm.split("/")[2])
            except OSError:
                pass
    return None


def said_full(r):
    h.require("full one" in r.out, f"it does not say that it is a full dump: {r}")


@case
def chain_of_pre_dumps():
    with Chain() as c:
        before = h.settled_snapshot(c.pid)
        c.pre()
        h.same_process(before, c.pid, "after the first pre-dump")
        h.require(tracker_of(c.pid), "nobody tracks the memory")
        for _ in range(4):
            c.step()
            r = c.pre()
            h.require("full" not in r.out, str(r))
            h.require(pages(c.folder(c.n), c.pid, PARENT), "nothing is left to the parent")
        names = set(os.listdir(c.folder(1)))
        strange = [n for n in names if not re.match(r"inventory.img|pagemap-\d+.img|pages-\d+.img|stats-dump|ckpt-", n)]
        h.require(not strange, f"a pre-dump has {strange}")
        c.step()
        c.dump()
        h.require(not tracker_of(c.pid), "the tracker outlives its program")
        c.finish()


@case
def few_pages_are_written():
    with Chain("few") as c:
        c.pre()
        full = os.path.getsize(os.path.join(c.folder(1), "pages-1.img"))
        c.step()
        c.pre()
        second = os.path.getsize(os.path.join(c.folder(2), "pages-1.img"))
        h.require(25 * 4096 <= second < full / 20, f"{second} bytes of {full} were stored again")
        c.step(3)
        c.dump("-R", "--track-mem")
        c.step(2)
        c.dump()
        c.finish()


@case
def track_mem_dumps():
    """Each of the chain is a checkpoint that can be restored."""
    for last in (2, 3):
        with Chain() as c:
            c.dump("-R", "--track-mem")
            c.step()
            c.dump("-R", "--track-mem")
            if last == 3:
                c.step()
                c.dump("-R", "--track-mem")
            # as it was at that moment: what it does afterwards is to be undone
            os.kill(c.pid, signal.SIGKILL)
            c.finish()


@case
def long_chain():
    with Chain() as c:
        for _ in range(25):
            c.pre()
            c.step()
        c.dump()
        c.finish()


@case
def chain_with_children():
    with Chain("fork") as c:
        for _ in range(5):
            c.pre()
            c.step()
        c.pre()
        h.require(h.children(c.pid), "no child")
        c.step()
        c.dump()
        c.finish()


@case
def program_that_executes_another():
    with Chain("exec") as c:
        c.pre()
        c.step()
        r = c.pre()
        h.require("executed another program" in r.out, str(r))
        h.require(not pages(c.folder(2), c.pid, PARENT), "pages of the earlier program")
        c.pre()
        h.require(pages(c.folder(3), c.pid, PARENT), "not tracked again")
        c.step()
        c.dump()
        c.finish()


@case
def program_that_does_not_wait():
    """It unmaps, moves and drops what is just being read."""
    with Chain("busy") as c:
        for _ in range(8):
            c.pre()
        c.dump("-R", "--track-mem")
        time.sleep(0.05)
        c.dump()
        c.finish()
    with Chain("20M,4,w", "size") as c:
        for _ in range(4):
            c.pre()
        c.dump()
        c.finish()


@case
def stored_again_every_time():
    """Restored, and dumped again: another process under the same number."""
    with Chain() as c:
        for _ in range(3):
            c.pre()
            c.step()
            c.dump()
            c.restore()
            r = c.pre()
            said_full(r)
            h.require(not pages(c.folder(c.n), c.pid, PARENT), "pages of an earlier life")
            c.step()
        c.dump()
        c.finish()


@case
def tracker_killed():
    with Chain() as c:
        c.pre()
        c.step()
        os.kill(tracker_of(c.pid), signal.SIGKILL)
        h.wait_until(lambda: not tracker_of(c.pid), "the end of the tracker")
        said_full(c.pre())
        h.require(not pages(c.folder(2), c.pid, PARENT), "clean, says who?")
        c.step()
        os.kill(tracker_of(c.pid), signal.SIGKILL)
        said_full(c.dump())
        c.finish()


@case
def another_parent():
    """A dump that names another parent than the one that memory was tracked since."""
    with Chain() as c:
        c.pre()
        c.step()
        c.pre(prev=0)
        c.step()
        r = c.dump(prev=1)
        h.require("another dump" in r.out, str(r))
        said_full(r)
        c.finish()


@case
def dump_without_parent_ends_tracking():
    with Chain() as c:
        c.pre()
        before = h.settled_snapshot(c.pid)
        c.dump("-R", prev=0)
        h.same_process(before, c.pid, "after the dump")
        h.require(not tracker_of(c.pid), "tracked still")
        h.require(" uw" not in h.read_text(f"/proc/{c.pid}/smaps"), "areas are write protected still")
        c.step()
        said_full(c.pre())
        c.step()
        c.dump()
        c.finish()


@case
def check_of_a_tracked_process():
    with Chain() as c:
        c.pre()
        r = h.ckpt("check", "-t", c.pid)
        h.require(r.rc == 0 and tracker_of(c.pid), str(r))
        c.step()
        h.require("full" not in c.dump().out, "the check ended the tracking")
        c.finish()


def breaks(c, what, *words):
    """The last folder cannot be restored after @what, and says so; nothing is left."""
    what()
    r = h.ckpt("restore", "-d", "-D", c.folder(c.n))
    h.require(r.rc == 1, f"restored nevertheless: {r}")
    for w in words:
        h.require(w in r.out, f"the message lacks {w!r}: {r}")
    h.require(not os.path.exists(f"/proc/{c.pid}"), "a process is left")


@case
def broken_chains():
    with Chain() as c:
        other = c.folder("other")
        c.pre()
        c.step()
        c.pre()
        c.step()
        c.dump()
        h.reap(c.pid)
        c.t.proc.returncode = 0
        one, two, three = map(c.folder, (1, 2, 3))

        def relink(folder, to):
            os.unlink(os.path.join(folder, "parent"))
            if to:
                os.symlink(to, os.path.join(folder, "parent"))
        breaks(c, lambda: relink(three, None), "in the parent")
        os.symlink("../2", os.path.join(three, "parent"))
        breaks(c, lambda: relink(three, "../nowhere"), "parent number 1")
        breaks(c, lambda: relink(three, "../1"), "another set of images")
        breaks(c, lambda: relink(three, "../3"), "leads back")
        relink(three, "../2")
        breaks(c, lambda: relink(two, "../3"), "leads back")
        relink(two, "../1")
        shutil.copytree(one, other)
        breaks(c, lambda: os.unlink(os.path.join(one, "inventory.img")), "parent number 2", "inventory")
        shutil.copy(os.path.join(other, "inventory.img"), one)
        breaks(c, lambda: os.rename(os.path.join(one, f"pagemap-{c.pid}.img"), os.path.join(one, "away")), "parent")
        os.rename(os.path.join(one, "away"), os.path.join(one, f"pagemap-{c.pid}.img"))
        breaks(c, lambda: os.truncate(os.path.join(one, "pages-1.img"), 8192), "pages-1.img")
        shutil.copy(os.path.join(other, "pages-1.img"), one)
        # a pagemap of fewer pages
        with open(os.path.join(one, f"pagemap-{c.pid}.img"), "rb") as f:
            data = f.read()
        breaks(c, lambda: os.truncate(os.path.join(one, f"pagemap-{c.pid}.img"), first_entries(data)), "is damaged")
        breaks(c, lambda: os.unlink(os.path.join(one, "ckpt-sums")), "lacks some")
        shutil.copy(os.path.join(other, "ckpt-sums"), one)
        shutil.copy(os.path.join(other, f"pagemap-{c.pid}.img"), one)
        # a copy of the parent elsewhere is as good
        relink(two, "../other")
        c.finish()


def first_entries(data):
    """Where the second message of an image ends."""
    at = 8
    for _ in range(2):
        at += 4 + int.from_bytes(data[at:at + 4], "little")
    return at


@case
def bad_parent_of_a_dump():
    with Chain() as c:
        before = h.settled_snapshot(c.pid)
        for prev, words in (("nowhere", "parent"), (1, "itself")):
            r = c.run("pre-dump", prev=prev)
            h.require(r.rc == 1 and words in r.out, str(r))
        os.makedirs(c.folder("empty"))
        r = c.run("dump", prev="empty")
        h.require(r.rc == 1 and "inventory" in r.out, str(r))
        h.require(os.listdir(c.folder(1)) == [], "something is left")
        h.same_process(before, c.pid, "after the refusals")
        c.pre()
        c.step()
        # damaged: what it does not have cannot be left to it
        with open(os.path.join(c.folder(1), f"pagemap-{c.pid}.img"), "r+b") as f:
            f.seek(30)
            f.write(b"\xff" * 20)
        c.dump()
        h.require(not pages(c.folder(2), c.pid, PARENT), "left to a damaged parent")
        c.finish()


@case
def pre_dump_is_no_checkpoint():
    with Chain() as c:
        c.pre()
        r = h.ckpt("restore", "-d", "-D", c.folder(1))
        h.require(r.rc == 1 and "pre-dump" in r.out, str(r))
        r = h.ckpt("pre-dump", "-t", c.pid, "-D", c.folder(1))
        h.require(r.rc == 1 and "already" in r.out, str(r))
        c.step()
        c.dump()
        c.finish()


STAGES = ["guardian", "check", "prepare", "open images", "parent", "freeze", "tracking", "page tables", "resume", "check space",
          "write pages", "write images", "commit"]
CHANGES = STAGES.index("resume")  # from here on the kernel's notes are others


@case
def pre_dump_fails_at_each_stage():
    for at, stage in enumerate(STAGES):
        with Chain() as c:
            c.pre()
            c.step()
            before = h.settled_snapshot(c.pid)
            r = c.run("pre-dump", "--fault-stage", stage)
            h.require(r.rc == 1 and stage in r.out, str(r))
            h.require(os.listdir(c.folder(2)) == [], f"something is left: {os.listdir(c.folder(2))}")
            h.untouched(c.pid)
            h.same_process(before, c.pid, f"after a failure at {stage}")
            c.step()
            r = c.pre()
            if at >= CHANGES:
                said_full(r)
            else:
                h.require("full" not in r.out and pages(c.folder(2), c.pid, PARENT), f"{stage}: tracking was lost for nothing: {r}")
            c.step()
            c.dump()
            c.finish()


@case
def dump_fails_and_is_made_again():
    for stage in ("tracking", "memory areas", "files", "page tables", "write pages", "write images", "commit", "finish"):
        with Chain() as c:
            c.pre()
            c.step()
            r = c.run("dump", "--fault-stage", stage)
            h.require(r.rc == 1 and stage in r.out, str(r))
            h.untouched(c.pid)
            h.require(os.listdir(c.folder(2)) == [], f"something is left: {os.listdir(c.folder(2))}")
            c.step()
            c.dump()
            c.finish()
    with Chain() as c:
        c.pre()
        for stage in ("write pages", "commit"):
            c.step()
            r = c.run("dump", "-R", "--track-mem", "--fault-stage", stage)
            h.require(r.rc == 1, str(r))
            c.step()
            said_full(c.dump("-R", "--track-mem"))
        c.step()
        h.require("full" not in c.dump().out, "not tracked")
        c.finish()


@case
def disk_full():
    with Chain() as c:
        small = c.folder("small")
        os.mkdir(small)
        h.must(h.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small]), "mount")
        try:
            c.pre()
            c.step()
            before = h.settled_snapshot(c.pid)
            r = h.ckpt("pre-dump", "-t", c.pid, "-D", small)
            h.require(r.rc == 1 and ("free" in r.out or "space" in r.out), str(r))
            h.require(os.listdir(small) == [], "something is left")
            h.same_process(before, c.pid, "after a full disk")
            c.step()
            said_full(c.pre())
            c.step()
            c.dump()
            c.finish()
        finally:
            h.must(h.run(["umount", small]), "umount")


@case
def engine_killed():
    """At any moment: the next one tells no lies."""
    with Chain() as c:
        c.pre()
        for i in range(30):
            c.step()
            images = c.folder(c.n + 1)
            os.makedirs(images, exist_ok=True)
            p = subprocess.Popen([h.CKPT, "pre-dump" if i % 3 else "dump", "-t", str(c.pid), "-D", images, "--prev-images-dir", f"../{c.n}",
                                  *([] if i % 3 else ["-R", "--track-mem"])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.002 * (i % 15))
            p.kill()
            p.wait()
            # what the engine left, the guardian puts back: a moment later
            h.wait_until(lambda: h.state(c.pid) == "S" and
                         re.search(r"^TracerPid:\s*0$", h.read_text(f"/proc/{c.pid}/status"), re.M), "the program to be let go")
            if os.path.exists(os.path.join(images, "inventory.img")):
                c.n += 1  # it had become what it should
            c.step()
            c.pre()
        c.dump()
        c.finish()


def space(c, n):
    return sum(e.stat().st_blocks * 512 for e in os.scandir(c.folder(n)) if e.name.startswith("pages-"))


@case
def superseded_pages_are_freed():
    with Chain() as c:
        c.pre()
        for _ in range(3):
            c.step(2)
            before = space(c, c.n)
            c.pre("--auto-dedup")
            h.require(space(c, c.n - 1) < before, "nothing was freed")
        c.step()
        c.dump("--auto-dedup")
        c.finish()
    with Chain() as c:
        for _ in range(3):
            c.pre()
            c.step(2)
        c.dump()
        before = sum(space(c, n) for n in (1, 2, 3))
        h.must(h.ckpt("dedup", "-D", c.folder(c.n)), "dedup")
        h.require(sum(space(c, n) for n in (1, 2, 3)) < before, "nothing was freed")
        h.must(h.ckpt("dedup", "-D", c.folder(c.n)), "dedup again")
        c.finish("--auto-dedup")
        h.require(not space(c, c.n), f"{space(c, c.n)} bytes are left of what was restored")


@case
def failed_dump_frees_nothing():
    with Chain() as c:
        c.pre()
        c.step()
        before = space(c, 1)
        r = c.run("dump", "--auto-dedup", "--fault-stage", "commit")
        h.require(r.rc == 1 and space(c, 1) == before, str(r))
        c.dump("--auto-dedup")
        c.finish()


@case
def chain_in_other_forms():
    """Compressed sets in a chain, alone and with others; a restore that fetches pages when they are used."""
    for forms in (["--compress"] * 3, [None, "--compress", None]):
        with Chain() as c:
            for form in forms:
                c.pre(*[form] if form else [])
                c.step()
            c.dump()
            r = h.ckpt("inspect", c.folder(c.n))
            h.require(r.rc == 0, str(r))
            h.must(h.ckpt("verify", c.folder(c.n)), "verify")
            c.finish()
    with Chain() as c:
        for _ in range(3):
            c.pre()
            c.step()
        c.dump()
        c.finish("--lazy-pages")


@case
def large_program():
    """Of a size where areas are looked at beforehand, and filled by several threads at the restore."""
    with Chain("60M", "size") as c:
        c.pre()
        c.dump("-R", "--track-mem")
        h.require(pages(c.folder(2), c.pid, PARENT) > 15000, "not incremental")
        r = c.dump("--auto-dedup")
        h.require(pages(c.folder(3), c.pid, PARENT) > 15000, f"not incremental: {r}")
        c.finish()


@case
def dedup_of_nothing():
    with Chain() as c:
        r = h.ckpt("dedup", "-D", c.work)
        h.require(r.rc == 1 and "inventory" in r.out, str(r))
        r = h.ckpt("dedup", "-D", c.folder("nowhere"))
        h.require(r.rc == 1, str(r))
        c.dump()
        h.must(h.ckpt("dedup", "-D", c.folder(1)), "dedup without a parent")
        c.finish()


if __name__ == "__main__":
    h.run_cases(CASES)
