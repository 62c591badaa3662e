"""Networks of several outputs, and metrics of one's own, from Python and by the command."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import bitwright as bw
from bitwright.cli import commands
from bitwright.cli.console import doctor_lines
from bitwright.cli.outcomes import outcome_lines
from bitwright.engine.progress import Progress
from bitwright.errors import BitwrightError, RecipeError
from bitwright.evaluation.metrics import METRICS, metric, metric_word
from bitwright.graph.choice import FLOAT, Choice, write_choices
from bitwright.recipe.values import load_recipe
from bitwright.report.summary import comparison
from networks import normal, seeded


@dataclass
class Detections:
    boxes: Tensor
    classes: Tensor


class Detector(nn.Module):
    def __init__(self, form=dict) -> None:
        super().__init__()
        self.body, self.box_head, self.class_head = (
            nn.Linear(6, 8),
            nn.Linear(8, 4),
            nn.Linear(8, 5),
        )
        self.form = form

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.form(boxes=self.box_head(h), classes=self.class_head(h))


def pair(boxes, classes):
    return boxes, classes


def detector(form=dict) -> nn.Module:
    return seeded(lambda: Detector(form)).eval()


X = normal(40, 6)
LABELS = detector()(X)["classes"].argmax(1)


def class_accuracy(outputs, labels):
    return (outputs["classes"].argmax(1) == labels).float().mean()


class Accuracy:
    """Not a mean of batches: one number at the end."""

    def __init__(self) -> None:
        self.right = self.all = 0

    def add(self, outputs, labels):
        self.right += int((outputs["classes"].argmax(1) == labels).sum())
        self.all += len(labels)

    def value(self):
        return self.right / self.all


def run(net, measure, **options):
    return bw.quantize(
        net, [X], evaluation=[(X, LABELS)], metric=measure, **{"recipe": "fixed", **options}
    )


@pytest.mark.parametrize("form", [dict, pair, Detections])
def test_a_metric_of_ones_own_is_given_what_the_network_returned(form):
    seen = []

    def classes(outputs, labels):
        seen.append(type(outputs))
        found = outputs["classes"] if form is dict else (
            outputs[1] if form is pair else outputs.classes
        )  # fmt: skip
        return (found.argmax(1) == labels).float().mean()

    result = run(detector(form), classes, scheme="w2a8")
    assert set(seen) == {tuple if form is pair else form}
    assert result.metrics["float"]["classes"] == 1.0
    with torch.no_grad():
        outputs = result.model(X)
    expected = outputs["classes"] if form is dict else (
        outputs[1] if form is pair else outputs.classes
    )  # fmt: skip
    right = (expected.argmax(1) == LABELS).double().mean()
    assert result.metrics["quantized"]["classes"] == pytest.approx(float(right))


@pytest.mark.parametrize("measure", [class_accuracy, Accuracy, lambda o, t: class_accuracy(o, t)])
def test_functions_and_classes_of_python_are_metrics(measure):
    found = run(detector(), measure).metrics
    (value,) = found["float"].values()
    assert value == 1.0 and found["quantized"].keys() == found["float"].keys()


def test_built_in_metrics_look_at_the_output_that_they_are_of():
    assert run(detector(), "top1").metrics["float"]["top1"] == 1.0


def test_what_cannot_be_found_again_is_recorded_so(tmp_path):
    assert metric_word(class_accuracy) == f"{__name__}:class_accuracy"
    assert metric_word(METRICS["top5"]) == "top5" and metric_word("f.py:g") == "f.py:g"
    result = run(detector(), lambda o, t: 0.5)
    path = result.save(tmp_path / "run", verify=False)["recipe.toml"]
    recorded = load_recipe(str(path))["metric"]
    assert "without a name to import" in recorded
    with pytest.raises(RecipeError, match="Pass it again from Python"):
        bw.quantize(detector(), [X], recipe=str(path))
    again = run(detector(), lambda o, t: 0.5, recipe=str(path))
    assert again.recipe.metric == recorded and again.metrics["float"] == {"metric": 0.5}


@pytest.mark.parametrize("wrong", [3, object(), lambda outputs: 0.0, Detections])
def test_what_is_no_metric_is_refused_at_once(wrong):
    with pytest.raises(RecipeError, match="function of two arguments"):
        metric(wrong)


def test_menus_and_rules_are_lists_and_mappings_too():
    result = bw.quantize(
        detector(), [X], recipe="fixed", scheme=Choice(8, 8), menu=["w2a8", Choice(8, 8)],
        keep={"body": "w8a8", "class*": FLOAT}, budget=["bops<=0.9", "size<=9MB"],
    )  # fmt: skip
    found = result.recipe
    assert (found.menu, found.keep) == ("w2a8,w8a8", "body=w8a8,class*=float")
    assert found.budget == "bops<=0.9 and size<=9MB" and found.scheme == "w8a8"
    assert write_choices("keep", ["a=w8a8", "b=float"]) == "a=w8a8,b=float"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("menu", [4]),
        ("menu", 3.0),
        ("keep", {"a,b": "w8a8"}),
        ("keep", {"a": 8}),
        ("keep", {"": "float"}),
    ],
)
def test_what_is_no_scheme_is_named(key, value):
    with pytest.raises(RecipeError, match=key):
        write_choices(key, value)


# ---- tried before solving --------------------------------------------------------------------


def failing(outputs, labels):
    raise KeyError("masks")


@pytest.mark.parametrize(
    ("data", "measure", "error"),
    [
        ([(X, LABELS)], failing, "KeyError"),
        ([(X, LABELS)], lambda o, t: o, "the metric .* failed"),
        ([X], "top1", "integer class labels"),
        ([(X[:, :5], LABELS)], "top1", "shape"),
        ([], "agreement", "no sample"),
    ],
)
def test_a_broken_metric_or_set_is_found_before_anything_is_solved(data, measure, error):
    progress = Progress()
    with pytest.raises(BitwrightError, match=error):
        bw.quantize(
            detector(), [X], recipe="fixed", evaluation=data, metric=measure, progress=progress
        )
    assert {stage.name for stage in progress.stages} <= {"capture"}


def test_the_trial_leaves_an_order_drawn_at_random_as_it_was():
    def loader():
        order = torch.randperm(40)
        return [(X[order[:10]], LABELS[order[:10]])]

    def measured(evaluation):
        return bw.quantize(
            detector(),
            [X],
            recipe="fixed",
            evaluation=evaluation,
            metric=class_accuracy,
            scheme="w2a8",
            batch=10,
        ).metrics

    torch.manual_seed(0)
    assert measured(loader)["kl"] == measured(loader)["kl"]


# ---- said at every end -----------------------------------------------------------------------


def test_outputs_that_nobody_looks_at_are_named_everywhere(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.body, self.box, self.kind = (nn.Linear(6, 6) for _ in range(3))\n\n"
        "    def forward(self, x):\n        h = torch.relu(self.body(x))\n"
        "        return {'boxes': self.box(h), 'kinds': self.kind(h).argmax(1)}\n\n\n"
        "def net():\n    torch.manual_seed(0)\n    return Net().eval()\n\n\n"
        "def data():\n    torch.manual_seed(1)\n    return [torch.randn(20, 6)]\n"
    )
    monkeypatch.chdir(tmp_path)
    told = "outputs 'kinds': nobody looks at them"
    doctor = doctor_lines(commands.run_doctor("net.py:net", {"data": "net.py:data"}))
    assert any(told in line and "'kind'" in line for line in doctor)

    heard = []
    progress = Progress([lambda event: heard.append((event.kind, event.stage, event.text))])
    options = {
        "model": "net.py:net",
        "data": "net.py:data",
        "menu": "w2a8,w8a8",
        "budget": "bops<=0.04",
    }
    outcome = commands.run_quantize("fixed", options, tmp_path / "run", progress)
    notes = [i for i, (kind, stage, text) in enumerate(heard) if kind == "note" and told in text]
    assert len(notes) == 1 and heard[notes[0]][1] == "capture"
    assert not any(stage == "observe" for _, stage, _ in heard[: notes[0]])

    (line,) = [line for line in outcome_lines(outcome) if told in line]
    assert line.startswith("warning: ")
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())["warnings"]
    assert f"warning: {kept[0]['place']}: {kept[0]['text']}" == line
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("nobody looks at them") == 1
    found = commands.run_evaluate(tmp_path / "run", "net.py:data", "agreement", Progress())
    assert any(told in line for line in comparison(found, warnings=found.warnings))


def test_a_recurrent_network_is_told_that_its_file_is_no_smaller(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.body(x)[0][:, -1])

    run = bw.quantize(seeded(Recurrent).eval(), [normal(8, 3, 8)], recipe="fixed").save(
        tmp_path / "run"
    )
    (warning,) = run.read_json("metrics.json")["warnings"]
    assert warning["place"] == "size" and "gru 98" in warning["text"]
    assert "not clearly smaller" in run["report.html"].read_text()
