# SPDX-License-Identifier: MIT
"""What was measured, as lines while it runs, and as the tables and pictures of docs/design/performance.md."""
import os
import re
import statistics

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PAGE = os.path.join(ROOT, "docs", "design", "performance.md")
PICTURES = os.path.join(ROOT, "docs", "design", "pictures")
median = statistics.median


def print_row(row):
    figures = "  ".join(f"{k} {median(v):.1f} (least {min(v):.1f})" for k, v in row["figures"].items() if v)
    print(f"{row['part']}: {row['what']}, {row['engine']}: {figures}", flush=True)


def of(results, part, engine="ckpt"):
    return [r for r in results["rows"] if r["part"] == part and r["engine"] == engine]


def disk(results, what):
    """MB/s of fio, over the whole run: the median."""
    rates = [v for r in of(results, "disk", "fio") if r["what"] == what for v in r["figures"]["MB/s"]]
    return median(rates) if rates else None


def cell(values):
    if not values:
        return ""
    m = median(values)
    return f"{m:.2f}" if m < 10 else f"{m:.1f}" if m < 100 else f"{m:.0f}"


def table(results, part, columns):
    """A line for each thing measured and engine; with two engines, a line of ratios below them."""
    head = ["", "", *columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for ours in of(results, part):
        lines.append("| " + " | ".join([ours["what"], "ours", *(cell(ours["figures"].get(c)) for c in columns)]) + " |")
        for theirs in of(results, part, "criu"):
            if theirs["what"] != ours["what"]:
                continue
            lines.append("| " + " | ".join(["", "reference", *(cell(theirs["figures"].get(c)) for c in columns)]) + " |")
            ratios = [f"{median(ours['figures'][c]) / median(theirs['figures'][c]):.2f}" if ours["figures"].get(c) and
                      theirs["figures"].get(c) and median(theirs["figures"][c]) else "" for c in columns]
            lines.append("| " + " | ".join(["", "ratio", *ratios]) + " |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- the goals

def find(results, part, what, figure):
    for r in of(results, part):
        if r["what"] == what and r["figures"].get(figure):
            return median(r["figures"][figure])
    return None


def goal_lines(results):
    def get(*where):
        return find(results, *where)

    size = get("sizes", "1G, plain", "MB")
    write, read = disk(results, "write"), disk(results, "read")
    dump, cold = get("sizes", "1G, plain", "dump, synced"), get("sizes", "1G, plain", "restore, cold")
    full, part = get("incremental", "full", "dump"), get("incremental", "1 % dirty", "dump")
    rows = []

    def goal(name, limit, value, unit, least):
        if value is None or limit is None:
            return
        reached = value >= limit if least else value <= limit
        rows.append((name, f"{'at least' if least else 'at most'} {limit:.3g} {unit}", f"{value:.3g} {unit}", "yes" if reached else "**no**"))

    if size and dump and write:
        goal("dump of 1 GiB, synced, to fio's rate of writing", 0.85, size / dump * 1e3 / write, "", True)
    if size and cold and read:
        goal("restore of 1 GiB, cold, to fio's rate of reading", 0.85, size / cold * 1e3 / read, "", True)
    goal("frozen, 1 GiB, `-R`, seen by the program", 22, get("sizes", "1G, plain", "frozen, -R: seen by the program"), "ms", False)
    goal("frozen, 1 GiB of huge pages", 5, get("sizes", "1G, huge", "frozen, -R: seen by the program"), "ms", False)
    goal("dump of 1 MiB", 8, get("sizes", "1M, plain", "dump"), "ms", False)
    goal("restore of 1 MiB", 8, get("sizes", "1M, plain", "restore, warm"), "ms", False)
    if full and part:
        goal("incremental, 1 GiB, 1 % dirty, to a full dump: a pre-dump", 0.05, get("incremental", "1 % dirty", "pre-dump") / full, "", False)
        goal("the same: a dump that ends the program", 0.05, part / full, "", False)
    for what in ("1M", "100M", "1G"):
        goal(f"lazy restore of {what}, first instruction", 10, get("lazy", what, "first instruction"), "ms", False)
    for which in ("dump", "restore"):
        goal(f"memory of the engine, {which} of 4 GiB", 67, get("memory", "4 GiB", which), "MB", False)
    head = ["| goal | | measured | reached |", "|---|---|---|---|"]
    return "\n".join(head + ["| " + " | ".join(r) + " |" for r in rows])


# ------------------------------------------------------------------------------------------------------ the pictures

def bars(results, part, figures, title, name, unit="ms", log=False):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = name  # the same picture from the same numbers
    import matplotlib.pyplot as plt
    rows = [(r, e) for e in ("ckpt", "criu") for r in of(results, part, e)]
    names = list(dict.fromkeys(r["what"] for r, _ in rows))
    series = [(f, e) for e in ("ckpt", "criu") if of(results, part, e) for f in figures]
    if not names:
        return
    fig, ax = plt.subplots(figsize=(8, 3.6))
    width = 0.8 / len(series)
    for i, (figure, engine) in enumerate(series):
        values = [find_in(results, part, n, figure, engine) or 0 for n in names]
        label = figure if len({e for _, e in series}) == 1 else f"{figure}, {'ours' if engine == 'ckpt' else 'reference'}"
        ax.bar([k + i * width for k in range(len(names))], values, width, label=label)
    ax.set_xticks([k + 0.4 - width / 2 for k in range(len(names))], names, fontsize=8)
    ax.set_ylabel(unit)
    ax.set_title(title, fontsize=10)
    if log:
        ax.set_yscale("log")
    ax.legend(fontsize=8)
    fig.tight_layout()
    os.makedirs(PICTURES, exist_ok=True)
    fig.savefig(os.path.join(PICTURES, name + ".svg"), metadata={"Date": None})
    plt.close(fig)


def find_in(results, part, what, figure, engine):
    for r in of(results, part, engine):
        if r["what"] == what and r["figures"].get(figure):
            return median(r["figures"][figure])
    return None


def pictures(results):
    try:
        bars(results, "sizes", ["dump, synced", "restore, cold", "restore, warm"], "Dump and restore by size of memory", "sizes", log=True)
        bars(results, "sizes", ["frozen, -R: seen by the program"], "How long the program stands still (-R)", "frozen")
        bars(results, "incremental", ["dump"], "A dump of 1 GiB after a pre-dump", "incremental")
        bars(results, "lazy", ["first instruction", "complete"], "Lazy restore", "lazy", log=True)
        bars(results, "beside", ["all of them", "the mean of each"], "Several dumps at once", "beside")
    except ImportError:
        print("# no pictures: python3-matplotlib is not there")


SIZE_COLUMNS = ["dump", "dump, synced", "frozen, -R: seen by the program", "restore, cold", "restore, warm"]


def parts(results):
    yield "sizes", table(results, "sizes", SIZE_COLUMNS)
    yield "tasks", table(results, "tasks", SIZE_COLUMNS)
    yield "incremental", table(results, "incremental", ["first pre-dump", "pre-dump", "dump", "MB"])
    yield "lazy", table(results, "lazy", ["first instruction", "complete"])
    yield "beside", table(results, "beside", ["all of them", "the mean of each"])
    yield "memory", table(results, "memory", ["dump", "restore"])


def write_parts(parts, by, page=PAGE):
    """Puts texts into the page, between the marks of the script @by; what is not among them stays as it is."""
    with open(page) as f:
        text = f.read()
    for name, body in parts.items():
        mark = re.compile(rf"(<!-- {name}: made by tests/bench/{re.escape(by)} -->\n).*?(<!-- end -->)", re.S)
        text = mark.sub(lambda m, body=body: m.group(1) + body + "\n" + m.group(2), text)
    with open(page, "w") as f:
        f.write(text)


def write(results):
    """What was measured; parts that were not measured stay as they are."""
    texts = {name: body for name, body in parts(results) if of(results, name)}
    w, r = disk(results, "write"), disk(results, "read")
    texts["machine"] = (f"Linux {results['kernel']}, {results['cpus']} processors, load {results['load']:.1f}, medians of {results['rounds']} rounds. "
                        + (f"fio on the same disk in the same run (O_DIRECT, io_uring, 1 MiB, depth 16): writes {w:.0f} MB/s, reads {r:.0f} MB/s. " if w else "")
                        + (f"No comparison: {results['reference']}." if results["reference"] else "Ours and the reference engine in turns."))
    texts["goals"] = goal_lines(results)
    write_parts(texts, "pages.py")
    pictures(results)
