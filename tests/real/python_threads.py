#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""python3 with four threads and a data structure that grows; three checkpoints on the way."""
import real

PROGRAM = r"""
import hashlib, threading, time
data, lock, done = {}, threading.Lock(), []
def work(n):
    state = hashlib.sha256(str(n).encode()).digest()
    for i in range(4000):
        state = hashlib.sha256(state).digest()
        with lock:
            data[(n, i)] = [state, list(state), {"text": state.hex()}]
        if i % 20 == 0:
            time.sleep(0.004)
    done.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
while any(t.is_alive() for t in threads):
    print("have", len(data), flush=True)
    time.sleep(0.05)
[t.join() for t in threads]
for n in range(4):
    state = hashlib.sha256(str(n).encode()).digest()
    for i in range(4000):
        state = hashlib.sha256(state).digest()
        s, l, d = data[(n, i)]
        assert s == state and bytes(l) == state and d["text"] == state.hex(), (n, i)
assert len(data) == 16000 and sorted(done) == [0, 1, 2, 3]
print("all right", flush=True)
"""


def have(text):
    lines = [l for l in text.splitlines() if l.startswith("have")]
    return int(lines[-1].split()[1]) if lines else 0


def test(work):
    with real.Program(work, ["/usr/bin/python3", "-c", PROGRAM]) as p:
        at = []
        for want in (1000, 5000, 10000):
            p.wait_for(lambda t: have(t) >= want, f"{want} entries")
            p.again(0.05)
            at.append(have(p.text()))
        p.finish()
        text = p.text()
        real.h.require(text.endswith("all right\n"), f"its last words: {text[-200:]}")
        real.h.require(at[0] < 16000, "the first checkpoint came too late")
        return f"checkpointed at {at} of 16000 entries"


real.main(test)
