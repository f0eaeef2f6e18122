#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A checkpoint from a kernel with another vDSO. There is one kernel here, so the image is made such a checkpoint: symbols
are changed, and the bodies of the functions overwritten with traps, as code that must not run any more."""
import os
import struct

import harness as h

CASES = []
VDSO, VVAR, REGULAR = 0x8, 0x1000, 0x1
KNOWN = (b"clock_gettime", b"gettimeofday", b"time", b"clock_getres", b"getcpu", b"getrandom")


def case(fn):
    CASES.append(fn)
    return fn


class Image:
    """The vDSO within a checkpoint."""

    def __init__(self, images, pid):
        import images as im
        self.im = im
        self.mm = os.path.join(images, f"mm-{pid}.img")
        vma = next(v for v in im.read(self.mm)[0].vmas if v.status & VDSO)
        self.start, self.len = vma.start, vma.end - vma.start
        pagemap = im.read(os.path.join(images, f"pagemap-{pid}.img"))
        self.pages = os.path.join(images, f"pages-{pagemap[0].pages_id}.img")
        at = 0
        for e in pagemap[1:]:
            n = (e.nr_pages or e.compat_nr_pages) * 4096
            if e.vaddr <= self.start < e.vaddr + n:
                h.require(self.start + self.len <= e.vaddr + n, "the vDSO is in two pieces")
                self.offset = at + self.start - e.vaddr
                break
            at += n
        else:
            raise h.Failure("the image has no vDSO pages")
        with open(self.pages, "rb") as f:
            f.seek(self.offset)
            self.data = bytearray(f.read(self.len))

    def save(self):
        with open(self.pages, "r+b") as f:
            f.seek(self.offset)
            f.write(self.data)
        h.without_sums(os.path.dirname(self.pages))

    def symbols(self):
        """(offset of the entry, name, value, size)"""
        phoff, = struct.unpack_from("<Q", self.data, 32)
        phnum, = struct.unpack_from("<H", self.data, 56)
        for i in range(phnum):
            kind, _, off, _, _, size = struct.unpack_from("<IIQQQQ", self.data, phoff + i * 56)
            if kind == 2:
                dyn = dict(struct.unpack_from("<QQ", self.data, off + j) for j in range(0, size, 16))
        for at in range(dyn[6] + 24, dyn[5] - 23, 24):
            name, _, _, shndx, value, size = struct.unpack_from("<IBBHQQ", self.data, at)
            end = self.data.index(b"\0", dyn[5] + name)
            if shndx not in (0, 0xfff1):
                yield at, bytes(self.data[dyn[5] + name:end]), value, size

    def functions(self):
        return [s for s in self.symbols() if s[1].replace(b"__vdso_", b"") in KNOWN]

    def other_symbols(self):
        at, _, _, size = self.functions()[0]
        struct.pack_into("<Q", self.data, at + 16, size + 16)

    def traps(self):
        for _, _, value, size in self.functions():
            self.data[value:value + size] = b"\xcc" * size

    def other_data(self):
        def shorter(m):
            vma = next(v for v in m.vmas if v.status & VVAR)
            vma.start += 4096
        self.im.change(self.mm, shorter)


def areas(pid):
    return [l for l in h.read_text(f"/proc/{pid}/maps").splitlines() if l.endswith("[vdso]")]


def restore(images, log):
    return h.ckpt("restore", "-d", "-v4", "-D", images, "-o", log)


def redirected(w, t, change):
    """Dump, change, restore, and again: dump and restore of what has two of them."""
    before = areas(t.pid)
    h.must(h.dump(t.pid, w + "/i"), "dump")
    t.reap()
    change(Image(w + "/i", t.pid))
    h.must(restore(w + "/i", w + "/log"), "restore")
    h.require("redirected" in h.read_text(w + "/log"), "the log does not speak of the vDSO")
    now = areas(t.pid)
    h.require(len(now) == 1 and now != before, f"vDSO at {now}, was at {before}")


def trapped(v):
    v.other_symbols()
    v.traps()
    v.save()


@case
def calls_are_redirected():
    with h.Workdir() as w, h.Target(w, "vdso", "calls") as t:
        t.ready()
        redirected(w, t, trapped)
        t.go()


@case
def other_layout_of_data():
    def change(v):
        v.other_data()
        v.traps()
        v.save()
    with h.Workdir() as w, h.Target(w, "vdso", "calls") as t:
        t.ready()
        redirected(w, t, change)
        t.go()


@case
def dumped_again():
    with h.Workdir() as w, h.Target(w, "vdso", "calls") as t:
        t.ready()
        redirected(w, t, trapped)
        before = h.settled_snapshot(t.pid)
        h.must(h.dump(t.pid, w + "/j"), "second dump")
        h.wait_until(lambda: not h.alive(t.pid), "the target's end")
        h.reap(t.pid)
        h.must(restore(w + "/j", w + "/log2"), "second restore")
        h.require("redirected" not in h.read_text(w + "/log2"), "the same vDSO was redirected again")
        h.same_process(before, t.pid, "after the second restore")
        h.must(h.dump(t.pid, w + "/k"), "third dump")
        h.wait_until(lambda: not h.alive(t.pid), "the target's end")
        h.reap(t.pid)
        trapped(Image(w + "/k", t.pid))
        h.must(restore(w + "/k", w + "/log3"), "third restore, with another one still")
        h.require("redirected" in h.read_text(w + "/log3"), "the log does not speak of the vDSO")
        t.go()


@case
def interrupted_within():
    """A thread that is in the middle of an old function goes on in old code, and finds that it has to ask the kernel."""
    refused = 0
    for _ in range(8):
        with h.Workdir() as w, h.Target(w, "vdso", "busy") as t:
            t.ready()
            h.must(h.dump(t.pid, w + "/i"), "dump")
            t.reap()
            v = Image(w + "/i", t.pid)
            v.other_symbols()
            v.save()
            r = restore(w + "/i", w + "/log")
            if r.rc and "just entering" in r.out + h.read_text(w + "/log"):
                refused += 1
                continue
            h.must(r, "restore")
            t.go()
    h.require(refused < 8, "every restore was refused")


@case
def damaged():
    """What cannot be understood is refused; nothing crashes."""
    with h.Workdir() as w, h.Target(w, "vdso", "calls") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        whole = bytes(Image(w + "/i", t.pid).data)

        def fails(change):
            v = Image(w + "/i", t.pid)
            v.data[:] = whole
            change(v)
            v.save()
            r = restore(w + "/i", w + "/log")
            text = r.out + h.read_text(w + "/log")
            h.require(r.rc == 1 and "vDSO" in text and "internal" not in text.lower(), f"{r}")
            h.require(h.state(t.pid) == "gone", "left a process")

        def empty(v):
            v.data[:] = bytes(len(v.data))

        def outside(v):
            for at, _, _, _ in v.functions():
                struct.pack_into("<Q", v.data, at + 8, len(v.data) - 4)

        def close(v):
            for i, (at, _, _, _) in enumerate(v.functions()):
                struct.pack_into("<Q", v.data, at + 8, 2048 + i)
        for change in (empty, outside, close):
            fails(change)
        v = Image(w + "/i", t.pid)
        v.data[:] = whole
        v.save()
        h.must(restore(w + "/i", w + "/log"), "restore")
        t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
