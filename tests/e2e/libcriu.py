#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""libcriu.so.2 as programs use it that load it: dumps in the calling process, restores by a worker, and everything by a service."""
import ctypes
import errno
import os
import signal
import subprocess
import sys

import harness as h

CASES = []
LIB = os.environ.get("CKPT_LIBCRIU") or os.path.join(os.path.dirname(h.CKPT or ""), "..", "..", "lib", "libcriu.so.2")
NOTIFY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
MORE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def case(fn):
    CASES.append(fn)
    return fn


class Criu:
    """The functions, with options set anew. Keyword arguments are setters: pid=5 is criu_set_pid(5)."""

    def __init__(self, images=None, binary=True, **kw):
        self.lib = ctypes.CDLL(LIB, use_errno=True)
        self.lib.criu_notify_pid.argtypes = [ctypes.c_void_p]
        h.require(self.lib.criu_init_opts() == 0, "criu_init_opts")
        if binary:
            self.lib.criu_set_service_binary(h.CKPT.encode())
        if images:
            os.makedirs(images, exist_ok=True)
            self.fd = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
            self.lib.criu_set_images_dir_fd(self.fd)
        self.lib.criu_set_log_level(4)
        for k, v in kw.items():
            getattr(self.lib, "criu_set_" + k)(v.encode() if isinstance(v, str) else v)

    def __getattr__(self, name):
        return getattr(self.lib, "criu_" + name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if hasattr(self, "fd"):
            os.close(self.fd)


def is_zero(r, what):
    h.require(r == 0, f"{what}: {r}, errno {ctypes.get_errno()}")


class Run:
    def __init__(self):
        self.work = h.Workdir()

    def __enter__(self):
        self.w = self.work.__enter__()
        self.images = self.w + "/images"
        self.t = h.Target(self.w, "mem", "anon").ready()
        return self

    def __exit__(self, *exc):
        self.t.kill()
        self.work.__exit__(*exc)


@case
def questions():
    for binary in False, True:
        with Criu(binary=binary) as c:
            h.require(c.get_version() == 40200, f"version {c.get_version()}")
            h.require(c.check_version(31500) == 1 and c.check_version(50000) == 0, "check_version")
            is_zero(c.check(), "check")
            f = (ctypes.c_bool * 3)(True, True, False)
            is_zero(c.feature_check(f, 3), "feature_check")
            h.require(f[0] and not f[2], f"features {list(f)}")
            f = (ctypes.c_bool * 1)(True)  # of an older program
            is_zero(c.feature_check(f, 1), "feature_check")
            h.require(c.feature_check(f, 100) == -errno.EINVAL, "a struct of the future")
            h.require(c.get_orphan_pts_master_fd() == -1, "a master out of nowhere")


@case
def here():
    """A dump in this process starts no other, and the restored root task is our child."""
    with Run() as run:
        with Criu(run.images, binary=False, pid=run.t.pid, log_file="dump.log") as c:
            is_zero(c.dump(), "dump")
        run.t.reap()
        h.require(os.path.exists(run.images + "/dump.log"), "no log")
        with Criu(run.images, log_file="restore.log") as c:
            pid = c.restore_child()
            h.require(pid == run.t.pid, f"restore: {pid}")
        stat = h.read_text(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()
        h.require(int(stat[1]) == os.getpid(), f"its parent is {stat[1]}")
        run.t.go()


@case
def by_a_worker():
    with Run() as run:
        with Criu(run.images, pid=run.t.pid, leave_running=True) as c:
            is_zero(c.dump(), "dump")
        h.require(h.alive(run.t.pid), "it does not run on")
        with Criu(run.w + "/2", pid=run.t.pid) as c:
            is_zero(c.dump(), "dump")
            run.t.reap()
            h.require(c.restore() == run.t.pid, "restore")
        run.t.go()


@case
def incremental():
    with Run() as run:
        parent = None
        for i in range(2):
            with Criu(f"{run.w}/{i}", binary=i == 1, pid=run.t.pid, track_mem=True, **({"parent_images": parent} if parent else {})) as c:
                is_zero(c.pre_dump(), "pre_dump")
            parent = f"../{i}"
        with Criu(run.images, binary=False, pid=run.t.pid, parent_images=parent) as c:
            is_zero(c.dump(), "dump")
        run.t.reap()
        with Criu(run.images) as c:
            h.require(c.restore_child() == run.t.pid, "restore")
        run.t.go()


@case
def iterations():
    with Run() as run, Criu(pid=run.t.pid) as c:
        fds = []

        def more(info):
            i = len(fds)
            os.mkdir(f"{run.w}/{i}")
            fds.append(os.open(f"{run.w}/{i}", os.O_RDONLY))
            c.set_images_dir_fd(fds[i])
            if i:
                c.set_parent_images(f"../{i - 1}".encode())
            return i < 2

        is_zero(c.dump_iters(MORE(more)), "dump_iters")
        run.t.reap()
        h.require(c.restore_child() == run.t.pid, "restore")
        for fd in fds:
            os.close(fd)
        run.t.go()


@case
def failures():
    with Run() as run:
        for binary in False, True:
            with Criu(binary=binary, pid=run.t.pid) as c:
                h.require(c.dump() == -errno.EBADE and ctypes.get_errno() == errno.EBADRQC, "no folder")
            with Criu(run.images, binary=binary, pid=2 ** 22 + 1) as c:
                h.require(c.dump() == -errno.EBADE and ctypes.get_errno() == errno.ESRCH, "no process")
            with Criu(run.w + "/none", binary=binary) as c:
                h.require(c.restore_child() == -errno.EBADE, "no images")
            run.t.lines()
        with Criu(run.images, pid=run.t.pid) as c:
            c.set_service_binary(b"/bin/false")
            h.require(c.dump() == -errno.ECOMM, "a program that is no worker")
            c.set_service_binary(b"/nowhere")
            h.require(c.dump() == -errno.ECOMM, "a program that is none")
            c.set_service_address(b"/nowhere")
            h.require(c.dump() == -errno.ECONNREFUSED, "no service")
            c.set_service_fd(os.open("/dev/null", os.O_RDWR))
            h.require(c.dump() == -errno.ECOMM, "no socket")
            h.require(c.set_network_lock(9) == -errno.EINVAL, "no such method")
        with Criu(run.images, binary=False, pid=run.t.pid) as c:
            c.set_network_lock(9)
            h.require(c.dump() == -errno.EBADE and ctypes.get_errno() == errno.EBADRQC, "no such method")
        run.t.go()


@case
def itself():
    """A program that dumps itself ends, and goes on where it is restored."""
    code = """if 1:
        import ctypes, os, sys
        c = ctypes.CDLL(sys.argv[1], use_errno=True)
        c.criu_init_opts()
        c.criu_set_images_dir_fd(os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY))
        r = c.criu_dump()
        with open(sys.argv[2] + "/verdict", "w") as f:
            f.write(f"{r} {ctypes.get_errno()}")
    """
    with h.Workdir() as w:
        images = w + "/images"
        os.mkdir(images)
        p = subprocess.Popen([sys.executable, "-c", code, LIB, images], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        rc = p.wait(60 * h.PATIENCE)
        log = h.read_text(images + "/criu.log") + h.read_text(images + "/verdict")
        h.require(rc == -signal.SIGKILL, f"exit status {rc}: {log}")
        with Criu(images, log_file="restore.log") as c:
            pid = c.restore_child()
            h.require(pid == p.pid, f"restore: {pid}: {h.read_text(images + '/restore.log')}")
        h.require(h.reap(pid) == 0, "exit status")
        h.require(h.read_text(images + "/verdict").startswith("1 "), f"it said: {h.read_text(images + '/verdict')}")


def main():
    try:
        h.need_engine()
        h.become_subreaper()
        if not os.path.exists(LIB):
            raise h.Skip(f"no {LIB}")
    except h.Skip as e:
        print(f"SKIP: {e}")
        return h.SKIP_CODE
    failed = 0
    for fn in CASES:
        if sys.argv[1:] and fn.__name__ not in sys.argv[1:]:
            continue
        try:
            fn()
            print(f"ok - {fn.__name__}", flush=True)
        except h.Failure as e:
            failed += 1
            print(f"not ok - {fn.__name__}: {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
