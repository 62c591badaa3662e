"""Do real ONNX files come in as they are, and go out quantised?

    python -m benchmarks.guards.onnx_files --files DIR [--only WORD] [--samples 16]

Every `.onnx` below DIR (unpacked wheels and npm packages, whose files are not part of this project)
is read, translated and compared with ONNX Runtime on numbers of the shapes that it declares; then
quantised to w8a8, rounded to nearest on a few samples (`onnx_samples`), exported and verified, and
compared with float on as many others. Prints rows and writes benchmarks/results/onnx_files.csv and
docs/measured/onnx_files.md after each file; rows of files that are not run this time stay. Ends
with 1 where a file that is no special case (`KNOWN`) does not go through.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

import bitwright as bw
from benchmarks.guards.onnx_samples import make_samples
from benchmarks.tables import MEASURED, RESULTS, machine, markdown, write_csv
from bitwright import BitwrightError
from bitwright.graph.interface import interface_of
from bitwright.sources.models import LoadedModel, load_model
from bitwright.sources.onnx_in.agree import distance, run_file
from bitwright.sources.onnx_in.example import make_inputs
from bitwright.sources.onnx_in.imported import ImportedModel

QUICK: dict[str, Any] = {
    "recipe": "fixed", "method": "nearest", "weight_range": "minmax", "activation_range": "minmax",
    "mode": "parallel", "tune": "", "scheme": "w8a8", "target": "auto",
}  # fmt: skip
# Why a file does not go through, by a word of its name.
KNOWN = {
    "silero_vad.onnx": "the sampling rate is an input that chooses the network (If)",
    "silero_vad_16k_op15": "the sampling rate is an input without an axis",
    "silero_vad_op18_ifless": "the sampling rate is an input without an axis",
    "silero_vad_half": "If on a number that the data decide",
    "silero_vad_openvino": "the state's first axis is no batch",
    "common_old": "quantised already",
}
COLUMNS = {
    name: "{%s}" % name  # noqa: UP031 - a form of str.format
    for name in ("file", "package", "MB", "opset", "units", "parts", "import", "agreement",
                 "verified", "names", "x", "samples", "why")
}  # fmt: skip
PAGE = """# Real ONNX files

{count} files of {packages} packages were tried: {good} of them are read, quantised to w8a8 and
verified, the others are refused, with the reason. Weights and activations are rounded to nearest,
ranges are the least and largest values of {samples} samples: the cheapest recipe, which says that
the road holds and not what the solvers can do.
`import` is the largest difference of the translated network from ONNX Runtime on the file, relative
to the largest entry; `agreement` is how often the quantised network answers as the float one does
on {samples} samples that ranges were not found on, by the meaning of its outputs. `x` is how much
faster than float the quantised file runs in ONNX Runtime on one thread, on a machine that did
other work at the same time. Drawn text and sounds by formula are nearer to what a network was made
for than noise, and are no test set. On what a network has no opinion of, agreement says little: the
orientation of a page agrees on fewer crops of photographs than pages, and the detector `320n.onnx`
finds next to nothing in photographs, as its quantised form does. Of `nmp.onnx` an answer is the
whole row of 88 or 264 notes at a moment, every one on the same side of one half; its agreement is
low by this recipe, and what costs it is not yet known. Written by
`python -m benchmarks.guards.onnx_files --files DIR`; {machine}

{table}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--samples", type=int, default=16)
    asked = parser.parse_args()
    files = _distinct(sorted(asked.files.rglob("*.onnx")))
    for path in files:
        if asked.only in path.name:
            row = _row(path, asked.samples)
            print(row, flush=True)
            rows = [r for r in _read() if _key(r) != _key(row)] + [row]
            _write(sorted(rows, key=_key), asked.samples)
    lost = [r for r in _read() if r["verified"] != "yes" and not _why(r["file"])]
    return 1 if lost else 0


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["package"], row["file"]


def _read() -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    known = RESULTS / "onnx_files.csv"
    if not known.is_file():
        return []
    with known.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _distinct(paths: list[Path]) -> list[Path]:
    """Each content once."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return list(found.values())


def _why(name: str) -> str:
    return next((why for word, why in KNOWN.items() if word in name), "")


def _row(path: Path, samples: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("file", "package", "MB", "opset", "units", "parts", "import", "agreement", "verified",
         "names", "x", "samples", "seconds", "why"), ""
    )  # fmt: skip
    started = time.perf_counter()
    row.update(file=path.name, package=_package(path), MB=f"{path.stat().st_size / 1e6:.1f}")
    try:
        _fill(row, path, samples)
    except BitwrightError as error:
        first = next(iter(str(error).splitlines()), "")
        row.update(verified="no", why=_why(path.name) or _without_path(first, path)[:200])
    row["seconds"] = f"{time.perf_counter() - started:.0f}"
    return row


def _package(path: Path) -> str:
    """The package by the folder that its wheel was unpacked to: `name-1.2.3-py3-none-any`."""
    wheel = next((part for part in path.parts if re.search(r"-\d+\.\d.*-(any|\w+_64)$", part)), "")
    return " ".join(wheel.split("-")[:2]) if wheel else path.parent.name


def _without_path(text: str, path: Path) -> str:
    return text.replace(str(path), path.name)


def _fill(row: dict[str, Any], path: Path, samples: int) -> None:
    source = load_model(str(path))
    interface = interface_of(source.module)
    assert interface is not None and isinstance(interface.origin, ImportedModel)
    imported = interface.origin
    row.update(
        opset=imported.form.opset, units=len(imported.places), parts=len(imported.opaque) or ""
    )
    row["import"] = f"{_difference(source, imported):.0e}"
    assert source.file is not None
    own, other = (make_samples(path, source.file, samples, seed) for seed in (0, 1))
    row["samples"] = own.what
    result = bw.quantize(
        str(path), [own.inputs], evaluation=[other.inputs], metric="agreement", progress=False,
        calib=samples, **QUICK,
    )  # fmt: skip
    row["agreement"] = f"{result.metrics.agreement:.1%}"
    checked = result.verify()
    row["verified"] = "yes" if checked.passed else "no"
    if not checked.passed:
        same = "not at all" if checked.agreement is None else f"{checked.agreement:.1%}"
        row["why"] = checked.error or f"the file answers as the simulation on {same} of the samples"
    if checked.speed is not None:
        row["x"] = f"{1 / checked.speed.ratio:.2f}"
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        result.export(written)
        ends = _ends(onnx.load(str(written)))
    row["names"] = "kept" if ends == _ends(imported.original) else "changed"


def _ends(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    stored = {t.name for t in model.graph.initializer}
    given = [v.name for v in model.graph.input if v.name not in stored]
    return given, [v.name for v in model.graph.output]


def _difference(source: LoadedModel, imported: ImportedModel) -> float:
    plans = imported.inputs
    example = source.guess if source.example_inputs is None else source.example_inputs
    given = list(example.values() if isinstance(example, dict) else example or make_inputs(plans))
    fixed = max(plan.batch for plan in plans)
    few = [t[:fixed] if fixed else t for t in given]
    named = {plan.name: t for plan, t in zip(plans, few, strict=True)}
    expected = run_file(imported.original, named)
    with torch.no_grad():
        made = source.module(*few)
    outputs = made if isinstance(made, tuple) else (made,)
    return max(distance(e, m) for e, m in zip(expected.values(), outputs, strict=True))


def _write(rows: list[dict[str, Any]], samples: int) -> None:
    write_csv(RESULTS / "onnx_files.csv", rows)
    text = PAGE.format(
        count=len(rows),
        packages=len({row["package"] for row in rows}),
        good=sum(row["verified"] == "yes" for row in rows),
        samples=samples,
        machine=machine().rstrip("; "),
        table=markdown(rows, COLUMNS),
    )
    (MEASURED / "onnx_files.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
