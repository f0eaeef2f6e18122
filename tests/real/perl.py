#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""perl with hashes, regular expressions, a timer, an open file that it reads line by line, and a signal handler."""
import os

import real

PROGRAM = r"""
use strict; use Time::HiRes qw(sleep setitimer ITIMER_REAL);
$| = 1; my ($ticks, %words, $sum) = (0);
$SIG{ALRM} = sub { $ticks++ }; setitimer(ITIMER_REAL, 0.05, 0.05);
open(my $in, '<', 'input') or die; open(my $log, '>>', 'log') or die;
while (my $line = <$in>) {
	chomp $line;
	$words{$1}++ while $line =~ /(\w+)/g;
	$sum += $.;
	if ($. % 100 == 0) { print "line $.\n"; printf $log "%d %d\n", $., $sum; sleep 0.02 }
}
setitimer(ITIMER_REAL, 0); # perl gives the handler up before it ends
my $total = 0; $total += $_ for values %words;
die "words: $total" unless $total == 5 * $.; die "no ticks" unless $ticks > 5;
print "done $. $total $sum\n";
"""


def test(work):
    with open(os.path.join(work, "input"), "w") as f:
        for i in range(10000):
            f.write(f"w{i % 7} w{i % 11} w{i % 1013} word line{i}\n")
    with real.Program(work, ["perl", "-e", PROGRAM]) as p:
        for want in ("line 500\n", "line 3000\n", "line 7000\n"):
            p.wait_for(lambda t: want in t, want)
            p.again(0.05)
        p.finish()
        real.h.require(p.text().endswith("done 10000 50000 50005000\n"), f"its last words: {p.text()[-100:]}")
        lines = "".join(f"line {i}\n" for i in range(100, 10001, 100))
        real.h.require(p.text().startswith(lines), "a line is missing or there twice")


real.main(test)
