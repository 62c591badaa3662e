"""Every example in a docstring of the package does what it shows."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import bitwright

MODULES = [
    module.name
    for module in pkgutil.walk_packages(bitwright.__path__, "bitwright.")
    if not module.name.endswith("__main__")
]


def test_the_examples_are_found():
    assert len(MODULES) > 200


def test_every_example_of_a_docstring_runs(capsys: pytest.CaptureFixture[str]):
    tried = failed = 0
    for name in MODULES:
        outcome = doctest.testmod(importlib.import_module(name))
        tried, failed = tried + outcome.attempted, failed + outcome.failed
    assert not failed, capsys.readouterr().out
    assert tried > 40
