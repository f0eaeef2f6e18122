#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A long-lived connection on which nobody says anything, as of an SSH session, with keepalive on both sides. It is alive after a
while of silence; and the probes are really sent: when the peer vanishes without a word the program hears of it.

By hand, with `minute` as argument: settings as people have them, and silence for a minute."""
import sys

import network
import real
from real import h

SLOW = "minute" in sys.argv[1:]
IDLE, INTERVAL, PROBES, SILENCE = (15, 5, 3, 65) if SLOW else (2, 1, 4, 5)
END = r"""
import errno, socket, sys
def prepare(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(sys.argv[1]))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(sys.argv[2]))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(sys.argv[3]))
"""
# Sends back what it gets, in capitals. With the last connection it goes.
SERVER = END + r"""
import threading
l = socket.create_server(("127.0.0.1", 0))
print("port", l.getsockname()[1], flush=True)
def serve(s, n):
    try:
        while (data := s.recv(1000)):
            s.sendall(data.upper())
        print("end", n, flush=True)
    except OSError as e:
        print("error", n, errno.errorcode[e.errno], flush=True)
def accept(n):
    s, _ = l.accept()
    prepare(s)
    t = threading.Thread(target=serve, args=(s, n))
    t.start()
    return t
for t in [accept(n) for n in range(2)]:
    t.join()
"""
CLIENT = END + r"""
s = socket.create_connection(("127.0.0.1", int(sys.argv[4])))
prepare(s)
print(s.getsockname()[1], flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(1000).decode().strip(), flush=True)
s.shutdown(socket.SHUT_WR)
assert s.recv(1) == b""
print("ended")
"""


def say(c, text):
    c.p.stdin.write(text.encode() + b"\n")
    c.p.stdin.flush()
    got = c.line()
    h.require(got == text.upper(), f"the answer to {text} is {got}")


def vanish(port):
    """From now on nothing of it passes; not even what says so."""
    h.must(h.run(["nft", f"add table inet test; add chain inet test out {{ type filter hook output priority 0; }}; "
                  f"add rule inet test out tcp sport {port} drop; add rule inet test out tcp dport {port} drop"]), "nft")


def test(work):
    settings = (IDLE, INTERVAL, PROBES)
    with network.Program(work, [real.find("python3"), "-c", SERVER, *map(str, settings)]) as p:
        p.wait_for(lambda t: "port" in t, "the server")
        stays, goes = (p.client(CLIENT, *settings, p.text().split()[1]) for _ in range(2))
        ports = [c.line() for c in (stays, goes)]
        say(stays, "one"), say(goes, "one")
        p.running()
        p.again(1)
        real.time.sleep(SILENCE)
        h.require("error" not in p.text(), f"the server: {p.text()}")
        say(stays, "two"), say(goes, "two")
        p.again(IDLE + 1)  # probes come while nobody is there
        real.time.sleep(SILENCE)
        h.require("error" not in p.text(), f"the server: {p.text()}")
        say(stays, "three")
        vanish(ports[1])
        start = real.time.monotonic()
        p.wait_for(lambda t: "error" in t, "the server to miss its client", IDLE + (PROBES + 3) * INTERVAL + 5)
        took = real.time.monotonic() - start
        h.require("ETIMEDOUT" in p.text(), f"the server: {p.text()}")
        goes.kill()
        say(stays, "four")
        h.require(stays.stop() == "ended", "not ended well")
        p.finish()
        return f"silence for {SILENCE} s; a peer that vanished was missed after {took:.1f} s"


if __name__ == "__main__":
    network.main(test)
