#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast memory is saved and brought back: ours and the reference engine's in turns, and the disk's own limit beside them.

  tests/bench/pages.py [--rounds N] [--only PART,...] [--sizes 1M,...] [--dir DIR] [--json FILE] [--write]

Parts: sizes (dump, freeze, restore from a warm and a cold page cache), tasks (200 processes; 1,000 threads), incremental,
lazy, beside (1 to 5 dumps at once), memory (of the engine). Images go to DIR (default /var/tmp), which should be a disk. Each figure is the median of
N rounds (default 5) after one to warm up. With --write, the tables and pictures of docs/design/performance.md are made
anew. Where no reference engine works there is no comparison, and the output says so.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), d) for d in (".", os.path.join("..", "e2e"))]
import harness as h  # noqa: E402
import engines as en  # noqa: E402
import program as pr  # noqa: E402
import report  # noqa: E402

PARTS = ("sizes", "tasks", "incremental", "lazy", "beside", "memory")
SIZES = "1M,16M,100M,1G,4G"


class Bench:
    def __init__(self, args, base):
        self.args, self.base, self.rows = args, base, []
        self.ours = en.Engine("ckpt", h.CKPT, True)

    def folder(self, name="images"):
        path = os.path.join(self.base, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path

    def program(self, *args, **kw):
        work = tempfile.mkdtemp(dir=self.base)
        return pr.Program(work, *args, **kw)

    def rounds(self, part, what, engine_names, once, n=None):
        """Runs @once(engine) for each engine in turns; keeps the figures of all rounds but the first."""
        kept = {e.name: [] for e in engine_names}
        for i in range((n or self.args.rounds) + 1):
            for e in engine_names:
                figures = once(e)
                if i:
                    kept[e.name].append(figures)
        for name, rounds in kept.items():
            row = {"part": part, "what": what, "engine": name, "figures": {k: [r[k] for r in rounds if k in r] for k in rounds[0]}}
            self.rows.append(row)
            report.print_row(row)

    # ------------------------------------------------------------------------------------------------------ parts

    def dump(self, engine, program, folder, *more):
        """Ends the program. Time until everything is on stable storage."""
        os.sync()
        start = time.monotonic()
        r = engine.run("dump", "-t", program.pid, "-D", folder, *more)
        if not engine.syncs:
            en.sync(folder)
        return r, (time.monotonic() - start) * 1e3

    def once(self, engine, *args, **kw):
        """A dump that ends the program, one with -R before it, and two restores."""
        figures = {}
        with self.program(*args, **kw) as p:
            folder = self.folder()
            p.reset_gap()
            engine.run("dump", "-t", p.pid, "-D", folder, "-R")
            figures["frozen, -R: seen by the program"] = p.gap()
            figures["frozen, -R: its own word"] = en.stats(folder, "stats-dump").get("frozen_time", 0) / 1e3
            folder = self.folder()
            r, figures["dump, synced"] = self.dump(engine, p, folder)
            figures["dump"] = r.ms
            p.ended()
            figures["MB"] = en.size_of(folder) / 1e6
            for name, prepare in (("cold", en.cool), ("warm", en.warm)):
                prepare(folder)
                r = engine.run("restore", "-d", "-D", folder)
                figures[f"restore, {name}"] = r.ms
                if name == "cold":
                    p.check()
                for pid in [p.pid] + h.descendants(p.pid):
                    h.kill_hard(pid)
                p.reap_orphans()
        return figures

    def sizes(self):
        for size in self.args.sizes.split(","):
            for pages in ("plain", "huge"):
                if pages == "huge" and size in ("1M", "4G"):
                    continue
                self.disk()
                self.rounds("sizes", f"{size}, {pages}", self.engines, lambda e, s=size, g=pages: self.once(e, s, g))
        self.disk()

    def tasks(self):
        self.rounds("tasks", "200 processes of 1 MiB", self.engines, lambda e: self.once(e, "200M", "plain", tasks=200))
        self.rounds("tasks", "1000 threads", self.engines, lambda e: self.once(e, "4M", "plain", threads=1000))

    def incremental_once(self, engine, permille):
        figures = {}
        with self.program("1G") as p:
            chain = self.folder("chain")
            first, second, last = (os.path.join(chain, n) for n in "123")
            for folder in (first, second, last):
                os.makedirs(folder)
            figures["first pre-dump"] = engine.run("pre-dump", "-t", p.pid, "-D", first).ms
            p.ask(pr.DIRTY, permille)
            figures["pre-dump"] = engine.run("pre-dump", "-t", p.pid, "-D", second, "--prev-images-dir", "../1").ms
            p.ask(pr.DIRTY, permille)
            r, figures["dump"] = self.dump(engine, p, last, "--prev-images-dir", "../2", "--track-mem")
            p.ended()
            figures["MB"] = en.size_of(last) / 1e6
            engine.run("restore", "-d", "-D", last)
            p.check()
        return figures

    def incremental(self):
        def full(engine):
            with self.program("1G") as p:
                figures = {"dump": self.dump(engine, p, self.folder())[1]}
                p.ended()
            return figures

        self.rounds("incremental", "full", self.engines, full)
        for permille in (10, 100):
            self.rounds("incremental", f"{permille / 10:g} % dirty", self.engines,
                        lambda e, n=permille: self.incremental_once(e, n))

    def lazy_once(self, size):
        figures = {}
        with self.program(size) as p:
            folder = self.folder()
            self.dump(self.ours, p, folder)
            p.ended()
            en.warm(folder)
            p.set(pr.FIRST, 0)
            start = time.monotonic_ns()
            self.ours.run("restore", "-d", "--lazy-pages", "-D", folder)
            h.wait_until(lambda: p.get(pr.FIRST), "the first instruction", 20, 0.0005)
            figures["first instruction"] = (p.get(pr.FIRST) - start) / 1e6
            h.wait_until(lambda: not lazy_daemons(folder), "all pages", 120, 0.001)
            figures["complete"] = (time.monotonic_ns() - start) / 1e6
            p.check()
        return figures

    def lazy(self):
        for size in ("1M", "100M", "1G"):
            self.rounds("lazy", size, [self.ours], lambda e, s=size: self.lazy_once(s))

    def beside_once(self, engine, n):
        programs = [self.program("256M") for _ in range(n)]
        folders = [self.folder(f"images{i}") for i in range(n)]
        try:
            os.sync()
            start = time.monotonic()
            running = [engine.begin("dump", "-t", p.pid, "-D", f) for p, f in zip(programs, folders)]
            each = [r.end().ms for r in running]
            if not engine.syncs:
                for f in folders:
                    en.sync(f)
            total = (time.monotonic() - start) * 1e3
            for p in programs:
                p.ended()
            return {"all of them": total, "the mean of each": sum(each) / n}
        finally:
            for p in programs:
                p.__exit__()
            for f in folders:
                shutil.rmtree(f)

    def beside(self):
        for n in range(1, 6):
            self.rounds("beside", f"{n} of 256 MiB", self.engines, lambda e, k=n: self.beside_once(e, k))

    def memory_once(self, size, tasks, threads):
        with self.program(size, tasks=tasks, threads=threads) as p:
            folder = self.folder()
            figures = {"dump": self.ours.begin("dump", "-t", p.pid, "-D", folder).peak()}
            p.ended()
            figures["restore"] = self.ours.begin("restore", "-d", "-D", folder).peak()
            return figures

    def memory(self):
        for what, size, tasks, threads in (("1 MiB", "1M", 1, 0), ("4 GiB", "4G", 1, 0), ("200 processes", "200M", 200, 0),
                                           ("1000 threads", "4M", 1, 1000)):
            self.rounds("memory", what, [self.ours], lambda e, s=size, t=tasks, n=threads: self.memory_once(s, t, n), 1)

    def disk(self):
        """The physical limit, again and again in the same run."""
        for write in (True, False):
            rate = en.fio(self.base, write)
            if rate:
                self.rows.append({"part": "disk", "what": "write" if write else "read", "engine": "fio", "figures": {"MB/s": [rate]}})
        path = os.path.join(self.base, "fio.data")
        if os.path.exists(path):
            os.unlink(path)

    def run(self):
        self.engines = [self.ours]
        other, why = en.reference(lambda e: self.once(e, "1M"))
        if other:
            self.engines.append(other)
        else:
            print(f"# {why}")
        self.why_alone = why
        for part in PARTS:
            if part in self.args.only.split(","):
                getattr(self, part)()


def lazy_daemons(folder):
    """Processes of ours that still bring pages of @folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        command = h.read_text(f"/proc/{pid}/cmdline").replace("\0", " ")
        if "--lazy-pages" in command and folder in command and "pages.py" not in command:
            found.append(int(pid))
    return found


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--only", default=",".join(PARTS))
    ap.add_argument("--sizes", default=SIZES)
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    ap.add_argument("--write", action="store_true", help="make docs/design/performance.md's tables and pictures anew")
    args = ap.parse_args()
    h.become_subreaper()
    try:
        h.need_engine()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    base = os.path.join(args.dir, f"ckpt-bench-{os.getpid()}")
    os.makedirs(base)
    bench = Bench(args, base)
    try:
        bench.run()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    results = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": args.rounds, "load": os.getloadavg()[2],
               "reference": bench.why_alone, "rows": bench.rows}
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    if args.write:
        report.write(results)


if __name__ == "__main__":
    main()
