# SPDX-License-Identifier: MIT
"""Containers for tests and benchmarks: root file systems, bundles, and runc, podman, docker and crun with ckpt as their criu.

A Site is the place of one test: a mount namespace and a /run of its own, a folder with `criu` that is ckpt, and what has to be
ended and taken away. It makes containers:

    with runtimes.Site(work) as site:
        c = site.runc(runtimes.Shell())
        c.start()
        c.checkpoint()
        c.restore()
        c.check()

What runs in a container is an App: it knows how to be started, when it is ready, and how to see that it goes on where it was.

Environment: CKPT_CACHE   where root file systems are kept (default: /var/cache/ckpt); what is there is used as it is
             CKPT_CRIU    the engine that runtimes are given (default: ckpt of the build)
             CKPT_CRUN    a crun with checkpoint support
"""
import array
import contextlib
import ctypes
import glob
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402

CACHE = os.environ.get("CKPT_CACHE", "/var/cache/ckpt")
PACKAGES = ["redis-server", "nginx-light", "mariadb-server", "postgresql", "nodejs", "openjdk-17-jre-headless", "python3"]
NUMBERS = itertools.count(1)
WAIT = 30


# -------------------------------------------------------------------------------------------------- root file systems

def have_root(name):
    return os.path.isdir(os.path.join(CACHE, name, "bin")) and not os.path.exists(os.path.join(CACHE, name + ".part"))


def build_root(name):
    """debootstrap, and for "full" the packages in it. What is half made has another name, and is thrown away."""
    if not shutil.which("debootstrap"):
        raise h.Skip("no debootstrap here")
    os.makedirs(CACHE, exist_ok=True)
    path, part = os.path.join(CACHE, name), os.path.join(CACHE, f"{name}.{os.getpid()}")
    try:
        if name == "base":
            if h.run(["debootstrap", "--variant=minbase", "bookworm", part], 600).rc:
                raise h.Skip("debootstrap did not get a root file system (no network?)")
        else:
            h.must(h.run(["cp", "-a", root("base"), part], 300), "cp")
            install(part)
        os.rename(part, path)
    finally:
        if os.path.exists(part):
            shutil.rmtree(part, ignore_errors=True)
    return path


def install(path):
    """Packages start no services in there, and some of them look at /proc."""
    policy = os.path.join(path, "usr/sbin/policy-rc.d")
    with open(policy, "w") as f:
        f.write("#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    h.must(h.run(["mount", "-t", "proc", "proc", os.path.join(path, "proc")]), "mount /proc")
    try:
        for argv in (["apt-get", "-q", "-y", "update"], ["apt-get", "-q", "-y", "install", "--no-install-recommends", *PACKAGES],
                     ["apt-get", "clean"]):
            if h.run(["chroot", path, *argv], 900, env=env).rc:
                raise h.Skip(f"packages could not be installed into {path}")
    finally:
        h.run(["umount", os.path.join(path, "proc")])
    os.unlink(policy)


def root(name):
    """A root file system: "base" (Debian's minbase), "full" (with all servers): of the cache, made if CKPT_BUILD_ROOTS is set, else
    this host's own, whose programs will do; or "tiny": a shell and little else, copied from here."""
    if name == "tiny":
        return tiny_root()
    if have_root(name):
        return os.path.join(CACHE, name)
    return build_root(name) if os.environ.get("CKPT_BUILD_ROOTS") else "/"


def tiny_root():
    path = os.path.join(CACHE, "tiny")
    if os.path.isdir(path):
        return path
    part = f"{path}.{os.getpid()}"
    for d in ("bin", "proc", "sys", "dev", "etc", "tmp", "lib", "run", "root", "var"):
        os.makedirs(os.path.join(part, d))
    os.symlink("lib", os.path.join(part, "lib64"))
    for program in ("sh", "sleep", "cat", "echo", "stty", "ls", "true", "mount", "umount", "readlink"):
        found = os.path.realpath(tool(program))
        shutil.copy(found, os.path.join(part, "bin", program))
        for lib in re.findall(r"(/\S+\.so\S*)", h.run(["ldd", found]).out):
            os.makedirs(part + os.path.dirname(lib), exist_ok=True)
            shutil.copy(os.path.realpath(lib), part + lib)
    with open(os.path.join(part, "etc/passwd"), "w") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(os.path.join(part, "etc/group"), "w") as f:
        f.write("root:x:0:\n")
    try:
        os.rename(part, path)
    except OSError:  # another test was faster
        shutil.rmtree(part, ignore_errors=True)
    return path


def tool(name):
    path = shutil.which(name)
    if not path:
        raise h.Skip(f"no {name} here")
    return path


# ------------------------------------------------------------------------------------------------------------- apps

class App:
    """What runs in a container. @args: its command; @user: (uid, gid) by name; @options: of the runtime's checkpoint."""
    name, root, args, user, options = "", "full", [], None, []

    def prepare(self, rootfs):
        """Before the first start: files in its root file system."""

    def ready(self, c):
        """Waits until it can be asked."""

    def load(self, c, megabytes):
        """Gives it memory, for benchmarks."""

    def before(self, c):
        """Looked at before a checkpoint..."""

    def check(self, c):
        """... and whether it goes on where it was, after a restore."""


class Shell(App):
    """An idle shell of which a child counts, so that one sees that both are the same as before."""
    name, root = "shell", "tiny"
    args = ["sh", "-c", 'i=0; while :; do i=$((i+1)); echo $$ $i >/count; sleep 0.05; done']

    def count(self, c):
        words = c.file("/count").split()
        return int(words[1]) if len(words) == 2 else 0

    def ready(self, c):
        h.wait_until(lambda: self.count(c) > 2, "the shell to count", WAIT)

    def before(self, c):
        self.seen = self.count(c)

    def check(self, c):
        h.wait_until(lambda: self.count(c) > self.seen, "the shell to count on", WAIT)
        h.require(self.count(c) < self.seen + 2000, f"it began anew: {self.seen}, then {self.count(c)}")


class Idle(App):
    """The idle container of the paper: a shell that waits."""
    name, root = "idle", "base"
    args = ["sh", "-c", "while :; do sleep 1000; done"]

    def ready(self, c):
        h.wait_until(lambda: len(c.pids()) == 2, "the shell's child", WAIT)

    def before(self, c):
        self.seen = sorted(c.pids(inside=True))

    def check(self, c):
        h.require(sorted(c.pids(inside=True)) == self.seen, f"processes {self.seen} became {c.pids(inside=True)}")
        said = h.must(c.run("echo", "here"), "exec").out
        h.require(said == "here\n", f"exec said {said!r}")


class Redis(App):
    name = "redis"
    args = ["redis-server", "--save", "", "--appendonly", "no", "--dir", "/tmp", "--enable-debug-command", "local", "--port", "6379",
            "--loglevel", "warning"]

    def prepare(self, rootfs):
        """redis-tools have the server as well, under another name."""
        path = os.path.join(rootfs, "usr/bin/redis-server")
        if not os.path.exists(path) and os.path.exists(os.path.join(rootfs, "usr/bin/redis-check-rdb")):
            os.symlink("redis-check-rdb", path)

    def cli(self, c, *args):
        return h.must(c.inside("redis-cli", *args), f"redis-cli {args[0]}").out.strip()

    def ready(self, c):
        h.wait_until(lambda: c.inside("redis-cli", "ping").out.strip() == "PONG", "redis", WAIT, 0.1)

    def load(self, c, megabytes):
        self.cli(c, "debug", "populate", str(megabytes * 1024 // 4), "key", "4000")

    def before(self, c):
        if not hasattr(self, "n"):
            self.cli(c, "debug", "populate", "5000", "some", "2000")
        self.n = int(self.cli(c, "incr", "counter"))
        self.digest, self.size = self.cli(c, "debug", "digest"), self.cli(c, "dbsize")

    def check(self, c):
        h.wait_until(lambda: c.inside("redis-cli", "ping").out.strip() == "PONG", "redis after the restore", WAIT, 0.1)
        h.require(self.cli(c, "debug", "digest") == self.digest, "redis has other data")
        h.require(self.cli(c, "dbsize") == self.size, "redis has other keys")
        now = int(self.cli(c, "incr", "counter"))
        h.require(now == self.n + 1, f"redis counted {self.n}, then {now}")


class Nginx(App):
    name = "nginx"
    args = ["nginx", "-g", "daemon off;"]

    def prepare(self, rootfs):
        os.makedirs(os.path.join(rootfs, "var/www/html"), exist_ok=True)
        with open(os.path.join(rootfs, "var/www/html/index.html"), "w") as f:
            f.write("it works\n" * 1000)
        for path in glob.glob(os.path.join(rootfs, "etc/nginx/sites-enabled/*")):
            os.unlink(path)
        with open(os.path.join(rootfs, "etc/nginx/conf.d/x.conf"), "w") as f:
            f.write("server { listen 80; root /var/www/html; }\n")
        path = os.path.join(rootfs, "etc/nginx/nginx.conf")
        text = re.sub(r"worker_processes .*;", "worker_processes 2;", h.read_text(path))
        with open(path, "w") as f:
            f.write(text)

    def get(self, c):
        return c.near("curl", "-sf", "--max-time", "5", "http://127.0.0.1/index.html").out

    def ready(self, c):
        h.wait_until(lambda: self.get(c) == "it works\n" * 1000, "nginx", WAIT, 0.1)

    def before(self, c):
        self.pids = c.pids(inside=True)

    def check(self, c):
        self.ready(c)
        h.require(c.pids(inside=True) == self.pids, f"processes {self.pids} became {c.pids(inside=True)}")


class Postgres(App):
    name, user = "postgres", ("postgres", "postgres")
    sockets = "/var/run/postgresql"
    args = ["/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/postgresql/15/main", "-c",
            "config_file=/etc/postgresql/15/main/postgresql.conf", "-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal",
            "-c", "ssl=off"]

    def prepare(self, rootfs):
        """The folder of its socket is in /var/run, and not always in the package's cluster."""
        path = os.path.join(rootfs, "run/postgresql")
        os.makedirs(path, exist_ok=True)
        os.chown(path, *c_ids(rootfs, *self.user))

    def sql(self, c, text, must=True):
        r = c.run("psql", "-h", self.sockets, "-Atqc", text, user=self.user)
        return h.must(r, f"psql {text}").out.strip() if must else r.out.strip()

    def ready(self, c):
        h.wait_until(lambda: self.sql(c, "select 41+1", False) == "42", "postgresql", 60, 0.2)
        self.sql(c, "create table if not exists counter(n int); create sequence if not exists s")

    def load(self, c, megabytes):
        self.sql(c, f"create table if not exists big as select i, repeat(md5(i::text), 30) t from generate_series(1, {megabytes * 1024}) i")
        self.sql(c, "create extension if not exists pg_prewarm; select pg_prewarm('big')")

    def before(self, c):
        self.n = int(self.sql(c, "select nextval('s')"))
        self.sql(c, f"insert into counter values ({self.n})")
        self.sum = self.sql(c, "select count(*), sum(n) from counter")

    def check(self, c):
        h.wait_until(lambda: self.sql(c, "select 1", False) == "1", "postgresql after the restore", WAIT, 0.2)
        h.require(self.sql(c, "select count(*), sum(n) from counter") == self.sum, "postgresql has other rows")
        now = int(self.sql(c, "select nextval('s')"))
        h.require(now == self.n + 1, f"the sequence went from {self.n} to {now}: the server began anew?")


class Mariadb(App):
    """Uses io_uring unless it is told not to, and locks its files."""
    name, options = "mariadb", ["--file-locks"]
    args = ["mariadbd", "--user=mysql", "--innodb-use-native-aio=0", "--skip-networking", "--socket=/tmp/my.sock", "--log-error=/tmp/my.log"]

    def prepare(self, rootfs):
        """Where only the program is installed, its data are made here."""
        if os.path.isdir(os.path.join(rootfs, "var/lib/mysql/mysql")):
            path = os.path.join(rootfs, "run/mysqld")
            os.makedirs(path, exist_ok=True)
            os.chown(path, *c_ids(rootfs, "mysql", "mysql"))
            return
        self.args = [a.replace("user=mysql", "user=root") for a in self.args] + ["--datadir=/my"]
        h.must(h.run(["chroot", rootfs, "mariadb-install-db", "--user=root", "--datadir=/my", "--auth-root-authentication-method=normal"],
                     120), "mariadb-install-db")

    def sql(self, c, text, must=True):
        r = c.run("mariadb", "-S", "/tmp/my.sock", "-Ne", text)
        return h.must(r, f"mariadb {text}").out.strip() if must else r.out.strip()

    def ready(self, c):
        h.wait_until(lambda: self.sql(c, "select 41+1", False) == "42", "mariadb", 90, 0.2)
        self.sql(c, "create database if not exists test; create table if not exists test.t(n int auto_increment primary key, v int)")

    def load(self, c, megabytes):
        """Dirty pages of the buffer pool are memory as good as any: doubled until it is enough."""
        self.sql(c, "create table test.big(t varchar(1000)); insert into test.big values (repeat('x', 990))")
        rows = 1
        while rows < megabytes * 1024:
            self.sql(c, "insert into test.big select concat(uuid(), substr(t, 37)) from test.big")
            rows *= 2

    def before(self, c):
        self.sql(c, "insert into test.t(v) values (rand()*1000)")
        self.sum = self.sql(c, "select count(*), sum(v), max(n) from test.t")
        self.up = int(self.sql(c, "show status like 'Connections'").split()[1])

    def check(self, c):
        h.wait_until(lambda: self.sql(c, "select 1", False) == "1", "mariadb after the restore", WAIT, 0.2)
        h.require(self.sql(c, "select count(*), sum(v), max(n) from test.t") == self.sum, "mariadb has other rows")
        now = int(self.sql(c, "show status like 'Connections'").split()[1])
        h.require(now > self.up, f"connections counted {self.up}, then {now}: the server began anew?")


class Node(App):
    """An HTTP server with a counter and a timer."""
    name = "node"
    args = ["node", "-e", "let n = 0, t = 0; setInterval(() => t++, 50); require('http').createServer((q, r) => "
                          "r.end(JSON.stringify([++n, t]))).listen(8000)"]

    def get(self, c):
        text = c.near("curl", "-sf", "--max-time", "5", "http://127.0.0.1:8000/").out
        try:
            return json.loads(text)
        except ValueError:
            return None

    def ready(self, c):
        h.wait_until(lambda: self.get(c), "node", WAIT, 0.1)

    def before(self, c):
        self.seen = self.get(c)

    def check(self, c):
        now = h.wait_until(lambda: self.get(c), "node after the restore", WAIT, 0.1)
        h.require(now[0] == self.seen[0] + 1, f"node counted {self.seen}, then {now}")
        h.wait_until(lambda: self.get(c)[1] > now[1], "node's timer", WAIT, 0.1)


class Java(App):
    """Counts in one thread while others wait."""
    name = "java"
    args = ["java", "-Xmx128m", "-cp", "/", "Count"]
    text = """
import java.nio.file.*;
public class Count {
	public static void main(String[] args) throws Exception {
		for (int t = 0; t < 4; t++) {
			Thread w = new Thread(() -> { try { synchronized (args) { args.wait(); } } catch (InterruptedException e) { } });
			w.setDaemon(true);
			w.start();
		}
		for (int i = 1; ; i++) {
			Files.writeString(Path.of("/count"), ProcessHandle.current().pid() + " " + i + "\\n");
			Thread.sleep(20);
		}
	}
}
"""
    count, ready, before, check = Shell.count, Shell.ready, Shell.before, Shell.check

    def prepare(self, rootfs):
        """The container has a run time only: compiled out here."""
        cached = os.path.join(CACHE, "Count.class")
        if not os.path.exists(cached):
            javac, work = tool("javac"), os.path.join(CACHE, f"java.{os.getpid()}")
            os.makedirs(work)
            with open(os.path.join(work, "Count.java"), "w") as f:
                f.write(self.text)
            h.must(h.run([javac, "--release", "17", "-d", work, os.path.join(work, "Count.java")], 120), "javac")
            os.rename(os.path.join(work, "Count.class"), cached)
            shutil.rmtree(work)
        shutil.copy(cached, rootfs)


APPS = {a.name: a for a in (Shell, Idle, Redis, Nginx, Postgres, Mariadb, Node, Java)}


def c_ids(rootfs, user, group):
    """Numbers of a user and a group in a root file system."""
    def number(name, path):
        for line in h.read_text(os.path.join(rootfs, path)).splitlines():
            words = line.split(":")
            if words[0] == name:
                return int(words[2])
        raise h.Failure(f"no {name} in {path}")
    return number(user, "etc/passwd"), number(group, "etc/group")


# ------------------------------------------------------------------------------------------------------------- the site

class Site:
    """The place of one test. What is started in it ends with it, also when the test fails."""

    def __init__(self, work, engine=None):
        self.work, self.undo = work, []
        self.engine = engine or os.environ.get("CKPT_CRIU") or h.CKPT
        self.bin = os.path.join(work, "bin")
        os.makedirs(self.bin)
        os.symlink(os.path.realpath(self.engine), os.path.join(self.bin, "criu"))
        self.env = dict(os.environ, PATH=self.bin + ":" + os.environ["PATH"] + ":/usr/sbin:/sbin")
        self.id = f"ckpt-{os.getpid()}"

    def __enter__(self):
        h.own_neighbours()
        os.makedirs("/run/netns", exist_ok=True)
        return self

    def __exit__(self, *exc):
        for undo in reversed(self.undo):
            with contextlib.suppress(OSError, h.Failure, subprocess.SubprocessError):
                undo()
        self.undo = []

    def name(self, what):
        return f"{self.id}-{what}-{next(NUMBERS)}"

    def run(self, *argv, timeout=60, **kw):
        return h.run([str(a) for a in argv], timeout, env=self.env, **kw)

    def overlay(self, lower, at, options=""):
        """@lower, with what is written to it kept apart: not below it, as would be if it were this host's own."""
        if lower == "/":
            h.must(h.run(["mount", "-t", "tmpfs", "tmpfs", at]), "mount of a tmpfs")
            self.undo.append(lambda: h.run(["umount", "-l", at]))
        for d in ("upper", "inner"):
            os.makedirs(os.path.join(at, d), exist_ok=True)
        os.makedirs(os.path.join(at, "rootfs"), exist_ok=True)
        path = os.path.join(at, "rootfs")
        h.must(h.run(["mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={at}/upper,workdir={at}/inner{options}", "overlay", path]),
               "mount of an overlay")
        self.undo.append(lambda: h.run(["umount", "-l", path]))
        return path

    def netns(self, address=None):
        """A network namespace with a name; with @address, connected to us (a namespace of our own) by a veth."""
        name = self.name("net")
        h.must(h.run(["ip", "netns", "add", name]), "ip netns add")
        self.undo.append(lambda: h.run(["ip", "netns", "del", name]))
        h.must(h.run(["ip", "-n", name, "link", "set", "lo", "up"]), "lo up")
        if address:
            n = next(NUMBERS)
            for argv in (["ip", "link", "add", f"ve{n}", "type", "veth", "peer", "name", "eth0", "netns", name],
                         ["ip", "addr", "add", f"{address}.1/24", "dev", f"ve{n}"], ["ip", "link", "set", f"ve{n}", "up"],
                         ["ip", "-n", name, "addr", "add", f"{address}.2/24", "dev", "eth0"],
                         ["ip", "-n", name, "link", "set", "eth0", "up"]):
                h.must(h.run(argv), " ".join(argv))
        return f"/run/netns/{name}"

    def runc(self, app, **kw):
        return Runc(self, app, **kw)


def only_v2():
    """From here on we see nothing but cgroup v2 (in a mount namespace of our own)."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return
    if not os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers"):
        raise h.Skip("no cgroup v2 beside v1 here")
    h.must(h.run(["sh", "-c", "mkdir -p /run/v2 && mount --move /sys/fs/cgroup/unified /run/v2 && umount -R /sys/fs/cgroup "
                              "&& mount --bind /run/v2 /sys/fs/cgroup && umount /run/v2"]), "only cgroup v2")


def left_behind(name):
    """Cgroups with this in their name, and what is mounted below a path with it."""
    found = [os.path.join(d, n) for d, names, _ in os.walk("/sys/fs/cgroup") for n in names if name in n]
    return found + [line.split()[4] for line in h.read_text("/proc/self/mountinfo").splitlines() if name in line.split()[4]]


# ------------------------------------------------------------------------------------------------------------- runc

class Runc:
    """A container of runc (or of a program called like it). @net: "private", "host", or a path; @userns, @cgroupns: with namespaces
    of these kinds; @seccomp: a profile; @terminal: its streams are a terminal whose master we get; @edit: changes config.json."""
    binary = "runc"

    def __init__(self, site, app, net="private", userns=False, cgroupns=False, seccomp=False, terminal=False, edit=None, bundle=None):
        self.site, self.app, self.net, self.terminal = site, app, net, terminal
        self.userns, self.cgroupns, self.seccomp, self.edit = userns, cgroupns, seccomp, edit
        self.path = tool(self.binary)
        self.id = site.name(app.name)
        self.dir = os.path.join(site.work, self.id)
        self.state_dir = os.path.join(self.dir, "state")
        self.rounds, self.masters, self.cg = 0, [], None
        os.makedirs(self.dir)
        site.undo.append(self.destroy)
        self.rootfs = site.overlay(root(app.root), self.dir, ",metacopy=on,redirect_dir=on" if userns else "")
        app.prepare(self.rootfs)
        if not any(os.path.exists(os.path.join(self.rootfs, d, app.args[0].lstrip("/"))) for d in ("", "bin", "usr/bin", "usr/sbin")):
            raise h.Skip(f"no {app.args[0]} here")
        if userns:
            h.must(h.run(["chown", "-Rh", "100000:100000", self.rootfs], 120), "chown")
        self.write_config()

    # -- the bundle

    def write_config(self):
        if not os.path.exists(os.path.join(self.dir, "config.json")):
            h.must(self.site.run(self.path, "spec", cwd=self.dir), f"{self.binary} spec")
        with open(os.path.join(self.dir, "config.json")) as f:
            c = json.load(f)
        p, linux = c["process"], c["linux"]
        p["args"], p["terminal"], p["rlimits"], p["noNewPrivileges"] = self.app.args, self.terminal, [], False
        caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
                "CAP_AUDIT_WRITE", "CAP_SYS_CHROOT", "CAP_FSETID", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETPCAP", "CAP_SETFCAP"]
        p["capabilities"] = {k: caps for k in ("bounding", "effective", "permitted")}
        if self.app.user:
            p["user"] = dict(zip(("uid", "gid"), c_ids(self.rootfs, *self.app.user)))
        c["root"] = {"path": "rootfs", "readonly": False}
        linux["cgroupsPath"] = "/" + self.id
        self.namespaces(linux)
        if self.userns:
            linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        if self.seccomp:
            linux["seccomp"] = SECCOMP
        if self.edit:
            self.edit(c)
        with open(os.path.join(self.dir, "config.json"), "w") as f:
            json.dump(c, f, indent=1)

    def namespaces(self, linux):
        kinds = {n["type"]: n for n in linux["namespaces"] if n["type"] not in ("cgroup", "user")}
        if self.net == "host":
            del kinds["network"]
        elif self.net != "private":
            kinds["network"]["path"] = self.net
        for kind, wanted in (("user", self.userns), ("cgroup", self.cgroupns)):
            if wanted:
                kinds[kind] = {"type": kind}
        linux["namespaces"] = list(kinds.values())

    # -- its life

    def call(self, *args, timeout=60, **kw):
        return self.site.run(self.path, "--root", self.state_dir, *args, timeout=timeout, **kw)

    def quietly(self, *args, timeout=60):
        """A detached container has the streams of its runtime: a file of ours is not among its mounts, /dev/null is opened anew. What
        the runtime itself has to say goes into a log."""
        log = os.path.join(self.dir, "log")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)
        start = time.monotonic()
        try:
            rc = subprocess.run([self.path, "--log", log, "--root", self.state_dir, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=self.site.env, timeout=timeout * h.PATIENCE, check=False).returncode
        except subprocess.TimeoutExpired:
            rc = "timeout"
        return h.Result(rc, h.read_text(log), time.monotonic() - start)

    def start(self):
        with self.console() as options:
            r = self.quietly("run", "-d", *options, "-b", self.dir, self.id)
            h.require(r.rc == 0, f"{self.binary} run: {r}")
        h.require(self.running(), f"{self.app.name} ended at once")
        self.set_up()
        self.app.ready(self)
        return self

    def set_up(self):
        """A private network has nothing up but what somebody outside sets up: after a restore as well (empty_ns)."""
        if self.net == "private":
            h.must(h.run(["nsenter", "-t", str(self.pid()), "-n", "ip", "link", "set", "lo", "up"]), "lo up")

    @contextlib.contextmanager
    def console(self):
        """Options of a detached container with a terminal; its master is in self.masters afterwards."""
        if not self.terminal:
            yield []
            return
        path = os.path.join(self.dir, "console")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen(1)
            got = []
            t = threading.Thread(target=lambda: got.append(receive(s)), daemon=True)
            t.start()
            yield ["--console-socket", path]
            t.join(10)
        os.unlink(path)
        h.require(got and got[0][1] is not None, "no terminal came through the console socket")
        self.console_name, master = got[0]
        self.masters.append(master)

    def state(self):
        r = self.call("state", self.id)
        return json.loads(r.out) if r.rc == 0 else {}

    def pid(self):
        return self.state().get("pid")

    def running(self):
        s = self.state()
        return s.get("status") == "running" and h.alive(s["pid"])

    def pids(self, inside=False):
        """All its living processes, by the freezer's cgroup; with @inside, their numbers as they see them."""
        for path in (f"/sys/fs/cgroup/freezer/{self.id}", f"/sys/fs/cgroup/unified/{self.id}", f"/sys/fs/cgroup/{self.id}"):
            if os.path.exists(path):
                pids = [int(p) for p in h.read_text(os.path.join(path, "cgroup.procs")).split() if h.alive(p)]
                break
        else:
            return []
        if inside:
            return sorted(int(m.group(1)) for p in pids if (m := re.search(r"^NSpid:.*\t(\d+)$", h.read_text(f"/proc/{p}/status"), re.M)))
        return pids

    def images(self):
        return os.path.join(self.dir, f"images{self.rounds}")

    def checkpoint(self, *options, images=None, must=True, timeout=120):
        if not images:
            self.rounds += 1
            images = self.images()
        os.makedirs(images, exist_ok=True)
        self.work_path = images + ".work"
        os.makedirs(self.work_path, exist_ok=True)
        r = self.call("checkpoint", "--image-path", images, "--work-path", self.work_path, *self.app.options, *options, self.id, timeout=timeout)
        return self.well(r, "checkpoint", "dump.log") if must else r

    def restore(self, *options, images=None, must=True, timeout=120):
        images = images or self.images()
        self.work_path = images + ".back"
        os.makedirs(self.work_path, exist_ok=True)
        with (self.console() if must else contextlib.nullcontext([])) as console:
            r = self.quietly("restore", "-d", *console, "--image-path", images, "--work-path", self.work_path, "-b", self.dir,
                          *self.app.options, *options, self.id, timeout=timeout)
            if must:
                self.well(r, "restore", "restore.log")
        if must:
            self.set_up()
        return r

    def log(self, name):
        return h.read_text(os.path.join(self.work_path, name))

    def well(self, r, what, log):
        if r.rc != 0:
            lines = self.log(log).splitlines()
            errors = [line for line in lines if "Error" in line or "hint" in line] or lines[-3:]
            raise h.Failure(f"{self.binary} {what}: {r}\n" + "\n".join(errors[:12]))
        return r

    def again(self, *options):
        """Checkpoint, gone, restore, and what runs in it goes on."""
        self.app.before(self)
        self.checkpoint(*options)
        h.wait_until(lambda: not self.pids(), "its processes to be gone after the checkpoint", 5)
        self.restore(*[o for o in options if o in ("--tcp-established", "--shell-job", "--ext-unix-sk")])
        h.require(self.running(), f"not running after the restore: {self.state()}")
        self.app.check(self)

    def delete(self):
        """As a user does it; afterwards nothing of it may be there."""
        pids = self.pids()
        h.must(self.call("delete", "-f", self.id), f"{self.binary} delete")
        for pid in pids:
            h.wait_until(lambda pid=pid: not h.alive(pid), f"process {pid} to end")
        h.require(not left_behind(self.id + "/criu"), f"left: {left_behind(self.id)}")
        found = [p for p in left_behind(self.id) if not p.startswith(self.dir)]
        h.require(not found, f"left after delete: {found}")

    def destroy(self):
        """Whatever state it is in. A bind mount of the root file system that a dead engine left goes first: the runtime would
        delete through it."""
        for path in {line.split()[4] for line in h.read_text("/proc/self/mountinfo").splitlines()}:
            if path.startswith(self.dir) and path.endswith("criu-root"):
                h.run(["umount", "-l", path])
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.call("delete", "-f", self.id)
        for master in self.masters:
            os.close(master)
        self.masters = []
        remove_cgroups(self.id)

    # -- looking into it

    def run(self, *argv, user=None):
        """A command in it, by the runtime."""
        who = ["--user", "{}:{}".format(*c_ids(self.rootfs, *user))] if user else []
        return self.call("exec", *who, self.id, *argv)

    inside = run

    def near(self, *argv):
        """A command of ours in its network."""
        return self.site.run("nsenter", "-t", self.pid(), "-n", *argv)

    def file(self, path):
        return h.read_text(self.rootfs + path)


class Crun(Runc):
    """Needs a build with checkpoint support, which loads our libcriu.so.2: crun on PATH, or $CKPT_CRUN."""
    binary = os.environ.get("CKPT_CRUN", "crun")

    def __init__(self, site, *args, **kw):
        if "CRIU" not in h.run([tool(self.binary), "--version"]).out:
            raise h.Skip("this crun is built without checkpoint support")
        build = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(h.CKPT))))
        for lib in glob.glob(os.path.join(build, "**", "libcriu.so.2"), recursive=True):
            site.env["LD_LIBRARY_PATH"] = os.path.dirname(lib)
        super().__init__(site, *args, **kw)


class Podman:
    """podman of our own storage, with runc below. One image: a shell and little else."""
    name = "podman"

    def __init__(self, site):
        self.site, self.dir = site, os.path.join(site.work, "podman")
        self.argv = [tool("podman"), "--root", f"{self.dir}/root", "--runroot", f"{self.dir}/run", "--tmpdir", f"{self.dir}/tmp",
                     "--cgroup-manager=cgroupfs", "--events-backend=file", "--storage-driver=overlay", "--runtime", tool("runc")]
        os.makedirs(self.dir)
        self.names = []
        site.undo.append(self.end)

    def call(self, *args, timeout=120, must=True):
        r = self.site.run(*self.argv, *args, timeout=timeout)
        if must and r.rc != 0:
            lines = []
            for path in glob.glob(f"{self.dir}/root/overlay-containers/*/userdata/*.log"):
                lines += [line for line in h.read_text(path).splitlines() if "Error" in line or "hint" in line]
            raise h.Failure(f"podman {args[0]} {args[1]}: {r}\n" + "\n".join(lines[:12]))
        return r

    def image(self):
        path = os.path.join(self.dir, "base.tar")
        h.must(self.site.run("tar", "-C", root("tiny"), "-cf", path, ".", timeout=120), "tar")
        self.call("import", path, "tiny", timeout=300)
        os.unlink(path)

    def start(self, app, *options):
        name = self.site.name(app.name)
        self.names.append(name)
        self.call("run", "-d", "--name", name, "--network", "none", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=30000:30000",
                  *options, "tiny", *app.args)
        return Inside(self, app, name)

    def inspect(self, name):
        r = self.call("inspect", name, must=False)
        return json.loads(r.out)[0] if r.rc == 0 else {}

    def pid(self, name):
        return self.inspect(name).get("State", {}).get("Pid", 0)

    def end(self):
        for name in self.names:
            self.call("rm", "-f", "-t", "0", name, must=False)
        for line in h.read_text("/proc/self/mountinfo").splitlines():
            if line.split()[4].startswith(self.dir):
                h.run(["umount", "-l", line.split()[4]])
        remove_cgroups(self.site.id)


class Docker:
    """A docker daemon of our own, started by hand, with one image: a shell and little else."""
    name = "docker"

    def __init__(self, site):
        self.site, self.dir = site, os.path.join(site.work, "docker")
        self.names, self.docker = [], tool("docker")
        tool("containerd")
        os.makedirs(self.dir)
        self.sock = f"{self.dir}/sock"
        config = {"experimental": True, "iptables": False, "ip6tables": False, "ip-forward": False, "ip-masq": False,
                  "userland-proxy": False, "bridge": "none", "storage-driver": "overlay2", "data-root": f"{self.dir}/data",
                  "exec-root": f"{self.dir}/exec", "pidfile": f"{self.dir}/pid", "hosts": [f"unix://{self.sock}"],
                  "exec-opts": ["native.cgroupdriver=cgroupfs"]}
        with open(f"{self.dir}/config.json", "w") as f:
            json.dump(config, f)
        self.log = open(f"{self.dir}/log", "wb")
        self.daemon = subprocess.Popen([tool("dockerd"), "--config-file", f"{self.dir}/config.json"], stdin=subprocess.DEVNULL,
                                       stdout=self.log, stderr=self.log, env=site.env, start_new_session=True)
        site.undo.append(self.end)
        try:
            h.wait_until(lambda: self.daemon.poll() is not None or self.call("version", must=False).rc == 0, "dockerd", 30, 0.1)
        except h.Failure:
            raise h.Skip(f"dockerd does not start here: {h.read_text(f'{self.dir}/log')[-300:]}") from None
        if self.daemon.poll() is not None:
            raise h.Skip(f"dockerd does not run here: {h.read_text(f'{self.dir}/log')[-300:]}")

    def call(self, *args, timeout=120, must=True):
        r = self.site.run(self.docker, "-H", f"unix://{self.sock}", *args, timeout=timeout)
        if must and r.rc != 0:
            raise h.Failure(f"docker {args[0]} {args[1]}: {r}\n" + "\n".join(self.errors()[:12]))
        return r

    def errors(self):
        """containerd keeps the engine's log where it fails; the daemon's has its words."""
        lines = []
        for path in glob.glob(f"{self.dir}/**/*dump.log", recursive=True) + glob.glob(f"{self.dir}/**/restore.log", recursive=True):
            lines += [line for line in h.read_text(path).splitlines() if "Error" in line or "hint" in line]
        return lines or [line for line in h.read_text(f"{self.dir}/log").splitlines() if "rror" in line][-5:]

    image = Podman.image

    def start(self, app, *options):
        name = self.site.name(app.name)
        self.names.append(name)
        self.call("run", "-d", "--name", name, "--network", "none", *options, "tiny", *app.args)
        return Inside(self, app, name)

    inspect = Podman.inspect

    pid = Podman.pid

    def end(self):
        for name in self.names:
            self.call("rm", "-f", name, must=False)
        self.daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(20)
        if self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        self.log.close()
        for line in h.read_text("/proc/self/mountinfo").splitlines():
            if line.split()[4].startswith(self.dir):
                h.run(["umount", "-l", line.split()[4]])


class Inside:
    """A container of podman or docker, as Apps want it."""

    def __init__(self, runtime, app, name):
        self.runtime, self.app, self.id = runtime, app, name
        self.call = runtime.call
        app.ready(self)

    def pid(self):
        return self.runtime.pid(self.id)

    def running(self):
        return bool(self.pid()) and h.alive(self.pid())

    def pids(self, inside=False):
        pids = [self.pid(), *h.descendants(self.pid())] if self.running() else []
        if inside:
            return sorted(int(m.group(1)) for p in pids if (m := re.search(r"^NSpid:.*\t(\d+)$", h.read_text(f"/proc/{p}/status"), re.M)))
        return pids

    def run(self, *argv):
        return self.call("exec", self.id, *argv, must=False)

    inside = run

    def file(self, path):
        return h.read_text(f"/proc/{self.pid()}/root{path}")

    def check(self):
        h.require(self.running(), f"not running: {self.runtime.inspect(self.id).get('State')}")
        self.app.check(self)


def receive(listener):
    """(name, descriptor) of one terminal's master from a console socket."""
    with contextlib.suppress(OSError):
        listener.settimeout(60)
        s, _ = listener.accept()
        with s:
            fds = array.array("i")
            name, ancillary, _, _ = s.recvmsg(4096, socket.CMSG_SPACE(16 * fds.itemsize))
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
            for extra in fds[1:]:
                os.close(extra)
            return name.decode(), fds[0] if fds else None
    return "", None


def remove_cgroups(name):
    """Empty cgroups of that name, the innermost first."""
    found = [os.path.join(d, n) for d, names, _ in os.walk("/sys/fs/cgroup") for n in names if name in os.path.join(d, n)]
    for path in sorted(found, key=len, reverse=True):
        for _ in range(50):
            try:
                os.rmdir(path)
                break
            except OSError as e:
                if e.errno != 16:
                    break
                time.sleep(0.02)


# What container runtimes deny by default, in short: enough for a filter of some length.
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [{"names": ["add_key", "keyctl", "request_key", "kexec_load", "kexec_file_load", "init_module", "finit_module",
                            "delete_module", "iopl", "ioperm", "swapon", "swapoff", "mount", "umount2", "pivot_root", "ptrace",
                            "process_vm_readv", "process_vm_writev", "userfaultfd", "perf_event_open", "bpf", "kcmp", "acct",
                            "quotactl", "settimeofday", "clock_settime", "reboot", "nfsservctl", "open_by_handle_at"],
                  "action": "SCMP_ACT_ERRNO"},
                 {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}],
}
