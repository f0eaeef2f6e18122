#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Page servers with --tls: certificates of the right and of another authority, expired, revoked, for another name, none at
all, and peers that do not speak TLS. Needs certtool (gnutls-bin)."""
import os
import shutil
import socket
import struct
import subprocess
import tempfile

import harness as h
from bad_input import Bed, refused
from page_server import Peer, command, nothing_left, task

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


class Authority:
    """Certificates made once: {name: (certificate, key)}."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="ckpt-tls-")
        if not shutil.which("certtool"):
            raise h.Skip("no certtool (gnutls-bin)")
        self.made = {}
        self.authority("ca")
        self.authority("other-ca")
        self.certificate("server", dns="localhost", ip="127.0.0.1")
        self.certificate("client", dns="client.example")
        self.certificate("stranger", ca="other-ca", dns="localhost", ip="127.0.0.1")
        self.certificate("expired", dns="localhost", ip="127.0.0.1", life='activation_date = "2020-01-01 00:00:00 UTC"\n'
                         'expiration_date = "2021-01-01 00:00:00 UTC"\n')
        self.certificate("revoked", dns="localhost", ip="127.0.0.1")
        self.certificate("elsewhere", dns="elsewhere.example")
        self.tool("--generate-crl", "--load-ca-privkey", self.path("ca.key"), "--load-ca-certificate", self.path("ca.pem"),
                  "--load-certificate", self.path("revoked.pem"), template="crl_next_update = 3650\ncrl_number = 1\n", out="crl.pem")

    def path(self, name):
        return os.path.join(self.dir, name)

    def tool(self, *args, template=None, out):
        argv = ["certtool", *args, "--outfile", self.path(out)]
        if template is not None:
            with open(self.path("template"), "w") as f:
                f.write(template)
            argv += ["--template", self.path("template")]
        h.must(h.run(argv), " ".join(argv))

    def key(self, name):
        self.tool("--generate-privkey", "--key-type", "ecdsa", "--no-text", out=name + ".key")

    def authority(self, name):
        self.key(name)
        self.tool("--generate-self-signed", "--load-privkey", self.path(name + ".key"), "--no-text", out=name + ".pem",
                  template=f'cn = "{name}"\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 3650\n')

    def certificate(self, name, ca="ca", dns=None, ip=None, life="expiration_days = 3650\n"):
        self.key(name)
        self.tool("--generate-certificate", "--load-privkey", self.path(name + ".key"), "--load-ca-certificate", self.path(ca + ".pem"),
                  "--load-ca-privkey", self.path(ca + ".key"), "--no-text", out=name + ".pem",
                  template=f'cn = "{name}"\n{life}tls_www_server\ntls_www_client\nsigning_key\nencryption_key\n'
                  + (f'dns_name = "{dns}"\n' if dns else "") + (f'ip_address = "{ip}"\n' if ip else ""))

    def options(self, who, ca="ca", crl=True):
        return ["--tls", "--tls-cacert", self.path(ca + ".pem"), "--tls-cert", self.path(who + ".pem"), "--tls-key",
                self.path(who + ".key"), *(["--tls-cacrl", self.path("crl.pem")] if crl else [])]


_authority = []


def certs():
    if not _authority:
        _authority.append(Authority())
    return _authority[0]


def server(b, who="server", **kw):
    return h.PageServer(b.work + "/srv", "--ps-timeout", 10, *certs().options(who, **kw))


def to(srv, *args, address="localhost"):
    return ["-R", "--page-server", "--address", address, "--port", srv.port, "--ps-timeout", 10, *args]


def both_refuse(b, srv, dump, client_words, server_words):
    r = h.dump(b.pid, b.images, *dump)
    refused(r, *client_words)
    refused(srv.result(), *server_words)
    nothing_left(srv.folder)
    b.empty()


# -------------------------------------------------------------------------------------------------------------------

@case
def encrypted():
    with Bed("size", "20M,2,w") as b, server(b) as srv:
        h.must(h.dump(b.pid, b.images, *to(srv, *certs().options("client"))), "dump")
        h.must(srv.result(), "the server")
        h.require(os.path.getsize(srv.folder + "/pages-65537.img") > 20 << 20, "pages are missing")


@case
def restored_from_what_was_encrypted():
    with h.Workdir() as w, h.Target(w, "mem", "anon") as t:
        t.ready()
        with h.PageServer(w + "/srv", *certs().options("server")) as srv:
            h.must(h.dump(t.pid, w + "/images", *to(srv, *certs().options("client"), address="127.0.0.1")[1:]), "dump")
            h.must(srv.result(), "the server")
        t.reap()
        srv.bring(w + "/images")
        h.must(h.ckpt("restore", "-D", w + "/images", "-d"), "restore")
        t.go()


@case
def nothing_is_readable_on_the_way():
    """Someone in the middle sees neither commands nor pages."""
    seen = bytearray()

    def tap(peer, s):
        with socket.create_connection(("127.0.0.1", peer.to)) as far:
            s.settimeout(0.05)
            far.settimeout(0.05)
            ends = {s: far, far: s}
            while not peer.over.is_set():
                for one, other in ends.items():
                    try:
                        data = one.recv(1 << 16)
                    except socket.timeout:
                        continue
                    if not data:
                        return
                    seen.extend(data)
                    other.sendall(data)

    with Bed() as b, server(b) as srv, Peer(tap) as peer:
        peer.to = srv.port
        h.must(h.dump(b.pid, b.images, *to(peer, *certs().options("client"))), "dump")
        h.must(srv.result(), "the server")
        h.require(len(seen) > 100000, "nothing came along")
        h.require(bytes(command(4, dst_id=task(b.pid))) not in seen, "a command can be read")
        with open(srv.folder + "/pages-65537.img", "rb") as f:
            page = next(p for p in iter(lambda: f.read(4096), b"") if p.count(0) < 2000)
        h.require(page[:64] not in seen, "a page can be read")


@case
def of_another_authority():
    with Bed() as b, server(b) as srv:
        both_refuse(b, srv, to(srv, *certs().options("stranger")), ["page server"], [("certificate is not accepted", "no certificate")])
    with Bed() as b, server(b, "stranger") as srv:
        both_refuse(b, srv, to(srv, *certs().options("client")), ["certificate is not accepted"], ["refused"])


@case
def expired():
    with Bed() as b, server(b, "expired") as srv:
        both_refuse(b, srv, to(srv, *certs().options("client")), ["not accepted", "expired"], ["refused"])
    with Bed() as b, server(b) as srv:
        both_refuse(b, srv, to(srv, *certs().options("expired")), ["page server"], ["not accepted", "expired"])


@case
def revoked():
    with Bed() as b, server(b, "revoked") as srv:
        both_refuse(b, srv, to(srv, *certs().options("client")), ["not accepted", "revoked"], ["refused"])
    with Bed() as b, server(b) as srv:
        both_refuse(b, srv, to(srv, *certs().options("revoked")), ["page server"], ["not accepted", "revoked"])


@case
def for_another_name():
    with Bed() as b, server(b, "elsewhere") as srv:
        both_refuse(b, srv, to(srv, *certs().options("client")), ["not accepted", "name"], ["refused"])
    with Bed() as b, server(b, "elsewhere") as srv:
        h.must(h.dump(b.pid, b.images, *to(srv, *certs().options("client"), "--tls-no-cn-verify")), "without comparing names")
        h.must(srv.result(), "the server")


@case
def only_one_side():
    with Bed() as b, server(b) as srv:  # the client speaks plainly
        both_refuse(b, srv, to(srv), ["--tls"], ["does not speak tls"])
    with Bed() as b, h.PageServer(b.work + "/srv") as srv:
        both_refuse(b, srv, to(srv, *certs().options("client")), ["tls"], ["speaks tls", "--tls"])


@case
def cut_off_inside():
    """A connection that ends without a good-bye is no end of the stream."""
    def cut(peer, s):
        with socket.create_connection(("127.0.0.1", peer.to)) as far:
            s.settimeout(0.05)
            far.settimeout(0.05)
            passed = 0
            while passed < 300000:
                for one, other in ((s, far), (far, s)):
                    try:
                        data = one.recv(1 << 16)
                    except socket.timeout:
                        continue
                    if not data:
                        return
                    passed += len(data)
                    other.sendall(data)

    with Bed("size", "20M,2,w") as b, server(b) as srv, Peer(cut) as peer:
        peer.to = srv.port
        refused(h.dump(b.pid, b.images, *to(peer, *certs().options("client"))), "page server")
        refused(srv.result(), "peer at 127.0.0.1")
        nothing_left(srv.folder)
        b.empty()


@case
def files_that_are_wrong():
    with Bed() as b:
        ok = certs().options("client")
        for i, name in ((2, "nothing.pem"), (4, "nothing.pem"), (6, "nothing.key"), (8, "nothing.crl")):
            args = [*ok]
            args[i] = name
            with h.PageServer(b.work + "/srv") as srv:
                refused(h.dump(b.pid, b.images, *to(srv, *args)), name, "cannot be used")
        args = [*ok]
        args[6] = certs().path("server.key")  # of another certificate
        with h.PageServer(b.work + "/srv") as srv:
            refused(h.dump(b.pid, b.images, *to(srv, *args)), "server.key", "cannot be used")
        refused(h.ckpt("page-server", "-D", b.images, "--port", 0, *args), "server.key", "cannot be used")
        b.empty()


@case
def pages_on_demand_encrypted():
    from page_server import Checkpoint
    with Checkpoint() as c:
        with h.PageServer(c.images, "--lazy-pages", *certs().options("server")) as srv:
            import ssl
            ctx = ssl.create_default_context(cafile=certs().path("ca.pem"))
            ctx.load_cert_chain(certs().path("client.pem"), certs().path("client.key"))
            with socket.create_connection(("127.0.0.1", srv.port)) as raw, ctx.wrap_socket(raw, server_hostname="localhost") as s:
                start = min(c.pages)
                for _ in range(3):
                    s.sendall(command(7, 1, start, c.pid))
                    got = b""
                    while len(got) < 32 + 4096:
                        got += s.recv(1 << 16)
                    h.require(struct.unpack("<IIQQQ", got[:32]) == (0x40006, 0, 1, start, c.pid), "a wrong reply")
                    h.require(got[32:] == c.pages[start], "a wrong page")
                s.sendall(command(0x1023))
                h.require(s.recv(4) == bytes(4), "status")
                s.unwrap()
            h.must(srv.result(), "the server")


@case
def without_the_library():
    """GnuTLS is loaded when it is asked for, and missed only then."""
    with Bed() as b:
        maps = subprocess.run(["ldd", h.CKPT], capture_output=True, text=True, check=False).stdout
        h.require("gnutls" not in maps, "linked to GnuTLS")
        hide = ("for l in /usr/lib/*/libgnutls.so.30 /lib/*/libgnutls.so.30; do [ -e $l ] && mount --bind /dev/null $(readlink -f $l); done;"
                " exec \"$0\" \"$@\"")
        hidden = ["unshare", "--mount", "sh", "-c", hide]
        refused(h.run([*hidden, h.CKPT, "page-server", "-D", b.images, "--port", "0", *certs().options("server")]), "libgnutls.so.30", "install")
        b.empty()
        with h.PageServer(b.work + "/plain", wrapper=hidden) as plain:
            h.must(h.dump(b.pid, b.images, *to(plain)), "dump")
            h.must(plain.result(), "a server without TLS")


if __name__ == "__main__":
    try:
        h.run_cases(CASES)
    finally:
        for a in _authority:
            shutil.rmtree(a.dir, ignore_errors=True)
