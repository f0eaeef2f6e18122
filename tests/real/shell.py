#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An interactive bash on a terminal of its own (script(1) holds the other end), with jobs in the background, in the
foreground and stopped. After each restore the shell's job control goes on: the same terminal, ^C and ^Z reach the right
job, bg and fg do what they should."""
import os
import re
import signal
import time

import real
from real import h

PROMPT = "ready> "


class Shell:
    def __init__(self, p, work):
        self.p, self.log, self.fifo, self.seen, self.n = p, f"{work}/log", f"{work}/keys", 0, 0

    def new(self):
        return h.read_text(self.log)[self.seen:].replace("\r", "")

    def keys(self, text):
        self.seen = len(h.read_text(self.log))
        with open(self.fifo, "w") as f:
            f.write(text)

    def expect(self, pattern, seconds=10):
        try:
            return h.wait_until(lambda: re.search(pattern, self.new(), re.M), pattern, seconds)
        except h.Failure as e:
            raise h.Failure(f"{e}; the terminal shows: {self.new()[-600:]!r}") from None

    def run(self, command, pattern):
        """A command, what it says, and the prompt again."""
        self.keys(command + "\n")
        found = self.expect(pattern)
        self.expect(rf"(?s){pattern}.*{PROMPT}$")
        return found

    def start(self, command, pattern="."):
        """One that stays in the foreground."""
        self.keys(command + "\n")
        self.expect(pattern)


def sleeper(root):
    return next(p for p in real.tree(root) if h.read_text(f"/proc/{p}/cmdline").startswith("sleep\0" + "1000"))


def test(work):
    script, bash = real.find("script"), real.find("bash")
    os.mkfifo(f"{work}/keys")
    with open(f"{work}/rc", "w") as f:
        f.write(f"PS1='{PROMPT}'\nHISTFILE=\n")
    shell = f"exec 3<>keys; exec {script} -q -f -c '{bash} --rcfile rc -i' log <&3 3<&-"
    env = dict(os.environ, TERM="dumb")
    with real.Program(work, ["sh", "-c", shell], env=env) as p:
        s = Shell(p, work)
        s.seen = 0
        s.expect(PROMPT)
        tty = s.run("tty", r"^(/dev/pts/\d+)$")[1]
        s.run("stty rows 30 cols 90; echo set", "^set$")
        s.run("ticks() { while :; do echo tick; sleep 0.05; done; }; echo defined", "^defined$")
        # a pipeline in the background, at the prompt
        s.run("ticks | cat >ticks & echo started", "^started$")
        p.again(tasks=4)
        h.require(s.run("tty", r"^(/dev/pts/\d+)$")[1] == tty, "another terminal")
        s.run("stty size", r"^30 90$")
        s.run("jobs", r"^\[1\].*Running .*ticks")
        size = os.path.getsize(f"{work}/ticks")
        h.wait_until(lambda: os.path.getsize(f"{work}/ticks") > size, "the pipeline in the background to go on")
        # one in the foreground, with something typed ahead
        s.start("echo begun; sleep 1000 | cat", "^begun$")
        time.sleep(0.2)
        with open(s.fifo, "w") as f:
            f.write("echo typed ahead\n")
        time.sleep(0.1)
        p.again(tasks=6)
        os.kill(sleeper(p.pid), signal.SIGTERM)
        s.expect(r"^typed ahead$")
        s.expect(PROMPT + "$")
        # the same, and ^C
        s.start("echo begun; sleep 1000 | cat", "^begun$")
        p.again(tasks=6)
        s.keys("\x03")
        s.expect(rf"\^C\n{PROMPT}$")
        # one that is stopped
        s.start("cat >copy", ".")
        s.keys("first\n")
        time.sleep(0.1)
        s.keys("\x1a")
        s.expect(r"Stopped.*cat > copy")
        s.expect(PROMPT + "$")
        p.again(tasks=5)
        s.run("jobs", r"^\[2\].*Stopped .*cat > copy")
        s.start("fg %2", "^cat > copy$")
        s.keys("second\n")
        time.sleep(0.1)
        # raw mode, by something that reads single keys
        s.keys("\x04")
        s.expect(PROMPT + "$")
        h.require(h.read_text(f"{work}/copy") == "first\nsecond\n", f"cat has copied {h.read_text(work + '/copy')!r}")
        s.start("read -rsn 3 -p 'keys? ' k; echo \"got $k\"", r"keys\? $")
        s.keys("ab")
        time.sleep(0.1)
        p.again(tasks=4)
        s.keys("c")
        s.expect("^got abc$")
        s.expect(PROMPT + "$")
        s.run("kill %1; wait 2>/dev/null; echo ended", "^ended$")
        s.keys("exit\n")
        p.finish()
    return f"{p.tasks} processes"


real.own_terminals()
real.main(test)
