# SPDX-License-Identifier: MIT
"""Starting tests/bench/program.c, and talking with it through the file that both have mapped."""
import mmap
import os
import struct
import subprocess
import time

import harness as h

READY, GAP, FIRST, COMMAND, ARGUMENT, ANSWERS, WRONG = range(7)
NOTHING, DIRTY, CHECK, END = range(4)
PATH = os.path.join(os.path.dirname(h.CKPT), "..", "..", "tests", "bench", "bench_target")


class Program:
    def __init__(self, folder, size, pages="plain", tasks=1, threads=0):
        self.path = os.path.join(folder, "control")
        with open(self.path, "wb") as f:
            f.truncate(4096)
        fd = os.open(self.path, os.O_RDWR)
        self.map = mmap.mmap(fd, 4096)
        os.close(fd)
        self.tasks = tasks
        self.proc = subprocess.Popen([os.path.realpath(PATH), self.path, size, pages, str(tasks), str(threads)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, close_fds=True)
        self.pid = self.proc.pid
        h.wait_until(lambda: self.get(READY) == tasks or self.proc.poll() is not None, "the program is ready", 600)
        if self.proc.poll() is not None:
            raise h.Failure("the program to be measured did not start")

    def get(self, field):
        return struct.unpack_from("<Q", self.map, field * 8)[0]

    def set(self, field, value):
        struct.pack_into("<Q", self.map, field * 8, value)

    def ask(self, command, argument=0, seconds=120):
        before = self.get(ANSWERS)
        self.set(ARGUMENT, argument)
        self.set(COMMAND, command)
        h.wait_until(lambda: self.get(ANSWERS) == before + 1, "an answer of the program", seconds, 0.0005)

    def check(self):
        """Whether all of the memory of its first process is what it should be."""
        self.set(WRONG, 0)
        self.ask(CHECK)
        if self.get(WRONG):
            raise h.Failure(f"{self.get(WRONG)} pages of the program are wrong")

    def gap(self):
        """Longest time in ms in which it did not run since reset_gap()."""
        return self.get(GAP) / 1e6

    def reset_gap(self):
        time.sleep(0.02)
        self.set(GAP, 0)

    def ended(self):
        """A dump has ended it: reap what is ours."""
        self.proc.wait(60)
        self.reap_orphans()

    @staticmethod
    def reap_orphans():
        for pid in h.children(os.getpid()):
            if h.state(pid) in ("Z", None):
                h.reap(pid)

    def kill(self):
        pids = [self.pid] + h.descendants(self.pid)
        for pid in pids:
            h.kill_hard(pid)
        h.gone(pids)
        if self.proc.returncode is None:
            self.proc.poll()
        self.reap_orphans()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
        self.map.close()
