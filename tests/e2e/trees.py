#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Trees of processes: what a target cannot check of itself: the cgroup freezer, what is refused, what is shown."""
import json
import os
import subprocess

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def freezers():
    """(folder of a fresh cgroup, file of its state, its two words) for each version that is mounted here."""
    found = []
    for line in h.read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point, kind, options = left.split()[4], right.split()[0], right.split()[-1]
        if kind == "cgroup2":
            found.append((point, "cgroup.freeze", "0", "1"))
        elif kind == "cgroup" and "freezer" in options.split(","):
            found.append((point, "freezer.state", "THAWED", "FROZEN"))
    return found


class Cgroup:
    def __init__(self, point):
        self.path = os.path.join(point, f"ckpt-test-{os.getpid()}")

    def __enter__(self):
        try:
            os.mkdir(self.path)
        except OSError as e:
            raise h.Skip(f"no cgroup can be made in {os.path.dirname(self.path)}: {e}")
        return self

    def put(self, pids):
        for pid in pids:
            with open(self.path + "/cgroup.procs", "w") as f:
                f.write(str(pid))

    def __exit__(self, *exc):
        h.wait_until(lambda: not h.read_text(self.path + "/cgroup.procs").split(), "the cgroup to be empty")
        os.rmdir(self.path)


@case
def freeze_cgroup():
    """--freeze-cgroup, v1 and v2, also of one that was frozen already, which it then still is."""
    kinds = freezers()
    if not kinds:
        raise h.Skip("no cgroup freezer is mounted")
    for point, name, thawed, frozen in kinds:
        for was in (thawed, frozen):
            with Cgroup(point) as cg, h.Workdir() as w, h.Target(w, "tree", "basic") as t:
                t.ready()
                below = h.descendants(t.pid)
                cg.put([t.pid, *below])
                state = os.path.join(cg.path, name)
                with open(state, "w") as f:
                    f.write(was)
                if was == frozen:
                    h.wait_until(lambda: h.read_text(state).strip() == frozen, "the cgroup to be frozen")
                h.must(h.dump(t.pid, w + "/i", "-R", "--freeze-cgroup", cg.path), f"dump with {state}")
                h.wait_until(lambda: h.read_text(state).strip() == was, f"{state} to be {was} as before")
                with open(state, "w") as f:
                    f.write(thawed)
                h.must(h.dump(t.pid, w + "/j", "--freeze-cgroup", cg.path), f"dump with {state}")
                t.reap()
                h.gone(below)
                h.must(h.ckpt("restore", "-d", "-D", w + "/j"), "restore")
                t.go()


@case
def no_cgroup():
    """What is no cgroup, or cannot be frozen, is refused, and the tree runs on."""
    with h.Workdir() as w, h.Target(w, "tree", "basic") as t:
        t.ready()
        for path in ("/nowhere", w):
            r = h.dump(t.pid, w + "/i", "--freeze-cgroup", path)
            h.require(r.rc == 1 and path in r.out, f"--freeze-cgroup {path}: {r}")
        h.untouched(t.pid)
        t.go()


def shell(w, script):
    """A process tree of our own making: its root, in a session of its own."""
    p = subprocess.Popen(script, cwd=w, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         start_new_session=True)
    return p


@case
def namespaces_below():
    """Tasks with another UTS namespace than the root: one below it, and one below that which went back. The names are theirs again."""
    script = ("import os, ctypes, time\n"
              "lib = ctypes.CDLL(None)\n"
              "home = os.open('/proc/self/ns/uts', os.O_RDONLY)\n"
              "def child(fn):\n    if os.fork() == 0:\n        fn()\n        time.sleep(1000)\n"
              "def own():\n    assert lib.unshare(0x4000000) == 0 and lib.sethostname(b'below', 5) == 0\n    child(back)\n"
              "def back():\n    assert lib.setns(home, 0) == 0\n"
              "child(own)\ntime.sleep(1000)\n")
    with h.Workdir() as w:
        p = shell(w, ["/usr/bin/python3", "-c", script])
        try:
            h.wait_until(lambda: len(h.descendants(p.pid)) == 2, "the tree")

            def names():
                return [h.run(["nsenter", "-t", str(pid), "-u", "uname", "-n"]).out.strip() for pid in (p.pid, *h.descendants(p.pid))]
            home = os.uname().nodename
            h.wait_until(lambda: names() == [home, "below", home], "the names")
            below = h.descendants(p.pid)
            h.must(h.ckpt("check", "-t", p.pid), "check")
            h.must(h.dump(p.pid, w + "/i"), "dump")
            p.wait()
            h.gone(below)
            h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
            h.require(names() == [home, "below", home], f"the names are {names()}")
            h.require(os.readlink(f"/proc/{p.pid}/ns/uts") == os.readlink("/proc/self/ns/uts"), "not in ours any more")
        finally:
            for pid in (*h.descendants(p.pid), p.pid):
                h.kill_hard(pid)


@case
def a_namespace_below_is_refused():
    """An IPC namespace is the tree's or nobody's: the error names the child, by check and by dump alike, and all run on."""
    with h.Workdir() as w:
        p = shell(w, ["/usr/bin/python3", "-c", "import subprocess\nsubprocess.run(['unshare', '-i', 'sleep', '100'])"])
        try:
            h.wait_until(lambda: h.descendants(p.pid) and
                         h.read_text(f"/proc/{h.descendants(p.pid)[-1]}/comm") == "sleep\n", "the tree")
            child = h.descendants(p.pid)[-1]
            for r in (h.ckpt("check", "-t", p.pid), h.dump(p.pid, w + "/i")):
                h.require(r.rc == 1 and str(child) in r.out and "IPC" in r.out, f"{r}")
            h.require(not os.listdir(w + "/i"), "something was left in the folder")
            for pid in (p.pid, child):
                h.untouched(pid)
        finally:
            for pid in h.descendants(p.pid):
                h.kill_hard(pid)
            p.wait()


@case
def vfork():
    """A parent that waits in vfork for a child that does not go on is refused by name."""
    with h.Workdir() as w:
        p = shell(w, ["/usr/bin/perl", "-e", "my $p = syscall(58); if ($p == 0) { sleep 100; exit } sleep 100"])
        try:
            h.wait_until(lambda: h.descendants(p.pid), "the child")
            h.time.sleep(0.2)
            r = h.dump(p.pid, w + "/i")
            h.require(r.rc == 1 and "vfork" in r.out and str(p.pid) in r.out, f"{r}")
            r = h.dump(p.pid, w + "/i", "--timeout", "1")  # less than the engine waits for such a child
            h.require(r.rc == 1 and "not done within 1 s" in r.out, f"{r}")
            for pid in (p.pid, *h.descendants(p.pid)):
                h.require("TracerPid:\t0" in h.read_text(f"/proc/{pid}/status"), f"{pid} is still traced")
        finally:
            for pid in h.descendants(p.pid):
                h.kill_hard(pid)
            p.kill()
            p.wait()


@case
def inspect():
    """The whole tree is shown: zombies with their end, tasks that share memory by whose it is."""
    with h.Workdir() as w:
        for variant in ("zombies", "vmsighand"):
            with h.Target(w, "tree", variant) as t:
                t.ready()
                below = h.descendants(t.pid)
                h.must(h.dump(t.pid, f"{w}/{variant}", "-R"), "dump")
                t.go()
            tasks = json.loads(h.must(h.ckpt("inspect", "--json", f"{w}/{variant}"), "inspect").out)["tasks"]
            h.require([x["pid"] for x in tasks] == [t.pid, *below], f"not the tree: {tasks}")
            if variant == "zombies":
                h.require(sorted(x["exit_code"] for x in tasks if x["state"] == "zombie") == [9, 15, 7 << 8, 42 << 8], f"{tasks}")
            else:
                h.require([x.get("shares_memory_of") for x in tasks] == [None, t.pid, t.pid], f"{tasks}")
            h.must(h.ckpt("inspect", f"{w}/{variant}"), "inspect for people")
            os.unlink(t.out)


@case
def other_readers():
    """What the format has no place for is marked, so that other readers refuse it."""
    with h.Workdir() as w:
        for variant, want in (("basic", []), ("vmsighand", ["ckpt-shared-folders", "ckpt-shared-memory"])):
            with h.Target(w, "tree", variant) as t:
                t.ready()
                h.must(h.dump(t.pid, f"{w}/{variant}", "-R"), "dump")
                t.go()
            os.unlink(t.out)
            with open(f"{w}/{variant}/inventory.img", "rb") as f:
                text = f.read()
            h.require(all(name.encode() in text for name in want), f"not marked: {want}")
            h.require(want or b"ckpt-" not in text, "marked without need")


@case
def job_of_a_shell():
    """A pipeline of a shell, which leads the session: with --shell-job, in the session and group of the caller then."""
    with h.Workdir() as w:
        p = shell(w, ["/bin/sh", "-c", "sh -c 'sleep 1000 & sleep 1000 & wait' & echo $! > pid; exec sleep 1000"])
        try:
            pid = int(h.wait_until(lambda: h.read_text(w + "/pid").strip(), "the job"))
            h.wait_until(lambda: len(h.descendants(pid)) == 2, "its children")
            below = h.descendants(pid)
            r = h.dump(pid, w + "/i")
            h.require(r.rc == 1 and "shell-job" in r.out, f"without -j: {r}")
            h.must(h.dump(pid, w + "/i", "-j"), "dump -j")
            h.gone(below)
            p.kill()
            p.wait()
            h.gone([pid])
            r = h.ckpt("restore", "-d", "-D", w + "/i")
            h.require(r.rc == 1 and "shell-job" in r.out, f"without -j: {r}")
            h.must(h.ckpt("restore", "-d", "-j", "-D", w + "/i"), "restore -j")
            h.require(h.descendants(pid) == below, "not the tree that it was")
            for one in (pid, *below):
                h.require(os.getsid(one) == os.getsid(0), f"{one} is in another session than the caller")
                h.require(os.getpgid(one) == os.getpgid(0), f"{one} is in another group than the caller")
            for one in (*below, pid):
                h.kill_hard(one)
        finally:
            if p.returncode is None:
                p.kill()
                p.wait()


if __name__ == "__main__":
    h.become_subreaper()
    h.run_cases(CASES)
