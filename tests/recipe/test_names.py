"""The words that are checked before torch is loaded are exactly those of the catalogues."""

from __future__ import annotations

import subprocess
import sys

from bitwright.allocation.solver.greedy import ACCURACY, COMPRESSION
from bitwright.evaluation.metrics import METRICS
from bitwright.graph.operators import CHAIN
from bitwright.methods.catalogue import METHODS
from bitwright.numerics.ranges import RANGES
from bitwright.recipe import names


def test_every_catalogue_is_named():
    assert set(names.METHODS) == set(METHODS)
    assert set(names.RANGES) == set(RANGES)
    assert set(names.METRICS) == set(METRICS)
    assert set(names.OPERATORS) == set(CHAIN.values())
    assert names.SOLVERS == ("ip", ACCURACY, COMPRESSION)


def test_a_recipe_and_a_target_are_checked_without_torch():
    code = (
        "import sys; from bitwright.recipe.values import BUILT_IN;"
        "from bitwright.pipeline.check import make_recipe;"
        "[make_recipe(name, {}) for name in BUILT_IN];"
        "bad = [m for m in ('torch', 'scipy', 'onnx') if m in sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
