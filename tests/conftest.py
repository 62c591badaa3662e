"""What every test shares: the allocator, the data folder, a small trained-looking network."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn
from torch.onnx._internal.exporter import _decomp as decompositions
from torch.onnx._internal.exporter import _registration as translations

from bitwright import cli
from bitwright.engine.memory import keep_heap
from bitwright.export import speed
from networks import pictures, small_network

keep_heap()
# No test is timed: the machines are shared, and a slow example is not a wrong one.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# Every torch.onnx.export reads and parses the source of the same 500 translations, a third of what
# it takes, and makes the same tables of them, a sixth of the rest; they are the same each time, so
# that one reading serves all tests. Each export gets copies that it may add to.
translations.onnxscript_apis.get_torchlib_ops = functools.cache(
    translations.onnxscript_apis.get_torchlib_ops
)
_registry = functools.cache(translations.ONNXRegistry.from_torchlib)
_decompositions = functools.cache(decompositions.create_onnx_friendly_decomposition_table)


def _registry_of_its_own(**opset: int) -> translations.ONNXRegistry:
    found = copy.copy(_registry(**opset))
    found.functions = {name: list(metas) for name, metas in found.functions.items()}
    return found


translations.ONNXRegistry.from_torchlib = staticmethod(_registry_of_its_own)
decompositions.create_onnx_friendly_decomposition_table = lambda registered: dict(
    _decompositions(frozenset(registered))
)
# What a verification says of speed is a hint: five turns do, but where a test judges it.
speed.MOST_TURNS = 5
# Two threads on two shared cores wait for each other far longer than they compute.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory) -> Path:
    """The tests' own state folder, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = str(folder)
    return folder


def pytest_addoption(parser):
    parser.addoption("--data-root", default=os.environ.get("BITWRIGHT_DATA", "../shared/data"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws without a seed of its own depends on no other test, nor on its worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of benchmark networks and data, or a skip that says so."""
    root = Path(request.config.getoption("--data-root"))
    if not (root / "models.py").is_file():
        pytest.skip(f"no benchmark data at {root} (--data-root)")
    return root.absolute()


@pytest.fixture
def small_net() -> nn.Module:
    return small_network()


@pytest.fixture
def images() -> torch.Tensor:
    return pictures(48)


class Outcome(NamedTuple):
    """How the command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def bitwright(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs the command in this process; gives its exit code and what it wrote."""

    def call(*words) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bitwright", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        written = capsys.readouterr()
        assert "Traceback" not in written.out + written.err
        return Outcome(code, written.out, written.err)

    return call
