#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Control groups, v1 and v2: who is in which, what they allow, and what a restore makes of it. Everything is made below our own
groups, in folders named after this process, and removed in the end."""
import os
import re
import signal
import subprocess

import harness as h
import images as img

CASES = []
NAME = f"ckpt-test-{os.getpid()}"


def case(fn):
    CASES.append(fn)
    return fn


def hierarchies():
    """{controller: (mount point, our own path)} of those that are mounted; "" is v2."""
    own = {}
    for line in h.read_text("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found = {}
    for line in h.read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point, kind, options = left.split()[4], right.split()[0], right.split()[-1].split(",")
        if kind == "cgroup2" and "" in own:
            found[""] = (point, own[""])
        for name in options if kind == "cgroup" else []:
            if name in own:
                found[name] = (point, own[name])
    return found


def where(pid):
    """{hierarchy: path} of a process or thread."""
    return dict(line.split(":", 2)[1:] for line in h.read_text(f"/proc/{pid}/cgroup").splitlines())


class Group:
    """One of our folders of a hierarchy."""

    def __init__(self, controller, name=NAME):
        known = hierarchies()
        if controller not in known:
            raise h.Skip(f"no hierarchy of {controller or 'v2'} here")
        point, own = known[controller]
        self.controller, self.v2 = controller, controller == ""
        self.inside = own.rstrip("/") + "/" + name  # as the kernel calls it
        self.path = point + self.inside

    def make(self):
        try:
            os.makedirs(self.path)
        except OSError as e:
            raise h.Skip(f"no cgroup can be made at {self.path}: {e.strerror}") from None
        below, parts = self.path[:-len(self.inside)], self.inside[1:].split("/")
        for part in parts if self.controller == "cpuset" else []:
            above, below = below, below + "/" + part
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not h.read_text(f"{below}/{name}").strip():
                    with open(f"{below}/{name}", "w") as f:
                        f.write(h.read_text(f"{above}/{name}"))
        return self

    def there(self):
        return os.path.isdir(self.path)

    def put(self, pid, file="cgroup.procs"):
        self.set(file, pid)
        return self

    def get(self, name):
        return h.read_text(f"{self.path}/{name}").strip()

    def set(self, name, value):
        with open(f"{self.path}/{name}", "w") as f:
            f.write(str(value))

    def remove(self):
        if not self.there():
            return
        for frozen, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if os.path.exists(f"{self.path}/{frozen}"):
                self.set(frozen, thawed)
        for root, _, _ in list(os.walk(self.path, topdown=False)):
            def removed(root=root):
                try:
                    os.rmdir(root)
                except FileNotFoundError:
                    return True
                except OSError:
                    return False
                return True
            h.wait_until(removed, f"{root} to be empty", 10)


class Scene:
    """A target, its folder, and groups that are gone at the end, whoever made them."""

    def __init__(self, target="threads", variant="few"):
        self.target, self.variant = target, variant

    def __enter__(self):
        self.dir = h.Workdir()
        self.w = self.dir.__enter__()
        self.t = h.Target(self.w, self.target, self.variant)
        self.groups = []
        self.t.ready()
        self.pid = self.t.pid
        return self

    def group(self, controller, name=NAME):
        g = Group(controller, name)
        self.groups.append(g)
        return g

    def __exit__(self, *exc):
        for g in self.groups:
            for name in ("freezer.state", "cgroup.freeze"):
                if g.there() and os.path.exists(f"{g.path}/{name}"):
                    g.set(name, "THAWED" if name[0] == "f" else "0")
        self.t.kill()
        for g in reversed(self.groups):
            g.remove()
        self.dir.__exit__(*exc)

    def dump(self, *args):
        h.must(h.dump(self.pid, self.w + "/i", *args), "dump")
        self.t.reap()

    def restore(self, *args):
        return h.ckpt("restore", "-d", "-D", self.w + "/i", *args)

    def image(self):
        return self.w + "/i/cgroup.img"

    def cgroups(self):
        return img.read(self.image())[0]


def tids(pid):
    return sorted(map(int, os.listdir(f"/proc/{pid}/task")))


# ------------------------------------------------------------------------------------------------------ membership

@case
def nothing_to_say():
    """A tree in the dumper's cgroups: no image, and it is restored into those of the restorer, whichever these are."""
    with Scene() as s:
        s.dump()
        h.require(not os.path.exists(s.image()), "there is a cgroup.img")
        other = s.group("pids").make()
        h.must(h.run(["/bin/sh", "-c", f"echo $$ > {other.path}/cgroup.procs; exec \"$@\"", "sh", h.CKPT, "restore", "-d", "-D", s.w + "/i"]),
               "restore from another cgroup")
        h.require(where(s.pid)["pids"] == other.inside, f"not with its restorer: {where(s.pid)}")
        s.t.go()


@case
def membership():
    """Of a process, in every hierarchy; folders are made again, those above them as well."""
    with Scene() as s:
        for name in hierarchies():
            s.group(name, NAME)
            s.group(name, NAME + "/a/b").make().put(s.pid)
        before = where(s.pid)
        s.dump()
        for g in s.groups:
            g.remove()
        h.must(s.restore(), "restore")
        h.require(where(s.pid) == before, f"{where(s.pid)} is not {before}")
        s.t.go()


@case
def threads_v1():
    """Threads of one process in different groups of one hierarchy."""
    with Scene() as s:
        a, b = s.group("cpu").make(), s.group("cpu", NAME + "/below").make()
        all_tids = tids(s.pid)
        a.put(s.pid)
        for tid in all_tids[2:]:
            b.put(tid, "tasks")
        before = {tid: where(f"{s.pid}/task/{tid}") for tid in all_tids}
        h.require(len({d["cpu"] for d in before.values()}) == 2, f"{before}")
        s.dump()
        b.remove()
        h.must(s.restore(), "restore")
        h.require({tid: where(f"{s.pid}/task/{tid}") for tid in all_tids} == before, "threads are elsewhere")
        s.t.go()


@case
def threads_v2():
    """Threaded groups."""
    with Scene() as s:
        a, b = s.group("").make(), s.group("", NAME + "/below").make()
        b.set("cgroup.type", "threaded")
        all_tids = tids(s.pid)
        a.put(s.pid)
        for tid in all_tids[1:]:
            b.put(tid, "cgroup.threads")
        before = {tid: where(f"{s.pid}/task/{tid}") for tid in all_tids}
        s.dump()
        h.require([c.is_threaded for c in s.cgroups().controllers if list(c.cnames) == [""]] == [True], "not threaded in the image")
        for g in reversed(s.groups):
            g.remove()
        h.must(s.restore(), "restore")
        h.require(b.get("cgroup.type") == "threaded", b.get("cgroup.type"))
        h.require({tid: where(f"{s.pid}/task/{tid}") for tid in all_tids} == before, "threads are elsewhere")
        s.t.go()


@case
def a_tree():
    """Each process of a tree in a group of its own, one in the dumper's."""
    with Scene("tree", "basic") as s:
        below = h.descendants(s.pid)
        for i, pid in enumerate([s.pid, *below[1:]]):
            for name in ("", "pids"):
                s.group(name, f"{NAME}-{i}").make().put(pid)
        before = {pid: where(pid) for pid in (s.pid, *below)}
        s.dump()
        h.gone(below)
        for g in s.groups:
            g.remove()
        h.must(s.restore(), "restore")
        for pid in before:
            h.require(where(pid) == before[pid], f"{pid}: {where(pid)} is not {before[pid]}")
        s.t.go()


@case
def dumped_elsewhere():
    """A dump by a process in other cgroups than those of the restore: a tree that was with its dumper goes to the restorer."""
    with Scene() as s:
        a = s.group("pids").make().put(s.pid)
        h.must(h.run(["/bin/sh", "-c", f"echo $$ > {a.path}/cgroup.procs; exec \"$@\"", "sh", h.CKPT, "dump", "-t", str(s.pid), "-D", s.w]),
               "dump from within")
        s.t.reap()
        h.require(not os.path.exists(s.w + "/cgroup.img"), "there is a cgroup.img")
        h.must(h.ckpt("restore", "-d", "-D", s.w), "restore")
        h.require(where(s.pid) == where("self"), f"{where(s.pid)}")
        s.t.go()


# ------------------------------------------------------------------------------------------------------ namespaces

def inside(pid):
    """Its cgroups as it sees them itself: another process of its namespace is asked."""
    out = h.must(h.run(["nsenter", "-t", str(pid), "-C", "cat", f"/proc/{pid}/cgroup"]), "nsenter").out
    return dict(line.split(":", 2)[1:] for line in out.splitlines())


def namespace(deeper):
    """A cgroup namespace whose root is NAME; the process is there, or has gone to a folder below since."""
    names = ["", "pids", "cpu"]
    with h.Workdir() as w:
        groups = [Group(n).make() for n in names] + [Group(n, NAME + "/a/b").make() for n in names if deeper]
        enter = "".join(f"echo $$ > {g.path}/cgroup.procs; " for g in groups[:len(names)])
        later = "".join(f"echo $$ > {g.path}/cgroup.procs; " for g in groups[len(names):])
        p = subprocess.Popen(["/bin/sh", "-c", enter + f"exec unshare -C /bin/sh -c '{later} exec sleep 1000'"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            h.wait_until(lambda: h.read_text(f"/proc/{p.pid}/comm") == "sleep\n", "the program")
            before = where(p.pid), inside(p.pid)
            h.require(before[1]["pids"] == ("/a/b" if deeper else "/"), f"{before}")
            h.must(h.dump(p.pid, w + "/i"), "dump")
            p.wait()
            for g in reversed(groups):
                g.remove()
            prefix = {c.name: c.cgns_prefix for c in img.read(w + "/i/cgroup.img")[0].sets[0].ctls}
            h.require(prefix["pids"] == len(groups[1].inside), f"{prefix}")
            r = h.ckpt("restore", "-d", "-D", w + "/i", "--fault-stage", "finish")
            h.require(r.rc == 1 and not any(g.there() for g in groups), f"{r}")
            h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
            h.require((where(p.pid), inside(p.pid)) == before, f"{where(p.pid)}, {inside(p.pid)} is not {before}")
            h.require(os.readlink(f"/proc/{p.pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup"), "no namespace")
            h.kill_hard(p.pid)
            for g in reversed(groups):
                g.remove()
            new = [Group(n, NAME + "-new") for n in names]
            groups += new + [Group(n, NAME + "-new/a/b") for n in names if deeper]
            roots = [x for n, g in zip(names, new) for x in ("--cgroup-root", f"{n}:{g.inside}")]
            h.must(h.ckpt("restore", "-d", "-D", w + "/i", *roots), "restore at another place")
            h.require(where(p.pid)["pids"] == new[1].inside + before[1]["pids"].rstrip("/"), f"{where(p.pid)}")
            h.require({n: inside(p.pid)[n] for n in names} == {n: before[1][n] for n in names}, f"{inside(p.pid)} is not {before[1]}")
        finally:
            h.kill_hard(p.pid)
            for g in reversed(groups):
                g.remove()


@case
def namespace_root():
    namespace(False)


@case
def namespace_below():
    namespace(True)


@case
def nested_namespaces():
    """A child in another cgroup namespace than the root, and a grandchild in a third one."""
    with h.Workdir() as w:
        groups = [Group(n, NAME + below) for below in ("", "/a", "/a/b") for n in ("", "pids")]
        for g in groups:
            g.make()

        def enter(below):
            return "".join(f"echo $$ > {g.path}/cgroup.procs; " for g in groups if g.inside.endswith(NAME + below))
        for name, script in (("run", f"{enter('')} exec unshare -C /bin/sh {w}/next"),
                             ("next", f"/bin/sh {w}/middle & exec sleep 1000"),
                             ("middle", f"{enter('/a')} exec unshare -C /bin/sh {w}/inner"),
                             ("inner", f"{enter('/a/b')} sleep 1000 & exec unshare -C sleep 1000")):
            with open(f"{w}/{name}", "w") as f:
                f.write(script + "\n")
        p = subprocess.Popen(["/bin/sh", w + "/run"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
        try:
            def settled():
                below = h.descendants(p.pid)
                return len(below) == 2 and all(h.read_text(f"/proc/{x}/comm") == "sleep\n" for x in below)
            h.wait_until(settled, "the tree")
            tree = [p.pid, *h.descendants(p.pid)]
            before = {x: (where(x), inside(x)) for x in tree}
            h.require(len({os.readlink(f"/proc/{x}/ns/cgroup") for x in tree}) == 3, "not nested")
            r = h.dump(p.pid, w + "/i", "--manage-cgroups=ignore")
            h.require(r.rc == 1 and "cgroup namespace" in r.out, f"ignored: {r}")
            h.must(h.dump(p.pid, w + "/i"), "dump")
            p.wait()
            h.gone(tree[1:])
            for g in reversed(groups):
                g.remove()
            with open(w + "/i/inventory.img", "rb") as f:
                h.require(b"ckpt-namespaces-below" in f.read(), "not marked")
            h.must(h.ckpt("restore", "-d", "-D", w + "/i"), "restore")
            h.require({x: (where(x), inside(x)) for x in tree} == before, f"{before} became {[(x, where(x), inside(x)) for x in tree]}")
        finally:
            for x in [*reversed(h.descendants(p.pid)), p.pid]:
                h.kill_hard(x)
            for g in reversed(groups):
                g.remove()


@case
def namespace_mounts():
    """What is mounted in a cgroup namespace shows its root."""
    with h.Workdir() as w:
        v2, pids = groups = [Group("").make(), Group("pids").make()]
        os.mkdir(w + "/v2")
        os.mkdir(w + "/pids")
        enter = "".join(f"echo $$ > {g.path}/cgroup.procs; " for g in groups)
        # of what is mounted on this machine, only what is needed
        bare = "for m in $(cut -d\" \" -f5 /proc/self/mountinfo | tac); do case $m in /|/proc|/dev) ;; *) umount -l $m;; esac; done; "
        mounts = bare + f"mount -t cgroup2 none {w}/v2 && mount -t cgroup -o pids none {w}/pids && cd / && exec sleep 1000 </dev/null >/dev/null 2>&1"
        p = subprocess.Popen(["/bin/sh", "-c", enter + f"exec unshare -C -m /bin/sh -c '{mounts}'"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

        def check():
            for g, name in zip(groups, ("v2", "pids")):
                seen, real = os.stat(f"/proc/{p.pid}/root{w}/{name}"), os.stat(g.path)
                h.require(os.path.samestat(seen, real), f"{name} shows another folder than {g.path}")
        try:
            h.wait_until(lambda: h.read_text(f"/proc/{p.pid}/comm") == "sleep\n", "the program")
            check()
            h.must(h.dump(p.pid, w + "/i"), "dump")
            p.wait()
            for g in groups:
                g.remove()
            h.must(h.ckpt("restore", "-d", "-D", w + "/i", "--root", "/"), "restore")
            check()
        finally:
            h.kill_hard(p.pid)
            for g in groups:
                g.remove()


# ------------------------------------------------------------------------------------------------------ properties

LIMITS = {
    "pids": {"pids.max": "77"},
    "cpu": {"cpu.shares": "512", "cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "40000"},
    "memory": {"memory.limit_in_bytes": str(256 << 20), "memory.swappiness": "10", "memory.soft_limit_in_bytes": str(128 << 20)},
    "cpuset": {"cpuset.cpus": "0", "cpuset.memory_migrate": "1"},
    "": {"cgroup.max.descendants": "5", "cgroup.max.depth": "3"},
}


def limited(s):
    groups = {}
    for name, props in LIMITS.items():
        if name not in hierarchies():
            continue
        g = groups[name] = s.group(name).make()
        for prop in list(props):
            if os.path.exists(f"{g.path}/{prop}"):
                g.set(prop, props[prop])
        g.put(s.pid)
    return groups


def check_limits(groups):
    for name, g in groups.items():
        for prop, value in LIMITS[name].items():
            if os.path.exists(f"{g.path}/{prop}"):
                h.require(g.get(prop) == value, f"{g.path}/{prop} is {g.get(prop)}, not {value}")


@case
def limits():
    """Properties of groups that are made again; permissions, too."""
    with Scene() as s:
        groups = limited(s)
        pids = groups["pids"]
        os.chown(pids.path, 12, 34)
        os.chmod(pids.path, 0o750)
        os.chown(pids.path + "/tasks", 12, 34)
        os.chmod(pids.path + "/pids.max", 0o664)
        s.dump()
        for g in s.groups:
            g.remove()
        h.must(s.restore(), "restore")
        check_limits(groups)
        st = os.stat(pids.path)
        h.require((st.st_uid, st.st_gid, st.st_mode & 0o7777) == (12, 34, 0o750), f"{st}")
        h.require(os.stat(pids.path + "/tasks").st_uid == 12, "owner of tasks")
        h.require(os.stat(pids.path + "/pids.max").st_mode & 0o777 == 0o664, "mode of pids.max")
        s.t.go()


@case
def devices():
    with Scene() as s:
        g = s.group("devices").make()
        g.set("devices.deny", "a")
        for line in ("c 1:3 rwm", "c 1:5 r", "c 136:* rw"):
            g.set("devices.allow", line)
        before = g.get("devices.list")
        g.put(s.pid)
        s.dump()
        g.remove()
        h.must(s.restore(), "restore")
        h.require(g.get("devices.list") == before, f"{g.get('devices.list')!r} is not {before!r}")
        s.t.go()


@case
def limits_of_v2():
    """A controller of v2, which has to be enabled above; and properties that were asked for."""
    with Scene() as s:
        top, g = s.group(""), s.group("", NAME + "/a")
        top.make()
        available = top.get("cgroup.controllers").split()
        if not available:
            parent = os.path.dirname(top.path) + "/cgroup.subtree_control"
            offered = h.read_text(os.path.dirname(parent) + "/cgroup.controllers").split()
            if "hugetlb" not in offered:
                raise h.Skip(f"no controller that is free: {offered}")
            with open(parent, "w") as f:
                f.write("+hugetlb")
        try:
            top.set("cgroup.subtree_control", "+hugetlb")
            g.make().set("hugetlb.2MB.max", str(64 << 20))
            g.put(s.pid)
            s.dump()
            g.remove()
            top.remove()
            h.must(s.restore(), "restore")
            h.require(g.get("hugetlb.2MB.max") == str(64 << 20), g.get("hugetlb.2MB.max"))
            s.t.go()
        finally:
            s.t.kill()
            g.remove()
            top.remove()
            if not available:
                with open(parent, "w") as f:
                    f.write("-hugetlb")


@case
def asked_for():
    """--cgroup-props, --cgroup-props-file, --cgroup-dump-controller."""
    text = '"pids":\n - "strategy": "replace"\n - "properties": ["notify_on_release"]\n"cpu":\n - "strategy": "merge"\n' \
           ' - "properties": ["cpu.idle"]\n'
    with Scene() as s:
        p, c = s.group("pids").make().put(s.pid), s.group("cpu").make().put(s.pid)
        with open(s.w + "/props", "w") as f:
            f.write(text)
        for args in (["--cgroup-props", text], ["--cgroup-props-file", s.w + "/props"]):
            h.must(h.dump(s.pid, s.w + "/i", "-R", *args), "dump")
            found = {}
            for ctl in s.cgroups().controllers:
                for d in ctl.dirs:
                    found[tuple(ctl.cnames)] = [x.name for x in d.properties]
            h.require("pids.max" not in found[("pids",)] and "notify_on_release" in found[("pids",)], f"{found}")
            h.require("cpu.idle" in found[("cpu",)] and "cpu.shares" in found[("cpu",)], f"{found}")
            for name in os.listdir(s.w + "/i"):
                os.unlink(s.w + "/i/" + name)
        for bad in ('"pids"\n', text + "x", text.replace("merge", "mix"), text.replace('"notify', '"../notify')):
            r = h.dump(s.pid, s.w + "/i", "--cgroup-props", bad)
            h.require(r.rc == 1 and "line" in r.out, f"{bad!r}: {r}")
        h.dump(s.pid, s.w + "/i", "-R", "--cgroup-dump-controller", "pids")
        h.require([list(x.cnames) for x in s.cgroups().controllers] == [["pids"]], f"{s.cgroups()}")
        h.require(p.there() and c.there(), "gone")
        h.untouched(s.pid)
        s.t.go()


# ------------------------------------------------------------------------------------------------------ modes

@case
def modes():
    with Scene() as s:
        g = s.group("pids").make().put(s.pid)
        v2 = s.group("").make().put(s.pid)
        g.set("pids.max", 50)
        s.dump()
        g.remove()
        v2.remove()
        for mode in ("none", "props"):
            r = s.restore(f"--manage-cgroups={mode}")
            h.require(r.rc == 1 and g.inside in r.out and "error" in r.out, f"{mode}, nothing is there: {r}")
            h.require(not g.there() and not v2.there(), f"{mode} made folders")

        def again(mode, want):
            h.must(s.restore(*([f"--manage-cgroups={mode}"] if mode else [])), f"restore {mode}")
            h.require(where(s.pid)["pids"] == g.inside, f"{mode}: {where(s.pid)}")
            h.require(g.get("pids.max") == want, f"{mode}: pids.max is {g.get('pids.max')}")
            h.kill_hard(s.pid)

        again("soft", "50")
        g.set("pids.max", 60)
        again("soft", "60")
        again("", "60")
        again("none", "60")
        again("props", "50")
        g.set("pids.max", 60)
        again("full", "50")
        r = s.restore("--manage-cgroups=strict")
        h.require(r.rc == 1 and "is there already" in r.out, f"strict: {r}")
        g.remove()
        r = s.restore("--manage-cgroups=strict")
        h.require(r.rc == 1 and not g.there(), f"strict, one is there: {r}, {g.there()}")
        v2.remove()
        again("strict", "50")
        g.remove()
        v2.remove()
        h.must(s.restore("--manage-cgroups=ignore"), "restore, ignored")
        h.require(where(s.pid) == where("self") and not g.there(), f"ignore: {where(s.pid)}")
        s.t.go()


@case
def ignored_by_the_dump():
    with Scene() as s:
        s.group("pids").make().put(s.pid)
        s.dump("--manage-cgroups=ignore")
        h.require(not os.path.exists(s.image()), "there is a cgroup.img")
        h.must(s.restore(), "restore")
        h.require(where(s.pid) == where("self"), f"{where(s.pid)}")
        s.t.go()


@case
def another_root():
    """--cgroup-root replaces the folder that everything is in."""
    with Scene("tree", "basic") as s:
        below = h.descendants(s.pid)
        s.group("pids")
        a = s.group("pids", NAME + "/a").make().put(s.pid)
        b = s.group("pids", NAME + "/a/b").make()
        v2 = s.group("").make().put(s.pid)
        for pid in below:
            b.put(pid)
            v2.put(pid)
        s.dump()
        h.gone(below)
        for g in (b, a, v2):
            g.remove()
        new, new_v2 = s.group("pids", NAME + "-new"), s.group("", NAME + "-new")
        r = s.restore("--cgroup-root", "pids:x")
        h.require(r.rc == 1 and "pids:x" in r.out, f"a relative path: {r}")
        r = s.restore("--cgroup-root", "pids:/a/../b")
        h.require(r.rc == 1, f"an upward path: {r}")
        h.must(s.restore("--cgroup-root", f"pids:{new.inside}", "--cgroup-root", f":{new_v2.inside}"), "restore")
        h.require(where(s.pid)["pids"] == new.inside and where(s.pid)[""] == new_v2.inside, f"{where(s.pid)}")
        for pid in below:
            h.require(where(pid)["pids"] == new.inside + "/b", f"{pid}: {where(pid)}")
        h.require(not a.there(), "the old one was made")
        s.t.go()


@case
def within_it():
    """As runtimes do: the restorer is in the cgroups of the container already, and names them."""
    with Scene() as s:
        names = [n for n in hierarchies() if n]
        old = [s.group(n).make().put(s.pid) for n in names]
        s.dump()
        for g in old:
            g.remove()
        new = [s.group(n, NAME + "-new").make() for n in names]
        roots = [x for n, g in zip(names, new) for x in ("--cgroup-root", f"{n}:{g.inside}")]
        enter = "".join(f"echo $$ > {g.path}/cgroup.procs; " for g in new)
        for mode in ("soft", "strict"):
            h.must(h.run(["/bin/sh", "-c", enter + 'exec "$@"', "sh", h.CKPT, "restore", "-d", "-D", s.w + "/i",
                          f"--manage-cgroups={mode}", *roots]), f"restore {mode}")
            for n, g in zip(names, new):
                h.require(where(s.pid)[n] == g.inside, f"{n}: {where(s.pid)}")
            h.require(not any(g.there() for g in old), "an old one was made")
            if mode == "soft":
                h.kill_hard(s.pid)
        s.t.go()


# ------------------------------------------------------------------------------------------------------ failures

@case
def nothing_is_left():
    """A restore that fails takes away what it made, and changes back what it changed."""
    with Scene() as s:
        groups = limited(s)
        s.group("pids", NAME + "/a/b")
        kept = groups["pids"]
        groups["cpu"].set("notify_on_release", "1")
        s.dump()
        for stage in ("ipc", "spawn", "restorer", "finish", "release"):
            for g in s.groups:
                g.remove()
            kept.make()
            kept.set("pids.max", 33)
            r = s.restore("--manage-cgroups=full", "--fault-stage", stage)
            h.require(r.rc == 1 and "cannot be" not in r.out, f"{stage}: {r}")
            left = [g.path for g in groups.values() if g.there() and g is not kept]
            h.require(not left, f"{stage}: left are {left}")
            h.require(kept.get("pids.max") == "33", f"{stage}: pids.max is {kept.get('pids.max')}")
        kept.remove()
        h.must(s.restore(), "restore")
        check_limits(groups)
        s.t.go()


@case
def cannot_be_made():
    with Scene() as s:
        g, below = s.group("", NAME), s.group("", NAME + "/below")
        g.make()
        below.make().put(s.pid)
        s.dump()
        below.remove()
        g.set("cgroup.max.descendants", "0")
        r = s.restore()
        h.require(r.rc == 1 and below.inside in r.out and "error" in r.out, f"{r}")
        g.set("cgroup.max.descendants", "max")
        h.must(s.restore(), "restore")
        s.t.go()


def doctored(change):
    with Scene() as s:
        g = s.group("pids").make().put(s.pid)
        s.dump()
        g.remove()
        img.change(s.image(), change)
        r = s.restore()
        h.require(not g.there(), "a folder was made")
        return r


@case
def bad_images():
    def rename(m):
        for x in m.sets:
            for c in x.ctls:
                if c.name == "pids":
                    c.name = "martian"
        for c in m.controllers:
            if list(c.cnames) == ["pids"]:
                c.cnames[:] = ["martian"]

    def upward(m):
        for c in m.sets[0].ctls:
            if c.name == "pids":
                c.path = "/../../etc"

    def upward_dir(m):
        for c in m.controllers:
            if list(c.cnames) == ["pids"]:
                c.dirs[0].dir_name = "a/../../b"

    def other_id(m):
        m.sets[0].id = 99

    def twice(m):
        m.sets.add().CopyFrom(m.sets[0])

    def prefix(m):
        m.sets[0].ctls[0].cgns_prefix = 4000

    def no_name(m):
        del m.controllers[0].cnames[:]

    def prop(m):
        for c in m.controllers:
            for d in c.dirs:
                for p in d.properties:
                    p.name = "../../x"

    def child(m):
        for c in m.controllers:
            if list(c.cnames) == ["pids"]:
                c.dirs[0].children.add().dir_name = ".."

    for change, word in ((rename, "martian"), (upward, "/../../etc"), (upward_dir, "a/../../b"), (other_id, "the set 2"),
                         (twice, "two sets"), (prefix, "cgroup namespace"), (no_name, "without a name"), (prop, "../../x"),
                         (child, "name of a folder")):
        r = doctored(change)
        h.require(r.rc == 1 and word in r.out, f"{change.__name__}: {r}")


@case
def a_property_that_is_refused():
    def value(m):
        for c in m.controllers:
            for d in c.dirs:
                for p in d.properties:
                    if p.name == "pids.max":
                        p.value = "many"

    r = doctored(value)
    h.require(r.rc == 1 and "pids.max" in r.out and "many" in r.out, f"{r}")


# ------------------------------------------------------------------------------------------------------ frozen ones

def frozen(g):
    return g.get("cgroup.freeze") == "1" if g.v2 else g.get("freezer.state") == "FROZEN"


def freeze(g, yes):
    if g.v2:
        g.set("cgroup.freeze", "1" if yes else "0")
    else:
        g.set("freezer.state", "FROZEN" if yes else "THAWED")
    if yes:
        h.wait_until(lambda: frozen(g), f"{g.path} to be frozen")


def frozen_before(controller, remove):
    with Scene() as s:
        g = s.group(controller).make().put(s.pid)
        freeze(g, True)
        r = h.dump(s.pid, s.w + "/i")
        h.require(r.rc == 1 and "is frozen" in r.out and g.inside in r.out and r.seconds < 5 * h.PATIENCE, f"without a word: {r}")
        s.dump("--freeze-cgroup", g.path)
        h.require(frozen(g), "the dump thawed it")
        if remove:
            g.remove()
        h.must(s.restore(), "restore")
        h.wait_until(lambda: frozen(g), "it to be frozen")
        os.kill(s.pid, signal.SIGUSR1)
        h.require(not s.t.verdict() and where(s.pid)[controller] == g.inside, f"it runs: {s.t.verdict()}, {where(s.pid)}")
        freeze(g, False)
        h.wait_until(lambda: s.t.verdict(), "the target's verdict")
        h.require(s.t.verdict() == "PASS", s.t.verdict())
        s.t.reap()


@case
def frozen_v1():
    """Frozen before the dump: it is afterwards, whether the group was made again or not."""
    frozen_before("freezer", True)
    frozen_before("freezer", False)


@case
def frozen_v2():
    frozen_before("", True)
    frozen_before("", False)


@case
def frozen_and_failed():
    """A group that was thawed for a restore that fails is frozen again."""
    for controller in ("freezer", ""):
        with Scene() as s:
            g = s.group(controller).make().put(s.pid)
            freeze(g, True)
            s.dump("--freeze-cgroup", g.path)
            r = s.restore("--fault-stage", "finish")
            h.require(r.rc == 1 and frozen(g), f"{r}")
            freeze(g, False)
            h.must(s.restore(), "restore")
            s.t.go()


@case
def frozen_from_above():
    """The group above is frozen, and is no business of ours: said, instead of waiting for ever."""
    for controller in ("freezer", ""):
        with Scene() as s:
            top, g = s.group(controller).make(), s.group(controller, NAME + "/a").make().put(s.pid)
            s.dump()
            freeze(top, True)
            r = s.restore()
            h.require(r.rc == 1 and "is frozen" in r.out and top.inside in r.out, f"{r}")
            freeze(top, False)
            h.must(s.restore(), "restore")
            s.t.go()


@case
def freezer_outsiders():
    """Tasks of the frozen group that are not of the tree, in nested groups as well, run on after the dump."""
    for controller in ("freezer", ""):
        with Scene() as s:
            g, below = s.group(controller).make(), s.group(controller, NAME + "/a").make()
            other = subprocess.Popen(["/bin/sh", "-c", "while :; do sleep 0.01; echo x; done"], stdout=subprocess.PIPE,
                                     stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                below.put(other.pid)
                below.put(s.pid) if controller else g.put(s.pid)
                for way in (["-R"], ["-R", "--fault-stage", "tasks"], []):
                    r = h.dump(s.pid, s.w + "/i", "--freeze-cgroup", g.path, *way)
                    h.require(r.rc == (1 if "--fault-stage" in way else 0), f"{way}: {r}")
                    h.require(not frozen(g), f"{way}: it is still frozen")
                    os.set_blocking(other.stdout.fileno(), False)
                    while other.stdout.read(65536):
                        pass
                    os.set_blocking(other.stdout.fileno(), True)
                    h.require(other.stdout.read(2) == b"x\n", "it does not run")
                    if "-R" in way:
                        for name in os.listdir(s.w + "/i"):
                            os.unlink(s.w + "/i/" + name)
                s.t.reap()
                h.must(s.restore(), "restore")
                s.t.go()
            finally:
                other.kill()
                other.stdout.close()
                other.wait()


@case
def not_ourselves():
    """A freezer that would hold the engine is refused."""
    for controller in ("freezer", ""):
        with Scene() as s:
            g, below = s.group(controller).make(), s.group(controller, NAME + "/a").make()
            g.put(s.pid) if controller else below.put(s.pid)
            r = h.run(["/bin/sh", "-c", f"echo $$ > {below.path}/cgroup.procs; exec \"$@\"", "sh", h.CKPT, "dump", "-t", str(s.pid),
                       "-D", s.w, "--freeze-cgroup", g.path])
            h.require(r.rc == 1 and g.path in r.out, f"{r}")
            h.require(not frozen(g), "it is frozen")
            h.untouched(s.pid)
            s.t.go()


@case
def yard():
    """Hierarchies where --cgroup-yard has them, and those that are not mounted at all. The last case: from here on we are in a
    mount namespace of our own."""
    h.own_neighbours()
    with Scene() as s:
        g, v2 = s.group("pids").make().put(s.pid), s.group("").make().put(s.pid)
        g.set("pids.max", 44)
        os.mkdir(s.w + "/yard")
        mounts = hierarchies()
        for name, (point, _) in mounts.items():
            folder = f"{s.w}/yard/{name or 'unified'}"
            os.mkdir(folder)
            h.must(h.run(["mount", "--bind", point, folder]), "mount --bind")
        points = {point for point, _ in mounts.values()}
        for point in points:
            h.must(h.run(["umount", "-l", point]), "umount")
        try:
            h.must(h.dump(s.pid, s.w + "/j", "-R", "--cgroup-yard", s.w + "/yard"), "dump, from the yard")
            h.require(os.path.exists(s.w + "/j/cgroup.img"), "no cgroup.img")
            r = h.dump(s.pid, s.w + "/k", "-R", "--cgroup-yard", s.w)
            h.require(r.rc == 1 and "yard" in r.out, f"no yard: {r}")
            for name in mounts:
                h.must(h.run(["umount", f"{s.w}/yard/{name or 'unified'}"]), "umount")
            s.dump()
        finally:
            for point in sorted(points):
                name, options = next((n, n or None) for n, (p, _) in mounts.items() if p == point)
                kind = ["-t", "cgroup", "-o", options] if options else ["-t", "cgroup2"]
                if name.startswith("name="):
                    kind[-1] = "none," + name
                h.must(h.run(["mount", *kind, "none", point]), "mount")
        g.remove()
        v2.remove()
        for point in points:
            h.must(h.run(["umount", "-l", point]), "umount")
        r = s.restore()
        for point in sorted(points):
            name = next(n for n, (p, _) in mounts.items() if p == point)
            kind = ["-t", "cgroup", "-o", "none," + name if name.startswith("name=") else name] if name else ["-t", "cgroup2"]
            h.must(h.run(["mount", *kind, "none", point]), "mount")
        h.must(r, "restore without mounts")
        h.require(where(s.pid)["pids"] == g.inside and g.get("pids.max") == "44", f"{where(s.pid)}")
        s.t.go()


if __name__ == "__main__":
    h.run_cases(CASES)
