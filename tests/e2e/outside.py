#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a program shares with processes that are not dumped: the dump says so, by name."""
import os
import subprocess
import sys

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


class Program:
    """Does nothing, with descriptors that it was given."""

    def __init__(self, code="", **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.DEVNULL)
        kw.setdefault("stderr", subprocess.DEVNULL)
        code += "\nimport time\nwhile 1: time.sleep(1000)"
        self.p = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True, **kw)
        self.pid = self.p.pid
        h.wait_until(lambda: os.readlink(f"/proc/{self.pid}/exe") == os.path.realpath(sys.executable)
                     and "nanosleep" in self.wchan() or h.state(self.pid) == "S", "the program to sleep")

    def wchan(self):
        return h.read_text(f"/proc/{self.pid}/wchan")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        h.kill_hard(self.pid)
        self.p.returncode = 0


def dump_of(w, pid, name="i"):
    log = os.path.join(w, name + ".log")
    r = h.dump(pid, os.path.join(w, name), "-R", "-v4", "-o", log)
    h.must(r, "dump")
    return [l for l in h.read_text(log).splitlines() if "in the tree" in l or "--inherit-fd" in l]


def me():
    return f"process {os.getpid()} ("


@case
def pipe_to_parent():
    r, wr = os.pipe()
    with h.Workdir() as w, Program(stdout=wr) as p:
        os.close(wr)
        said = dump_of(w, p.pid)
        h.require(len(said) == 1 and me() in said[0] and f"task {p.pid}: fd 1: pipe:[" in said[0], f"said: {said}")
        h.require("--inherit-fd fd[N]:pipe:[" in said[0], f"said: {said}")
        os.close(r)
        said = dump_of(w, p.pid, "closed")
        h.require(not said, f"nobody is at the other end, and yet: {said}")


@case
def pipe_to_neighbour():
    r, wr = os.pipe()
    with h.Workdir() as w, Program(stdout=wr) as p, Program(stdin=r) as reader:
        os.close(wr)
        os.close(r)
        said = dump_of(w, p.pid)
        h.require(len(said) == 1 and f"process {reader.pid} (" in said[0], f"said: {said}")
        said = dump_of(w, reader.pid, "reader")
        h.require(len(said) == 1 and f"process {p.pid} (" in said[0] and "fd 0" in said[0], f"said: {said}")


@case
def both_ends_inside():
    with h.Workdir() as w, Program("import os\nos.pipe()") as p:
        said = dump_of(w, p.pid)
        h.require(not said, f"said: {said}")


@case
def tree_of_its_own():
    """What processes of one tree share is nobody else's business."""
    code = """import os
r, w = os.pipe()
os.open('/proc/self/exe', os.O_RDONLY)
e = os.eventfd(0)
if os.fork() == 0:
    os.close(r)
    if os.fork() == 0: os.close(w)
else:
    os.close(w)
"""
    with h.Workdir() as w, Program(code) as p:
        h.wait_until(lambda: h.read_text(f"/proc/{p.pid}/task/{p.pid}/children").split(), "the child")
        h.time.sleep(0.1)
        said = dump_of(w, p.pid)
        children = h.read_text(f"/proc/{p.pid}/task/{p.pid}/children").split()
        below = [c for pid in children for c in h.read_text(f"/proc/{pid}/task/{pid}/children").split()]
        for pid in below + children:
            os.kill(int(pid), 9)
        h.require(not said, f"said: {said}")


@case
def zombies():
    """Those that have ended have no memory, no descriptors: that is nothing they share."""
    ended = subprocess.Popen(["/bin/true"])
    with h.Workdir() as w, Program("import os\nif os.fork() == 0: os._exit(0)") as p:
        h.wait_until(lambda: h.state(ended.pid) == "Z", "the zombie outside")
        child = h.wait_until(lambda: h.read_text(f"/proc/{p.pid}/task/{p.pid}/children").split(), "the child")[0]
        h.wait_until(lambda: h.state(int(child)) == "Z", "the zombie inside")
        h.require(not dump_of(w, p.pid), "a warning")
    ended.wait()


@case
def shared_position():
    with h.Workdir() as w, open(w + "/file", "w+") as f, open(w + "/log", "a") as log, open(w + "/other", "w") as other:
        with Program(stdin=f, stdout=log, stderr=other) as p:
            other.close()
            said = dump_of(w, p.pid)
            h.require(len(said) == 1 and me() in said[0] and "fd 0:" in said[0] and w + "/file" in said[0], f"said: {said}")


@case
def shared_eventfd():
    """Many of them: the right one is named."""
    fds = [os.eventfd(0) for _ in range(50)]
    with h.Workdir() as w, Program("import os\nfor i in range(50): os.eventfd(0)", pass_fds=fds) as p:
        for fd in fds[:20] + fds[21:]:
            os.close(fd)
        said = dump_of(w, p.pid)
        os.close(fds[20])
        h.require(len(said) == 1 and me() in said[0] and f"fd {fds[20]}:" in said[0], f"said: {said}")


@case
def fifo_kept_open():
    """What is queued stays in the FIFO, and must not be put there twice."""
    with h.Workdir() as w:
        os.mkfifo(w + "/fifo")
        fd = os.open(w + "/fifo", os.O_RDWR | os.O_NONBLOCK)
        with Program(f"import os\nfd = os.open('{w}/fifo', os.O_RDWR)\nos.write(fd, b'once')") as p:
            said = dump_of(w, p.pid)
            h.require(len(said) == 1 and me() in said[0] and w + "/fifo" in said[0], f"said: {said}")
            h.must(h.dump(p.pid, w + "/k"), "dump")
            h.reap(p.pid)
            h.must(h.ckpt("restore", "-d", "-D", w + "/k"), "restore")
            got = os.read(fd, 100)
            h.require(got == b"once", f"the FIFO holds {got}")
        os.close(fd)


@case
def deleted_file():
    """Opened anew by both: no description is shared, but the file is."""
    with h.Workdir() as w, open(w + "/file", "w") as f:
        with Program(f"import os\nos.open('{w}/file', os.O_RDWR)\nos.unlink('{w}/file')") as p:
            h.wait_until(lambda: not os.path.exists(w + "/file"), "the program to delete its file")
            said = dump_of(w, p.pid)
            h.require(len(said) == 1 and me() in said[0] and "two files" in said[0], f"said: {said}")
        f.close()


@case
def process_that_ends():
    """A file of /proc of another process is opened again only while that is the same one."""
    with h.Workdir() as w, Program() as other:
        with Program(f"import os\nos.open('/proc/{other.pid}/stat', os.O_RDONLY)") as p:
            said = dump_of(w, p.pid)
            h.require(len(said) == 0, f"said: {said}")
            log = h.read_text(w + "/i.log")
            h.require(f"/proc/{other.pid}/stat is of a process outside of the tree" in log, "the dump did not say what it needs")
            h.must(h.dump(p.pid, w + "/k"), "dump")
            h.reap(p.pid)
            h.must(h.ckpt("restore", "-d", "-D", w + "/k"), "restore while it lives")
            h.kill_hard(p.pid)
            h.kill_hard(other.pid)
            r = h.ckpt("restore", "-d", "-D", w + "/k")
            h.require(r.rc == 1 and "has ended since the checkpoint" in r.out, f"restore when it has ended: {r}")
            h.require(not h.alive(p.pid), "something is left of the restore")


if __name__ == "__main__":
    h.run_cases(CASES)
