# SPDX-License-Identifier: MIT
"""What the tests of real programs with network connections have in common: a network of the test's own, so that nobody
takes a port between a dump and its restore, clients outside of the tree, and a look at the firewall at every step."""
import os
import pwd
import signal
import subprocess
import sys
import time

import real
from real import h

OPTIONS = ("--tcp-established",)


def tables():
    return [] if real.SELF else h.network_locks()


class Program(real.Program):
    """One that has connections. @clients: processes of ours that are not of its tree."""

    def __init__(self, *args, **kw):
        self.outside = []
        super().__init__(*args, opts=OPTIONS, **kw)

    def client(self, script, *args, **kw):
        c = Client(self.work, script, *args, **kw)
        self.outside.append(c)
        return c

    def gone(self):
        """As for any other, and its connections are locked."""
        h.reap(self.pid)
        self.p.returncode = 0
        out = {c.pid for c in self.outside}
        h.wait_until(lambda: not [c for c in h.children(os.getpid()) if c not in out and h.state(c) not in "ZX"],
                     "the last processes of the tree to be gone after the dump", 3)
        for c in h.children(os.getpid()):
            if c not in out:
                h.reap(c)
        h.require(len(tables()) == 1, f"locks of the network after the dump: {tables()}")

    def again(self, gap=0.0, tasks=1):
        took = super().again(gap, tasks)
        h.require(not tables(), f"locks of the network after the restore: {tables()}")
        return took

    def running(self):
        """A dump that lets it run on."""
        if real.SELF:
            return
        images = os.path.join(self.work, "running")
        for _ in range(50):
            d = h.dump(self.pid, images, "-R", *self.opts)
            if d.rc == 0 or "not accepted yet" not in d.out:
                break
            time.sleep(0.01)
        h.must(d, "dump -R")
        h.require(not tables(), f"locks of the network after a dump that went on: {tables()}")
        real.shutil.rmtree(images)

    def __exit__(self, *exc):
        for c in self.outside:
            c.kill()
        super().__exit__(*exc)


class Client:
    """A script of ours outside of the tree. It ends well when its standard input does, and says at last what it has seen."""

    def __init__(self, work, script, *args, user=None):
        kw = {}
        self.err = os.path.join(work, f"client-{time.monotonic_ns()}")
        argv = [sys.executable, "-c", script, *map(str, args)] if isinstance(script, str) else [*map(str, script), *map(str, args)]
        if user is not None:
            who = pwd.getpwnam(user)
            kw = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        with open(self.err, "wb") as e:
            self.p = subprocess.Popen(argv, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=e, start_new_session=True,
                                      **kw)
        self.pid = self.p.pid

    def line(self):
        """Its next line; it is awaited."""
        text = self.p.stdout.readline().decode()
        h.require(text, f"a client ended: {h.read_text(self.err)[-1500:]}")
        return text.strip()

    def well(self):
        h.require(self.p.poll() is None, f"a client ended: {h.read_text(self.err)[-1500:]}")

    def stop(self, seconds=60):
        """Its last words."""
        try:
            out, _ = self.p.communicate(timeout=seconds * h.PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise h.Failure(f"a client does not end: {h.read_text(self.err)[-1500:]}") from None
        h.require(self.p.returncode == 0, f"a client ended with {self.p.returncode}: {h.read_text(self.err)[-1500:]}")
        return out.decode().strip()

    def kill(self):
        if self.p.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.p.wait()


def main(test):
    if os.geteuid() != 0:
        print("skip: needs root")
        sys.exit(h.SKIP_CODE)
    try:
        h.own_network()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    real.main(test)
