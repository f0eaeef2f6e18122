# SPDX-License-Identifier: MIT
"""Tables, goals and pictures of tests/bench/containers.py, in docs/design/containers.md."""
import os

import report
from report import find, median

PAGE = os.path.join(report.ROOT, "docs", "design", "containers.md")
BY = "containers.py"
EACH = ["checkpoint", "process, checkpoint", "engine, checkpoint", "frozen", "frozen, -R", "restore", "process, restore", "engine, restore", "MB"]
OTHERS = ["redis", "nginx", "postgres", "mariadb", "java"]


def limits(results):
    """(name, limit, measured) of every goal that was measured."""
    alone = find(results, "each", "idle", "process, checkpoint")
    back = find(results, "each", "idle", "engine, restore")
    yield "idle container, the engine's part of the checkpoint (its process)", 40, alone
    yield "idle container, the engine's part of the restore (from the request)", 40, back
    yield "redis of 500 MB, frozen with `--leave-running`", 40, find(results, "each", "redis", "frozen, -R")
    small = find(results, "many", "0", "idle")
    if small:
        yield "idle container beside five others (at most 1.3 times alone, or 25 ms more)", max(1.3 * small, small + 25), find(results, "many", "5", "idle")


def goals(results):
    rows = ["| goal | at most | measured | reached |", "|---|---|---|---|"]
    for name, limit, value in limits(results):
        if value is not None:
            rows.append(f"| {name} | {limit:.0f} ms | {value:.1f} ms | {'yes' if value <= limit else '**no**'} |")
    started = [sum(max(v) for v in r["figures"].values()) for r in report.of(results, "programs")]
    if started:
        rows.append(f"| programs started by the engine, all containers | 0 | {sum(started)} | {'**no**' if sum(started) else 'yes'} |")
    theirs = find_theirs(results, "redis")
    ours = find(results, "each", "redis", "checkpoint")
    if theirs and ours:
        rows.append(f"| redis, checkpoint synced, to the reference's | 0.5 | {ours / theirs:.2f} | {'yes' if ours / theirs <= 0.5 else '**no**'} |")
    return "\n".join(rows)


def find_theirs(results, what):
    return report.find_in(results, "each", what, "checkpoint", "criu")


def growth(results):
    """The paper's last picture: the idle one beside 0 to 5 others."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "containers-many"  # the same picture from the same numbers
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(8, 3.6))
    for engine, label in (("ckpt", "ours"), ("criu", "reference")):
        rows = report.of(results, "many", engine)
        if rows:
            ax.plot([int(r["what"]) for r in rows], [median(r["figures"]["idle"]) for r in rows], marker="o", label=f"checkpoint, {label}")
            ax.plot([int(r["what"]) for r in rows], [median(r["figures"]["idle, frozen"]) for r in rows], marker=".", linestyle="--",
                    label=f"frozen, {label}")
    ax.set_xlabel("other containers that are checkpointed at the same moment")
    ax.set_ylabel("ms")
    ax.set_ylim(bottom=0)
    ax.set_title("An idle container beside others", fontsize=10)
    ax.legend(fontsize=8)
    fig.tight_layout()
    os.makedirs(report.PICTURES, exist_ok=True)
    fig.savefig(os.path.join(report.PICTURES, "containers-many.svg"), metadata={"Date": None})
    plt.close(fig)


def pictures(results):
    try:
        report.bars(results, "each", ["checkpoint", "restore"], "Each container alone (runc's whole command)", "containers-each")
        report.bars(results, "one", ["idle"], "The idle container while one other is checkpointed", "containers-one")
        if report.of(results, "many"):
            growth(results)
    except ImportError:
        print("# no pictures: python3-matplotlib is not there")


def write(results):
    head = (f"Linux {results['kernel']}, {results['cpus']} processors, load {results['load']:.1f}, medians of {results['rounds']} rounds. "
            + (f"No comparison: {results['reference']}." if results["reference"] else "Ours and the reference engine in turns."))
    texts = {"machine": head, "goals": goals(results), "each": report.table(results, "each", EACH),
             "one": report.table(results, "one", ["idle", "idle, frozen", *OTHERS]), "many": report.table(results, "many", ["idle", "idle, frozen", *OTHERS]),
             "programs": report.table(results, "programs", ["checkpoint", "restore"]),
             "docker": report.table(results, "docker", ["checkpoint", "process, checkpoint", "restore", "process, restore"])}
    report.write_parts({k: v for k, v in texts.items() if k in ("machine", "goals") or report.of(results, k)}, BY, PAGE)
    pictures(results)
