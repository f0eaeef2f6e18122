#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How an operation is steered: deadline, cancelling, leave-stopped, foreground restores and their exit codes and signals,
pidfile, inspect and check for programs, terminals and pipes as standard streams, fresh PID namespaces, the name criu."""
import ctypes
import fcntl
import glob
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time

import harness as h

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


class Shell:
    """A program that is no target: started in its own folder and session, output to a file."""

    def __init__(self, work, argv, **kw):
        self.work, self.images = work, os.path.join(work, "images")
        self.log = os.path.join(work, "output")
        self.out = open(self.log, "ab")
        kw.setdefault("start_new_session", True)
        self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, **kw)
        self.pid = self.p.pid

    def text(self):
        return h.read_text(self.log)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        h.kill_hard(self.pid)
        self.p.returncode = 0
        self.out.close()


COUNT = ["/usr/bin/perl", "-e", "$|=1; while(1) { print ++$n, qq(\\n); select undef,undef,undef,0.02 }"]


def counts_on(text):
    n = len(text())
    h.wait_until(lambda: len(text()) > n, "the program to go on")


@case
def leave_stopped():
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-s"), "dump -s")
        h.require(h.state(t.pid) == "T", f"state {h.state(t.pid)} after dump -s")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def restore_stopped():
    with h.Workdir() as w, h.Target(w, "threads", "few") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        h.must(h.ckpt("restore", "-d", "-s", "-D", w + "/i"), "restore -s")
        h.wait_until(lambda: h.state(t.pid) == "T", "the target to be stopped")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def deadline():
    """The limit is for stopping and collecting, not for writing; where it is missed, the target goes on."""
    with h.Workdir() as w, h.Target(w, "size", "512M") as t:
        t.ready(60)
        before = h.settled_snapshot(t.pid)
        r = h.dump(t.pid, w + "/i", "-R", "--timeout", "1")
        h.require(r.rc in (0, 1), str(r))
        if r.rc == 1:  # a busy machine
            h.require("not done within 1 s" in r.out and not os.listdir(w + "/i"), str(r))
            h.require(not any(f"while: {s}" in r.out for s in ("write", "resume", "commit", "finish")), str(r))
        h.untouched(t.pid)
        h.same_process(before, t.pid, "after the deadline")
        t.go()


@case
def cancel_big():
    """SIGINT in the middle of writing 500 MiB."""
    with h.Workdir() as w, h.Target(w, "size", "500M") as t:
        t.ready(60)
        before = h.settled_snapshot(t.pid)
        images = w + "/i"
        os.mkdir(images)

        def written():
            return sum(e.stat().st_size for e in os.scandir(images) if e.name.startswith("pages-"))
        p = subprocess.Popen([h.CKPT, "dump", "-t", str(t.pid), "-D", images], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        h.wait_until(lambda: written() > 20 << 20 or p.poll() is not None, "the dump to be under way", interval=0.001)
        p.send_signal(signal.SIGINT)
        rc = p.wait(20 * h.PATIENCE)
        h.require(rc != 0, "the dump was not cancelled")
        h.require(not os.listdir(images), f"left in the folder: {os.listdir(images)}")
        h.untouched(t.pid)
        h.same_process(before, t.pid, "after the cancelled dump")
        t.go()


def mount_id(pid, fd):
    return int(h.re.search(r"^mnt_id:\s*(\d+)", h.read_text(f"/proc/{pid}/fdinfo/{fd}"), h.re.M)[1])


@case
def external_file():
    """A file that the caller of the restore provides: the original is gone, the program writes to ours."""
    with h.Workdir() as w, Shell(w, COUNT) as s:
        h.wait_until(lambda: s.text(), "output")
        key = f"file[{mount_id(s.pid, 1):x}:{os.stat(s.log).st_ino:x}]"
        os.mkdir(s.images)
        h.must(h.dump(s.pid, s.images, "--external", key), "dump --external")
        h.reap(s.pid)
        os.unlink(s.log)
        r = h.ckpt("restore", "-d", "-D", s.images)
        h.require(r.rc == 1 and key in r.out and h.state(s.pid) == "gone", f"without --inherit-fd: {r}")
        other = os.path.join(w, "other")
        fd = os.open(other, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            h.must(h.run([h.CKPT, "restore", "-d", "-D", s.images, "--inherit-fd", f"fd[{fd}]:{key}"], pass_fds=(fd,)),
                   "restore with --inherit-fd")
        finally:
            os.close(fd)
        counts_on(lambda: h.read_text(other))


@case
def foreground_exit():
    """`ckpt restore` ends with the program's status."""
    with h.Workdir() as w, Shell(w, ["/usr/bin/perl", "-e", "$SIG{USR1}=sub{exit 42}; sleep 1 while 1"]) as s:
        time.sleep(0.3)
        h.must(h.dump(s.pid, s.images), "dump")
        h.reap(s.pid)
        p = subprocess.Popen([h.CKPT, "restore", "-D", s.images], stdin=subprocess.DEVNULL)
        try:
            time.sleep(1)
            h.require(p.poll() is None, f"ckpt ended with {p.returncode}")
            os.kill(s.pid, signal.SIGUSR1)
            h.require(p.wait(10 * h.PATIENCE) == 42, f"exit code {p.returncode}, 42 expected")
        finally:
            if p.poll() is None:
                p.kill()


@case
def foreground_signals():
    """Signals that ckpt gets go to the program; it then ends as the program ended."""
    with h.Workdir() as w, Shell(w, ["/usr/bin/perl", "-e", "$|=1; $SIG{HUP}=sub{print qq(hup\\n)}; sleep 1 while 1"]) as s:
        time.sleep(0.3)
        h.must(h.dump(s.pid, s.images), "dump")
        h.reap(s.pid)
        p = subprocess.Popen([h.CKPT, "restore", "-D", s.images], stdin=subprocess.DEVNULL)
        try:
            time.sleep(1)
            p.send_signal(signal.SIGHUP)
            h.wait_until(lambda: "hup" in s.text(), "the program to see SIGHUP")
            p.send_signal(signal.SIGTERM)
            rc = p.wait(10 * h.PATIENCE)
            h.require(rc in (-signal.SIGTERM, 128 + signal.SIGTERM), f"exit status {rc} after SIGTERM")
            h.wait_until(lambda: not h.alive(s.pid), "the program to end")
        finally:
            if p.poll() is None:
                p.kill()


@case
def criu_name():
    """Started as criu: a foreground restore returns 0 whatever the program's status."""
    with h.Workdir() as w, Shell(w, ["/usr/bin/perl", "-e", "$SIG{USR1}=sub{exit 42}; sleep 1 while 1"]) as s:
        time.sleep(0.3)
        name = os.path.join(w, "criu")
        os.symlink(os.path.realpath(h.CKPT), name)
        h.must(h.run([name, "dump", "-t", str(s.pid), "-D", s.images] if os.path.isdir(s.images) else
                     ["sh", "-c", f"mkdir {s.images}; exec {name} dump -t {s.pid} -D {s.images}"]), "criu dump")
        h.reap(s.pid)
        p = subprocess.Popen([name, "restore", "-D", s.images], stdin=subprocess.DEVNULL)
        try:
            time.sleep(1)
            os.kill(s.pid, signal.SIGUSR1)
            h.require(p.wait(10 * h.PATIENCE) == 0, f"exit code {p.returncode}, 0 expected")
        finally:
            if p.poll() is None:
                p.kill()


@case
def pidfile():
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        path = w + "/pid"
        h.must(h.ckpt("restore", "-d", "-D", w + "/i", "--pidfile", path), "restore")
        h.require(h.read_text(path) == str(t.pid), f"pidfile: {h.read_text(path)!r}")
        h.require(os.stat(path).st_mode & 0o777 == 0o600, "mode of the pidfile")
        t.go()


@case
def inspect():
    with h.Workdir() as w, h.Target(w, "threads", "few") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump")
        text = h.must(h.ckpt("inspect", w + "/i"), "inspect").out
        h.require(str(t.pid) in text and "threads" in text, f"inspect says: {text}")
        j = json.loads(h.must(h.ckpt("inspect", "--json", w + "/i"), "inspect --json").out)
        h.require(str(t.pid) in json.dumps(j), "the JSON lacks the PID")
        t.go()


@case
def check_kernel():
    r = h.must(h.ckpt("check"), "check")
    h.require(len(r.out.splitlines()) > 5, f"check says little: {r}")
    json.loads(h.must(h.ckpt("check", "--json"), "check --json").out)


@case
def versions():
    h.must(h.ckpt("--version"), "--version")
    r = h.must(h.ckpt("--help"), "--help")
    for word in ("dump", "restore", "inspect", "check"):
        h.require(word in r.out, f"--help does not name {word}")
    h.require(h.ckpt("no-such-command").rc == 1, "an unknown command")


@case
def log_and_stats():
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        t.ready()
        r = h.must(h.dump(t.pid, w + "/i", "-R", "-W", w, "-o", "the.log", "-v4", "--display-stats"), "dump")
        h.require(os.path.getsize(w + "/the.log") > 100, "the log is empty")
        h.require(os.path.exists(w + "/stats-dump"), "no stats-dump in the work folder")
        h.require(not r.rc and (r.out.strip() or "stage" in h.read_text(w + "/the.log")), "no statistics")
        t.go()


@case
def standard_streams():
    """Standard output is a pipe to us: refused or restored with --inherit-fd."""
    r, wr = os.pipe()
    with h.Workdir() as w:
        images = w + "/i"
        p = subprocess.Popen(COUNT, stdin=subprocess.DEVNULL, stdout=wr, stderr=subprocess.DEVNULL, start_new_session=True)
        key = os.readlink(f"/proc/{p.pid}/fd/1")
        try:
            h.must(h.dump(p.pid, images), "dump of a program whose output is a pipe")
            h.reap(p.pid)
            p.returncode = 0
            while True:  # what it said before
                os.set_blocking(r, False)
                try:
                    if not os.read(r, 65536):
                        break
                except BlockingIOError:
                    break
            h.must(h.run([h.CKPT, "restore", "-d", "-D", images, "--inherit-fd", f"fd[{wr}]:{key}"], pass_fds=(wr,)),
                   "restore with --inherit-fd")
            h.wait_until(lambda: len(read_some(r)) > 0, "the restored program to write to our pipe")
        finally:
            h.kill_hard(p.pid)
            p.returncode = 0
            os.close(r)
            os.close(wr)


def read_some(fd):
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


COUNT_RESIZED = ('$SIG{WINCH} = sub { $r = " resized" }; $|=1; '
                 'while(1) { print "tick ", ++$n, $r, "\n"; select undef,undef,undef,0.02 }')


def shell_job(job):
    """A job of a shell, with a terminal: dumped with -j, restored onto another terminal with -j."""
    ours, theirs = pty.openpty()
    with h.Workdir() as w:
        images = w + "/i"
        os.mkdir(images)

        def session():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # a session leader that stands for the shell, and the program in its session
        sh = subprocess.Popen(["sh", "-c", f'{job} & echo $! >"$1"; wait', "sh", w + "/pid", COUNT_RESIZED], stdin=theirs,
                              stdout=theirs, stderr=theirs, preexec_fn=session)
        pid = 0
        back = None
        try:
            pid = int(h.wait_until(lambda: h.read_text(w + "/pid").strip(), "the program"))
            os.set_blocking(ours, False)
            h.wait_until(lambda: b"tick" in read_some(ours), "output")
            r = h.dump(pid, images)
            h.require(r.rc == 1 and ("shell-job" in r.out or "-j" in r.out), f"without -j: {r}")
            h.must(h.dump(pid, images, "-j"), "dump -j")
            sh.wait(10)
            for c in h.children(os.getpid()):  # orphans of the tree are ours
                h.reap(c)
            ours2, theirs2 = pty.openpty()
            termios.tcsetwinsize(theirs2, (40, 120))
            back = subprocess.Popen([h.CKPT, "restore", "-j", "-D", images], stdin=theirs2, stdout=theirs2,
                                    stderr=theirs2, preexec_fn=session)
            os.set_blocking(ours2, False)
            h.wait_until(lambda: b"tick" in read_some(ours2), "output on the new terminal")
            h.wait_until(lambda: b"resized" in read_some(ours2), "word that the new terminal has another size")
            h.require(terminal_of(pid) == os.fstat(theirs2).st_rdev, f"its controlling terminal is {terminal_of(pid):x}")
        finally:
            for p in [*h.descendants(pid), pid] if pid else []:
                h.kill_hard(p)
            for p in (sh, back):
                if p and p.poll() is None:
                    p.kill()
                    p.wait()


@case
def terminal():
    shell_job('perl -e "$2"')


@case
def terminal_of_several():
    """The job is a shell with a pipeline."""
    shell_job('sh -c \'perl -e "$1" | cat; :\' sh "$2"')


def leader_on(terminal, argv):
    """A session leader whose controlling terminal is @terminal."""
    def session():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    return subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=session)


def terminal_of(pid):
    return int(h.read_text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[4])


@case
def terminals_outside():
    """Half a pseudo terminal is refused; with --external and --inherit-fd another one takes its place, with its session."""
    ours, theirs = pty.openpty()
    with h.Workdir() as w:
        p = leader_on(theirs, COUNT)
        back = 0
        try:
            r = h.dump(p.pid, w + "/refused")
            h.require(r.rc == 1 and "outside of the tree" in r.out and "fd 0" in r.out, f"master outside: {r}")
            r = h.dump(p.pid, w + "/refused", "-j")
            h.require(r.rc == 1 and "controlling terminal" in r.out, f"a session of its own, with -j: {r}")
            st = os.fstat(theirs)
            key = f"tty[{st.st_rdev:x}:{st.st_dev:x}]"
            h.must(h.dump(p.pid, w + "/i", "--external", key), "dump --external")
            p.wait(10)
            r = h.ckpt("restore", "-d", "-D", w + "/i")
            h.require(r.rc == 1 and key in r.out, f"without --inherit-fd: {r}")
            ours2, theirs2 = pty.openpty()
            r = h.ckpt("restore", "-d", "-D", w + "/i", "--inherit-fd", f"fd[{theirs2}]:{key}", pass_fds=[theirs2])
            h.must(r, "restore --inherit-fd")
            back = p.pid
            os.set_blocking(ours2, False)
            h.wait_until(lambda: read_some(ours2).strip(), "output on the new terminal")
            h.require(terminal_of(back) == os.fstat(theirs2).st_rdev, f"its controlling terminal is {terminal_of(back):x}")
            os.write(ours2, b"\x03")
            h.wait_until(lambda: not h.alive(back), "^C")
        finally:
            h.kill_hard(back or p.pid)
            if p.poll() is None:
                p.wait(10)
    with h.Workdir() as w, h.Target(w, "ptys", "unopened") as t:
        t.ready()
        n = re.search(r"tty-index:\s*(\d+)", "".join(h.read_text(f) for f in glob.glob(f"/proc/{t.pid}/fdinfo/*")))[1]
        master = os.path.basename([f for f in glob.glob(f"/proc/{t.pid}/fd/*") if os.readlink(f) == "/dev/ptmx"][0])
        pidfd = os.pidfd_open(t.pid)
        copy = ctypes.CDLL(None).syscall(438, pidfd, int(master), 0)  # pidfd_getfd
        os.close(pidfd)
        fcntl.ioctl(copy, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        slave = os.open(f"/dev/pts/{n}", os.O_RDWR | os.O_NOCTTY)
        holder = subprocess.Popen(["sleep", "60"], stdin=slave)
        os.close(slave)
        os.close(copy)
        try:
            r = h.dump(t.pid, w + "/refused")
            h.require(r.rc == 1 and f"open in process {holder.pid}" in r.out, f"slave outside: {r}")
        finally:
            holder.kill()
            holder.wait()


def hold_terminals(last):
    """All pseudo terminals up to this number are taken."""
    held = []
    while True:
        fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        held.append(fd)
        if struct.unpack("i", fcntl.ioctl(fd, 0x80045430, b"0000"))[0] >= last:
            return held


@case
def terminal_number_taken():
    """A terminal that nobody can use any more comes back under any number; another one does not."""
    for variant, fine in (("hungother", True), ("raw", False)):
        with h.Workdir() as w, h.Target(w, "ptys", variant) as t:
            t.ready()
            n = max(int(n) for fd in glob.glob(f"/proc/{t.pid}/fd/*")
                    for n in re.findall(r"/dev/pts/(\d+)", os.readlink(fd)))
            h.must(h.dump(t.pid, f"{w}/{variant}"), "dump")
            t.reap()
            held = hold_terminals(n)
            r = h.ckpt("restore", "-d", "-D", f"{w}/{variant}")
            for fd in held:
                os.close(fd)
            if fine:
                h.must(r, "restore")
            else:
                h.require(r.rc == 1 and f"/dev/pts/{n}" in r.out and "in use" in r.out, f"restore: {r}")
                h.must(h.ckpt("restore", "-d", "-D", f"{w}/{variant}"), "restore when it is free")
            t.go()


@case
def fresh_pid_namespace():
    """--new-pidns brings a tree back although its PID is taken (here: by the original, which runs on)."""
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i", "-R"), "dump -R")
        r = h.ckpt("restore", "-d", "-D", w + "/i")
        h.require(r.rc == 1 and str(t.pid) in r.out, f"a taken PID: {r}")
        pidfile = w + "/pid"
        h.must(h.ckpt("restore", "-d", "--new-pidns", "-D", w + "/i", "--pidfile", pidfile), "restore --new-pidns")
        other = int(h.read_text(pidfile))
        h.require(other != t.pid and h.alive(other), "no second one")
        inner = h.re.search(r"^NSpid:\s*(.*)$", h.read_text(f"/proc/{other}/status"), h.re.M)[1].split()[-1]
        h.require(inner == str(t.pid), f"its PID inside is {inner}")
        os.kill(other, signal.SIGUSR1)
        h.wait_until(t.verdict, "the verdict")
        h.require(t.verdict() == "PASS", t.verdict())
        h.reap(other)
        open(t.out, "w").write("ready\n")
        t.go()


@case
def restore_sibling():
    """-S -d: the root task is a child of ckpt's parent, of us."""
    with h.Workdir() as w, h.Target(w, "size", "1M") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        h.must(h.ckpt("restore", "-S", "-d", "-D", w + "/i"), "restore -S")
        stat = h.read_text(f"/proc/{t.pid}/stat")
        h.require(stat.rsplit(")", 1)[1].split()[1] == str(os.getpid()), "its parent is not us")
        t.go()


@case
def two_lives():
    """One checkpoint, restored twice, one after the other."""
    with h.Workdir() as w, h.Target(w, "mem", "anon") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        for _ in range(2):
            open(t.out, "w").write("ready\n")
            h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
            t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
