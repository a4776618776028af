#!/usr/bin/env python3
"""Draws what `weft bench gpu --json FILE` wrote, an SVG per operator. Usage: bench/plot_gpu.py FILE.json FOLDER
Needs matplotlib (pip install matplotlib). Of the fused operators: time over cuBLAS alone; of others microseconds."""
import argparse
import json
import pathlib

try:
    import matplotlib
except ImportError:
    raise SystemExit("plot_gpu.py: needs matplotlib: pip install matplotlib") from None
matplotlib.use("svg")
import matplotlib.pyplot as plt

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "weft", "font.size": 10, "axes.spines.top": False,
                            "axes.spines.right": False})
# Microseconds on 4x H200, measured elsewhere: 256 experts, top 8, hidden 7168, dispatch fp8, combine bf16.
PEERS = {"tokens": [1, 8, 32, 64, 128, 4096],
         "pplx-kernels": {"dispatch": [19.1, 19.6, 23.5, 29.0, 42.0, 883], "combine": [19.8, 21.8, 34.9, 52.9, 91.7, 2448],
                          "pair": [28.8, 31.5, 48.8, 73.6, 123.6, 3320]},
         "DeepEP V2": {"dispatch": [17.3, 17.3, 18.5, 19.9, 26.1, 382], "combine": [26.4, 27.5, 30.9, 33.9, 40.9, 622],
                       "pair": [33.3, 34.8, 39.8, 44.5, 57.6, 994]}}
COLOURS = {"weft": "#2b6cb0", "rival": "#c05621", "ours": "#90cdf4", "other": "#a0aec0"}


def colour(variant):
    if variant in ("weft/auto", "weft"):
        return COLOURS["weft"]
    if variant == "weft/gemm":
        return COLOURS["ours"]
    return COLOURS["rival"] if "nccl" in variant or "cublas" in variant.lower() else COLOURS["other"]


def bars(ax, groups, series):
    """series: name -> [(median, (lower, upper)) or None of each group]."""
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        for group, value in enumerate(values):
            if value is None:
                continue
            median, (lower, upper) = value
            at = group + (place - (len(series) - 1) / 2) * width
            ax.bar(at, median, width * 0.92, color=colour(name), label=name if group == 0 else None,
                   yerr=[[max(0, median - lower)], [max(0, upper - median)]], error_kw={"lw": 1})
    ax.set_xticks(range(len(groups)), groups)
    top = max(upper for values in series.values() for value in values if value for upper in [value[1][1]])
    ax.set_ylim(0, top * 1.15)
    if len(series) > 1:
        ax.legend(frameon=False, ncols=len(series), loc="upper right")


def save(fig, path):
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)
    print(path)


def fused(op, report, source, path):
    sizes = sorted({row["m"] for row in report["rows"]})
    regimes = list(dict.fromkeys(row["regime"] for row in report["rows"]))
    fig, axes = plt.subplots(1, len(regimes), figsize=(5.5 * len(regimes), 3.4), sharey=True, squeeze=False)
    for ax, regime in zip(axes[0], regimes):
        rows = {(row["variant"], row["m"]): (row["ratio"], row["ratio_quartiles"]) for row in report["rows"]
                if row["regime"] == regime}
        names = [n for n in dict.fromkeys(variant for variant, _ in rows) if n != "cublas"]
        bars(ax, sizes, {name: [rows.get((name, m)) for m in sizes] for name in names})
        ax.axhline(1, color="black", lw=0.8, ls="--")
        ax.set(title=f"{op}, {regime}", xlabel=f"M (N {report['n']}, K {report['k']})")
    axes[0][0].set_ylabel("time / cuBLAS alone")
    fig.suptitle(f"{report['ranks']}x {report['device']}, NCCL {report['nccl']}; {source}", fontsize=9)
    save(fig, path)


def gemm(op, report, source, path):
    """Time over the stronger rival's by M, a line per shape of weights; a panel per model where rows name one."""
    models = list(dict.fromkeys(row.get("model", op) for row in report["rows"]))
    fig, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 3.6), sharey=True, squeeze=False)
    for ax, model in zip(axes[0], models):
        mine = [row for row in report["rows"] if row.get("model", op) == model]
        for n, k in dict.fromkeys((row["n"], row["k"]) for row in mine):
            rows = [row for row in mine if (row["n"], row["k"]) == (n, k)]
            ax.plot([row["m"] for row in rows], [row.get("lt_ratio") or row["ratio"] for row in rows], marker="o", ms=3,
                    lw=1, ls=":" if rows[0].get("tp") == 8 else "-", label=f"{n} x {k}")
        ax.axhline(1, color="black", lw=0.8, ls="--")
        ax.set(xscale="log", title=model, xlabel="M")
        ax.legend(frameon=False, fontsize=6, ncol=2)
    rival = "cuBLASLt's best" if report["rows"][0].get("lt_ratio") else "cuBLAS"
    axes[0][0].set_ylabel(f"time / {rival}")
    fig.suptitle(f"{report['device']}, cuBLAS {report['cublas']}; {source}", fontsize=9)
    save(fig, path)


def lines(op, report, source, path, key, unit):
    fig, ax = plt.subplots(figsize=(6.5, 3.6))
    for name in dict.fromkeys(row["variant"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["variant"] == name]
        ax.plot([row[key] for row in rows], [row["us"] for row in rows], marker="o", ms=3, label=name,
                color=colour(name), lw=2 if name == "weft/auto" else 1,
                ls="-" if name in ("weft/auto", "nccl") else ":")
    ax.set(xscale="log", yscale="log", xlabel=unit, ylabel="us per call",
           title=f"{op}, {report['ranks']}x {report['device']}")
    ax.legend(frameon=False)
    fig.suptitle(source, fontsize=9)
    save(fig, path)


def experts(op, report, source, path):
    """Dispatch, combine and both, by tokens; the peers' figures only for the shape that they are known for."""
    steps = {"dispatch": ["nccl/all_gather", "nccl/exact_dispatch"], "combine": ["nccl/reduce_scatter", "nccl/exact_combine"],
             "pair": ["nccl/pair", "nccl/exact_pair"]}
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for ax, (step, rivals) in zip(axes, steps.items()):
        for name in [f"weft/{step}", *rivals]:
            rows = [row for row in report["rows"] if row["variant"] == name]
            if rows:
                ours = name.startswith("weft")
                ax.plot([row["tokens"] for row in rows], [row["us"] for row in rows], marker="o", ms=3, label=name,
                        color=COLOURS["weft" if ours else "rival"], lw=2 if ours else 1, ls=":" if "exact" in name else "-")
        if (report["experts"], report["top_k"], report["hidden"]) == (256, 8, 7168):
            for name, marker in (("pplx-kernels", "s"), ("DeepEP V2", "^")):
                ax.plot(PEERS["tokens"], PEERS[name][step], marker=marker, ms=3, lw=0.8, ls="--", color=COLOURS["other"],
                        label=f"{name}, 4 GPUs, elsewhere")
        ax.set(xscale="log", yscale="log", xlabel="tokens of each rank", title=step)
        ax.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel("us per call")
    fig.suptitle(f"{op}: {report['ranks']}x {report['device']}, {report['experts']} experts, top {report['top_k']}, hidden "
                 f"{report['hidden']}, {report['routing']} routing, NCCL {report['nccl']}; {source}", fontsize=9)
    save(fig, path)


def shapes(op, report, source, path):
    """A picture for every shape, a line for every variant."""
    key = "tokens" if "tokens" in report["rows"][0] else "m"
    names = list(dict.fromkeys(row["shape"] for row in report["rows"]))
    fig, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False)
    for ax, shape in zip(axes[0], names):
        rows = [row for row in report["rows"] if row["shape"] == shape]
        for variant in dict.fromkeys(row["variant"] for row in rows):
            mine = [row for row in rows if row["variant"] == variant]
            ax.plot([row[key] for row in mine], [row["us"] for row in mine], marker="o", ms=3, lw=1, label=variant,
                    ls="--" if "nccl" in variant or "cuBLAS" in variant else "-")
        ax.set(xscale="log", yscale="log", xlabel="tokens", title=shape)
    axes[0][0].set_ylabel("us per call")
    axes[0][-1].legend(frameon=False, fontsize=7, loc="lower right")
    ranks = f"{report['ranks']}x " if "ranks" in report else ""
    fig.suptitle(f"{op}: {ranks}{report['device']}; {source}", fontsize=9)
    save(fig, path)


def copies(reports, source, path):
    """Operators that memory limits, at their largest size."""
    bars = []
    for report in reports:
        most = max(row["rows"] for row in report["rows"])
        last = {(row["variant"]): row for row in report["rows"] if row["rows"] == most}
        bars += [(f"{row['variant']}, {row['rows']} x {row['width']}", 100 * row["of_copy"]) for row in last.values()]
    fig, ax = plt.subplots(figsize=(7.5, 0.3 * len(bars) + 1.2))
    ax.barh([name for name, _ in bars][::-1], [percent for _, percent in bars][::-1], color=COLOURS["weft"])
    ax.axvline(90, color="black", lw=0.8, ls="--")
    ax.set(xlabel="percent of a copy's bandwidth; dashed: the target", xlim=(0, 100))
    fig.suptitle(f"{reports[0]['device']}; {source}", fontsize=9)
    save(fig, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    flags = parser.parse_args()
    try:
        everything = json.loads(flags.file.read_text())
    except (OSError, ValueError) as fault:
        raise SystemExit(f"plot_gpu.py: {flags.file}: {fault}") from None
    flags.folder.mkdir(parents=True, exist_ok=True)
    source = f"{flags.file.name}, revision {everything.get('revision')}"
    reports = {op: report for op, report in everything.items() if isinstance(report, dict) and report.get("rows")}
    limited = [report for report in reports.values() if "of_copy" in report["rows"][0]]
    if limited:
        copies(limited, source, flags.folder / f"{flags.file.stem}.svg")
    for op, report in reports.items():
        if report in limited:
            continue
        path = flags.folder / f"{flags.file.stem}-{op}.svg"
        if "top_k" in report:
            experts(op, report, source, path)
        elif "shape" in report["rows"][0]:
            shapes(op, report, source, path)
        elif op == "gemm":
            gemm(op, report, source, path)
        elif "bytes" in report["rows"][0] and "regime" not in report["rows"][0] and "tokens" not in report["rows"][0]:
            lines(op, report, source, path, "bytes", "bytes")
        elif "tokens" in report["rows"][0]:
            lines(op, report, source, path, "tokens", "tokens of each rank")
        else:
            fused(op, report, source, path)


if __name__ == "__main__":
    main()
