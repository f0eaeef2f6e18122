# SPDX-License-Identifier: MIT
"""Running an engine and timing it; and what the disk can do without one."""
import os
import re
import shutil
import subprocess
import tempfile
import time

import harness as h
import images as im


class Ran:
    def __init__(self, rc, out, seconds):
        self.rc, self.out, self.ms = rc, out, seconds * 1e3


class Running:
    """An engine that was started: posix_spawn, and a blocking wait (polling would cost milliseconds)."""

    def __init__(self, engine, argv):
        self.engine, self.argv = engine, argv
        self.out = tempfile.TemporaryFile()
        with open(os.devnull) as null:
            actions = [(os.POSIX_SPAWN_DUP2, null.fileno(), 0), (os.POSIX_SPAWN_DUP2, self.out.fileno(), 1),
                       (os.POSIX_SPAWN_DUP2, self.out.fileno(), 2)]
            self.start = time.monotonic()
            self.pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)

    def peak(self):
        """Ends it, and tells the most memory in MB that it had resident: asked all the time, so it is not for runs that are timed."""
        most = 0
        while True:
            now = re.search(r"VmHWM:\s*(\d+)", h.read_text(f"/proc/{self.pid}/status"))
            if not now:
                break
            most = max(most, int(now.group(1)) * 1024 / 1e6)
            time.sleep(0.001)
        self.end()
        return most

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.start
        self.out.seek(0)
        text = self.out.read().decode(errors="replace")
        self.out.close()
        ran = Ran(os.waitstatus_to_exitcode(status), text, seconds)
        if ran.rc:
            raise h.Failure(f"{self.engine.name} {' '.join(self.argv[1:])}: exit code {ran.rc}\n{text}")
        return ran


class Engine:
    def __init__(self, name, path, syncs):
        self.name, self.path, self.syncs = name, path, syncs

    def begin(self, *args):
        return Running(self, [self.path, *map(str, args)])

    def run(self, *args):
        return self.begin(*args).end()


def reference(works):
    """The reference engine, if there is one and it works (@works: tries it). Also what to say if not."""
    path = os.environ.get("CRIU") or shutil.which("criu")
    if not path:
        return None, "no reference engine (set CRIU=path)"
    engine = Engine("criu", path, False)
    try:
        works(engine)
    except h.Failure as e:
        return None, f"{path} does not work here, measured without it ({str(e).splitlines()[0].rpartition(': ')[2][:80]})"
    return engine, None


def stats(folder, which):
    """Fields of stats-dump or stats-restore, which both engines write."""
    path = os.path.join(folder, which)
    if not os.path.exists(path):
        return {}
    m = im.read(path)[0]
    part = m.dump if which == "stats-dump" else m.restore
    return {f.name: v for f, v in part.ListFields()}


def each_file(folder):
    for e in os.scandir(folder):
        if e.is_file(follow_symlinks=False):
            yield e.path


def sync(folder):
    for path in each_file(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def cool(folder):
    """Takes the files out of the page cache, as far as the kernel lets us."""
    for path in each_file(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(folder):
    buf = bytearray(4 << 20)
    for path in each_file(folder):
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buf):
                pass


def size_of(folder):
    return sum(os.stat(p).st_size for p in each_file(folder))


def fio(folder, write, size="1G"):
    """Sequential, past the page cache, through io_uring: MB/s. None without fio."""
    if not shutil.which("fio"):
        return None
    path = os.path.join(folder, "fio.data")
    args = ["fio", "--name=x", f"--filename={path}", f"--size={size}", "--bs=1M", "--iodepth=16", "--ioengine=io_uring", "--direct=1",
            "--output-format=terse", "--rw=" + ("write" if write else "read")]
    if write:
        args.append("--end_fsync=1")
        args.append("--fallocate=native")
    fields = subprocess.run(args, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1].split(";")
    return int(fields[47 if write else 6]) * 1024 / 1e6
