"""Do real ONNX files come in as they are, and go out quantised?

    python -m benchmarks.guards.onnx_files --files DIR [--only WORD] [--samples 16]

Every `.onnx` below DIR (unpacked wheels and npm packages, whose files are not part of this project)
is read, translated and compared with ONNX Runtime on numbers of the shapes that it declares; then
quantised to w8a8, rounded to nearest on a few samples, exported and verified. Images are crops of
the photographs that installed packages carry, scaled to -1..1; other inputs are noise, so agreement
on these says that the road works and not how good the network is. Prints a table and writes
benchmarks/results/onnx_files.csv and docs/measured/onnx_files.md. Ends with 1 where a file that is
no special case (`KNOWN`) does not go through.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

import bitwright as bw
from benchmarks.tables import MEASURED, RESULTS, machine, markdown, write_csv
from bitwright.errors import BitwrightError
from bitwright.graph.interface import interface_of
from bitwright.sources.images import ImageOptions
from bitwright.sources.models import LoadedModel, load_model
from bitwright.sources.onnx_in.agree import distance, run_file
from bitwright.sources.onnx_in.example import make_inputs
from bitwright.sources.onnx_in.imported import ImportedModel
from bitwright.sources.photos import calibration_crops, find_photos

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
    for name in ("file", "MB", "opset", "units", "parts", "import", "agreement", "verified",
                 "names", "x", "why")
}  # fmt: skip
PAGE = """# Real ONNX files

{count} files from packages, read, quantised to w8a8 and verified; {good} of them go the whole way.
`import` is the largest difference of the translated network from ONNX Runtime on the file, relative
to the largest entry; `agreement` is how often the quantised file answers as the float network does,
on photographs (other inputs are noise, marked by a star). `x` is how much faster than float the
quantised file runs in ONNX Runtime on one thread. Written by
`python -m benchmarks.guards.onnx_files --files DIR`; {machine}.

{table}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--samples", type=int, default=16)
    asked = parser.parse_args()
    files = _distinct(sorted(asked.files.rglob("*.onnx")))
    rows = []
    for path in files:
        if asked.only not in path.name:
            continue
        rows.append(_row(path, asked.samples))
        print(rows[-1], flush=True)
    if not asked.only:
        _write(rows)
    lost = [r for r in rows if r["verified"] != "yes" and not _why(r["file"])]
    return 1 if lost else 0


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
        ("file", "MB", "opset", "units", "parts", "import", "agreement", "verified", "names", "x",
         "seconds", "why"), ""
    )  # fmt: skip
    started = time.perf_counter()
    row.update(file=path.name, MB=f"{path.stat().st_size / 1e6:.1f}")
    try:
        _fill(row, path, samples)
    except BitwrightError as error:
        first = next(iter(str(error).splitlines()), "")
        row.update(verified="no", why=_why(path.name) or first[:160])
    row["seconds"] = f"{time.perf_counter() - started:.0f}"
    return row


def _fill(row: dict[str, Any], path: Path, samples: int) -> None:
    source = load_model(str(path))
    interface = interface_of(source.module)
    assert interface is not None and isinstance(interface.origin, ImportedModel)
    imported = interface.origin
    row.update(
        opset=imported.form.opset, units=len(imported.places), parts=len(imported.opaque) or ""
    )
    row["import"] = f"{_difference(source, imported):.0e}"
    data, noise = _samples(source, samples)
    result = bw.quantize(str(path), data, progress=False, calib=samples, **QUICK)
    row["agreement"] = f"{result.metrics.agreement:.1%}{'*' if noise else ''}"
    checked = result.verify()
    row["verified"] = "yes" if checked.passed else "no"
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


def _samples(source: LoadedModel, count: int) -> tuple[list[Any], bool]:
    """Batches of photographs where the file takes such, else of noise."""
    file = source.file
    assert file is not None
    plan = file.plans[0]
    channels = plan.shape[1 if plan.layout == "NCHW" else 3] if plan.layout else 0
    if len(file.plans) == 1 and channels in (1, 3):
        sides = plan.shape[2:] if plan.layout == "NCHW" else plan.shape[1:3]
        made = file.images(ImageOptions(size=(sides[0], sides[1]), mean=0.5, std=0.5, crop=0.0))
        crops = calibration_crops(find_photos(), count, size=max(sides))
        return [torch.stack([made(crop) for crop in crops])], False
    tensors: tuple[Tensor, ...] = make_inputs(file.plans, count)
    return [dict(zip(file.names, tensors, strict=True))], True


def _write(rows: list[dict[str, Any]]) -> None:
    write_csv(RESULTS / "onnx_files.csv", rows)
    good = sum(row["verified"] == "yes" for row in rows)
    text = PAGE.format(count=len(rows), good=good, machine=machine(), table=markdown(rows, COLUMNS))
    (MEASURED / "onnx_files.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
