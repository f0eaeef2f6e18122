#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bash with a pipeline of seven processes under way, one of which starts further ones all the time."""
import hashlib
import re
import subprocess

import real

LINES = 600
# The loop on the left starts a process for every fifth line; the subshells in between hold pipes of their own.
PROGRAM = r"""
set -o pipefail
trap 'echo usr1 >>signals' USR1
{
	for ((i = 1; i <= LINES; i++)); do
		echo "line $i $((i * i))"
		if ((i % 5 == 0)); then echo "sub $(expr $i + 1)"; sleep 0.01; fi
		if ((i % 50 == 0)); then echo "at $i" >&3; fi
	done
} | tee copy | (while read -r word rest; do echo "${word^^} $rest"; done) |
	awk '{ n[$1]++; print; fflush() } END { for (w in n) print w, n[w] }' |
	tee >(wc -l >lines) | sha256sum >sum
echo "status $? ${PIPESTATUS[*]}" >&3
wait
"""


def test(work):
    program = PROGRAM.replace("LINES", str(LINES))
    with real.Program(work, [real.find("bash"), "-c", f"exec 3>&1; {program}"]) as p:
        for want in ("at 50\n", "at 250\n", "at 400\n"):
            p.wait_for(lambda t: want in t, want)
            p.again(0.05, tasks=6)
        p.finish()
        real.h.require(p.text().endswith(f"at {LINES}\nstatus 0 0 0 0 0 0 0\n"), f"its last words: {p.text()[-200:]}")
    lines = []
    for i in range(1, LINES + 1):
        lines.append(f"line {i} {i * i}")
        if i % 5 == 0:
            lines.append(f"sub {i + 1}")
    want = "\n".join(lines) + "\n"
    real.h.require(real.h.read_text(f"{work}/copy") == want, "what tee has copied is not what was written")
    out = re.sub(r"^\w+", lambda m: m[0].upper(), want, flags=re.M)
    out = subprocess.run(["awk", "{ n[$1]++; print } END { for (w in n) print w, n[w] }"], input=out, text=True,
                         capture_output=True).stdout
    real.h.require(real.h.read_text(f"{work}/sum").split()[0] == hashlib.sha256(out.encode()).hexdigest(), "the end differs")
    real.h.wait_until(lambda: real.h.read_text(f"{work}/lines").strip() == str(len(lines) + 2), "the count of lines", 3)
    return f"{p.tasks} processes"


real.main(test)
