#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A prefork server: a master, four workers that share its 48 MB, and clients that verify every answer, all in one tree.
What they share by fork they still share after the restore: no more memory than 1.1 times what it was before."""
import os
import re

import real

PROGRAM = r"""
import hashlib, os, signal, socket, sys, time
WORKERS, CLIENTS, REQUESTS, PIECE, PIECES = 4, 2, 1200, 1 << 20, 48
data = [hashlib.shake_256(b"%d" % i).digest(PIECE) for i in range(PIECES)]
listener = socket.socket(socket.AF_UNIX)
listener.bind("sock")
listener.listen(64)

def worker(n):
    served = 0
    own = bytearray(hashlib.shake_256(b"worker %d" % n).digest(PIECE))
    while True:
        c, _ = listener.accept()
        with c, c.makefile("rwb") as f:
            for line in f:
                i, at = map(int, line.split())
                served += 1
                own[served % PIECE] = served & 255
                f.write(hashlib.sha256(data[i][at:at + 4096]).hexdigest().encode() + b"\n")
                f.flush()

def client(n):
    want = [hashlib.sha256(hashlib.shake_256(b"%d" % i).digest(PIECE)[4096:8192]).hexdigest() for i in range(PIECES)]
    for r in range(REQUESTS):
        if r % 10 == 0:  # ten requests a connection
            c = socket.socket(socket.AF_UNIX)
            c.connect("sock")
            f = c.makefile("rwb")
        i = (r * 7 + n) % PIECES
        f.write(b"%d 4096\n" % i)
        f.flush()
        got = f.readline().decode().strip()
        if got != want[i]:
            sys.exit("client %d: request %d: %r" % (n, r, got))
        if r % 10 == 9:
            f.close()
            c.close()
        if r % 100 == 99 and n == 0:
            print("requests", r + 1, flush=True)
        time.sleep(0.002)
    sys.exit(0)

def fork(f, n):
    pid = os.fork()
    if pid == 0:
        try:
            f(n)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return pid

workers = [fork(worker, n) for n in range(WORKERS)]
clients = [fork(client, n) for n in range(CLIENTS)]
for pid in clients:
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("a client failed")
for pid in workers:
    if os.waitpid(pid, os.WNOHANG)[0]:
        sys.exit("a worker ended")
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
print("all right", flush=True)
os._exit(0)
"""


def memory(pid):
    """Sums of the tree in KiB: resident, and proportional (what n share counts a nth for each)."""
    sums = {"Rss": 0, "Pss": 0}
    for p in real.tree(pid):
        text = real.h.read_text(f"/proc/{p}/smaps_rollup")
        for key in sums:
            sums[key] += int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1])
    return sums


def requests(text):
    return max([0, *map(int, re.findall(r"requests (\d+)", text))])


def test(work):
    with real.Program(work, ["/usr/bin/python3", "-c", PROGRAM]) as p:
        said = []
        for want in (100, 500, 900):
            p.wait_for(lambda t: requests(t) >= want, f"{want} requests")
            before = memory(p.pid)
            p.again(0.05, tasks=7)
            now = requests(p.text())
            # it has to have served some before what it shares can be told from what is not read yet
            p.wait_for(lambda t: requests(t) > now, "answers after the restore")
            after = memory(p.pid)
            for key, kib in before.items():
                real.h.require(after[key] <= 1.1 * kib, f"{key}: {kib} KiB before, {after[key]} KiB after")
            said.append("/".join(f"{after[k] / before[k]:.2f}" for k in ("Rss", "Pss")))
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
        real.h.require(not os.path.exists(os.path.join(work, "core")), "a core file")
        return f"memory after restores, resident/proportional, times before: {', '.join(said)}"


real.main(test)
