#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast memory goes to a page server over loopback, against what one TCP stream carries there, in turns.

  tests/bench/page_server.py [--rounds N] [--size 1G] [--dir DIR] [--tls]

The rate is that of the stage "write pages" of a dump of one process with incompressible memory, to a server that stores it in
memory (/dev/shm), and in DIR (default /var/tmp, which should be a disk; there `total` includes that it is on stable storage).
bench_tcp is the plain copy: one process that writes the same bytes again and again, another that forgets them. Medians.
The second column is the processor time of both sides together, which a busy machine changes less than the rate.
"""
import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402


def cpu():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def plain(size):
    return float(subprocess.run([os.path.join(os.path.dirname(h.TARGETS), "bench", "bench_tcp"), str(size)], check=True,
                                capture_output=True, text=True).stdout)


def dump(pid, work, where, options, server_options):
    images, srv = work + "/images", tempfile.mkdtemp(dir=where)
    os.makedirs(images)
    try:
        with h.PageServer(srv + "/pages", *server_options) as server:
            r = h.must(h.dump(pid, images, "--display-stats", *server.client(*options)), "dump")
            h.must(server.result(), "server")
        took = float(re.search(r"^write pages +([0-9.]+)", r.out, re.M)[1]) / 1e3
        pages = int(re.search(r"^pages +(\d+)", r.out, re.M)[1])
        return pages * 4096 / took, pages * 4096 / r.seconds
    finally:
        shutil.rmtree(images)
        shutil.rmtree(srv)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--size", default="1G")
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--tls", action="store_true")
    ap.add_argument("--running", action="store_true", help="dump -R: from a snapshot, while the program runs")
    args = ap.parse_args()
    size = int(args.size[:-1]) << {"M": 20, "G": 30}[args.size[-1]]
    client, server = (["-R"] if args.running else ["-s"]), []
    if args.tls:
        import page_server_tls
        client += page_server_tls.certs().options("client")
        server += page_server_tls.certs().options("server")
    seconds = {}
    rows = {"one TCP stream": [], "dump to memory": [], "dump to memory, total": [], "dump to disk": [], "dump to disk, total": []}
    for _ in range(args.rounds):
        before = cpu()
        rows["one TCP stream"].append(plain(size))
        seconds.setdefault("one TCP stream", []).append(cpu() - before)
        for where, name in (("/dev/shm", "dump to memory"), (args.dir, "dump to disk")):
            with h.Workdir() as work, h.Target(work, "size", args.size) as t:
                t.ready(120)
                before = cpu()
                rate, total = dump(t.pid, work, where, client, server)
                seconds.setdefault(name, []).append(cpu() - before)
                rows[name].append(rate)
                rows[name + ", total"].append(total)
    base = statistics.median(rows["one TCP stream"])
    for name, v in rows.items():
        m = statistics.median(v)
        each = f"{statistics.median(seconds[name]) * 2**30 / size:6.2f} s/GiB" if name in seconds else " " * 12
        print(f"{name:24} {m / 1e9:6.2f} GB/s {m / base:6.2f} {each}   ({', '.join(f'{x / 1e9:.2f}' for x in v)})")


if __name__ == "__main__":
    main()
