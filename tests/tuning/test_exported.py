"""A tuned network is still computed alike by ONNX Runtime, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantised import quantised, solutions

from bitwright.export.onnx_file import export_onnx
from bitwright.export.verify import session
from bitwright.graph.execute import first_tensor, walk
from bitwright.graph.simulate import stitch
from bitwright.tuning.bias import BiasTuning, tune_biases
from bitwright.tuning.bn import tune_batchnorms
from bitwright.tuning.scales import ScaleTuning, tune_scales
from networks import pictures as images_of
from networks import small_network


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("scheme", ["w4a4", "w8a8"])
def test_runtime_and_simulation_agree(tmp_path, target, scheme):
    made = quantised(small_network(), images_of(96, seed=1), scheme, target)
    tuned, _ = solutions(tune_batchnorms(made.start, made.samples()))
    few = BiasTuning(iterations=10, checks=2)
    tuned, _ = solutions(tune_biases(made.having(tuned), made.samples(), few))
    brief = ScaleTuning(iterations=10, checks=2)
    found, _ = tune_scales(made.having(tuned), made.samples(), brief)
    assignment = found.assignment()
    path = tmp_path / "model.onnx"
    images = images_of(24, seed=7)
    export_onnx(made.graph, stitch(made.graph, assignment, marks=True), (images[:2],), path)
    run = session(path, optimized=False, threads=1)
    (got,) = run.run(None, {run.get_inputs()[0].name: images.numpy()})
    expected = first_tensor(walk(stitch(made.graph, assignment), (images,)))
    # The average over positions is the only operator of this network that rounds.
    assert np.abs(got - expected.numpy()).max() <= 2e-6 * float(expected.abs().max())
    assert torch.equal(torch.from_numpy(got).argmax(1), expected.argmax(1))
