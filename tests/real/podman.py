#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of podman, checkpointed and restored by it with ckpt as its criu. podman.py [CASE...]"""
import json
import os
import re

import runtimes
from runtimes import h


def place(fn):
    """A case with a podman that has an image."""
    def case():
        with h.Workdir("ckpt-podman-") as work, runtimes.Site(work) as site:
            podman = runtimes.Podman(site)
            podman.image()
            fn(podman)
    case.__name__ = fn.__name__
    return case


def checkpoint(podman):
    """Twice, with what it prints of the engine's figures."""
    c = podman.start(runtimes.Shell())
    for options in ([], ["--print-stats"]):
        c.app.before(c)
        said = podman.call("container", "checkpoint", *options, c.id).out
        h.require(not c.running(), "runs on after the checkpoint")
        figures(said, options, "freezing_time", "frozen_time", "pages_written")
        said = podman.call("container", "restore", *options, c.id).out
        figures(said, options, "restore_time")
        c.check()


def figures(text, options, *names):
    if not options:
        return
    got = json.loads(text[text.index("{"):])
    text = json.dumps(got)
    for name in names:
        h.require(re.search(rf'"{name}": \d+', text), f"no {name} in {text}")


def leave_running(podman):
    c = podman.start(runtimes.Shell())
    pid = c.pid()
    c.app.before(c)
    podman.call("container", "checkpoint", "--leave-running", c.id)
    h.require(c.pid() == pid, "another process")
    c.check()


def export(podman):
    """To a file, and from it under the old name and under another."""
    c = podman.start(runtimes.Shell())
    c.app.before(c)
    path = os.path.join(podman.dir, "c.tar.gz")
    podman.call("container", "checkpoint", "--export", path, c.id)
    podman.call("rm", "-f", c.id)
    podman.call("container", "restore", "--import", path)
    c.check()
    podman.call("rm", "-f", "-t", "0", c.id)
    other = podman.site.name("other")
    podman.names.append(other)
    podman.call("container", "restore", "--import", path, "--name", other)
    c.id = other
    c.check()


def pre_checkpoint(podman):
    """--pre-checkpoint, then one upon it."""
    c = podman.start(runtimes.Shell())
    path = os.path.join(podman.dir, "pre.tar.gz")
    podman.call("container", "checkpoint", "--pre-checkpoint", "--export", path, c.id)
    h.require(c.running(), "ended by a pre-checkpoint")
    c.app.before(c)
    podman.call("container", "checkpoint", "--with-previous", "--export", path + "2", c.id)
    podman.call("rm", "-f", c.id)
    podman.call("container", "restore", "--import", path + "2", "--import-previous", path)
    c.check()


def tty(podman):
    """With a terminal: conmon gets the new master."""
    c = podman.start(runtimes.Shell(), "-t")
    c.app.before(c)
    podman.call("container", "checkpoint", c.id)
    podman.call("container", "restore", c.id)
    c.check()


CASES = [place(f) for f in (checkpoint, leave_running, export, pre_checkpoint, tty)]

if __name__ == "__main__":
    h.run_cases(CASES)
