#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Our images beside the reference engine's: the golden program is dumped here, and
  1. Debian's crit decodes every image (it drops fields newer than itself, so this proves framing and types only);
  2. with the complete schema, field by field, ours say what the golden set says for the same program;
  3. the golden images decode with our schema without a field it does not know;
  4. what the reference engine wrote, we restore (golden/check-restore).

Runs in a mount namespace of its own, with private /tmp/ckpt-golden and /opt/ckpt-golden. Needs the reference material
(CKPT_SHARED); without it: skipped.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

import harness as h
import images as im

GOLDEN = os.path.join(h.SHARED, "golden")
MODES = ("memory", "threads", "signals", "files", "events", "pty", "unix", "tcp", "shm")
# Of these the fields hold an entry a task where we have one for all.
ALSO_RESTORED = ("tree",)

# Values that cannot be the same in two runs. The field must be there in both, its value is not compared.
VALUES = {
    # numbers the kernel gives out
    r"\.?(pid|ppid|pgid|sid|pgrp|threads)(\[\d+\])?$": "PIDs",
    r"thread_info\.(clear_tid_addr|gpregs\.(bp|bx|[sd]i|sp|[abcd]x|r\d+|fs_base|ip|flags))$": "addresses in registers",
    r"thread_info\.fpregs\.(st_space|xmm_space|rip|rdp|fop|xsave\..*)": "what the C library last did with vector registers",
    r"fpregs\.mxcsr_mask$": "which bits this processor has",
    r"(futex_rla|sas\.ss_sp|rseq_abi_pointer)$": "addresses",
    r"(mm_\w+|aux|mm_saved_auxv)(\[\d+\])?$": "addresses; length of arguments and environment",
    r"(^|\.)(shmid|pipe_id|ino|dev|rdev|index|inode_id|peer)$": "inode, device and terminal numbers, and ids made from them",
    r"(id|orig_id|remap_id|exe_file_id|cwd_id|root_id|fd_id|pages_id|id_for|rights\[\d+\])$": "ids are the writer's choice; what they lead to is compared",
    r"(^|\.)(atim|mtim)\.tv_u?sec$": "times of files",
    r"^(monotonic|boottime)\.tv_n?sec$": "when the dump was made",
    r"(timers\..*|tfd)\.(vsec|vusec|vnsec)$": "time left",
    r"epfd\.tfd\[\d+\]\.(data|inode|tfd)$": "the kernel shows entries in the order of addresses",
    r"(i_ino|s_dev|f_handle\.(bytes|type|handle\[\d+\]))$": "inode, device and handle numbers of another file system",
    r"dump_criu_run_id$": "random",
    r"network_lock_method$": "nothing to lock without sockets: ours says so; with them ours locks by nftables",
    r"(^inq_seq|^outq_seq|^timestamp|snd_wl1|rcv_wup)$": "sequence numbers and clocks of a connection",
    r"isk\.(src|dst)_port$": "one of them the kernel gives out; which socket has which is in the key",
    r"siginfo$": "holds the PID of the sender; signal and value are compared as 'sig'",
    r"tc\.flags$": "accounting flags of the kernel (which differ by who started the program)",
    r"sched_(nice|policy)$": "inherited from whoever starts the program",
    r"tc\.(loginuid|oom_score_adj)$": "inherited",
    r"creds\.(cap_\w+)(\[\d+\])?$": "inherited: what this machine's root may",
    r"rlimits\[\d+\]\.(cur|max)$": "inherited, but for the one the program sets",
}

# Fields that one side may have and the other not.
PRESENCE = {
    r"root_cg_set|cg_set$": "cgroups: recorded there for one cgroup set; ours says none is handled",
    r"plugins_entry|dump_criu_run_id|network_lock_method|dump_uptime": "of the reference engine's own machinery",
    r"fpregs\.xsave\.": "components differ by processor (CET) and by moment",
    r"mm_saved_auxv": "length",
    r"lsm_profile|lsmtype": "security module",
    r"membarrier_registration_mask": "newer than the reference set",
    r"thread_info\.tls": "unused for 64-bit tasks",
}


def known(path, table):
    return any(re.search(k, path) for k in table)


def flatten(m, path="", out=None):
    """{path: value} of every field that is present."""
    out = {} if out is None else out
    for field, value in m.ListFields():
        here = f"{path}.{field.name}" if path else field.name
        repeated = field.label == field.LABEL_REPEATED
        message = field.type == field.TYPE_MESSAGE
        if repeated:
            out[here + "[]"] = len(value)
            for i, v in enumerate(value):
                if message:
                    flatten(v, f"{here}[{i}]", out)
                else:
                    out[f"{here}[{i}]"] = v
        elif message:
            out[here] = "{}"
            flatten(value, here, out)
        else:
            out[here] = value
    return out


def enrich(name, m, flat):
    """What stands for values that are not compared."""
    if name == "mm":
        # areas in any order (where the kernel puts them depends on chance), with their sizes instead of addresses; heap
        # and stack are as big as environment and chance make them
        for path in [p for p in flat if p.startswith("vmas[")]:
            if path != "vmas[]":
                del flat[path]
        areas = []
        for v in m.vmas:
            fields = {f.name: x for f, x in v.ListFields() if f.name not in ("start", "end", "shmid")}
            if not v.flags & 0x100 and not v.status & 0x20:
                fields["size"] = v.end - v.start
            areas.append(", ".join(f"{k}={x:#x}" if isinstance(x, int) and x >= 0 else f"{k}={x}"
                                   for k, x in sorted(fields.items())))
        flat["areas"] = sorted(areas)
    if name == "tty-info":  # 32 bytes of characters, then whatever the reference engine had in memory
        for path in [p for p in flat if re.search(r"c_cc\[([89]|1\d)\]$", p)]:
            del flat[path]
    if name == "core" and m.HasField("tc"):
        for i, s in enumerate(m.tc.signals_s.signals):
            raw = s.siginfo
            flat[f"tc.signals_s[{i}].sig"] = (raw[0:4], raw[8:12], raw[24:32])
        for i in (1, 2):  # the golden sets were made in the background of a shell, which ignores these two
            flat.pop(f"tc.sigactions[{i}].sigaction", None)
    return flat


def kind(path):
    return re.sub(r"(-[0-9a-f]+)?\.img$", "", os.path.basename(path))


def tcp_roles(folder):
    """{inode: which socket it is}; the port is that of the listener."""
    return {m.isk.ino: f"TCP state {m.isk.state}" + (" server" if m.isk.src_port == 45871 else " client")
            for m in im.read(folder + "/files.img") if m.HasField("isk")}


def entries(folder):
    """{key: flat fields}: images keyed so that the same thing has the same key on both sides."""
    got, pages, cwds = {}, {}, set()
    tasks = [im.read(path)[0] for path in glob.glob(folder + "/fs-*.img")]
    folders = {t.cwd_id for t in tasks} | {t.root_id for t in tasks}
    if not os.path.exists(folder + "/filelocks.img"):  # all but the mode "files" are wherever they were started
        cwds = {t.cwd_id for t in tasks}
    roles = tcp_roles(folder)
    for path in sorted(glob.glob(folder + "/*.img")):
        k = kind(path)
        if k == "pages":
            continue
        msgs = im.read(path)
        if k in ("pagemap", "pagemap-shmem"):
            pages[k] = msgs[1:]
            continue
        if k == "core":
            key = "core leader" if msgs[0].HasField("tc") else None
            if not key:
                comm = msgs[0].thread_core.comm
                n = sum(1 for x in got if x.startswith(f"core thread {comm}"))
                key = f"core thread {comm} {n}"
            got[key] = enrich("core", msgs[0], flatten(msgs[0]))
            continue
        for i, m in enumerate(msgs):
            key = f"{k} {i}" if len(msgs) > 1 else k
            if k == "files":
                if m.HasField("pipe"):
                    continue  # the harness that made the golden sets leaked a pipe into the program
                if m.HasField("reg"):
                    m.reg.name = re.sub(r"^/dev/pts/\d+", "/dev/pts/N", m.reg.name)
                name = m.reg.name if m.HasField("reg") else ""
                if m.HasField("isk"):
                    name = roles[m.isk.ino]
                if m.HasField("usk"):
                    name = f"{m.usk.type} {m.usk.state} {m.usk.name!r} {m.usk.backlog}"
                key = f"files {m.type} {name if m.id not in cwds else '(the working directory)'}"
                if key in got and m.id in folders:
                    continue  # an entry for each task there, one for all here
                while key in got:
                    key += " again"
            if k == "fdinfo":
                if m.type == im.PIPE:
                    continue
                key = f"fdinfo fd {m.fd}"
            if k == "tcp-stream":
                key += " " + roles[int(re.search(r"-([0-9a-f]+)\.img$", path)[1], 16)]
            if k == "tty-info":
                key = "tty-info " + ("master" if m.id & 1 else "slave")
            got[key] = enrich(k, m, flatten(m))
            if "(the working directory)" in key:
                got[key].pop("reg.name")
    return got, pages


def compare(mode, ours, theirs):
    a, pa = entries(theirs)
    b, pb = entries(ours)
    wrong = []
    for key in sorted(set(a) | set(b)):
        if key.startswith("cgroup"):
            continue
        if key not in b:
            wrong.append(f"{key}: not in our images")
            continue
        if key not in a:
            if not key.startswith("cpuinfo"):
                wrong.append(f"{key}: only in our images")
            continue
        x, y = a[key], b[key]
        for path in sorted(set(x) | set(y)):
            full = f"{key.split()[0]}:{path}"
            if known(path, PRESENCE):
                if path not in x or path not in y or known(path, VALUES) or path.endswith("[]"):
                    continue
            if path not in y or path not in x:
                have, side = (x, "golden") if path in x else (y, "ours")
                if isinstance(have[path], (int, str)) and not have[path] and have[path] != "{}":
                    wrong.append(f"{full}: only {side} has it (0 or empty)")
                else:
                    wrong.append(f"{full}: only {side} has it: {have[path]!r}")
                continue
            if known(path, VALUES):
                continue
            if path == "areas":
                for side, one, other in (("golden", x, y), ("ours", y, x)):
                    left = list(other[path])
                    for area in one[path]:
                        if area in left:
                            left.remove(area)
                        else:
                            wrong.append(f"{full}: only {side}: {area}")
            elif x[path] != y[path]:
                wrong.append(f"{full}: golden {x[path]!r}, ours {y[path]!r}")
    for k in sorted(set(pa) | set(pb)):
        sums = []
        for p in (pa.get(k, []), pb.get(k, [])):
            present = [e for e in p if e.flags & 4]
            sums.append(sum(e.nr_pages for e in present))
            for e in p:
                if not e.HasField("nr_pages") or not e.HasField("compat_nr_pages") or e.compat_nr_pages:
                    wrong.append(f"{k}: an entry without nr_pages, or with the old count")
        # stack, heap and the C library's data differ by a few pages from run to run
        if abs(sums[0] - sums[1]) > 12:
            wrong.append(f"{k}: {sums[0]} pages in the golden set, {sums[1]} in ours")
    return wrong


def unknown_fields(m):
    """Whether a message holds fields that the schema does not know."""
    from google.protobuf import unknown_fields as uf
    if len(uf.UnknownFieldSet(m)):
        return True
    for field, value in m.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for v in value if field.label == field.LABEL_REPEATED else [value]:
                if unknown_fields(v):
                    return True
    return False


def dump_golden(mode, work):
    out = f"/tmp/ckpt-golden/{mode}.out"
    start = ["unshare", "--ipc"] if mode == "shm" else []
    p = subprocess.Popen([*start, "/opt/ckpt-golden/bin/golden", mode, out], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        h.wait_until(lambda: "ready" in h.read_text(out), "the golden program")
        images = os.path.join(work, mode)
        h.must(h.dump(p.pid, images, "--file-locks", "--link-remap", "--tcp-established"), f"dump of {mode}")
    finally:
        h.kill_hard(p.pid)
        p.returncode = 0
    return images


def case_crit(images):
    crit = shutil.which("crit")
    if not crit:
        raise h.Skip("no crit (package criu)")
    bad = []
    for path in sorted(glob.glob(images + "/*.img")):
        if os.path.basename(path).startswith("pages-"):
            continue
        r = h.run([crit, "decode", "-i", path])
        if r.rc or '"magic"' not in r.out:
            bad.append(f"{os.path.basename(path)}: {r}")
    h.require(not bad, "\n".join(bad))
    foreign = [n for n in os.listdir(images) if n.endswith(".img") and im.split(os.path.join(images, n))[1] not in im.KINDS
               and not n.startswith("pages-")]
    h.require(not foreign, f"files that look like images and are not: {foreign}")


def case_fields(mode, images):
    wrong = compare(mode, images, os.path.join(GOLDEN, "images", mode, "img"))
    h.require(not wrong, "\n".join(wrong[:60]))


def case_schema(mode):
    for path in glob.glob(os.path.join(GOLDEN, "images", mode, "img", "*.img")):
        for m in im.read(path):
            h.require(not unknown_fields(m), f"{path} has fields that the schema lacks")


def missing_folders(modes):
    """Where the golden programs were started; restoring needs the folder to exist."""
    made = []
    for mode in modes:
        folder = os.path.join(GOLDEN, "images", mode, "img")
        cwd = im.read(glob.glob(folder + "/fs-*.img")[0])[0].cwd_id
        path = next(m.reg.name for m in im.read(folder + "/files.img") if m.id == cwd)
        while not os.path.exists(path):
            made.insert(0, path)
            path = os.path.dirname(path)
        for path in made:
            os.makedirs(path, exist_ok=True)
    return made


def case_restore(modes, engine):
    env = dict(os.environ, ENGINE=engine)
    r = h.run(["unshare", "-fp", "--mount-proc", os.path.join(GOLDEN, "check-restore"), *modes], timeout=120, env=env)
    h.require(r.rc == 0, str(r))


def lazy_engine(work):
    """A ckpt that restores lazily: the pages that the reference engine marks as such come while the program runs."""
    path = os.path.join(work, "lazy-ckpt")
    with open(path, "w") as f:
        f.write(f'#!/bin/sh\n[ "$1" = restore ] && set -- "$@" --lazy-pages\nexec {h.CKPT} "$@"\n')
    os.chmod(path, 0o755)
    return path


def private_mounts():
    if os.environ.get("CKPT_PRIVATE") == "1":
        return
    os.environ["CKPT_PRIVATE"] = "1"
    # terminals of their own, too: the images want number 0
    begin = 'ip link set lo up; mount -t devpts -o newinstance,ptmxmode=0666 none /dev/pts; exec "$0" "$@"'
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", "--net", "sh", "-c", begin, sys.executable, *sys.argv])


def main():
    report = h.Report()
    h.become_subreaper()

    def ready():
        h.need_engine()
        if not os.path.exists(os.path.join(GOLDEN, "bin", "golden")):
            raise h.Skip(f"no reference material at {GOLDEN}")
    try:
        ready()
    except h.Skip as e:
        print(f"skip compare_golden  # {e}")
        sys.exit(h.SKIP_CODE)
    private_mounts()
    for d in ("/tmp/ckpt-golden", "/opt/ckpt-golden"):
        os.makedirs(d, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777", "none", d], check=True)
    os.makedirs("/opt/ckpt-golden/bin")
    shutil.copy(os.path.join(GOLDEN, "bin", "golden"), "/opt/ckpt-golden/bin/golden")
    os.chmod("/opt/ckpt-golden/bin/golden", 0o755)
    modes = [m for m in MODES if len(sys.argv) < 2 or m in sys.argv[1:]]
    with h.Workdir() as work:
        for mode in modes:
            images = None

            def dump(mode=mode):
                nonlocal images
                images = dump_golden(mode, work)
            report.case(f"{mode} dump", dump)
            report.case(f"{mode} schema knows every golden field", case_schema, mode)
            if images:
                report.case(f"{mode} crit decodes", case_crit, images)
                report.case(f"{mode} fields", case_fields, mode, images)
        also = [m for m in ALSO_RESTORED if len(sys.argv) < 2 or m in sys.argv[1:]]
        for mode in also:
            report.case(f"{mode} schema knows every golden field", case_schema, mode)
        lazy = lazy_engine(work)
        for mode in (*modes, *also):
            made = [] if mode == "files" else missing_folders([mode])
            report.case(f"{mode} golden restores", case_restore, [mode], h.CKPT)
            report.case(f"{mode} golden restores lazily", case_restore, [mode], lazy)
            for path in reversed(made):
                os.rmdir(path)
    report.finish()


if __name__ == "__main__":
    main()
