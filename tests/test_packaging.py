"""What the README says of installing and naming is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitwright.evaluation.metrics import METRICS
from bitwright.graph.target import BUILT_IN

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML by itself")
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def first_cells(heading: str) -> str:
    """The first two columns of the table below a heading."""
    section = README[README.index(heading) :].split("\n## ")[0]
    return "\n".join(" ".join(line.split("|")[1:3]) for line in section.splitlines() if "|" in line)


def test_all_is_every_extra_that_a_network_may_need():
    (every,) = EXTRAS["all"]
    named = re.fullmatch(r"bitwright\[(.*)\]", every)[1].split(",")
    assert set(named) == set(EXTRAS) - {"all", "demo", "docs", "test"}


def test_every_extra_and_no_other_is_explained():
    assert set(re.findall(r"`([a-z]+)`", first_cells("## Installation").split("for")[1])) >= {
        "timm"
    }
    cells = re.findall(r"^ *((?:`[a-z]+`(?:, )?)+)", first_cells("## Installation"), re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([a-z]+)`", cell)} == set(EXTRAS)


def test_every_target_has_its_runtime():
    named = re.findall(r"`([a-z-]+)`", first_cells("## Which target for which runtime"))
    assert set(BUILT_IN) <= set(named)


def test_every_metric_is_named_in_the_readme_and_the_guide():
    guide = (ROOT / "docs" / "guide.md").read_text()
    for name in set(METRICS) - {"accuracy", "agreement"}:
        assert f"`{name}`" in README and f"`{name}`" in guide
