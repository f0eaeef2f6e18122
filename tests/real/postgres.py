#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""PostgreSQL under pgbench, server and clients in one tree, as an unprivileged user: at the end every transaction that a client
was told of is there once, and the books balance. With `tcp` as argument: over TCP, and another pgbench outside of the tree."""
import os
import pwd
import re
import sys

import network
import real

TCP = "tcp" in sys.argv[1:]
# pgbench keeps to a schedule: what it could not do while it was frozen it does at once afterwards, and must not be through too early
TRANSACTIONS, CLIENTS = 1000 if TCP else 400, 4
TREE = r"""
set -e
bin=$1
"$bin/postgres" -D data -k "$PWD" -c listen_addresses=LISTEN -c shared_buffers=16MB -c max_connections=20 -c fsync=off \
	-c log_destination=stderr -c log_connections=on -c log_disconnections=on -c autovacuum_naptime=1s -c max_parallel_workers_per_gather=2 -c min_parallel_table_scan_size=0 \
	>server.log 2>&1 &
server=$!
for i in $(seq 300); do
	"$bin/psql" -h "HOST" -U test -d postgres -Atc 'select 1' >/dev/null 2>&1 && break
	sleep 0.05
done
"$bin/pgbench" -h "HOST" -U test -i -q -s 1 postgres >init.log 2>&1
echo ready
# begins a transaction that it ends long after: what it holds open must hold
"$bin/psql" -h "HOST" -U test -d postgres -At >open.log 2>&1 <<-END &
	create table kept(n int); insert into kept values(1);
	begin; insert into kept select generate_series(2, 1000); select pg_sleep(2.5); commit;
	select 'kept', count(*), sum(n) from kept;
END
open=$!
"$bin/pgbench" -h "HOST" -U test -n -c CLIENTS -j 2 -t TRANSACTIONS -R 400 -P 1 postgres >bench.log 2>&1
wait $open
GO
sleep 0.5 # backends end a moment after their clients
"$bin/psql" -h "HOST" -U test -d postgres -At <<-'END'
	select 'others', pid, application_name, state, wait_event from pg_stat_activity
		where backend_type = 'client backend' and pid <> pg_backend_pid();
	select 'history', count(*), sum(delta) from pgbench_history;
	select 'accounts', sum(abalance) from pgbench_accounts;
	select 'tellers', sum(tbalance) from pgbench_tellers;
	select 'branches', sum(bbalance) from pgbench_branches;
	select 'rows', count(*) from pgbench_accounts;
END
sleep 0.5
kill -INT $server
wait $server
echo stopped
"""


def progress(work):
    return len(re.findall(r"^progress: ", real.h.read_text(f"{work}/bench.log"), re.M))


OUTSIDE = 3 * 200


def outside(p, binaries):
    return p.client([f"{binaries}/pgbench", "-h", "127.0.0.1", "-U", "test", "-n", "-c", "3", "-j", "1", "-t", OUTSIDE // 3, "-R", "150",
                     "postgres"], user="nobody")


def test(work):
    binaries = os.path.dirname(os.path.realpath(real.find("initdb", "/usr/lib/postgresql/*/bin")))
    who = pwd.getpwnam("nobody")
    user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    os.chown(work, who.pw_uid, who.pw_gid)
    real.h.must(real.h.run([f"{binaries}/initdb", "-D", "data", "-U", "test", "-A", "trust", "-N", "--locale=C",
                            "-E", "UTF8"], cwd=work, **user), "initdb")
    program = TREE.replace("TRANSACTIONS", str(TRANSACTIONS)).replace("CLIENTS", str(CLIENTS))
    program = program.replace("HOST", "127.0.0.1" if TCP else "$PWD").replace("LISTEN", "127.0.0.1" if TCP else "")
    program = program.replace("GO", "read -r line <go # until those outside have ended" if TCP else "")
    os.mkfifo(f"{work}/go", 0o666)
    with (network if TCP else real).Program(work, [real.find("bash"), "-c", program, "tree", binaries], **user) as p:
        p.wait_for(lambda t: "ready" in t, "the server", 60)
        others = outside(p, binaries) if TCP else None
        for want in (0, 1, 3):
            p.wait_for(lambda t: progress(work) >= want, f"report {want} of pgbench")
            real.time.sleep(0.2)
            if TCP:
                p.running()
            p.again(2 if TCP and want == 1 else 0.05, tasks=8)
        if TCP:
            said = others.stop()
            real.h.require(f"actually processed: {OUTSIDE}/{OUTSIDE}" in said and "failed transactions: 0 " in said, f"pgbench outside: {said}")
            with open(f"{work}/go", "w") as f:
                f.write("go\n")
        p.finish(60)
        lines = dict(l.split("|", 1) for l in p.text().splitlines() if "|" in l)
        real.h.require("others" not in lines, f"a backend whose client has ended: {p.text()}")
        mine = str(TRANSACTIONS * CLIENTS)
        total = str(TRANSACTIONS * CLIENTS + (OUTSIDE if TCP else 0))
        n, delta = lines["history"].split("|")
        bench = real.h.read_text(f"{work}/bench.log")
        real.h.require(f"actually processed: {mine}/{mine}" in bench, f"pgbench: {bench[-600:]}")
        real.h.require(n == total, f"{n} transactions in the history, {total} were made")
        sums = {lines[k] for k in ("accounts", "tellers", "branches")}
        real.h.require(sums == {delta}, f"the books do not balance: {p.text()}")
        real.h.require(lines["rows"] == "100000", f"{lines['rows']} accounts")
        real.h.require("kept|1000|500500" in real.h.read_text(f"{work}/open.log"), "the long transaction")
        real.h.require(p.text().endswith("stopped\n"), f"its last words: {p.text()[-200:]}")
        log = real.h.read_text(f"{work}/server.log")
        real.h.require(not re.search(r"PANIC|FATAL:  (?!the database system)|terminated by signal", log), f"the server: {log[-3000:]}")
        return f"{total} transactions, {p.tasks} processes"


(network if TCP else real).main(test)
