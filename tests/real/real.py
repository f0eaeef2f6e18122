# SPDX-License-Identifier: MIT
"""Real programs: each is checkpointed in the middle of its work, is gone, is restored, and must finish right.

A script of this folder makes a Program, lets it work, calls again() where it wants it checkpointed, and checks the result.
Standard streams are files, and the program has a session of its own. A program of several processes is one tree: what is
started last waits for the rest, usually a shell. With --self nothing is checkpointed: does the test itself work?"""
import glob
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402

SELF = False  # set by main()


def tree(pid):
    """A process and whatever descends from it."""
    return [pid, *h.descendants(pid)]


def find(name, *places):
    """Path of a program, also where PATH does not lead."""
    path = shutil.which(name)
    for place in places:
        path = path or next(iter(sorted(glob.glob(os.path.join(place, name)), reverse=True)), None)
    if not path:
        raise h.Skip(f"no {name} here")
    return path


class Program:
    def __init__(self, work, argv, out="out", opts=(), **kw):
        self.work, self.rounds, self.opts, self.tasks = work, 0, opts, []
        self.out, self.err = os.path.join(work, out), os.path.join(work, "err")
        if not shutil.which(argv[0]):
            raise h.Skip(f"no {argv[0]} here")
        with open(self.out, "wb") as o, open(self.err, "wb") as e:
            self.p = subprocess.Popen(argv, cwd=work, stdin=subprocess.DEVNULL, stdout=o, stderr=e,
                                      start_new_session=True, **kw)
        self.pid = self.p.pid

    def text(self):
        return h.read_text(self.out)

    def wait_for(self, cond, what, seconds=30):
        def ended_or():
            h.require(h.alive(self.pid), f"the program ended before {what}: {h.read_text(self.err)[-500:]}")
            return cond(self.text())
        h.wait_until(ended_or, what, seconds)

    def again(self, gap=0.0, tasks=1):
        """Dump (which ends it), prove that it is gone, restore. Returns (dump seconds, restore seconds). @tasks: so many
        processes the checkpoint must have at least."""
        self.rounds += 1
        h.require(h.alive(self.pid), f"the program ended by itself too early: {h.read_text(self.err)[-500:]}")
        if SELF:
            h.require(len(tree(self.pid)) >= tasks, f"has only {len(tree(self.pid))} processes")
            self.tasks.append(len(tree(self.pid)))
            return 0, 0
        images = os.path.join(self.work, f"images{self.rounds}")
        d = h.must(self.dump(images), f"dump {self.rounds}")
        self.gone()
        pids = glob.glob(os.path.join(images, "mm-*.img"))
        h.require(len(pids) >= tasks, f"only {len(pids)} processes in the checkpoint")
        self.tasks.append(len(pids))
        size = os.path.getsize(self.out)
        time.sleep(gap)
        h.require(os.path.getsize(self.out) == size, "something still writes to the output")
        r = h.must(h.ckpt("restore", "-d", "-D", images, *self.opts), f"restore {self.rounds}")
        h.require(h.alive(self.pid) or h.state(self.pid) == "Z", f"gone after the restore: {h.read_text(self.err)[-500:]}")
        shutil.rmtree(images)
        return d.seconds, r.seconds

    def dump(self, images):
        """What was sent on a connection that nobody has accepted yet cannot be read. That is so for a moment only: a server
        under load is asked again."""
        for _ in range(50):
            d = h.dump(self.pid, images, *self.opts)
            if d.rc == 0 or "not accepted yet" not in d.out:
                break
            h.require(not os.listdir(images), f"left in the folder: {os.listdir(images)}")
            time.sleep(0.01)
        return d

    def gone(self):
        """Everything of the tree is gone. What a dump forgot would be an orphan now, and we are who gets orphans."""
        h.reap(self.pid)
        self.p.returncode = 0
        h.require(not os.path.exists(f"/proc/{self.pid}"), "not gone after the dump")
        h.wait_until(lambda: not [c for c in h.children(os.getpid()) if h.state(c) not in "ZX"],
                     f"the last processes of the tree to be gone after the dump: {tree(os.getpid())}", 3)
        reap_all()

    def finish(self, seconds=50, code=0):
        rc = h.reap(self.pid, seconds)
        self.p.returncode = rc
        h.require(rc == code, f"the program ended with {rc}, {code} expected: {h.read_text(self.err)[-1000:]}")
        h.require(not h.read_text(self.err), f"errors: {h.read_text(self.err)[-1000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        """Nothing of it stays, whatever happened: its processes are ours as orphans."""
        h.kill_hard(self.pid)
        self.p.returncode = 0
        for _ in range(100):
            mine = [p for p in tree(os.getpid())[1:] if h.state(p) not in "ZX"]
            for p in mine:
                h.kill_hard(p)
            if not mine:
                break
        reap_all()


def reap_all():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def own_terminals():
    """Starts the test anew with a /dev/pts of its own: others would take the numbers of terminals in the meantime."""
    if os.environ.pop("CKPT_OWN_TERMINALS", None) or os.geteuid() != 0:
        return
    mounts = ("mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx && "
              'CKPT_OWN_TERMINALS=1 exec "$@"')
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh", sys.executable, *sys.argv])


def main(test):
    global SELF
    SELF = "--self" in sys.argv
    h.become_subreaper()
    name = os.path.basename(sys.argv[0])
    start = time.monotonic()
    try:
        if not SELF:
            h.need_engine()
        with h.Workdir("ckpt-real-") as work:
            said = test(work)
    except h.Skip as e:
        print(f"skip {name}  # {e}")
        sys.exit(h.SKIP_CODE)
    except h.Failure as e:
        print(f"not ok {name} ({time.monotonic() - start:.1f} s)\n#   " + "\n#   ".join(str(e).splitlines()))
        sys.exit(1)
    print(f"ok {name} ({time.monotonic() - start:.1f} s){'  # ' + said if said else ''}")
