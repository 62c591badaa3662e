"""Every method and recipe at every scheme: top-1, agreement, seconds, peak memory.

    python -m benchmarks.study.methods --data-root DIR [--only resnet20 ...] [--methods brecq ...]
        [--schemes w4a4 ...] [--parts table dfq calib seeds]

Each run is one `bitwright quantize` in a process of its own, verified in ONNX Runtime; rows that
are in benchmarks/results/methods.csv or methods_parts.csv already are not repeated unless --again
is given. Several of these may run side by side: each adds its row to what the file then holds.
Parts: `table`, all methods; `dfq`, one scale for each weight, where equalisation matters; `calib`,
small calibration sets drawn anew (figure 1 of the paper); `seeds`, BRECQ and AdaRound with three
seeds. What is lost where gradient methods take fewer steps, and whether rewrites leave answers
unchanged on the networks of the zoo, are closed questions: their rows and their part of the page
stay. Writes docs/measured/methods_table.md.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import bitwright
from benchmarks.data import DATA
from benchmarks.study.solve import KEEP, SUBSET
from benchmarks.tables import MEASURED, RESULTS

REWRITES = RESULTS / "rewrites.csv"
NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0", "mobilenet_v2_dogs")
SCHEMES = ("w8a8", "w4a8", "w4a4", "w3a3")
MINMAX = ["--activation-range", "minmax", "--weight-range", "minmax"]
# What each line of the table adds to the command.
METHODS: dict[str, list[str]] = {
    "min-max": ["--method", "nearest", *MINMAX],
    "nearest": ["--method", "nearest"],
    "aciq": ["--recipe", "aciq"],
    "dfq": ["--recipe", "dfq"],
    "factorize": ["--method", "nearest", "--prepare", "factorize"],
    "zeroq": ["--recipe", "zeroq"],
    "ocs": ["--recipe", "ocs"],
    "lapq": ["--recipe", "lapq"],
    "quadratic": ["--method", "quadratic", "--mode", "sequential"],
    "quadratic, bn": ["--method", "quadratic", "--mode", "parallel", "--tune", "bn"],
    "adaround": ["--recipe", "adaround"],
    "brecq": ["--recipe", "brecq"],
    "adaquant": ["--method", "adaquant", "--mode", "sequential"],
    "adaquant, bn, bias": ["--method", "adaquant", "--mode", "parallel", "--tune", "bn,bias"],
    "equalize, adaquant": [
        "--method", "adaquant", "--mode", "sequential", "--prepare", "equalize",
    ],
    "qat-kld": ["--recipe", "qat-kld"],
    "qat-kld-last": ["--method", "nearest", "--tune", "qat-kld-last"],
    "qat-kld-paper": ["--method", "nearest", "--tune", "qat-kld-paper"],
}  # fmt: skip
# Those that need a backward pass.
BACKWARD = {
    "zeroq", "adaround", "brecq", "adaquant", "adaquant, bn, bias", "equalize, adaquant",
    "qat-kld", "qat-kld-last", "qat-kld-paper",
}  # fmt: skip
DFQ = {
    "min-max": METHODS["min-max"],
    "equalize": ["--method", "nearest", "--prepare", "equalize", *MINMAX],
    "equalize-relu, absorb-bias": [
        "--method", "nearest", "--prepare", "equalize-relu,absorb-bias", *MINMAX,
    ],
    "dfq": METHODS["dfq"],
    "ocs": METHODS["ocs"],
}  # fmt: skip
SHORT = 0.3
CALIB = (10, 100, 1000)
# Where most of a run's time would go into the tests, their first so many; 0 for all.
TESTS = {"resnet20": 2000, "resnet56": 2000}
FIRST = """
import sys
sys.path.insert(0, {root!r})
import loaders

def first():
    left, kept = {tests}, []
    for inputs, labels in loaders.{test}():
        kept.append((inputs[:left], labels[:left]))
        left -= len(labels)
        if left <= 0:
            return kept
    return kept
"""
OVERFIT = (
    "nearest", "quadratic", "adaquant", "adaround", "brecq",
    "qat-kld", "qat-kld-last", "qat-kld-paper",
)  # fmt: skip
DESCENDING = (
    "adaround", "brecq", "adaquant", "adaquant, bn, bias", "equalize, adaquant",
    "qat-kld", "qat-kld-last", "qat-kld-paper",
)  # fmt: skip
IDENTITY = ("part", "network", "scheme", "method", "target", "calib", "seed", "tests")
STAGES = ("distil", "prepare", "observe", "solve")


def row(part: str, network: str, scheme: str, method: str, **other: object) -> dict[str, str]:
    target, calib, seed = other.get("target", "paper"), other.get("calib", 1000), other.get("seed")
    # Three seeds are compared by small differences.
    tests = 0 if part == "seeds" else TESTS.get(network, 0)
    values = (part, network, scheme, method, target, calib, seed or 0, tests)
    return dict(zip(IDENTITY, map(str, values), strict=True))


def table(networks: list[str], schemes: list[str], methods: list[str]) -> Iterator[dict[str, str]]:
    for network in networks:
        for scheme in schemes:
            for method in methods:
                if method in METHODS:
                    yield row("table", network, scheme, method)


def dfq(networks: list[str], schemes: list[str], methods: list[str]) -> Iterator[dict[str, str]]:
    for network in networks:
        if "resnet" not in network and "w8a8" in schemes:
            for method in DFQ:
                if method in methods or method not in METHODS:
                    yield row("dfq", network, "w8a8", method, target="per-tensor")


def calib(networks: list[str], schemes: list[str], methods: list[str]) -> Iterator[dict[str, str]]:
    if "resnet20" in networks and "w4a4" in schemes:
        for count in CALIB:
            for method in OVERFIT:
                if method in methods:
                    yield row("calib", "resnet20", "w4a4", method, calib=count)


def seeds(networks: list[str], schemes: list[str], methods: list[str]) -> Iterator[dict[str, str]]:
    if "resnet56" in networks and "w4a4" in schemes:
        for seed in range(3):
            for method in ("adaround", "brecq"):
                if method in methods:
                    yield row("seeds", "resnet56", "w4a4", method, seed=seed)


Select = Callable[[list[str], list[str], list[str]], Iterator[dict[str, str]]]
PARTS: dict[str, Select] = {
    "table": table, "dfq": dfq, "calib": calib, "seeds": seeds,
}  # fmt: skip


def measure(root: Path, run: dict[str, str]) -> dict[str, object]:
    """One run in a fresh folder."""
    network, method = run["network"], run["method"]
    options = (DFQ if run["part"] == "dfq" else METHODS)[method]
    calibration, test = DATA[network]
    with tempfile.TemporaryDirectory() as folder:
        data = f"{root}/loaders.py:{calibration}"
        if method == "zeroq":
            data = "none"
        elif int(run["calib"]) < 1000:
            loader = Path(folder) / "subset.py"
            loader.write_text(SUBSET.format(root=str(root), loader=calibration, **run))
            data = f"{loader}:subset"
        tests = f"{root}/loaders.py:{test}"
        if int(run["tests"]):
            loader = Path(folder) / "first.py"
            loader.write_text(FIRST.format(root=str(root), test=test, **run))
            tests = f"{loader}:first"
        done = bitwright(
            Path(folder) / "run", "quantize", "--recipe", "fixed",
            f"{root}/models.py:{network}", "--data", data,
            "--eval", tests, *options, "--scheme", run["scheme"], "--keep", KEEP,
            "--target", run["target"], "--calib", run["calib"], "--seed", run["seed"],
        )  # fmt: skip
        metrics, verified, peak = done.read("metrics.json"), done.read("verify.json"), done.peak_mb
        seen = on_samples_seen(done.out, data) if run["part"] == "calib" else {}
    own = [s for s in metrics["stages"] if s["name"] in STAGES or s["name"].startswith("tune")]
    return {
        **run,
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "method_s": sum(s["seconds"] for s in own),
        "processor_s": done.processor_s,
        "peak_mb": peak,
        "verified": verified["passed"],
        "length": 1.0,
        "seen_agreement": seen.get("agreement", ""),
        "seen_kl": seen.get("kl", ""),
    }


def on_samples_seen(run: Path, data: str) -> dict[str, Any]:
    """Agreement and KL on the calibration samples themselves: what is better there was learned."""
    command = [sys.executable, "-m", "bitwright.cli", "evaluate", str(run), "--eval", data]
    command += ["--metric", "agreement", "--json"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


def page(rows: list[dict[str, str]]) -> str:
    """The tables as a page of the documentation."""
    lines = [
        "# Methods side by side",
        "",
        "Written by `python -m benchmarks.study.methods --data-root DIR`. Each line is one",
        "`bitwright quantize`, target `paper`, first and last unit at 8 bits, 1000 unlabelled",
        "calibration samples (400 for the dogs, none for ZeroQ), tests that are in no calibration",
        "set: the first 2000 of 5000 CIFAR-10 images (a lossy copy; all of them for BRECQ against",
        "AdaRound), 650 photos, 740 photos of dogs. Cells: top-1 / agreement with float answers.",
        "Method s is the wall time of the method's own stages (observing, solving, tuning), one",
        "thread; processor s that of the whole command, evaluation and verification in ONNX",
        "Runtime included; both are means over the schemes, taken beside other work on the same",
        "two cores over several sessions: they tell magnitudes. Memory is the peak of any stage.",
        "Each file is verified in ONNX Runtime, later rows on 64 samples, not 256.",
        "The rows are in benchmarks/results/methods.csv and methods_parts.csv,",
        "rounded to four or five digits.",
        *_marked(rows),
    ]
    lines += _overview([r for r in rows if r["part"] == "table"])
    for network in NETWORKS:
        lines += _network(network, [r for r in rows if r["network"] == network])
    lines += _part(rows, "dfq", "One scale for each weight (target `per-tensor`), w8a8")
    lines += _part(rows, "calib", "Small calibration sets, drawn anew (figure 1 of the paper)")
    lines += _by_heart(rows)
    lines += _part(rows, "seeds", "BRECQ and AdaRound, three seeds")
    lines += _means(rows)
    lines += _shorter(rows)
    lines += _rewrites()
    return "\n".join(lines) + "\n"


def _marked(rows: list[dict[str, str]]) -> list[str]:
    """What the mark on a cell says, where there is one."""
    shares = sorted({taken(r) for r in rows if r["part"] == "table"} - {1.0})
    if not shares:
        return []
    named = ", ".join(f"{share:g}" for share in shares)
    return [
        f"\\*: the method took {named} of its steps; what that costs is further down. QAT-KLD",
        "begins at nearest rounding: where that is at chance level, so short a run may not leave",
        "it, and its cell tells little of a whole one.",
    ]


def _overview(rows: list[dict[str, str]]) -> list[str]:
    """Which method comes nearest to the float answers, and how much of the table there is."""
    whole = len(NETWORKS) * len(SCHEMES) * len(METHODS)
    lines = [
        "",
        f"{len(rows)} of {whole} cells are measured. Nearest to the float network's answers, of",
        "those that are, and the best without a backward pass:",
        "",
        f"| network | {' | '.join(SCHEMES)} |",
        "| --- " * (len(SCHEMES) + 1) + "|",
    ]
    for network in NETWORKS:
        cells = []
        for scheme in SCHEMES:
            own = [r for r in rows if (r["network"], r["scheme"]) == (network, scheme)]
            own.sort(key=lambda r: -float(r["agreement"]))
            best = own[:1] + [r for r in own if r["method"] not in BACKWARD][:1]
            named = dict.fromkeys(f"{r['method']} {float(r['agreement']):.2%}" for r in best)
            cells.append("; ".join(named) or "-")
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return lines


def _network(network: str, rows: list[dict[str, str]]) -> list[str]:
    own = [r for r in rows if r["part"] == "table"]
    if not own:
        return []
    schemes = [s for s in SCHEMES if any(r["scheme"] == s for r in own)]
    lines = [
        "",
        f"## {network}: {float(own[0]['float_top1']):.2%} in float",
        "",
        f"| method | {' | '.join(schemes)} | method s | processor s | peak MB |",
        "| --- " * (len(schemes) + 4) + "|",
    ]
    for method in METHODS:
        found = {r["scheme"]: r for r in own if r["method"] == method}
        if found:
            cells = [
                f"{float(found[s]['top1']):.2%} / {float(found[s]['agreement']):.2%}"
                f"{'' if taken(found[s]) == 1 else '*'}"
                if s in found
                else "-"
                for s in schemes
            ]
            own_s, seconds = (
                statistics.fmean(float(r[k]) for r in found.values())
                for k in ("method_s", "processor_s")
            )
            peak = max(float(r["peak_mb"]) for r in found.values())
            lines.append(
                f"| {method} | {' | '.join(cells)} | {own_s:.0f} | {seconds:.0f} | {peak:.0f} |"
            )
    return lines


def _part(rows: list[dict[str, str]], part: str, title: str) -> list[str]:
    order = list({**DFQ, **METHODS})
    own = sorted(
        (r for r in rows if r["part"] == part),
        key=lambda r: (r["network"], int(r["calib"]), order.index(r["method"]), int(r["seed"])),
    )
    if not own:
        return []
    lines = ["", f"## {title}", ""]
    lines += [
        "| network | scheme | method | samples | seed | float top-1 | top-1 | agreement | KL |"
    ]
    lines += ["| --- " * 9 + "|"]
    for r in own:
        lines.append(
            f"| {r['network']} | {r['scheme']} | {r['method']} | {r['calib']} | {r['seed']} "
            f"| {float(r['float_top1']):.2%} | {float(r['top1']):.2%} "
            f"| {float(r['agreement']):.2%} | {float(r['kl']):.3g} |"
        )
    return lines


def _by_heart(rows: list[dict[str, str]]) -> list[str]:
    """What a method answers on its calibration samples, and on others: the gap is overfitting."""
    order = list(METHODS)
    own = sorted(
        (r for r in rows if r["part"] == "calib" and r.get("seen_kl")),
        key=lambda r: (order.index(r["method"]), int(r["calib"])),
    )
    if not own:
        return []
    lines = ["", "KL to float on the calibration samples and on images that were not seen:", ""]
    lines += ["| method | samples | seen | not seen | not seen / seen |", "| --- " * 5 + "|"]
    for r in own:
        seen, other = float(r["seen_kl"]), float(r["kl"])
        lines.append(
            f"| {r['method']} | {r['calib']} | {seen:.3g} | {other:.3g} | {other / seen:.1f} |"
        )
    return [*lines, *_reading(own)]


def _reading(rows: list[dict[str, str]]) -> list[str]:
    """By what factor 100 samples lower nearest rounding's divergence, seen and not seen."""
    of = {r["method"]: r for r in rows if r["calib"] == "100"}
    if "nearest" not in of:
        return []
    lines = [
        "",
        "The calibration images are the network's own training images, which it answers surely:",
        "the levels differ, what a method changes counts. By what factor 100 images lower nearest",
        "rounding's divergence; what gains far more where it has seen learns by heart:",
        "",
    ]
    for method in OVERFIT[1:]:
        if method in of:
            seen, other = (
                float(of["nearest"][k]) / float(of[method][k]) for k in ("seen_kl", "kl")
            )
            lines.append(f"- `{method}`: seen {seen:.3g}, not seen {other:.3g}")
    return lines


def _means(rows: list[dict[str, str]]) -> list[str]:
    """Means over the seeds of a method."""
    own = [r for r in rows if r["part"] == "seeds"]
    lines = [""] if own else []
    for method in dict.fromkeys(r["method"] for r in own):
        found = [r for r in own if r["method"] == method]
        top1, agreement, kl = (
            statistics.fmean(float(r[k]) for r in found) for k in ("top1", "agreement", "kl")
        )
        lines.append(
            f"Mean of {len(found)} seeds, {method}: top-1 {top1:.2%}, agreement {agreement:.2%}, "
            f"KL {kl:.3g}.  "
        )
    return lines


def _shorter(rows: list[dict[str, str]]) -> list[str]:
    """What is lost where a method takes a share of its steps, beside the whole of them."""
    own = [r for r in rows if r["part"] == "length"]
    if not own:
        return []
    own.sort(key=lambda r: (NETWORKS.index(r["network"]), DESCENDING.index(r["method"])))
    lines = ["", f"## {SHORT:g} of the steps", ""]
    lines += ["| network | scheme | method | agreement: all | short | KL: all | short | method s |"]
    lines += ["| --- " * 8 + "|"]
    whole = [r for r in rows if r["part"] == "table" and taken(r) == 1]
    for short in own:
        full = like(short, whole, IDENTITY[1:])
        if full:
            cells = (f"{float(r['agreement']):.2%}" for r in (full, short))
            losses = (f"{float(r['kl']):.3g}" for r in (full, short))
            lines.append(
                f"| {short['network']} | {short['scheme']} | {short['method']} "
                f"| {' | '.join(cells)} | {' | '.join(losses)} "
                f"| {float(full['method_s']):.0f}, {float(short['method_s']):.0f} |"
            )
    return lines


def _rewrites() -> list[str]:
    found = known(REWRITES)
    if not found:
        return []
    lines = ["", "## Rewrites leave the answers unchanged", ""]
    lines += [
        "Each answer is computed in float64, with weights stored in float32 as they are deployed;",
        "float32 is how far the unchanged network's own answers in float32 lie from those. The",
        "networks are those of the zoo that can be captured, and five trained ones.",
        "",
        "| step | networks | of them changed | worst relative difference | float32 |",
        "| --- " * 5 + "|",
    ]
    for step in dict.fromkeys(r["step"] for r in found):
        own = [r for r in found if r["step"] == step]
        changed = [float(r["difference"]) for r in own if int(r["places"])]
        single = max(float(r["float32"]) for r in own)
        lines.append(
            f"| {step} | {len(own)} | {len(changed)} | {max(changed, default=0):.1e} "
            f"| {single:.1e} |"
        )
    return lines


def known(path: Path) -> list[dict[str, str]]:
    """Rows that were measured before."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def file_of(part: str) -> Path:
    """The table of all methods, or what stands beside it."""
    return RESULTS / ("methods.csv" if part == "table" else "methods_parts.csv")


def measured() -> list[dict[str, str]]:
    """All rows."""
    return [*known(file_of("table")), *known(file_of(""))]


def add(found: dict[str, str]) -> None:
    """Put one row in the place of its like, in what its file holds by now."""
    path = file_of(found["part"])
    with (Path(tempfile.gettempdir()) / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = [r for r in known(path) if any(r[k] != found[k] for k in IDENTITY)]
        save(path, [{**dict.fromkeys(found, ""), **r} for r in [*rows, found]])


def like(run: dict[str, str], rows: list[dict[str, str]], keys: Sequence[str] = IDENTITY) -> Any:
    """A row that is the same run, or None."""
    return next((r for r in rows if all(r[k] == run[k] for k in keys)), None)


def taken(run: dict[str, str]) -> float:
    """The share of its steps that a row was measured with."""
    return float(run.get("length") or 1)


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, str]]:
    """What was asked for and is not there yet, or only at less of its length."""
    for part in arguments.parts:
        for run in PARTS[part](arguments.only, arguments.schemes, arguments.methods):
            there = like(run, measured())
            if arguments.again or not there or (part == "table" and taken(there) < 1):
                yield run


def of_run(run: dict[str, str], root: Path) -> dict[str, Any]:
    """One row; the whole calibration set is part of the table, too."""
    if run["part"] == "table":
        there = like(run, [r for r in measured() if r["part"] == "calib"], IDENTITY[1:])
        if there:
            return dict(there | run)
    return measure(root, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES))
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=["table"])
    parser.add_argument("--pages", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    for run in () if arguments.pages else runs(arguments):
        found = of_run(run, root)
        add({k: str(v) for k, v in found.items()})
        print(found, flush=True)
    (MEASURED / "methods_table.md").write_text(page(measured()))


if __name__ == "__main__":
    main()
