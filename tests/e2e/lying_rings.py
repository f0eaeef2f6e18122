#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Images that lie about io_urings, AIO contexts and BPF maps."""
import os

import bad_input as b
import harness as h
import images as im

BAD = 0xffff8000_00000000


def each(c, image, lies, index=0):
    for i, (lie, *words) in enumerate(lies):
        path = c.copy()
        im.change(os.path.join(path, image), lie, index)
        try:
            c.fails(path, *words)
        except h.Failure as e:
            raise h.Failure(f"{image}: lie {i} ({' '.join(words)}): {e}") from None


def uring_lies():
    def ring(fn):
        return lambda m: fn(next(r for r in m.io_urings if not r.mapping))

    def mapping(fn):
        return lambda m: fn(next(r for r in m.io_urings if r.mapping))

    for n in (0, 3, 65536, 2**31):
        yield ring(lambda r: setattr(r, "sq_entries", n)), "io_uring"
    for n in (0, 7, 2**20):
        yield ring(lambda r: setattr(r, "cq_entries", n)), "io_uring"
    yield ring(lambda r: setattr(r, "cq_entries", 512)), "io_uring"
    yield ring(lambda r: setattr(r, "setup", 2)), "flags"
    yield ring(lambda r: setattr(r, "setup", 0xffffffff)), "flags"
    yield ring(lambda r: setattr(r, "rings", b"")), "wrong size"
    yield ring(lambda r: setattr(r, "sqes", r.sqes + b"\0" * 4096)), "wrong size"
    yield ring(lambda r: r.offsets.pop()), "sizes"
    yield ring(lambda r: r.offsets.__setitem__(0, 77)), "kernel"
    yield ring(lambda r: setattr(r, "cq_tail", r.cq_tail + 1000)), "completion queue"
    yield ring(lambda r: setattr(r, "ino", 1)), "descriptor is missing"
    yield ring(lambda r: setattr(r, "mapping", True)), "descriptor"
    yield ring(lambda r: setattr(r, "id", 99999)), "no such entry"
    yield mapping(lambda r: setattr(r, "id", 1)), "no such entry"
    yield ring(lambda r: setattr(r, "file_slots", 1)), "registered file"
    yield ring(lambda r: setattr(r, "file_slots", 2**31)), "too much"
    yield ring(lambda r: setattr(r.files[0], "slot", 2**31)), "registered file"
    yield ring(lambda r: setattr(r.files[0], "fd", 0xffffffff)), "registered file"
    yield ring(lambda r: setattr(r.files[0], "fd", 777)), "register its files"
    yield ring(lambda r: setattr(r.buffers[0], "slot", 2**31)), "registered buffer"
    yield ring(lambda r: setattr(r, "buffer_slots", 2**31)), "too much"
    yield ring(lambda r: setattr(r.buffers[0], "addr", BAD)), "register its buffers"
    yield ring(lambda r: setattr(r, "eventfd", 0)), "register its eventfd"
    yield lambda m: m.ClearField("io_urings"), "plugin"


def area_lies(status):
    def area(fn):
        return lambda m: fn(next(v for v in m.vmas if v.status & status))

    yield area(lambda v: setattr(v, "shmid", 1))
    yield area(lambda v: setattr(v, "shmid", 2**40))
    yield area(lambda v: setattr(v, "pgoff", 4096))
    yield area(lambda v: setattr(v, "flags", 2))
    yield area(lambda v: (setattr(v, "start", 0x10000), setattr(v, "end", 0x11000)))


def rings():
    with b.Checkpoint("uring", "registered") as c:
        each(c, "ckpt-extra", uring_lies())
        each(c, f"mm-{c.pid}.img", ((lie,) for lie in area_lies(1 << 27)))
        c.works()


def aio_lies():
    yield lambda m: setattr(m.aios[0], "id", m.aios[0].id + 1), "AIO"
    yield lambda m: setattr(m.aios[0], "id", BAD), "AIO"
    yield lambda m: setattr(m.aios[0], "ring_len", 0), "AIO"
    yield lambda m: setattr(m.aios[0], "ring_len", 0xfffff000), "AIO"
    yield lambda m: setattr(m.aios[0], "nr_req", 0), "AIO"
    yield lambda m: setattr(m.aios[0], "nr_req", 0xffffffff), "AIO"
    yield lambda m: setattr(m.aios[0], "nr_req", 60000), "AIO"
    yield lambda m: m.aios.add(id=0x7000_0000_0000, nr_req=62, ring_len=4096), "AIO"
    yield lambda m: m.ClearField("aios"), "AIO"

    def moved(m):
        v = next(v for v in m.vmas if v.status & 0x2000)
        v.start, v.end = v.start - (1 << 30), v.end - (1 << 30)
    yield moved,


def aio():
    with b.Checkpoint("aio", "unused") as c:
        each(c, f"mm-{c.pid}.img", aio_lies())
        # a ring of zeroes: no context looks like that
        path = c.copy()
        with open(os.path.join(path, "pages-1.img"), "r+b") as f:
            data = f.read()
            magic = data.find((0xa10a10a1).to_bytes(4, "little"))
            h.require(magic > 0 and magic % 4096 == 16, "no ring in the pages")
            f.seek(magic - 16)
            f.write(b"\xff" * 32)
        c.fails(path, "AIO", "damaged")
        c.works()


def map_lies():
    def bpf(fn):
        return lambda m: fn(m.bpf)

    yield bpf(lambda m: setattr(m, "map_type", 6)), "per-cpu array"
    yield bpf(lambda m: setattr(m, "map_type", 99)), "not supported"
    yield bpf(lambda m: setattr(m, "key_size", 0)), "sense"
    yield bpf(lambda m: setattr(m, "key_size", 8)), "fit"
    yield bpf(lambda m: setattr(m, "value_size", 2**31)), "fit"
    yield bpf(lambda m: setattr(m, "max_entries", 1)), "fit"
    yield bpf(lambda m: setattr(m, "max_entries", 0)), "sense"
    yield bpf(lambda m: setattr(m, "map_flags", 0xffffffff)), "create"
    yield bpf(lambda m: setattr(m, "map_id", 7777777)), "BPF map"
    yield bpf(lambda m: setattr(m, "flags", 3)), "sense"
    yield bpf(lambda m: setattr(m, "ifindex", 1)), "device"
    yield bpf(lambda m: setattr(m, "id", 7777)), "id"
    yield lambda m: m.ClearField("bpf"), "missing"


def maps():
    with b.Checkpoint("bpfmaps", "hash") as c:
        files = im.read(os.path.join(c.images, "files.img"))
        each(c, "files.img", map_lies(), next(i for i, m in enumerate(files) if m.HasField("bpf")))
        path = c.copy()
        os.truncate(os.path.join(path, "bpfmap-data.img"), 200)
        c.fails(path, "bpfmap-data")
        c.works()


if __name__ == "__main__":
    h.run_cases([rings, aio, maps])
