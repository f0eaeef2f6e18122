#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""xz -T2 compressing 200 MB: the result is what an uninterrupted run gives, byte for byte."""
import hashlib
import os
import random
import subprocess

import real

SIZE = 200 * 1000 * 1000
# Written to files of fixed names; with -T2 the blocks do not depend on timing.
XZ = ["xz", "-0", "-T2", "-k", "-c", "data"]


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def make(path):
    rnd, left = random.Random(11), SIZE
    with open(path, "wb") as f:
        while left:
            n = min(left, 1000000)
            # noise and letters, several times over: seconds of work for xz rather than minutes
            noise = rnd.randbytes(n // 8)
            letters = noise.translate(bytes(97 + b % 26 for b in range(256)))
            f.write(((noise[:n // 16] + letters[:n // 16]) + (noise + letters) * 4)[:n])
            left -= n


def test(work):
    data = os.path.join(work, "data")
    make(data)
    with open(os.path.join(work, "reference"), "wb") as f:
        subprocess.run(XZ, cwd=work, stdout=f, check=True)
    want = digest(os.path.join(work, "reference"))
    full = os.path.getsize(os.path.join(work, "reference"))
    with real.Program(work, XZ, out="data.xz") as p:
        at = []
        for part in (0.15, 0.5):
            real.h.wait_until(lambda: os.path.getsize(p.out) > part * full, f"{part:.0%} of the output", 60)
            p.again(0.05)
            at.append(os.path.getsize(p.out))
        p.finish()
        real.h.require(at[0] < full, "checkpointed too late")
        real.h.require(digest(p.out) == want, "the result differs from an uninterrupted run's")
        return f"checkpointed at {[x * 100 // full for x in at]} % of {full} bytes of output"


real.main(test)
