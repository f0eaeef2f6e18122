#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""sqlite3 inserting in a loop, one transaction a row, with a journal: nothing is lost, nothing is damaged."""
import os
import subprocess

import real

ROWS = 3000


def test(work):
    script = os.path.join(work, "insert.sql")
    with open(script, "w") as f:
        f.write("create table t(id integer primary key, text text, sum integer);\n")
        for i in range(ROWS):
            f.write(f"begin; insert into t values({i}, hex(randomblob(200)), {i * i}); commit;\n")
            if i % 50 == 0:
                f.write(f"select 'row {i}';\n")
        f.write("select 'done';\n")
    db = os.path.join(work, "test.db")
    with real.Program(work, ["sqlite3", "-batch", db, ".read insert.sql"], opts=["--file-locks"]) as p:
        done = 0
        for want in ("row 100\n", "row 1000\n", "row 2000\n"):
            p.wait_for(lambda t: want in t, want, 60)
            p.again(0.05)
            done += 1
        p.finish()
        real.h.require(p.text().endswith("done\n"), f"its last words: {p.text()[-100:]}")

    def ask(query):
        return subprocess.run(["sqlite3", db, query], capture_output=True, text=True).stdout.strip()
    real.h.require(ask("PRAGMA integrity_check") == "ok", "integrity check")
    real.h.require(ask("select count(*), sum(sum), min(length(text)) from t") ==
                   f"{ROWS}|{sum(i * i for i in range(ROWS))}|400", "rows are missing")
    return f"{ROWS} rows, {done} checkpoints"


real.main(test)
