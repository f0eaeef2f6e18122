# SPDX-License-Identifier: MIT
"""Real programs: each is checkpointed in the middle of its work, is gone, is restored, and must finish right.

A script of this folder makes a Program, lets it work, calls again() where it wants it checkpointed, and checks the result.
Standard streams are files, the program has a session of its own, and the script ends in PASS or FAIL."""
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402


class Program:
    def __init__(self, work, argv, out="out", opts=(), **kw):
        self.work, self.rounds, self.opts = work, 0, opts
        self.out, self.err = os.path.join(work, out), os.path.join(work, "err")
        if not shutil.which(argv[0]):
            raise h.Skip(f"no {argv[0]} here")
        with open(self.out, "wb") as o, open(self.err, "wb") as e:
            self.p = subprocess.Popen(argv, cwd=work, stdin=subprocess.DEVNULL, stdout=o, stderr=e,
                                      start_new_session=True, **kw)
        self.pid = self.p.pid

    def text(self):
        return h.read_text(self.out)

    def wait_for(self, cond, what, seconds=30):
        def ended_or():
            h.require(h.alive(self.pid), f"the program ended before {what}: {h.read_text(self.err)[-500:]}")
            return cond(self.text())
        h.wait_until(ended_or, what, seconds)

    def again(self, gap=0.0):
        """Dump (which ends it), prove that it is gone, restore. Returns (dump seconds, restore seconds)."""
        self.rounds += 1
        images = os.path.join(self.work, f"images{self.rounds}")
        h.require(h.alive(self.pid), f"the program ended by itself too early: {h.read_text(self.err)[-500:]}")
        threads = len(os.listdir(f"/proc/{self.pid}/task"))
        d = h.must(h.dump(self.pid, images, *self.opts), f"dump {self.rounds}")
        h.reap(self.pid)
        self.p.returncode = 0
        h.require(not os.path.exists(f"/proc/{self.pid}"), "not gone after the dump")
        size = os.path.getsize(self.out)
        time.sleep(gap)
        h.require(os.path.getsize(self.out) == size, "something still writes to the output")
        r = h.must(h.ckpt("restore", "-d", "-D", images, *self.opts), f"restore {self.rounds}")
        h.require(h.alive(self.pid) or h.state(self.pid) == "Z", f"gone after the restore: {h.read_text(self.err)[-500:]}")
        if h.alive(self.pid):
            h.require(len(os.listdir(f"/proc/{self.pid}/task")) <= threads, "has more threads than before")
        shutil.rmtree(images)
        return d.seconds, r.seconds

    def finish(self, seconds=50, code=0):
        rc = h.reap(self.pid, seconds)
        h.require(rc == code, f"the program ended with {rc}, {code} expected: {h.read_text(self.err)[-1000:]}")
        h.require(not h.read_text(self.err), f"errors: {h.read_text(self.err)[-1000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        h.kill_hard(self.pid)
        self.p.returncode = 0


def main(test):
    h.become_subreaper()
    name = os.path.basename(sys.argv[0])
    start = time.monotonic()
    try:
        h.need_engine()
        with h.Workdir("ckpt-real-") as work:
            said = test(work)
    except h.Skip as e:
        print(f"SKIP {name}: {e}")
        sys.exit(h.SKIP_CODE)
    except h.Failure as e:
        print(f"FAIL {name}: {e}")
        sys.exit(1)
    print(f"PASS {name} ({time.monotonic() - start:.1f} s){': ' + said if said else ''}")
