# SPDX-License-Identifier: MIT
"""What the tests that run the ckpt program have in common: starting targets, running ckpt, looking at a process from
outside, TAP-ish reporting. Python's standard library only.

Environment: CKPT       the ckpt program              (default: ckpt on PATH)
             CKPT_TARGETS  folder of built targets    (default: build/tests/targets)
             CKPT_SHARED   reference material         (default: ../shared; tests that need it are skipped without it)
             CKPT_KEEP=1   keep the folders of failed runs
"""
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
TARGETS = os.environ.get("CKPT_TARGETS", os.path.join(SOURCE, "build", "tests", "targets"))
SHARED = os.environ.get("CKPT_SHARED", os.path.join(SOURCE, "..", "shared"))
SKIP_CODE = 77
# Sanitizers and busy machines make everything slower; this multiplies every deadline.
PATIENCE = float(os.environ.get("CKPT_PATIENCE", "1"))


def default_ckpt():
    built = os.path.join(SOURCE, "build", "tools", "ckpt", "ckpt")
    return built if os.path.exists(built) else shutil.which("ckpt")


CKPT = os.environ.get("CKPT") or default_ckpt()


class Failure(Exception):
    """A check of a test did not hold; the text says what."""


class Skip(Exception):
    """The test cannot run here; the text says why."""


def become_subreaper():
    """Restored programs become our children when `ckpt restore -d` ends, so that we can wait for them."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def own_neighbours():
    """From here on we and what we start know of no other dumps on this machine: their state is in a /run of our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_ns, private, rec = 0x20000, 1 << 18, 1 << 14
    if libc.unshare(new_ns) or libc.mount(b"none", b"/", None, rec | private, None) or libc.mount(b"none", b"/run", b"tmpfs", 0, None):
        raise Skip(f"no mount namespace: {os.strerror(ctypes.get_errno())}")


def own_network():
    """From here on we and what we start have a network of our own: only a loopback, whose ports nobody else takes, and a
    firewall that nobody else has rules in."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise Skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    for tool in ("ip", "nft"):
        if not shutil.which(tool):
            raise Skip(f"no {tool} here")
    must(run(["ip", "link", "set", "lo", "up"]), "ip link set lo up")


def network_locks():
    """Tables of the firewall that hold connections back: there is one between a dump and its restore."""
    return re.findall(r"^table inet (CRIU-\S+)", must(run(["nft", "list", "tables"]), "nft list tables").out, re.M)


def need_engine():
    if os.geteuid() != 0:
        raise Skip("needs root")
    if not CKPT or not os.access(CKPT, os.X_OK):
        raise Skip("no ckpt program (set CKPT)")


def require(cond, text):
    if not cond:
        raise Failure(text)


class Result:
    def __init__(self, rc, out, seconds):
        self.rc, self.out, self.seconds = rc, out, seconds

    def __str__(self):
        return f"exit code {self.rc}: {self.out.strip()[-1500:]}"


def run(argv, timeout=60, stdin=subprocess.DEVNULL, **kw):
    """Runs a command to its end; output (both streams) goes through a file, since a program restored in the background
    would otherwise hold a pipe open."""
    with tempfile.TemporaryFile() as f:
        start = time.monotonic()
        p = subprocess.Popen(argv, stdin=stdin, stdout=f, stderr=subprocess.STDOUT, **kw)
        try:
            rc = p.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            rc = "timeout"
        took = time.monotonic() - start
        f.seek(0)
        return Result(rc, f.read().decode(errors="replace"), took)


def ckpt(*args, **kw):
    return run([CKPT, *map(str, args)], **kw)


def dump(pid, images, *args, **kw):
    os.makedirs(images, exist_ok=True)
    return ckpt("dump", "-t", pid, "-D", images, *os.environ.get("CKPT_DUMP_OPTIONS", "").split(), *args, **kw)


def wait_until(cond, what, seconds=20, interval=0.005):
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        got = cond()
        if got:
            return got
        time.sleep(interval)
    raise Failure(f"waited {seconds:g} s in vain for {what}")


def read_text(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="surrogateescape")
    except OSError:
        return ""


def alive(pid):
    """Running or stopped, but not a zombie."""
    stat = read_text(f"/proc/{pid}/stat")
    return bool(stat) and stat[stat.rindex(")") + 2] not in "ZX"


def state(pid):
    stat = read_text(f"/proc/{pid}/stat")
    return stat[stat.rindex(")") + 2] if stat else "gone"


def reap(pid, seconds=10):
    """Waits for a child of ours (started, or adopted). Returns its exit code as Popen would, None if it is not ours."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        try:
            got, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if got:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            raise Failure(f"process {pid} did not end")
        time.sleep(0.002)


def gone(pids):
    """Orphans of a tree that was ended have ended, too; they are ours to wait for (become_subreaper)."""
    for pid in pids:
        reap(pid)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), f"process {pid} to be gone")


def lazy_done(pids, seconds=30):
    """All pages are in: no area of these processes waits for any."""
    wait_until(lambda: not any(re.search(r"^VmFlags:.*\bum\b", read_text(f"/proc/{p}/smaps"), re.M) for p in pids),
               "lazy pages to be in", seconds)


def kill_hard(pid):
    """Ends a process that this test started or restored, by its number."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        reap(pid)
    except Failure:
        pass


class Workdir:
    """A fresh folder for one run; kept when the run fails and CKPT_KEEP is set."""

    def __init__(self, prefix="ckpt-test-"):
        self.path = tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("CKPT_TEST_DIR"))
        os.chmod(self.path, 0o777)

    def __enter__(self):
        return self.path

    def __exit__(self, kind, value, tb):
        if kind and kind is not Skip and os.environ.get("CKPT_KEEP"):
            print(f"# kept {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)


BOX = r"""
set -e
mount --make-rprivate /
cd "$1"
mkdir -p proc "./$2" files
chmod 777 files
mount -t proc proc proc
mount --bind "$2" "./$2"
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
for n in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${n%:*}" c 1 "${n#*:}"; done
mknod -m 666 dev/tty c 5 0
pivot_root . mnt
cd /files
umount -l /mnt
exec </dev/null >/dev/null 2>&1
shift 2
exec chroot / setsid sh -c 'cd /files; exec "$@"' sh "$@"
"""


class Box:
    """A container as simple as can be: PID and mount namespaces, and a root of its own, an overlay on ours. The folder of the
    test is in it, a mount from outside."""

    def __init__(self, work):
        self.work, self.base = work, os.path.join(work, "box")
        self.root = os.path.join(self.base, "root")
        os.makedirs(self.base)
        must(run(["mount", "-t", "tmpfs", "tmpfs", self.base]), "mount a tmpfs")
        for name in ("root", "upper", "work"):
            os.mkdir(os.path.join(self.base, name))
        r = run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={self.base}/upper,workdir={self.base}/work", self.root])
        if r.rc:
            self.close()
            raise Skip(f"no overlay: {r}")

    def command(self, argv):
        return ["unshare", "--mount", "--pid", "--fork", "sh", "-c", BOX, "sh", self.root, self.work, *argv]

    def dump_options(self):
        return ["--external", f"mnt[{self.work}]:work"]

    def restore_options(self):
        return ["--root", self.root, "--external", f"mnt[work]:{self.work}"]

    def close(self):
        for path in (self.root, self.base):
            run(["umount", "-l", path])


# The root file system, /dev and a /proc of its own are all that such a tree has.
OWN_PROC = """
while umount -l /proc 2>/dev/null; do :; done
mount -t proc proc /proc
awk '{ print $5 }' /proc/self/mountinfo | sort -r | grep -vxE '/|/proc|/dev|/dev/pts|/dev/shm' | while read -r m; do umount -l "$m"; done
exec setsid "$@" </dev/null >/dev/null 2>&1
"""


class Target:
    """A running self-checking program (tests/targets) in its own folder and session; with @pidns init of a PID namespace, with
    @box (a Box) of a container, with @enter a child of that command."""

    def __init__(self, work, name, variant="", pidns=False, box=None, enter=()):
        self.work, self.out = work, os.path.join(work, "out")
        self.files = os.path.join(work, "files")
        os.makedirs(self.files, exist_ok=True)
        os.chmod(self.files, 0o777)
        argv = [os.path.join(TARGETS, name), self.out] + ([variant] if variant else [])
        if name == "thirtytwo" and not os.path.exists(argv[0]):
            raise Skip("the compiler makes no 32-bit programs")
        require(os.path.exists(argv[0]), f"no target {argv[0]}: build first")
        if pidns:
            enter = ["unshare", "--fork", "--pid", "--mount", "sh", "-c", OWN_PROC, "setsid"]
        argv = box.command(argv) if box else [*enter, *argv]
        try:
            self.proc = subprocess.Popen(argv, cwd=self.files, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL, start_new_session=True)
        except OSError as e:
            if e.errno != errno.ENOEXEC:
                raise
            raise Skip("this kernel runs no 32-bit programs") from None
        self.pid = self.proc.pid
        if enter or box:
            wait_until(lambda: children(self.proc.pid), "the target in its namespace")
            self.pid = children(self.proc.pid)[0]

    def lines(self):
        return read_text(self.out).splitlines()

    def verdict(self):
        for line in self.lines():
            if line.startswith(("PASS", "FAIL", "SKIP")):
                return line
        return ""

    def ready(self, seconds=30):
        wait_until(lambda: self.lines(), "the target to be ready", seconds)
        if self.verdict().startswith("SKIP"):
            self.reap()
            raise Skip(self.verdict()[5:])
        require(self.lines()[0] == "ready", f"the target said: {self.lines()}")
        return self

    def go(self):
        """SIGUSR1, and the verdict must be PASS."""
        require(alive(self.pid), f"the target is not alive (state {state(self.pid)}) before it was asked")
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(lambda: self.verdict() or not alive(self.pid), "the target's verdict", 30)
        verdict = self.verdict()
        require(verdict, f"the target died without a verdict (wait status {self.reap()})")
        require(verdict == "PASS", verdict)
        self.reap()

    def reap(self):
        if self.pid != self.proc.pid and self.proc.returncode is None:
            self.proc.wait(10)  # unshare, which ends after its child
            gone([self.pid])
            return -signal.SIGKILL  # how it ended, unshare does not always say
        rc = reap(self.pid)
        if self.proc.returncode is None:
            self.proc.returncode = 0 if rc is None else rc
        return rc

    def kill(self):
        for pid in descendants(self.pid):
            kill_hard(pid)
        if self.proc.returncode is None or alive(self.pid):
            kill_hard(self.pid)
        if self.proc.returncode is None:
            self.proc.returncode = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()


class PageServer:
    """ckpt page-server in the background, at a port that is free; ended with the block."""

    def __init__(self, folder, *args, wrapper=(), port=0, command="page-server", **kw):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.log = folder, folder.rstrip("/") + ".log"
        ready, theirs = os.pipe()
        with open(self.log, "wb") as f:
            self.proc = subprocess.Popen([*wrapper, CKPT, command, "-D", folder, "--port", str(port), "-v3", "--status-fd",
                                          str(theirs), *map(str, args)], stdin=subprocess.DEVNULL, stdout=f,
                                         stderr=subprocess.STDOUT, pass_fds=[theirs], **kw)
        os.close(theirs)
        self.ready = os.read(ready, 2)
        os.close(ready)
        m = re.search(r"listens at .* port (\d+)", self.text())
        self.port = int(m[1]) if m else None

    def text(self):
        return read_text(self.log)

    def client(self, *args):
        require(self.port, f"the page server does not listen: {self.text()}")
        return ["--page-server", "--address", "127.0.0.1", "--port", str(self.port), *args]

    def result(self, timeout=30):
        start = time.monotonic()
        try:
            rc = self.proc.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            rc = "timeout"
        return Result(rc, self.text(), time.monotonic() - start)

    def bring(self, images):
        """What was received to where the rest is."""
        for name in os.listdir(self.folder):
            if name == "parent" and os.path.islink(os.path.join(images, name)):
                continue
            require(not os.path.exists(os.path.join(images, name)), f"{name} is in both folders")
            shutil.move(os.path.join(self.folder, name), images)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


def must(result, what):
    require(result.rc == 0, f"{what}: {result}")
    return result


# ------------------------------------------------------------------------------------ a process seen from outside

STATUS_KEYS = ("Name", "Umask", "Tgid", "Pid", "Uid", "Gid", "Groups", "NSpid", "Threads", "SigPnd", "ShdPnd", "SigBlk",
               "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
               "Seccomp_filters", "Cpus_allowed", "THP_enabled", "VmLck", "TracerPid")
# sd: soft-dirty; the rest of VmFlags is state
FORGET_VMFLAGS = {"sd"}


def levels(pid, key="NSpid"):
    """What a process, its group (NSpgid) or its session (NSsid) is called in each PID namespace from ours down to its own."""
    m = re.search(rf"^{key}:(.*)$", read_text(f"/proc/{pid}/status"), re.M)
    return [int(n) for n in m[1].split()] if m else [0]


def inside(pid, key="NSpid"):
    return levels(pid, key)[-1]


def _maps(pid):
    """Areas with their smaps flags: [(start-end, perms, offset, path, flags)]."""
    areas, current = [], None
    for line in read_text(f"/proc/{pid}/smaps").splitlines():
        m = re.match(r"^([0-9a-f]+-[0-9a-f]+) (....) ([0-9a-f]+) \S+ (\d+) *(.*)$", line)
        if m:
            path = re.sub(r"^socket:\[\d+\]$", "socket", m[5])
            # nameless and deleted files come back as other inodes: the name must stay
            current = [m[1], m[2], m[3], path, ""]
            areas.append(current)
        elif line.startswith("VmFlags:") and current:
            current[4] = " ".join(sorted(set(line.split()[1:]) - FORGET_VMFLAGS))
    return [" ".join(a) for a in areas]


def _link(path):
    try:
        link = os.readlink(path)
    except OSError:
        return "?"
    # a namespace of the tree's own is a new one afterwards
    link = re.sub(r"^(pipe|socket|ipc|pid|mnt):\[\d+\]$", r"\1", link)
    # files made without a name are called by the number of their inode
    link = re.sub(r"/#\d+( \(deleted\))$", r"/#\1", link)
    # what has the name of a deleted file meanwhile cannot be moved away: such a file gets another name, deleted as well
    return re.sub(r"\.cr\.[0-9a-f]+\.ghost( \(deleted\))$", r"\1", link)


def _fds(pid):
    fds = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return fds
    for fd in names:
        info = read_text(f"/proc/{pid}/fdinfo/{fd}")
        keep = [l for l in info.splitlines() if l.startswith(("pos:", "flags:"))]
        fds[fd] = (_link(f"/proc/{pid}/fd/{fd}"), *keep)
    return fds


def snapshot(pid):
    """Everything of /proc/PID that must be the same before a dump, after it, and after a restore."""
    see = {"comm": read_text(f"/proc/{pid}/comm")}
    for name in ("cmdline", "environ", "limits", "personality", "oom_score_adj", "coredump_filter"):
        see[name] = read_text(f"/proc/{pid}/{name}")
    try:
        with open(f"/proc/{pid}/auxv", "rb") as f:
            see["auxv"] = f.read()
    except OSError:
        pass
    for name in ("exe", "cwd", "root"):
        see[name] = _link(f"/proc/{pid}/{name}")
    see["maps"] = _maps(pid)
    see["fds"] = _fds(pid)
    stat = read_text(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()
    # session, group, then what the kernel knows of the address space (start_code ... env_end), exit_code left out
    names = {2: "pgrp", 3: "session", 23: "startcode", 24: "endcode", 25: "startstack", 42: "start_data", 43: "end_data",
             44: "start_brk", 45: "arg_start", 46: "arg_end", 47: "env_start", 48: "env_end"}
    see["stat"] = {name: stat[i] for i, name in names.items() if i < len(stat)}
    see["stat"].update(pgrp=inside(pid, "NSpgid"), session=inside(pid, "NSsid"))
    tasks = {}
    for tid in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        base = f"/proc/{pid}/task/{tid}"
        if read_text(f"{base}/comm").startswith("iou-"):  # the kernel's, for an io_uring
            continue
        fields = dict(l.split(":", 1) for l in read_text(f"{base}/status").splitlines() if ":" in l)
        one = {k: fields[k].split() for k in STATUS_KEYS if k in fields}
        for key in ("Pid", "Tgid", "NSpid"):  # what they are called by us is nobody's business
            one[key] = [inside(tid if key != "Tgid" else pid)]
        st = read_text(f"{base}/stat").rsplit(")", 1)[-1].split()
        if len(st) > 40:
            one["sched"] = (st[15], st[16], st[37], st[38])  # priority, nice, rt_priority, policy
        one["timerslack"] = read_text(f"/proc/{tid}/timerslack_ns").strip()
        tasks[inside(tid)] = one
    for one in tasks.values():
        one["Threads"] = len(tasks)
    see["tasks"] = tasks
    timers = re.findall(r"^(?:ID|signal|notify|ClockID): .*$", read_text(f"/proc/{pid}/timers"), re.M)
    see["timers"] = [re.sub(r"(?<=[pt]id\.)\d+", lambda m: str(inside(m[0])), t) for t in timers]
    see["children"] = {inside(child): dead(child) or snapshot(child) for child in children(pid)}
    return see


def children(pid):
    kids = set()
    for tid in os.listdir(f"/proc/{pid}/task") if os.path.isdir(f"/proc/{pid}/task") else []:
        kids.update(map(int, read_text(f"/proc/{pid}/task/{tid}/children").split()))
    return sorted(kids)


def descendants(pid):
    """All processes below, parents first."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def dead(pid):
    """What there is of a zombie: its place, and how it ended. None of one that lives."""
    st = read_text(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()
    if not st or st[0] != "Z":
        return None
    # the bit that says that a core was written is not kept
    return {"zombie": read_text(f"/proc/{pid}/comm"), "pgrp": inside(pid, "NSpgid"), "session": inside(pid, "NSsid"), "exit": int(st[49]) & ~0x80}


def differences(before, after, ignore=()):
    """Lines that say what is not the same; [] when all is."""
    found = []

    def walk(path, a, b):
        if path in ignore or a == b:
            return
        if isinstance(a, dict) and isinstance(b, dict):
            for k in sorted(set(a) | set(b), key=str):
                walk(f"{path}.{k}" if path else str(k), a.get(k), b.get(k))
        elif isinstance(a, list) and isinstance(b, list) and path == "maps":
            for line in [x for x in a if x not in set(b)][:5]:
                found.append(f"area gone: {line}")
            for line in [x for x in b if x not in set(a)][:5]:
                found.append(f"area new: {line}")
        else:
            found.append(f"{path}: {a!r} became {b!r}"[:600])
    walk("", before, after)
    return found


def settled_snapshot(pid):
    """A snapshot taken twice alike, so that what the program itself changes just now is not blamed on anybody."""
    last = snapshot(pid)
    for _ in range(50):
        time.sleep(0.01)
        now = snapshot(pid)
        if now == last:
            break
        last = now
    return last


def same_process(before, pid, what, ignore=(), seconds=2):
    """Fails when something is not the same. What a thread is just about to do again after an interruption (its mask
    changes while it waits for signals) gets a moment to settle."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        diff = differences(before, snapshot(pid), ignore)
        if not diff:
            return
        if time.monotonic() > end or not alive(pid):
            raise Failure(f"{what}: " + "; ".join(diff[:8]))
        time.sleep(0.02)


def untouched(pid):
    """Nobody traces it and it is not stopped."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        status = read_text(f"/proc/{pid}/task/{tid}/status")
        m = re.search(r"^TracerPid:\s*(\d+)", status, re.M)
        require(m and m[1] == "0", f"thread {tid} is traced by {m and m[1]}")
        s = re.search(r"^State:\s*(\S)", status, re.M)
        require(s and s[1] not in "tT", f"thread {tid} is stopped (state {s and s[1]})")


def without_sums(folder):
    """Images that are changed on purpose: a liar would make the sums fit, so that nothing but the readers is in the way."""
    for name in ("ckpt-sums", "ckpt-blocks"):
        if os.path.exists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))


def folder_listing(path):
    return sorted((e.name, e.stat().st_size) for e in os.scandir(path))


# ----------------------------------------------------------------------------------------------------- reporting

class Report:
    """ok / not ok / skip lines, and the exit code they add up to."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def case(self, name, fn, *args):
        start = time.monotonic()
        try:
            fn(*args)
        except Skip as e:
            self.skipped += 1
            print(f"skip {name}  # {e}", flush=True)
        except Failure as e:
            self.failed += 1
            print(f"not ok {name} ({time.monotonic() - start:.2f} s)", flush=True)
            for line in str(e).splitlines() or [""]:
                print(f"#   {line}", flush=True)
        except Exception as e:  # a bug of the test, or something that vanished under it: a failure too
            self.failed += 1
            print(f"not ok {name} ({type(e).__name__}: {e})", flush=True)
            import traceback
            for line in traceback.format_exc().splitlines():
                print(f"#   {line}", flush=True)
        else:
            self.passed += 1
            print(f"ok {name} ({time.monotonic() - start:.2f} s)", flush=True)

    def finish(self):
        print(f"# {self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        if self.failed:
            sys.exit(1)
        sys.exit(0 if self.passed else SKIP_CODE)


def run_cases(cases):
    """The main program of a script of cases: all of them, or those named on the command line."""
    become_subreaper()
    report = Report()
    for fn in cases:
        if len(sys.argv) < 2 or fn.__name__ in sys.argv[1:]:
            def guarded(fn=fn):
                need_engine()
                fn()
            report.case(fn.__name__, guarded)
    report.finish()
