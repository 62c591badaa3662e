"""docs/measured/zoo.md from the results of `zoo.py`."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Rows = dict[tuple[str, str], Row]

HEAD = """# The zoo: architectures that go through, and those that do not

Every architecture of `benchmarks/guards/zoo/models.py`, small and with random weights, goes down
the whole road: capture, census, w8a8 by nearest rounding on eight random samples,
`model.safetensors` written and read back (bit for bit the same network), `model.onnx` written,
and the file run in ONNX Runtime on batches of two, three and five samples. Run it again with

    OMP_NUM_THREADS=1 python -m benchmarks.guards.zoo --jobs 2  # --only NAME ..., --failed, --again

**Verified** means what `bitwright verify` means: every weighted operation of the file, cut out and
fed with the simulation's own input, computes the same to 1e-5 relative (the column *unit* is the
worst), and 99 % of the whole network's answers are the same. With so few samples, answers that
float rounding alone decides are left out (*undecided*, see `export/rounding.py`): random weights
amplify a rounding of 1e-7 to what the column *difference* shows, the worst difference of an output
relative to the largest. *Agreement* is always that of all answers. These numbers say that the road
holds, and nothing about accuracy: the weights are random. The runtime's optimisations are off here.

*Float* lists the commonest operators without weights that stay in float, and as `x @ y` the
products of two computed operands (attention).
"""

COLUMNS = (
    "network", "params", "units", "BN folded", "float", "verified", "unit", "agreement",
    "undecided", "difference", "s",
)  # fmt: skip


TITLES = {
    "ort-cpu": "The integer chain: target `ort-cpu`",
    "tasks": "Outputs of every kind",
    "paper+matmul+softmax": "Attention on the grid: target `paper+matmul+softmax`",
}


def page(
    rows: Rows, names: list[str], more: dict[str, list[str]], known: dict[str, str], old: str = ""
) -> str:
    """The whole page: a summary, the table of target paper, the failures, the smaller tables.

    A target that no row is of keeps what the `old` page says of it.
    """
    before = sections(old, list(more))
    paper = [rows[n, "paper"] for n in names if (n, "paper") in rows]
    parts = [HEAD, summary("Target `paper`", paper, known)]
    parts += ["", *table(paper), "", "## Not verified", "", *failures(paper, known)]
    parts = ["\n".join(parts)] if paper or "" not in before else [before[""]]
    for target, chosen in more.items():
        own = "paper" if target == "tasks" else target
        small = [rows[n, own] for n in chosen if (n, own) in rows]
        if not small:
            parts += [before[target]] if target in before else []
            continue
        lines = [f"## {TITLES[target]}", "", summary(f"Target `{own}`", small, known)]
        lines += ["", *table(small)]
        if any(not row["verified"] for row in small):
            lines += ["", *failures(small, known)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def sections(old: str, targets: list[str]) -> dict[str, str]:
    """A page in parts: what comes first as "", then each target's by its title."""
    starts = {t: old.find(f"## {TITLES[t]}\n") for t in targets}
    starts = {"": 0} | {t: at for t, at in starts.items() if at >= 0} if old else {}
    ends = [*list(starts.values())[1:], len(old)]
    return {t: old[a:z].strip() for (t, a), z in zip(starts.items(), ends, strict=False)}


def summary(title: str, rows: list[Row], known: dict[str, str]) -> str:
    """One line that counts."""
    good = [row for row in rows if row["verified"]]
    ours = [row for row in rows if not row["verified"] and row["name"] not in known]
    worst = max((row["worst_unit"] or 0.0 for row in good), default=0.0)
    units = sum(row["units"] for row in good)
    return (
        f"**{title}: {len(good)} of {len(rows)} verified, "
        f"{len(rows) - len(good) - len(ours)} fail for a reason of their own, "
        f"{len(ours)} for one of ours; "
        f"{units:,} units, the worst off by {worst:.1e}.**"
    )


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(cells(row)) + " |")
    return lines


def cells(row: Row) -> list[str]:
    found = row.get("verify", {})

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        row["name"],
        number(row.get("params"), ",d"),
        number(row.get("units"), "d"),
        number(row.get("folded"), "d"),
        float_ops(row),
        "yes" if row["verified"] else "**no**",
        number(row.get("worst_unit"), ".0e"),
        number(found.get("agreement"), ".3f"),
        number(found.get("undecided"), "d"),
        number(found.get("max_relative_difference"), ".0e"),
        number(row["seconds"], ".0f"),
    ]


# What moves, counts or makes indices is not computation.
DULL = {
    "arange", "to", "zeros", "ones", "new_ones", "zeros_like", "ones_like", "full", "expand_as",
    "index", "sym_size", "roll", "le", "lt", "ge", "gt", "eq", "ne", "__and__", "where", "chunk",
    "unbind", "stack", "type_as", "repeat", "alias", "detach", "full_like", "new_zeros", "unfold",
    "view", "masked_fill", "masked_fill_", "contiguous", "gather", "neg", "copy", "_to_copy",
    "logical_and", "logical_not", "bitwise_not", "le_scalar", "floordiv", "add", "mul", "sub",
    "div", "mod", "cumsum", "abs", "min", "max", "index_put", "argmax", "as_strided", "fill",
}  # fmt: skip


def float_ops(row: Row) -> str:
    """The three commonest operators of note."""
    ops = {k: v for k, v in row.get("float_ops", {}).items() if k not in DULL}
    top = sorted(ops.items(), key=lambda item: (-item[1], item[0]))[:3]
    parts = [f"{count} {op}" for op, count in top]
    if row.get("computed_operands"):
        parts.insert(0, f"{row['computed_operands']} x @ y")
    return ", ".join(parts)


def failures(rows: list[Row], known: dict[str, str]) -> list[str]:
    """Every network that did not pass, whose doing it is, and what was said."""
    lines = ["| network | whose | why | message |", "|---|---|---|---|"]
    for row in rows:
        if row["verified"]:
            continue
        reason = str(row.get("reason", "")).replace("|", "/")[:220]
        whose = "not ours" if row["name"] in known else "ours"
        lines.append(f"| {row['name']} | {whose} | {known.get(row['name'], '')} | {reason} |")
    return lines if len(lines) > 2 else ["None."]
