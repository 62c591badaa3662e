"""The options that commands share, and the words that a shell can complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.prepare.names import ABOUT as PREPARING
from bitwright.recipe import names
from bitwright.tuning.catalogue import STEPS

# How the options of `quantize` are grouped in its help.
WHAT = "The network and its data"
BITS = "Bits: one scheme, or a menu under a budget"
HOW = "How weights are rounded and tuned"
FOR = "The runtime, and what is measured"
WHERE = "Where and with what"


def complete_from(known: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell offers for an option whose values are known words."""

    def offer(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return offer


def option(text: str, panel: str | None = None, *, known: Iterable[str] = ()) -> Any:
    """An option by its help, its place in the help and the words that it takes."""
    offer = complete_from(tuple(known)) if known else None
    return typer.Option(help=text, rich_help_panel=panel, autocompletion=offer)


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="FILE.py:FUNCTION, package.module:FUNCTION, timm:NAME, torchvision:NAME, hf:PATH or "
        "X.pt2",
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="a run directory")]
TextOption = Annotated[str | None, typer.Option()]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="FILE.py:FUNCTION, a folder of images, X.npz, X.jsonl or none",
        rich_help_panel=WHAT,
    ),
]
# What is known of pictures in a folder, where the network does not say it.
Size = Annotated[int | None, option("image size of a folder", WHAT)]
Channels = Annotated[str | None, option("one or three numbers, such as 0.5,0.5,0.5", WHAT)]
Crop = Annotated[float | None, option("share of the short side kept; 0 squashes", WHAT)]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="run the code that the run's recipe names; see docs/trust.md"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="errors only", rich_help_panel=WHERE)]
Json = Annotated[
    bool,
    typer.Option("--json", help="the result as JSON, and it alone", rich_help_panel=WHERE),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="'size<=0.13 and bops<=2GBOP', 'loss<=0.05', 'drop<=1%'",
        rich_help_panel=BITS,
    ),
]
CostTables = Annotated[
    list[str] | None,
    typer.Option("--cost-table", help="NAME=FILE.csv: unit, w_bits, a_bits, points, value"),
]
Latencies = Annotated[
    list[str] | None,
    option("DEVICE=FILE.csv measured elsewhere, for budgets of latency[DEVICE]", BITS),
]
Minimize = Annotated[
    str, typer.Option(help="the cost to make small under a budget of the loss or the drop")
]
Solver = Annotated[str, option("ip, greedy-accuracy or greedy-compression", known=names.SOLVERS)]
MetricOption = Annotated[str, option("top1, agreement, FILE.py:FUNCTION", known=names.METRICS)]
Evaluation = Annotated[str, typer.Option("--eval", help="labelled data")]

# Those of `quantize`, which has them as keys of the recipe: None leaves it to the recipe.
RecipeOption = Annotated[str, option("a built-in recipe or a TOML file", known=names.RECIPES)]
MethodOption = Annotated[
    str | None, option("see 'bitwright list methods'", HOW, known=names.METHODS)
]
Mode = Annotated[str | None, option("parallel or sequential", HOW, known=names.MODES)]
Prepare = Annotated[str | None, option(f"in order: {', '.join(PREPARING)}", HOW, known=PREPARING)]
Tune = Annotated[str | None, option(f"in order: {', '.join(STEPS)}", HOW, known=STEPS)]
SolvingOption = Annotated[str | None, option("ip, greedy-accuracy, ...", BITS, known=names.SOLVERS)]
Lossless = Annotated[
    float | None, option("answers that may differ from float, such as 0.001", BITS)
]
PromiseOption = Annotated[
    str | None,
    option("proven on samples kept apart: 'agreement>=99%', 'drop<=0.5%', 'kl<=0.01'", FOR),
]
Dynamic = Annotated[
    bool | None,
    typer.Option(
        "--dynamic",
        help="height and width of images free, where the network allows it",
        rich_help_panel=FOR,
    ),
]
Portable = Annotated[
    bool | None,
    typer.Option(
        "--portable",
        help="the same answers on processors without VNNI",
        rich_help_panel=FOR,
    ),
]
Labels = Annotated[
    bool, typer.Option("--labels", help="the table's loss uses labels", rich_help_panel=BITS)
]
TargetName = Annotated[
    str | None,
    option("auto, ort-cpu, ort-linear, X.toml ...", FOR, known=(names.AUTO, *names.TARGETS)),
]
Labelled = Annotated[str | None, typer.Option("--eval", help="labelled data", rich_help_panel=FOR)]
MeasuredOption = Annotated[
    str | None, option("top1, agreement, FILE.py:FUNCTION", FOR, known=names.METRICS)
]
AnswerOption = Annotated[
    str | None, option("what outputs mean: 'boxes=box, scores=scores:1, aux=none'", FOR)
]
GivenBits = Annotated[str | None, option("bits as 'allocate --out FILE' has them", BITS)]
TableOption = Annotated[
    str | None, option("measured, or quick: one probe a unit", BITS, known=names.TABLES)
]
LossOption = Annotated[str | None, option("a loss of your own, FILE.py:FUNCTION", BITS)]
InputRange = Annotated[
    str | None, option("minmax, mse, ..., output", HOW, known=(*names.RANGES, "output"))
]
Workers = Annotated[
    str | None, option("N, ray, or a Ray ADDRESS; the cores of this machine", WHERE)
]
Time = Annotated[str | None, option("how long it may take, such as 2min: chooses what fits", WHERE)]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="replace the run in --out; keep a file that answers at random, as model.rejected.onnx",
        rich_help_panel=WHERE,
    ),
]
