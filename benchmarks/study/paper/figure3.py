"""Figure 3: compression against accuracy of greedy rules, the integer program, and pipelines."""

from __future__ import annotations

from benchmarks.study.paper.draw import Picture, lines
from benchmarks.study.paper.records import Records, Row
from benchmarks.study.paper.stages import IDENTITY, IP, UNIFORM, Plan, identity, measured
from benchmarks.study.paper.study import Study, percent
from benchmarks.tables import markdown

MENU, RELAXED = "w{2,3,4,8}a8,w4a4", "w{2..8}a{2..8}"
BUDGETS = {
    "resnet20": ("bops<=0.018", "bops<=0.024", "bops<=0.032", "bops<=0.045"),
    "resnet56": ("bops<=0.018", "bops<=0.024", "bops<=0.032", "bops<=0.045"),
}
RELAXED_OF = ("resnet20",)
PAPER = (
    "The paper's figure 3 (ResNet-18, ResNet-50, MobileNet-V2 on ImageNet; compression of the "
    "model's size) has the integer program above both greedy rules everywhere, batch-norm tuning "
    "above it, and the relaxed advanced pipeline highest."
)


def plans(study: Study) -> list[Plan]:
    """Of each network the pipelines' menu, and of the small one the relaxed menu too."""
    found = []
    for name in study.of(tuple(BUDGETS)):
        budgets = BUDGETS[name][1:2] if study.scale.quick else BUDGETS[name]
        steps = (("bn",), ("bn", "bias"), ("bn", "bias", "refine"))
        found.append(Plan(name, MENU, budgets, trails=steps))
        if name in RELAXED_OF:
            menu = "w{4,6}a{4,6}" if study.scale.quick else RELAXED
            found.append(Plan(name, menu, budgets, trails=steps, beside=()))
    return found


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = Records(study.results / "figure3.csv", tuple(IDENTITY))
    for plan in plans(study) if study.measures else ():
        records.need(
            identity(plan),
            lambda plan=plan: measured(  # type: ignore[misc]
                study.root, plan, study.scale, study.store_of(plan.network)
            ),
        )
    networks = [name for name in BUDGETS if records.where(network=name)]
    text = ["# Figure 3: compression against accuracy", "", *HEAD, "", PAPER, ""]
    for name in networks:
        rows = records.where(network=name)
        text += [f"## {name}", "", f"![{name}](figure3_{name}.svg)", "", _table(rows), ""]
        text += [*_reading(rows), ""]
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            limit = float(row["budget"].split("<=")[1])
            series.setdefault(_label(row), []).append((limit, 100 * float(row["agreement"])))
        picture = Picture(f"{name}: agreement with float", "bit operations, of float", "per cent")
        study.pages.mkdir(parents=True, exist_ok=True)
        (study.pages / f"figure3_{name}.svg").write_text(lines(picture, series))
    study.publish("figure3", "\n".join(text))


HEAD = (
    "Written by `python -m benchmarks.study.paper --only figure3`.",
    "The budget is one of bit operations, so",
    "that bits of activations are paid for as well as bits of weights. All stages of a network "
    "start from one",
    "solved menu (quadratic solver, parallel mode, seven eighths of the calibration samples; the "
    "rest judges tuning).",
    "Accuracy is that on data not used for calibration. *Relaxed* has its own menu, the others "
    f"share `{MENU}`.",
)


def _label(row: Row) -> str:
    return row["stage"] if row["menu"] == MENU else f"relaxed: {row['stage']}"


def _table(rows: list[Row]) -> str:
    shown = [
        {
            **row,
            "label": _label(row),
            "share": f"{float(row['cost']):.4f}",
            "t": percent(row["top1"]),
            "a": percent(row["agreement"]),
            "k": f"{float(row['kl']):.3g}",
        }
        for row in rows
    ]
    columns = {
        "budget": "{budget}",
        "stage": "{label}",
        "used": "{share}",
        "top-1": "{t}",
        "agreement": "{a}",
        "KL": "{k}",
    }
    return markdown(shown, columns)


def _reading(rows: list[Row]) -> list[str]:
    """How often each stage is at least as near to the float network as another."""
    said = []
    for better, worse in (
        (IP, UNIFORM),
        (IP, "greedy-accuracy"),
        (IP, "greedy-compression"),
        ("ip + bn", IP),
        ("ip + bn + bias", "ip + bn"),
        ("ip + bn + bias + refine", "ip + bn + bias"),
        ("relaxed: ip + bn + bias + refine", "ip + bn + bias + refine"),
    ):
        pairs = [
            (a, b)
            for a in rows
            for b in rows
            if a["budget"] == b["budget"] and _label(a) == better and _label(b) == worse
        ]
        if pairs:
            wins = sum(float(a["agreement"]) >= float(b["agreement"]) for a, b in pairs)
            lower = sum(float(a["kl"]) <= float(b["kl"]) for a, b in pairs)
            gain = sum(float(a["agreement"]) - float(b["agreement"]) for a, b in pairs) / len(pairs)
            said.append(
                f"- *{better}* against *{worse}*: agreement at least as high at {wins} of "
                f"{len(pairs)} budgets ({100 * gain:+.2f} points on average), KL no higher at "
                f"{lower}."
            )
    return said
