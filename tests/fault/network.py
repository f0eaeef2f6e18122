#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The engine is ended at moments nobody chose while connections of its target are locked, or made again. The peer is outside.

  network.py [--rounds N] [--seed N] [CASE]...

  kill-dump     kill -9 of the engine at a random moment of dump -R, often in the middle of what it does with connections; then
                nothing is held back, and all connections go on both ways (none is in repair mode)
  cancel-dump   SIGINT or SIGTERM instead: the same
  kill-states   kill -9 with the target tcp.finwait2, closing, lastack, whose own checks are fine in the end
  kill-restore  kill -9 at a random moment of a restore: what the dump has locked is still locked, no peer hears of it, and the
                next restore brings everything back
"""
import os
import shutil
import signal
import sys
import time

import fault
from fault import h
import network_bad as nb

CONNECTIONS = 30


def settled(what, before, server):
    """Guardians need a moment to clean up after a dead engine."""
    h.wait_until(lambda: not [g for g in fault.guardians() if h.alive(g)], f"{what}: the guardian to end", 5)
    fault.settle(server.t.pid, before, what)
    h.require(not h.network_locks(), f"{what}: still held back: {h.network_locks()}")


def talk(server, n, what):
    """Both ways on every connection; a socket in repair mode sends nothing."""
    try:
        for s in server.conns:
            s.sendall(b"%d" % n)
        for s in server.conns:
            h.require(nb.receive(s, len(b"%d" % n)) == b"%d" % n, "something else came back")
    except (OSError, h.Failure) as e:
        raise h.Failure(f"{what}: {e}; the server saw {server.events()[-3:]}") from None


def disturb_dump(rounds, rnd, signals):
    with nb.server() as s:
        for _ in range(CONNECTIONS):
            nb.say(s.connect(), b"hello")
        images = s.images
        before = h.settled_snapshot(s.t.pid)
        took = []
        for _ in range(3):
            took.append(h.must(s.dump(nb.EST, "-R"), "a dump that nobody disturbs").seconds)
            shutil.rmtree(images)
        span, early = sorted(took)[1] * 1.1, 0
        for i in range(rounds):
            os.makedirs(images, exist_ok=True)
            sig, delay = rnd.choice(signals), rnd.uniform(0, span)
            p = fault.start(["dump", "-R", "-t", s.t.pid, "-D", images, nb.EST])
            if i % 2:  # as soon as there is a lock
                end = time.monotonic() + 5
                while not h.network_locks() and p.poll() is None and time.monotonic() < end:
                    pass
                delay = rnd.uniform(0, 0.004)
            time.sleep(delay)
            p.send_signal(sig)
            rc = p.wait(20 * h.PATIENCE)
            what = f"round {i}: {sig.name} after {delay * 1000:.2f} ms (engine: {rc})"
            early += rc != 0
            settled(what, before, s)
            talk(s, i, what)
            shutil.rmtree(images)
        h.require(early > rounds // 4, f"only {early} of {rounds} rounds met a dump under way")
        print(f"#   {early} of {rounds} dumps were cut short")
        s.dumped()
        s.restored()
        talk(s, 12345, "after the restore")
        s.finish()


def kill_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGKILL])


def cancel_dump(rounds, rnd):
    disturb_dump(rounds // 2, rnd, [signal.SIGINT, signal.SIGTERM])


def kill_states(rounds, rnd):
    os.environ["CKPT_DUMP_OPTIONS"] = nb.EST
    restore = h.ckpt

    def with_option(*args, **kw):
        return restore(*args, *([nb.EST] if args[0] == "restore" else []), **kw)
    h.ckpt = with_option
    try:
        for variant in ("finwait2", "closing", "lastack", "full"):
            fault.disturb_dump(max(rounds // 3, 8), rnd, [signal.SIGKILL], ("tcp", variant))
            nb.free()
    finally:
        h.ckpt = restore
        del os.environ["CKPT_DUMP_OPTIONS"]


def ended(pid):
    """In a moment, at the latest: its engine was killed."""
    for _ in range(int(200 * h.PATIENCE)):
        if h.state(pid) in ("gone", "Z"):
            return True
        time.sleep(0.01)
    return False


def kill_restores(rounds, rnd):
    """Returns how many rounds there were, how many were cut short, and whether the last one ended the connections."""
    with nb.server() as s:
        for _ in range(CONNECTIONS):
            nb.say(s.connect(), b"hello")
        s.dumped()
        begin = time.monotonic()
        s.restored()
        span = (time.monotonic() - begin) * 1.1
        talk(s, 1, "after a restore that nobody disturbs")
        s.images += "2"
        s.dumped()
        locks, cut = h.network_locks(), 0
        for i in range(rounds):
            p = fault.start(["restore", "-d", "-D", s.images, nb.EST])
            delay = rnd.uniform(0, span)
            time.sleep(delay)
            p.kill()
            rc = p.wait(20 * h.PATIENCE)
            what = f"round {i}: killed after {delay * 1000:.2f} ms (engine: {rc})"
            time.sleep(0.02)
            if rc == 0 or not h.network_locks():  # too late: it lives again
                if not h.alive(s.t.pid):
                    return i + 1, cut, True
                talk(s, i, what)
                s.images = os.path.join(s.work, f"i{i}")
                s.dumped()
                locks = h.network_locks()
                continue
            if not ended(s.t.pid):  # between the moment in which it runs and that in which the lock goes
                h.must(h.ckpt("unlock", "-D", s.images), f"{what}: unlock")
                talk(s, i, f"{what}, unlocked")
                s.images = os.path.join(s.work, f"i{i}")
                s.dumped()
                locks = h.network_locks()
                continue
            cut += 1
            h.reap(s.t.pid)
            h.require(h.network_locks() == locks, f"{what}: tables: {h.network_locks()}")
            for c in s.conns:
                nb.quiet(c)
        s.restored()
        talk(s, 12345, "after the last restore")
        s.finish()
        return rounds, cut, False


def kill_restore(rounds, rnd):
    """Whenever it is: the tree lives with its connections, or it is gone and the lock is there for another restore."""
    _, cut, lost = kill_restores(max(rounds // 2, 10), rnd)
    h.require(not lost, "the tree was gone, and so was its lock")
    h.require(cut, "no restore was cut short")
    print(f"#   {cut} restores were cut short")


CASES = {"kill-dump": kill_dump, "cancel-dump": cancel_dump, "kill-states": kill_states, "kill-restore": kill_restore}

if __name__ == "__main__":
    try:
        h.own_network()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    fault.main(CASES, rounds=60)
