#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""redis and its client, which writes all the time, by pre-dumps and a last dump that has little left to store; three times."""
import os
import re
import shutil

import real
import redis

h = real.h


def chain(p, n):
    """Three pre-dumps while it works, a dump, a restore: all of it must be right. Returns pages of the dump, and of the first."""
    base = os.path.join(p.work, f"chain{n}")
    prev = []
    for i in range(1, 4):
        os.makedirs(os.path.join(base, str(i)))
        h.must(h.ckpt("pre-dump", "-t", p.pid, "-D", os.path.join(base, str(i)), *prev), f"pre-dump {i}")
        prev = ["--prev-images-dir", f"../{i}"]
    last = os.path.join(base, "last")
    p.opts = prev
    r = h.must(p.dump(last), "dump")
    p.opts = ()
    h.require("full one" not in r.out, f"not incremental: {r}")
    p.gone()
    h.must(h.ckpt("restore", "-d", "-D", last), "restore")
    sizes = [sum(os.path.getsize(e.path) for e in os.scandir(os.path.join(base, f)) if e.name.startswith("pages-"))
             for f in ("last", "1")]
    shutil.rmtree(base)
    return sizes


def test(work):
    server = shutil.which("redis-server") or real.find("redis-check-rdb")
    with open(os.path.join(work, "client.py"), "w") as f:
        f.write(redis.CLIENT)
    with real.Program(work, [real.find("bash"), "-c", redis.TREE, "tree", server]) as p:
        def rounds(t):
            return max([0, *map(int, re.findall(r"round (\d+)", t))])
        parts = []
        for n, want in enumerate((100, 1000, 2000)):
            p.wait_for(lambda t: rounds(t) >= want, f"round {want}")
            if real.SELF:
                continue
            parts.append(chain(p, n))
            h.require(parts[-1][0] < parts[-1][1], f"the dump has {parts[-1][0]} bytes of pages, the first pre-dump {parts[-1][1]}")
        p.finish()
        h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
    return f"pages of the dump and of the first pre-dump: {parts}"


if __name__ == "__main__":
    real.main(test)
