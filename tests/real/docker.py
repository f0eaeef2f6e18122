#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of docker, by `docker checkpoint create` and `docker start --checkpoint`, with ckpt as criu. docker.py [CASE...]"""
import runtimes
from runtimes import h


def place(fn):
    """A case with a daemon that has an image."""
    def case():
        with h.Workdir("ckpt-docker-") as work, runtimes.Site(work) as site:
            docker = runtimes.Docker(site)
            docker.image()
            fn(docker)
    case.__name__ = fn.__name__
    return case


def start(docker, c, name):
    """containerd may still have the contents of the checkpoint that docker gives it anew, and refuses them until it has cleaned up."""
    def started():
        r = docker.call("start", "--checkpoint", name, c.id, must=False)
        if r.rc != 0 and "already exists" in r.out:
            return False
        return h.must(r, "docker start --checkpoint")
    h.wait_until(started, "containerd to clean up", 60, 1)


def checkpoint(docker):
    """Ended and started from its checkpoint, twice; docker's default seccomp profile is on."""
    c = docker.start(runtimes.Shell())
    for i in range(2):
        c.app.before(c)
        docker.call("checkpoint", "create", c.id, f"c{i}")
        h.wait_until(lambda: not c.running(), "the container to end", 20)
        start(docker, c, f"c{i}")
        c.check()
    listed = docker.call("checkpoint", "ls", c.id).out
    h.require("c0" in listed and "c1" in listed, f"checkpoints: {listed}")


def leave_running(docker):
    """Goes on; ended, it starts from there."""
    c = docker.start(runtimes.Shell())
    pid = c.pid()
    c.app.before(c)
    docker.call("checkpoint", "create", "--leave-running", c.id, "one")
    h.require(c.pid() == pid, "another process")
    c.check()
    docker.call("kill", c.id)
    h.wait_until(lambda: not c.running(), "the container to end", 20)
    start(docker, c, "one")
    c.check()


CASES = [place(f) for f in (checkpoint, leave_running)]

if __name__ == "__main__":
    h.run_cases(CASES)
