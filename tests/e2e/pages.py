#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Pages on their way back into a process: read by the task itself (a small one) and put there by the engine (a large one);
through the page cache and past it; damaged, cut off, without sums. Nothing false is restored, and nothing is left behind."""
import os
import resource
import signal

import bad_input as b
import harness as h
import integrity as i

CASES = []
SIZES = ("1M", "24M")


def case(fn):
    CASES.append(fn)
    return fn


class Checkpoint(i.Checkpoint):
    def __init__(self, size, *opts):
        super().__init__("size", size, opts)

    def pages(self, path=None):
        return os.path.join(path or self.images, "pages-1.img")


def forget(path):
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@case
def a_flipped_bit():
    for size in SIZES:
        with Checkpoint(size) as c:
            end = os.path.getsize(c.pages())
            for at in (0, end // 2 + 4095, end - 1):
                path = c.copy()
                what = i.flip(c.pages(path), at)
                for cold in (False, True):
                    if cold:
                        forget(c.pages(path))
                    try:
                        c.fails(path, "pages-1.img", "damaged", "not what was written")
                    except h.Failure as e:
                        raise h.Failure(f"{size}, {what}: {e}")
            c.works()


@case
def the_message_names_the_place():
    """The first page of the last block, and the address that it belongs to."""
    for size in SIZES:
        with Checkpoint(size) as c:
            path = c.copy()
            page = os.path.getsize(c.pages()) // 4096 // 2 // 16 * 16
            i.flip(c.pages(path), page * 4096)
            c.fails(path, "pages-1.img", str(page))


@case
def cut_off():
    for size in SIZES:
        with Checkpoint(size) as c:
            path = c.copy()
            os.truncate(c.pages(path), os.path.getsize(c.pages()) - 8192)
            c.fails(path, "pages-1.img")
            h.without_sums(path)
            c.fails(path, "pages-1.img")


@case
def without_sums():
    for size in SIZES:
        with Checkpoint(size) as c:
            h.without_sums(c.images)
            c.works()


@case
def not_verified():
    """As asked: the page is wrong, which the program sees."""
    for size in SIZES:
        with Checkpoint(size) as c:
            path = c.copy()
            i.flip(c.pages(path), os.path.getsize(c.pages()) // 2)
            h.must(h.ckpt("restore", "-d", "-D", path, "--no-verify"), "restore --no-verify")
            h.require(h.alive(c.pid), "it is not there")


@case
def not_in_the_page_cache():
    for size in SIZES + ("100M",):
        with Checkpoint(size) as c:
            forget(c.pages())
            c.works()


@case
def compressed():
    """All of it is put there by the engine: areas of all kinds, and copies of relatives."""
    for name, variant in (("size", "1M"), ("size", "24M"), ("mem", "assorted"), ("mem", "advised"), ("mem", "cow"),
                          ("mem", "sparse"), ("tree", "cow")):
        with h.Workdir() as w:
            images = os.path.join(w, "images")
            with h.Target(w, name, variant) as t:
                t.ready()
                tree = h.descendants(t.pid)
                h.must(h.dump(t.pid, images, "--compress"), "dump --compress")
                t.reap()
                h.gone(tree)
                h.must(h.ckpt("restore", "-d", "-D", images), f"restore of {name}.{variant}, compressed")
                t.go()


@case
def no_more_processes():
    """Threads that cannot be made are none."""
    with Checkpoint("100M") as c:
        forget(c.pages())

        def limit():
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

        h.must(h.run([h.CKPT, "restore", "-d", "-D", c.images], preexec_fn=limit), "restore with RLIMIT_NPROC 1")
        c.t.go()


def ended(pid):
    """It becomes ours to wait for at some moment after the engine's end."""
    if h.state(pid) == "Z":
        h.reap(pid)
    return h.state(pid) == "gone"


@case
def killed_while_it_fills():
    """Nothing outlives the engine."""
    with Checkpoint("100M") as c:
        for delay in (0.005, 0.02, 0.05, 0.08):
            forget(c.pages())
            argv = ["timeout", "-s", "KILL", str(delay), h.CKPT, "restore", "-d", "-D", c.images]
            r = h.run(argv)
            if r.rc == 0:  # faster than we
                break
            h.wait_until(lambda: ended(c.pid), "the half-made process to end")
        else:
            c.works()
            return
        os.kill(c.pid, signal.SIGKILL)
        h.reap(c.pid)


if __name__ == "__main__":
    h.become_subreaper()
    h.run_cases(CASES)
