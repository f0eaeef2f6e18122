#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Whole-process wall time and freeze time of dumps and restores, against the reference engine where it works, in turns.

  tests/bench/run.py [--rounds N] [--sizes 1M,100M,1G] [--tree] [--dir DIR] [--json FILE] [--stages]

--tree: instead of one process with so much memory, a tree of 501 processes, 500 of which hold 20 descriptors each, some of
their own and some that all of them share. The memory is incompressible; images go to DIR (default /var/tmp, which should be a disk). A dump is timed from the start
of the program to its end, which includes syncing to stable storage for us; the reference engine does not sync, so its
files are synced and timed with it (the column `synced`). Freeze times come from stats-dump, which both write.
The reference engine is $CRIU or `criu` on PATH; whether it works here is tried first.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402
import images as im  # noqa: E402


class Engine:
    def __init__(self, name, path, syncs):
        self.name, self.path, self.syncs = name, path, syncs

    def run(self, *args):
        """posix_spawn and a blocking wait4: what the harness does for timeouts (it polls) would cost milliseconds."""
        argv = [self.path, *map(str, args)]
        with tempfile.TemporaryFile() as out, open(os.devnull) as null:
            actions = [(os.POSIX_SPAWN_DUP2, null.fileno(), 0), (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                       (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
            start = time.monotonic()
            pid = os.posix_spawn(self.path, argv, os.environ, file_actions=actions)
            _, status, _ = os.wait4(pid, 0)
            took = time.monotonic() - start
            out.seek(0)
            return h.Result(os.waitstatus_to_exitcode(status), out.read().decode(errors="replace"), took)


def stats(folder, which):
    path = os.path.join(folder, which)
    if not os.path.exists(path):
        return {}
    try:
        m = im.read(path)[0]
    except Exception:
        return {}
    part = m.dump if which == "stats-dump" else m.restore
    return {f.name: v for f, v in part.ListFields()}


def sync_folder(folder):
    for name in os.listdir(folder):
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


TREE = "500x20"  # what is measured is called by its size; this one is no single process


def target(work, size):
    return h.Target(work, "crowd", "fivehundred") if size == TREE else h.Target(work, "size", size)


def end_of(t):
    """Waits for a tree that a dump has ended: what is not its root is ours as orphan. Not timed."""
    t.reap()
    for pid in h.children(os.getpid()):
        h.reap(pid)


def once(engine, size, base):
    """Figures of one dump and one restore, in milliseconds."""
    with h.Workdir() as w:
        folder = os.path.join(base, "images")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with target(w, size) as t:
            t.ready(60)
            os.sync()
            start = time.monotonic()
            r = h.must(engine.run("dump", "-t", t.pid, "-D", folder, "--timeout", 60), f"{engine.name} dump")
            dump = r.seconds
            if not engine.syncs:
                sync_folder(folder)
            synced = dump if engine.syncs else time.monotonic() - start
            end_of(t)
            restore = h.must(engine.run("restore", "-d", "-D", folder), f"{engine.name} restore").seconds
            t.go()
        s = stats(folder, "stats-dump")
        total = sum(e.stat().st_size for e in os.scandir(folder))
        shutil.rmtree(folder)
        return {"dump": dump * 1e3, "synced": synced * 1e3, "frozen": s.get("frozen_time", 0) / 1e3,
                "restore": restore * 1e3, "bytes": total}, r


def works(engine, base, size):
    try:
        once(engine, size, base)
        return None
    except h.Failure as e:
        return str(e).splitlines()[0][:200]


def parse_stages(text):
    """{stage: milliseconds} of a table that --display-stats printed."""
    rows = {}
    for row in text.splitlines():
        m = re.match(r"(\S.*?|  of it .*?) +(\d+\.\d+)( |$)", row)
        if m:
            rows[m.group(1).strip()] = float(m.group(2))
    return rows


def stages(engine, size, base, rounds):
    """The tables of --display-stats of dumps and restores: of each row the median and the least."""
    tables = {"dump": [], "restore": []}
    for _ in range(rounds):
        with h.Workdir() as w:
            folder = os.path.join(base, "images")
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            with target(w, size) as t:
                t.ready(60)
                d = h.must(engine.run("dump", "-t", t.pid, "-D", folder, "--timeout", 60, "--display-stats"), "dump")
                end_of(t)
                r = h.must(engine.run("restore", "-d", "-D", folder, "--display-stats"), "restore")
                t.go()
            shutil.rmtree(folder)
        tables["dump"].append(parse_stages(d.out))
        tables["restore"].append(parse_stages(r.out))
    lines = []
    for which, runs in tables.items():
        lines.append(f"{which:<24} {'median':>9} {'least':>9}")
        for name in runs[0]:
            values = [t[name] for t in runs if name in t]
            lines.append(f"{name:<24} {statistics.median(values):9.3f} {min(values):9.3f}")
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--sizes", default="1M,100M,1G")
    ap.add_argument("--tree", action="store_true", help="a tree of 500 processes instead")
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    ap.add_argument("--stages", action="store_true", help="the engine's own tables of stages, too, from as many further rounds")
    args = ap.parse_args()
    if args.tree:
        args.sizes = TREE
    h.become_subreaper()
    try:
        h.need_engine()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    base = os.path.join(args.dir, f"ckpt-bench-{os.getpid()}")
    os.makedirs(base)
    try:
        measure(args, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def line(size, name, f):
    rates = [f["bytes"] / f[k] / 1e6 for k in ("synced", "restore")]
    print(f"{size:>6} {name:>7} {f['dump']:9.1f} {f['synced']:9.1f} {f['frozen']:9.1f} {f['restore']:9.1f} "
          f"{rates[0]:10.2f} {rates[1]:8.2f}")


def measure(args, base):
    engines = [Engine("ckpt", h.CKPT, True)]
    other = os.environ.get("CRIU") or shutil.which("criu")
    if other:
        reference = Engine("criu", other, False)
        why = works(reference, base, args.sizes.split(",")[0])
        if why:
            print(f"# {other} does not work here, measured without it: {why}")
        else:
            engines.append(reference)
    else:
        print("# no reference engine (set CRIU=path)")
    results = {}
    for size in args.sizes.split(","):
        rounds = {e.name: [] for e in engines}
        for i in range(args.rounds + 1):
            for e in engines:
                figures, _ = once(e, size, base)
                if i:  # the first round warms things up
                    rounds[e.name].append(figures)
        results[size] = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rounds.items()}
        for n, rs in rounds.items():
            results[size][n]["all"] = rs
    kernel = os.uname().release
    print(f"# Linux {kernel}, {os.cpu_count()} processors, {args.rounds} rounds, medians; milliseconds")
    print(f"{'size':>6} {'engine':>7} {'dump':>9} {'synced':>9} {'frozen':>9} {'restore':>9} {'GB/s dump':>10} {'restore':>8}")
    for size, per in results.items():
        for name, f in per.items():
            line(size, name, f)
            line("", "fastest", {k: min(r[k] for r in f["all"]) for k in f["all"][0]})
        if len(per) > 1:
            ours, theirs = per["ckpt"], per["criu"]
            print(f"{'':>6} {'ratio':>7} " + " ".join(f"{ours[k] / theirs[k] if theirs[k] else 0:9.2f}"
                                                   for k in ("dump", "synced", "frozen", "restore")) + "  (ours / theirs)")
    if args.stages:
        for size in args.sizes.split(","):
            print(f"\n# stages, {size}\n{stages(engines[0], size, base, args.rounds)}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"kernel": kernel, "cpus": os.cpu_count(), "rounds": args.rounds, "results": results}, f, indent=1)


if __name__ == "__main__":
    main()
