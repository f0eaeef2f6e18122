#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""TCP connections when something is in the way: addresses and ports that are gone or taken, peers that die or send meanwhile,
lost packets, firewalls of the user's, dumps and restores that fail, rights that are missing. The peer is this process."""
import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

import harness as h

CASES = []
EST = "--tcp-established"


def case(fn):
    CASES.append(fn)
    return fn


class Server:
    """The target tcpserver, and how often its connections ended."""

    def __init__(self, work, address=""):
        self.work, self.address = work, address or "127.0.0.1"
        self.t = h.Target(work, "tcpserver", address)
        self.images = os.path.join(work, "images")

    def connect(self, rcvbuf=None):
        s = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET)
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(15 * h.PATIENCE)
        try:
            s.connect((self.address, self.port))
        except OSError as e:
            raise h.Failure(f"no connection: {e}") from None
        n = len(self.conns)
        self.conns.append(s)
        h.wait_until(lambda: f"accepted {n}" in self.events(), "the server to accept")
        return s

    def events(self):
        return h.read_text(self.work + "/files/events").splitlines()

    def dump(self, *opts):
        return h.dump(self.t.pid, self.images, *opts)

    def dumped(self, *opts):
        """Ended by a dump."""
        h.must(self.dump(EST, *opts), "dump")
        self.t.reap()
        h.require(len(h.network_locks()) == 1, f"tables after the dump: {h.network_locks()}")

    def restore(self, *opts):
        return h.ckpt("restore", "-d", "-D", self.images, *opts)

    def restored(self, *opts):
        h.must(self.restore(EST, *opts), "restore")
        free()

    def finish(self, *events):
        """Nothing happened to any connection but @events, a new one can be made, and its own checks are fine."""
        more = [e for e in self.events() if not e.startswith("accepted")]
        h.require(more == list(events), f"the server saw: {self.events()}")
        say(self.connect(), b"at last")
        self.t.go()

    def __enter__(self):
        self.conns = []
        try:
            self.t.ready()
        except BaseException:
            self.t.kill()
            raise
        self.port = int(h.read_text(self.work + "/files/port"))
        return self

    def __exit__(self, *exc):
        for s in self.conns:
            s.close()
        self.t.kill()
        h.run(["nft", "flush", "ruleset"])


@contextlib.contextmanager
def server(address=""):
    with h.Workdir() as w, Server(w, address) as s:
        yield s


def free():
    h.require(not h.network_locks(), f"connections are still held back: {h.network_locks()}")


def nft(rules):
    h.must(h.run(["nft", rules]), f"nft {rules}")


def receive(s, n, sent=b""):
    got = b""
    while len(got) < n:
        try:
            data = s.recv(n - len(got))
        except OSError as e:
            raise h.Failure(f"after {len(got)} bytes of {n}: {e}") from None
        h.require(data, f"the end after {len(got)} bytes of {n}")
        got += data
    return got


def say(s, data):
    """Sends, and gets the same back."""
    try:
        s.sendall(data)
    except OSError as e:
        raise h.Failure(f"send: {e}") from None
    got = receive(s, len(data))
    h.require(got == data, f"{got[:40]} came back, not {data[:40]}")


def pattern(n, start=0):
    return b"".join(struct.pack("!Q", i) for i in range(start, start + n // 8))


def quiet(s):
    """Nothing there, and no error."""
    s.setblocking(False)
    try:
        data = s.recv(1)
        raise h.Failure(f"{'something' if data else 'the end'} came")
    except BlockingIOError:
        pass
    except OSError as e:
        raise h.Failure(f"the peer sees: {e}") from None
    s.settimeout(15 * h.PATIENCE)


def refused(r, *words):
    h.require(r.rc == 1, f"not refused: {r}")
    for w in words:
        h.require(w.lower() in r.out.lower(), f"it does not say '{w}': {r}")


def gone(s):
    """The server's connection is no more."""
    try:
        s.sendall(b"anybody there?")
        got = s.recv(100)
        h.require(not got, f"got {got}")
    except (ConnectionResetError, BrokenPipeError):
        pass


# -------------------------------------------------------------------------------------------- what goes well, for once

@case
def goes_on():
    with server() as s:
        c, d = s.connect(), s.connect()
        say(c, b"one"), say(d, pattern(200000))
        h.must(s.dump(EST, "-R"), "dump -R")
        free()
        say(c, b"two"), say(d, b"two")
        s.images += "2"
        s.dumped()
        time.sleep(2)
        quiet(c)
        s.restored()
        say(c, b"three"), say(d, pattern(200000)), say(s.connect(), b"new")
        s.finish()


@case
def goes_on_ipv6():
    with server("::1") as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        s.restored()
        say(c, pattern(100000))
        s.finish()


@case
def peer_sends_meanwhile():
    """What comes while nobody is there arrives; more than fits, too."""
    with server() as s:
        c, d = s.connect(), s.connect()
        say(c, b"one"), say(d, b"one")
        data = pattern(3 << 20)
        s.dumped()
        c.sendall(b"a few words")
        d.setblocking(False)
        sent = 0
        while sent < len(data):
            try:
                sent += d.send(data[sent:sent + 65536])
            except BlockingIOError:
                break
        h.require(sent > 100000, f"only {sent} bytes went into the queue")
        d.settimeout(15 * h.PATIENCE)
        time.sleep(1)
        s.restored()
        h.require(receive(c, 11) == b"a few words", "other words")
        h.require(receive(d, sent) == data[:sent], "other data")
        say(c, b"two"), say(d, b"two")
        s.finish()


@case
def peer_never_reads():
    """The server has a full queue when it is dumped; the peer begins to read while nobody is there."""
    with server() as s:
        c = s.connect(rcvbuf=4000)
        data, sent = pattern(20 << 20), 0
        c.setblocking(False)
        while True:
            try:
                sent += c.send(data[sent:sent + 65536])
            except BlockingIOError:
                time.sleep(0.2)
                try:
                    sent += c.send(data[sent:sent + 1000])
                except BlockingIOError:
                    break
        c.settimeout(15 * h.PATIENCE)
        s.dumped()
        got = receive(c, 1000)
        s.restored()
        got += receive(c, sent - 1000)
        h.require(got == data[:sent], "other data")
        say(c, b"two")
        s.finish()


# ------------------------------------------------------------------------------------------------ addresses and ports

class Holder:
    """Another program that listens at a port."""

    def __init__(self, port):
        script = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('x', flush=True); time.sleep(999)"
        self.p = subprocess.Popen(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE)
        self.pid = self.p.pid

    def __enter__(self):
        h.require(self.p.stdout.readline() == b"x\n", "the port is not free")
        return self

    def __exit__(self, *exc):
        self.p.kill()
        self.p.wait()


@case
def port_taken():
    """The message names who has it, and when it is free all is well."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        with Holder(s.port) as other:
            r = s.restore(EST)
            refused(r, f"127.0.0.1:{s.port}", "in use", str(other.pid), "python3")
        h.require(len(h.network_locks()) == 1, f"tables after the failed restore: {h.network_locks()}")
        h.require(not h.alive(s.t.pid), "something of the tree is left")
        quiet(c)
        s.restored()
        say(c, b"two")
        s.finish()


@case
def still_running():
    """The original has its addresses; it is not disturbed."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        h.must(s.dump(EST, "-R"), "dump -R")
        refused(s.restore(EST))
        free()
        say(c, b"two")
        s.finish()


@case
def connection_taken():
    """The same, where PIDs are not in the way: the connection is in use."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        h.must(s.dump(EST, "-R"), "dump -R")
        r = h.run(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", h.CKPT, "restore", "-d", "-D", s.images, EST])
        refused(r, "in use")
        free()
        say(c, b"two")
        s.finish()


@case
def address_gone():
    h.must(h.run(["ip", "addr", "add", "10.77.0.1/32", "dev", "lo"]), "ip addr add")
    try:
        with server("10.77.0.1") as s:
            c = s.connect()
            say(c, b"one")
            s.dumped()
            h.must(h.run(["ip", "addr", "del", "10.77.0.1/32", "dev", "lo"]), "ip addr del")
            refused(s.restore(EST), "10.77.0.1", "address")
            h.require(not h.alive(s.t.pid), "something of the tree is left")
            h.must(h.run(["ip", "addr", "add", "10.77.0.1/32", "dev", "lo"]), "ip addr add")
            s.restored()
            say(c, b"two")
            s.finish()
    finally:
        h.run(["ip", "addr", "del", "10.77.0.1/32", "dev", "lo"])


# ------------------------------------------------------------------------------------------------------- dead peers

@case
def peer_ended():
    """It closed its end while nobody was there, after it had said something."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        c.sendall(b"bye")
        c.shutdown(socket.SHUT_WR)
        s.restored()
        h.require(receive(c, 3) == b"bye" and c.recv(1) == b"", "the last word")
        h.wait_until(lambda: "end 0" in s.events(), f"the server to see the end: {s.events()}")
        s.finish("end 0")


@case
def peer_dead():
    """It was ended without a word: its reset could not pass. The server hears of it when it is back, or soon after."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        s.restored()
        h.wait_until(lambda: len(s.events()) > 1, f"the server to see it: {s.events()}", 30)
        s.finish("ECONNRESET 0")


@case
def peer_keeps_asking():
    """Somebody else connects while nobody is there: that is refused, and later it is not."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        with socket.socket() as other:
            other.settimeout(5)
            try:
                other.connect(("127.0.0.1", s.port))
                raise h.Failure("somebody listens")
            except ConnectionRefusedError:
                pass
        s.restored()
        say(c, b"two")
        s.finish()


# -------------------------------------------------------------------------------------------------- packets and rules

LOSS = ("table inet lossy {{ chain in {{ type filter hook input priority 10; numgen random mod 100 < {n} counter drop; }}; "
        "chain out {{ type filter hook output priority 10; numgen random mod 100 < {n} counter drop; }}; }}")


@case
def lost_packets():
    with server() as s:
        c, d = s.connect(), s.connect()
        say(c, b"one"), say(d, b"one")
        nft(LOSS.format(n=5))
        for i in range(3):
            c.sendall(pattern(20000))
            s.images = os.path.join(s.work, f"i{i}")
            s.dumped()
            d.sendall(pattern(5000))
            s.restored()
            h.require(receive(c, 20000) == pattern(20000), "other data")
            h.require(receive(d, 5000) == pattern(5000), "other data")
            s.images += "r"
            h.must(s.dump(EST, "-R"), "dump -R")
            say(c, b"two")
        dropped = h.run(["nft", "list", "table", "inet", "lossy"]).out
        nft("delete table inet lossy")
        h.require(re.search(r"packets [1-9]", dropped), f"nothing was lost: {dropped}")
        s.finish()


@case
def lost_packets_half_closed():
    """States that are made again by segments which could be lost like others."""
    for variant in ("finwait2", "closing", "lastack", "closed"):
        with h.Workdir() as w, h.Target(w, "tcp", variant) as t:
            t.ready()
            nft(LOSS.format(n=10))
            try:
                for i in range(2):
                    h.must(h.dump(t.pid, f"{w}/i{i}", EST), f"{variant}: dump")
                    t.reap()
                    h.must(h.ckpt("restore", "-d", "-D", f"{w}/i{i}", EST), f"{variant}: restore")
            finally:
                nft("delete table inet lossy")
            t.go()
        free()


RULES = """
table inet filter {
	set good { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 127.0.0.0/8 }; }
	chain input { type filter hook input priority 0; policy drop;
		ct state established,related accept
		ct state invalid drop
		iif lo tcp flags syn accept
		ip saddr @good icmp type echo-request limit rate 5/second accept; }
	chain output { type filter hook output priority 0; policy accept; ct state invalid counter drop; }
	chain forward { type filter hook forward priority 0; policy drop; }
}
table inet CRIU-mine { chain input { type filter hook input priority -300; meta mark 7 accept; }; }
table ip nat { chain post { type nat hook postrouting priority 100; oifname "nowhere" masquerade; }; }
"""


def user_rules(rules):
    """The user's rules are there, to the letter, before and after all of it, and the connection passes through them."""
    with server() as s:
        r = h.run(["nft", "-f", "-"], stdin=rules_file(s.work, rules))
        if r.rc:
            raise h.Skip(f"these rules cannot be loaded here: {r.out.strip()[:200]}")
        before = listing()
        c, d = s.connect(), s.connect()
        say(c, b"one"), say(d, pattern(100000))
        h.must(s.dump(EST, "-R"), "dump -R")
        h.require(listing() == before, f"the rules after dump -R:\n{listing()}\nbefore:\n{before}")
        say(c, b"two")
        s.images += "2"
        h.must(s.dump(EST), "dump")
        s.t.reap()
        h.require(listing() != before, "nothing holds the connections back")
        h.must(s.restore(EST), "restore")
        h.require(listing() == before, f"the rules after the restore:\n{listing()}\nbefore:\n{before}")
        say(c, b"three"), say(d, pattern(100000))
        s.finish()


def rules_file(work, rules):
    with open(work + "/rules", "w") as f:
        f.write(rules)
    return open(work + "/rules")


def listing():
    return h.must(h.run(["nft", "-s", "list", "ruleset"]), "nft list ruleset").out


@case
def firewall_of_the_user():
    user_rules(RULES)


@case
def firewall_stateless():
    user_rules("\n".join(l for l in RULES.splitlines() if "ct state" not in l and "nat" not in l).replace("policy drop;", "policy accept;"))


@case
def firewall_of_the_user_half_closed():
    """Segments that make a state again may not come past a firewall. Then the restore says what to do, nothing is lost by it, and
    without that firewall it works."""
    for variant in ("finwait2", "closing", "lastack", "closed"):
        with h.Workdir() as w, h.Target(w, "tcp", variant) as t:
            try:
                if h.run(["nft", "-f", "-"], stdin=rules_file(w, RULES)).rc:
                    raise h.Skip("these rules cannot be loaded here")
                t.ready()
                h.must(h.dump(t.pid, w + "/i", EST), f"{variant}: dump")
                t.reap()
                r = h.ckpt("restore", "-d", "-D", w + "/i", EST)
                if r.rc:
                    refused(r, "firewall", "0xC114")
                    for table in ("inet filter", "ip nat", "inet CRIU-mine"):
                        nft(f"delete table {table}")
                    h.must(h.ckpt("restore", "-d", "-D", w + "/i", EST), f"{variant}: restore without the firewall")
                t.go()
            finally:
                h.run(["nft", "flush", "ruleset"])


@case
def lock_is_gone():
    """Somebody flushed all rules meanwhile. As long as the peer says nothing that does no harm."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        nft("flush ruleset")
        s.restored()
        say(c, b"two")
        s.finish()


# ---------------------------------------------------------------------------------------- failures, and engines that end

def each_stage(text):
    """Names of the stages in a table of --display-stats."""
    return [m[1] for m in re.finditer(r"^(\S.*?) +\d+\.\d{3}( |$)", text, re.M) if m[1] != "total"]


@case
def dump_fails():
    """At every stage: afterwards nothing is held back, and the connection goes on."""
    with server() as s:
        c, d = s.connect(), s.connect(rcvbuf=4000)
        say(c, b"one")
        d.sendall(pattern(30000))
        before = h.settled_snapshot(s.t.pid)
        r = h.must(s.dump(EST, "-R", "--display-stats"), "dump -R")
        names = each_stage(r.out)
        h.require("commit" in names and len(names) > 15, f"stages: {names}")
        s.images += "2"
        for n, name in enumerate(names):
            for way in ([], ["-R"]):
                r = s.dump(EST, "--fault-stage", name, *way)
                refused(r, name)
                free()
                h.untouched(s.t.pid)
                say(c, b"%d" % n)
                h.require(not os.listdir(s.images), f"{name}: left in the folder: {os.listdir(s.images)}")
        h.same_process(before, s.t.pid, "after so many dumps that failed")
        h.require(receive(d, 30000) == pattern(30000), "other data")
        s.dumped()
        s.restored()
        say(c, b"two")
        s.finish()


@case
def restore_fails():
    """At every stage: the connection is still held back, no peer hears of it, and the next attempt works."""
    with server() as s:
        c, d = s.connect(), s.connect(rcvbuf=4000)
        say(c, b"one")
        d.sendall(pattern(30000))
        s.dumped()
        locked = h.network_locks()
        r = h.must(s.restore(EST, "--display-stats"), "restore")
        names = each_stage(r.out)
        say(c, b"two")
        s.images += "2"
        s.dumped()
        locked = h.network_locks()
        for name in names:
            if name in ("finish", "release"):  # it lives by then: nothing but a test makes these fail
                continue
            r = s.restore(EST, "--fault-stage", name)
            refused(r, name)
            h.require(h.network_locks() == locked, f"{name}: tables after the failed restore: {h.network_locks()}")
            h.require(not h.alive(s.t.pid), f"{name}: something of the tree is left")
            quiet(c)
        s.restored()
        say(c, b"three")
        h.require(receive(d, 30000) == pattern(30000), "other data")
        s.finish()


@case
def restored_twice():
    """The first one is not disturbed; when it is gone, the second one comes back, to a peer that has gone, too."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        s.restored()
        say(c, b"two")
        refused(s.restore(EST))
        free()
        say(c, b"three")
        os.kill(s.t.pid, signal.SIGKILL)
        s.t.reap()
        gone(c)
        c.close()
        s.restored()
        h.wait_until(lambda: len(s.events()) > 1, f"the server to see that its peer is gone: {s.events()}", 30)
        more = [e for e in s.events() if not e.startswith("accepted")]
        h.require(more in (["ECONNRESET 0"], ["end 0"]), f"the server saw: {more}")
        s.finish(*more)


# --------------------------------------------------------------------------------------------------- rights and options

@case
def without_the_option():
    with server() as s:
        say(s.connect(), b"one"), say(s.connect(), b"one")
        refused(s.dump(), EST, "2", str(s.t.pid))
        free()
        refused(h.ckpt("check", "-t", s.t.pid), EST)
        say(s.conns[0], b"two")
        s.dumped()
        refused(s.restore(), EST)
        h.require(len(h.network_locks()) == 1, f"tables after the refused restore: {h.network_locks()}")
        quiet(s.conns[0])
        s.restored()
        say(s.conns[0], b"three")
        s.finish()


def without_rights(*argv):
    return h.run(["capsh", "--drop=cap_net_admin", "--", "-c", 'exec "$0" "$@"', h.CKPT, *map(str, argv)])


@case
def no_net_admin():
    """Named, and nothing happens to the connection; listeners alone need no rights."""
    with server() as s:
        os.makedirs(s.images)
        h.must(without_rights("dump", "-t", s.t.pid, "-D", s.images, "-R"), "a dump of a listener, without CAP_NET_ADMIN")
        s.images += "2"
        os.makedirs(s.images)
        c = s.connect()
        say(c, b"one")
        refused(without_rights("dump", "-t", s.t.pid, "-D", s.images, EST), "CAP_NET_ADMIN")
        free()
        h.untouched(s.t.pid)
        say(c, b"two")
        s.dumped()
        refused(without_rights("restore", "-d", "-D", s.images, EST), "CAP_NET_ADMIN")
        h.require(len(h.network_locks()) == 1, f"tables after the failed restore: {h.network_locks()}")
        s.restored()
        say(c, b"three")
        s.finish()


@case
def tcp_close():
    """Connections are left out; the program finds them closed, its listener is fine."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        h.must(s.dump("--tcp-close"), "dump --tcp-close")
        s.t.reap()
        free()
        refused(s.restore(), "--tcp-close")
        h.must(s.restore("--tcp-close"), "restore --tcp-close")
        free()
        gone(c)
        h.wait_until(lambda: len(s.events()) > 1, f"the server to see it: {s.events()}")
        s.finish(*[e for e in s.events() if not e.startswith("accepted")])


@case
def tcp_close_late():
    """Saved, but not wanted at the restore."""
    with server() as s:
        c = s.connect()
        say(c, b"one")
        s.dumped()
        h.must(s.restore("--tcp-close"), "restore --tcp-close")
        free()
        gone(c)
        h.wait_until(lambda: len(s.events()) > 1, f"the server to see it: {s.events()}")
        s.finish(*[e for e in s.events() if not e.startswith("accepted")])


if __name__ == "__main__":
    h.become_subreaper()
    if os.geteuid() != 0:
        print("skip: needs root")
        sys.exit(h.SKIP_CODE)
    try:
        h.own_network()
    except h.Skip as e:
        print(f"skip: {e}")
        sys.exit(h.SKIP_CODE)
    h.run_cases(CASES)
