#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A python asyncio server with 1,000 clients outside of the tree: every line is answered once, in order, on the connection that
it came from, and the server has counted as many as were sent."""
import network
import real
from real import h

CLIENTS = 1000
SERVER = r"""
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
count = people = 0
last = asyncio.Event()

async def serve(reader, writer):
    global count, people
    people += 1
    want = 0
    while (line := await reader.readline()):
        who, n = line.split()
        if int(n) != want:
            print("client %s said %s, not %d" % (who, n, want), file=sys.stderr, flush=True)
        want += 1
        count += 1
        writer.write(b"%s answers %s\n" % (who, n))
        await writer.drain()
    if not reader.at_eof():
        print("no end", file=sys.stderr)
    writer.close()
    await writer.wait_closed()
    people -= 1
    if not people:
        last.set()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2000)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await last.wait()
    server.close()
    print("answered", count, flush=True)

asyncio.run(main())
"""
# Each says something every now and then; how many lines in all, at the end.
CLIENT = r"""
import asyncio, random, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
port, n = int(sys.argv[1]), int(sys.argv[2])
stop, ready, counts = None, 0, [0] * n

async def client(i):
    global ready
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    rnd, k = random.Random(i), 0
    while not stop.is_set():
        burst = rnd.choice((1, 1, 1, 5))
        writer.write(b"".join(b"%d %d\n" % (i, k + j) for j in range(burst)))
        for _ in range(burst):
            line = await reader.readline()
            if line != b"%d answers %d\n" % (i, k):
                sys.exit("client %d: %r, not the answer to %d" % (i, line, k))
            k += 1
        if k <= 1 or counts[i] == 0:
            ready += 1
            if ready == n:
                print("all connected", flush=True)
        counts[i] = k
        await asyncio.sleep(rnd.random() * 0.5)
    writer.close()
    await writer.wait_closed()

async def main():
    global stop
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, stop.set)
    await asyncio.gather(*(client(i) for i in range(n)))
    print(sum(counts), flush=True)

asyncio.run(main())
"""


def test(work):
    with network.Program(work, [real.find("python3"), "-c", SERVER]) as p:
        p.wait_for(lambda t: "port" in t, "the server")
        c = p.client(CLIENT, p.text().split()[1], CLIENTS)
        h.require(c.line() == "all connected", "not all are connected")
        took = []
        for gap in (0.05, 2, 0):
            real.time.sleep(0.5)
            p.running()
            real.time.sleep(0.2)
            took.append(p.again(gap))
            c.well()
        real.time.sleep(1)
        sent = int(c.stop())
        p.finish()
        h.require(p.text().endswith(f"answered {sent}\n"), f"{sent} lines were sent: {p.text()[-100:]}")
        d, r = (sorted(t)[1] for t in zip(*took))
        return f"{CLIENTS} connections, {sent} lines, dump {d:.2f} s, restore {r:.2f} s"


if __name__ == "__main__":
    network.main(test)
