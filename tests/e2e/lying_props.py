#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Our own file beside the images is no more to be believed than they are: properties of threads and areas that cannot be."""
import os

import bad_input as b
import harness as h
import images as im

BAD = 0xffff8000_00000000


def lies(start):
    """(what is said, words of the message or () where the kernel is the one to say no); @start: of an area."""
    def thread(fn): return lambda m: fn(m.tasks[0].threads[0])
    def task(fn): return lambda m: fn(m.tasks[0])
    def areas(t, name, first, last, **rest): getattr(t, name).add(start=first, end=last, **rest)
    policy = {"policy": im.message("numa_policy")(mode=2, nodes=b"\1")}
    nodes = {"policy": im.message("numa_policy")(mode=2, nodes=b"\1" * 4096)}

    for name, rest in (("onfault", {}), ("sealed", {}), ("area_policies", policy)):
        yield task(lambda t: areas(t, name, start + 1, start + 4096, **rest)), ("no area is there",)
        yield task(lambda t: areas(t, name, start, start, **rest)), ("no area is there",)
        yield task(lambda t: areas(t, name, BAD, BAD + 4096, **rest)), ("no area is there",)
        yield task(lambda t: areas(t, name, start, BAD, **rest)), ("no area is there",)
        yield task(lambda t: areas(t, name, 4096, 8192, **rest)), ("no area is there",)
        yield task(lambda t: areas(t, name, start + 4096, start, **rest)), ("no area is there",)
    yield task(lambda t: areas(t, "area_policies", start, start + 4096, **nodes)), ("policy",)
    for first, last, key in ((start, start + 4096, 0), (start, start + 4096, 16), (start, start + 4096, 2**32 - 1),
                             (BAD, BAD + 4096, 1), (start, BAD, 1), (start, start, 1)):
        yield task(lambda t: areas(t, "area_keys", first, last, key=key)), ("protection key",)
    yield task(lambda t: setattr(t, "pkeys", 0xffff0000)), ("protection key",)
    yield task(lambda t: setattr(t, "mlock_future", 8)), ("mlockall",)
    yield task(lambda t: setattr(t, "mlock_future", 4)), ("mlockall",)
    yield task(lambda t: setattr(t, "thp_disable", 64)), ("THP",)
    yield task(lambda t: setattr(t, "ldt", b"\1" * 9)), ("descriptor table",)
    yield task(lambda t: setattr(t, "ldt", b"\0" * 65544)), ("descriptor table",)
    yield task(lambda t: setattr(t, "xcomp_perm", 1 << 40)), ("component",)
    yield task(lambda t: setattr(t, "tag_bits", 77)), ("tagged",)
    yield task(lambda t: setattr(t, "mdwe", 4096)), ("MDWE",)
    yield thread(lambda t: setattr(t, "tsc", 9)), ("time stamp counter",)
    yield thread(lambda t: setattr(t, "mce_kill", 9)), ("machine check",)
    yield thread(lambda t: t.speculation.add(misfeature=9, value=5)), ("speculation",)
    yield thread(lambda t: t.speculation.add(misfeature=0, value=0xffff)), ("speculation",)
    yield thread(lambda t: t.mempolicy.CopyFrom(nodes["policy"])), ("policy",)
    yield thread(lambda t: t.xstate_components.add(component=17, data=b"1234")), ("component",)
    yield thread(lambda t: t.xstate_components.add(component=9, data=bytes(8))), ("component",)
    yield thread(lambda t: t.xstate_components.add(component=2**32 - 1, data=b"")), ("component",)
    yield thread(lambda t: t.xstate_components.add(component=18, data=bytes(8192))), ("AMX",) # without the permission
    yield thread(lambda t: t.sud.CopyFrom(im.message("sud_entry")(mode=1, selector=BAD, offset=0, len=0))), ("dispatch",)
    yield thread(lambda t: t.sud.CopyFrom(im.message("sud_entry")(mode=99, selector=0, offset=0, len=0))), ("dispatch",)


def lying_properties():
    with b.Checkpoint("areas", "onfault") as c:
        mm = im.read(os.path.join(c.images, f"mm-{c.pid}.img"))[0]
        start = next(v for v in mm.vmas if v.status & 0x200 and v.end - v.start >= 8192).start
        for i, (lie, words) in enumerate(lies(start)):
            path = c.copy()
            im.change(os.path.join(path, "ckpt-extra"), lie)
            try:
                c.fails(path, *words)
            except h.Failure as e:
                raise h.Failure(f"lie {i}: {e}") from None
        c.works()


if __name__ == "__main__":
    h.run_cases([lying_properties])
