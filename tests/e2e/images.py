# SPDX-License-Identifier: MIT
"""Image files, independent of the engine under test: framing, and messages by way of the schema and protoc's Python
output (python3-protobuf). Used to compare, and to damage images in precise places."""
import glob
import importlib
import os
import struct
import subprocess
import sys
import tempfile

from google.protobuf import symbol_database

import harness as h

SCHEMA = os.path.join(h.SOURCE, "lib", "image", "schema")
COMMON, SERVICE, INVENTORY = 0x54564319, 0x55105940, 0x58313116

# magic: (first message, other messages or None); what follows an entry is in payload()
KINDS = {
    INVENTORY: ("inventory_entry", None), 0x56213732: ("fdinfo_entry", "fdinfo_entry"),
    0x56084025: ("pagemap_head", "pagemap_entry"), 0x55053847: ("core_entry", None),
    0x54432030: ("task_kobj_ids_entry", None), 0x57492820: ("mm_entry", None),
    0x56453709: ("pipe_data_entry", "pipe_data_entry"), 0x59333054: ("pipe_data_entry", "pipe_data_entry"),
    0x50273030: ("pstree_entry", "pstree_entry"), 0x51403912: ("fs_entry", None),
    0x59133954: ("remap_file_path_entry", "remap_file_path_entry"), 0x52583605: ("ghost_file_entry", None),
    0x48453499: ("memfd_inode_entry", "memfd_inode_entry"), 0x59453036: ("tty_info_entry", "tty_info_entry"),
    0x59413026: ("tty_data_entry", "tty_data_entry"), 0x54323616: ("file_lock_entry", "file_lock_entry"),
    0x64413049: ("seccomp_entry", None), 0x56303138: ("file_entry", "file_entry"), 0x43114433: ("timens_entry", None),
    0x56264026: ("sk_packet_entry", "sk_packet_entry"), 0x51465506: ("tcp_stream_entry", None),
    0x59383330: ("cgroup_entry", None), 0x61404013: ("cpuinfo_entry", None), 0x54504b43: ("ckpt_extra_entry", None), 0x57093306: ("stats_entry", None),
    0x55474906: ("userns_entry", None), 0x54473203: ("utsns_entry", None), 0x53115007: ("ipc_var_entry", None), 0x46283044: ("ipc_shm_entry", "ipc_shm_entry"),
}
PIPE = 2  # fd_types
_compiled = []


def schema():
    """Compiles the schema once; afterwards the message classes can be had by name."""
    if _compiled:
        return
    out = tempfile.mkdtemp(prefix="ckpt-schema-")
    protos = [os.path.basename(p) for p in glob.glob(os.path.join(SCHEMA, "*.proto"))]
    try:
        subprocess.run(["protoc", f"-I{SCHEMA}", f"--python_out={out}", *protos], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise h.Skip(f"protoc: {e}")
    sys.path.insert(0, out)
    for p in protos:
        importlib.import_module(p[:-6].replace("-", "_") + "_pb2")
    sys.path.remove(out)
    import shutil
    shutil.rmtree(out)
    _compiled.append(True)


def message(name):
    schema()
    db = symbol_database.Default()
    return db.GetSymbol(name)


def split(path):
    """(head bytes, magic, [(offset, entry bytes, payload bytes)]). Raw images: (b"", 0, [])."""
    with open(path, "rb") as f:
        data = f.read()
    first = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if first == INVENTORY:
        magic, at = first, 4
    elif first in (COMMON, SERVICE):
        magic, at = struct.unpack_from("<I", data, 4)[0], 8
    else:
        return b"", 0, []
    head, entries = data[:at], []
    while at < len(data):
        start = at
        n = struct.unpack_from("<I", data, at)[0]
        body = data[at + 4:at + 4 + n]
        at += 4 + n
        extra = payload(magic, body, len(data) - at, not entries)
        entries.append((start, body, data[at:at + extra]))
        at += extra
    return head, magic, entries


def payload(magic, body, rest, first):
    if magic in (0x56453709, 0x59333054):
        return message("pipe_data_entry").FromString(body).bytes
    if magic == 0x56264026:
        return message("sk_packet_entry").FromString(body).length
    if magic == 0x51465506:
        m = message("tcp_stream_entry").FromString(body)
        return m.inq_len + m.outq_len
    if magic == 0x52583605:  # the content of a deleted file: everything that is left, or chunks
        if first:
            m = message("ghost_file_entry").FromString(body)
            return 0 if getattr(m, "chunks", False) else rest
        return message("ghost_chunk_entry").FromString(body).len
    return 0


def read(path):
    """Messages of an image."""
    _, magic, entries = split(path)
    if magic not in KINDS:
        return []
    first, other = KINDS[magic]
    if magic == 0x52583605:
        other = "ghost_chunk_entry"
    return [message(first if i == 0 else other or first).FromString(body) for i, (_, body, _) in enumerate(entries)]


def change(path, fn, index=0):
    """Rewrites one entry of an image: fn(message) changes it in place. Required fields may be cleared."""
    head, magic, entries = split(path)
    first, other = KINDS[magic]
    out = [head]
    for i, (_, body, extra) in enumerate(entries):
        if i == index:
            m = message(first if i == 0 else other).FromString(body)
            fn(m)
            body = m.SerializePartialToString()
        out.append(struct.pack("<I", len(body)) + body + extra)
    with open(path, "wb") as f:
        f.write(b"".join(out))
    h.without_sums(os.path.dirname(path))


def boundaries(path):
    """Offsets at which a file can be cut off: within the head, and before, within and after each entry and payload."""
    head, magic, entries = split(path)
    size = os.path.getsize(path)
    if not magic:
        return [0, size // 2, size - 1] if size else []
    cuts = {0, 3, len(head) - 1, len(head)}
    for start, body, extra in entries[:40]:
        cuts |= {start, start + 3, start + 4, start + 4 + len(body) // 2, start + 4 + len(body)}
        if extra:
            cuts |= {start + 4 + len(body) + len(extra) // 2}
    return sorted(c for c in cuts if 0 <= c < size)
