"""What is quantised at what, what stays float and why: the record that makes figures comparable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import fx

from bitwright.graph.census_record import Census, Conventions, FloatOperator, UnitEntry
from bitwright.graph.choice import Choice
from bitwright.graph.float_weights import float_weights
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.opaque import PART
from bitwright.graph.operators import ACTIVATIONS, STORED, TRANSPARENT, WEIGHTED, plain_name
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.units import weight_of

_MOVES = {"slice", "select", "cat", "pad", "sym_size", "getitem", "expand", "split", "clone"}


def census(
    graph: ModelGraph,
    target: Target,
    choices: Mapping[str, Choice],
    sites: tuple[Site, ...],
    samples: int = 0,
) -> Census:
    """Every weighted operation with its bits, every other operator with its reason, the protocol.

    Args:
        graph: the captured network.
        target: whose rules apply.
        choices: the bits of each unit.
        sites: the quantised edges.
        samples: calibration samples, for the calibration-size rule (0: not known).
    """
    return Census(
        target=target.name,
        units=tuple(_unit_entry(u, choices[u.name], target, samples) for u in graph.units),
        float_ops=_float_operators(graph, sites),
        float_weights=float_weights(graph, choices),
        notes=graph.notes,
        folded_batch_norms=tuple(sorted(record.name for record in graph.folded.values())),
        protocol=_conventions(graph, target, choices, sites),
        calibration_samples=samples,
        outputs={head.name: str(head) for head in graph.answer.outputs} or None,
    )


def _unit_entry(unit: Unit, choice: Choice, target: Target, samples: int) -> UnitEntry:
    fan_in = unit.params // unit.shape[unit.channel_axis] // (
        unit.groups if unit.kind.startswith("conv_transpose") else 1
    )  # fmt: skip
    a_bits = 0 if unit.weight_only or not target.inputs else choice.a_bits
    equations = samples * unit.positions
    return UnitEntry(
        name=unit.name,
        kind=unit.kind,
        shape=tuple(unit.shape),
        w_bits=choice.w_bits,
        a_bits=a_bits if choice.w_bits else 0,
        points=choice.points,
        params=unit.params,
        macs=unit.macs,
        activation=unit.activation,
        calls=len(unit.calls),
        tied=unit.tied,
        # Section 3.1 and appendix A of the paper: with fewer equations than unknowns a unit can be
        # fitted to the calibration data without meaning.
        unknowns_per_channel=fan_in,
        equations=equations,
        over_parameterised=equations < fan_in if samples else None,
        reason="kept in float by --keep or --scheme" if choice.is_float else None,
    )


def _float_operators(graph: ModelGraph, sites: tuple[Site, ...]) -> tuple[FloatOperator, ...]:
    """Operators that compute in float, counted by kind, with the reason."""
    quantized = {site.reader for site in sites}
    counts: Counter[tuple[str, str]] = Counter()
    for node in graph.module.graph.nodes:
        if node.op != "call_function":
            continue
        name = plain_name(node)
        if node.name in quantized or name in _MOVES or node.target in TRANSPARENT:
            continue
        reason = _reason(node, graph)
        if reason:
            counts[name, reason] += 1
    return tuple(
        FloatOperator(op=op, count=count, reason=reason)
        for (op, reason), count in sorted(counts.items())
    )


def _reason(node: fx.Node, graph: ModelGraph) -> str:
    if node.target is PART:
        return "stays as it is in the file, run by ONNX Runtime"
    if node.target in WEIGHTED:
        if any(node.name in unit.calls for unit in graph.units):
            return ""
        if weight_of(node) is not None:
            return "its stored operand is no matrix of floats, which is what runtimes quantise"
        return "its second operand is computed, not a stored weight"
    if plain_name(node) in STORED and any(i.op == "get_attr" for i in node.all_input_nodes):
        return "carries stored weights in a form that has no quantised operator"
    if node.target in ACTIVATIONS:
        return "activation function: its result is quantised where a quantised operator reads it"
    if plain_name(node) in ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"):
        return "normalisation computes in float"
    if plain_name(node) in ("softmax", "scaled_dot_product_attention", "_softmax"):
        return "attention computes in float"
    return "no weights; the target computes it in float"


def _conventions(
    graph: ModelGraph, target: Target, choices: Mapping[str, Choice], sites: tuple[Site, ...]
) -> Conventions:
    names = [u.name for u in graph.units]
    by_bits = Counter(str(choices[name]) for name in names)
    adds = {n.name for n in graph.module.graph.nodes if plain_name(n) == "add"}
    inputs = {n.name for n in graph.module.graph.nodes if n.op == "placeholder"}
    return Conventions(
        schemes=dict(sorted(by_bits.items())),
        first=str(choices[names[0]]) if names else None,
        last=str(choices[names[-1]]) if names else None,
        weights=f"{'symmetric' if target.weight_symmetric else 'asymmetric'}, "
        f"{'per channel' if target.weight_per_channel else 'per tensor'}",
        inputs="float" if not target.inputs else "per tensor",
        residual_adds_quantised=any(site.reader in adds for site in sites),
        network_input_quantised=any(site.source in inputs for site in sites),
        biases="int32" if target.bias_bits else "float",
    )
