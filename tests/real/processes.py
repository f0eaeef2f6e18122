#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""python's multiprocessing: a pool, a manager, named shared memory, a lock and a counter that three processes use."""
import real

PROGRAM = r"""
import hashlib, multiprocessing as mp, time
from multiprocessing import shared_memory

def work(i):
    s = str(i).encode()
    for _ in range(2000):
        s = hashlib.sha256(s).digest()
    time.sleep(0.003)
    return i, s.hex()

def adder(v, lock, n):
    for _ in range(n):
        with lock:
            v.value += 1
        time.sleep(0.001)

shm = shared_memory.SharedMemory(create=True, size=4096)
v, lock = mp.Value("q", 0), mp.Lock()
adders = [mp.Process(target=adder, args=(v, lock, 600)) for _ in range(3)]
for p in adders:
    p.start()
with mp.Manager() as m:
    d = m.dict()
    with mp.Pool(4) as pool:
        for k, (i, s) in enumerate(pool.imap_unordered(work, range(800), chunksize=2)):
            d[i] = s
            shm.buf[i] = i % 251
            if k % 50 == 0:
                print("have", k, flush=True)
    for i in range(800):
        assert i % 40 or d[i] == work(i)[1], i
        assert shm.buf[i] == i % 251, i
for p in adders:
    p.join()
    assert p.exitcode == 0
assert v.value == 1800, v.value
shm.close()
shm.unlink()
print("all right", flush=True)
"""


def test(work):
    with real.Program(work, ["/usr/bin/python3", "-c", PROGRAM]) as p:
        for want in ("have 50\n", "have 300\n", "have 600\n"):
            p.wait_for(lambda t: want in t, want)
            p.again(0.05, tasks=5)
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
        return f"{p.tasks} processes"


real.main(test)
