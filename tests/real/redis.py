#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""redis on a unix socket with an append-only file, and a client in the same tree that knows what every reply must be."""
import os
import re
import shutil

import real

# It must see every reply exactly once and in order: a lost or doubled command shows in the counters at once.
CLIENT = r"""
import os, socket, sys, time
ROUNDS = 3000
s = socket.socket(socket.AF_UNIX)
for _ in range(500):
    try:
        s.connect("sock")
        break
    except OSError:
        time.sleep(0.01)
f = s.makefile("rb")

def send(*commands):
    out = b""
    for words in commands:
        out += b"*%d\r\n" % len(words)
        for w in words:
            w = w if isinstance(w, bytes) else str(w).encode()
            out += b"$%d\r\n%s\r\n" % (len(w), w)
    s.sendall(out)

def reply():
    line = f.readline()
    if not line.endswith(b"\r\n"):
        sys.exit("connection lost: %r" % line)
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        sys.exit("error: %r" % rest)
    if kind == b"$":
        return None if rest == b"-1" else f.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [reply() for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest

def expect(want):
    got = reply()
    if got != want:
        sys.exit("round %d: got %.200r, not %.200r" % (i, got, want))

held = {}
for i in range(1, ROUNDS + 1):
    key, value = b"key:%d" % (i * 7919 % 500), b"%d " % i * (i % 300)
    send(("INCR", "counter"), ("SET", key, value), ("GET", key), ("RPUSH", "list", i), ("APPEND", "text", "x"),
         ("GET", b"key:%d" % (i % 500)))
    expect(i)
    expect(b"OK")
    held[key] = value
    expect(value)
    expect(i)
    expect(i)
    expect(held.get(b"key:%d" % (i % 500)))
    if i % 100 == 0:
        print("round", i, flush=True)
    if i % 10 == 0:
        time.sleep(0.005)
    if i % 1000 == 400:  # a child writes a file of it all meanwhile
        send(("BGREWRITEAOF",))
        reply()
send(("DBSIZE",), ("LLEN", "list"), ("MGET", *sorted(held)))
expect(len(held) + 3)
expect(ROUNDS)
expect([held[k] for k in sorted(held)])
send(("SHUTDOWN", "SAVE"))
if s.recv(1):
    sys.exit("an answer to SHUTDOWN")
print("all right", flush=True)
"""

TREE = r"""
(exec -a redis-server "$1" --port 0 --unixsocket sock --dir . --daemonize no --save '' --appendonly yes \
	--appendfsync everysec --logfile redis.log) &
server=$!
/usr/bin/python3 client.py || { cat redis.log >&2; exit 1; }
wait $server
"""


def test(work):
    # in Debian all programs of redis are one, which looks at its name
    server = shutil.which("redis-server") or real.find("redis-check-rdb")
    with open(os.path.join(work, "client.py"), "w") as f:
        f.write(CLIENT)
    with real.Program(work, [real.find("bash"), "-c", TREE, "tree", server]) as p:
        def rounds(t):
            return max([0, *map(int, re.findall(r"round (\d+)", t))])
        for want in (100, 1000, 2000):
            p.wait_for(lambda t: rounds(t) >= want, f"round {want}")
            p.again(0.05, tasks=3)
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
    # what it wrote to the disk is whole, too
    check = real.h.run(["redis-check-aof", os.path.join(work, "appendonlydir", "appendonly.aof.manifest")])
    if "No such file" not in check.out:
        real.h.require(check.rc == 0, f"redis-check-aof: {check}")
    return f"{p.tasks} processes"


if __name__ == "__main__":
    real.main(test)
