#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Whole-process wall time and freeze time of dumps and restores, against the reference engine where it works, in turns.

  tests/bench/run.py [--rounds N] [--sizes 1M,100M,1G] [--dir DIR] [--json FILE] [--stages]

The memory is incompressible; images go to DIR (default /var/tmp, which should be a disk). A dump is timed from
posix_spawn() to wait4(), which includes syncing to stable storage for us; what that costs by itself is measured with
/bin/true and printed. The reference engine does not sync, so its files are synced and timed with it (the column `synced`).
Freeze times come from stats-dump, which both write. --stages takes further rounds, with --display-stats: medians.
The reference engine is $CRIU or `criu` on PATH; whether it works here is tried first.
"""
import argparse
import json
import os
import re
import shutil
import statistics
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
        return spawned([self.path, *map(str, args)])


def spawned(argv):
    """Nothing of Python between the start of the program and its end. No time limit: the engine has its own."""
    with tempfile.TemporaryFile() as f:
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                   (os.POSIX_SPAWN_DUP2, f.fileno(), 1), (os.POSIX_SPAWN_DUP2, f.fileno(), 2)]
        start = time.monotonic()
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
        status = os.wait4(pid, 0)[1]
        took = time.monotonic() - start
        f.seek(0)
        return h.Result(os.waitstatus_to_exitcode(status), f.read().decode(errors="replace"), took)


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


def once(engine, size, base):
    """Figures of one dump and one restore, in milliseconds."""
    with h.Workdir() as w:
        folder = os.path.join(base, "images")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with h.Target(w, "size", size) as t:
            t.ready(60)
            os.sync()
            dump = h.must(engine.run("dump", "-t", t.pid, "-D", folder), f"{engine.name} dump").seconds
            start = time.monotonic()
            if not engine.syncs:
                sync_folder(folder)
            synced = dump + (time.monotonic() - start if not engine.syncs else 0)
            t.reap()
            restore = h.must(engine.run("restore", "-d", "-D", folder), f"{engine.name} restore").seconds
            t.go()
        s = stats(folder, "stats-dump")
        total = sum(e.stat().st_size for e in os.scandir(folder))
        shutil.rmtree(folder)
        return {"dump": dump * 1e3, "synced": synced * 1e3, "frozen": s.get("frozen_time", 0) / 1e3,
                "restore": restore * 1e3, "bytes": total}


def works(engine, base):
    try:
        once(engine, "1M", base)
        return None
    except h.Failure as e:
        return str(e).splitlines()[0][:200]


def table(text):
    """Stage to milliseconds, from the table of --display-stats, in its order."""
    return {m[1].strip(): float(m[2]) for m in re.finditer(r"^(.*\S)\s+(\d+\.\d+)$", text, re.M)}


def stages(engine, size, base, n):
    """The tables of --display-stats: medians of n dumps and n restores."""
    dumps, restores = [], []
    for _ in range(n):
        with h.Workdir() as w:
            folder = os.path.join(base, "images")
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            with h.Target(w, "size", size) as t:
                t.ready(60)
                os.sync()
                dumps.append(table(h.must(engine.run("dump", "-t", t.pid, "-D", folder, "--display-stats"), "dump").out))
                t.reap()
                r = h.must(engine.run("restore", "-d", "-D", folder, "--display-stats"), "restore")
                restores.append(table(r.out))
                t.go()
            shutil.rmtree(folder)
    return [{k: statistics.median(x.get(k, 0) for x in xs) for k in xs[0]} for xs in (dumps, restores)]


def print_stages(size, tables):
    for what, t in zip(("dump", "restore"), tables):
        print(f"\n# stages of {what}, {size}, medians, ms")
        for k, v in t.items():
            print(f"{k:<20} {v:9.3f}")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--sizes", default="1M,100M,1G")
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    ap.add_argument("--stages", action="store_true", help="print the engine's own table of stages, too")
    args = ap.parse_args()
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


def measure(args, base):
    engines = [Engine("ckpt", h.CKPT, True)]
    other = os.environ.get("CRIU") or shutil.which("criu")
    if other:
        reference = Engine("criu", other, False)
        why = works(reference, base)
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
                figures = once(e, size, base)
                if i:  # the first round warms things up
                    rounds[e.name].append(figures)
        results[size] = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rounds.items()}
        for n, rs in rounds.items():
            results[size][n]["all"] = rs
    kernel = os.uname().release
    print(f"# Linux {kernel}, {os.cpu_count()} processors, {args.rounds} rounds, medians; milliseconds")
    start = statistics.median(spawned(["/bin/true"]).seconds for _ in range(20))
    print(f"# starting a program and waiting for its end, by itself: {start * 1e3:.1f} ms")
    print(f"{'size':>6} {'engine':>7} {'dump':>9} {'synced':>9} {'frozen':>9} {'restore':>9} {'GB/s dump':>10} {'GB/s rest':>10}")
    for size, per in results.items():
        for name, f in per.items():
            rates = f"{f['bytes'] / f['synced'] / 1e6:10.2f} {f['bytes'] / f['restore'] / 1e6:10.2f}"
            print(f"{size:>6} {name:>7} {f['dump']:9.1f} {f['synced']:9.1f} {f['frozen']:9.1f} {f['restore']:9.1f} {rates}")
            best = {k: min(r[k] for r in f["all"]) for k in ("dump", "synced", "frozen", "restore")}
            rates = f"{f['bytes'] / best['synced'] / 1e6:10.2f} {f['bytes'] / best['restore'] / 1e6:10.2f}"
            print(f"{'':>6} {'(best)':>7}" + "".join(f" {best[k]:9.1f}" for k in best) + f" {rates}")
    if args.stages:
        for size in args.sizes.split(","):
            print_stages(size, stages(engines[0], size, base, args.rounds))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"kernel": kernel, "cpus": os.cpu_count(), "rounds": args.rounds, "results": results}, f, indent=1)


if __name__ == "__main__":
    main()
