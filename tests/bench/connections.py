#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast a server with many TCP connections is saved and brought back; its client stays outside. Ours and the reference
engine's in turns.

  tests/bench/connections.py [--rounds N] [--sizes 1000,8000] [--full N] [--dir DIR] [--json FILE] [--stages] [--write]

Two kinds of rows: so many connections on which nobody says anything (--sizes), and a few whose queues are full on both sides in both
directions (--full). Each figure is the median of N rounds (default 5) after one to warm up; each round has new connections, and all
of them are used after the restore. In a network namespace of its own. With --stages, what the program itself says of where the
time goes. With --write, the table of docs/design/performance.md is made anew.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), d) for d in (".", os.path.join("..", "e2e"))]
import harness as h  # noqa: E402
import engines as en  # noqa: E402
import program as pr  # noqa: E402
import report  # noqa: E402

COUNT, PORT = 4, pr.FIRST
PATH = os.path.join(os.path.dirname(pr.PATH), "bench_connections")
LIMIT = 2000  # ms, dump and restore together
COLUMNS = ["dump", "restore", "together", "frozen, -R: seen by the program", "frozen, -R: its own word", "MB in flight"]
OPTION = "--tcp-established"


class End(pr.Program):
    """The server, or its client."""

    def __init__(self, folder, role, n, port=0):
        self.path, self.tasks, self.role = os.path.join(folder, role), 1, role
        with open(self.path, "wb") as f:
            f.truncate(4096)
        with open(self.path, "r+b") as f:
            self.map = pr.mmap.mmap(f.fileno(), 4096)
        self.proc = subprocess.Popen([os.path.realpath(PATH), self.path, role, str(n), str(port)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, close_fds=True)
        self.pid = self.proc.pid

    def ready(self, field=pr.READY):
        h.wait_until(lambda: self.get(field) or self.proc.poll() is not None, f"the {self.role}", 120)
        if self.proc.poll() is not None:
            raise h.Failure(f"the {self.role} did not start")
        return self.get(field)

    def fill(self):
        self.ask(pr.DIRTY)
        return self.get(pr.ARGUMENT)

    def ended(self):
        self.proc.wait(60)


class Bench:
    def __init__(self, args, base):
        self.args, self.base, self.rows, self.tables = args, base, [], {}
        self.ours = en.Engine("ckpt", h.CKPT, True)

    def folder(self):
        """None is removed before the end: ext4 looks long for an inode where thousands were freed a moment ago."""
        return tempfile.mkdtemp(prefix="images-", dir=self.base)

    def once(self, engine, n, full):
        work = tempfile.mkdtemp(dir=self.base)
        with End(work, "server", n) as server, End(work, "client", n, server.ready(PORT)) as client:
            server.ready(), client.ready()
            sent = [e.fill() for e in (client, server)] if full else [0, 0]
            figures = self.measure(engine, server, full)
            figures["MB in flight"] = sum(sent) / 1e6 if full else 0
            if full:
                for e, there in ((server, sent[0]), (client, sent[1])):
                    e.set(pr.WRONG, 0)
                    e.set(pr.ARGUMENT, there)
                    e.set(pr.COMMAND, COUNT)
                for e in (server, client):
                    h.wait_until(lambda e=e: e.get(pr.COMMAND) == pr.NOTHING, "all bytes to be counted", 90, 0.001)
                wrong = server.get(pr.WRONG) + client.get(pr.WRONG)
            else:
                server.set(pr.WRONG, 0)
                server.ask(pr.CHECK)
                wrong = server.get(pr.WRONG)
            h.require(not wrong, f"{wrong} connections do not work after the restore")
        return figures

    def measure(self, engine, server, full):
        """A dump with -R, one that ends the server, and a restore."""
        figures, folder = {}, self.folder()
        server.reset_gap()
        engine.run("dump", "-t", server.pid, "-D", folder, "-R", OPTION)
        figures["frozen, -R: seen by the program"] = server.gap()
        figures["frozen, -R: its own word"] = en.stats(folder, "stats-dump").get("frozen_time", 0) / 1e3
        stages = ["--display-stats"] if self.args.stages and engine is self.ours else []
        folder = self.folder()
        os.sync()
        start = time.monotonic()
        d = engine.run("dump", "-t", server.pid, "-D", folder, OPTION, *stages)
        if not engine.syncs:
            en.sync(folder)
        figures["dump"] = (time.monotonic() - start) * 1e3
        server.ended()
        r = engine.run("restore", "-d", "-D", folder, OPTION, *stages)
        figures["restore"] = r.ms
        figures["together"] = figures["dump"] + figures["restore"]
        if stages:
            for which, ran in (("dump", d), ("restore", r)):
                self.note(f"{which}{', full' if full else ''}", ran.out)
        return figures

    def note(self, which, text):
        for m in re.finditer(r"^(\S.*?|  of it .*?) +(\d+\.\d+)( |$)", text, re.M):
            self.tables.setdefault(which, {}).setdefault(m[1].strip(), []).append(float(m[2]))

    def row(self, what, n, full):
        kept = {e.name: [] for e in self.engines}
        self.tables = {}
        for i in range(self.args.rounds + 1):
            for e in self.engines:
                figures = self.once(e, n, full)
                if i:
                    kept[e.name].append(figures)
        for name, rounds in kept.items():
            self.rows.append({"part": "connections", "what": what, "engine": name, "figures": {k: [r[k] for r in rounds] for k in rounds[0]}})
            report.print_row(self.rows[-1])
        for which, stages in self.tables.items():
            print(f"# {what}, {which}: " + ", ".join(f"{k} {report.median(v):.1f}" for k, v in stages.items() if report.median(v) >= 0.5))

    def run(self):
        self.engines = [self.ours]
        other, self.why_alone = en.reference(lambda e: self.once(e, 1, False))
        if other:
            self.engines.append(other)
        else:
            print(f"# {self.why_alone}")
        for n in map(int, self.args.sizes.split(",")):
            self.row(f"{n} connections", n, False)
        if self.args.full:
            self.row(f"{self.args.full} connections with full queues", self.args.full, True)


def prepare_network():
    """Thousands of connections that ended a moment ago are not kept."""
    h.own_network()
    for name, value in (("net/ipv4/tcp_max_tw_buckets", "0"), ("net/ipv4/ip_local_port_range", "1024 65000"), ("net/ipv4/tcp_max_syn_backlog", "8192")):
        try:
            with open(f"/proc/sys/{name}", "w") as f:
                f.write(value)
        except OSError as e:
            print(f"# {name}: {e}")


def goal(rows):
    most = max((r for r in rows if r["engine"] == "ckpt" and "full" not in r["what"]), key=lambda r: int(r["what"].split()[0]), default=None)
    if not most or not most["what"].startswith("8000 "):
        return ""
    took = report.median(most["figures"]["together"])
    return f"8,000 connections with one end in the tree, dumped and restored: {took:.0f} ms, at most {LIMIT}: {'reached' if took <= LIMIT else '**not reached**'}."


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--sizes", default="100,1000,8000")
    ap.add_argument("--full", type=int, default=20)
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    ap.add_argument("--stages", action="store_true")
    ap.add_argument("--write", action="store_true", help="make the table of docs/design/performance.md anew")
    args = ap.parse_args()
    h.become_subreaper()
    try:
        h.need_engine()
        prepare_network()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    base = tempfile.mkdtemp(prefix="ckpt-connections-", dir=args.dir)
    bench = Bench(args, base)
    try:
        bench.run()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    results = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": args.rounds, "load": os.getloadavg()[2],
               "reference": bench.why_alone, "rows": bench.rows}
    said = goal(bench.rows)
    print(said)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    if args.write:
        head = f"Load {results['load']:.1f}, medians of {args.rounds} rounds. " + (f"No comparison: {bench.why_alone}.\n" if bench.why_alone else "\n")
        report.write_parts({"connections": f"{head}{said}\n\n{report.table(results, 'connections', COLUMNS)}"}, "connections.py")


if __name__ == "__main__":
    main()
