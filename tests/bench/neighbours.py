#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A small dump beside large ones: what the gate before the disk gives, and what it costs.

  tests/bench/neighbours.py [--rounds N] [--large 1G] [--number 5] [--small 16M] [--smalls 3] [--dir DIR] [--policies A,B]
                            [--json FILE]

In turns, N times after one round to warm up: small dumps alone; then the large ones begin at the same moment, with each
policy, and while they run the small ones follow one by one, the first after 0.3 s. Printed are medians in milliseconds: a
small one alone and beside, the large ones together from the start of the first to the end of the last, how long the trees
of the large ones stood still, and whether that is within the goals: a small one at most 1.3 times what it takes alone (or 25 ms more), the
large ones at most 1.1 times what they take with --io-policy none. A dump that was not under way while others were is not counted.
"""
import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), d) for d in (".", os.path.join("..", "e2e"))]
import harness as h  # noqa: E402
import engines as en  # noqa: E402


class Fresh:
    """A program in a folder of its own, and one for its images."""

    def __init__(self, base, size):
        self.dir = tempfile.mkdtemp(dir=base)
        self.images = os.path.join(self.dir, "images")
        os.mkdir(self.images)
        self.target = h.Target(self.dir, "size", size)

    def ready(self):
        self.target.ready(120)
        return self

    def argv(self, policy):
        return ["dump", "-t", self.target.pid, "-D", self.images, "--io-policy", policy, "--timeout", 120]

    def frozen(self):
        return en.stats(self.images, "stats-dump").get("frozen_time", 0) / 1e3

    def end(self):
        h.kill_hard(self.target.pid)
        self.target.reap()
        shutil.rmtree(self.dir, ignore_errors=True)


def alone(engine, base, args):
    times = []
    for _ in range(args.smalls):
        p = Fresh(base, args.small).ready()
        os.sync()
        time.sleep(0.1)
        times.append(engine.run(*p.argv("least-left")).ms)
        p.end()
    return {"small": times}


def beside(engine, base, args, policy):
    large = [Fresh(base, args.large) for _ in range(args.number)]
    small = [Fresh(base, args.small) for _ in range(args.smalls)]
    for p in large + small:
        p.ready()
    os.sync()
    time.sleep(0.2)
    start = time.monotonic()
    running = [engine.begin(*p.argv(policy)) for p in large]
    ended, failed = [], []

    def wait(r):
        try:
            r.end()
        except h.Failure as e:
            failed.append(e)
        ended.append(time.monotonic())

    threads = [threading.Thread(target=wait, args=(r,)) for r in running]
    for t in threads:
        t.start()
    times = []
    for p in small:
        time.sleep(0.3)
        r = engine.run(*p.argv(policy))
        if len(ended) < args.number:
            times.append(r.ms)
    for t in threads:
        t.join()
    if failed:
        raise failed[0]
    figures = {"small": times, "all": [(max(ended) - start) * 1e3], "each": [(e - start) * 1e3 for e in ended],
               "frozen": [p.frozen() for p in large], "small frozen": [p.frozen() for p in small]}
    for p in large + small:
        p.end()
    return figures


def add(kept, figures):
    for k, v in figures.items():
        kept.setdefault(k, []).extend(v)


def line(name, f):
    cells = []
    for key in ("small", "small frozen", "all", "each", "frozen"):
        v = f.get(key)
        cells.append(f"{statistics.median(v):9.1f} {min(v):8.1f}" if v else f"{'':>18}")
    print(f"{name:>12} " + " ".join(cells), flush=True)


def verdict(results, args):
    ok = True
    base = statistics.median(results["alone"]["small"])
    limit = max(1.3 * base, base + 25)
    for policy in args.policies.split(","):
        small = statistics.median(results[policy]["small"] or [float("nan")])
        good = small <= limit
        text = f"{policy}: a small one takes {small:.1f} ms beside {args.number}, alone {base:.1f}: {small / base:.2f} times"
        if policy != "none":
            print(f"{text}, at most {limit:.1f}: {'reached' if good else 'NOT reached'}")
            ok = ok and good
            if "none" in results:
                together = statistics.median(results[policy]["all"]) / statistics.median(results["none"]["all"])
                print(f"{policy}: the large ones together {together:.2f} times without: {'reached' if together <= 1.1 else 'NOT reached'}")
                ok = ok and together <= 1.1
        else:
            print(text)
    return ok


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--large", default="1G")
    ap.add_argument("--number", type=int, default=5)
    ap.add_argument("--small", default="16M")
    ap.add_argument("--smalls", type=int, default=3)
    ap.add_argument("--policies", default="least-left,none")
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    args = ap.parse_args()
    try:
        h.need_engine()
        h.own_neighbours()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    h.become_subreaper()
    engine = en.Engine("ckpt", h.CKPT, True)
    base = tempfile.mkdtemp(prefix="ckpt-neighbours-", dir=args.dir)
    results = {}
    try:
        for i in range(args.rounds + 1):
            for name in ["alone"] + args.policies.split(","):
                f = alone(engine, base, args) if name == "alone" else beside(engine, base, args, name)
                if i:
                    add(results.setdefault(name, {}), f)
                if sys.stdout.isatty():
                    line(f"# {i} {name}", f)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"# Linux {os.uname().release}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds; "
          "median and least, milliseconds")
    print(f"{'':>12} {'small':>18} {'its freeze':>18} {'large, all':>18} {'large, each':>18} {'large, frozen':>18}")
    for name, f in results.items():
        line(name, f)
    ok = verdict(results, args)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"kernel": os.uname().release, "cpus": os.cpu_count(), "results": results}, f, indent=1)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
