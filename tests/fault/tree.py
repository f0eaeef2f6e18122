#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What fails in one task of many is undone in all of them, and so is what a killed engine had begun.

  tree.py [--rounds N] [--seed N] [CASE]...

  odd-task       one of 500 has something that cannot be saved: the dump is refused, and all run on unchanged
  lost-image     an image of a late task is missing: the restore fails, nothing of the tree is there
  lost-file      a file that a late task has open is missing: the same, and the file back, it works
  taken-pid      the PID of a late task is taken: the same
  assorted       tasks with locks, names of sockets, System V memory and deleted files; every stage of the restore fails once, and
                 none of these stays behind
  kill-dump      kill -9 of the engine at a random moment of dump -R: every task of the tree is as before
  cancel-dump    SIGINT or SIGTERM instead: the same, and the folder is left empty
  kill-member    kill -9 of a random task of the tree at a random moment of its dump: the engine ends soon, the others run on, or are
                 saved without it
  kill-restore   kill -9 of the engine at a random moment of a restore: no process stays behind, and the checkpoint still restores
"""
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import fault as f  # noqa: E402
import harness as h  # noqa: E402


PATIENT = ("--timeout", 60)  # five hundred processes, on a machine that is busy


def tree(pid):
    return [pid, *h.descendants(pid)]


def snapshot(pid):
    return {str(p): h.snapshot(p) for p in tree(pid) if h.alive(p)}


def settled(pid):
    last = snapshot(pid)
    for _ in range(20):
        time.sleep(0.01)
        now = snapshot(pid)
        if now == last:
            break
        last = now
    return last


def unchanged(pid, before, what, seconds=10):
    """Every task is as it was, held by nobody, and there are no others."""
    end = time.monotonic() + seconds * h.PATIENCE
    while True:
        try:
            lost = [p for p in before if not h.alive(int(p))]
            h.require(not lost, f"tasks have died: {lost}")
            diff = h.differences(before, snapshot(pid))
            for p in tree(pid):
                h.untouched(p)
            if not diff:
                return
            problem = "; ".join(diff[:6])
        except (h.Failure, OSError) as e:
            problem = str(e)
        h.require(time.monotonic() < end, f"{what}: {problem}")
        time.sleep(0.02)


def ours():
    """What became our child when its parent ended; zombies are waited for."""
    f_left = []
    for c in h.children(os.getpid()):
        if h.state(c) in "ZX":
            h.reap(c)
        else:
            f_left.append(c)
    return f_left


def all_gone(pids, what, seconds=5):
    """No process has one of these PIDs, and nobody became our child."""
    def left():
        mine = ours()
        return mine or [p for p in pids if os.path.exists(f"/proc/{p}")]
    try:
        h.wait_until(lambda: not left(), "the tree to be gone", seconds)
    except h.Failure:
        names = [(p, h.read_text(f"/proc/{p}/comm").strip(), h.state(p)) for p in left()]
        raise h.Failure(f"{what}: still there: {names[:8]} ({len(names)})") from None


def outside():
    """What else a restore could leave on this machine: IPC objects, files in the places where temporary ones go."""
    ipc = [h.read_text(f"/proc/sysvipc/{kind}").count("\n") for kind in ("shm", "sem", "msg")]
    places = {p: sorted(n for n in os.listdir(p) if "ckpt" in n or "criu" in n or ".cr." in n)
              for p in ("/dev/shm", "/run") if os.path.isdir(p)}
    return ipc, places


class Tree:
    """A running target of many processes, its folders, and after dump() its checkpoint."""

    def __init__(self, variant):
        self.variant = variant

    def __enter__(self):
        self.dir = h.Workdir()
        self.work = self.dir.__enter__()
        self.images = os.path.join(self.work, "i")
        self.t = h.Target(self.work, "crowd", self.variant)
        try:
            self.t.ready(60)
            self.pid, self.pids = self.t.pid, tree(self.t.pid)
            self.before = settled(self.pid)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def dump(self):
        h.must(h.dump(self.pid, self.images, *PATIENT), "dump")
        self.t.reap()
        all_gone(self.pids, "after the dump")

    def files(self):
        return h.folder_listing(self.t.files)

    def restore(self, what="restore"):
        h.must(h.ckpt("restore", "-d", "-D", self.images, *PATIENT), what)

    def refused(self, what, *words):
        """A restore fails, says these words, and leaves nothing."""
        files, images, around = self.files(), h.folder_listing(self.images), outside()
        r = h.ckpt("restore", "-d", "-D", self.images, *PATIENT)
        h.require(r.rc != 0, f"{what}: the restore succeeded")
        all_gone([p for p in self.pids if p not in self.taken()], what)
        for w in words:
            h.require(w in r.out, f"{what}: the message does not say '{w}': {r}")
        h.require(self.files() == files, f"{what}: the files of the program changed")
        now = h.folder_listing(self.images)
        h.require([e for e in now if not e[0].startswith("stats")] == [e for e in images if not e[0].startswith("stats")],
                  f"{what}: the images folder changed")
        h.require(outside() == around, f"{what}: {around} became {outside()}")

    def taken(self):
        return getattr(self, "others", ())

    def __exit__(self, *exc):
        self.t.kill()
        for p in ours():
            h.kill_hard(p)
        self.dir.__exit__(*exc)


def odd_task(rounds, rnd):
    with Tree("oneodd") as t:
        os.makedirs(t.images)
        r = h.ckpt("dump", "-t", t.pid, "-D", t.images, *PATIENT)
        h.require(r.rc == 1 and "secret" in r.out.lower(), f"not refused: {r}")
        h.require(any(f"{p}:" in r.out for p in t.pids[300:]), f"the message does not name the task: {r}")
        unchanged(t.pid, t.before, "after the refused dump")
        h.require(not os.listdir(t.images), f"left in the folder: {os.listdir(t.images)}")
        t.t.go()


def late(t, position=400):
    """The pid of a task that comes late in the tree."""
    return t.pids[position]


def lost_image(rounds, rnd):
    with Tree("fivehundred") as t:
        t.dump()
        for kind in ("core", "mm", "pagemap", "fs", "ids"):
            found = glob.glob(os.path.join(t.images, f"{kind}-{late(t)}.img"))
            h.require(found, f"there is no {kind} image of task {late(t)}")
            os.rename(found[0], os.path.join(t.work, "aside"))
            t.refused(f"without {os.path.basename(found[0])}")
            os.rename(os.path.join(t.work, "aside"), found[0])
        t.restore()
        unchanged(t.pid, t.before, "after the restore")
        t.t.go()


def lost_file(rounds, rnd):
    with Tree("fivehundred") as t:
        t.dump()
        path = os.path.join(t.t.files, "file1-400")
        os.rename(path, os.path.join(t.work, "aside"))
        t.refused("without a file of a late task", "file1-400")
        os.rename(os.path.join(t.work, "aside"), path)
        t.restore()
        unchanged(t.pid, t.before, "after the restore")
        t.t.go()


def with_pid(pid):
    """A process that has that PID."""
    last = "/proc/sys/kernel/ns_last_pid"
    if not os.access(last, os.W_OK):
        raise h.Skip("cannot choose a PID")
    for _ in range(100):
        with open(last, "w") as file:
            file.write(str(pid - 1))
        p = subprocess.Popen(["sleep", "60"])
        if p.pid == pid:
            return p
        p.kill()
        p.wait()
    raise h.Skip("did not get that PID")


def taken_pid(rounds, rnd):
    with Tree("fivehundred") as t:
        t.dump()
        p = with_pid(late(t))
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(max(t.pids) + 100))  # or the engine has the next one itself
        t.others = {p.pid}
        # it is a child of ours, which all_gone() is not to see
        real_children = h.children
        try:
            h.children = lambda pid: [c for c in real_children(pid) if c != p.pid]
            t.refused("with a PID that is taken", str(p.pid))
            h.require(p.poll() is None, "the process that had the PID is gone")
        finally:
            h.children = real_children
            p.kill()
            p.wait()
        t.restore()
        unchanged(t.pid, t.before, "after the restore")
        t.t.go()


def segments():
    """Ids of System V shared memory."""
    return {l.split()[1] for l in h.read_text("/proc/sysvipc/shm").splitlines()[1:]}


def stages(said):
    """Names of stages, from the table of --display-stats."""
    rows = said.splitlines()
    return [r[:24].strip() for r in rows[1:[i for i, r in enumerate(rows) if r.startswith("total")][0]]]


def held(t):
    """What of the target's kinds is there: locks on its files, its sockets, files with their types."""
    inodes = {e.inode() for e in os.scandir(t.t.files)}
    locks = [l for l in h.read_text("/proc/locks").splitlines() if int(l.split(":")[-1].split()[0]) in inodes]
    sockets = [l.split()[-1] for l in h.read_text("/proc/net/unix").splitlines() if t.work in l]
    return {"locks": len(locks), "sockets": sockets, "segments": sorted(segments()), "files": t.files()}


def forget(t, own):
    """What the killed tree leaves by its nature: System V segments, names of sockets."""
    for s in own & segments():
        h.run(["ipcrm", "-m", s])
    for name in os.listdir(t.t.files):
        if name.startswith("sock"):
            os.unlink(os.path.join(t.t.files, name))


def assorted(rounds, rnd):
    others = segments()
    with Tree("assorted") as t:
        own = segments() - others
        h.require(len(own) >= 4, f"segments: {own}")
        opts = ("--file-locks", *PATIENT)
        try:
            h.must(h.dump(t.pid, t.images, *opts), "dump")
            t.t.reap()
            all_gone(t.pids, "after the dump")
            forget(t, own)
            before = held(t)
            r = h.must(h.ckpt("restore", "-d", "-D", t.images, "--display-stats", *opts), "restore")
            end_tree(t)
            own |= segments() - others
            forget(t, own)
            h.require(held(t) == before, f"{before} became {held(t)}")
            names = stages(r.out)
            h.require("finish" in names, f"stages: {names}")
            for name in names:
                r = h.ckpt("restore", "-d", "-D", t.images, f"--fault-stage={name}", *opts)
                h.require(r.rc == 1 and name in r.out, f"a fault at {name}: {r}")
                all_gone(t.pids, f"a fault at {name}")
                h.require(held(t) == before, f"a fault at {name}: {before} became {held(t)}")
            h.must(h.ckpt("restore", "-d", "-D", t.images, *opts), "restore after all")
            own |= segments() - others
            t.t.go()
        finally:
            forget(t, own)


def disturb_dump(rounds, rnd, signals):
    with Tree("thirty") as t:
        span = f.how_long(t.t, t.images) * 1.1
        early = 0
        for i in range(rounds):
            os.makedirs(t.images, exist_ok=True)
            sig, delay = rnd.choice(signals), rnd.uniform(0, span)
            begin = time.monotonic()
            p = f.start(["dump", "-R", "-t", t.pid, "-D", t.images])
            try:
                rc = p.wait(delay)
                span = min(span, (time.monotonic() - begin) * 1.1)  # the machine has become faster
            except subprocess.TimeoutExpired:
                p.send_signal(sig)
                rc = p.wait(30 * h.PATIENCE)
            what = f"round {i}: {sig.name} after {delay * 1000:.2f} ms (engine: {rc})"
            early += rc != 0
            unchanged(t.pid, t.before, what)
            if sig != signal.SIGKILL and rc != 0:
                h.require(not os.listdir(t.images), f"{what}: left in the folder: {os.listdir(t.images)}")
            shutil.rmtree(t.images)
        h.require(early > rounds // 8, f"only {early} of {rounds} rounds met a dump under way")
        print(f"#   {early} of {rounds} dumps were cut short")
        t.dump()
        t.restore()
        t.t.go()


def kill_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGKILL])


def cancel_dump(rounds, rnd):
    disturb_dump(rounds, rnd, [signal.SIGINT, signal.SIGTERM])


def kill_member(rounds, rnd):
    met = 0
    for i in range(max(rounds // 5, 10)):
        with Tree("thirty") as t:
            if i == 0:
                span = f.how_long(t.t, t.images) * 1.1
            os.makedirs(t.images)
            victim, delay = rnd.choice(t.pids[1:]), rnd.uniform(0, span)
            p = f.start(["dump", "-R", "-t", t.pid, "-D", t.images])
            time.sleep(delay)
            os.kill(victim, signal.SIGKILL)
            try:
                rc = p.wait(20 * h.PATIENCE)
            except subprocess.TimeoutExpired:
                p.kill()
                raise h.Failure(f"round {i}: the engine does not end after {delay * 1000:.2f} ms") from None
            what = f"round {i}: task {victim} killed after {delay * 1000:.2f} ms (engine: {rc})"
            h.require(rc in (0, 1), what)
            h.require(rc == 0 or not os.listdir(t.images), f"{what}: left in the folder: {os.listdir(t.images)}")
            met += rc != 0
            below = {victim, *h.descendants(victim)}
            for q in set(t.pids) - below:
                h.require(h.alive(q) or h.read_text(f"/proc/{q}/stat") == "", f"{what}: task {q} is dead, too")
                if h.alive(q):
                    h.wait_until(lambda: released(q), f"{what}: task {q} to be let go", 5)
    print(f"#   {met} dumps failed")


def released(pid):
    try:
        h.untouched(pid)
        return True
    except (h.Failure, OSError):
        return False


def complete(t):
    """All tasks are there, nobody traces them, and they are themselves again."""
    try:
        for p in t.pids:
            h.untouched(p)
        return tree(t.pid) == t.pids and all(h.read_text(f"/proc/{p}/comm") == "crowd\n" for p in t.pids)
    except (h.Failure, OSError):
        return False


def kill_restore(rounds, rnd):
    with Tree("thirty") as t:
        t.dump()
        begin = time.monotonic()
        t.restore()
        span = (time.monotonic() - begin) * 1.1
        h.require(h.alive(t.pid), "restored")
        end_tree(t)
        files, back = t.files(), 0
        for i in range(rounds):
            delay = rnd.uniform(0, span)
            p = f.start(["restore", "-d", "-D", t.images])
            time.sleep(delay)
            p.kill()
            rc = p.wait(20)
            what = f"round {i}: killed after {delay * 1000:.2f} ms (engine: {rc})"
            time.sleep(0.02)
            if rc == 0 or complete(t):
                back += 1
                end_tree(t)
            all_gone(t.pids, what)
            h.require(t.files() == files, f"{what}: the files of the program changed")
        print(f"#   {rounds - back} of {rounds} restores were cut short")
        t.restore("the restore in earnest")
        unchanged(t.pid, t.before, "after it")
        t.t.go()


def end_tree(t):
    for p in reversed(tree(t.pid)):
        try:
            os.kill(p, signal.SIGKILL)
        except ProcessLookupError:
            pass
    all_gone(t.pids, "a tree that was killed")


CASES = {"odd-task": odd_task, "lost-image": lost_image, "lost-file": lost_file, "taken-pid": taken_pid, "assorted": assorted,
         "kill-dump": kill_dump, "cancel-dump": cancel_dump, "kill-member": kill_member, "kill-restore": kill_restore}

if __name__ == "__main__":
    f.main(CASES, rounds=40)
