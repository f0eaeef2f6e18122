#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The engine is ended at moments nobody chose, and the program must not notice.

  fault.py [--rounds N] [--seed N] [CASE]...

  kill-dump     kill -9 of the engine at a random moment of dump -R; the target is then alive, not traced, not stopped,
                has the same threads, areas, descriptors and masks, and no new children; every tenth round it is
                dumped and restored in earnest, and at the end it passes its own checks
  kill-snapshot the same, and cancelling, for one that is large enough to be written while it runs
  kill-dump-terminals  the same for a program whose terminals are full
  kill-dump-sockets    the same for one with much in the queues of its sockets
  kill-dump-datagrams  the same for its UDP sockets
  kill-dump-state      the same for threads with syscall user dispatch, and for threads with AMX tiles in use
  kill-dump-frozen     the same with --freeze-cgroup: the cgroup is then as it was
  cancel-dump   SIGINT or SIGTERM instead: the same, and the folder is left empty
  dying-target  the target is killed at a random moment of its dump: the engine says so soon, leaves no file, no guardian
  full-disk     dumps to file systems that fill up after a random number of bytes
  kill-restore  kill -9 of the engine at a random moment of a restore: no process of the tree is left behind, and the
                checkpoint still restores

With the same seed the moments are the same, as far as the machine's speed is.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402


def start(argv):
    return subprocess.Popen([h.CKPT, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def settle(pid, before, what, seconds=30):
    """Helpers and guardians may need a moment to clean up after a dead engine."""
    end = time.monotonic() + seconds * h.PATIENCE
    while True:
        try:
            diff = h.differences(before, h.snapshot(pid))
            h.untouched(pid)
            if not diff:
                break
            problem = "; ".join(diff[:6])
        except (h.Failure, OSError) as e:
            problem = str(e)
        h.require(time.monotonic() < end, f"{what}: {problem}")
        time.sleep(0.01)
    kids = h.read_text(f"/proc/{pid}/task/{pid}/children").split()
    h.require(not kids, f"{what}: the target has children now: {kids}")


def how_long(t, images, runs=3, way="-R"):
    took = []
    for _ in range(runs):
        shutil.rmtree(images, ignore_errors=True)
        took.append(h.must(h.dump(t.pid, images, way), "a dump that nobody disturbs").seconds)
        if way == "-s":
            os.kill(t.pid, signal.SIGCONT)
    shutil.rmtree(images, ignore_errors=True)
    return sorted(took)[len(took) // 2]


def disturb_dump(rounds, rnd, signals, target=("size", "8M,4,w"), way="-R"):
    with h.Workdir() as w, h.Target(w, *target) as t:
        t.ready()
        images = os.path.join(w, "i")
        before = h.settled_snapshot(t.pid)
        span = how_long(t, images, way=way) * 1.1
        ended_early = 0
        for i in range(rounds):
            os.makedirs(images, exist_ok=True)
            sig, delay = rnd.choice(signals), rnd.uniform(0, span)
            p = start(["dump", way, "-t", t.pid, "-D", images, *os.environ.get("CKPT_DUMP_OPTIONS", "").split()])
            time.sleep(delay)
            p.send_signal(sig)
            rc = p.wait(20 * h.PATIENCE)
            if way == "-s":
                os.kill(t.pid, signal.SIGCONT)  # it may have come to the end
            what = f"round {i}: {sig.name} after {delay * 1000:.2f} ms (engine: {rc})"
            ended_early += rc != 0
            settle(t.pid, before, what)
            # what the guardian has not put back yet would pass for the original with the next engine
            h.wait_until(lambda: not [g for g in guardians() if h.alive(g)], "the guardian to end", 30)
            if sig != signal.SIGKILL and rc != 0:
                left = os.listdir(images)
                h.require(not left, f"{what}: left in the folder: {left}")
            elif os.path.exists(os.path.join(images, "inventory.img")) and rc != 0 and i % 5 == 0:
                # killed, but complete: then it must be good
                h.must(h.ckpt("inspect", images), f"{what}: the inventory is there")
                h.must(h.ckpt("verify", images), f"{what}: the inventory is there")
            shutil.rmtree(images)
        h.require(ended_early > rounds // 4, f"only {ended_early} of {rounds} rounds met a dump under way")
        print(f"#   {ended_early} of {rounds} dumps were cut short")
        h.must(h.dump(t.pid, images), "the dump in earnest")
        t.reap()
        h.must(h.ckpt("restore", "-d", "-D", images), "restore")
        t.go()


def kill_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGKILL])


def kill_snapshot(rounds, rnd):
    """With enough memory that a copy-on-write snapshot of the program is written while it runs."""
    disturb_dump(rounds // 4, rnd, [signal.SIGKILL], ("size", "64M,2,w"))
    disturb_dump(rounds // 4, rnd, [signal.SIGINT, signal.SIGTERM], ("size", "64M,2,w"))


def kill_dump_terminals(rounds, rnd):
    """Bytes that are queued in terminals are taken out and put back."""
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("ptys", "full"))
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("ptys", "canon"))


def kill_dump_sockets(rounds, rnd):
    """Options of sockets are changed while their queues are looked at; the target compares them in the end."""
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("unix", "queues"))


def kill_dump_datagrams(rounds, rnd):
    """The same for UDP sockets; in a network of their own, for their ports."""
    h.own_network()
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("udp", "connected"))
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("udp", "queue6"))


def kill_dump_state(rounds, rnd):
    """What is turned off meanwhile, and frames of several pages."""
    disturb_dump(rounds, rnd, [signal.SIGKILL], ("sud", "threads"))
    if " amx_tile" in h.read_text("/proc/cpuinfo"):
        disturb_dump(rounds, rnd, [signal.SIGKILL], ("x86", "amx"))


def kill_dump_moving(rounds, rnd):
    """A helper of ours writes the memory from within, while the program stands still."""
    disturb_dump(rounds // 4, rnd, [signal.SIGKILL, signal.SIGKILL, signal.SIGINT], ("size", "64M"), "-s")


def kill_frozen(rounds, rnd, controller, was):
    import cgroups

    with cgroups.Scene("threads", "many") as s:
        g = s.group(controller).make().put(s.pid)
        before = h.settled_snapshot(s.pid)
        images = s.w + "/i"
        seen = h.must(h.dump(s.pid, images, "-R", "--freeze-cgroup", g.path), "a dump that nobody disturbs").seconds
        shutil.rmtree(images)
        cgroups.freeze(g, was)
        for i in range(rounds):
            os.makedirs(images)
            p = start(["dump", "-R", "-t", s.pid, "-D", images, "--freeze-cgroup", g.path])
            delay = rnd.uniform(0, seen * (1 if i % 2 else 0.3))  # it is frozen in the beginning
            time.sleep(delay)
            p.kill()
            what = f"{controller or 'v2'}, round {i}: killed after {delay * 1000:.2f} ms (engine: {p.wait(20 * h.PATIENCE)})"
            h.wait_until(lambda: not [x for x in guardians() if h.alive(x)], f"{what}: the guardian to end", 30)
            h.wait_until(lambda: cgroups.frozen(g) == was, f"{what}: the cgroup to be as it was")
            if not was:
                settle(s.pid, before, what)
            shutil.rmtree(images)
        cgroups.freeze(g, False)
        settle(s.pid, before, "in the end")
        s.t.go()


def kill_dump_frozen(rounds, rnd):
    """A cgroup that is frozen meanwhile is thawed; one that was frozen before is frozen again."""
    for controller in ("freezer", ""):
        for was in (False, True):
            kill_frozen(rounds // 4, rnd, controller, was)


def cancel_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGINT, signal.SIGTERM])


def guardians():
    """Those of engines that we started and that have ended: orphans, so ours. Other tests have some, too."""
    return [c for c in h.children(os.getpid()) if h.read_text(f"/proc/{c}/comm") == "ckpt-guardian\n"]


def dying_target(rounds, rnd):
    with h.Workdir() as w:
        met = 0
        for i in range(max(rounds // 4, 20)):
            images = os.path.join(w, "i")
            os.makedirs(images)
            with h.Target(w, "threads", "few") as t:
                t.ready()
                p = start(["dump", "-t", t.pid, "-D", images])
                time.sleep(rnd.uniform(0.001, 0.012))
                os.kill(t.pid, signal.SIGKILL)
                try:
                    rc = p.wait(20 * h.PATIENCE)  # at once, where nobody else wants the processors
                except subprocess.TimeoutExpired:
                    p.kill()
                    raise h.Failure(f"round {i}: the engine does not end") from None
                h.require(rc in (0, 1), f"round {i}: exit code {rc}")
                t.reap()
                left = os.listdir(images)
                h.require(rc == 0 or not left, f"round {i}: left in the folder: {left}")
                met += rc != 0
            shutil.rmtree(images)
        h.require(met > 0, "no round met a dump under way")
        print(f"#   {met} dumps failed with their target")
        h.wait_until(lambda: not [g for g in guardians() if h.alive(g)], "the guardians to end", 30)


def full_disk(rounds, rnd):
    with h.Workdir() as w, h.Target(w, "size", "8M,2,w") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        mnt = os.path.join(w, "disk")
        os.mkdir(mnt)
        for i in range(max(rounds // 20, 5)):
            size, inodes = rnd.randrange(64, 12 << 10), rnd.choice((0, rnd.randrange(3, 14)))
            opts = f"size={size}k" + (f",nr_inodes={inodes}" if inodes else "")
            if h.run(["mount", "-t", "tmpfs", "-o", opts, "none", mnt]).rc:
                raise h.Skip("cannot mount a tmpfs")
            try:
                r = h.ckpt("dump", "-t", t.pid, "-D", mnt, "-R")
                settle(t.pid, before, f"round {i} ({opts}): {r.rc}")
                if r.rc:
                    h.require(r.rc == 1 and not os.listdir(mnt), f"round {i} ({opts}): {r}; left {os.listdir(mnt)}")
            finally:
                h.run(["umount", mnt])
        t.go()


def kill_restore(rounds, rnd):
    with h.Workdir() as w, h.Target(w, "size", "8M,4") as t:
        t.ready()
        images = os.path.join(w, "i")
        h.must(h.dump(t.pid, images), "dump")
        t.reap()
        begin = time.monotonic()
        h.must(h.ckpt("restore", "-d", "-D", images), "restore")
        span = (time.monotonic() - begin) * 1.1
        h.kill_hard(t.pid)
        came_back = 0
        for i in range(rounds):
            delay = rnd.uniform(0, span)
            # not detached: when the engine dies the tree has nobody who waits for it, but may run on once it was
            # started; before that it must vanish
            p = start(["restore", "-d", "-D", images])
            time.sleep(delay)
            p.kill()
            rc = p.wait(20)
            what = f"round {i}: killed after {delay * 1000:.2f} ms (engine: {rc})"
            time.sleep(0.01)
            stat = h.state(t.pid)
            if rc == 0 or stat in "SR" and runs(t.pid):
                came_back += 1
                h.kill_hard(t.pid)
            h.wait_until(lambda: h.state(t.pid) in ("gone", "Z"), f"{what}: process {t.pid} to be gone", 5)
            h.reap(t.pid)
        print(f"#   {rounds - came_back} of {rounds} restores were cut short")
        h.must(h.ckpt("restore", "-d", "-D", images), "the restore in earnest")
        t.go()


def runs(pid):
    """Fully back: all five threads are there and nobody traces them."""
    try:
        h.untouched(pid)
        return len(os.listdir(f"/proc/{pid}/task")) == 5 and h.read_text(f"/proc/{pid}/comm") == "size\n"
    except (h.Failure, OSError):
        return False


CASES = {"kill-dump": kill_dump, "kill-snapshot": kill_snapshot, "kill-dump-terminals": kill_dump_terminals,
         "kill-dump-sockets": kill_dump_sockets, "kill-dump-datagrams": kill_dump_datagrams, "kill-dump-state": kill_dump_state, "cancel-dump": cancel_dump,
         "kill-dump-moving": kill_dump_moving, "kill-dump-frozen": kill_dump_frozen,
         "dying-target": dying_target,
         "full-disk": full_disk, "kill-restore": kill_restore}


def main(cases, rounds):
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=rounds)
    ap.add_argument("--seed", type=int, default=None)
    ap.add_argument("cases", nargs="*", choices=[[], *cases])
    args = ap.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 30)
    print(f"# seed {seed}")
    h.become_subreaper()
    report = h.Report()
    for name in args.cases or cases:
        def guarded(fn=cases[name]):
            h.need_engine()
            fn(args.rounds, random.Random(seed))
        report.case(name, guarded)
    report.finish()


if __name__ == "__main__":
    main(CASES, rounds=200)
