#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tcpdump, with a ring of the kernel's (TPACKET_V3) and a filter, checkpointed three times: it has every packet that was sent while
it existed, once, in order. In a network namespace of its own."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import harness as h

SELF = "--self" in sys.argv[1:]


class Sender:
    def __init__(self):
        self.s, self.n = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0

    def send(self, count):
        for _ in range(count):
            self.s.sendto(b"packet %06d" % self.n, ("127.0.0.1", 9999))
            self.s.sendto(b"filtered away", ("127.0.0.1", 9998))
            self.n += 1


def every_packet():
    if not shutil.which("tcpdump"):
        raise h.Skip("no tcpdump")
    h.must(h.run(["ip", "link", "set", "lo", "up"]), "ip link set lo up")
    with h.Workdir() as w:
        with open(w + "/said", "wb") as said:
            p = subprocess.Popen(["tcpdump", "-Z", "root", "-i", "lo", "-n", "-U", "-w", w + "/packets", "udp port 9999"], cwd=w,
                                 stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        sender = Sender()
        try:
            h.wait_until(lambda: "listening" in h.read_text(w + "/said"), "tcpdump")
            sender.send(1000)
            for i in range(3):
                time.sleep(i / 2) # its blocks are passed on each second
                sender.send(50)
                if not SELF:
                    h.must(h.dump(p.pid, f"{w}/{i}"), "dump")
                    h.reap(p.pid)
                    h.must(h.ckpt("restore", "-d", "-D", f"{w}/{i}"), "restore")
                sender.send(500)
            time.sleep(1.5)
            os.kill(p.pid, signal.SIGINT)
            h.reap(p.pid)
        finally:
            h.kill_hard(p.pid)
            p.returncode = 0
        text = subprocess.run(["tcpdump", "-n", "-A", "-r", w + "/packets"], capture_output=True, text=True).stdout
        got = [int(n) for n in re.findall(r"packet (\d{6})", text)]
        h.require(got == list(range(sender.n)), f"{len(got)} packets of {sender.n}, {len(set(got))} of them once; "
                  f"missing: {sorted(set(range(sender.n)) - set(got))[:20]}")


if __name__ == "__main__":
    sys.argv = [a for a in sys.argv if a != "--self"]
    h.run_cases([every_packet])
