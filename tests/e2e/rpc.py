#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The service protocol: `ckpt swrk` as container runtimes use it, and `ckpt service`. Every type of request, events, what is asked
wrongly, and clients that go away."""
import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import harness as h

CASES = []
SEQ = socket.SOCK_SEQPACKET


def case(fn):
    CASES.append(fn)
    return fn


def load_protocol(folder):
    proto = os.path.join(h.SOURCE, "lib", "image", "schema")
    if not shutil.which("protoc"):
        raise h.Skip("no protoc here")
    h.must(h.run(["protoc", f"-I{proto}", f"--python_out={folder}", os.path.join(proto, "rpc.proto")]), "protoc")
    sys.path.insert(0, folder)
    try:
        import rpc_pb2
    except ImportError as e:
        raise h.Skip(f"no python3-protobuf: {e}") from None
    return rpc_pb2


class Connection:
    """The client's end of a connection."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(30 * h.PATIENCE)
        self.events, self.fds = [], []

    def send(self, req):
        self.sock.send(req if isinstance(req, bytes) else req.SerializePartialToString())

    def receive(self):
        """An answer, or None where the other side has closed."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
        except ConnectionResetError:
            return None
        self.fds += fds
        h.require(len(data) < 8192, f"an answer of {len(data)} bytes: go-criu reads 8192 at most")
        return P.criu_resp.FromString(data) if data else None

    def call(self, req, reply=None):
        """The answer to @req; events before it are answered with what @reply makes of them (default: go on)."""
        self.send(req)
        while True:
            resp = self.receive()
            if resp is None or resp.type != P.NOTIFY:
                return resp
            self.events.append(resp.notify.script)
            answer = reply(resp.notify) if reply else None
            if answer == "close":
                self.sock.close()
                return None
            self.send(answer or P.criu_req(type=P.NOTIFY, notify_success=True))

    def close(self):
        self.sock.close()


class Worker(Connection):
    """ckpt swrk, and our end of its socket."""

    def __init__(self, *args, pass_fds=(), **kw):
        ours, theirs = socket.socketpair(socket.AF_UNIX, SEQ)
        self.err = tempfile.TemporaryFile()
        self.proc = subprocess.Popen([h.CKPT, "swrk", str(theirs.fileno()), *args], stdin=subprocess.DEVNULL, stderr=self.err,
                                     stdout=self.err, pass_fds=[theirs.fileno(), *pass_fds], **kw)
        theirs.close()
        super().__init__(ours)

    def status(self):
        self.close()
        return self.proc.wait(30 * h.PATIENCE)

    def said(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.err.close()


def opts(images=None, **kw):
    """Options; @images is a folder, which is opened here."""
    o = P.criu_opts(images_dir_fd=-1 if images is None else folder(images))
    for k, v in kw.items():
        if isinstance(v, list):
            getattr(o, k).extend(v)
        else:
            setattr(o, k, v)
    return o


OPENED = []


def folder(path):
    os.makedirs(path, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    OPENED.append(fd)
    return fd


def request(kind, options=None, **kw):
    return P.criu_req(type=kind, **({"opts": options} if options else {}), **kw)


def once(kind, options=None, want=0, reply=None, args=(), worker=None, **kw):
    """One request to one worker, which has to exit with @want."""
    with worker or Worker(*args) as w:
        resp = w.call(request(kind, options, **kw), reply)
        rc = w.status()
        h.require(rc == want, f"exit status {rc}, not {want}; answer: {resp}; said: {w.said()}")
        return resp, w


def good(kind, *args, **kw):
    resp, w = once(kind, *args, **kw)
    h.require(resp is not None and resp.success and resp.type == kind, f"answer: {resp}")
    return resp, w


def bad(kind, options=None, want=255, text="", eno=None, **kw):
    resp, w = once(kind, options, want, **kw)
    h.require(resp is not None and not resp.success, f"this was to fail: {resp}")
    h.require(text in resp.cr_errmsg, f"'{text}' is not in: {resp.cr_errmsg}")
    h.require(eno is None or resp.cr_errno == eno, f"cr_errno {resp.cr_errno}, not {eno}")
    return resp, w


EBADRQC, ESRCH, EEXIST = 56, 3, 17


@contextlib.contextmanager
def target(name="mem", variant="anon"):
    with h.Workdir() as w, h.Target(w, name, variant) as t:
        t.ready()
        t.images = os.path.join(w, "images")
        yield t
        while OPENED:
            os.close(OPENED.pop())


def restored(t, resp, parent=None):
    h.require(resp.restore.pid == t.pid, f"restore.pid {resp.restore.pid}, not {t.pid}")
    if parent:
        stat = h.read_text(f"/proc/{t.pid}/stat").rsplit(")", 1)[-1].split()
        h.require(int(stat[1]) == parent, f"the parent is {stat[1]}, not {parent}")
    t.go()


# ------------------------------------------------------------------------------------------------ questions

@case
def version():
    with Worker() as w:
        h.require(not select.select([w.sock], [], [], 0.2)[0], "it spoke before it was asked")
        resp = w.call(P.criu_req(type=P.VERSION))
        h.require(resp.success and resp.type == P.VERSION, f"{resp}")
        v = resp.version
        h.require((v.major_number, v.minor_number) == (4, 2) and not v.HasField("gitid") and not v.HasField("sublevel"), f"{v}")
        h.require(w.status() == 0, f"exit status: {w.said()}")
    good(P.VERSION, opts())


@case
def criu_link():
    """By the field's name, in the place of its program."""
    with tempfile.TemporaryDirectory() as d:
        os.symlink(os.path.realpath(h.CKPT), d + "/criu")
        ours, theirs = socket.socketpair(socket.AF_UNIX, SEQ)
        with subprocess.Popen([d + "/criu", "swrk", str(theirs.fileno())], pass_fds=[theirs.fileno()]) as p:
            theirs.close()
            c = Connection(ours)
            h.require(c.call(P.criu_req(type=P.VERSION)).success, "no version")
            h.require(p.wait(30) == 0, "exit status")


@case
def features():
    resp, _ = good(P.FEATURE_CHECK, features=P.criu_features(mem_track=True, lazy_pages=True, pidfd_store=True))
    f = resp.features
    h.require(f.mem_track and f.pidfd_store, f"{resp}")
    resp, _ = good(P.FEATURE_CHECK, features=P.criu_features(mem_track=True))
    h.require(resp.features.HasField("lazy_pages") and not resp.features.lazy_pages, f"{resp}")
    bad(P.FEATURE_CHECK, text="names none")


@case
def check():
    good(P.CHECK)
    with h.Workdir() as w:
        good(P.CHECK, opts(w, log_file="check.log", log_level=4))
        h.require(os.path.exists(w + "/check.log"), "no log")
        good(P.CHECK, opts(w))
        h.require(not os.path.exists(w + "/criu.log"), "a log nobody asked for")


@case
def keep_open():
    with Worker() as w:
        for _ in range(3):
            h.require(w.call(P.criu_req(type=P.VERSION, keep_open=True)).success, "no version")
        resp = w.call(P.criu_req(type=P.FEATURE_CHECK, keep_open=True, features=P.criu_features(mem_track=True)))
        h.require(resp.features.mem_track, f"{resp}")
        h.require(w.status() == 255, "a client that closes where another request is waited for")
    for kind in P.DUMP, P.RESTORE, P.CHECK, P.PRE_DUMP, P.SINGLE_PRE_DUMP:
        with Worker() as w:
            h.require(w.call(request(kind, opts(), keep_open=True)) is None, "an answer, where the connection has to be closed")
            h.require(w.status() == 255, "exit status")
    with Worker() as w: # no second request without it
        h.require(w.call(P.criu_req(type=P.VERSION)).success, "no version")
        try:
            w.proc.wait(30)
            h.require(w.call(P.criu_req(type=P.VERSION)) is None, "a second answer")
        except (BrokenPipeError, ConnectionResetError):
            pass


# --------------------------------------------------------------------------------------------- dump and restore

@case
def dump_and_restore():
    with target() as t:
        h.wait_until(lambda: h.state(t.pid) == "S", "the target to wait")
        before = h.settled_snapshot(t.pid)
        resp, w = good(P.DUMP, opts(t.images, pid=t.pid, log_level=4, log_file="dump.log"))
        h.require(resp.dump.HasField("restored") and not resp.dump.restored, f"{resp}")
        h.require(not w.events, f"events nobody asked for: {w.events}")
        t.reap()
        for name in "inventory.img", "dump.log", "stats-dump":
            h.require(os.path.exists(f"{t.images}/{name}"), f"no {name}")
        resp, _ = good(P.RESTORE, opts(t.images, log_level=4, log_file="restore.log"))
        h.require(os.path.exists(t.images + "/stats-restore") and os.path.exists(t.images + "/restore.log"), "files of a restore")
        diff = h.differences(before, h.settled_snapshot(t.pid))
        h.require(not diff, f"not what it was: {diff}")
        restored(t, resp, os.getpid())


@case
def sibling():
    """The root task is the client's child, whose PID it is told."""
    with target() as t:
        good(P.DUMP, opts(t.images, pid=t.pid))
        t.reap()
        with Worker() as w:
            seen = []

            def reply(n):
                if n.HasField("pid"):
                    stat = h.read_text(f"/proc/{n.pid}/stat").rsplit(")", 1)[-1].split()
                    seen.append((n.script, n.pid, int(stat[1])))

            resp = w.call(request(P.RESTORE, opts(t.images, rst_sibling=True, notify_scripts=True)), reply)
            h.require(resp.success, f"{resp}")
            h.require(w.status() == 0, "exit status")
            if w.events:
                h.require(("post-restore", t.pid, os.getpid()) in seen, f"{seen}")
        restored(t, resp, os.getpid())


@case
def work_dir():
    with target() as t:
        work = t.work + "/elsewhere"
        good(P.DUMP, opts(t.images, pid=t.pid, work_dir_fd=folder(work), leave_running=True))
        h.require(sorted(os.listdir(work)) == ["criu.log", "stats-dump"], f"{os.listdir(work)}")
        h.require(not os.path.exists(t.images + "/criu.log"), "the log is in the images folder")
        other = t.work + "/named"
        os.mkdir(other)
        good(P.DUMP, opts(None, images_dir=other, pid=t.pid, leave_running=True))
        h.require(os.path.exists(other + "/inventory.img"), "no images by path")
        t.go()


@case
def leave_stopped():
    with target() as t:
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=True, leave_stopped=True))
        h.wait_until(lambda: h.state(t.pid) == "T", "the target to be stopped")
        os.kill(t.pid, signal.SIGCONT)
        t.go()


@case
def pre_dumps():
    with target() as t:
        with Worker() as w:
            parent = ""
            for i in range(3):
                o = opts(f"{t.work}/{i}", pid=t.pid, **({"parent_img": parent} if parent else {}))
                resp = w.call(request(P.PRE_DUMP, o))
                h.require(resp.success and resp.type == P.PRE_DUMP, f"{resp}")
                parent = f"../{i}"
            resp = w.call(request(P.DUMP, opts(t.images, pid=t.pid, parent_img=parent)))
            h.require(resp.success and resp.type == P.DUMP, f"{resp}")
            h.require(w.status() == 0, "exit status")
        t.reap()
        resp, _ = good(P.RESTORE, opts(t.images))
        restored(t, resp)
    with target() as t: # as runc and podman do it: a worker for each
        with Worker() as w:
            w.send(request(P.PRE_DUMP, opts(f"{t.work}/0", pid=t.pid, track_mem=True)))
            w.sock.shutdown(socket.SHUT_WR)
            h.require(w.receive().success, "pre-dump")
            h.require(w.status() == 255, "exit status of a worker whose client has gone")
        good(P.SINGLE_PRE_DUMP, opts(f"{t.work}/1", pid=t.pid, parent_img="../0"))
        good(P.DUMP, opts(t.images, pid=t.pid, parent_img="../1"))
        t.reap()
        resp, _ = good(P.RESTORE, opts(t.images))
        restored(t, resp)
    with target() as t, Worker() as w: # what cannot follow
        h.require(w.call(request(P.PRE_DUMP, opts(t.images, pid=t.pid))).success, "pre-dump")
        resp = w.call(request(P.VERSION))
        h.require(resp.type == P.EMPTY and not resp.success, f"{resp}")
        h.require(w.status() == 255, "exit status")
        t.go()


# --------------------------------------------------------------------------------------------------- wrong requests

@case
def wrong_messages():
    for data in (b"\xff" * 10, b"\x08", b"\x08\x63", b"\x08\x01\x12\x02\x08", b"\x12\x00", b"\x08\x06", os.urandom(100000)):
        with Worker() as w:
            w.send(data)
            resp = w.receive()
            h.require(resp.type == P.EMPTY and not resp.success, f"{data[:10]}: {resp}")
            rc = w.status()
            h.require(rc == 255, f"{data[:10]}: exit status {rc}: {w.said()}")
    with Worker() as w:
        h.require(w.status() == 255, "a client that says nothing")
    for kind in P.DUMP, P.RESTORE, P.PRE_DUMP, P.PAGE_SERVER:
        bad(kind, text="needs options", want=1 if kind in (P.DUMP, P.RESTORE) else 255)
    big = opts(None)
    big.external.extend(f"file[{i:x}:{i:x}]" for i in range(2000))
    bad(P.DUMP, big, 1, eno=EBADRQC)


@case
def wrong_sockets():
    for argv in ([], ["x"], ["3", "4"], ["-1"], ["99999999999"]):
        r = h.ckpt("swrk", *argv)
        h.require(r.rc == 1, f"{argv}: {r}")
    h.require(h.ckpt("swrk", "77").rc == 255, "a descriptor that is not open")
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    h.require(h.ckpt("swrk", str(b.fileno()), pass_fds=[b.fileno()]).rc == 255, "a stream")


@case
def wrong_options():
    with target() as t:
        for text, kw in (("images_dir_fd", {"images": None}), ("a name in the work folder", {"log_file": "../x"}),
                         ("is no port", {"ps": P.criu_page_server_info(port=70000)}),
                         ("empty_ns", {"empty_ns": 0x20000000}), ("cannot open the work folder", {"work_dir_fd": 999}),
                         ("status_fd", {"status_fd": 998})):
            o = opts(kw.pop("images", t.images), pid=t.pid)
            for k, v in kw.items():
                if k == "ps":
                    o.ps.CopyFrom(v)
                else:
                    setattr(o, k, v)
            bad(P.DUMP, o, 1, text, EBADRQC)
        o = P.criu_opts(images_dir_fd=997, pid=t.pid)
        bad(P.DUMP, o, 1, "descriptor 997", EBADRQC)
        o = P.criu_opts(images_dir_fd=os.open("/dev/null", os.O_RDONLY), pid=t.pid)
        bad(P.DUMP, o, 1, "Not a directory", EBADRQC)
        o = P.criu_opts(images_dir_fd=-1, images_dir=t.work + "/none", pid=t.pid)
        bad(P.DUMP, o, 1, "No such file", EBADRQC)
        bad(P.RESTORE, opts(t.work + "/empty"), 1)
        h.require("Error " in h.read_text(t.work + "/empty/criu.log"), "no Error in the log")
        h.require(not set(os.listdir(t.images)) - {"criu.log", "dump.log"}, f"left: {os.listdir(t.images)}")
        t.go()
    gone = subprocess.Popen(["true"])
    gone.wait()
    with h.Workdir() as w:
        bad(P.DUMP, opts(w, pid=gone.pid), 1, eno=ESRCH)
        bad(P.DUMP, opts(w), 1, "dumped itself", EBADRQC)


@case
def pid_taken():
    with target() as t:
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=True))
        bad(P.RESTORE, opts(t.images), 1, eno=EEXIST)
        t.go()


# -------------------------------------------------------------------------------------------------- configuration

@case
def configuration():
    with target() as t:
        conf = t.work + "/conf"
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=True, config_file=t.work + "/missing"))
        with open(conf, "w") as f:
            f.write(f"images-dir {t.work}/other\nlog-file other.log\nverbosity 4\nleave-running\ntree 1\n")
        os.mkdir(t.work + "/other")
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=False, log_file="x.log", config_file=conf))
        h.require({"inventory.img", "other.log"} <= set(os.listdir(t.work + "/other")), "the file does not go before the fields")
        for text in ("nonsense\n", "timeout x\n", "timeout 1 2\n", "no-timeout\n", "t\n", 'log-file "x\n', "shell-job yes\n"):
            with open(conf, "w") as f:
                f.write(text)
            bad(P.DUMP, opts(t.images, pid=t.pid, config_file=conf), 1, eno=EBADRQC)
        # the default files, and what stands beside swrk, come before the fields
        os.makedirs(t.work + "/.criu")
        with open(t.work + "/.criu/default.conf", "w") as f:
            f.write("leave-running\nwork-dir " + t.work + "/other\n")
        env = dict(os.environ, HOME=t.work)
        shutil.rmtree(t.images)
        good(P.DUMP, opts(t.images, pid=t.pid), worker=Worker(env=env))
        h.require(h.alive(t.pid), "leave-running of the default file was not heeded")
        h.require(os.path.exists(t.work + "/other/criu.log"), "work-dir of the default file was not heeded")
        shutil.rmtree(t.images)
        good(P.DUMP, opts(t.images, pid=t.pid), worker=Worker("-R"))
        h.require(h.alive(t.pid), "-R was not heeded")
        shutil.rmtree(t.images)
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=False), worker=Worker(env=env))
        t.reap()
        resp, _ = good(P.RESTORE, opts(t.images))
        restored(t, resp)


# -------------------------------------------------------------------------------------------------------- events

DUMP_EVENTS = ["pre-dump", "query-ext-files", "post-dump"]
RESTORE_EVENTS = ["pre-restore", "post-restore", "pre-resume", "post-resume"]


@case
def events():
    """Of a tree that has no network namespace of its own."""
    with target() as t:
        pids = {}
        _, w = good(P.DUMP, opts(t.images, pid=t.pid, notify_scripts=True), reply=lambda n: pids.update({n.script: n.pid}))
        h.require(w.events == DUMP_EVENTS, f"{w.events}")
        h.require(not any(pids.values()), f"pids in a dump: {pids}")
        t.reap()
        states = {}

        def reply(n):
            states[n.script] = (n.pid, h.state(t.pid))

        resp, w = good(P.RESTORE, opts(t.images, notify_scripts=True), reply=reply)
        h.require(w.events == RESTORE_EVENTS, f"{w.events}")
        h.require(states["pre-restore"] == (0, "gone") and states["post-restore"][0] == t.pid, f"{states}")
        h.require(states["post-restore"][1] in "tTDS" and states["pre-resume"][0] == 0, f"{states}")
        restored(t, resp)


@case
def events_of_namespaces():
    """Of a tree that has a network namespace of its own."""
    dump_events = ["pre-dump", "network-lock", "query-ext-files", "post-dump"]
    restore_events = ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "network-unlock", "pre-resume",
                      "post-resume"]
    with h.Workdir() as w:
        images, out = w + "/images", w + "/out"
        os.makedirs(w + "/files")
        p = subprocess.Popen(["unshare", "--net", os.path.join(h.TARGETS, "mem"), out, "anon"], cwd=w + "/files",
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            h.wait_until(lambda: "ready" in h.read_text(out), "the target to be ready")
            _, worker = good(P.DUMP, opts(images, pid=p.pid, notify_scripts=True, leave_running=True))
            # one that runs on does so before its images are written
            h.require([e for e in worker.events if e != "network-unlock"] == dump_events and
                      worker.events.index("network-unlock") > worker.events.index("network-lock"), f"{worker.events}")
            for event in dump_events:
                no = P.criu_req(type=P.NOTIFY, notify_success=False)
                resp, worker = once(P.DUMP, opts(w + "/no", pid=p.pid, notify_scripts=True), 1,
                                    lambda n, e=event: no if n.script == e else None)
                h.require(not resp.success and h.state(p.pid) in "SR", f"{event}: {resp}")
                locked = event in ("query-ext-files", "post-dump")
                h.require(worker.events[-1] == ("network-unlock" if locked else event), f"{event}: {worker.events}")
            shutil.rmtree(images)
            _, worker = good(P.DUMP, opts(images, pid=p.pid, notify_scripts=True))
            h.require(worker.events == dump_events, f"{worker.events}")
            h.reap(p.pid)
            seen = {}

            def reply(n):
                if n.HasField("pid"):
                    seen[n.script] = (n.pid, os.readlink(f"/proc/{n.pid}/ns/net"))

            for event in restore_events[:4]:
                no = P.criu_req(type=P.NOTIFY, notify_success=False)
                resp, worker = once(P.RESTORE, opts(images, notify_scripts=True), 1, lambda n, e=event: no if n.script == e else None)
                h.require(not resp.success and worker.events[-1] == event, f"{event}: {resp}, {worker.events}")
                h.wait_until(lambda: not os.path.exists(f"/proc/{p.pid}"), f"{event}: the tree to be gone")
            resp, worker = good(P.RESTORE, opts(images, notify_scripts=True, rst_sibling=True), reply=reply)
            h.require(worker.events == restore_events, f"{worker.events}")
            h.require(set(seen) == {"setup-namespaces", "post-restore"} and {v[0] for v in seen.values()} == {p.pid}, f"{seen}")
            h.require({v[1] for v in seen.values()} != {os.readlink("/proc/self/ns/net")}, f"it is in ours: {seen}")
            os.kill(p.pid, signal.SIGUSR1)
            h.require(h.reap(p.pid) == 0 and "PASS" in h.read_text(out), h.read_text(out))
        finally:
            h.kill_hard(p.pid)
            p.returncode = 0


@case
def events_refused():
    """A dump that a client refuses leaves the process alone; a restore leaves nothing."""
    no = [lambda: P.criu_req(type=P.NOTIFY, notify_success=False), lambda: P.criu_req(type=P.NOTIFY),
          lambda: P.criu_req(type=P.VERSION), lambda: b"garbage", lambda: "close"]
    with target() as t:
        for event in DUMP_EVENTS:
            for answer in no:
                with Worker() as w:
                    o = opts(t.images, pid=t.pid, notify_scripts=True)
                    resp = w.call(request(P.DUMP, o), lambda n: answer() if n.script == event else None)
                    h.require(resp is None or not resp.success, f"{event}: {resp}")
                    rc = w.proc.wait(30)
                    h.require(rc == (1 if resp else 255), f"{event}: exit status {rc}")
                    h.require(h.alive(t.pid) and h.state(t.pid) in "SR", f"{event}: state {h.state(t.pid)}")
                    h.require("inventory.img" not in os.listdir(t.images), f"{event}: {os.listdir(t.images)}")
        good(P.DUMP, opts(t.images, pid=t.pid))
        t.reap()
        for event in RESTORE_EVENTS[:2]:
            for answer in no:
                with Worker() as w:
                    o = opts(t.images, notify_scripts=True)
                    resp = w.call(request(P.RESTORE, o), lambda n: answer() if n.script == event else None)
                    h.require(resp is None or (not resp.success and resp.restore.pid == -1), f"{event}: {resp}")
                    rc = w.proc.wait(30)
                    h.require(rc == (1 if resp else 255), f"{event}: exit status {rc}")
                    h.wait_until(lambda: not h.alive(t.pid), f"{event}: the tree to be gone")
                    h.reap(t.pid)
        for event in RESTORE_EVENTS[2:]:  # too late to refuse
            resp, _ = good(P.RESTORE, opts(t.images, notify_scripts=True),
                           reply=lambda n: no[0]() if n.script == event else None)
            good(P.DUMP, opts(t.images + event, pid=t.pid))
            h.reap(t.pid)
        resp, _ = good(P.RESTORE, opts(t.images))
        restored(t, resp)


@case
def client_dies():
    """In the middle, without a word."""
    code = """if 1:
        import os, socket, sys
        s = socket.socket(fileno=int(sys.argv[1]))
        s.setblocking(True)
        s.send(bytes.fromhex(sys.argv[2]))
        while True:
            data = s.recv(65536)
            if not data or sys.argv[3].encode() in data:
                os.kill(os.getpid(), 9)
            s.send(bytes.fromhex(sys.argv[4]))
    """
    yes = P.criu_req(type=P.NOTIFY, notify_success=True).SerializeToString().hex()
    with target() as t:
        for event in "pre-dump", "post-dump":
            # the client inherits the descriptor of the folder, and is who the worker takes it from: the maker of the socket is us
            o = opts(t.images, pid=t.pid, notify_scripts=True)
            with Worker() as w:
                req = request(P.DUMP, o).SerializeToString().hex()
                p = subprocess.run([sys.executable, "-c", code, str(w.sock.fileno()), req, event, yes],
                                   pass_fds=[w.sock.fileno()], timeout=60, check=False)
                h.require(p.returncode == -9, f"the client ended with {p.returncode}")
                w.close()
                h.require(w.proc.wait(30) == 255, "exit status")
            h.require(h.alive(t.pid) and h.state(t.pid) in "SR", f"{event}: state {h.state(t.pid)}")
            h.require("inventory.img" not in os.listdir(t.images), f"{event}: {os.listdir(t.images)}")
        t.go()


@case
def more_external():
    """What the answer to query-ext-files names."""
    with target() as t:
        wrong = P.criu_req(type=P.NOTIFY, notify_success=True, opts=P.criu_opts(images_dir_fd=-1, external=["nonsense"]))
        bad(P.DUMP, opts(t.images, pid=t.pid, notify_scripts=True), 1, "nonsense", EBADRQC,
            reply=lambda n: wrong if n.script == "query-ext-files" else None)
        good_ = P.criu_req(type=P.NOTIFY, notify_success=True, opts=P.criu_opts(images_dir_fd=-1, external=["file[1:1]"]))
        good(P.DUMP, opts(t.images, pid=t.pid, notify_scripts=True, leave_running=True),
             reply=lambda n: good_ if n.script == "query-ext-files" else None)
        t.go()


@case
def action_scripts():
    """Those of a configuration file, besides the client's events; and on the command line."""
    with target() as t:
        script, log = t.work + "/script", t.work + "/said"
        with open(script, "w") as f:
            f.write(f"#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION ${{CRTOOLS_INIT_PID-none}} $(ls -d $CRTOOLS_IMAGE_DIR/.) >>{log}\n"
                    f"! grep -q '^'$CRTOOLS_SCRIPT_ACTION'$' {t.work}/refuse 2>/dev/null || exit 7\n")
        os.chmod(script, 0o755)
        with open(t.work + "/conf", "w") as f:
            f.write(f"action-script {script}\n")

        def said(pids):
            lines = h.read_text(log).splitlines()
            os.unlink(log)
            h.require(all(line.split()[1] in pids for line in lines), f"{lines}")
            h.require(all(line.endswith("/.") for line in lines), f"no folder: {lines}")
            return [line.split()[0] for line in lines]

        # a script is not asked about external files
        mine = [e for e in DUMP_EVENTS if e != "query-ext-files"]
        _, w = good(P.DUMP, opts(t.images, pid=t.pid, notify_scripts=True, leave_running=True, config_file=t.work + "/conf"))
        h.require(w.events == DUMP_EVENTS and said({str(t.pid)}) == mine, f"{w.events}")
        for event in mine:
            with open(t.work + "/refuse", "w") as f:
                f.write(event + "\n")
            r = h.dump(t.pid, t.work + "/cli", "--action-script", script)
            h.require(r.rc == (7 if event == "post-dump" else 1) and f"failed at {event}" in r.out and h.alive(t.pid), f"{r}")
            said({str(t.pid)})
        os.unlink(t.work + "/refuse")
        h.must(h.ckpt("dump", "-t", t.pid, "-D", t.work + "/cli", "--action-script", script), "dump")
        h.require(said({str(t.pid)}) == mine, "scripts of a dump")
        t.reap()
        h.must(h.ckpt("restore", "-d", "-D", t.work + "/cli", "--action-script", script), "restore")
        h.require(said({"none", str(t.pid)}) == RESTORE_EVENTS, "scripts of a restore")
        t.go()


# -------------------------------------------------------------------------------------------- commands, page servers

@case
def cpuinfo():
    """Recorded by a request, a command, a dump; compared by a request, a restore."""
    with target() as t:
        with Worker() as w:
            for kind in P.CPUINFO_DUMP, P.CPUINFO_CHECK:
                resp = w.call(request(kind, opts(t.work + "/cpu", cpu_cap=15), keep_open=True))
                h.require(resp.success and resp.type == kind, f"{resp}")
        good(P.DUMP, opts(t.images, pid=t.pid, leave_running=True))
        h.require("cpuinfo.img" not in os.listdir(t.images), "recorded, without --cpu-cap")
        bad(P.CPUINFO_CHECK, opts(t.images, cpu_cap=4), text="no cpuinfo.img")
        shutil.rmtree(t.images)
        good(P.DUMP, opts(t.images, pid=t.pid, cpu_cap=15))
        t.reap()
        image = t.images + "/cpuinfo.img"
        data = open(image, "rb").read()
        # a size of the state that is not ours: field 9, the last but one, of three bytes each
        with open(image, "wb") as f:
            f.write(data[:-4] + bytes([data[-4] ^ 0x20]) + data[-3:])
        _, w = bad(P.CPUINFO_CHECK, opts(t.images, cpu_cap=1), text="another size", eno=95)
        good(P.CPUINFO_CHECK, opts(t.images, cpu_cap=4))
        conf = t.work + "/conf"
        with open(conf, "w") as f:
            f.write("no-verify\n")
        bad(P.RESTORE, opts(t.images, cpu_cap=1, config_file=conf), 1, "another size")
        with open(image, "wb") as f:
            f.write(data)
        resp, _ = good(P.RESTORE, opts(t.images, cpu_cap=15))
        restored(t, resp)


PARENT = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); print('by the command'); sys.stdin.close(); os.wait()"


@case
def exec_cmd():
    """A command that becomes the parent of the root task, and what it says goes to the log."""
    with target() as t:
        argv = [sys.executable, "-c", PARENT, t.work + "/parent"]
        good(P.DUMP, opts(t.images, pid=t.pid))
        t.reap()
        with Worker() as w:
            resp = w.call(request(P.RESTORE, opts(t.images, exec_cmd=argv)))
            h.require(resp.success and resp.restore.pid == t.pid, f"{resp}")
            h.wait_until(lambda: h.read_text(t.work + "/parent"), "the command")
            h.require(h.read_text(t.work + "/parent") == str(w.proc.pid), "it is not what the worker became")
            h.require(w.receive() is None, "the socket was kept")
            stat = h.read_text(f"/proc/{t.pid}/stat").rsplit(")", 1)[-1].split()
            h.require(int(stat[1]) == w.proc.pid, "the parent")
            os.kill(t.pid, signal.SIGUSR1)
            h.require(w.proc.wait(30) == 0, "exit status")
            h.require(t.verdict() == "PASS" and "by the command" in h.read_text(t.images + "/criu.log"), t.verdict())
    with target() as t: # on the command line
        h.must(h.dump(t.pid, t.images), "dump")
        t.reap()
        p = subprocess.Popen([h.CKPT, "restore", "-D", t.images, "--exec-cmd", "--", sys.executable, "-c", PARENT,
                              t.work + "/parent"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        h.wait_until(lambda: h.read_text(t.work + "/parent") == str(p.pid), "the command")
        os.kill(t.pid, signal.SIGUSR1)
        h.require(p.wait(30) == 0 and t.verdict() == "PASS", t.verdict())


@case
def page_servers():
    with target() as t, Worker() as server:
        def start(kind, images, **kw):
            o = opts(images)
            o.ps.port = 0
            return server.call(request(kind, o, **kw))

        pages = t.work + "/pages"
        resp = start(P.PAGE_SERVER_CHLD, pages, keep_open=True)
        h.require(resp.success and resp.type == P.PAGE_SERVER and resp.ps.port and resp.ps.pid, f"{resp}")
        o = opts(t.images, pid=t.pid)
        o.ps.address, o.ps.port = "127.0.0.1", resp.ps.port
        good(P.DUMP, o)
        t.reap()
        resp = server.call(P.criu_req(type=P.WAIT_PID, pid=resp.ps.pid))
        h.require(resp.success and resp.type == P.WAIT_PID and resp.status == 0, f"{resp}")
        h.require(server.status() == 0, "exit status")
        for name in os.listdir(pages):
            if name.endswith(".img"):
                shutil.move(f"{pages}/{name}", t.images)
        resp, _ = good(P.RESTORE, opts(t.images))
        restored(t, resp)
    with target() as t: # one that lives on, and is our child then
        o = opts(t.work + "/pages")
        o.ps.port = 0
        resp, _ = good(P.PAGE_SERVER, o)
        o = opts(t.images, pid=t.pid, leave_running=True)
        o.ps.address, o.ps.port = "127.0.0.1", resp.ps.port
        good(P.DUMP, o)
        h.require(h.reap(resp.ps.pid) == 0, "exit status of the page server")
        h.require(any(n.startswith("pages-") for n in os.listdir(t.work + "/pages")), f"{os.listdir(t.work + '/pages')}")
        # by a descriptor
        a, b = socket.socketpair()
        o = opts(t.work + "/pages2")
        o.ps.fd = a.fileno()
        with Worker(pass_fds=[a.fileno()]) as w:
            resp = w.call(request(P.PAGE_SERVER, o))
            h.require(resp.success, f"{resp}")
            a.close()
            o = opts(t.work + "/i2", pid=t.pid, leave_running=True)
            o.ps.fd = b.fileno()
            good(P.DUMP, o, worker=Worker(pass_fds=[b.fileno()]))
            h.require(h.reap(resp.ps.pid) == 0, "exit status of the page server")
        b.close()
        # nobody there, and an address that is not ours
        o = opts(t.work + "/i3", pid=t.pid)
        o.ps.address, o.ps.port = "127.0.0.1", 1
        bad(P.DUMP, o, 1)
        o = opts(t.work + "/i4")
        o.ps.address, o.ps.port = "192.0.2.1", 0
        bad(P.PAGE_SERVER, o)
        with Worker() as w:
            resp = w.call(P.criu_req(type=P.WAIT_PID, pid=1))
            h.require(not resp.success and resp.cr_errno == 10, f"{resp}")
        t.go()


# ------------------------------------------------------------------------------------------------------- service

class Service:
    """ckpt service in a folder of its own."""

    def __init__(self, work, *args):
        self.path = work + "/service.socket"
        ready, theirs = os.pipe()
        self.log = open(work + "/service.out", "w+b")
        self.proc = subprocess.Popen([h.CKPT, "service", "--address", self.path, "--status-fd", str(theirs), "-v4", *args],
                                     stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=[theirs])
        os.close(theirs)
        h.require(os.read(ready, 2) == b"\0", "the service is not ready")
        os.close(ready)

    def connect(self):
        s = socket.socket(socket.AF_UNIX, SEQ)
        s.connect(self.path)
        return Connection(s)

    def ask(self, *args, **kw):
        c = self.connect()
        try:
            return c.call(request(*args, **kw))
        finally:
            c.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.terminate()
        self.proc.wait(30)
        self.log.close()


def as_user(uid, groups, fn):
    """What @fn, a function that returns an answer or None, gets in a process of user @uid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
            resp = fn()
            os.write(write, b"+" + resp.SerializePartialToString() if resp else b"-")
        except BaseException as e:  # there is no way back into the test
            os.write(write, b"!" + repr(e).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        got = f.read()
    os.waitpid(pid, 0)
    h.require(got[:1] in b"+-", f"the client: {got}")
    return P.criu_resp.FromString(got[1:]) if got[:1] == b"+" else None


@case
def service():
    with target() as t, Service(t.work, "--pidfile", t.work + "/pid") as s:
        h.require(h.read_text(t.work + "/pid") == str(s.proc.pid), "pidfile")
        h.require(os.stat(s.path).st_mode & 0o777 == 0o666, "mode of the socket")
        h.require(s.ask(P.VERSION).success, "version")
        many = [s.connect() for _ in range(10)]  # each has a worker
        h.require(all(c.call(request(P.VERSION)).success for c in reversed(many)), "several clients")
        for c in many:
            c.close()
        resp = s.ask(P.DUMP, opts(t.images, pid=t.pid, log_level=4))
        h.require(resp.success, f"{resp}")
        t.reap()
        h.require(not s.ask(P.RESTORE, opts(t.images, rst_sibling=True)).success, "rst_sibling")
        h.require(not s.ask(P.RESTORE, opts(t.images, inherit_fd=[P.inherit_fd(key="pipe:[1]", fd=1)])).success, "inherit_fd")
        c = s.connect()
        c.send(b"garbage")
        c.close()
        resp = s.ask(P.RESTORE, opts(t.images))
        h.require(resp.success, f"{resp}")
        restored(t, resp)
        h.wait_until(lambda: not h.children(s.proc.pid), "workers to be gone")
        s.proc.terminate()
        h.require(s.proc.wait(30) == 0, "exit status")
        h.require(not os.path.exists(s.path), "the socket was left behind")


@case
def service_start():
    with h.Workdir() as w:
        r = h.ckpt("service", "--address", w + "/none/socket")
        h.require(r.rc == 1 and "cannot listen" in r.out, f"{r}")
        open(w + "/file", "w").close()
        r = h.ckpt("service", "--address", w + "/file")
        h.require(r.rc == 1 and "File exists" in r.out and os.path.exists(w + "/file"), f"{r}")
        for _ in range(2):  # the second replaces the socket of the first, which was killed
            r = h.ckpt("service", "-W", w, "-d", "--pidfile", "pid", "-o", "log")
            h.must(r, "service -d")
            pid = int(h.read_text(w + "/pid"))
            c = socket.socket(socket.AF_UNIX, SEQ)
            c.connect(w + "/criu_service.socket")
            h.require(Connection(c).call(P.criu_req(type=P.VERSION)).success, "version")
            c.close()
            h.kill_hard(pid)
            os.unlink(w + "/pid")


@case
def service_for_others():
    """Another user gets no more than his own rights, and his configuration file runs nothing."""
    uid = 65534
    with target() as t, Service(t.work) as s:
        h.require(as_user(uid, [], lambda: s.ask(P.VERSION)).success, "version")
        mine, theirs = t.work + "/root", t.work + "/user"
        os.mkdir(mine, 0o700)
        os.mkdir(theirs)
        os.chown(theirs, uid, uid)
        with open(t.work + "/script", "w") as f:
            f.write(f"#!/bin/sh\nid -u >{t.work}/ran\n")
        os.chmod(t.work + "/script", 0o755)
        with open(t.work + "/conf", "w") as f:
            f.write(f"action-script {t.work}/script\nlog-file from-conf\n")
        resp = as_user(uid, [], lambda: s.ask(P.DUMP, opts(theirs, pid=t.pid, config_file=t.work + "/conf")))
        h.require(not resp.success, f"a process of root's was dumped for another user: {resp}")
        h.require(os.listdir(theirs) == ["criu.log"] and os.stat(theirs + "/criu.log").st_uid == uid, f"{os.listdir(theirs)}")
        h.require(not os.path.exists(t.work + "/ran"), "the script was run")
        resp = as_user(uid, [], lambda: s.ask(P.DUMP, P.criu_opts(images_dir_fd=-1, images_dir=mine, pid=t.pid)))
        h.require(not resp.success and not os.listdir(mine), f"{resp}")
        # a file that only root may read is not shown by a message about it
        with open(mine + "/conf", "w") as f:
            f.write("secret\n")
        resp = as_user(uid, [], lambda: s.ask(P.DUMP, opts(theirs, pid=t.pid, config_file=mine + "/conf")))
        h.require("secret" not in resp.cr_errmsg + h.read_text(theirs + "/criu.log"), f"{resp}")
        # groups are those of the client
        os.chown(mine, 0, 4242)
        os.chmod(mine, 0o770)
        resp = as_user(uid, [4242], lambda: s.ask(P.DUMP, P.criu_opts(images_dir_fd=-1, images_dir=mine, pid=t.pid)))
        h.require(not resp.success and "criu.log" in os.listdir(mine), f"{resp}: {os.listdir(mine)}")
        t.go()


def main():
    global P
    try:
        h.need_engine()
        h.become_subreaper()
        tmp = tempfile.mkdtemp()
        P = load_protocol(tmp)
        shutil.rmtree(tmp)
    except h.Skip as e:
        print(f"SKIP: {e}")
        return h.SKIP_CODE
    failed = 0
    wanted = sys.argv[1:]
    for fn in CASES:
        if wanted and fn.__name__ not in wanted:
            continue
        try:
            fn()
            print(f"ok - {fn.__name__}", flush=True)
        except h.Skip as e:
            print(f"ok - {fn.__name__} # SKIP {e}", flush=True)
        except h.Failure as e:
            failed += 1
            print(f"not ok - {fn.__name__}: {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
