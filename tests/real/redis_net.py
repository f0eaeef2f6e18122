#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""redis over TCP under load from within the tree and from outside: no request lost, none answered twice, no reset.

Clients of ours know what every reply must be, and what each value of a counter that all of them raise was given to
exactly one of them. redis-benchmark beside them, within and without, counts its own requests; so does a counter of redis."""
import os
import re
import shutil

import network
import real
from real import h

PORT, REQUESTS = 6379, 30000
# Connections of one process: each has a counter of its own, and all of all processes have one together.
CLIENT = r"""
import select, socket, sys, time
port, name, connections, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def connect():
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.01)
    sys.exit("nobody listens")

def command(*words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)

class Connection:
    def __init__(self, n):
        self.s, self.name, self.i, self.seen = connect(), "%s:%d" % (name, n), 0, []
        self.f = self.s.makefile("rb")

    def ask(self):
        self.i += 1
        self.value = b"%d " % self.i * (self.i * 7 % 400)
        self.s.sendall(command("INCR", "own:" + self.name) + command("INCR", "shared") +
                       command("SET", "value:" + self.name, self.value) + command("GET", "value:" + self.name))

    def reply(self):
        line = self.f.readline()
        if not line.endswith(b"\r\n"):
            sys.exit("%s: connection lost: %r" % (self.name, line))
        if line[:1] == b"$":
            return self.f.read(int(line[1:]) + 2)[:-2]
        if line[:1] == b"-":
            sys.exit("%s: %r" % (self.name, line))
        return int(line[1:]) if line[:1] == b":" else line[1:-2]

    def expect(self, want):
        got = self.reply()
        if got != want:
            sys.exit("%s, round %d: %.100r, not %.100r" % (self.name, self.i, got, want))

    def answers(self):
        self.expect(self.i)
        self.seen.append(self.reply())
        self.expect(b"OK")
        self.expect(self.value)

all = [Connection(n) for n in range(connections)]
done = 0
while not rounds or done < rounds:
    for c in all:
        c.ask()
    for c in all:
        c.answers()
    done += 1
    if rounds and done % 50 == 0:
        print("round", done, flush=True)
    if not rounds and select.select([0], [], [], 0.001)[0]:
        break
with open("seen-" + name, "w") as f:
    f.write(" ".join(str(v) for c in all for v in c.seen))
print("all right", done, flush=True)
"""

TREE = r"""
"$1" --port PORT --dir . --daemonize no --save '' --appendonly no --logfile redis.log --enable-debug-command yes &
server=$!
echo "$server" >server.pid
/usr/bin/python3 client.py PORT in 8 ROUNDS || exit 1 &
client=$!
until redis-cli -p PORT ping >/dev/null 2>&1; do sleep 0.05; done
redis-benchmark -p PORT -c 10 -n REQUESTS -t incr,set,lpush -d 300 >bench.in 2>&1 || { cat bench.in >&2; exit 1; }
echo benchmark done
wait $client || exit 1
read -r line <go # everything outside has ended
redis-cli -p PORT shutdown nosave
wait $server
echo stopped
"""


# redis-benchmark as a client of ours, again and again until it is told; says how often it has raised a counter.
BENCH = f"""
n=0
until [ -e stop ]; do
	redis-benchmark -p {PORT} -c 10 -n 20000 incr outside >bench.out 2>&1 || {{ cat bench.out >&2; exit 1; }}
	n=$((n + 20000))
done
echo $n
"""


def test(work):
    server = shutil.which("redis-server") or real.find("redis-check-rdb")
    os.symlink(server, os.path.join(work, "redis-server"))
    with open(os.path.join(work, "client.py"), "w") as f:
        f.write(CLIENT)
    os.mkfifo(os.path.join(work, "go"))
    program = TREE.replace("PORT", str(PORT)).replace("ROUNDS", "600").replace("REQUESTS", str(REQUESTS))
    real.find("redis-benchmark")
    with network.Program(work, [real.find("bash"), "-c", program, "tree", "./redis-server"]) as p:
        clients = [p.client(CLIENT, PORT, f"out{i}", 12, 0) for i in range(2)]
        p.wait_for(lambda t: "round" in t, "the server")
        bench = p.client(["sh", "-c", BENCH])

        def rounds(t):
            return max([0, *map(int, re.findall(r"round (\d+)", t))])
        for want, gap in ((50, 0.05), (150, 2.5), (350, 0.2)):
            p.wait_for(lambda t: rounds(t) >= want, f"round {want}")
            p.running()
            real.time.sleep(0.1)
            p.again(gap, tasks=3)
        p.wait_for(lambda t: "all right" in t and "benchmark done" in t, "the clients in the tree", 90)
        said = [c.stop() for c in clients]
        open(os.path.join(work, "stop"), "w").close()
        sent = int(bench.stop(90))
        for s in said:
            h.require(re.fullmatch(r"all right \d+", s), f"a client's last words: {s}")
        cli = [real.find("redis-cli"), "-p", str(PORT), "get"]
        got = int(h.must(h.run([*cli, "outside"]), "redis-cli").out.strip().strip('"'))
        h.require(got == sent, f"redis-benchmark raised the counter {sent} times, it is {got}")
        got = int(h.must(h.run([*cli, "counter:__rand_int__"]), "redis-cli").out.strip().strip('"'))
        h.require(got == REQUESTS, f"redis-benchmark in the tree raised the counter {REQUESTS} times, it is {got}")
        shared = int(h.must(h.run([*cli, "shared"]), "redis-cli").out.strip().strip('"'))
        seen = [int(v) for n in ("in", "out0", "out1") for v in h.read_text(os.path.join(work, f"seen-{n}")).split()]
        h.require(len(seen) == len(set(seen)), "two clients were given the same number")
        h.require(sorted(seen) == list(range(1, shared + 1)), f"{shared} numbers, {len(seen)} were seen")
        with open(os.path.join(work, "go"), "w") as f:
            f.write("go\n")
        p.finish()
        h.require(p.text().endswith("stopped\n"), f"its last words: {p.text()[-200:]}")
        return f"{shared} numbers, {sent + 3 * REQUESTS} requests of redis-benchmark, {p.tasks} processes"


if __name__ == "__main__":
    network.main(test)
