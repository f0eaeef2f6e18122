#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""node with timers of all kinds, two worker threads that answer messages and share memory, and a promise chain over files."""
import real

PROGRAM = r"""
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const fs = require('fs'), crypto = require('crypto');
const sha = (x) => crypto.createHash('sha256').update(x).digest('hex');
const ROUNDS = 400;

if (!isMainThread) {
	const shared = new Int32Array(workerData.shared);
	parentPort.on('message', (m) => {
		Atomics.add(shared, workerData.n, m.i);
		parentPort.postMessage({ i: m.i, sum: sha(m.text) });
		if (m.i === ROUNDS) parentPort.close();
	});
} else {
	const shared = new SharedArrayBuffer(64), counts = new Int32Array(shared);
	let ticks = 0, timeouts = 0, answers = 0, ended = 0;
	const die = (why) => { console.error(why); process.exit(1); };
	const interval = setInterval(() => ticks++, 10);
	const chain = (left) => setTimeout(() => { timeouts++; if (left) chain(left - 1); }, 5);
	chain(200);
	const said = async (i) => {
		await fs.promises.appendFile('log', `${i}\n`);
		console.log('round', i);
	};
	const start = Date.now();
	for (const n of [0, 1]) {
		const w = new Worker(__filename, { workerData: { shared, n } });
		const send = (i) => w.postMessage({ i, text: `${n} ${i} `.repeat(500) });
		w.on('message', async (m) => {
			if (m.sum !== sha(`${n} ${m.i} `.repeat(500))) die(`wrong answer ${m.i}`);
			answers++;
			if (n === 0) await said(m.i);
			if (m.i < ROUNDS) setTimeout(() => send(m.i + 1), 4);
		});
		w.on('error', (e) => die(e));
		w.on('exit', () => { if (++ended === 2) finish(); });
		send(1);
	}
	const finish = () => setTimeout(() => {
		clearInterval(interval);
		const want = ROUNDS * (ROUNDS + 1) / 2;
		if (answers !== 2 * ROUNDS) die(`${answers} answers`);
		if (counts[0] !== want || counts[1] !== want) die(`shared memory: ${counts}`);
		if (ticks < 20) die(`${ticks} ticks`);
		const lines = fs.readFileSync('log', 'utf8').trim().split('\n');
		if (lines.length !== ROUNDS || lines.some((l, i) => Number(l) !== i + 1)) die(`log: ${lines.length} lines`);
		const wait = setInterval(() => {
			if (timeouts !== 201) return;
			clearInterval(wait);
			console.log('all right');
		}, 10);
	}, 50);
}
"""


def rounds(text):
    return text.count("round")


def test(work):
    with open(f"{work}/prog.js", "w") as f:
        f.write(PROGRAM)
    with real.Program(work, [real.find("node"), "prog.js"]) as p:
        at = []
        for want in (20, 120, 250):
            p.wait_for(lambda t: rounds(t) >= want, f"{want} rounds")
            p.again(0.05)
            at.append(rounds(p.text()))
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
        real.h.require(at[0] < 400, "the first checkpoint came too late")
        return f"checkpointed at {at} of 400 rounds"


real.main(test)
