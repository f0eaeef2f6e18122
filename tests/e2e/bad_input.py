#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Everything that can be wrong with what ckpt is given. Each case asserts the exit code, what the message names, and that
nothing was touched: the target runs on unharmed, folders are as before, a failed restore leaves no process behind."""
import ctypes
import glob
import os
import shutil
import signal
import struct
import subprocess

import harness as h

LIBC = ctypes.CDLL(None, use_errno=True)
CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def refused(result, *words, code=1):
    h.require(result.rc == code, f"exit code {code} expected: {result}")
    for w in words:
        options = w if isinstance(w, tuple) else (w,)
        h.require(any(str(o).lower() in result.out.lower() for o in options), f"the message lacks {w!r}: {result}")
    h.require("internal" not in result.out.lower(), f"an internal error for a user's mistake: {result}")
    h.require(len(result.out.strip()) > 10, f"no message: {result}")


class Bed:
    """A running target, a folder, and the proof at the end that neither was touched."""

    def __init__(self, name="threads", variant="few"):
        self.name, self.variant = name, variant

    def __enter__(self):
        self.dir = h.Workdir()
        self.work = self.dir.__enter__()
        self.t = h.Target(self.work, self.name, self.variant)
        self.t.ready()
        self.pid = self.t.pid
        self.before = h.settled_snapshot(self.pid)
        self.images = os.path.join(self.work, "images")
        os.mkdir(self.images)
        return self

    def __exit__(self, kind, value, tb):
        try:
            if not kind:
                self.unharmed()
        finally:
            self.t.kill()
            self.dir.__exit__(kind, value, tb)

    def unharmed(self):
        h.untouched(self.pid)
        h.same_process(self.before, self.pid, "after the refusal")
        self.t.go()

    def empty(self):
        left = os.listdir(self.images)
        h.require(not left, f"left in the folder: {left}")


# -------------------------------------------------------------------------------------------- what to checkpoint

def free_pid():
    p = subprocess.Popen(["true"])
    p.wait()
    return p.pid


@case
def no_such_pid():
    with h.Workdir() as w:
        pid = free_pid()
        refused(h.dump(pid, w + "/i"), pid, ("no such process", "no process", "does not exist"))
        h.require(not os.listdir(w + "/i"), "left something in the folder")


@case
def pid_is_nonsense():
    with h.Workdir() as w:
        for bad in ("0", "-5", "abc", "99999999999999999999", "12x", ""):
            r = h.dump(bad, w + "/i")
            h.require(r.rc == 1 and r.out.strip(), f"-t {bad!r}: {r}")


@case
def without_pid():
    with h.Workdir() as w:
        refused(h.ckpt("dump", "-D", w), ("-t", "--tree"))


@case
def zombie():
    with h.Workdir() as w:
        p = subprocess.Popen(["true"])
        h.wait_until(lambda: h.state(p.pid) == "Z", "a zombie")
        refused(h.dump(p.pid, w + "/i"), p.pid, "zombie")
        h.require(h.state(p.pid) == "Z", "the zombie is gone")
        p.wait()


@case
def kernel_thread():
    for stat in glob.glob("/proc/[0-9]*/stat"):
        fields = h.read_text(stat).rsplit(")", 1)[-1].split()
        if len(fields) > 6 and int(fields[6]) & 0x200000:
            pid = stat.split("/")[2]
            break
    else:
        raise h.Skip("no kernel thread is visible here")
    with h.Workdir() as w:
        refused(h.dump(pid, w + "/i"), pid, "kernel thread")


@case
def ourselves():
    with h.Workdir() as w:
        r = h.run(["sh", "-c", 'exec "$0" dump -t $$ -D "$1"', h.CKPT, w])
        refused(r, ("itself", "ourselves", "this process", "own"))


@case
def our_parent():
    with h.Workdir() as w:
        r = h.run(["sh", "-c", '"$0" dump -t $$ -D "$1"; rc=$?; echo still here; exit $rc', h.CKPT, w])
        refused(r, ("parent", "ancestor"), "still here")


@case
def traced_already():
    with Bed() as b:
        r = LIBC.ptrace(0x4206, b.pid, 0, 0)  # PTRACE_SEIZE: we are the tracer
        h.require(r == 0, f"ptrace: {os.strerror(ctypes.get_errno())}")
        # the message says who traces it: us
        refused(h.dump(b.pid, b.images), b.pid, "trac", os.getpid())
        os.kill(b.pid, 0)
        LIBC.ptrace(0x4207, b.pid, 0, 0)  # PTRACE_INTERRUPT, so that it can be left
        os.waitpid(b.pid, 0x40000000)
        h.require(LIBC.ptrace(17, b.pid, 0, 0) == 0, "detach")
        b.empty()


@case
def not_enough_privilege():
    if not shutil.which("setpriv"):
        raise h.Skip("no setpriv")
    with Bed() as b:
        r = h.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", h.CKPT, "dump", "-t", str(b.pid), "-D", b.images])
        refused(r, ("privilege", "permission", "not permitted", "CAP_"))
        b.empty()


@case
def unknown_options():
    with Bed() as b:
        refused(h.dump(b.pid, b.images, "--no-such-thing"), "no-such-thing")
        refused(h.dump(b.pid, b.images, "surplus"), "surplus")
        refused(h.dump(b.pid, b.images, "--timeout", "soon"), "timeout")
        refused(h.dump(b.pid, b.images, "--ghost-limit", "1X"), "ghost-limit")
        b.empty()
    refused(h.ckpt("destroy"), "destroy")
    h.require(h.ckpt().rc == 1, "ckpt without a command")


@case
def options_not_implemented():
    with Bed() as b:
        for opt in (["--stream"], ["--libdir", "x"]):
            refused(h.dump(b.pid, b.images, *opt), opt[0].lstrip("-"))
        b.empty()


# -------------------------------------------------------------------------------------------------- the folder

@case
def folder_missing():
    with Bed() as b:
        gone = os.path.join(b.work, "nothing-here")
        refused(h.ckpt("dump", "-t", b.pid, "-D", gone), "nothing-here")
        h.require(not os.path.exists(gone), "made the folder")


@case
def folder_is_a_file():
    with Bed() as b:
        path = os.path.join(b.work, "plain-file")
        with open(path, "w") as f:
            f.write("x")
        refused(h.ckpt("dump", "-t", b.pid, "-D", path), "plain-file")


@case
def folder_not_writable():
    with Bed() as b:
        mnt = os.path.join(b.work, "readonly")
        os.mkdir(mnt)
        if h.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", mnt]).rc:
            raise h.Skip("cannot mount a tmpfs")
        try:
            refused(h.ckpt("dump", "-t", b.pid, "-D", mnt), "readonly", ("read-only", "not writable", "write"))
        finally:
            h.run(["umount", mnt])


@case
def folder_full():
    with Bed("size", "8M") as b:
        mnt = os.path.join(b.work, "small")
        os.mkdir(mnt)
        if h.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", mnt]).rc:
            raise h.Skip("cannot mount a tmpfs")
        try:
            for opts in ([], ["-R"], ["-s"]):
                refused(h.ckpt("dump", "-t", b.pid, "-D", mnt, *opts), ("space", "full"))
                h.require(not os.listdir(mnt), f"left in the folder: {os.listdir(mnt)}")
                h.untouched(b.pid)
        finally:
            h.run(["umount", mnt])


@case
def folder_fills_up_meanwhile():
    """Space seemed to be there, but a quota of inodes is not: the failure comes from the writes."""
    with Bed("size", "1M") as b:
        mnt = os.path.join(b.work, "few")
        os.mkdir(mnt)
        if h.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=6", "none", mnt]).rc:
            raise h.Skip("cannot mount a tmpfs")
        try:
            refused(h.ckpt("dump", "-t", b.pid, "-D", mnt), ("space", "full"))
            h.require(not os.listdir(mnt), f"left in the folder: {os.listdir(mnt)}")
        finally:
            h.run(["umount", mnt])


@case
def file_size_limit():
    """RLIMIT_FSIZE: the engine must not be killed by SIGXFSZ in the middle."""
    with Bed("size", "4M") as b:
        r = h.run(["sh", "-c", 'ulimit -f 1024; "$0" dump -t "$1" -D "$2"', h.CKPT, str(b.pid), b.images])
        refused(r, "limit", "ulimit -f")
        b.empty()


@case
def folder_holds_a_checkpoint():
    with Bed() as b:
        h.must(h.dump(b.pid, b.images, "-R"), "first dump")
        listing = h.folder_listing(b.images)
        refused(h.dump(b.pid, b.images, "-R"), ("already", "exists"), "images")
        h.require(h.folder_listing(b.images) == listing, "the first checkpoint was touched")


@case
def folder_keeps_other_files():
    with Bed("refused", "secretmem") as b:
        other = os.path.join(b.images, "notes.txt")
        with open(other, "w") as f:
            f.write("mine")
        refused(h.dump(b.pid, b.images), "secret")
        h.require(os.listdir(b.images) == ["notes.txt"] and h.read_text(other) == "mine", "other files were touched")


@case
def folder_not_empty():
    """Files that are no images are no obstacle, and stay."""
    with Bed() as b:
        other = os.path.join(b.images, "notes.txt")
        with open(other, "w") as f:
            f.write("mine")
        h.must(h.dump(b.pid, b.images, "-R"), "a dump beside another file")
        h.require(h.read_text(other) == "mine", "the other file was touched")
        h.must(h.ckpt("inspect", b.images), "inspect")


# ------------------------------------------------------------------------------------------ damaged checkpoints

class Checkpoint:
    """A dumped, ended target; each case restores from a copy of its images."""

    def __init__(self, name="files", variant="pipes", opts=()):
        self.name, self.variant, self.opts = name, variant, opts

    def __enter__(self):
        self.dir = h.Workdir()
        self.work = self.dir.__enter__()
        self.images = os.path.join(self.work, "images")
        self.t = self.start()
        self.t.ready()
        self.pid = self.t.pid
        h.must(h.dump(self.pid, self.images, *self.opts), "dump")
        self.t.reap()
        return self

    def start(self):
        return h.Target(self.work, self.name, self.variant)

    def __exit__(self, kind, value, tb):
        self.t.kill()
        self.dir.__exit__(kind, value, tb)

    def copy(self):
        path = os.path.join(self.work, "copy")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.images, path)
        h.without_sums(path)
        return path

    def fails(self, images, *words):
        listing = h.folder_listing(images) if os.path.isdir(images) else None
        children = set(os.listdir("/proc"))
        r = h.ckpt("restore", "-d", "-D", images, timeout=20)
        refused(r, *words)
        h.require(h.state(self.pid) == "gone", f"left a process {self.pid} in state {h.state(self.pid)}: {r}")
        if listing is not None:
            now = [e for e in h.folder_listing(images) if not e[0].startswith(("stats-restore", "restore.log"))]
            h.require(now == listing, "the folder was changed")
        return children

    def works(self):
        h.must(h.ckpt("restore", "-d", "-D", self.images), "the undamaged checkpoint")
        self.t.go()


def image_files(path):
    return sorted(n for n in os.listdir(path) if n.endswith(".img"))


# Absent is the same as empty for these.
MAY_BE_MISSING = ("remap-fpath", "tty-info", "tty-data", "filelocks", "cgroup", "ids-", "timens-", "pipes-data",
                  "fifo-data", "seccomp", "stats", "utsns", "memfd", "fdinfo")


@case
def image_missing():
    with Checkpoint() as c:
        for name in image_files(c.images):
            if name.startswith(MAY_BE_MISSING):
                continue
            path = c.copy()
            os.unlink(os.path.join(path, name))
            try:
                c.fails(path, "not a checkpoint" if name == "inventory.img" else name.split("-")[0].split(".")[0])
            except h.Failure as e:
                raise h.Failure(f"without {name}: {e}") from None
        c.works()


@case
def image_empty():
    with Checkpoint() as c:
        for name in image_files(c.images):
            path = c.copy()
            os.truncate(os.path.join(path, name), 0)
            c.fails(path, name)
        c.works()


@case
def image_truncated():
    """At each place where a reader could lose its footing. Cut exactly between two entries a file is well formed: then
    what is missing must be noticed, or be nothing the program needs (the restore may work)."""
    import images as im
    with Checkpoint() as c:
        for name in image_files(c.images):
            full = os.path.join(c.images, name)
            clean = {s for s, _, _ in im.split(full)[2]} if im.split(full)[1] else set()
            for cut in im.boundaries(full):
                path = c.copy()
                os.truncate(os.path.join(path, name), cut)
                if cut in clean:
                    tolerate(c, path, name, cut)
                else:
                    try:
                        c.fails(path, name.split(".")[0].split("-")[0])
                    except h.Failure as e:
                        raise h.Failure(f"{name} cut at {cut}: {e}") from None
        c.works()


def tolerate(c, path, name, cut):
    r = h.ckpt("restore", "-d", "-D", path, timeout=20)
    if r.rc == 0:  # it came back: it must not be a broken program
        h.require(h.alive(c.pid), f"{name} cut at {cut}: restored, but not alive")
        h.kill_hard(c.pid)
        return
    h.require(r.rc == 1 and len(r.out.strip()) > 10, f"{name} cut at {cut}: {r}")
    h.require(h.state(c.pid) == "gone", f"{name} cut at {cut}: left a process in state {h.state(c.pid)}: {r}")


@case
def image_wrong_magic():
    with Checkpoint() as c:
        for name in image_files(c.images):
            if name.startswith("pages-"):
                continue
            for at in (0, 4):
                if name == "inventory.img" and at:
                    continue
                path = c.copy()
                with open(os.path.join(path, name), "r+b") as f:
                    f.seek(at)
                    f.write(struct.pack("<I", 0x11223344))
                c.fails(path, name)
        c.works()


@case
def image_of_another_kind():
    with Checkpoint() as c:
        path = c.copy()
        mm = glob.glob(path + "/mm-*.img")[0]
        shutil.copy(glob.glob(path + "/fs-*.img")[0], mm)
        c.fails(path, os.path.basename(mm))
        c.works()


@case
def image_other_architecture():
    import images as im
    with Checkpoint() as c:
        path = c.copy()
        core = os.path.join(path, f"core-{c.pid}.img")
        im.change(core, lambda m: setattr(m, "mtype", 3))
        c.fails(path, ("architecture", "aarch64"))
        c.works()


@case
def image_lies():
    """Numbers that cannot be: none may crash the engine or start half a program."""
    import images as im
    with Checkpoint() as c:
        def bad(name, fn, *words, index=0):
            path = c.copy()
            im.change(os.path.join(path, name), fn, index)
            try:
                c.fails(path, *words)
            except h.Failure as e:
                raise h.Failure(f"{name} ({fn.__name__}): {e}") from None

        core, mm, pagemap = f"core-{c.pid}.img", f"mm-{c.pid}.img", f"pagemap-{c.pid}.img"

        def version(m): m.img_version = 99
        def per_id(m): m.fdinfo_per_id = False
        def vma_order(m): m.vmas[0].start, m.vmas[1].start = m.vmas[1].start, m.vmas[0].start
        def vma_unaligned(m): m.vmas[0].start += 1
        def vma_empty(m): m.vmas[0].end = m.vmas[0].start
        def vma_kernel(m): next(v for v in reversed(m.vmas) if v.status & 1).end = 0xffffffffff600000
        def vma_overlap(m): m.vmas[0].end = m.vmas[1].end
        def vma_no_file(m): m.vmas[0].shmid = 99999
        def no_exe(m): m.exe_file_id = 77777
        def page_outside(m): m.vaddr = 0x1000
        def page_many(m): m.nr_pages = 1 << 52
        def page_kernel(m): m.vaddr = 0xffff800000000000
        def no_tc(m): m.ClearField("tc")
        def no_thread_core(m): m.ClearField("thread_core")
        def sigactions(m): del m.tc.sigactions[5:]
        def task_state(m): m.tc.task_state = 77
        def two_roots(m): m.pid = m.pid + 1
        def no_threads(m): del m.threads[:]
        def fd_negative(m): m.fd = 0xffffffff
        def fd_unknown(m): m.id = 88888
        def name_relative(m): m.reg.name = "relative/../name"
        bad("inventory.img", version, "inventory")
        bad("inventory.img", per_id, "inventory")
        for fn in (vma_order, vma_unaligned, vma_empty, vma_kernel, vma_overlap, vma_no_file, no_exe):
            bad(mm, fn)
        for fn in (page_outside, page_many, page_kernel):
            bad(pagemap, fn, index=1)
        for fn in (no_tc, no_thread_core, sigactions, task_state):
            bad(core, fn)
        bad("pstree.img", two_roots)
        bad("pstree.img", no_threads)
        for fn in (fd_negative, fd_unknown):
            bad(os.path.basename(glob.glob(c.images + "/fdinfo-*.img")[0]), fn)
        files = im.read(os.path.join(c.images, "files.img"))
        reg = next(i for i, m in enumerate(files) if m.HasField("reg"))
        bad("files.img", name_relative, index=reg)
        c.works()


@case
def image_garbage():
    """Single bytes changed all over: never a crash, a hang, or a process left behind by a failure."""
    import random
    rnd = random.Random(7)
    with Checkpoint() as c:
        names = [n for n in image_files(c.images) if not n.startswith("pages-")]
        for i in range(60):
            path, name = c.copy(), rnd.choice(names)
            full = os.path.join(path, name)
            with open(full, "r+b") as f:
                at = rnd.randrange(os.path.getsize(full))
                f.seek(at)
                old = f.read(1)[0]
                f.seek(at)
                f.write(bytes([old ^ 1 << rnd.randrange(8)]))
            r = h.ckpt("restore", "-d", "-D", path, timeout=20)
            h.require(r.rc in (0, 1), f"byte {at} of {name}: {r}")
            if r.rc == 0:
                h.kill_hard(c.pid)  # a changed register or value: the format cannot know
            h.wait_until(lambda: h.state(c.pid) == "gone", f"process {c.pid} to be gone (byte {at} of {name})", 5)
        c.works()


@case
def no_inventory():
    with h.Workdir() as w:
        refused(h.ckpt("restore", "-d", "-D", w), "not a checkpoint")
        refused(h.ckpt("inspect", w), "not a checkpoint")
        refused(h.ckpt("restore", "-d", "-D", w + "/gone"), "gone")


@case
def pages_too_short():
    with Checkpoint("mem", "anon") as c:
        path = c.copy()
        pages = glob.glob(path + "/pages-*.img")[0]
        os.truncate(pages, os.path.getsize(pages) - 4096)
        c.fails(path, "pages-")
        c.works()


@case
def processor_lacks_something():
    """An image from a processor with more registers: components beyond what this one has."""
    import images as im

    with Checkpoint() as c:
        def more(m):
            m.thread_info.fpregs.xsave.xstate_bv |= 1 << 18 | 1 << 17  # AMX tiles: no processor may pretend

        def odd(m):
            del m.thread_info.fpregs.xsave.ymmh_space[10:]
        path = c.copy()
        core = os.path.join(path, f"core-{c.pid}.img")
        if not im.read(core)[0].thread_info.fpregs.HasField("xsave"):
            raise h.Skip("no xsave in the image")
        if h.re.search(r"\bamx_tile\b", h.read_text("/proc/cpuinfo")):
            raise h.Skip("this processor has it all")
        im.change(core, more)
        c.fails(path, ("processor", "cpu", "xsave", "xstate"))
        path = c.copy()
        im.change(os.path.join(path, f"core-{c.pid}.img"), odd)
        c.fails(path)
        c.works()


# ----------------------------------------------------------------------------------------- the world has changed

class OwnCopy(Checkpoint):
    """A target whose executable and C library are copies of their own that can be changed."""

    def start(self):
        bin_dir = os.path.join(self.work, "bin")
        os.makedirs(bin_dir)
        self.exe = shutil.copy(os.path.join(h.TARGETS, self.name), bin_dir)
        ldd = subprocess.run(["ldd", self.exe], capture_output=True, text=True).stdout
        libc = next(l.split()[2] for l in ldd.splitlines() if "libc.so.6" in l)
        self.lib = shutil.copy(os.path.realpath(libc), os.path.join(bin_dir, "libc.so.6"))
        self.backup = os.path.join(self.work, "backup")
        os.mkdir(self.backup)
        shutil.copy2(self.exe, self.backup)
        shutil.copy2(self.lib, self.backup)
        old, h.TARGETS = h.TARGETS, bin_dir
        os.environ["LD_LIBRARY_PATH"] = bin_dir
        try:
            return h.Target(self.work, self.name, self.variant)
        finally:
            h.TARGETS = old
            del os.environ["LD_LIBRARY_PATH"]

    def put_back(self, path):
        tmp = path + ".tmp"
        shutil.copy2(os.path.join(self.backup, os.path.basename(path)), tmp)
        os.rename(tmp, path)


def flip_build_id(path):
    with open(path, "rb") as f:
        data = f.read()
    note = data.find(struct.pack("<III", 4, 20, 3) + b"GNU\0")
    if note < 0:
        raise h.Skip(f"{path} has no build-id")
    data = bytearray(data)
    data[note + 16] ^= 0xff
    with open(path + ".tmp", "wb") as f:
        f.write(data)
    shutil.copymode(path, path + ".tmp")
    os.rename(path + ".tmp", path)


def changed_binary(which):
    with OwnCopy() as c:
        path = getattr(c, which)
        name = os.path.basename(path)
        os.unlink(path)
        c.fails(c.images, name)
        c.put_back(path)
        with open(path, "ab") as f:
            f.write(b"longer")
        c.fails(c.images, name, ("size", "changed"))
        c.put_back(path)
        flip_build_id(path)
        c.fails(c.images, name, ("build", "changed"))
        c.put_back(path)
        os.chmod(path, 0o600)
        c.fails(c.images, name)
        c.put_back(path)
        c.works()


@case
def executable_gone_or_changed():
    changed_binary("exe")


@case
def library_gone_or_changed():
    changed_binary("lib")


@case
def open_file_gone_or_changed():
    with Checkpoint("files", "offsets") as c:
        path = os.path.join(c.t.files, "a")
        os.rename(path, path + ".old")
        c.fails(c.images, "files/a")
        with open(path, "w") as f:
            f.write("too short")
        c.fails(c.images, "files/a", ("size", "changed"))
        os.unlink(path)
        os.mkdir(path)
        c.fails(c.images, "files/a")
        os.rmdir(path)
        os.rename(path + ".old", path)
        c.works()


@case
def cwd_gone():
    with Checkpoint("files", "cwd") as c:
        path = os.path.join(c.t.files, "here")
        os.rmdir(path)
        c.fails(c.images, "here")
        os.mkdir(path, 0o700)
        c.works()


@case
def not_a_session_leader():
    """Its restore would need --shell-job, which is said while the program still runs."""
    with h.Workdir() as w:
        p = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        try:
            images = os.path.join(w, "images")
            os.mkdir(images)
            refused(h.ckpt("dump", "-t", p.pid, "-D", images), p.pid, "session", "--shell-job")
            h.require(p.poll() is None and not os.listdir(images), "the refused dump left something")
            h.must(h.ckpt("dump", "-R", "-j", "-t", p.pid, "-D", images), "the dump with -j")
        finally:
            p.kill()
            p.wait()


@case
def pid_in_use():
    with Checkpoint() as c:
        last = "/proc/sys/kernel/ns_last_pid"
        if not os.access(last, os.W_OK):
            raise h.Skip("cannot choose a PID")
        for _ in range(50):
            with open(last, "w") as f:
                f.write(str(c.pid - 1))
            p = subprocess.Popen(["sleep", "60"])
            if p.pid == c.pid:
                break
            p.kill()
            p.wait()
        else:
            raise h.Skip("did not get that PID")
        try:
            r = h.ckpt("restore", "-d", "-D", c.images)
            refused(r, c.pid, "sleep")
            h.require(p.poll() is None, "the process that has the PID was touched")
        finally:
            p.kill()
            p.wait()
        c.works()


@case
def pidfile_exists():
    with Checkpoint() as c:
        path = os.path.join(c.work, "pid")
        with open(path, "w") as f:
            f.write("old")
        r = h.ckpt("restore", "-d", "-D", c.images, "--pidfile", path)
        refused(r, path)
        h.require(h.state(c.pid) == "gone" and h.read_text(path) == "old", "left something behind")
        c.works()


if __name__ == "__main__":
    h.run_cases(CASES)
