#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The network lock as a user meets it: --network-lock, ckpt lock, ckpt unlock. What it holds is tested by unit/test_netlock."""
import json
import os
import shutil
import sys
import time

import harness as h
import network_bad as nb
from network_bad import EST

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def iptables():
    """The rules of both families, without counters and dates."""
    text = ""
    for program in ("iptables-save", "ip6tables-save"):
        if not shutil.which(program):
            raise h.Skip(f"no {program}")
        text += "".join(f"{program}: {line}\n" for line in h.must(h.run([program]), program).out.splitlines()
                        if line.startswith("-"))
    return text


def unlock(*args, rc=0):
    r = h.ckpt("unlock", *args)
    h.require(r.rc == rc, f"ckpt unlock {args}: {r}")
    return r.out


@case
def by_iptables():
    """Rules for each connection, beside those that are there; the restore removes its own."""
    rules = ["-s", "10.9.8.7", "-j", "DROP"]
    for address in ("127.0.0.1", "::1"):
        with nb.server(address) as s:
            h.must(h.run(["iptables", "-A", "INPUT", *rules]), "iptables")
            before = iptables()
            c, d = s.connect(), s.connect()
            nb.say(c, b"one"), nb.say(d, b"one")
            h.must(s.dump(EST, "-R", "--network-lock", "iptables"), "dump -R")
            h.require(iptables() == before, f"rules after dump -R: {iptables()}")
            nb.say(c, b"two")
            s.images += "2"
            h.must(s.dump(EST, "--network-lock", "iptables"), "dump")
            s.t.reap()
            nb.free()
            during = iptables()
            h.require(during.count(f"--dport {s.port} ") == 2 and during.count("0xc114") == 4, f"rules after the dump: {during}")
            c.sendall(b"three")
            time.sleep(0.5)
            nb.quiet(c)
            # A restore that fails leaves them.
            nb.refused(s.restore(EST, "--fault-stage", "release"), "release")
            h.require(iptables() == during, f"rules after a restore that failed: {iptables()}")
            s.restored()
            h.require(nb.receive(c, 5) == b"three", "something else")
            nb.say(d, b"four")
            h.require(iptables() == before, f"rules after the restore: {iptables()}")
            s.finish()


@case
def by_iptables_fails():
    with nb.server() as s:
        before = iptables()
        c = s.connect()
        nb.say(c, b"one")
        for n, stage in enumerate(("ipc", "keep", "commit")):
            nb.refused(s.dump(EST, "--network-lock", "iptables", "--fault-stage", stage), stage)
            h.require(iptables() == before, f"rules after a dump that failed at {stage}: {iptables()}")
            nb.say(c, b"%d" % n)
        h.must(s.dump(EST, "--network-lock=iptables"), "dump")
        s.t.reap()
        unlock("-D", s.images)
        h.require(iptables() == before, f"rules after unlock: {iptables()}")
        unlock("-D", s.images, rc=2)


@case
def none():
    """Said, and nothing is held."""
    for word in ("none", "skip"):
        with nb.server() as s:
            c = s.connect()
            nb.say(c, b"one")
            r = h.must(s.dump(EST, "--network-lock", word), "dump")
            h.require("not held" in r.out, f"no warning: {r}")
            s.t.reap()
            nb.free()
            nb.quiet(c)
            s.restored()
            nb.say(c, b"two")
            s.finish()


@case
def option_of_a_restore():
    with nb.server() as s:
        c = s.connect()
        nb.say(c, b"one")
        s.dumped()
        r = h.must(s.restore(EST, "--network-lock", "iptables"), "restore")
        h.require("no effect" in r.out, f"no warning: {r}")
        nb.free()
        nb.say(c, b"two")
        s.finish()


@case
def abandoned():
    """ckpt unlock: by folder, by id, all; the peer then learns that nobody is there."""
    for how in ("folder", "id", "all"):
        with nb.server() as s:
            c = s.connect()
            nb.say(c, b"one")
            unlock("-D", ".", rc=1)
            h.require(unlock("--list") == "", "a lock before the dump")
            s.dumped()
            name = h.network_locks()[0][len("CRIU-"):]
            h.require(unlock("--list") == name + "\n", "the list does not have it")
            listed = json.loads(unlock("--list", "--json"))
            h.require(listed["ok"] and listed["locks"] == [{"id": name, "in_use": False}], f"list: {listed}")
            nb.refused(h.ckpt("unlock", "12345678", "--list"), "one of")
            unlock("12345678", rc=2)
            out = unlock("--json", *{"folder": ["-D", s.images], "id": [name], "all": ["--all"]}[how])
            o = json.loads(out)
            h.require(o["ok"] and o["command"] == "unlock" and o["error"] is None, f"unlock --json: {o}")
            h.require(o["removed"] == [None if how == "folder" else name], f"unlock --json: {o}")
            nb.free()
            nb.gone(c)
            h.require("nothing to unlock" in unlock("-D", s.images, rc=2), "silent where there is nothing")
            h.require(json.loads(unlock("--json", "--all", rc=2))["removed"] == [], "removed nothing")


@case
def on_another_host():
    """ckpt lock: what comes before the restore is not answered."""
    with nb.server() as s:
        c = s.connect()
        nb.say(c, b"one")
        s.dumped()
        unlock("-D", s.images)  # this is the other host now; nothing has come yet
        o = json.loads(h.must(h.ckpt("lock", "-D", s.images, "--json"), "lock").out)
        h.require(o["ok"] and o["connections"] == 1 and not o["was_locked"], f"lock --json: {o}")
        h.require("locked already: 1 connection" in h.must(h.ckpt("lock", "-D", s.images), "lock again").out, "not said")
        c.sendall(b"two")
        time.sleep(0.7)
        nb.quiet(c)
        with nb.Holder(s.port):
            nb.refused(s.restore(EST), "in use")
        h.require(len(h.network_locks()) == 1, "the failed restore has removed it")
        s.restored()
        h.require(nb.receive(c, 3) == b"two", "something else")
        s.finish()


@case
def nothing_to_lock():
    with h.Workdir() as w, h.Target(w, "tcp", "unconnected") as t:
        t.ready()
        h.must(h.dump(t.pid, w + "/i"), "dump")
        t.reap()
        nb.free()
        nb.refused(h.ckpt("lock", "-D", w + "/i"), "no TCP connections")
        unlock("-D", w + "/i", rc=2)
        nb.refused(h.ckpt("lock", "-D", w), "not a checkpoint")


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
