"""Latencies that were measured elsewhere: a table a device, each a measure with budgets of its own.

`--latencies pi=pi.csv` makes the measure `latency[pi]`; a file without a name stands for `latency`
itself, which is then not measured here. One program holds the budgets of all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from bitwright.allocation.budget import parse_budgets
from bitwright.allocation.cost import is_of_device
from bitwright.allocation.latencies import LATENCY, with_device, with_latencies
from bitwright.allocation.latency_csv import (
    COLUMNS,
    latency_text,
    parse_latencies,
    read_latencies,
)
from bitwright.allocation.latency_table import LatencyTable
from bitwright.allocation.table import Table, parse_csv
from bitwright.engine.cells import guard
from bitwright.errors import RecipeError

DEVICE = "device"
Devices = Mapping[str, LatencyTable]


def parse_devices(text: str) -> dict[str, Path]:
    """The files of measures.

    >>> parse_devices("pi=pi.csv, here.csv")
    {'latency[pi]': PosixPath('pi.csv'), 'latency': PosixPath('here.csv')}

    Raises:
        RecipeError: a name twice, or one that no budget could have.
    """
    found: dict[str, Path] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        device, equals, file = (word.strip() for word in part.rpartition("="))
        name = f"{LATENCY}[{device}]" if equals else LATENCY
        if not file or (equals and not device.replace("-", "").replace(".", "").isidentifier()):
            raise RecipeError(
                f"--latencies {part!r} is not DEVICE=FILE.csv, for example pi=pi.csv: a device is "
                "named by letters, digits, '_', '-' and '.'."
            )
        if name in found:
            raise RecipeError(f"--latencies gives {name} twice: {found[name]} and {file}.")
        found[name] = Path(file)
    return found


def resolve_devices(text: str) -> str:
    """The same files by absolute paths.

    >>> resolve_devices("pi=/a/pi.csv, /b.csv")
    'pi=/a/pi.csv, /b.csv'
    """
    found = []
    for name, path in parse_devices(text).items():
        device = name.removeprefix(LATENCY).strip("[]")
        found.append(f"{device}={path.absolute()}" if device else str(path.absolute()))
    return ", ".join(found)


def check_devices(budgets: Iterable[str], minimize: str, latencies: str) -> None:
    """Whether every device that a budget names has a table.

    Raises:
        RecipeError: naming the one that has none.
    """
    known = parse_devices(latencies)
    names = [(budget.name, budget.text) for budget in parse_budgets(budgets)]
    for name, text in (*names, (minimize, f"minimize {minimize}")):
        if is_of_device(name) and name not in known:
            device = name.removeprefix(f"{LATENCY}[").removesuffix("]")
            raise RecipeError(
                f"{text!r} is of the device {device!r}, of which there is no table. Add "
                f"--latencies {device}=FILE.csv, as 'bitwright bench MODEL --bundle DIR' brings it "
                "home."
            )


def read_devices(latencies: str, target: str) -> dict[str, LatencyTable]:
    """The tables by measure.

    Raises:
        RunDirectoryError: one that cannot be read.
        RecipeError: one that was measured for another target.
    """
    found = {}
    for name, path in parse_devices(latencies).items():
        table = read_latencies(path)
        if table.conditions.target != target:
            raise RecipeError(
                f"--latencies {path} was measured on files of target {table.conditions.target!r}, "
                f"the run's is {target!r}. Measure again with --target {target}."
            )
        found[name] = table
    return found


def with_devices(table: Table, devices: Devices) -> Table:
    """The table with the latencies of every device."""
    for name, latency in devices.items():
        table = (
            with_latencies(table, latency) if name == LATENCY else with_device(table, name, latency)
        )
    return table


def format_devices(devices: Devices) -> str:
    """Several tables in one file: that of each with its measure in the first column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((DEVICE, *COLUMNS))
    for name, latency in devices.items():
        lines = csv.reader(io.StringIO(latency_text(latency)))
        next(lines)
        writer.writerows([name, *line] for line in lines)
    return text.getvalue()


def parse_devices_text(text: str, path: str) -> dict[str, LatencyTable]:
    """The tables of a file that `format_devices` made.

    Raises:
        RunDirectoryError: a line that cannot be.
    """
    parts: dict[str, list[Mapping[str, str]]] = {}
    for _, cells in parse_csv(text, path, (DEVICE, *COLUMNS), (DEVICE, *COLUMNS)):
        parts.setdefault(cells[DEVICE], []).append(cells)
    return {
        name: parse_latencies(_csv_of(lines), f"{path} ({name})") for name, lines in parts.items()
    }


def _csv_of(lines: Iterable[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: guard(cell) for key, cell in line.items()} for line in lines)
    return text.getvalue()
