#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""nginx, master and workers, in the middle of a large download by clients that read slowly, within the tree and outside;
and connections that are kept between two requests. What arrives is the file, to the byte."""
import hashlib
import os
import pwd
import re

import network
import real
from real import h

PORT, SIZE = 8080, 48 << 20
CONF = """
daemon off;
user USER;
worker_processes 2;
pid WORK/nginx.pid;
error_log WORK/error.log notice;
events { worker_connections 256; }
http {
	access_log off;
	default_type application/octet-stream;
	sendfile SENDFILE;
	keepalive_timeout 75;
	client_body_temp_path WORK/t1; proxy_temp_path WORK/t2; fastcgi_temp_path WORK/t3; uwsgi_temp_path WORK/t4; scgi_temp_path WORK/t5;
	server { listen 127.0.0.1:PORT SHARED; listen [::1]:PORT SHARED; root WORK/www; }
}
"""
# Reads a file over a connection with a small window, so that nginx waits for it; slowly, to the end or until its input ends.
SLOW = r"""
import hashlib, select, socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 60000)
s.connect((sys.argv[1], int(sys.argv[2])))
s.sendall(b"GET /" + sys.argv[3].encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
f = s.makefile("rb")
status, length = f.readline(), None
while (line := f.readline().strip()):
    if line.lower().startswith(b"content-length:"):
        length = int(line.split()[1])
assert b" 200 " in status, status
sha, got, slow = hashlib.sha256(), 0, True
print("begun", flush=True)
while (data := f.read1(16384)):
    sha.update(data)
    got += len(data)
    if slow:
        time.sleep(0.005)
        slow = sys.argv[3] == "medium" or not select.select([0], [], [], 0)[0]
print(sha.hexdigest(), got == length)
"""
# One connection on which a request is made for every line of input.
KEPT = r"""
import hashlib, http.client, sys
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
c.connect()
name = c.sock.getsockname()
for line in sys.stdin:
    c.request("GET", "/small")
    r = c.getresponse()
    print(r.status, hashlib.sha256(r.read()).hexdigest(), c.sock is not None and c.sock.getsockname() == name, flush=True)
"""
TREE = r"""
"$1" -p "$PWD" -c nginx.conf &
server=$!
until curl -sf http://127.0.0.1:PORT/small -o /dev/null; do sleep 0.05; done
echo ready
/usr/bin/python3 slow.py 127.0.0.1 PORT medium
read -r line <go
kill -QUIT $server
wait $server
echo stopped $?
"""


def ask(client):
    client.p.stdin.write(b"\n")
    client.p.stdin.flush()
    return client.line()


def prepare(work, reuseport, sendfile):
    os.mkdir(os.path.join(work, "www"))
    sums = {}
    for name, size in (("large", SIZE), ("medium", 6 << 20), ("small", 5000)):
        data = hashlib.shake_256(name.encode()).digest(size)
        sums[name] = hashlib.sha256(data).hexdigest()
        with open(os.path.join(work, "www", name), "wb") as f:
            f.write(data)
    conf = CONF.replace("WORK", work).replace("USER", "nobody " + real_group()).replace("PORT", str(PORT))
    with open(os.path.join(work, "nginx.conf"), "w") as f:
        f.write(conf.replace("SHARED", "reuseport" if reuseport else "").replace("SENDFILE", sendfile))
    with open(os.path.join(work, "slow.py"), "w") as f:
        f.write(SLOW)
    os.mkfifo(os.path.join(work, "go"))
    return sums


def real_group():
    import grp
    return grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name


def once(work, reuseport, sendfile):
    os.mkdir(work)
    os.chmod(work, 0o755)
    sums = prepare(work, reuseport, sendfile)
    with network.Program(work, [real.find("bash"), "-c", TREE.replace("PORT", str(PORT)), "tree", real.find("nginx", "/usr/sbin")]) as p:
        p.wait_for(lambda t: "ready" in t, "the server")
        kept = [p.client(KEPT, PORT) for _ in range(3)]
        want = f"200 {sums['small']} True"
        h.require([ask(c) for c in kept[:2]] == [want] * 2, "a small file is wrong")
        slow = [p.client(SLOW, a, PORT, "large") for a in ("127.0.0.1", "::1")]
        for c in slow:
            h.require(c.line() == "begun", "no download")
        for gap in (0.1, 2):
            real.time.sleep(0.3)
            p.running()
            p.again(gap, tasks=4)
            for c in slow:
                c.well()
            h.require([ask(c) for c in kept] == [want] * 3, "a small file is wrong after the restore")
        later = p.client(SLOW, "127.0.0.1", PORT, "large")
        h.require(later.line() == "begun", "no new connection")
        for c in [later, *slow]:
            h.require(c.p.poll() is None, "a download has ended too early")
            said = c.stop()
            h.require(said == f"{sums['large']} True", f"downloaded: {said}, not {sums['large']}")
        p.wait_for(lambda t: "True" in t, "the download in the tree", 60)
        for c in kept:
            c.stop()
        with open(os.path.join(work, "go"), "w") as f:
            f.write("go\n")
        p.finish()
        words = p.text().split()
        h.require(words[:4] == ["ready", "begun", sums["medium"], "True"] and words[-2:] == ["stopped", "0"], f"its last words: {p.text()[-300:]}")
        log = h.read_text(os.path.join(work, "error.log"))
        h.require(not re.search(r"\[(error|alert|crit|emerg|warn)\]", log), f"the server: {log[-2000:]}")
        return p.tasks


def test(work):
    os.chmod(work, 0o755)
    return f"{once(work + '/one', False, 'on')} and {once(work + '/two', True, 'off')} processes"


if __name__ == "__main__":
    network.main(test)
