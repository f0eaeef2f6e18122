#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Lazy restore: who brings the pages, and what happens when that goes wrong. That a program finds its memory right whatever it
does to it meanwhile is what the targets lazy.* are for."""
import array
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

import harness as h
import images as im

CASES = []
END = 0x52535446


def case(fn):
    CASES.append(fn)
    return fn


def checkpoint(t, images, seconds=30):
    t.ready(seconds)
    h.must(h.dump(t.pid, images), "dump")
    t.reap()


def restore(images, *args):
    return h.ckpt("restore", "-d", "-D", images, "--lazy-pages", *args)


def by_name(comm, images):
    """Processes of this name that have the folder of images open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if h.read_text(f"/proc/{pid}/comm").strip() != comm:
            continue
        for fd in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                if os.readlink(fd) == os.path.realpath(images):
                    found.append(int(pid))
                    break
            except OSError:
                pass
    return found


def threads_waiting(pid):
    return [t for t in os.listdir(f"/proc/{pid}/task") if "handle_userfault" in h.read_text(f"/proc/{pid}/task/{t}/wchan")]


def lost_pages(t):
    """What the target lazy.damaged says in the end, which it may not survive; no page may be another than it was."""
    h.wait_until(lambda: t.verdict() or not h.alive(t.pid), "the end", 60)
    code = t.reap()
    text = h.read_text(t.out)
    h.require("is not what" not in text and "FAIL" not in text, text)
    m = re.search(r"lost (\d+)", text)
    h.require(code in (0, -signal.SIGBUS), f"ended with {code}: {text}")
    h.require(m or code == -signal.SIGBUS, f"ended with {code}: {text}")
    return int(m[1]) if m else 16384


class Daemon:
    """ckpt lazy-pages in the foreground, listening; ended with the block."""

    def __init__(self, images, *args, **kw):
        self.log = images.rstrip("/") + ".daemon"
        ready, theirs = os.pipe()
        with open(self.log, "wb") as f:
            self.p = subprocess.Popen([h.CKPT, "lazy-pages", "-D", images, "-v3", "--status-fd", str(theirs), *map(str, args)],
                                      stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, pass_fds=[theirs], **kw)
        os.close(theirs)
        self.ready = os.read(ready, 2)
        os.close(ready)

    def text(self):
        return h.read_text(self.log)

    def result(self, seconds=30):
        try:
            return self.p.wait(seconds * h.PATIENCE)
        except subprocess.TimeoutExpired:
            raise h.Failure(f"the daemon did not end: {self.text()}")

    def __enter__(self):
        h.require(self.ready == b"\0", f"the daemon does not listen: {self.text()}")
        return self

    def __exit__(self, *exc):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


@case
def daemon():
    """Two commands, as in the field; exit status 0 when all pages are in, and not before."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        with Daemon(w + "/i") as d:
            h.must(restore(w + "/i"), "restore")
            t.go()
            h.require(d.result() == 0, f"exit status {d.p.returncode}: {d.text()}")
            h.require("All lazy pages are in" in d.text() and " 0 pages were lost" in d.text(), d.text())
        h.require(not os.path.exists(w + "/i/lazy-pages.socket"), "the socket is still there")
        h.require(not by_name("ckpt-lazy", w + "/i"), "the restore started a daemon of its own")


@case
def daemon_in_background():
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        os.mkdir(w + "/logs")
        os.chdir(w)
        r = h.must(h.ckpt("lazy-pages", "-D", "i", "-W", "logs", "-d", "--pidfile", "pid", "-o", "log", "-v3"), "lazy-pages -d")
        os.chdir("/")
        pid = int(h.read_text(w + "/logs/pid"))
        h.require(h.alive(pid), f"process {pid} of the pidfile does not live: {r}")
        h.must(restore(w + "/i", "-W", w + "/logs"), "restore")
        t.go()
        h.wait_until(lambda: not h.alive(pid), "the daemon to end")
        h.reap(pid)
        log = h.read_text(w + "/logs/log")
        h.require("All lazy pages are in" in log, log)


def killed(kill, wait_first):
    """Whoever brings the pages is killed: the program gets errors for what it lacks, and nothing else than what was there."""
    with h.Workdir() as w, h.Target(w, "lazy", "damaged") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")  # nothing comes in the background
        if wait_first:
            os.kill(t.pid, signal.SIGUSR1)
            h.wait_until(lambda: t.lines()[-1] == "ready", "the program")
        kill(w + "/i")
        h.wait_until(lambda: not by_name("ckpt-lazy", w + "/i"), "the daemon to be gone")
        if not wait_first:
            os.kill(t.pid, signal.SIGUSR1)
        lost = lost_pages(t)
        h.require(lost > 0, "no page was lost")
        if not wait_first:
            h.require(lost > 16000, f"only {lost} pages were lost")
        h.wait_until(lambda: not by_name("lazy-keeper", w + "/i"), "the keeper to end")


def kill_daemon(images):
    h.wait_until(lambda: len(by_name("lazy-keeper", images)) == 1, "the keeper")  # which has the name of the daemon at first
    pids = by_name("ckpt-lazy", images)
    h.require(len(pids) == 1, f"daemons: {pids}")
    os.kill(pids[0], signal.SIGKILL)


@case
def daemon_killed():
    killed(kill_daemon, False)


@case
def daemon_killed_in_the_middle():
    killed(kill_daemon, True)


@case
def daemon_killed_forked():
    """Children, too, must not go on with zeroes: no page may be another than it was, whoever looks at it."""
    with h.Workdir() as w, h.Target(w, "lazy", "forks") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")
        os.kill(t.pid, signal.SIGUSR1)
        h.wait_until(lambda: len(h.descendants(t.pid)) > 2, "children")
        kill_daemon(w + "/i")
        h.wait_until(lambda: t.verdict() or not h.alive(t.pid), "the end", 60)
        h.require("is not what" not in h.read_text(t.out), h.read_text(t.out))
        for pid in h.descendants(t.pid):
            h.kill_hard(pid)


@case
def keeper_killed():
    """Another takes its place, and the program notices nothing."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")
        first = h.wait_until(lambda: by_name("lazy-keeper", w + "/i"), "the keeper")
        os.kill(first[0], signal.SIGKILL)
        h.wait_until(lambda: by_name("lazy-keeper", w + "/i") not in ([], first), "another keeper")
        t.go()
        h.wait_until(lambda: not by_name("ckpt-lazy", w + "/i") and not by_name("lazy-keeper", w + "/i"), "both to end")
        h.require("another is started" in h.read_text(w + "/i/lazy-pages.log"), "nobody said so")


@case
def sigterm():
    """Asked to end, the daemon brings to its end what it began."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        with Daemon(w + "/i", "--record-faults", "f") as d:
            h.must(restore(w + "/i"), "restore")
            d.p.send_signal(signal.SIGTERM)
            t.go()
            h.require(d.result() == 0, f"exit status {d.p.returncode}: {d.text()}")


@case
def flipped_bit():
    """One bit of the page image is another: the pages of that block are errors, and no page is wrong."""
    with h.Workdir() as w, h.Target(w, "lazy", "damaged") as t:
        checkpoint(t, w + "/i")
        with open(w + "/i/pages-1.img", "r+b") as f:
            f.seek(30 << 20)
            b = f.read(1)
            f.seek(30 << 20)
            f.write(bytes([b[0] ^ 4]))
        with Daemon(w + "/i") as d:
            h.must(restore(w + "/i"), "restore")
            os.kill(t.pid, signal.SIGUSR1)
            lost = lost_pages(t)
            h.require(d.result() == 1, f"exit status {d.p.returncode}: {d.text()}")
        h.require(1 <= lost <= 16, f"{lost} pages were lost")
        h.require("SIGBUS" in d.text() and "pages-1.img" in d.text(), d.text())


@case
def page_image_missing():
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        os.rename(w + "/i/pages-1.img", w + "/pages")
        for args in ((), ("--no-verify",)):
            r = restore(w + "/i", *args)
            h.require(r.rc == 1 and "pages-1.img" in r.out, str(r))
            h.require(not os.path.exists(f"/proc/{t.pid}"), "a process is left")
            h.wait_until(lambda: not by_name("ckpt-lazy", w + "/i"), "the daemon to end")
        os.rename(w + "/pages", w + "/i/pages-1.img")
        os.truncate(w + "/i/pages-1.img", 20 << 20)
        r = restore(w + "/i")
        h.require(r.rc == 1 and "pages-1.img" in r.out, str(r))


@case
def shortened_meanwhile():
    """The page image shrinks after the program runs."""
    with h.Workdir() as w, h.Target(w, "lazy", "damaged") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")
        os.truncate(w + "/i/pages-1.img", 32 << 20)
        os.kill(t.pid, signal.SIGUSR1)
        lost = lost_pages(t)
        h.require(lost > 8000, f"{lost} pages were lost")


@case
def removed_meanwhile():
    """Whoever removes the images takes nothing away from the program."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "-W", w), "restore")
        shutil.rmtree(w + "/i")
        t.go()


@case
def recorded():
    """The order of first touches, and what a later start does with it."""
    with h.Workdir() as w, h.Target(w, "lazy", "backwards") as t:
        checkpoint(t, w + "/i")
        r = restore(w + "/i", "--record-faults", "ckpt-faults")
        h.must(r, "restore")
        os.kill(t.pid, signal.SIGUSR1)
        time.sleep(0.3)
        h.lazy_done([t.pid])  # which is after two seconds without a touch
        lines = h.read_text(w + "/i/ckpt-faults").splitlines()
        h.require(lines[0] == "ckpt-faults 1", str(lines[:3]))
        h.require(all(re.fullmatch(r"\d+ [0-9a-f]+", x) for x in lines[1:]), str(lines[:10]))
        addrs = [int(x.split()[1], 16) for x in lines[1:]]
        runs = [a for a, b in zip(addrs, addrs[1:]) if a - b == 4096]
        h.require(len(runs) >= 150, f"{len(runs)} touches of pages before the last one: {lines[:20]}")
        h.kill_hard(t.pid)
        h.must(restore(w + "/i", "-v4"), "restore with the order")
        os.kill(t.pid, signal.SIGUSR1)
        time.sleep(0.1)
        t.go()


@case
def order_damaged():
    """A list that is none is not used, and harms nobody."""
    for text in (b"", b"nonsense", b"ckpt-faults 1\n12", b"ckpt-faults 1\n99999999999999999999 0\n", b"ckpt-faults 1\n1 zz\n",
                 b"ckpt-faults 1\n1 ffffffffffffffff\n", b"\0" * 5000):
        with h.Workdir() as w, h.Target(w, "size", "2M") as t:
            checkpoint(t, w + "/i")
            with open(w + "/i/ckpt-faults", "wb") as f:
                f.write(text)
            h.must(restore(w + "/i"), f"restore with {text[:40]}")
            t.go()
            h.require("is not used" in h.read_text(w + "/i/lazy-pages.log"), "nobody said so")


@case
def record_needs_lazy():
    with h.Workdir() as w:
        r = h.ckpt("restore", "-D", w, "--record-faults", "f")
        h.require(r.rc == 1 and "--lazy-pages" in r.out, str(r))


@case
def restore_says_nonsense():
    """What comes by the socket is checked; the daemon ends with an error, and without harm."""
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        checkpoint(t, w + "/i")
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        word = lambda n: struct.pack("<i", n)
        scripts = {
            "nothing": [],
            "half a word": [b"\1\2"],
            "an unknown task": [word(t.pid + 1)],
            "zero": [word(0)],
            "the least number": [struct.pack("<I", 1 << 31)],
            "the end at once": [struct.pack("<I", END)],
            "a task and no more": [word(t.pid)],
            "a task without a descriptor": [word(t.pid), b"x"],
            "twice": [word(-t.pid), word(-t.pid)],
            "a pipe": [word(t.pid), (b"x", read), word(5)],
            "a file": [word(t.pid), (b"x", null), word(5)],
        }
        for what, script in scripts.items():
            with Daemon(w + "/i") as d:
                s = socket.socket(socket.AF_UNIX)
                s.connect(w + "/i/lazy-pages.socket")
                for part in script:
                    data, fds = part if isinstance(part, tuple) else (part, None)
                    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fds]))] if fds is not None else [])
                s.close()
                h.require(d.result() == 1, f"{what}: exit status {d.p.returncode}: {d.text()}")
                h.require("error" in d.text(), f"{what}: {d.text()}")
        os.close(read)
        os.close(write)
        os.close(null)
        h.must(restore(w + "/i"), "restore")
        t.go()


@case
def daemon_ends_before_the_restore():
    """A daemon that closes the connection: the restore fails, and leaves nothing."""
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        checkpoint(t, w + "/i")
        s = socket.socket(socket.AF_UNIX)
        s.bind(w + "/i/lazy-pages.socket")
        s.listen(1)
        pid = os.fork()
        if pid == 0:
            c, _ = s.accept()
            c.recv(4)
            os._exit(0)
        s.close()
        r = restore(w + "/i")
        h.reap(pid)
        h.require(r.rc == 1 and "daemon for lazy pages is gone" in r.out, str(r))
        h.require(not os.path.exists(f"/proc/{t.pid}"), "a process is left")


@case
def nobody_listens():
    """A socket that somebody left: the restore helps itself."""
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        checkpoint(t, w + "/i")
        s = socket.socket(socket.AF_UNIX)
        s.bind(w + "/i/lazy-pages.socket")
        s.close()
        h.must(restore(w + "/i"), "restore")
        t.go()


@case
def dump_while_lazy():
    """What is not there cannot be dumped: refused, and the program goes on."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")
        for args in ((), ("-R",)):
            r = h.dump(t.pid, w + "/j", *args)
            h.require(r.rc == 1 and "userfaultfd" in r.out, str(r))
        h.untouched(t.pid)
        h.lazy_done([t.pid])
        h.must(h.dump(t.pid, w + "/k"), "dump when all pages are in")
        t.reap()
        h.must(restore(w + "/k"), "restore of that")
        t.go()


@case
def nothing_stays():
    """No descriptor in the program, no area that waits, no process."""
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        t.ready()
        before = h.settled_snapshot(t.pid)
        checkpoint(t, w + "/i")
        h.must(restore(w + "/i", "--record-faults", "f"), "restore")
        links = [os.readlink(f"/proc/{t.pid}/fd/{n}") for n in os.listdir(f"/proc/{t.pid}/fd")]
        h.require(not [x for x in links if "userfault" in x], str(links))
        h.lazy_done([t.pid])
        h.same_process(before, t.pid, "when all pages are in")
        t.go()
        h.wait_until(lambda: not by_name("ckpt-lazy", w + "/i") and not by_name("lazy-keeper", w + "/i"), "everybody to end")


@case
def foreground():
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        checkpoint(t, w + "/i")
        p = subprocess.Popen([h.CKPT, "restore", "-D", w + "/i", "--lazy-pages"], stdin=subprocess.DEVNULL)
        h.wait_until(lambda: h.alive(t.pid) and "TracerPid:\t0" in h.read_text(f"/proc/{t.pid}/status")
                     and h.read_text(f"/proc/{t.pid}/comm") == "lazy\n", "the program to run")
        time.sleep(0.1)
        os.kill(t.pid, signal.SIGUSR1)
        h.wait_until(t.verdict, "the verdict")
        h.require(t.verdict() == "PASS" and p.wait(20) == 0, f"{t.verdict()} {p.returncode}")


@case
def new_pidns():
    with h.Workdir() as w, h.Target(w, "lazy", "touch") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        os.unlink(t.out)
        with open(t.out, "w") as f:  # the original's own lines are not to be mistaken
            f.write("ready\n")
        r = h.must(restore(w + "/i", "--new-pidns", "--pidfile", "pid"), "restore --new-pidns")
        pid = int(h.read_text(w + "/i/pid"))
        h.require(h.alive(pid), str(r))
        h.lazy_done([pid])
        h.kill_hard(pid)


def leave_with_server(images, full):
    """Copies a checkpoint without the pages that may come later: what a lazy dump would have written."""
    shutil.copytree(full, images)
    for path in glob.glob(images + "/pagemap-[0-9]*.img"):
        head, _, entries = im.split(path)
        pages = os.path.join(images, f"pages-{im.read(path)[0].pages_id}.img")
        out, kept, at = [head + struct.pack("<I", len(entries[0][1])) + entries[0][1]], [], 0
        with open(pages, "rb") as f:
            data = f.read()
        for _, body, _ in entries[1:]:
            e = im.message("pagemap_entry").FromString(body)
            if e.flags & 2:
                e.flags = 2
            else:
                kept.append(data[at:at + e.nr_pages * 4096])
            at += e.nr_pages * 4096
            body = e.SerializeToString()
            out.append(struct.pack("<I", len(body)) + body)
        with open(path, "wb") as f:
            f.write(b"".join(out))
        with open(pages, "wb") as f:
            f.write(b"".join(kept))
    h.without_sums(images)


def remote(variant, one_command):
    with h.Workdir() as w, h.Target(w, "lazy", variant) as t:
        checkpoint(t, w + "/full")
        leave_with_server(w + "/i", w + "/full")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and "page server" in r.out, str(r))
        r = restore(w + "/i")
        h.require(r.rc == 1 and not os.path.exists(f"/proc/{t.pid}"), str(r))
        with h.PageServer(w + "/full", "--lazy-pages") as server:
            if one_command:
                h.must(restore(w + "/i", *server.client()), "restore")
                t.go()
            else:
                with Daemon(w + "/i", *server.client()) as d:
                    h.must(restore(w + "/i"), "restore")
                    t.go()
                    h.require(d.result() == 0, f"exit status {d.p.returncode}: {d.text()}")
            h.must(server.result(), "the page server")


@case
def page_server():
    remote("touch", False)


@case
def page_server_one_command():
    remote("touch", True)


@case
def page_server_forks():
    """It gives a page once, and two processes need it."""
    remote("forks", False)


@case
def page_server_events():
    remote("events", False)


def lost_server(stall):
    with h.Workdir() as w, h.Target(w, "lazy", "damaged") as t:
        checkpoint(t, w + "/full")
        leave_with_server(w + "/i", w + "/full")
        with h.PageServer(w + "/full", "--lazy-pages") as server:
            h.must(restore(w + "/i", "--record-faults", "f", *server.client("--ps-timeout", 2)), "restore")
            if stall:
                server.proc.send_signal(signal.SIGSTOP)
            else:
                server.proc.kill()
            os.kill(t.pid, signal.SIGUSR1)
            h.require(lost_pages(t) > 16000, h.read_text(t.out))
            if stall:
                server.proc.send_signal(signal.SIGCONT)


@case
def page_server_killed():
    lost_server(False)


@case
def page_server_stalls():
    """It is given up after the time of --ps-timeout."""
    lost_server(True)


if __name__ == "__main__":
    h.run_cases(CASES)
