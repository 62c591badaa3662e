"""A timing bundle: what `bitwright measure` times, for a machine that has neither of us.

The networks of a menu as files, the inputs, a plan, and one script that needs numpy and onnxruntime
alone (`time_here`). Speed does not depend on the numbers, so the network's weights stay at home: of
every large tensor some of its own numbers are drawn and repeated, which compresses well.
"""

from __future__ import annotations

import ast
import gzip
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from bitwright.allocation.latency_csv import COLUMNS
from bitwright.engine.cells import guard
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Menus
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.latency import plain_graph, time_here
from bitwright.latency.designs import TimingPlan, bits_of, plan, plan_table, rest_designs
from bitwright.latency.measure import feed_of, file_writer

SCRIPT, PLAN, FEED = "time_here.py", "plan.json", "feed.npz"
# So many numbers of a tensor are drawn: a prime, so that no two rows of a matrix are alike.
_DRAWN = 1021
_FUTURE = "from __future__ import annotations\n"


def write_bundle(
    folder: Path,
    graph: ModelGraph,
    target: Target,
    menu: Menus,
    example: tuple[Tensor, ...],
    batch: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the networks of a menu, their inputs and the script that times them.

    Args:
        folder: the bundle; files of an earlier one are replaced.
        graph: the captured network.
        target: what is quantised, and how.
        menu: the choices of every unit.
        example: a few samples.
        batch: samples in a run, where that is free.
        progress: told of the stage.

    Returns:
        The files.

    Raises:
        CaptureError: a network cannot be exported.
    """
    made = plan(menu)
    table = plan_table(made)
    designs, files = [], []
    told = progress or Progress()
    write = file_writer(graph, target, example)
    with tempfile.TemporaryDirectory() as scratch, told.stage("export", len(made.designs)) as tick:
        for index, design in enumerate(made.designs):
            exported = write(design.choices, Path(scratch) / "design.onnx")
            name = f"{index}.onnx.gz"
            content = thin(onnx.load(str(exported.path))).SerializeToString()
            files.append(folder / name)
            write_atomically(files[-1], gzip.compress(content, mtime=0))
            owners = asdict(exported.owners)
            choices = table.choices[design.label]
            designs.append(
                {"label": design.label, "file": name, "owners": owners, "choices": choices}
            )
            tick(index + 1)
    record = _record(made, designs, target.name, batch)
    files += [folder / name for name in (FEED, PLAN, SCRIPT)]
    with tempfile.TemporaryDirectory() as scratch:
        stored = Path(scratch) / FEED
        np.savez_compressed(stored, allow_pickle=False, **feed_of(graph, example, batch))
        write_atomically(folder / FEED, stored.read_bytes())
    write_atomically(folder / PLAN, (json.dumps(record, indent=1) + "\n").encode())
    write_atomically(folder / SCRIPT, standalone_script().encode())
    return files


def _record(
    made: TimingPlan, designs: list[dict[str, Any]], target: str, batch: int
) -> dict[str, Any]:
    """plan.json: what `time_here.read_plan` reads, and what the table says of its conditions."""
    table = plan_table(made)
    return {
        "target": target,
        "batch": batch,
        "columns": COLUMNS,
        "shown": {unit: guard(unit) for unit in made.menu},
        "menu": table.menu,
        "row": table.row,
        "kernels": list(table.kernels.items()),
        "uniform": list(table.uniform.items()),
        "mixed": [(label, sorted(apart)) for label, apart in table.mixed],
        "rest": [(bits_of(c), design.label) for c, design in rest_designs(made).items()],
        "designs": designs,
    }


def thin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The file with numbers drawn from each large tensor in the place of all of them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        wide = max(_bytes_of(tensor), 1)
        count = len(tensor.raw_data) // wide
        if count > 4 * _DRAWN:
            numbers = np.frombuffer(tensor.raw_data, np.uint8).reshape(count, wide)
            drawn = np.random.default_rng(0).choice(count, _DRAWN, replace=False)
            repeated = np.resize(numbers[drawn], (count, wide))
            tensor.raw_data = repeated.tobytes()
    return made


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """Of one number; two or four numbers of fewer than 8 bits share one."""
    kinds: Mapping[int, int] = {
        onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT32: 4, onnx.TensorProto.INT64: 8,
        onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2,
        onnx.TensorProto.INT16: 2, onnx.TensorProto.UINT16: 2,
    }  # fmt: skip
    return kinds.get(tensor.data_type, 1)


def standalone_script() -> str:
    """`time_here` with the part of us that it imports, as one file."""
    head, body = Path(time_here.__file__).read_text().split(_FUTURE, 1)
    graph = Path(plain_graph.__file__).read_text().split(_FUTURE, 1)[1]
    return head + _FUTURE + graph + _without_own_imports(_FUTURE + body).split(_FUTURE, 1)[1]


def _without_own_imports(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bitwright"):
            for line in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[line] = ""
    return "".join(lines)
