#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""node's cluster: a primary that gives its listening socket to three workers, asks them over HTTP, and starts other programs."""
import os

import real

PROGRAM = r"""
const cluster = require('cluster'), http = require('http'), { exec } = require('child_process');
const die = (...why) => { console.error(...why); process.exit(1); };
if (cluster.isPrimary) {
	let up = 0, answers = 0;
	const done = () => {
		console.log('all right', answers);
		cluster.disconnect(() => process.exit(0));
	};
	const ask = (k) => {
		if (k === 0) return done();
		const next = () => setTimeout(() => ask(k - 1), 4);
		http.get({ socketPath: 'sock', path: `/${k}`, agent: false }, (res) => {
			let text = '';
			res.on('data', (d) => text += d);
			res.on('end', () => {
				if (!text.startsWith(`ok ${k} `)) die('wrong answer', text);
				answers++;
				if (k % 50 === 0) console.log('left', k);
				if (k % 100) return next();
				exec(`echo hi ${k}`, (e, out) => { if (e || out !== `hi ${k}
`) die('exec', e, out); next(); });
			});
		}).on('error', die);
	};
	cluster.on('listening', () => { if (++up === 3) ask(400); });
	cluster.on('exit', (w, code) => { if (code) die('a worker ended', code); });
	for (let i = 0; i < 3; i++) cluster.fork();
} else {
	http.createServer((q, r) => r.end(`ok ${q.url.slice(1)} ${process.pid}`)).listen('sock');
}
"""


def test(work):
    with open(os.path.join(work, "prog.js"), "w") as f:
        f.write(PROGRAM)
    with real.Program(work, [real.find("node"), "prog.js"]) as p:
        for want in ("left 350\n", "left 200\n", "left 100\n"):
            p.wait_for(lambda t: want in t, want)
            p.again(0.05, tasks=4)
        p.finish()
        real.h.require(p.text().endswith("all right 400\n"), f"its last words: {p.text()[-200:]}")
        return f"{p.tasks} processes"


real.main(test)
