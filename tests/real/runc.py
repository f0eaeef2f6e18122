#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of runc, checkpointed and restored by runc with ckpt as its criu. runc.py [CASE...]"""
import os
import re
import shutil
import socket

import runtimes
from runtimes import h

def place(fn):
    """A case with a site."""
    def case():
        with h.Workdir("ckpt-runc-") as work, runtimes.Site(work) as site:
            fn(site)
    case.__name__ = fn.__name__
    return case


def app(name, rounds=2, **kw):
    """Checkpointed and restored so many times; then runc's delete leaves nothing."""
    def case(site):
        c = site.runc(runtimes.APPS[name](), **kw).start()
        for _ in range(rounds):
            c.again()
        c.delete()
    case.__name__ = name
    return place(case)


def seccomp(site):
    """With a filter: it is there again, and in force."""
    c = site.runc(runtimes.Shell(), seccomp=True).start()

    def filters():
        return re.findall(r"^Seccomp.*$", h.read_text(f"/proc/{c.pid()}/status"), re.M)
    before = filters()
    h.require("Seccomp:\t2" in before, f"no filter: {before}")
    for _ in range(2):
        c.again()
        h.require(filters() == before, f"filters {before} became {filters()}")
    c.delete()


def userns(site):
    """A user namespace with its own numbers."""
    c = site.runc(runtimes.Shell(), userns=True).start()

    def maps():
        return [h.read_text(f"/proc/{c.pid()}/{n}").split() for n in ("uid_map", "gid_map")]
    before = maps()
    for _ in range(2):
        c.again()
        h.require(maps() == before, f"maps {before} became {maps()}")
    c.delete()


def cgroupns(site):
    """A cgroup namespace: what it sees of its own place is the same."""
    c = site.runc(runtimes.Shell(), cgroupns=True).start()
    before = h.must(c.run("cat", "/proc/self/cgroup"), "exec").out
    c.again()
    after = h.must(c.run("cat", "/proc/self/cgroup"), "exec").out
    h.require(before == after, f"{before}\nbecame\n{after}")
    c.delete()


def cgroup_modes(site):
    """runc has made the cgroups, and put the engine into them, before it asks: so does strict not mind that they are there."""
    c = site.runc(runtimes.Shell()).start()
    before = h.read_text(f"/proc/{c.pid()}/cgroup")
    for mode in ("soft", "full", "strict"):
        c.checkpoint("--manage-cgroups-mode", mode)
        h.wait_until(lambda: not c.pids(), "its processes to be gone", 5)
        c.restore("--manage-cgroups-mode", mode)
        after = h.read_text(f"/proc/{c.pid()}/cgroup")
        h.require(before == after, f"{mode}: {before}\nbecame\n{after}")
    c.delete()


def limits(site):
    """Limits of its cgroups are as they were."""
    def edit(config):
        config["linux"]["resources"].update(memory={"limit": 200 << 20}, pids={"limit": 50}, cpu={"shares": 512})
    c = site.runc(runtimes.Shell(), edit=edit).start()

    def seen():
        return [h.read_text(f"/sys/fs/cgroup/{p}").strip() for p in (f"memory/{c.id}/memory.limit_in_bytes", f"pids/{c.id}/pids.max", f"cpu/{c.id}/cpu.shares")]
    before = seen()
    h.require(before[1] == "50", f"no limits to look at: {before}")
    c.again()
    h.require(seen() == before, f"{before} became {seen()}")
    c.delete()


class Cat(runtimes.App):
    """A shell on a terminal that answers what it is told."""
    name, root = "cat", "base"
    args = ["sh", "-c", "stty -echo; echo ready; n=0; while read -r line; do n=$((n+1)); echo $n $line; done"]
    n = 0

    def say(self, c, word):
        os.write(c.masters[-1], word.encode() + b"\n")
        return self.hear(c)

    def hear(self, c):
        os.set_blocking(c.masters[-1], False)
        got = b""

        def line():
            nonlocal got
            try:
                got += os.read(c.masters[-1], 4096)
            except BlockingIOError:
                pass
            return got.endswith(b"\n")
        h.wait_until(line, "a line from the terminal", 10)
        return got.decode().strip()

    def ready(self, c):
        h.require(self.hear(c) == "ready", "not ready")

    def check(self, c):
        self.n += 1
        said = self.say(c, "hello")
        h.require(said == f"{self.n} hello", f"the terminal said {said!r}, round {self.n}")


def tty(site):
    """Detached, with a terminal whose master is ours: after a restore another one comes through the console socket."""
    c = site.runc(Cat(), terminal=True).start()
    c.app.check(c)
    for _ in range(2):
        c.again()
        h.require(len(c.masters) > 1, "no new terminal")
    c.delete()


class Names(runtimes.App):
    """Things with names, and some that have lost theirs, in a tmpfs of the container: it looks at them again and again."""
    name, root = "names", "base"
    args = ["perl", "-e", r"""
        use Socket; $| = 1; chdir "/dev/shm"; mkdir "sub"; mkdir "lost"; open($in, "<", "sub/..");
        open($gone, "+>", "lost/gone") or die; syswrite($gone, "what was written"); chmod 0640, "lost/gone";
        unlink "lost/gone"; rmdir "lost";
        open($kept, "+>", "sub/kept") or die;
        socket($l, PF_UNIX, SOCK_STREAM, 0); bind($l, pack_sockaddr_un("/dev/shm/sock")) or die; listen($l, 5);
        for ($i = 0; ; $i++) {
            seek($gone, 0, 0); sysread($gone, $text, 100); @s = stat($gone);
            socket($c, PF_UNIX, SOCK_STREAM, 0); $r = connect($c, pack_sockaddr_un("/dev/shm/sock")) ? "heard" : "deaf: $!";
            accept($a, $l) if $r eq "heard"; close($a); close($c);
            @k = stat($kept); @n = stat("/dev/shm/sub/kept");
            open($f, ">", "/count.new"); printf $f "$i|$text|%o %d %d|$r|%s", $s[2], $s[4], $s[3], $k[1] == $n[1] ? "same" : "other";
            close($f); rename "/count.new", "/count"; select(undef, undef, undef, 0.05);
        }"""]

    def state(self, c):
        return c.file("/count").split("|")

    def ready(self, c):
        h.wait_until(lambda: len(self.state(c)) == 5, "the program to look", 10)
        self.want = ["what was written", "100640 0 0", "heard", "same"]
        h.require(self.state(c)[1:] == self.want, f"it sees {self.state(c)}")

    def before(self, c):
        self.seen = int(self.state(c)[0])

    def check(self, c):
        h.wait_until(lambda: int(self.state(c)[0]) > self.seen, "the program to look again", 10)
        h.require(self.state(c)[1:] == self.want, f"it sees {self.state(c)}")


def names(site, userns=False):
    """Files, a deleted one in a folder that is deleted, too, and a socket, in the container's own tmpfs."""
    c = site.runc(Names(), userns=userns).start()
    for _ in range(2):
        c.again()
    c.delete()


def names_userns(site):
    """The same where the tmpfs belongs to a user namespace."""
    names(site, userns=True)


class Echo(runtimes.App):
    """Answers every line with its number on that connection."""
    name = "echo"
    args = ["python3", "-c", """
import socket, threading
def serve(s):
    f = s.makefile("rb")
    for n, line in enumerate(f):
        s.sendall(b"%d %s" % (n, line))
l = socket.create_server(("", 7000))
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""]

    def ready(self, c):
        def connect():
            try:
                self.s = socket.create_connection((c.address, 7000), timeout=10)
            except OSError:
                return False
            return True
        h.wait_until(connect, "the server", 20)
        self.f, self.n = self.s.makefile("rb"), 0

    def ask(self):
        self.s.settimeout(20)
        self.s.sendall(b"line\n")
        said = self.f.readline()
        h.require(said == b"%d line\n" % self.n, f"answered {said!r}, not {self.n}")
        self.n += 1

    def before(self, c):
        self.ask()

    def check(self, c):
        self.ask()


def tcp(site):
    """A connection from outside, kept through three checkpoints; without --tcp-established refused, and all goes on."""
    h.own_network()
    c = site.runc(Echo(), net=site.netns("10.77.1"))
    c.address = "10.77.1.2"
    c.start()
    c.app.check(c)
    r = c.checkpoint(must=False)
    h.require(r.rc != 0 and "Error" in c.log("dump.log"), f"a checkpoint without --tcp-established: {r}")
    c.app.check(c)
    for _ in range(3):
        c.again("--tcp-established")
    c.delete()


def netns(site):
    """A network namespace given by path is not touched: an address in it is there afterwards."""
    path = site.netns("10.77.2")
    c = site.runc(runtimes.Redis(), net=path).start()
    before = os.stat(path).st_ino
    c.again()
    h.require(os.stat(f"/proc/{c.pid()}/ns/net").st_ino == before, "in another network namespace")
    c.delete()


def leave_running(site):
    """It goes on beside its checkpoint; ended, it is back from there."""
    c = site.runc(runtimes.Shell()).start()
    pid = c.pid()
    for _ in range(3):
        c.app.before(c)
        c.checkpoint("--leave-running")
        h.require(c.running() and c.pid() == pid, "does not run on")
        c.app.check(c)
        h.untouched(pid)
    c.delete()
    c.restore()
    c.app.check(c)
    c.delete()


def pre_dump(site):
    """Two pre-dumps and a checkpoint upon them; the last one has less than all."""
    c = site.runc(runtimes.Redis()).start()
    c.app.cli(c, "debug", "populate", "20000", "key", "2000")
    first, second = os.path.join(c.dir, "pre1"), os.path.join(c.dir, "pre2")
    c.checkpoint("--pre-dump", images=first)
    h.require(c.running(), "ended by a pre-dump")
    c.checkpoint("--pre-dump", "--parent-path", "../pre1", images=second)
    c.app.before(c)
    last = os.path.join(c.dir, "last")
    c.checkpoint("--parent-path", "../pre2", images=last)
    pages = [sum(e.stat().st_size for e in os.scandir(d) if e.name.startswith("pages-")) for d in (first, last)]
    h.require(pages[1] < pages[0] / 2, f"pages: {pages[0]} bytes, then {pages[1]}")
    c.restore(images=last)
    c.app.check(c)
    c.delete()


def failed_checkpoint(site):
    """A socket with somebody outside: refused; the container is unharmed, and runc prints the engine's reason."""
    h.own_network()
    c = site.runc(Echo(), net=site.netns("10.77.3"))
    c.address = "10.77.3.2"
    c.start()
    pids, before = c.pids(), runtimes.left_behind(c.id)
    r = c.checkpoint(must=False)
    h.require(r.rc != 0, "a checkpoint with an established connection")
    h.require(any("Error" in line for line in c.log("dump.log").splitlines()), f"no Error in the log: {c.log('dump.log')[-500:]}")
    h.require(c.running() and c.pids() == pids, "not the same processes")
    for pid in pids:
        h.untouched(pid)
    h.require(runtimes.left_behind(c.id) == before, "something is left")
    c.app.check(c)
    h.require("container still running" in r.out or "criu failed" in r.out, f"runc said: {r.out}")
    c.delete()


def failed_restore(site):
    """Damaged images: nothing of it stays, and the good ones still work."""
    c = site.runc(runtimes.Shell()).start()
    c.app.before(c)
    c.checkpoint()
    bad = os.path.join(c.dir, "bad")
    for what in ("pagemap-1.img", "core-1.img", "files.img"):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(c.images(), bad)
        with open(os.path.join(bad, what), "r+b") as f:
            f.truncate(os.path.getsize(os.path.join(bad, what)) - 3)
        before = runtimes.left_behind(c.id)
        r = c.restore(images=bad, must=False)
        h.require(r.rc != 0, f"restored from a damaged {what}")
        h.require("Error" in c.log("restore.log"), f"no Error in the log: {c.log('restore.log')[-500:]}")
        h.require(not c.pids(), f"processes after a failed restore ({what})")
        after = [p for p in runtimes.left_behind(c.id) if p not in before]
        h.require(not after, f"left after a failed restore ({what}): {after}")
        c.call("delete", "-f", c.id)
    c.restore()
    c.app.check(c)
    c.delete()


def migrate(site):
    """The images elsewhere, the bundle made anew: another container than the one that was checkpointed."""
    c = site.runc(runtimes.Redis()).start()
    c.app.before(c)
    c.checkpoint()
    other = site.runc(c.app)
    other.rounds = 1
    shutil.copytree(c.images(), other.images())
    c.delete()
    other.restore()
    other.app.check(other)
    other.delete()


def images(site):
    """The field's decoder reads every image of a container."""
    crit = runtimes.tool("crit")
    c = site.runc(runtimes.Nginx()).start()
    c.checkpoint()
    names = [n for n in sorted(os.listdir(c.images())) if n.endswith(".img") and not n.startswith(("pages-", "tmpfs-"))]
    h.require({"mountpoints-", "cgroup.img", "ipcns-var-", "utsns-"} <= {re.sub(r"\d+\.img$", "", n) for n in names}, f"images: {names}")
    for n in names:
        h.must(h.run([crit, "decode", "-i", os.path.join(c.images(), n)]), f"crit decode {n}")


def v2only(site):
    """With nothing but cgroup v2 to see: runc takes the other ways."""
    runtimes.only_v2()
    c = site.runc(runtimes.Shell()).start()
    for _ in range(2):
        c.again()
    c.delete()


CASES = [app(name) for name in ("idle", "shell", "redis", "nginx", "postgres", "mariadb", "node", "java")] + [place(f) for f in (
    seccomp, userns, cgroupns, cgroup_modes, limits, tty, names, names_userns, tcp, netns, leave_running, pre_dump, failed_checkpoint, failed_restore, migrate, images, v2only)]

if __name__ == "__main__":
    h.run_cases(CASES)
