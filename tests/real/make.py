#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make -j4 with gcc: the program that comes out is, byte for byte, what an undisturbed build gives."""
import os
import subprocess

import real

FILES = 48
MAKEFILE = """
CFLAGS = -O1 -pipe
OBJECTS = $(patsubst %,obj/part%.o,$(shell seq 1 {n}))
prog: $(OBJECTS) obj/main.o
\t@$(CC) -o $@ $^
obj/%.o: %.c
\t@$(CC) $(CFLAGS) -c -o $@ $<
\t@echo made $*
"""
PART = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct s{n} {{ unsigned v[{n}]; char text[64]; }};
unsigned part{n}(unsigned x)
{{
	struct s{n} s = {{ {{ x }} }};
	snprintf(s.text, sizeof(s.text), "part {n} %u", x);
	for (unsigned i = 0; i < {n} * 100; i++)
		switch ((s.v[i % {n}] + i) % 9) {{
		case 0: x ^= s.text[i % 8] << i % 20; break;
		case 3: s.v[(i + 1) % {n}] += x * {n}u; break;
		case 5: x += strlen(s.text); break;
		default: x = x * 1103515245u + 12345u;
		}}
	return x;
}}
"""


def sources(folder):
    os.makedirs(os.path.join(folder, "obj"))

    def put(name, text):
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    put("Makefile", MAKEFILE.format(n=FILES))
    parts = range(1, FILES + 1)
    for n in parts:
        put(f"part{n}.c", PART.format(n=n))
    put("main.c", "#include <stdio.h>\n" + "".join(f"unsigned part{n}(unsigned);\n" for n in parts)
        + "int main(void)\n{\n\tunsigned x = 1;\n" + "".join(f"\tx = part{n}(x);\n" for n in parts)
        + '\tprintf("%u\\n", x);\n}\n')


def made(text):
    return text.count("made")


def test(work):
    for name in ("make", "gcc"):
        real.find(name)
    once, again = os.path.join(work, "once"), os.path.join(work, "again")
    for folder in (once, again):
        sources(folder)
    subprocess.run(["make", "-j2", "-C", once], check=True, capture_output=True)
    with real.Program(work, ["make", "--no-print-directory", "-j4", "-C", again]) as p:
        at = []
        for want in (3, 15, 30):
            p.wait_for(lambda t: made(t) >= want, f"{want} objects", 60)
            p.again(0.05, tasks=2)
            at.append(made(p.text()))
        p.finish()
    real.h.require(at[0] < FILES, "the first checkpoint came too late")
    for folder in ("prog", *(f"obj/part{n}.o" for n in range(1, FILES + 1))):
        with open(os.path.join(once, folder), "rb") as a, open(os.path.join(again, folder), "rb") as b:
            real.h.require(a.read() == b.read(), f"{folder} differs from that of an undisturbed build")
    ran = [subprocess.run([os.path.join(f, "prog")], capture_output=True).stdout for f in (once, again)]
    real.h.require(ran[0] and ran[0] == ran[1], f"the programs say {ran}")
    return f"{p.tasks} processes, at {at} of {FILES} objects"


real.main(test)
