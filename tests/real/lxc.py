#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""LXC: lxc-checkpoint runs the command line, `criu dump` and `criu restore`. Its own calls where it is installed; and calls like them,
with action scripts, external mounts that are found automatically, cgroups and a freezer's, on a container made by unshare in the
way of LXC. lxc.py [CASE...]"""
import os
import subprocess

import runtimes
from runtimes import h

# Within its new namespaces: a root of its own, and the few mounts that LXC makes.
INIT = r"""
set -e
mount --make-rprivate /
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 none dev
for n in null zero full urandom; do : >dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t mqueue mqueue dev/mqueue
ip link set lo up
hostname inside
pivot_root . run
exec /bin/sh -c 'umount -l /run; exec /bin/sh -c "$0"' "$2" </dev/null >/dev/null 2>&1
"""
SCRIPT = '#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION" "$CRTOOLS_INIT_PID" >>"{}"\n'


class Container:
    """Made by unshare; what Apps want of it."""

    def __init__(self, site, app):
        self.site, self.app, self.id = site, app, site.name(app.name)
        self.dir = os.path.join(site.work, self.id)
        self.images, self.actions = os.path.join(self.dir, "images"), os.path.join(self.dir, "actions")
        os.makedirs(self.images)
        site.undo.append(self.end)
        self.rootfs = site.overlay(runtimes.root(app.root), self.dir)
        self.cgroups = [f"/sys/fs/cgroup/{c}/{self.id}" for c in ("freezer", "pids") if os.path.isdir(f"/sys/fs/cgroup/{c}")]
        self.script = os.path.join(self.dir, "script")
        with open(self.script, "w") as f:
            f.write(SCRIPT.format(self.actions))
        os.chmod(self.script, 0o755)
        self.init = None

    def start(self):
        p = subprocess.Popen(["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "setsid", "sh", "-c", INIT, "init", self.rootfs,
                              self.app.args[-1]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True, preexec_fn=self.enter)
        self.outer = p
        self.init = h.wait_until(lambda: next(iter(h.children(p.pid)), None), "the first process", 10)
        self.app.ready(self)
        # unshare itself is outside
        for path in self.cgroups:
            root = os.path.dirname(path)
            with open(os.path.join(root, "cgroup.procs"), "w") as f:
                f.write(str(p.pid))
        return self

    def enter(self):
        for path in self.cgroups:
            os.makedirs(path, exist_ok=True)
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write("0")

    def pids(self):
        return [self.init, *h.descendants(self.init)] if self.init and h.alive(self.init) else []

    def file(self, path):
        return h.read_text(self.rootfs + path)

    def common(self):
        roots = [x for c in self.cgroups for x in ("--cgroup-root", f"{c.split('/')[4]}:/{self.id}")]
        return ["--tcp-established", "--file-locks", "--link-remap", "--manage-cgroups=full", "--action-script", self.script,
                "--external", "mnt[]:sm", "--enable-fs", "hugetlbfs", "--enable-fs", "tracefs", "-D", self.images, "-vvv", *roots]

    def dump(self, *options):
        pre = [x for c in self.cgroups[:1] for x in ("--freeze-cgroup", c)]
        r = self.site.run("criu", "dump", *self.common(), *pre, "-o", os.path.join(self.dir, "dump.log"), "-t", str(self.init),
                          "--force-irmap", *options)
        self.well(r, "dump")

    def restore(self):
        pidfile = os.path.join(self.dir, "pidfile")
        r = self.site.run("criu", "restore", *self.common(), "-o", os.path.join(self.dir, "restore.log"), "--root", self.rootfs,
                          "--restore-detached", "--restore-sibling", "--pidfile", pidfile)
        self.well(r, "restore")
        self.init = int(h.read_text(pidfile))

    def well(self, r, what):
        if r.rc != 0:
            lines = h.read_text(os.path.join(self.dir, what + ".log")).splitlines()
            raise h.Failure(f"{what}: {r}\n" + "\n".join([line for line in lines if "Error" in line or "hint" in line][:10]))

    def end(self):
        for pid in self.pids():
            h.kill_hard(pid)
        if self.init:
            h.kill_hard(self.outer.pid)
            self.outer.returncode = 0
        runtimes.remove_cgroups(self.id)


def checkpoint():
    """Dumped and restored; hostname, namespaces and cgroups are there, and the scripts were called in order."""
    with h.Workdir("ckpt-lxc-") as work, runtimes.Site(work) as site:
        c = Container(site, runtimes.Shell()).start()
        h.require(len(c.pids()) >= 1 and h.read_text(f"/proc/{c.init}/root/proc/sys/kernel/hostname"), "the container is not well")
        c.app.before(c)
        c.dump()
        h.reap(c.outer.pid)
        h.require(not c.pids(), "not gone after the dump")
        c.restore()
        c.app.check(c)
        said = h.run(["nsenter", "-t", str(c.init), "-u", "hostname"]).out.strip()
        h.require(said == "inside", f"its host's name is {said!r}")
        for path in c.cgroups:
            h.require(str(c.init) in h.read_text(os.path.join(path, "cgroup.procs")).split(), f"not in {path}")
        actions = [line.split()[0] for line in h.read_text(c.actions).splitlines()]
        wanted = ["pre-dump", "network-lock", "post-dump", "pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore",
                  "network-unlock", "pre-resume", "post-resume"]
        h.require(actions == wanted, f"actions: {actions}")


def leave_running():
    with h.Workdir("ckpt-lxc-") as work, runtimes.Site(work) as site:
        c = Container(site, runtimes.Shell()).start()
        c.app.before(c)
        c.dump("--leave-running")
        c.app.check(c)
        h.untouched(c.init)


CONFIG = """
lxc.uts.name = inside
lxc.rootfs.path = dir:{root}
lxc.net.0.type = empty
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.console.path = none
lxc.mount.auto = proc:rw sys:ro cgroup:mixed
lxc.init.cmd = /init
"""


class Lxc:
    """A container of lxc-start."""

    def __init__(self, site, app):
        self.site, self.app, self.id = site, app, site.name("lxc")
        self.path = os.path.join(site.work, "lxc")
        self.images = os.path.join(site.work, "images")
        runtimes.tool("lxc-checkpoint")
        os.makedirs(os.path.join(self.path, self.id))
        self.rootfs = site.overlay(runtimes.root(app.root), os.path.join(site.work, "root"))
        with open(os.path.join(self.rootfs, "init"), "w") as f:
            f.write("#!/bin/sh\nexec </dev/null >/dev/null 2>&1\n" + app.args[-1] + "\n")
        os.chmod(os.path.join(self.rootfs, "init"), 0o755)
        with open(os.path.join(self.path, self.id, "config"), "w") as f:
            f.write(CONFIG.format(root=self.rootfs))
        site.undo.append(self.end)

    def call(self, name, *args):
        return self.site.run("lxc-" + name, "-P", self.path, "-n", self.id, *args)

    def start(self):
        h.must(self.call("start", "-d", "-l", "TRACE", "-o", os.path.join(self.site.work, "start.log")), "lxc-start")
        self.app.ready(self)
        return self

    def state(self):
        return self.call("info", "-sH").out.strip()

    def file(self, path):
        return h.read_text(self.rootfs + path)

    def checkpoint(self, *options):
        r = self.call("checkpoint", "-D", self.images, "-v", *options)
        if r.rc != 0:
            lines = h.read_text(os.path.join(self.images, "restore.log" if "-r" in options else "dump.log")).splitlines()
            raise h.Failure(f"lxc-checkpoint: {r}\n" + "\n".join([line for line in lines if "Error" in line or "hint" in line][:10]))

    def end(self):
        """LXC keeps an empty cgroup for its own way out."""
        self.call("stop", "-k")
        runtimes.remove_cgroups(self.id)
        runtimes.remove_cgroups("lxc.pivot")


def lxc_checkpoint():
    """By lxc-checkpoint itself: stopped, and back."""
    with h.Workdir("ckpt-lxc-") as work, runtimes.Site(work) as site:
        c = Lxc(site, runtimes.Shell()).start()
        c.app.before(c)
        c.checkpoint("-s")
        h.wait_until(lambda: c.state() == "STOPPED", "the container to stop", 10)
        c.checkpoint("-r")
        h.require(c.state() == "RUNNING", f"after the restore it is {c.state()}")
        c.app.check(c)


if __name__ == "__main__":
    h.run_cases([checkpoint, leave_running, lxc_checkpoint])
