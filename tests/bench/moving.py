#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pages written from where they are against pages that are copied first, in turns, and the disk by itself.

  tests/bench/moving.py [--rounds N] [--size 1G] [--dir DIR]

Prints of each way the median and the least time of the stage `write pages`, and the processor time of the engine and its helper
together. The program stands still meanwhile (--leave-stopped), so that all rounds are of the same memory.
"""
import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402

WAYS = {"moved": [], "copied": ["--copy-pages"]}


def helper_ms(pid):
    """What children that the program waited for took: the helper is one."""
    fields = h.read_text(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()
    return (int(fields[13]) + int(fields[14])) * 1000 / os.sysconf("SC_CLK_TCK")


def once(t, folder, opts):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    out = os.path.join(folder, "..", "out.txt")
    before = helper_ms(t.pid)
    actions = [(os.POSIX_SPAWN_OPEN, fd, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for fd in (1, 2)]
    pid = os.posix_spawn(h.CKPT, [h.CKPT, "dump", "-t", str(t.pid), "-D", folder, "-s", "--display-stats", *opts], os.environ,
                         file_actions=actions[:1] + [(os.POSIX_SPAWN_DUP2, 1, 2)])
    _, status, usage = os.wait4(pid, 0)
    text = h.read_text(out)
    h.require(status == 0, text)
    os.kill(t.pid, signal.SIGCONT)
    row = next(line for line in text.splitlines() if line.startswith("write pages"))
    return float(row.split()[2]), (usage.ru_utime + usage.ru_stime) * 1000 + helper_ms(t.pid) - before


def fio(base, size):
    name = os.path.join(base, "fio")
    r = subprocess.run(["fio", "--name=x", f"--filename={name}", f"--size={size}", "--rw=write", "--bs=512k", "--iodepth=16",
                        "--ioengine=io_uring", "--direct=1", "--fallocate=posix", "--output-format=terse"],
                       capture_output=True, text=True)
    os.unlink(name)
    return float(r.stdout.split(";")[48])  # milliseconds of the write


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--size", default="1G")
    ap.add_argument("--dir", default="/var/tmp")
    args = ap.parse_args()
    base = os.path.join(args.dir, f"ckpt-bench-{os.getpid()}")
    os.makedirs(base)
    took = {way: [] for way in (*WAYS, "fio")}
    try:
        with h.Workdir() as w, h.Target(w, "size", args.size) as t:
            t.ready(120)
            for _ in range(args.rounds):
                for way, opts in WAYS.items():
                    took[way].append(once(t, os.path.join(base, "images"), opts))
                if shutil.which("fio"):
                    shutil.rmtree(os.path.join(base, "images"))
                    took["fio"].append((fio(base, args.size), 0))
    finally:
        shutil.rmtree(base)
    print(f"{args.size}, {args.rounds} rounds, load {os.getloadavg()[0]:.0f}: median (least) ms, processor ms")
    for way, rows in took.items():
        if rows:
            ms, cpu = [r[0] for r in rows], [r[1] for r in rows]
            print(f"{way:8s} {statistics.median(ms):8.0f} ({min(ms):.0f})  {statistics.median(cpu):8.0f}")


if __name__ == "__main__":
    main()
