"""What a runtime can do, as data: bits, symmetry, and which operators take quantised inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bitwright.engine.texts import parse_toml, read_text
from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import ALLOWED_BITS
from bitwright.numerics.grid import Grid
from bitwright.recipe.names import AUTO, CONVOLUTIONAL, OPERATORS, TARGETS, refuse_unnamed
from bitwright.recipe.registered import load_registered

BUILT_IN = TARGETS
READS = "reads"
JOINS = (READS, "add", "concat")
PARALLEL, SUM = "parallel", "sum"
ALWAYS, BLOCKS = "always", "blocks"
# What judges the files of a target, and whose rules for files there are.
RUNTIMES = ("onnxruntime", "openvino")
RULES = ("tensorrt",)
# Of weights that share a grid in MatMulNBits.
BLOCK_SIZES = (16, 32, 64, 128, 256)
FOLDED, DEQUANTIZED = "folded", "dequantized"


@dataclass(frozen=True)
class Target:
    """A runtime's abilities.

    Attributes:
        name: what the user calls it.
        description: one line for `bitwright list targets`.
        weight_bits, input_bits: the bits that it can hold.
        weight_symmetric: zero point in the middle of a signed grid; else a free zero point.
        weight_signed: grid -2^(b-1) .. 2^(b-1)-1; else 0 .. 2^b-1.
        weight_per_channel: one scale an output channel; else one a tensor.
        weight_narrow: the grid of 8-bit weights is the same on both sides of zero, -127 to 127.
        packed: where weights below eight bits are stored packed: `always`, or in `blocks` alone:
            those of linear layers with float inputs and several scales a channel.
        least_container: the bits of the narrowest type in which weights are stored.
        tables: whether tables of look-ups (embeddings) are quantised.
        inputs: whether inputs of weighted operators are quantised at all.
        input_symmetric, input_signed: the same for inputs.
        dynamic: the scale of an input is that of the tensor at hand, found as the network runs.
        blocks: linear layers are kernels of weights in blocks (MatMulNBits) of so many, or of a
            scheme's group, which quantise each block of each row of an input by its own range; all
            other operators are float. 0: none.
        chain: further operators whose inputs are quantised (add, concat, global_avg_pool ...).
        outputs: whether results are quantised too, so that integer kernels follow one another.
        bias_bits: 32 to hold biases beside quantised inputs as integers of scale s_x s_w, as
            integer kernels add them (ONNX Runtime rounds float ones to these); 0 for float.
        ties: what shares a grid: the values that meet in an operator of the chain (add, concat)
            and its result; `reads`: whoever reads the same values.
        points: how weights that are sums of several tensors are written: `parallel` operators of
            one tensor each, whose results are added, or a `sum` of the tensors before the operator.
        input_part_bits: inputs of more bits reach the operators in parts of so many bits each, high
            and low, and the results are added; 0: in one.
        runtime: what judges the files: where the verification runs them.
        rules: whose published rules a file must keep, where the runtime itself cannot be asked.
        float_weights: how weights are written whose operator computes with floats: `folded` (Cast,
            Sub and Mul, which runtimes compute once, at load) or `dequantized` (a DequantizeLinear,
            which some keep packed in memory).
    """

    name: str
    description: str = ""
    weight_bits: tuple[int, ...] = ALLOWED_BITS
    weight_symmetric: bool = False
    weight_signed: bool = False
    weight_per_channel: bool = True
    inputs: bool = True
    input_bits: tuple[int, ...] = ALLOWED_BITS
    input_symmetric: bool = False
    input_signed: bool = False
    chain: tuple[str, ...] = ()
    outputs: bool = False
    bias_bits: int = 32
    ties: tuple[str, ...] = ()
    points: str = PARALLEL
    input_part_bits: int = 0
    weight_narrow: bool = False
    packed: str = ALWAYS
    least_container: int = 2
    tables: bool = True
    dynamic: bool = False
    blocks: int = 0
    runtime: str = RUNTIMES[0]
    rules: str = ""
    float_weights: str = FOLDED

    @property
    def adds(self) -> bool:
        """Whether sums are computed by integer kernels."""
        return "add" in self.chain

    def block_of(self, width: int, group: int = 0) -> int:
        """How many weights of a row share a grid in a kernel of blocks; 0: it has none that fits.

        Args:
            width: inputs of the linear layer.
            group: what the scheme asks for; 0: what the target does.
        """
        asked = group or self.blocks
        fitting = (size for size in BLOCK_SIZES if size <= asked and size < width)
        return max((size for size in fitting if width % size == 0), default=0)

    def weight_grid(self, bits: int) -> Grid:
        """The integer grid of weights of so many bits."""
        return Grid(bits, self.weight_signed, self.weight_narrow and bits == 8)

    def stored_bits(self, bits: int, in_blocks: bool = False, beside_floats: bool = True) -> int:
        """The width of the type that holds weights of so many bits.

        Args:
            bits: of the weights.
            in_blocks: whether a channel has several scales.
            beside_floats: whether what they are multiplied by is float.
        """
        least = self.least_container
        if self.packed == BLOCKS and not (in_blocks and beside_floats):
            least = 8
        return next(width for width in (2, 4, 8, 16, 32) if width >= max(bits, least))

    def input_grid(self, bits: int) -> Grid:
        """The integer grid of inputs of so many bits."""
        return Grid(bits, self.input_signed)


def load_target(name: str) -> Target:
    """A built-in target by name, or one of the user's from a TOML file.

    `NAME+OPERATOR` is the target with one more operator in its chain: `paper+matmul` quantises the
    inputs of attention's products too. `auto` is settled by the network (`suggest_target`).

    Raises:
        RecipeError: unknown name, unreadable file, unknown key or a value of the wrong type.
    """
    refuse_unnamed("target", name, "target=...")
    if name == AUTO:
        # What it becomes is known once the network is; the bits that each can hold are the same.
        return replace(load_target(CONVOLUTIONAL), name=AUTO)
    base, *more = name.split("+")
    if more and not Path(name).is_file():
        target = load_target(base)
        for word in more:
            if word not in OPERATORS:
                raise RecipeError(unknown("operator", word, OPERATORS, f"target {name}"))
        chain = tuple(dict.fromkeys((*target.chain, *more)))
        return replace(target, name=name, chain=chain)
    if name in BUILT_IN:
        text = (resources.files("bitwright") / "targets" / f"{name}.toml").read_text()
        return parse_target(text, f"target {name}")
    own: Target | None = load_registered("target", name)
    if own is not None:
        return own
    path = Path(name)
    if path.suffix != ".toml":
        raise RecipeError(
            unknown("target", name, BUILT_IN) + " Or give a TOML file of your own: --target X.toml."
        )
    if not path.exists():
        raise RecipeError(f"target file {name!r} does not exist. Check the path.")
    return parse_target(read_text(path, RecipeError, "Give a target as a TOML file."), name)


def parse_target(text: str, place: str) -> Target:
    """Read a target from TOML text; `place` names it in errors."""
    raw = parse_toml(text, place, RecipeError)
    known = {f.name: f for f in fields(Target)}
    for key in raw:
        if key not in known:
            raise RecipeError(unknown("key", key, known, place))
    if "name" not in raw:
        raise RecipeError(f"{place} lacks the key 'name'. Add name = \"my-runtime\".")
    made = Target(**{key: _value(key, value, place) for key, value in raw.items()})
    return _in_parts(made, "input_bits" in raw, place) if made.input_part_bits else made


def _in_parts(made: Target, stated: bool, place: str) -> Target:
    """A target whose input bits go into whole parts; where none are stated, all that do."""
    size = made.input_part_bits
    if size not in (2, 4, 8) or made.input_signed:
        what = "signed inputs" if made.input_signed else f"{size} bits"
        raise RecipeError(
            f"{place}: input_part_bits asks for parts of {what}. Parts are of 2, 4 or 8 bits, of "
            "unsigned inputs."
        )
    whole = tuple(b for b in made.input_bits if b <= size or b % size == 0)
    if stated and whole != made.input_bits:
        wrong = next(b for b in made.input_bits if b not in whole)
        raise RecipeError(f"{place}: inputs of {wrong} bits do not go into parts of {size} bits.")
    return replace(made, input_bits=whole)


_TYPES: Mapping[str, type[Any]] = {
    "name": str, "description": str, "weight_bits": list, "input_bits": list, "chain": list,
    "bias_bits": int, "blocks": int, "ties": list, "points": str, "input_part_bits": int,
    "packed": str, "least_container": int, "runtime": str, "rules": str, "float_weights": str,
}  # fmt: skip

_WORDS: Mapping[str, tuple[Any, ...]] = {
    "packed": (ALWAYS, BLOCKS), "least_container": (2, 4, 8), "runtime": RUNTIMES,
    "rules": ("", *RULES), "float_weights": (FOLDED, DEQUANTIZED),
}  # fmt: skip

_NUMBERS: Mapping[str, tuple[int, ...]] = {"bias_bits": (0, 32), "blocks": (0, *BLOCK_SIZES)}


def _value(key: str, value: Any, place: str) -> Any:
    wanted = _TYPES.get(key, bool)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise RecipeError(
            f"{place}: key {key!r} has the value {value!r}; it must be a {wanted.__name__}."
        )
    if key in ("weight_bits", "input_bits"):
        # 8.0 and true are equal to integers, but are none.
        wrong = [b for b in value if type(b) is not int or b not in ALLOWED_BITS]
        if wrong:
            raise RecipeError(f"{place}: {key} holds {wrong[0]!r}. Bits are 2 to 8, or 16.")
    for kind, known in {"chain": OPERATORS, "ties": set(JOINS)}.items():
        for word in value if key == kind else ():
            if not isinstance(word, str) or word not in known:
                what = "operator" if kind == "chain" else "tie"
                raise RecipeError(unknown(what, str(word), known, place))
    if key == "points" and value not in (PARALLEL, SUM):
        raise RecipeError(unknown("way to write points", value, (PARALLEL, SUM), place))
    words = _WORDS.get(key)
    if words and value not in words:
        raise RecipeError(unknown(key.replace("_", " "), str(value), map(str, words), place))
    sizes = _NUMBERS.get(key)
    if sizes and value not in sizes:
        listed = f"{', '.join(map(str, sizes[1:-1]))} or {sizes[-1]}" if sizes[2:] else sizes[-1]
        raise RecipeError(f"{place}: {key} is {value}. It is 0 (float) or {listed}.")
    return tuple(value) if isinstance(value, list) else value
