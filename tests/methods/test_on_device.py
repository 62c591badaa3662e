"""Units solved on a device: nothing stays behind, and what comes back is on the CPU."""

from __future__ import annotations

import pytest
import torch
from unit_problems import with_rows

from bitwright.engine.device import move
from bitwright.engine.digest import digest
from bitwright.methods.adaquant import AdaQuant
from bitwright.methods.adaround import AdaRound
from bitwright.methods.nearest import Nearest
from bitwright.methods.on_device import OnDevice, solve_on
from bitwright.methods.quadratic import QuadraticSolver
from fake_device import FAKE, FakeDevice, is_fake

METHODS = {
    "adaround": AdaRound(iterations=20, rows=64),
    "adaquant": AdaQuant(iterations=20, rows=64),
    "quadratic": QuadraticSolver(),
}


@pytest.mark.parametrize("case", ["conv", "conv with relu", "depthwise"])
@pytest.mark.parametrize("name", METHODS)
def test_no_tensor_stays_behind(name, case):
    """Every operation has all of its tensors on the device, or none: both at once raise."""
    given, method = with_rows(case, 4), METHODS[name]
    with FakeDevice() as device:
        found = OnDevice(method, str(FAKE)).solve(given)
    assert device.count > 100
    assert not any(is_fake(t) for t in (found.q, found.bias, found.weight.scale))
    want = method.solve(given)
    assert found.method == want.method and found.q.shape == want.q.shape
    assert float((found.q == want.q).float().mean()) > 0.95


def test_the_fake_device_refuses_what_a_device_refuses():
    x, y = torch.ones(3), torch.ones(3)
    with FakeDevice():
        there = move(x, str(FAKE))
        assert there.device == FAKE and (there + 1).device == FAKE and x.device.type == "cpu"
        with pytest.raises(RuntimeError, match="two devices"):
            there + y
        with pytest.raises(TypeError):
            there.numpy()
        assert not is_fake(move(there, "cpu"))


def test_a_value_without_tensors_is_not_copied():
    given = with_rows("conv", 4)
    assert move(given.unit, "cpu") is given.unit and move((1, "a"), "cpu") == (1, "a")
    assert digest(move(given, "cpu")) == digest(given)


def test_where_nothing_is_gained_a_method_stays_on_the_cpu():
    assert solve_on(AdaRound(), "cpu") == AdaRound() and solve_on(Nearest(), "cuda") == Nearest()
    there = solve_on(AdaRound(), "cuda:0")
    assert there.name == "adaround" and there.needs == AdaRound().needs
    assert there.configured("minmax").method == AdaRound(weight_range="minmax")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_on_a_real_device(name):
    given, method = with_rows("conv with relu", 4), METHODS[name]
    found, want = OnDevice(method, "cuda").solve(given), method.solve(given)
    assert found.q.device.type == "cpu"
    assert found.loss_after == pytest.approx(want.loss_after, rel=0.2)
