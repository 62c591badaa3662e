"""model.safetensors: integer weights at their own width, scales, zero points, biases, the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.engine.files import write_atomically
from bitwright.errors import DataError, RecipeError, RunDirectoryError
from bitwright.graph.model_graph import InputSpec, ModelGraph, name_tensors
from bitwright.graph.simulate import Assignment, IntegerBias, QuantizedTensor
from bitwright.numerics.affine import QParams
from bitwright.numerics.blocks import block_of, blocks, repeat_blocks
from bitwright.numerics.grid import Grid
from bitwright.numerics.packing import pack, pack_channels, unpack, unpack_channels
from bitwright.numerics.points import bits_of_point, join, split

FORMAT_VERSION = "1"
_KINDS = {str(d).removeprefix("torch."): d for d in vars(torch).values() if type(d) is torch.dtype}
_REST = "float."
# What is added to the names of the points' tensors; a single one has the bare name.
_NUMBER = ("", *map(str, range(2, 9)))
_AGAIN = (
    "Run the command of recipe.toml again (bitwright quantize --recipe RUN/recipe.toml --out NEW)."
)
# What reading may meet where words and tensors do not fit each other.
_STRANGE = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    DataError, RecipeError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Packed:
    """What the file holds: the assignment, the tensors that stayed in float, what goes in.

    `keywords` says whether the network takes its inputs by name.
    """

    assignment: Assignment
    rest: Mapping[str, Tensor]
    inputs: tuple[InputSpec, ...]
    keywords: bool


def save_packed(path: Path, graph: ModelGraph, assignment: Assignment) -> int:
    """Write a quantised network at its true width; returns the file's size in bytes."""
    tensors: dict[str, Tensor] = {}
    units: dict[str, Any] = {}
    gone = set()
    for unit in graph.units:
        solved = assignment.weights.get(unit.name)
        if solved is None:
            continue
        gone.add(unit.weight)
        units[unit.name] = _store_weight(tensors, unit.name, solved)
        bias = assignment.biases.get(unit.name)
        if bias is not None:
            gone.add(unit.bias or "")
            steps = _find_steps(bias, solved.qparams.scale, assignment.edges)
            units[unit.name]["bias"] = _store_bias(tensors, unit.name, bias, steps)
    edges = _store_edges(tensors, assignment.edges)
    for target, tensor in name_tensors(graph.module).items():
        if target not in gone:
            tensors[_REST + target] = tensor.contiguous().clone()
    metadata = {
        "format": "bitwright",
        "version": FORMAT_VERSION,
        "units": json.dumps(units, separators=(",", ":")),
        "edges": json.dumps(edges, separators=(",", ":")),
        "inputs": json.dumps(_store_inputs(graph), separators=(",", ":")),
    }
    content = write_file(tensors, metadata)
    write_atomically(path, content)
    return len(content)


def write_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file of these tensors, with its checksum."""
    stated = {**metadata, "sha256": _digest(tensors, metadata)}
    return _canonical(save(dict(tensors), stated))


def load_packed(path: Path) -> Packed:
    """Read a file written by `save_packed`.

    Raises:
        RunDirectoryError: missing, not ours, of another version, or damaged (checksum).
    """
    tensors, metadata = read_file(path)
    if metadata.get("format") != "bitwright":
        raise RunDirectoryError(f"{path} was not written by bitwright. Name a run directory.")
    if metadata.get("version") != FORMAT_VERSION:
        raise RunDirectoryError(
            f"{path} has format version {metadata.get('version')!r}; this bitwright reads "
            f"{FORMAT_VERSION!r}. Quantise again with this version."
        )
    stated = metadata.pop("sha256", "")
    if _digest(tensors, metadata) != stated:
        raise RunDirectoryError(
            f"{path} is damaged: its content does not match its checksum. {_AGAIN}"
        )
    try:
        return _unpack(tensors, metadata)
    except _STRANGE as error:
        # The checksum is right: somebody wrote it so.
        raise RunDirectoryError(
            f"{path} holds what no run writes ({type(error).__name__}: {error}). {_AGAIN}"
        ) from error


def _unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Packed:
    units = json.loads(metadata["units"])
    weights = {name: _read_weight(tensors, name, entry) for name, entry in units.items()}
    biases = {
        name: _read_bias(tensors, name, entry, weights[name].qparams.scale)
        for name, entry in units.items()
        if "bias" in entry
    }
    edges = _read_edges(tensors, json.loads(metadata["edges"]))
    rest = {n.removeprefix(_REST): t for n, t in tensors.items() if n.startswith(_REST)}
    inputs, keywords = _read_inputs(json.loads(metadata["inputs"]))
    return Packed(Assignment(weights, biases, edges), rest, inputs, keywords)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the words of a file, its checksum among them.

    Raises:
        RunDirectoryError: missing, or no such file.
    """
    if not path.is_file():
        raise RunDirectoryError(f"{path} does not exist. Is this a finished run directory?")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} is damaged and cannot be read ({error}). {_AGAIN}"
        ) from error


def _canonical(content: bytes) -> bytes:
    """The same file with its header in order: the library writes the metadata in a random one."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[start:]


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _store_weight(tensors: dict[str, Tensor], name: str, solved: QuantizedTensor) -> dict[str, Any]:
    grid, scale = solved.qparams.grid, solved.qparams.scale
    widths = solved.channel_bits
    block = block_of(scale, solved.qparams.zero_point)
    if block is not None:
        scale = blocks(scale, block)
    if widths:
        tensors[f"{name}.q"] = pack_channels(solved.q.movedim(solved.channel_axis, 0), widths)
        _store_zero(tensors, f"{name}.z", solved.qparams)
    else:
        for index, (q, params) in enumerate(split(solved.q, solved.qparams, solved.points)):
            tensors[f"{name}.q{_NUMBER[index]}"] = pack(q, params.grid.bits)
            if block is not None:
                params = QParams(params.grid, scale, blocks(params.zero_point, block))
            _store_zero(tensors, f"{name}.z{_NUMBER[index]}", params)
    # The scales of further points are this one, the last one's, times powers of two.
    tensors[f"{name}.s"] = scale.reshape(-1).contiguous()
    entry: dict[str, Any] = {
        "bits": grid.bits,
        "signed": grid.signed,
        **({"narrow": True} if grid.narrow else {}),
        "shape": list(solved.q.shape),
        "scale": list(scale.shape),
    }
    if block is not None:
        entry["block"] = block
    if widths:
        # One digit a channel: bits are 2 to 8.
        entry |= {"widths": "".join(map(str, widths)), "axis": solved.channel_axis}
    if solved.points > 1:
        entry["points"] = solved.points
    return entry


def _store_zero(tensors: dict[str, Tensor], key: str, qparams: QParams) -> None:
    """Zero points at their own width; none where all are zero."""
    if bool(qparams.zero_point.any()):
        flat = qparams.zero_point.reshape(-1).to(qparams.grid.dtype)
        tensors[key] = pack(flat, qparams.grid.bits)


def _read_weight(
    tensors: Mapping[str, Tensor], name: str, entry: Mapping[str, Any]
) -> QuantizedTensor:
    grid = Grid(entry["bits"], entry["signed"], bool(entry.get("narrow", False)))
    shape = tuple(entry["scale"])
    scale = tensors[f"{name}.s"].reshape(shape)
    whole, points = tuple(entry["shape"]), int(entry.get("points", 1))
    widths, axis = tuple(int(w) for w in entry.get("widths", "")), int(entry.get("axis", 0))
    if not widths:
        parts = []
        for index in range(points):
            bits, signed = bits_of_point(grid, points), grid.signed and index == 0
            own = Grid(bits, signed, grid.narrow and points == 1)
            q = unpack(tensors[f"{name}.q{_NUMBER[index]}"], own.bits, own.signed, whole)
            zero = _read_zero(tensors, f"{name}.z{_NUMBER[index]}", own, shape)
            parts.append((q, QParams(own, scale, zero)))
        q, qparams = join(parts) if points > 1 else parts[0]
        if "block" in entry:
            block = (int(entry["block"][0]), int(entry["block"][1]))
            if not 0 < block[1] <= max(whole) or scale.numel() * block[1] > 2 * q.numel():
                raise ValueError(f"blocks of {block[1]} in a weight of shape {whole}")
            scale, zero = (repeat_blocks(v, block) for v in (qparams.scale, qparams.zero_point))
            qparams = QParams(grid, scale, zero)
        return QuantizedTensor(q, qparams, points=points)
    packed = tensors[f"{name}.q"]
    zero = _read_zero(tensors, f"{name}.z", grid, shape)
    turned = (whole[axis], *whole[:axis], *whole[axis + 1 :])
    q = unpack_channels(packed, widths, grid.signed, turned).to(grid.dtype).movedim(0, axis)
    return QuantizedTensor(q.contiguous(), QParams(grid, scale, zero), widths, axis, points)


def _read_zero(
    tensors: Mapping[str, Tensor], key: str, grid: Grid, shape: tuple[int, ...]
) -> Tensor:
    if key not in tensors:
        return torch.zeros(shape, dtype=torch.int32)
    return unpack(tensors[key], grid.bits, grid.signed, shape).to(torch.int32)


def _find_steps(
    bias: Tensor | IntegerBias, weight: Tensor, edges: Mapping[tuple[str, str], QParams]
) -> int | None:
    """The place of an edge with whose scale the weight's gives that of the bias, or None."""
    if isinstance(bias, IntegerBias):
        for place, edge in enumerate(edges.values()):
            if torch.equal(_multiply_scales(edge.scale, weight, bias.q.numel()), bias.scale):
                return place
    return None


def _multiply_scales(inputs: Tensor, weight: Tensor, channels: int) -> Tensor:
    """The steps of a bias: those of its channels' sums of products."""
    steps = (inputs * weight).reshape(-1)
    return steps.repeat(max(1, channels // max(1, steps.numel())))


def _store_bias(
    tensors: dict[str, Tensor], name: str, bias: Tensor | IntegerBias, steps: int | None
) -> str | int:
    """The form of a bias; of integers the place of the edge that tells their steps, if one does."""
    if isinstance(bias, IntegerBias):
        tensors[f"{name}.b"] = bias.q.contiguous()
        if steps is not None:
            return steps
        tensors[f"{name}.bs"] = bias.scale.contiguous()
        return "int32"
    tensors[f"{name}.b"] = bias.contiguous().clone()
    return "float"


def _read_bias(
    tensors: Mapping[str, Tensor], name: str, entry: Mapping[str, Any], weight: Tensor
) -> Tensor | IntegerBias:
    if isinstance(entry["bias"], int):
        q = tensors[f"{name}.b"]
        inputs = tensors["edges.s"][entry["bias"]]
        return IntegerBias(q, _multiply_scales(inputs, weight, q.numel()))
    if entry["bias"] == "int32":
        return IntegerBias(tensors[f"{name}.b"], tensors[f"{name}.bs"])
    return tensors[f"{name}.b"]


def _store_edges(
    tensors: dict[str, Tensor], edges: Mapping[tuple[str, str], QParams]
) -> list[list[Any]]:
    if not edges:
        return []
    tensors["edges.s"] = torch.stack([p.scale.reshape(()) for p in edges.values()])
    tensors["edges.z"] = torch.stack([p.zero_point.reshape(()) for p in edges.values()])
    # Scales that are taken as the network runs are named; all others are as they always were.
    return [
        [*key, p.grid.bits, int(p.grid.signed), *([p.at_run] if p.dynamic else [])]
        for key, p in edges.items()
    ]


def _read_edges(
    tensors: Mapping[str, Tensor], entries: list[list[Any]]
) -> dict[tuple[str, str], QParams]:
    return {
        (source, reader): QParams.of(
            Grid(bits, bool(signed)),
            tensors["edges.s"][i].clone(),
            tensors["edges.z"][i].clone(),
            int(at_run[0]) if at_run else 0,
        )
        for i, (source, reader, bits, signed, *at_run) in enumerate(entries)
    }


def _store_inputs(graph: ModelGraph) -> dict[str, Any]:
    info = getattr(graph.module.graph._codegen, "pytree_info", None)
    given = ((), {}) if info is None else pytree.tree_unflatten(info.orig_args, info.in_spec)
    specs = [[s.name, s.shape, str(s.dtype).removeprefix("torch.")] for s in graph.inputs]
    return {"specs": specs, "keywords": bool(given[1])}


def _read_inputs(entry: Mapping[str, Any]) -> tuple[tuple[InputSpec, ...], bool]:
    specs = tuple(
        InputSpec(str(name), tuple(map(_size, shape)), _KINDS[kind])
        for name, shape, kind in entry["specs"]
    )
    return specs, bool(entry["keywords"])


def _size(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{str(value)[:60]!r} is no size of an input")
    return value
