"""Artefacts that are tables of single runs of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.study.paper.commands import quantized
from benchmarks.study.paper.records import Records, Row
from benchmarks.study.paper.study import Study, percent
from benchmarks.tables import markdown


@dataclass(frozen=True)
class Cell:
    """One run: a network, what the row is called, and the options of the command."""

    network: str
    label: str
    options: tuple[tuple[str, str], ...]
    seed: int = 0
    own_store: bool = False

    @property
    def identity(self) -> dict[str, object]:
        """What tells this run's row from another's."""
        said = " ".join(f"--{k} {v}" for k, v in self.options)
        return {"network": self.network, "label": self.label, "options": said, "seed": self.seed}


IDENTITY = ("network", "label", "options", "seed")


def cell(
    network: str, label: str, seed: int = 0, *, own_store: bool = False, **options: str
) -> Cell:
    """A run with options of the command in their order."""
    return Cell(network, label, tuple(options.items()), seed, own_store)


def measured(study: Study, name: str, cells: Sequence[Cell]) -> Records:
    """The rows of these runs; those that are missing are measured first."""
    records = Records(study.results / f"{name}.csv", IDENTITY)
    for one in cells if study.measures else ():
        store = None if one.own_store else study.store_of(one.network)

        def measure(one: Cell = one, store: object = store) -> list[Mapping[str, object]]:
            usual = {"recipe": "fixed", "target": "paper"}
            options = {**usual, **dict(one.options), "seed": str(one.seed)}
            if options["recipe"] != "fixed" and "menu" in options:
                options["table_samples"] = str(study.scale.table_samples)
            return [quantized(study.root, one.network, study.scale, options, store)]  # type: ignore[arg-type]

        records.need(one.identity, measure)
    return records


COLUMNS = {
    "network": "{network}",
    "run": "{label}",
    "float top-1": "{f}",
    "top-1": "{t}",
    "change": "{d}",
    "agreement": "{a}",
    "size": "{s}",
    "verified": "{v}",
    "processor s": "{p}",
    "peak MB": "{m}",
}


def table(rows: Sequence[Row]) -> str:
    """Rows of single runs as Markdown."""
    shown = [
        {
            **row,
            "f": percent(row["float_top1"]),
            "t": percent(row["top1"]),
            "d": f"{100 * (float(row['top1']) - float(row['float_top1'])):+.2f}",
            "a": percent(row["agreement"]),
            "s": f"{float(row['size']):.3f}",
            "v": "yes" if row["exit"] == "0" else "no",
            "p": f"{float(row['processor_s']):.0f}",
            "m": f"{float(row['peak_mb']):.0f}",
        }
        for row in rows
    ]
    return markdown(shown, COLUMNS)
