#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A Java program with a pool of threads, locks, timers, waits with and without a deadline, and a collector that has to run."""
import os

import real

PROGRAM = r"""
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Prog {
	static final int TASKS = 400;
	static final AtomicLong ticks = new AtomicLong();

	static String chain(int n) throws Exception {
		MessageDigest md = MessageDigest.getInstance("SHA-256");
		byte[] state = ("seed " + n).getBytes();
		List<byte[]> all = new ArrayList<>();
		for (int i = 0; i < 600; i++) {
			state = md.digest(state);
			all.add(Arrays.copyOf(state, 1024)); // work for the collector
		}
		for (byte[] b : all)
			md.update(b);
		return HexFormat.of().formatHex(md.digest());
	}

	public static void main(String[] args) throws Exception {
		ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
		timer.scheduleAtFixedRate(ticks::incrementAndGet, 10, 10, TimeUnit.MILLISECONDS);
		ExecutorService pool = Executors.newFixedThreadPool(6);
		BlockingQueue<Integer> queue = new ArrayBlockingQueue<>(4);
		ConcurrentHashMap<Integer, String> results = new ConcurrentHashMap<>();
		Object monitor = new Object();
		CountDownLatch done = new CountDownLatch(6);
		for (int t = 0; t < 6; t++)
			pool.submit(() -> {
				try {
					for (int n; (n = queue.take()) >= 0; ) {
						results.put(n, chain(n));
						synchronized (monitor) {
							monitor.notifyAll();
						}
						Thread.sleep(5);
					}
				} catch (Throwable e) {
					e.printStackTrace();
				}
				done.countDown();
			});
		Thread feeder = new Thread(() -> {
			try {
				for (int n = 0; n < TASKS; n++)
					queue.put(n);
				for (int t = 0; t < 6; t++)
					queue.put(-1);
			} catch (InterruptedException e) {
				e.printStackTrace();
			}
		});
		feeder.start();
		for (int shown = -1; results.size() < TASKS; ) {
			synchronized (monitor) {
				monitor.wait(1000);
			}
			if (results.size() / 10 != shown)
				System.out.println("have " + 10 * (shown = results.size() / 10));
		}
		feeder.join();
		done.await();
		pool.shutdown();
		timer.shutdown();
		for (int n = 0; n < TASKS; n++)
			if (!chain(n).equals(results.get(n)))
				throw new Error("task " + n + " is wrong");
		if (ticks.get() < 10)
			throw new Error("only " + ticks + " ticks");
		System.out.println("all right");
	}
}
"""


def have(text):
    lines = [l for l in text.splitlines() if l.startswith("have")]
    return int(lines[-1].split()[1]) if lines else 0


def test(work):
    with open(os.path.join(work, "Prog.java"), "w") as f:
        f.write(PROGRAM)
    java = real.find("java")
    # the compiler is in the package of the runtime, but without a command of its own
    r = real.h.run([java, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", ".", "Prog.java"], cwd=work)
    if r.rc != 0:
        raise real.h.Skip(f"this java does not compile: {r}")
    with real.Program(work, [java, "-Xms48m", "-Xmx48m", "-cp", ".", "Prog"]) as p:
        at = []
        for want in (20, 150, 300):
            p.wait_for(lambda t: have(t) >= want, f"{want} tasks done", 60)
            p.again(0.05)
            at.append(have(p.text()))
        p.finish()
        real.h.require(p.text().endswith("all right\n"), f"its last words: {p.text()[-200:]}")
        real.h.require(at[0] < 400, "the first checkpoint came too late")
        return f"checkpointed at {at} of 400 tasks"


real.main(test)
