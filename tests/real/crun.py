#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of crun, which loads our libcriu.so.2. Debian's is built without checkpoint support: skipped there. crun.py [CASE...]"""
import runtimes
from runtimes import h


def checkpoint():
    with h.Workdir("ckpt-crun-") as work, runtimes.Site(work) as site:
        h.run(["umount", "/sys/fs/cgroup/unified"])  # crun refuses v1 and v2 side by side
        c = runtimes.Crun(site, runtimes.Shell()).start()
        for _ in range(2):
            c.again()
        c.destroy()  # crun leaves a folder where v2 was mounted


if __name__ == "__main__":
    h.run_cases([checkpoint])
