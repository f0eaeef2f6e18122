#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers: how long a checkpoint and a restore take, alone and beside others. Ours and the reference engine's in turns.

  tests/bench/containers.py [--rounds N] [--parts each,one,many,programs,docker] [--dir DIR] [--json FILE] [--write] [--small]

Repeats the experiment of "Performance Evaluation of Docker Container using CRIU" (2021), with runc and six containers: an idle shell,
redis (540 MB), nginx, postgresql (320 MB), mariadb (1 GB), java. MongoDB and MySQL are not in Debian: postgresql and mariadb stand in
for them. Root file systems are made with debootstrap, once, and kept in /var/cache/ckpt.

  each      checkpoint, with --leave-running, and restore of each one, alone
  one       the idle one while another is checkpointed at the same moment
  many      the idle one while 0 to 5 others are
  programs  how many programs the engine starts
  docker    the idle one under docker

Timed is the runtime's whole command, until the images are on stable storage; in it the engine's process from its start to its end, as
the kernel's trace of processes says; and in that the engine's work, from the runtime's request to its last word in the log (runc
starts it, and only then prepares what it asks for). Frozen is the engine's own word. Medians of N rounds (default 5) after one to
warm up. With --write, docs/design/containers.md and its pictures are made anew. With --small, a tenth of the memory.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), d) for d in (".", os.path.join("..", "e2e"), os.path.join("..", "real"))]
import harness as h  # noqa: E402
import engines as en  # noqa: E402
import report  # noqa: E402
import containers_report  # noqa: E402
import runtimes as cs  # noqa: E402

OTHERS = ["redis", "nginx", "postgres", "mariadb", "java"]
SIZES = {"redis": 490, "postgres": 260, "mariadb": 500}


class Trace:
    """What the kernel tells of processes that begin programs and end: an instance of its trace that is ours alone."""

    def __init__(self, base):
        self.fs = os.path.join(base, "tracefs")
        os.makedirs(self.fs)
        h.must(h.run(["mount", "-t", "tracefs", "none", self.fs]), "mount of tracefs")
        self.dir = os.path.join(self.fs, "instances", f"ckpt-{os.getpid()}")
        os.mkdir(self.dir)
        self.write("trace_clock", "mono")
        for event in ("exec", "fork", "exit"):
            self.write(f"events/sched/sched_process_{event}/enable", "1")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def begin(self):
        self.write("trace", "")

    def events(self):
        """[(seconds, "exec", pid, file)], [(.., "fork", parent, child)], [(.., "exit", pid, None)]"""
        found = []
        for line in h.read_text(os.path.join(self.dir, "trace")).splitlines():
            m = re.search(r"\s(\d+\.\d+): sched_process_(exec|fork|exit): (.*)$", line)
            if not m:
                continue
            when, what, rest = float(m[1]), m[2], m[3]
            if what == "exec":
                e = re.match(r"filename=(.*) pid=(\d+) old_pid=", rest)
                found.append((when, what, int(e[2]), e[1]))
            elif what == "fork":
                e = re.match(r"comm=.* pid=(\d+) child_comm=.* child_pid=(\d+)$", rest)
                found.append((when, what, int(e[1]), int(e[2])))
            else:
                e = re.search(r" pid=(\d+) prio=", " " + rest)
                found.append((when, what, int(e[1]), None))
        return found

    def engines(self, path):
        """{pid: (milliseconds of its life, programs that it or what descends from it started)} of all processes of the program
        @path. Where the engine executes code of its own, from a descriptor, a task of the container begins: not the engine's."""
        lives, root = {}, {}
        for when, what, pid, more in self.events():
            if what == "exec" and more == path and pid not in root:
                root[pid] = pid
                lives[pid] = [when, when, []]
            elif what == "exec" and pid in root and more.startswith("/dev/fd/"):
                del root[pid]
            elif what == "exec" and pid in root:
                lives[root[pid]][2].append(more)
            elif what == "fork" and pid in root:
                root[more] = root[pid]
            elif what == "exit" and root.get(pid) == pid:
                lives[pid][1] = when
        return {pid: ((end - start) * 1e3, started) for pid, (start, end, started) in lives.items()}

    def engine_part(self, path):
        """Milliseconds of the engine that worked longest: others were asked for their version."""
        return max([ms for ms, _ in self.engines(path).values()], default=0)

    def close(self):
        with contextlib.suppress(OSError):
            os.rmdir(self.dir)
        h.run(["umount", self.fs])


def last_word(log):
    """Milliseconds: the time of the last line of an engine's log."""
    times = re.findall(r"^\((\d+\.\d+)\)", h.read_text(log), re.M)
    return float(times[-1]) * 1e3 if times else 0


class Bench:
    def __init__(self, args, site, base):
        self.args, self.site, self.rows = args, site, []
        self.trace = Trace(base)
        self.engines = [en.Engine("ckpt", h.CKPT, True)]
        self.why_alone = self.other()
        self.all = {}
        self.criu = os.path.join(site.bin, "criu")

    def other(self):
        """The reference engine, where there is one that works."""
        path = os.environ.get("CRIU") or shutil.which("criu")
        if not path:
            return "no reference engine (set CRIU=path)"
        if h.run([path, "check"]).rc:
            return f"{path} does not work here (criu check)"
        self.engines.append(en.Engine("criu", path, False))
        return None

    def use(self, engine):
        os.unlink(self.criu)
        os.symlink(os.path.realpath(engine.path), self.criu)

    # -- the containers

    def get(self, name):
        """A container that runs, with its memory; made when there is none."""
        c = self.all.get(name)
        if c and c.running():
            return c
        if c:
            c.destroy()
        print(f"# starting {name}", flush=True)
        app = cs.APPS[name]()
        if name == "postgres":
            app.args = [a.replace("shared_buffers=64MB", "shared_buffers=512MB") for a in app.args]
        if name == "mariadb":
            app.args = app.args + ["--innodb-buffer-pool-size=1200M", "--innodb-log-file-size=256M", "--innodb-flush-log-at-trx-commit=0"]
        c = self.site.runc(app).start()
        size = SIZES.get(name, 0) // (10 if self.args.small else 1)
        if size:
            app.load(c, size)
        self.all[name] = c
        return c

    def checkpoint(self, c, engine, *options):
        """Begins one; to be given to ended()."""
        images = tempfile.mkdtemp(prefix="images-", dir=c.dir)
        work = images + ".work"
        os.mkdir(work)
        argv = [c.path, "--root", c.state_dir, "checkpoint", "--image-path", images, "--work-path", work, *c.app.options, *options, c.id]
        with open(os.path.join(work, "out"), "wb") as out:
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.site.env)
        return {"c": c, "images": images, "work": work, "p": p, "start": time.monotonic(), "engine": engine}

    def ended(self, run):
        """Waits until it is on stable storage. Milliseconds."""
        rc = run["p"].wait()
        run["c"].work_path = run["work"]
        run["c"].well(h.Result(rc, h.read_text(os.path.join(run["work"], "out")), 0), "checkpoint", "dump.log")
        if not run["engine"].syncs:
            en.sync(run["images"])
        run["ms"] = (time.monotonic() - run["start"]) * 1e3
        run["work ms"] = last_word(os.path.join(run["work"], "dump.log"))
        run["frozen"] = en.stats(run["work"], "stats-dump").get("frozen_time", 0) / 1e3
        return run["ms"]

    def together(self, engine, names):
        """All of them at the same moment, each waited for by a thread of its own. {name: run}, restored afterwards."""
        all_of_them = [self.get(n) for n in names]
        os.sync()
        time.sleep(0.2)
        self.trace.begin()
        runs = [self.checkpoint(c, engine) for c in all_of_them]
        failed = []

        def wait(run):
            try:
                self.ended(run)
            except h.Failure as e:
                failed.append(e)
        threads = [threading.Thread(target=wait, args=(r,)) for r in runs]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise failed[0]
        result = dict(zip(names, runs))
        for run in runs:
            run["restore"] = self.back(run)
        return result

    def back(self, run):
        """Restores it: (milliseconds, of these the engine's process, and of these its work)."""
        c = run["c"]
        self.trace.begin()
        start = time.monotonic()
        c.restore(images=run["images"])
        ms = (time.monotonic() - start) * 1e3
        part = self.trace.engine_part(self.criu)
        work = last_word(run["images"] + ".back/restore.log")
        run["MB"] = en.size_of(run["images"]) / 1e6
        for d in (run["images"], run["work"], run["images"] + ".back"):
            shutil.rmtree(d, ignore_errors=True)
        return ms, part, work

    # -- the parts

    def turns(self, part, what, once):
        """@once(engine) gives figures: N rounds after one to warm up."""
        kept = {e.name: [] for e in self.engines}
        for i in range(self.args.rounds + 1):
            for e in self.engines:
                self.use(e)
                figures = once(e)
                if i:
                    kept[e.name].append(figures)
        for name, rounds in kept.items():
            self.rows.append({"part": part, "what": what, "engine": name, "figures": {k: [r[k] for r in rounds] for k in rounds[0]}})
            report.print_row(self.rows[-1])

    def each(self, name):
        def once(engine):
            c = self.get(name)
            os.sync()
            time.sleep(0.1)
            run = self.checkpoint(c, engine, "--leave-running")
            self.ended(run)
            figures = {"frozen, -R": run["frozen"]}
            for d in (run["images"], run["work"]):
                shutil.rmtree(d)
            os.sync()
            self.trace.begin()
            run = self.checkpoint(c, engine)
            self.ended(run)
            figures["checkpoint"], figures["process, checkpoint"] = run["ms"], self.trace.engine_part(self.criu)
            figures["engine, checkpoint"], figures["frozen"] = run["work ms"], run["frozen"]
            figures["restore"], figures["process, restore"], figures["engine, restore"] = self.back(run)
            figures["MB"] = run["MB"]
            return figures
        self.turns("each", name, once)

    def beside(self, part, what, others):
        def once(engine):
            runs = self.together(engine, ["idle", *others])
            figures = {"idle": runs["idle"]["ms"], "idle, frozen": runs["idle"]["frozen"]}
            for n in others:
                figures[n] = runs[n]["ms"]
            return figures
        self.turns(part, what, once)

    def programs(self, name):
        """The numbers of programs that the engine started; their names are printed."""
        def once(engine):
            c = self.get(name)
            self.trace.begin()
            run = self.checkpoint(c, engine)
            self.ended(run)
            started = [x for _, names in self.trace.engines(self.criu).values() for x in names]
            figures = {"checkpoint": len(started)}
            self.trace.begin()
            c.restore(images=run["images"])
            more = [x for _, names in self.trace.engines(self.criu).values() for x in names]
            figures["restore"] = len(more)
            for which, names in (("checkpoint", started), ("restore", more)):
                if names:
                    print(f"# {engine.name}, {which} of {name}: {' '.join(names)}", flush=True)
            return figures
        rounds, self.args.rounds = self.args.rounds, 1
        self.turns("programs", name, once)
        self.args.rounds = rounds

    def start_docker(self, docker, c, name):
        """Milliseconds. containerd refuses contents of the checkpoint that it still has, until it has cleaned up: asked again."""
        for _ in range(60):
            self.trace.begin()
            start = time.monotonic()
            r = docker.call("start", "--checkpoint", name, c.id, must=False)
            if r.rc == 0:
                return (time.monotonic() - start) * 1e3
            h.require("already exists" in r.out, f"docker start --checkpoint: {r}")
            time.sleep(1)
        raise h.Failure("containerd does not clean up")

    def docker(self):
        docker = cs.Docker(self.site)
        docker.image()
        c = docker.start(cs.Shell())
        n = iter(range(1000))

        def once(engine):
            name = f"c{next(n)}"
            os.sync()
            self.trace.begin()
            start = time.monotonic()
            docker.call("checkpoint", "create", c.id, name)
            os.sync()
            figures = {"checkpoint": (time.monotonic() - start) * 1e3, "process, checkpoint": self.trace.engine_part(self.criu)}
            h.wait_until(lambda: not c.running(), "the container to end")
            figures["restore"] = self.start_docker(docker, c, name)
            figures["process, restore"] = self.trace.engine_part(self.criu)
            return figures
        try:
            self.turns("docker", "idle, under docker", once)
        finally:
            docker.end()

    def run(self):
        if self.why_alone:
            print(f"# {self.why_alone}")
        parts = self.args.parts.split(",")
        if "each" in parts:
            for name in ["idle", *OTHERS]:
                self.each(name)
        if "one" in parts:
            for name in OTHERS:
                self.beside("one", f"beside {name}", [name])
        if "many" in parts:
            for n in range(len(OTHERS) + 1):
                self.beside("many", str(n), OTHERS[:n])
        if "programs" in parts:
            for name in ["idle", *OTHERS]:
                self.programs(name)
        if "docker" in parts:
            try:
                self.docker()
            except h.Skip as e:
                print(f"# no docker: {e}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--parts", default="each,one,many,programs,docker")
    ap.add_argument("--dir", default="/var/tmp")
    ap.add_argument("--json")
    ap.add_argument("--small", action="store_true", help="a tenth of the memory: to try the benchmark itself")
    ap.add_argument("--write", action="store_true", help="make docs/design/containers.md anew")
    args = ap.parse_args()
    os.environ["CKPT_BUILD_ROOTS"] = "1"
    h.become_subreaper()
    base = tempfile.mkdtemp(prefix="ckpt-containers-", dir=args.dir)
    bench = None
    try:
        h.need_engine()
        cs.root("base"), cs.root("full")
        with cs.Site(base) as site:
            bench = Bench(args, site, base)
            site.undo.append(bench.trace.close)
            bench.run()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    results = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": args.rounds, "load": os.getloadavg()[2],
               "reference": bench.why_alone, "rows": bench.rows}
    print(containers_report.goals(results))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    if args.write:
        containers_report.write(results)


if __name__ == "__main__":
    main()
