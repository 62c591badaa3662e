"""Evidence of single samples adds up to what a comparison of whole batches finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.errors import DataError
from bitwright.evaluation import evidence as module
from bitwright.evaluation.compare import compare
from bitwright.evaluation.evidence import gather_evidence
from bitwright.evaluation.figures import LESS_IS_BETTER
from bitwright.evaluation.metrics import METRICS, metric
from bitwright.graph.answers import EMBEDDING, SCORES, Outcome
from bitwright.sources.batches import Batch


def batches(shape, labels, sizes=(5, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    return [
        Batch((torch.randn(n, *shape, generator=generator),), labels(n, generator)) for n in sizes
    ]


def blur(inputs):
    x = inputs[0]
    return x + 0.5 * torch.sin(37 * x)


def classes(n, generator):
    return torch.randint(0, 6, (n,), generator=generator)


@pytest.mark.parametrize(
    ("shape", "kind"), [((6,), SCORES), ((7, 6), SCORES), ((6, 4, 4), SCORES), ((16,), EMBEDDING)]
)
def test_samples_add_up_to_the_whole(shape, kind):
    data = batches(shape, lambda *_: None)
    found = gather_evidence(lambda i: i[0], blur, data, None, kind)
    whole = compare(lambda i: i[0], blur, data, None, answers=kind)
    assert found.count == whole["samples"] == 12
    assert found.agreement.mean() == pytest.approx(whole["agreement"])
    assert found.kl.mean() == pytest.approx(whole["kl"])


@pytest.mark.parametrize("name", ["top1", "top5", "macro_f1"])
def test_scores_and_figures_are_the_metrics_own(name):
    data = batches((6,), classes)
    found = gather_evidence(lambda i: i[0], blur, data, METRICS[name], SCORES)
    whole = compare(lambda i: i[0], blur, data, METRICS[name])
    if found.scores is not None:
        values = [float(side.mean()) for side in found.scores]
    else:
        values = [figure(np.arange(12)) for figure in found.figures]
    assert values == [pytest.approx(whole[side][name]) for side in ("float", "quantized")]


def test_errors_are_known_as_such():
    errors = {name for name, metric in METRICS.items() if "less is better" in metric.text}
    assert errors == LESS_IS_BETTER
    data = batches((6,), lambda n, g: torch.randn(n, 6, generator=g))
    assert gather_evidence(lambda i: i[0], blur, data, METRICS["mae"], SCORES).less
    data = batches((6,), classes)
    assert not gather_evidence(lambda i: i[0], blur, data, METRICS["top1"], SCORES).less


def test_a_metric_of_ones_own_sees_all_that_the_network_gave():
    def mine(outputs, labels):
        assert set(outputs) == {"a", "b"} and outputs["b"].shape[0] == 1
        return (outputs["a"].argmax(-1) == labels).float().mean()

    def whole(inputs):
        return Outcome(inputs[0], {"a": inputs[0], "b": inputs[0] * 2})

    data = batches((6,), classes)
    found = gather_evidence(whole, whole, data, metric(mine), SCORES)
    right = torch.cat([(b.inputs[0].argmax(-1) == b.labels).double() for b in data])
    assert found.scores[0].tolist() == right.tolist()


def test_no_sample_and_outputs_without_bound_are_refused(monkeypatch):
    with pytest.raises(DataError, match="no sample came"):
        gather_evidence(blur, blur, [], None, SCORES)
    monkeypatch.setattr(module, "_HELD", 200)
    with pytest.raises(DataError, match="Give fewer samples"):
        gather_evidence(lambda i: i[0], blur, batches((6,), classes), METRICS["macro_f1"], SCORES)
