#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A bit that flipped, anywhere: `ckpt verify` and restore name the file, and nothing is left of the restore. The same for
what is cut off, missing or of another checkpoint."""
import json
import os
import random
import shutil
import struct

import bad_input as b
import harness as h
import incremental as inc

CASES = []
# Between them they have images of every kind that libckpt writes today.
TARGETS = (("files", "pipes"), ("files", "ghost"), ("files", "fifo"), ("mem", "memfd"), ("mem", "shanon"),
           ("ptys", "canon"), ("unix", "queues"), ("files", "devices"))
NOT_OF_IT = ("stats-dump", "stats-restore", "restore.log")
# Restore does not need them, or only a part of them.
NOT_READ = ("ids-",)


def case(fn):
    CASES.append(fn)
    return fn


def is_ours(name):
    return name not in NOT_OF_IT


def flip(path, at=None, bit=None):
    size = os.path.getsize(path)
    at = random.randrange(size) if at is None else at
    bit = random.randrange(8) if bit is None else bit
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1 << bit]))
    return f"byte {at}, bit {bit}"


class Checkpoint(b.Checkpoint):
    def __enter__(self):
        super().__enter__()
        try:
            while os.waitpid(-1, 0)[0]:  # the rest of the tree, whose parent we became
                pass
        except ChildProcessError:
            return self

    def copy(self):
        path = os.path.join(self.work, "copy")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.images, path)
        return path

    def both(self, path, name, *words):
        """verify and restore find it, and name it."""
        r = h.ckpt("verify", path)
        h.require(r.rc == 1 and "damaged: " in r.out and name in r.out, f"{name}: verify says {r}")
        for w in words:
            h.require(w in r.out, f"{name}: verify does not say {w!r}: {r}")
        if not name.startswith(NOT_READ):
            self.fails(path, name)


def verified(path, *words):
    r = h.ckpt("verify", path)
    h.require(r.rc == 0, f"verify of what is right: {r}")
    for w in words:
        h.require(w in r.out, f"verify does not say {w!r}: {r}")


def each_target(fn):
    for name, variant in TARGETS:
        try:
            with Checkpoint(name, variant) as c:
                fn(c)
        except h.Failure as e:
            raise h.Failure(f"{name}.{variant}: {e}") from None
        except h.Skip:
            pass


@case
def one_bit_anywhere():
    seen = set()

    def flips(c):
        verified(c.images)
        for name in sorted(filter(is_ours, os.listdir(c.images))):
            kind = name.rstrip("0123456789.img").rstrip("-")
            if kind in seen and kind not in ("pages", "pagemap"):
                continue
            seen.add(kind)
            path = c.copy()
            where = flip(os.path.join(path, name))
            try:
                c.both(path, name)
            except h.Failure as e:
                raise h.Failure(f"{name}, {where}: {e}") from None

    each_target(flips)
    h.require({"inventory", "core", "mm", "pagemap", "pages", "files", "fdinfo", "fs", "pstree", "ckpt-extra", "ckpt-sums",
               "ckpt-blocks", "pagemap-shmem", "ghost-file", "pipes-data"} <= seen, f"kinds: {sorted(seen)}")


@case
def verify_says_whose_page():
    with Checkpoint("mem", "anon") as c:
        path = c.copy()
        name = next(n for n in sorted(os.listdir(path)) if n.startswith("pages-"))
        flip(os.path.join(path, name), 4096 * 3 + 17)
        r = h.ckpt("verify", "--json", path)
        found = json.loads(r.out)
        h.require(r.rc == 1 and not found["good"] and len(found["damages"]) == 1, f"{r}")
        d = found["damages"][0]
        h.require(d["pid"] == c.pid and d["addr"] and d["kind"] == "pages" and f"{name} is damaged: pages 0 to" in d["message"],
                  f"{d}")
        # several damages are all told
        flip(os.path.join(path, name), os.path.getsize(path + "/" + name) - 1)
        flip(os.path.join(path, f"mm-{c.pid}.img"))
        found = json.loads(h.ckpt("verify", "--json", path).out)
        h.require(len(found["damages"]) == 3, f"{found}")


@case
def cut_off():
    with Checkpoint() as c:
        for name in sorted(filter(is_ours, os.listdir(c.images))):
            for size in (0, os.path.getsize(os.path.join(c.images, name)) - 1):
                path = c.copy()
                os.truncate(os.path.join(path, name), size)
                c.both(path, name)


@case
def longer():
    with Checkpoint() as c:
        for name in sorted(filter(is_ours, os.listdir(c.images))):
            path = c.copy()
            with open(os.path.join(path, name), "ab") as f:
                f.write(b"\0")
            c.both(path, name)


@case
def missing():
    with Checkpoint() as c:
        for name in sorted(filter(is_ours, os.listdir(c.images))):
            path = c.copy()
            os.unlink(os.path.join(path, name))
            if name == "inventory.img":
                r = h.ckpt("verify", path)
                h.require(r.rc == 1 and name in r.out, f"{r}")
                c.fails(path, "not a checkpoint")
            elif name == "ckpt-sums":  # like one of another program
                r = h.ckpt("verify", path)
                h.require(r.rc == 2 and "without a sum" in r.out, f"{r}")
            else:
                c.both(path, name, "missing")


@case
def of_another_checkpoint():
    with Checkpoint() as c, Checkpoint("mem", "anon") as other:
        for name in ("ckpt-blocks", "ckpt-sums", "ckpt-extra", "pages-1.img", "inventory.img", "files.img"):
            path = c.copy()
            shutil.copy(os.path.join(other.images, name), os.path.join(path, name))
            r = h.ckpt("verify", path)
            h.require(r.rc == 1, f"{name}: {r}")
            c.fails(path, "image")
        path = c.copy()
        shutil.copy(os.path.join(other.images, f"mm-{other.pid}.img"), path)
        r = h.ckpt("verify", path)
        h.require(r.rc == 1 and "does not belong" in r.out, f"{r}")
        other.works()
        c.works()


@case
def without_verification():
    """Images that were edited on purpose: refused, and with --no-verify restored."""
    with Checkpoint("mem", "anon") as c:
        path = os.path.join(c.images, "fs-%d.img" % c.pid)
        with open(path, "rb") as f:
            data = f.read()
        # the same message with a field behind it that nobody knows
        with open(path, "wb") as f:
            f.write(data[:8] + struct.pack("<I", len(data) - 12 + 3) + data[12:] + b"\xf8\x07\x01")
        c.fails(c.images, os.path.basename(path))
        h.must(h.ckpt("restore", "-d", "-D", c.images, "--no-verify"), "restore --no-verify")
        c.t.go()


@case
def no_sums_at_all():
    """A checkpoint of another program, or of an older libckpt."""
    with Checkpoint("mem", "anon") as c:
        h.without_sums(c.images)
        r = h.ckpt("verify", c.images)
        h.require(r.rc == 2 and "nothing can be said" in r.out, f"{r}")
        c.works()


HOW = ("--compress", "--compress=zstd:1", "--compress=dups")
PACKED = (("mem", "anon"), ("mem", "memfd"), ("mem", "huge"), ("tree", "cow"), ("unix", "prefork"), ("size", "40M,4,w"),
          ("mem", "shanon"), ("files", "ghost"))


@case
def compressed():
    for i, (name, variant) in enumerate(PACKED):
        for how in HOW if i < 2 else (HOW[i % 3],):
            try:
                with Checkpoint(name, variant, (how,)) as c:
                    verified(c.images)
                    r = h.ckpt("inspect", c.images)
                    h.require(r.rc == 0 and ("lz4", "zstd", "plain")[HOW.index(how)] in r.out, f"inspect: {r}")
                    c.works()
            except h.Failure as e:
                raise h.Failure(f"{name}.{variant} {how}: {e}") from None


@case
def compressed_and_running():
    with h.Workdir() as w:
        t = h.Target(w, "size", "20M,4,w")
        t.ready()
        images = os.path.join(w, "images")
        h.must(h.dump(t.pid, images, "-R", "--compress"), "dump -R --compress")
        verified(images)
        t.go()


@case
def compressed_one_bit():
    with Checkpoint("mem", "anon", ("--compress",)) as c:
        for name in [n for n in os.listdir(c.images) if n.startswith(("pages-", "ckpt-blocks"))] * 8:
            path = c.copy()
            where = flip(os.path.join(path, name))
            try:
                c.both(path, name)
                c.fails(path, name)
            except h.Failure as e:
                raise h.Failure(f"{name}, {where}: {e}") from None
        path = c.copy()
        h.without_sums(path)
        c.fails(path, "ckpt-blocks is missing")
        c.works()


@case
def equal_pages_of_relatives():
    """What a fork shares is stored once."""
    sizes = []
    for opts in (), ("--compress=dups",):
        with Checkpoint("unix", "prefork", opts) as c:
            sizes.append(sum(os.path.getsize(os.path.join(c.images, n)) for n in os.listdir(c.images) if n.startswith("pages-")))
            c.works()
    h.require(sizes[1] * 2 < sizes[0], f"{sizes[1]} bytes, and {sizes[0]} before")


@case
def chain():
    """verify looks at the parents, and what deduplication freed is no damage."""
    for opts in (), ("--compress",):
        with inc.Chain() as c:
            c.pre(*opts)
            c.step()
            c.pre(*opts)
            c.step()
            c.dump(*opts)
            verified(c.folder(c.n), "in 3 folders")
            if not opts:
                h.must(h.ckpt("dedup", "-D", c.folder(c.n)), "dedup")
                r = h.ckpt("inspect", c.folder(1))
                h.require(r.rc or " freed" in r.out, f"nothing was freed: {r}")
                verified(c.folder(c.n))
                verified(c.folder(1))
            one = c.folder(1)
            shutil.copytree(one, one + ".whole")
            name = max((n for n in os.listdir(one) if n.startswith("pages-")), key=lambda n: os.path.getsize(f"{one}/{n}"))
            # all of it, so that something is hit that was not freed
            for at in range(100, os.path.getsize(f"{one}/{name}"), 4096 if not opts else 64):
                flip(f"{one}/{name}", at)
            r = h.ckpt("verify", c.folder(c.n))
            h.require(r.rc == 1 and f"parent/parent/image {name} is damaged" in r.out, f"{r}")
            h.reap(c.pid)
            c.t.proc.returncode = 0
            h.gone(c.pids)
            r = h.ckpt("restore", "-d", "-D", c.folder(c.n))
            h.require(r.rc == 1 and name in r.out and h.state(c.pid) == "gone", f"{r}")
            flip(f"{one}/pagemap-{c.pid}.img")
            r = h.ckpt("restore", "-d", "-D", c.folder(c.n))
            h.require(r.rc == 1 and f"pagemap-{c.pid}.img" in r.out, f"{r}")
            shutil.rmtree(one)
            os.rename(one + ".whole", one)
            verified(c.folder(c.n))
            os.rename(one, one + ".away")
            r = h.ckpt("verify", c.folder(c.n))
            h.require(r.rc == 1 and "parent" in r.out, f"{r}")
            os.rename(one + ".away", one)
            h.must(h.ckpt("restore", "-d", "-D", c.folder(c.n)), "restore")
            c.t.go()


@case
def no_way_to_compress():
    with b.Bed() as bed:
        for how in ("lzma", "zstd:0", "zstd:20", "zstd:3x", ""):
            b.refused(h.dump(bed.pid, bed.images, f"--compress={how}"), "compress")
            bed.empty()


@case
def disk_full_of_compressed():
    with h.Workdir() as w:
        t = h.Target(w, "size", "60M,4,w")
        t.ready()
        small = os.path.join(w, "small")
        os.mkdir(small)
        h.must(h.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small]), "mount")
        try:
            b.refused(h.dump(t.pid, small, "--compress"), "space")
            h.require(not os.listdir(small), f"left in the folder: {os.listdir(small)}")
        finally:
            h.run(["umount", small])
        t.go()


@case
def no_checkpoint():
    with h.Workdir() as w:
        b.refused(h.ckpt("verify", w), "not a checkpoint")
        b.refused(h.ckpt("verify", os.path.join(w, "nowhere")), "nowhere")


if __name__ == "__main__":
    h.run_cases(CASES)
