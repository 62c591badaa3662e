"""Every method and recipe at every scheme: top-1, agreement, seconds, peak memory.

    python -m benchmarks.study.methods --data-root DIR [--only resnet20 ...] [--methods brecq ...]
        [--schemes w4a4 ...] [--parts table dfq calib seeds length] [--length 0.3] [--rewrites]

Each run is one `bitwright quantize` in a process of its own, verified in ONNX Runtime; rows that
are in benchmarks/results/methods.csv already are not repeated unless --again is given. Several of
these may run side by side: each adds its row to what the file then holds. Parts:
`table`, all methods; `dfq`, one scale for each weight, where equalisation matters; `calib`, small
calibration sets drawn anew (figure 1 of the paper); `seeds`, BRECQ and AdaRound with three seeds;
`length`, what is lost where the gradient methods take SHORT of their steps. --length shortens those
of the table, which marks such rows.
--rewrites instead checks on every network of the zoo that rewrites leave its answers unchanged.
Writes docs/measured/methods_table.md.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.solve import DATA, KEEP, SUBSET
from benchmarks.tables import MEASURED, RESULTS

RESULT = RESULTS / "methods.csv"
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
# The file against the simulation, on so many samples of each run: 256 are the command's own, of
# which ONNX Runtime's integer kernels take longer than a whole method where photos are concerned.
VERIFY_SAMPLES = 64
PLAIN = """
from bitwright import cli
from bitwright.pipeline import result
result.VERIFY_SAMPLES = {samples}
{more}
cli.main()
"""
# A share of the steps of every method that descends, their schedules drawn together; the solver
# they begin at, batch-norm and bias tuning stay as they are.
SHORTER = """
from dataclasses import replace
from bitwright.methods.catalogue import METHODS
from bitwright.tuning import qat
from bitwright.tuning.catalogue import ABOUT
from bitwright.tuning.steps import make_step

def shorter(made):
    return replace(made, iterations=max(1, round({length} * made.iterations)))

for name in ("adaquant", "adaround"):
    METHODS[name] = shorter(METHODS[name])
for name in ("brecq", "qat-kld", "qat-kld-last"):
    fewer = {{"iterations": shorter(make_step(name)).iterations}}
    ABOUT[name] = replace(ABOUT[name], settings={{**ABOUT[name].settings, **fewer}})
qat.EPOCHS = max(1, round({length} * qat.EPOCHS))
qat.FALLS = tuple(round({length} * epoch) for epoch in qat.FALLS)
"""
# ZeroQ's inputs are the same whatever the scheme: they are made once for all that one call of this
# script measures, and each row counts the seconds.
DISTILL_ONCE = """
import json, time
from pathlib import Path
import torch
from bitwright.pipeline import distilled as distilling

make, made = distilling.distil, Path({made!r})

def distil(*given):
    if made.is_file():
        return torch.load(made)
    start, spent = time.perf_counter(), time.process_time()
    found = make(*given)
    seconds = [time.perf_counter() - start, time.process_time() - spent]
    torch.save(found, made)
    made.with_suffix(".json").write_text(json.dumps(seconds))
    return found

distilling.distil = distil
"""
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


def length(networks: list[str], schemes: list[str], methods: list[str]) -> Iterator[dict[str, str]]:
    for network in ("resnet20", "mobilenet_v2_dogs"):
        if network in networks and "w4a4" in schemes:
            for method in DESCENDING:
                if method in methods:
                    yield row("length", network, "w4a4", method)


Select = Callable[[list[str], list[str], list[str]], Iterator[dict[str, str]]]
PARTS: dict[str, Select] = {
    "table": table, "dfq": dfq, "calib": calib, "seeds": seeds, "length": length,
}  # fmt: skip


def measure(root: Path, run: dict[str, str], length: float, shared: Path) -> dict[str, object]:
    """One run in a fresh folder, of some length; `shared` is kept from run to run."""
    network, method = run["network"], run["method"]
    options = (DFQ if run["part"] == "dfq" else METHODS)[method]
    calibration, test = DATA[network]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        data = f"{root}/loaders.py:{calibration}"
        more = SHORTER.format(length=length) if length < 1 else ""
        made = shared / f"{network}.pt"
        before_s = times_of(made) if method == "zeroq" else (0.0, 0.0)
        if method == "zeroq":
            data = "none"
            more = DISTILL_ONCE.format(made=str(made))
        elif int(run["calib"]) < 1000:
            loader = Path(folder) / "subset.py"
            loader.write_text(SUBSET.format(root=str(root), loader=calibration, **run))
            data = f"{loader}:subset"
        tests = f"{root}/loaders.py:{test}"
        if int(run["tests"]):
            loader = Path(folder) / "first.py"
            loader.write_text(FIRST.format(root=str(root), test=test, **run))
            tests = f"{loader}:first"
        script = PLAIN.format(samples=VERIFY_SAMPLES, more=more)
        command = [
            sys.executable, "-c", script, "quantize", f"{root}/models.py:{network}",
            "--data", data, "--eval", tests, *options,
            "--scheme", run["scheme"], "--keep", KEEP, "--target", run["target"],
            "--calib", run["calib"], "--seed", run["seed"], "--out", str(out), "--quiet",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if not (out / "metrics.json").is_file():
            raise SystemExit(f"exit {done.returncode}: {' '.join(command)}")
        metrics = json.loads((out / "metrics.json").read_text())
        verified = json.loads((out / "verify.json").read_text())
        seen = on_samples_seen(out, data) if run["part"] == "calib" else {}
    own = [s for s in metrics["stages"] if s["name"] in STAGES or s["name"].startswith("tune")]
    return {
        **run,
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "weight_bytes": metrics["size"]["weight_bytes"],
        "method_s": sum(s["seconds"] for s in own) + before_s[0],
        "processor_s": spent + before_s[1],
        "peak_mb": max(s["peak_rss_mb"] for s in metrics["stages"]),
        "runtime_agreement": verified["agreement"],
        "verified": verified["passed"],
        "length": length if method in DESCENDING else 1.0,
        "tuning_kept": "; ".join(f"{t['step']} {t['kept']}" for t in metrics["tuning"]),
        "seen_agreement": seen.get("agreement", ""),
        "seen_kl": seen.get("kl", ""),
    }


def times_of(made: Path) -> tuple[float, float]:
    """The wall and processor seconds that inputs took which are there already."""
    written = made.with_suffix(".json")
    if not written.is_file():
        return 0.0, 0.0
    wall, processor = json.loads(written.read_text())
    return wall, processor


def on_samples_seen(run: Path, data: str) -> dict[str, Any]:
    """Agreement and KL on the calibration samples themselves: what is better there was learned."""
    from bitwright.engine.progress import Progress
    from bitwright.pipeline.runs import evaluate, load_run

    return evaluate(load_run(run), data, "agreement", Progress())


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
        f"Each file is verified in ONNX Runtime, later rows on {VERIFY_SAMPLES} samples, not 256.",
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


def rewrites(root: Path) -> None:
    """Float answers before and after each rewrite that is to leave them, on every network."""
    from benchmarks.guards.zoo.models import ZOO

    spec = importlib.util.spec_from_file_location("models", root / "models.py")
    assert spec is not None and spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    builders = {**{name: getattr(models, name) for name in DATA}, **ZOO}
    rows = known(REWRITES)
    there = {r["network"] for r in rows}
    for name, build in builders.items():
        if name in there:
            continue
        try:
            rows += _rewritten(name, build())
        except Exception as error:  # noqa: BLE001 - networks that need a package or do not export
            print(f"{name}: {type(error).__name__}: {error}"[:200], flush=True)
            continue
        print(rows[-3:], flush=True)
        save(REWRITES, rows)


def _rewritten(name: str, net: Any) -> list[dict[str, str]]:
    """One network's differences, by step."""
    import torch

    import bitwright as bw
    from benchmarks.guards.zoo.models import call
    from bitwright.graph.choice import Choice
    from bitwright.graph.target import load_target
    from bitwright.prepare.joints import find_joints
    from bitwright.prepare.steps import apply_steps

    graph = bw.capture(net, net.example_inputs)
    args, kwargs = call(net.example_inputs)
    choices = {unit.name: Choice(4, 8) for unit in graph.units}
    rows = []
    with torch.no_grad():
        want = _exactly(graph, args, kwargs)
        single = graph.answer.of(graph.module(*args, **kwargs))
        for step in ("equalize", "factorize", "ocs"):
            made = apply_steps(graph, step, choices, load_target("paper"))
            got = _exactly(made, args, kwargs)
            places = len(find_joints(graph))
            if step == "ocs":
                places = sum("inputs instead of" in n.text for n in made.notes)
            rows.append(
                {
                    "network": name,
                    "step": step,
                    "places": str(places),
                    "difference": f"{_apart(got, want):.3g}",
                    "float32": f"{_apart(single, want):.3g}",
                }
            )
    return rows


def _exactly(graph: Any, args: Any, kwargs: Any) -> Any:
    """A network's answers in float64, so that only what a rewrite changed makes a difference."""
    import copy

    import torch
    from torch import Tensor
    from torch.utils._pytree import tree_map

    def wide(value: Any) -> Any:
        if value is torch.float32:
            return torch.float64
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    module = copy.deepcopy(graph.module).double()
    # Operators may name the type of what they make.
    for node in module.graph.nodes:
        node.args, node.kwargs = tree_map(wide, (node.args, node.kwargs))
    module.recompile()
    args, kwargs = tree_map(wide, (args, kwargs))
    return graph.answer.of(module(*args, **kwargs))


def _apart(got: Any, want: Any) -> float:
    """The largest difference, relative to the largest answer."""
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))


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


def add(path: Path, found: dict[str, str]) -> None:
    """Put one row in the place of its like, in what the file holds by now."""
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
            there = like(run, known(RESULT))
            wanted = arguments.length if part == "table" else 0.0
            if arguments.again or not there or taken(there) < wanted:
                yield run


def of_table(run: dict[str, str], root: Path, length: float, shared: Path) -> dict[str, Any]:
    """One row; the whole calibration set is part of the table, too."""
    if run["part"] == "length":
        return measure(root, run, SHORT, shared)
    if run["part"] == "table":
        there = like(run, [r for r in known(RESULT) if r["part"] == "calib"], IDENTITY[1:])
        if there:
            return dict(there | run)
        return measure(root, run, length, shared)
    return measure(root, run, 1.0, shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES))
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=["table"])
    parser.add_argument("--length", type=float, default=1.0, help="share of the steps")
    parser.add_argument("--rewrites", action="store_true")
    parser.add_argument("--pages", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    if not 0 < arguments.length <= 1:
        parser.error(f"--length {arguments.length:g}: a share of the steps, above 0, at most 1")
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    if arguments.rewrites:
        rewrites(root)
    elif not arguments.pages:
        with tempfile.TemporaryDirectory() as shared:
            for run in runs(arguments):
                found = of_table(run, root, arguments.length, Path(shared))
                add(RESULT, {k: str(v) for k, v in found.items()})
                print(found, flush=True)
    (MEASURED / "methods_table.md").write_text(page(known(RESULT)))


if __name__ == "__main__":
    main()
