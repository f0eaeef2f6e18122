#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Trees with a network namespace of their own: its devices, addresses, routes, rules and sockets come back; connections to the outside
go on; what comes from outside has to be given; a failed dump or restore leaves nothing. We are the outside, in a namespace of our own."""
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import harness as h

CASES = []
EST = "--tcp-established"
INSIDE, OUTSIDE = "10.77.0.2", "10.77.0.1"


def case(fn):
    CASES.append(fn)
    return fn


def sh(text):
    return h.must(h.run(["sh", "-ec", text]), text)


def inside(pid, text):
    return h.must(h.run(["nsenter", "-t", str(pid), "-n", "sh", "-ec", text]), text).out


@contextlib.contextmanager
def box(name, variant="", setup=":", outer=True):
    """The target @name, and its folder of images."""
    with h.Workdir() as work:
        ns = f"ckpt{os.getpid()}"
        sh(f"ip netns add {ns}")
        t = None
        try:
            if outer:
                sh(f"ip link add outer type veth peer name eth0 netns {ns}; ip addr add {OUTSIDE}/24 dev outer; ip link set outer up")
                sh(f"ip netns exec {ns} sh -ec 'ip link set lo up; ip addr add {INSIDE}/24 dev eth0; ip link set eth0 up; "
                   f"ip route add default via {OUTSIDE}'")
            sh(f"ip netns exec {ns} sh -ec \"{setup}\"")
            t = start(work, ns, name, variant)
            sh(f"ip netns del {ns}")  # it lives as long as the target
            t.ready()
            t.images = os.path.join(work, "images")
            yield t
        finally:
            h.run(["ip", "netns", "del", ns])
            if t:
                t.kill()
            h.run(["ip", "link", "del", "outer"])
            h.run(["nft", "flush", "ruleset"])


def start(work, ns, name, variant):
    """As harness.Target does, by way of setns."""
    fd = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        setns(fd)
        return h.Target(work, name, variant)
    finally:
        setns(home)
        os.close(fd)
        os.close(home)


def setns(fd):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def network(pid):
    """What there is, as ip and nft tell it, without what passes."""
    told = {}
    for what in ("-d link", "addr", "route show table all", "-6 route show table all", "rule", "-6 rule"):
        entries = json.loads(inside(pid, f"ip -j {what}") or "[]")
        told[what] = [strip(e) for e in entries]
    told["nft"] = re.sub(r"(packets|bytes) \d+", "", inside(pid, "nft list ruleset"))
    for what in ("route show table all", "-6 route show table all"):
        told[what].sort(key=json.dumps)
    return told


def strip(entry):
    if isinstance(entry, list):
        return [strip(e) for e in entry]
    if not isinstance(entry, dict):
        return entry
    passing = ("link_index", "link_netnsid", "tentative", "operstate", "gc_timer", "hello_timer", "tcn_timer", "expires", "stats64",
               "tso_max_size", "topology_change_timer", "valid_life_time", "preferred_life_time", "flags", "link")
    return {k: strip(v) for k, v in entry.items() if k not in passing}


def settled(pid):
    """When what was set up has taken effect: the kernel notices carriers, and makes addresses, a little later."""
    last = [None]

    def still():
        time.sleep(0.3)
        if "tentative" in inside(pid, "ip addr"):
            return None
        was, last[0] = last[0], network(pid)
        return was if was == last[0] else None
    return h.wait_until(still, "the network to come to rest")


def differing(a, b):
    if type(a) is not type(b) or not isinstance(a, (list, dict)) or len(a) != len(b):
        return [] if a == b else [(a, b)]
    keys = range(len(a)) if isinstance(a, list) else a.keys() | b.keys()
    return [d for k in keys for d in (differing(a[k], b[k]) if isinstance(a, list) or (k in a and k in b) else [(k, a.get(k), b.get(k))])]


def same(before, pid):
    after = settled(pid)
    for what in before:
        h.require(before[what] == after[what], f"{what}: {differing(before[what], after[what])}")


def dumped(t, *opts):
    h.must(h.dump(t.pid, t.images, *opts), "dump")
    t.reap()


def index_of(device):
    return json.loads(sh(f"ip -j link show {device}").out)[0]["ifindex"]


def restored(t, *opts):
    h.must(h.ckpt("restore", "-d", "-D", t.images, *opts), "restore")
    h.require(os.readlink(f"/proc/{t.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "the target lives in our network")


OUTER = ("--external", "veth[eth0]:outer")


def outer_up():
    sh(f"ip addr add {OUTSIDE}/24 dev outer 2>/dev/null || :")


# ---------------------------------------------------------------------------------------------------------------------

RICH = ("ip link add br0 type bridge forward_delay 0; ip link add p0 type veth peer name p1; ip link set p0 master br0; ip link set p0 up; ip link set p1 up; "
        "ip link set br0 up; ip addr add 10.78.0.1/24 dev br0; ip -6 addr add fd00:78::1/64 dev br0 nodad; ip link add mac0 link p1 type macvlan "
        "mode bridge; ip link set mac0 up; ip tuntap add tap0 mode tap; ip link set tap0 up; ip route add 10.79.0.0/16 via 10.78.0.9; "
        "ip route add 10.80.0.0/16 via 10.78.0.9 table 50; ip rule add fwmark 5 lookup 50; ip -6 rule add fwmark 6 lookup 60; "
        "sysctl -qw net.ipv4.conf.br0.rp_filter=2 net.ipv4.ip_forward=1; "
        "nft 'add table inet t; add set inet t s { type ipv4_addr; elements = { 1.2.3.4, 5.6.7.8 }; }; add chain inet t in { type filter hook input "
        "priority 0; policy accept; }; add rule inet t in ip saddr @s counter drop; add rule inet t in tcp dport { 1-5, 9 } reject'; ")


@case
def everything_comes_back():
    with box("timers", setup=RICH, outer=False) as t:
        before = settled(t.pid)
        dumped(t)
        restored(t)
        same(before, t.pid)
        h.require(inside(t.pid, "cat /proc/sys/net/ipv4/conf/br0/rp_filter").strip() == "2", "a setting of a device is lost")
        t.go()


@case
def runs_on():
    with box("timers", setup=RICH, outer=False) as t:
        before = settled(t.pid)
        h.must(h.dump(t.pid, t.images, "-R"), "dump")
        same(before, t.pid)
        t.go()


def sockets(name, variant):
    def run():
        with box(name, variant, "ip link set lo up", outer=False) as t:
            dumped(t, EST)
            restored(t, EST)
            h.require(not h.network_locks(), "a lock was left outside")
            h.require("CRIU" not in inside(t.pid, "nft list tables"), "a lock was left inside")
            t.go()
    run.__name__ = f"sockets_{name}{variant}"
    return run


CASES += [sockets(*k) for k in (("tcp", ""), ("udp", ""), ("netlink", ""), ("packet", ""), ("multicast", ""), ("inet", ""))]


class Client:
    def __init__(self, t):
        self.port = int(h.read_text(os.path.join(t.files, "port")))
        self.s = socket.create_connection((INSIDE, self.port), 10 * h.PATIENCE)
        self.s.settimeout(20 * h.PATIENCE)

    def say(self, data):
        self.s.sendall(data)
        got = b""
        while len(got) < len(data):
            more = self.s.recv(len(data) - len(got))
            h.require(more, f"the end after {len(got)} bytes")
            got += more
        h.require(got == data, "something else came back")


@case
def connection_to_the_outside():
    """The client neither hears of it, nor loses anything that it sends meanwhile."""
    with box("tcpserver", INSIDE) as t:
        c = Client(t)
        c.say(b"before")
        before = settled(t.pid)
        dumped(t, EST)
        h.require(not h.network_locks(), "the lock is outside")
        restored(t, EST, *OUTER)
        outer_up()
        c.say(b"after")
        same(before, t.pid)
        h.require("CRIU" not in inside(t.pid, "nft list tables") and "ckpt" not in inside(t.pid, "nft list tables"), "a lock was left")
        c.say(b"x" * 300000)
        t.go()


@case
def connection_while_away():
    """Sent while there is no network at the other end."""
    with box("tcpserver", INSIDE) as t:
        c = Client(t)
        c.say(b"before")
        dumped(t, EST)
        sh("ip link add bridge0 type bridge; ip link set bridge0 up; ip addr add %s/24 dev bridge0" % OUTSIDE)
        try:
            c.s.sendall(b"meanwhile")
            restored(t, EST, "--external", "veth[eth0]:outer@bridge0")
            got = b""
            while len(got) < 9:
                got += c.s.recv(9 - len(got)) or b"!" * 9
            h.require(got == b"meanwhile", f"{got}")
            t.go()
        finally:
            h.run(["ip", "link", "del", "bridge0"])


@case
def left_running_with_connection():
    with box("tcpserver", INSIDE) as t:
        c = Client(t)
        h.must(h.dump(t.pid, t.images, EST, "-R"), "dump")
        h.require("CRIU" not in inside(t.pid, "nft list tables"), "a lock was left inside")
        c.say(b"after")
        t.go()


@case
def outer_end_not_given():
    with box("timers") as t:
        dumped(t)
        r = h.ckpt("restore", "-d", "-D", t.images)
        h.require(r.rc == 1 and "eth0" in r.out and "veth[eth0]" in r.out, f"{r}")


@case
def outer_name_is_taken():
    with box("timers") as t:
        dumped(t)
        h.wait_until(lambda: h.run(["ip", "link", "show", "outer"]).rc, "the old one to go")
        sh("ip link add outer type veth peer name other")
        r = h.ckpt("restore", "-d", "-D", t.images, *OUTER)
        h.require(r.rc == 1 and "there already" in r.out, f"{r}")
        sh("ip link del outer")
        restored(t, *OUTER)
        t.go()


@case
def failed_restore_leaves_no_device():
    with box("timers") as t:
        dumped(t)
        r = h.ckpt("restore", "-d", "-D", t.images, "--veth-pair", "eth0=outer", "--fault-stage", "open files")
        h.require(r.rc == 1, f"{r}")
        h.require(h.run(["ip", "link", "show", "outer"]).rc, "the device is still there")
        restored(t, "--veth-pair", "eth0=outer")
        t.go()


@case
def device_moved_in():
    with box("timers") as t:
        dumped(t)
        h.wait_until(lambda: h.run(["ip", "link", "show", "outer"]).rc, "the old one to go")
        sh("ip link add mine type veth peer name outer; ip link set outer up")
        index = index_of("mine")
        r = h.ckpt("restore", "-d", "-D", t.images, "--external", "netdev[eth0]:mine", "--fault-stage", "open files")
        h.require(r.rc == 1 and index_of("mine") == index, f"it did not come back: {r}")
        restored(t, "--external", "netdev[eth0]:mine")
        h.require(f"inet {INSIDE}/24" in inside(t.pid, "ip addr show eth0"), "its address is missing")
        t.go()


@case
def macvlan_on_a_device_outside():
    with box("timers", outer=False) as t:
        sh("ip link add low type veth peer name low1; ip link set low up; ip link set low1 up")
        try:
            sh(f"ip link add link low name mac0 netns {t.pid} type macvlan mode bridge")
            inside(t.pid, "ip link set mac0 up; ip addr add 10.5.5.5/24 dev mac0")
            before = settled(t.pid)
            dumped(t)
            r = h.ckpt("restore", "-d", "-D", t.images)
            h.require(r.rc == 1 and "macvlan[mac0]" in r.out, f"{r}")
            restored(t, "--external", "macvlan[mac0]:low")
            same(before, t.pid)
            t.go()
        finally:
            h.run(["ip", "link", "del", "low"])


@case
def empty():
    """Whoever asked for it sets the network up."""
    with box("timers") as t:
        dumped(t, "--empty-ns", "net")
        restored(t, "--empty-ns", "net")
        links = json.loads(inside(t.pid, "ip -j link"))
        h.require(len(links) == 1 and "UP" not in links[0]["flags"], f"{links}")
        t.go()


@case
def external():
    """The namespace stays, and comes by descriptor; connections are held back in it meanwhile."""
    with box("tcpserver", INSIDE) as t:
        c = Client(t)
        c.say(b"before")
        fd = os.open(f"/proc/{t.pid}/ns/net", os.O_RDONLY)
        ino = os.fstat(fd).st_ino
        dumped(t, EST, "--external", f"net[{ino}]:mine")
        c.s.sendall(b"meanwhile")
        r = h.ckpt("restore", "-d", "-D", t.images, EST)
        h.require(r.rc == 1 and "mine" in r.out, f"{r}")
        r = h.ckpt("restore", "-d", "-D", t.images, EST, "--inherit-fd", f"fd[{fd}]:mine", pass_fds=[fd])
        h.must(r, "restore")
        h.require(os.stat(f"/proc/{t.pid}/ns/net").st_ino == ino, "it lives elsewhere")
        got = b""
        while len(got) < 9:
            got += c.s.recv(9 - len(got)) or b"!" * 9
        h.require(got == b"meanwhile", f"{got}")
        h.require("CRIU" not in inside(t.pid, "nft list tables"), "a lock was left")
        os.close(fd)
        t.go()


@case
def killed_engine_leaves_no_lock():
    """In the namespace of the tree, which lives on."""
    with box("tcpserver", INSIDE) as t:
        c = Client(t)
        for i in range(20):
            images = os.path.join(t.work, f"i{i}")
            os.makedirs(images)
            p = subprocess.Popen([h.CKPT, "dump", "-t", str(t.pid), "-D", images, EST, "-R"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
            try:
                p.wait(0.004 * (i + 1))
            except subprocess.TimeoutExpired:
                p.send_signal(signal.SIGKILL)
            p.wait()
            h.wait_until(lambda: "CRIU" not in inside(t.pid, "nft list tables"), "the lock to go")
            c.say(b"still there")
        t.go()


@case
def device_of_no_known_kind():
    """Refused by name, unless it is said to come from outside."""
    with box("timers", outer=False) as t:
        sh(f"ip link add low type veth peer name low1; ip link add link low name tapv netns {t.pid} type macvtap mode bridge || exit 0")
        try:
            if "tapv" not in inside(t.pid, "ip link"):
                return
            r = h.dump(t.pid, t.images)
            h.require(r.rc == 1 and "tapv" in r.out and "macvtap" in r.out and "netdev[tapv]" in r.out, f"{r}")
            t.go()
        finally:
            h.run(["ip", "link", "del", "low"])


@case
def nested():
    """A child that lives in another one, linked to its parent's by a pair."""
    with h.Workdir() as work:
        images = os.path.join(work, "images")
        script = "ip link set lo up; unshare -n sleep 1000 & exec sleep 1000"
        p = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            def two():
                kids = h.children(p.pid)
                return kids if kids and h.read_text(f"/proc/{kids[0]}/comm") == "sleep\n" and h.read_text(f"/proc/{p.pid}/comm") == "sleep\n" \
                    else None
            child = h.wait_until(two, "the child in a namespace of its own")[0]
            inside(p.pid, f"ip link add up0 type veth peer name down0 netns {child}; ip addr add 10.9.0.1/24 dev up0; ip link set up0 up")
            inside(child, "ip link set lo up; ip addr add 10.9.0.2/24 dev down0; ip link set down0 up; ip route add default via 10.9.0.1")
            before = [settled(p.pid), settled(child)]
            h.must(h.dump(p.pid, images), "dump")
            h.reap(p.pid)
            h.gone([child])
            h.must(h.ckpt("restore", "-d", "-D", images), "restore")
            spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in (p.pid, child, "self")}
            h.require(len(spaces) == 3, f"they live in {spaces}")
            same(before[0], p.pid)
            same(before[1], child)
        finally:
            for pid in h.children(p.pid) + [p.pid]:
                h.kill_hard(pid)
            p.returncode = 0


if __name__ == "__main__":
    h.become_subreaper()
    if os.geteuid() != 0:
        print("skip: needs root")
        sys.exit(h.SKIP_CODE)
    try:
        h.own_network()
        h.own_neighbours()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    os.makedirs("/run/netns", exist_ok=True)
    h.run_cases(CASES)
