"""Rows of the paper's tables that the benchmark of all methods measured: read, not run again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmarks.study.paper.networks import NETWORKS
from benchmarks.study.paper.study import percent
from benchmarks.tables import RESULTS, markdown, read_csv

COLUMNS = {
    "network": "{network}",
    "method": "{method}",
    "tests": "{tests}",
    "float top-1": "{f}",
    "top-1": "{t}",
    "change": "{d}",
    "agreement": "{a}",
    "verified": "{v}",
    "processor s": "{p}",
    "peak MB": "{m}",
}


def others(scheme: str, known: Collection[str], path: Path = RESULTS / "methods.csv") -> str:
    """A section with the rows of one scheme, without the methods that the table has already.

    Within a network, by agreement with the float network.
    """
    rows = [r for r in read_csv(path) if (r["part"], r["scheme"]) == ("table", scheme)]
    networks = list(NETWORKS)
    own = sorted(
        (r for r in rows if r["method"] not in known),
        key=lambda r: (networks.index(r["network"]), -float(r["agreement"])),
    )
    shown = [
        {
            **r,
            "tests": "all" if str(r["tests"]) == "0" else r["tests"],
            "f": percent(r["float_top1"]),
            "t": percent(r["top1"]),
            "d": f"{100 * (float(r['top1']) - float(r['float_top1'])):+.2f}",
            "a": percent(r["agreement"]),
            "v": "yes" if str(r["verified"]) == "True" else "no",
            "p": f"{float(r['processor_s']):.0f}",
            "m": f"{float(r['peak_mb']):.0f}",
        }
        for r in own
    ]
    text = [
        "## Every other method",
        "",
        "Rows of [the table of all methods](../methods_table.md) at this scheme, first and last",
        "unit at 8 bits, one seed, in the order of agreement. *Tests* says how many of the test",
        "images were run: levels compare within a network only.",
        "",
        markdown(shown, COLUMNS),
    ]
    return "\n".join(text)
