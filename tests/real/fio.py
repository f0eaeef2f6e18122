#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fio writing a file through AIO and reading it back: every block must be what it wrote."""
import os

import real

FIO = ["fio", "--name=job", "--filename=data", "--size=16M", "--bs=4k", "--ioengine=libaio", "--iodepth=16", "--direct=1",
       "--rw=randwrite", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--thread", "--disk_util=0",
       "--fallocate=none", "--thinktime=20000", "--thinktime_blocks=64"]


def test(work):
    with real.Program(work, FIO) as p:
        data = os.path.join(work, "data")
        at = []
        for part in (0.1, 0.5):
            real.h.wait_until(lambda: os.path.exists(data) and os.stat(data).st_blocks * 512 > part * (16 << 20),
                              f"{part:.0%} of the file", 60)
            p.again(0.05)
            at.append(os.stat(data).st_blocks * 512 * 100 // (16 << 20))
        p.finish()
        real.h.require(": err= 0:" in p.text(), p.text()[-500:])
        real.h.require(at[0] < 100, "checkpointed too late")
        return f"checkpointed at {at} % of the file"


real.main(test)
