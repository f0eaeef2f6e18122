#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What each has tests of its own, together: chains of dumps, compression, snapshots, freeing of pages, lazy restore, verification."""
import json

import harness as h
import incremental as inc


def verified(chain):
    h.must(h.ckpt("verify", chain.folder(chain.n)), "verify")


def compressed_chain(way):
    """Each link is compressed; the last but one is a dump of a program that runs on."""
    with inc.Chain() as c:
        c.pre(f"--compress={way}")
        c.step()
        c.pre(f"--compress={way}")
        c.step(2)
        c.dump("-R", "--track-mem", f"--compress={way}")
        c.step()
        c.dump(f"--compress={way}")
        verified(c)
        c.finish()


def mixed_chain():
    """Plain, compressed, plain."""
    with inc.Chain() as c:
        c.pre()
        c.step()
        c.pre("--compress")
        c.step()
        c.dump()
        verified(c)
        c.finish()


def freed_chain():
    """What was superseded is freed on the way, in plain and in compressed parents; everything is still what was written."""
    for parent in ((), ("--compress",)):
        with inc.Chain() as c:
            c.pre(*parent)
            c.step()
            c.pre("--auto-dedup")
            verified(c)
            c.step()
            c.dump("--auto-dedup")
            verified(c)
            c.finish()


def lazy_chain():
    """The program runs at once; its pages come from three folders, some of them compressed."""
    with inc.Chain() as c:
        c.pre()
        c.step()
        c.pre("--compress=zstd")
        c.step()
        c.dump()
        c.finish("--lazy-pages")


def lazy_compressed():
    with inc.Chain() as c:
        c.dump("--compress")
        c.finish("--lazy-pages")


def lazy_then_dumped():
    """A program that was restored lazily is dumped again once all of its pages are there."""
    with inc.Chain() as c:
        c.dump()
        c.restore("--lazy-pages")
        r = None

        def dumped():
            nonlocal r
            r = c.run("dump")
            return r.rc == 0

        h.wait_until(dumped, "the end of the lazy restore", 60, 0.1)
        c.finish()


def limited():
    """A limit of the rate changes nothing but the time, of a tree that stands still or runs on."""
    for how in ((), ("-R",)):
        with inc.Chain() as c:
            c.dump("--io-max", "200M", "--io-policy", "fair", "--compress", *how)
            verified(c)
            if how:
                h.untouched(c.pid)
                c.step()
                c.t.go()
            else:
                c.finish()


def told_as_json():
    """All of it told to programs: one object each, also with other options."""
    with inc.Chain() as c:
        for command, more in (("pre-dump", ()), ("dump", ("--compress",))):
            r = c.run(command, "--json", *more)
            told = json.loads(h.must(r, command).out)
            h.require(told["ok"] and told["pages_written"] > 0, f"{command} tells {told}")
        c.finish()


def compressed_chain_lz4():
    compressed_chain("lz4")


def compressed_chain_zstd():
    compressed_chain("zstd")


def chain_of_equal_pages():
    compressed_chain("dups")


CASES = [compressed_chain_lz4, compressed_chain_zstd, chain_of_equal_pages, mixed_chain, freed_chain, lazy_chain, lazy_compressed,
         lazy_then_dumped, limited, told_as_json]

if __name__ == "__main__":
    h.run_cases(CASES)
