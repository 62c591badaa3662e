"""What the page says of a run beyond its figures: names, bits, warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest

import records
from bitwright.pipeline.page import network_name, render
from bitwright.recipe.values import Recipe
from bitwright.report.texts import scheme_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/me/nets/models.py:resnet20", "resnet20 (models.py)"),
        ("my.package:network", "network"),
        ("timm:resnet18", "resnet18"),
        ("torchvision:alexnet", "alexnet"),
        ("hf:/models/bert-tiny", "bert-tiny"),
        ("/exported/net.pt2", "net.pt2"),
        ("", "SmallNet"),
    ],
)
def test_the_title_is_a_name_not_a_path(model, name):
    recipe = replace(Recipe(), model=model)
    census = records.census(network="SmallNet")
    assert network_name(recipe, census) == name
    page = render(recipe, records.metrics(), census, None, None)
    assert f"<h1>{name}: bits not known</h1>" in page


def test_runs_of_old_have_no_class():
    assert network_name(Recipe(), records.census()) == "network"


def units(*schemes):
    return [records.unit(w_bits=w, a_bits=a, points=p) for w, a, p in schemes]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (units((8, 8, 1), (8, 8, 1)), "w8a8"),
        (units((4, 8, 1), (4, 8, 1), (8, 8, 1)), "w4a8 in 2 of 3 units"),
        (units((4, 8, 1), (2, 8, 1), (8, 8, 1)), "mixed bits, w2a8 to w8a8"),
        (units((0, 0, 1), (2, 8, 1), (4, 8, 1), (4, 4, 1)), "mixed bits, w2a8 to float"),
        (units((4, 8, 1), (4, 8, 3), (4, 8, 2)), "mixed bits, w4a8 to w4a8x3"),
        (units((4, 0, 1), (4, 8, 1)), "mixed bits, w4a8 to w4afloat"),
    ],
)
def test_a_mixture_is_not_called_by_one_scheme(rows, said):
    census = records.census(units=rows)
    assert scheme_of(census.units) == said
    page = render(replace(Recipe(), scheme="w8a4"), records.metrics(), census, None, None)
    assert f"<h1>network: {said}</h1>" in page and "w8a4</h1>" not in page


def test_few_samples_are_the_first_warning():
    census = records.census(notes=[{"place": "a", "text": "b"}])
    page = render(Recipe(), records.metrics(samples=1), census, None, None)
    warnings = page[page.index("<h2>Warnings</h2>") :]
    assert warnings.index("Measured on 1 sample only") < warnings.index("a: b")
