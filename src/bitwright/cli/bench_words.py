"""What `bitwright bench` says: a table of every setting, what ran in which type, and loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Kinds of operators that are named for each file.
_NAMED = 5


def bench_lines(record: Mapping[str, Any]) -> list[str]:
    """The record of `bench` as a person reads it."""
    about = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in about["runtimes"].items())
    lines = [f"{about['processor']}, {versions}; medians of {about['repetitions']} turns"]
    wide = max([len(row["file"]) for row in record["rows"]] + [4]) + 2
    settings = dict.fromkeys((r["runtime"], r["threads"], r["batch"]) for r in record["rows"])
    for setting in settings:
        rows = [r for r in record["rows"] if (r["runtime"], r["threads"], r["batch"]) == setting]
        lines += ["", *_table(setting, rows, record["reference"], wide)]
    lines += _loads(record["loads"], wide) + _operators(record["operators"], wide)
    lines += [f"note: {note}" for note in record["notes"]]
    return [*lines, "", f"wrote {record['page']}"] if record.get("page") else lines


def _table(
    setting: tuple[str, int, int], rows: Sequence[Mapping[str, Any]], reference: str, wide: int
) -> list[str]:
    runtime, threads, batch = setting
    beside = f"x {reference}" if reference else ""
    heading = f"{runtime}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}"
    lines = [heading, f"{'':{wide}}{'ms':>9}{'quartiles':>17}{'samples/s':>11}{beside:>12}"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['file']:{wide}}does not run: {row['error'][:120]}")
            continue
        times = "" if row["times"] is None else f"{row['times']:.2f}"
        span = f"{row['low_ms']:.3g} to {row['high_ms']:.3g}"
        lines.append(
            f"{row['file']:{wide}}{row['ms']:>9.3g}{span:>17}{row['throughput']:>11.4g}{times:>12}"
        )
    return lines


def _loads(loads: Sequence[Mapping[str, Any]], wide: int) -> list[str]:
    if not loads:
        return []
    lines = ["", f"{'loading':{wide}}{'runtime':<13}{'ms':>8}{'memory MB':>11}{'file MB':>9}"]
    return lines + [
        f"{one['file']:{wide}}{one['runtime']:<13}{one['load_ms']:>8.3g}{one['memory_mb']:>11.1f}"
        f"{one['bytes'] / 1e6:>9.2f}"
        for one in loads
    ]


def _operators(shares: Sequence[Mapping[str, Any]], wide: int) -> list[str]:
    """The operators that take most of each file's time, with the types that they ran in."""
    lines = ["", f"{'what ran':{wide}}of the time"] if shares else []
    for file, runtime in dict.fromkeys((one["file"], one["runtime"]) for one in shares):
        own = [one for one in shares if (one["file"], one["runtime"]) == (file, runtime)]
        told = [
            f"{one['share']:.0%} {one['count']} x {one['operator']} ({one['type']})"
            for one in own[:_NAMED]
        ]
        more = f", {len(own) - _NAMED} kinds more" if len(own) > _NAMED else ""
        lines.append(f"{file:{wide}}{runtime}: {', '.join(told)}{more}")
    return lines


def bundle_lines(record: Mapping[str, Any]) -> list[str]:
    """Where a timing bundle is, and what to do with it."""
    return [
        f"wrote {record['bundle']}: {record['networks']} networks, {record['bytes'] / 1e6:.2f} MB, "
        "without the network's weights",
        "",
        "Copy the folder to the device. There, with Python, numpy and onnxruntime:",
        "    python time_here.py --out latency.csv",
        "and bring the table home:",
        f"    bitwright quantize MODEL ... --target {record['target']} --menu '{record['menu']}' "
        "--latencies NAME=latency.csv --budget 'latency[NAME]<=0.6'",
    ]
