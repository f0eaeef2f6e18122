#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A tmux server with three shells, each on a terminal of its own, one of them with a full-screen program. After each restore
the server answers its clients, and the shells answer the server: keys, contents of the panes, sizes, new windows."""
import os
import re
import subprocess

import real
from real import h

TMUX = None


class Server:
    def __init__(self, work):
        self.work, self.socket = work, f"{work}/socket"

    def __call__(self, *args):
        r = subprocess.run([TMUX, "-S", self.socket, *args], capture_output=True, text=True, timeout=20,
                           stdin=subprocess.DEVNULL, cwd=self.work)
        h.require(r.returncode == 0, f"tmux {' '.join(args)}: {r.stderr or r.stdout}")
        return r.stdout

    def pane(self, target):
        return self("capture-pane", "-p", "-t", target)

    def expect(self, target, pattern, seconds=10):
        try:
            return h.wait_until(lambda: re.search(pattern, self.pane(target), re.M), pattern, seconds, 0.02)
        except h.Failure as e:
            raise h.Failure(f"{e}; pane {target} shows: {self.pane(target)!r}") from None

    def type(self, target, text):
        self("send-keys", "-t", target, text, "Enter")


def test(work):
    global TMUX
    TMUX, bash = real.find("tmux"), real.find("bash")
    with open(f"{work}/rc", "w") as f:
        f.write("PS1='ready> '\nHISTFILE=\n")
    with open(f"{work}/conf", "w") as f:
        f.write(f"set -g exit-empty off\nset -g default-command '{bash} --rcfile {work}/rc -i'\nset -g default-size 90x30\n"
                "set -g status off\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("TMUX")}
    with real.Program(work, [TMUX, "-D", "-S", f"{work}/socket", "-f", f"{work}/conf"], env=dict(env, TERM="screen")) as p:
        h.wait_until(lambda: os.path.exists(f"{work}/socket"), "the server")
        tmux = Server(work)
        tmux("new-session", "-d", "-s", "main")
        tmux("split-window", "-t", "main:0")
        tmux("new-window", "-t", "main:1")
        panes = ("main:0.0", "main:0.1", "main:1.0")
        names = {}
        for pane in panes:
            tmux.expect(pane, "^ready>$")
            tmux.type(pane, "tty; stty size")
            names[pane] = tmux.expect(pane, r"^(/dev/pts/\d+)\n(\d+ \d+)$").groups()
        h.require(len({n[0] for n in names.values()}) == 3, f"terminals: {names}")
        # one has a job in the foreground and one in the background, one a program that draws
        tmux.type(panes[0], "clear; (while :; do echo tick; sleep 0.1; done >ticks) & echo started")
        tmux.type(panes[0], "sleep 1000")
        tmux.expect(panes[0], "^started$")
        tmux.type(panes[2], "seq 1000 >numbers; less numbers")
        tmux.expect(panes[2], r"\A1\n2\n3\n")
        top, rows = 1, 30
        for i in range(2):
            p.again(tasks=6)
            top += rows - 1
            tmux("send-keys", "-t", panes[2], "Space")
            tmux.expect(panes[2], rf"\A{top}\n")
            tmux.type(panes[1], f"clear; echo again $(({i} + 1)); tty; stty size")
            got = tmux.expect(panes[1], rf"^again {i + 1}\n(/dev/pts/\d+)\n(\d+ \d+)$").groups()
            h.require(got == names[panes[1]], f"{got} instead of {names[panes[1]]}")
            # another size reaches the program that draws
            rows = 20 + i
            tmux("resize-window", "-t", "main:1", "-x", "90", "-y", str(rows))
            tmux.expect(panes[2], rf"^{top + rows - 2}\n:$")
        size = os.path.getsize(f"{work}/ticks")
        h.wait_until(lambda: os.path.getsize(f"{work}/ticks") > size, "the job in the background to go on")
        tmux("send-keys", "-t", panes[0], "C-c")
        tmux.type(panes[0], "jobs")
        tmux.expect(panes[0], r"^\[1\].*Running")
        tmux("new-window", "-t", "main:2")
        tmux.expect("main:2.0", "^ready>$")
        tmux("kill-server")
        p.finish()
    return f"{p.tasks} processes"


real.own_terminals()
real.main(test)
