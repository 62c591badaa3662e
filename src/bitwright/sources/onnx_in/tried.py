"""The network of a file, tried: what cannot be translated becomes a part, batches are freed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from torch import Tensor, fx

from bitwright.errors import ModelError
from bitwright.graph.opaque import RUNTIME_ERRORS
from bitwright.sources.onnx_in.agree import (
    CLOSE,
    CLOSE_SHORT,
    Failed,
    distance,
    first_to_differ,
    run_file,
    run_nodes,
)
from bitwright.sources.onnx_in.example import InputPlan, guess_otherwise, make_inputs
from bitwright.sources.onnx_in.network import Constants, build
from bitwright.sources.onnx_in.parts import RANDOM, PartNode

_SHOWN = 3
_SHORT = (10, 16)
# Beyond so many failures the file is something else than what is translated here.
_MOST = 200


@dataclass(frozen=True, eq=False)
class TriedNetwork:
    """A network that was tried.

    Attributes:
        module: the network.
        example: what it was tried on.
        batch: how many samples it takes at a time, 0 for any number.
        opaque: (name, kind) of operators that are not translated.
        notes: what a user should know.
        plans: its inputs, with the sizes that it was tried on.
    """

    module: fx.GraphModule
    example: tuple[Tensor, ...]
    batch: int
    opaque: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    plans: tuple[InputPlan, ...]


FileArrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, eq=False)
class _Trial:
    """What all tries of one file share."""

    store: Constants
    original: onnx.ModelProto
    plans: tuple[InputPlan, ...]
    file: str

    @property
    def close(self) -> float:
        kinds = {t.data_type for t in self.original.graph.initializer}
        kinds |= {v.type.tensor_type.elem_type for v in self.original.graph.input}
        return CLOSE_SHORT if kinds & set(_SHORT) else CLOSE

    def reference(self, inputs: Sequence[Tensor], extra: Sequence[str] = ()) -> FileArrays | str:
        """What ONNX Runtime gives, or why it gives nothing."""
        named = {p.name: t for p, t in zip(self.plans, inputs, strict=True)}
        try:
            return run_file(self.original, named, extra)
        except RUNTIME_ERRORS as error:
            return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]

    def agrees(self, expected: FileArrays, outputs: Sequence[Tensor]) -> bool:
        """Whether all outputs are the file's."""
        return all(
            distance(expected[name], value) <= self.close
            for name, value in zip(self.store.form.outputs, outputs, strict=True)
        )


def try_network(
    store: Constants, original: onnx.ModelProto, plans: tuple[InputPlan, ...], file: str
) -> TriedNetwork:
    """Build the network of a file and try it on numbers of its shapes.

    Raises:
        ModelError: ONNX Runtime itself does not take the file, or the network draws at random.
    """
    _refuse_random(store, file)
    trial = _suited(_Trial(store, original, plans, file))
    plans = trial.plans
    fixed = max(plan.batch for plan in plans) if plans else 0
    if not plans:
        raise ModelError(
            f"MODEL {file!r} has no input: it computes the same whatever is given. Export the "
            "network with its inputs."
        )
    example = make_inputs(plans)
    expected = trial.reference(example)
    if isinstance(expected, str) and not fixed:
        alone = make_inputs(plans, 1)
        found = trial.reference(alone)
        if not isinstance(found, str):
            example, expected, fixed = alone, found, 1
    notes: list[str] = []
    if isinstance(expected, str):
        notes.append(
            "ONNX Runtime does not run it on numbers of the shapes that it declares, so it was not "
            f"compared with it beforehand: {expected}"
        )
    module, opaque = _translate(trial, example, expected)
    batch = fixed
    if fixed:
        freed = _free_batch(trial, opaque, fixed)
        module, batch = (freed, 0) if freed is not None else (module, fixed)
        example = make_inputs(plans, 2 * fixed) if freed is not None else example
        notes.append(_say_batch(fixed, freed is not None))
    parts = _parts(module)
    return TriedNetwork(module, example, batch, parts, (*notes, *_say_parts(parts)), plans)


def _suited(trial: _Trial) -> _Trial:
    """The trial with sizes that the file takes, where it leaves some free."""
    if not any(plan.guessed for plan in trial.plans):
        return trial
    if not isinstance(trial.reference(make_inputs(trial.plans)), str):
        return trial
    others = (replace(trial, plans=plans) for plans in guess_otherwise(trial.plans))
    fit = (t for t in others if not isinstance(t.reference(make_inputs(t.plans)), str))
    return next(fit, trial)


def _refuse_random(store: Constants, file: str) -> None:
    drawn = next((op for op in store.form.ops if op.kind in RANDOM), None)
    if drawn is not None:
        raise ModelError(
            f"MODEL {file!r}: the node {drawn.name!r} ({drawn.kind}) draws at random, so the "
            "network gives another answer each time. Export it in eval mode, or make the noise an "
            "input."
        )


def _translate(
    trial: _Trial, example: tuple[Tensor, ...], expected: FileArrays | str
) -> tuple[fx.GraphModule, frozenset[str]]:
    """The network, and the operators that are left to ONNX Runtime: those that fail or differ."""
    opaque: set[str] = set()
    for _ in range(_MOST):
        module = build(trial.store, trial.file, frozenset(opaque))
        made = run_nodes(module, example)
        if isinstance(made, Failed):
            if made.is_part or made.node in opaque:
                raise ModelError(
                    f"MODEL {trial.file!r}: the node {made.node!r} fails on inputs of "
                    f"{[list(t.shape) for t in example]} ({made.why}). Export the network with the "
                    "shapes of its inputs fixed to what it takes."
                )
            opaque.add(made.node)
            continue
        if isinstance(expected, str) or trial.agrees(expected, made):
            return module, frozenset(opaque)
        wanted = [v for op in trial.store.form.ops for v in op.outputs if v]
        known = trial.reference(example, wanted)
        odd = "" if isinstance(known, str) else first_to_differ(module, example, known, trial.close)
        if not odd or odd in opaque:
            # Small differences that add up over a deep network, or that a threshold makes large.
            return module, frozenset(opaque)
        opaque.add(odd)
    raise ModelError(
        f"MODEL {trial.file!r}: over {_MOST} of its operators cannot be translated, the node "
        f"{min(opaque)!r} among them. Export the network again by a current exporter."
    )


def _free_batch(trial: _Trial, opaque: frozenset[str], fixed: int) -> fx.GraphModule | None:
    """The network for any batch, where it gives for two what the file gives for each."""
    if any(plan.batch not in (fixed, 0) for plan in trial.plans):
        return None
    both = make_inputs(trial.plans, 2 * fixed)
    halves = [tuple(t[i * fixed : (i + 1) * fixed] for t in both) for i in range(2)]
    expected = [trial.reference(half) for half in halves]
    if any(isinstance(e, str) for e in expected):
        return None
    try:
        module = build(trial.store, trial.file, opaque, fixed)
    except ModelError:
        return None
    made = run_nodes(module, both)
    if isinstance(made, Failed):
        return None
    for place, name in enumerate(trial.store.form.outputs):
        one, two = (e[name] for e in expected if not isinstance(e, str))
        if not one.ndim or distance(np.concatenate([one, two]), made[place]) > trial.close:
            return None
    return module


def _say_batch(fixed: int, freed: bool) -> str:
    if freed:
        return (
            f"it is written for batches of {fixed}; tried with more it gives the same for each "
            "sample, so here it runs in batches of any size."
        )
    return (
        f"it computes with its batch of {fixed} as a constant: samples go through it {fixed} at a "
        "time, which takes longer."
    )


def _parts(module: fx.GraphModule) -> tuple[tuple[str, str], ...]:
    return tuple(
        (op.name, op.kind)
        for part in module.modules()
        if isinstance(part, PartNode)
        for op in part.ops
    )


def _say_parts(parts: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    if not parts:
        return ()
    counts = Counter(kind for _, kind in parts)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    names = ", ".join(repr(name) for name, _ in parts[:_SHOWN])
    more = len(parts) - _SHOWN
    return (
        f"{len(parts)} operators stay as they are, in float, run by ONNX Runtime: {kinds}; "
        f"by name {names}{f' and {more} more' if more > 0 else ''}.",
    )
