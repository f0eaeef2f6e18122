#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""python3's asyncio: an event loop (epoll) over pipes, timers, threads and a child process that it watches by a pidfd."""
import real

PROGRAM = r"""
import asyncio, os, signal, sys
ROUNDS = 300
said = []
async def reader(fd, lines):
    r = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(r), os.fdopen(fd, "rb", 0))
    while line := await r.readline():
        lines.append(int(line))
async def ticker(counts):
    while True:
        await asyncio.sleep(0.005)
        counts["ticks"] += 1
async def echo(child, i):
    child.stdin.write(f"{i}\n".encode())
    await child.stdin.drain()
    assert int(await child.stdout.readline()) == i
async def main():
    loop, lines, counts = asyncio.get_running_loop(), [], {"ticks": 0, "signals": 0}
    loop.add_signal_handler(signal.SIGUSR2, lambda: counts.__setitem__("signals", counts["signals"] + 1))
    r, w = os.pipe()
    read, tick = asyncio.create_task(reader(r, lines)), asyncio.create_task(ticker(counts))
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    ended = asyncio.create_task(child.wait())
    for i in range(ROUNDS):
        os.write(w, f"{i}\n".encode())
        await echo(child, i)
        assert await loop.run_in_executor(None, lambda: i * i) == i * i
        if i % 10 == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
        await asyncio.sleep(0.004)
        print("round", i, flush=True)
    os.close(w)
    await read
    assert lines == list(range(ROUNDS)), lines
    assert not ended.done()
    child.stdin.close()
    assert await asyncio.wait_for(ended, 5) == 0
    tick.cancel()
    assert counts["signals"] == ROUNDS // 10 and counts["ticks"] > 50, counts
    print("all right", flush=True)
asyncio.run(main())
"""


def rounds(text):
    return text.count("round")


def test(work):
    with real.Program(work, ["/usr/bin/python3", "-c", PROGRAM]) as p:
        at = []
        for want in (20, 100, 200):
            p.wait_for(lambda t: rounds(t) >= want, f"{want} rounds")
            p.again(0.05, tasks=2)
            at.append(rounds(p.text()))
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
        real.h.require(at[0] < 300, "the first checkpoint came too late")
        return f"checkpointed at {at} of 300 rounds"


real.main(test)
