#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""MariaDB with a small buffer pool and two clients in one tree: transactions, an open one among them, and the sums at the end."""
import os
import pwd
import re

import real

ROWS = 1500
# The native asynchronous I/O of InnoDB is AIO or io_uring, as it was built; CKPT_REAL_AIO=0 turns it off.
TREE = r"""
mariadbd --no-defaults --datadir="$PWD/data" --socket="$PWD/sock" --pid-file="$PWD/pid" --skip-networking --skip-grant-tables \
	--innodb-buffer-pool-size=8M --innodb-log-file-size=4M --innodb-use-native-aio=AIO --innodb-flush-log-at-trx-commit=2 \
	--performance-schema=OFF --table-open-cache=64 \
	--max-connections=20 --log-error="$PWD/server.log" &
server=$!
client() {
	mariadb --no-defaults --socket="$PWD/sock" -N -B --unbuffered "$@"
}
for i in $(seq 300); do
	client -e 'select 1' >/dev/null 2>&1 && break
	sleep 0.05
done
client -e 'create database d; create table d.t(id int primary key, text varchar(2000), n bigint) engine=InnoDB;
	create table d.kept(n int) engine=InnoDB'
echo ready
client d >kept.log 2>&1 <<-END &
	set autocommit=0; insert into kept values(1), (2); select sleep(2); insert into kept values(3); commit;
	select 'kept', count(*), sum(n) from kept;
END
kept=$!
client d <insert.sql || exit 1
wait $kept
client d -e "check table t; select 'sums', count(*), sum(n), min(length(text)) from t; shutdown"
wait $server
echo "stopped $?"
"""


def rows(text):
    return max([0, *map(int, re.findall(r"^row\s+(\d+)", text, re.M))])


def test(work):
    real.find("mariadb-install-db")
    for name in ("mariadb", "bash"):
        real.find(name)
    who = pwd.getpwnam("nobody")
    user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin", HOME=work)
    os.chown(work, who.pw_uid, who.pw_gid)
    with open(os.path.join(work, "insert.sql"), "w") as f:
        for i in range(1, ROWS + 1):
            f.write(f"begin; insert into t values({i}, repeat('{chr(97 + i % 26)}', 1000), {i}); "
                    f"update t set n = n + 1 where id = {i // 2}; commit;\n")
            if i % 50 == 0:
                f.write(f"select 'row', {i}; do sleep(0.02);\n")
    made = real.h.run(["mariadb-install-db", "--no-defaults", f"--datadir={work}/data", "--skip-test-db",
                       "--auth-root-authentication-method=normal", "--innodb-buffer-pool-size=8M",
                       "--innodb-log-file-size=4M", "--innodb-use-native-aio=0"], cwd=work, env=env, **user)
    real.h.must(made, "mariadb-install-db")
    tree = TREE.replace("AIO", os.environ.get("CKPT_REAL_AIO", "1"), 1)
    with real.Program(work, ["bash", "-c", tree], opts=["--file-locks"], env=env, **user) as p:
        for want in (50, 500, 1000):
            p.wait_for(lambda t: rows(t) >= want, f"row {want}", 60)
            p.again(0.05, tasks=3)
        p.finish(60)
        text = p.text()
    real.h.require(re.search(r"d\.t\tcheck\tstatus\tOK", text), f"the check of the table: {text[-300:]}")
    total = ROWS * (ROWS + 1) // 2 + ROWS - 1
    real.h.require(f"sums\t{ROWS}\t{total}\t1000" in text, f"the sums, {total} wanted: {text[-300:]}")
    real.h.require("kept\t3\t6" in real.h.read_text(f"{work}/kept.log"), "the transaction that was open")
    real.h.require(text.endswith("stopped 0\n"), f"its last words: {text[-200:]}")
    return f"{ROWS} rows, {p.tasks} processes"


real.main(test)
