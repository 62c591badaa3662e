"""What a user brings along: as objects handed over, and registered by another distribution."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace

import pytest
import torch

import bitwright as bw
from bitwright.evaluation.judge import Judge
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs
from bitwright.numerics.ranges import MinMaxRange
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.options import Options
from bitwright.pipeline.plan import Plan
from bitwright.recipe.names import UNNAMED
from bitwright.recipe.values import Recipe, load_recipe, update
from bitwright.tuning.network import simulate
from bitwright.tuning.report import report_attempt
from networks import seeded

X = torch.linspace(-1, 1, 160).reshape(20, 8)


def network():
    return seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))).eval()


@dataclass(frozen=True)
class Named:
    """Nearest rounding under another name."""

    weight_range: object = "mse"
    name: str = "mine"

    @property
    def needs(self):
        return Needs(data=False, labels=False, backward=False, paper="-", cost="nothing")

    def configured(self, weight_range):
        return replace(self, weight_range=weight_range)

    def solve(self, problem):
        return replace(Nearest(self.weight_range).solve(problem), method=self.name)


@dataclass(frozen=True)
class Half:
    """Half of what was observed."""

    def of_stats(self, stats, grid, symmetric):
        return tuple(end / 2 for end in MinMaxRange().of_stats(stats, grid, symmetric))

    def of_rows(self, rows, grid, symmetric):
        return tuple(end / 2 for end in MinMaxRange().of_rows(rows, grid, symmetric))


@dataclass(frozen=True)
class Nothing:
    """A tuning step that changes nothing."""

    name: str = "nothing"

    def apply(self, start, samples):
        judge = Judge.of(start.graph, samples.held_out)
        loss = judge(simulate(start).module)
        return start, report_attempt(self.name, (loss, loss), (), False, judge, samples, "so")


class Batches:
    """A source of data: something that can be walked again and again."""

    def __iter__(self):
        return iter(X.split(5))


def share(outputs, labels):
    return (outputs.argmax(1) == labels).float().mean()


def brought():
    return {
        "method": Named(),
        "target": bw.Target("own", weight_bits=(4, 8), weight_symmetric=True, weight_signed=True),
        "metric": lambda outputs, labels: share(outputs, labels),
        "activation_range": Half(),
        "weight_range": Half(),
        "tune": ["bias-empirical", Nothing()],
        "scheme": bw.Choice(4, 8),
        "keep": {"first": bw.Choice(8, 8)},
    }


@pytest.fixture(scope="module")
def result():
    labelled = [(X, network()(X).argmax(1))]
    return bw.quantize(
        network(), Batches(), evaluation=labelled, **{"recipe": "fixed", **brought()}
    )


def test_every_kind_of_thing_can_be_an_object(result):
    assert set(result.census["protocol"]) and result.target == brought()["target"]
    assert {row.method for row in result.table.chosen(result.allocation.choices)} == {"mine"}
    assert [step["step"] for step in result.metrics["tuning"]] == ["bias-empirical", "nothing"]
    assert result.metrics["float"] and result.verify()["passed"]
    whole = bw.quantize(
        network(), [X], recipe="fixed", activation_range="minmax", scheme="w4a8", keep="first=w8a8"
    )
    edges, others = result.assignment.edges, whole.assignment.edges
    assert edges and all(edges[e].scale < 0.51 * others[e].scale for e in edges)


def test_the_recipe_says_that_they_were_objects(result, tmp_path):
    recipe = result.recipe
    assert recipe.method == f"mine{UNNAMED}" and recipe.weight_range == f"Half{UNNAMED}"
    assert recipe.tune == f"bias-empirical,nothing{UNNAMED}" and recipe.scheme == "w4a8"
    run = result.save(tmp_path / "run", verify=False)
    values = load_recipe(str(run.path / "recipe.toml"))
    assert update(Recipe(), values, "here") == recipe
    for key in ("method", "target", "metric", "activation_range", "weight_range", "tune"):
        lone = replace(Recipe(), **{key: values[key]})
        with pytest.raises(bw.BitwrightError, match="handed over in Python"):
            Plan.of(lone)
    other = bw.load(run.path, model=network())
    assert torch.equal(other(X), result.model(X))


def test_other_bits_keep_the_objects(result):
    again = result.with_bits({"1": "w8a8"})
    assert again.target is result.target and again.metrics["float"] == result.metrics["float"]


def test_a_thing_that_is_built_in_has_its_name():
    target = bw.load_target("ort-cpu")
    found = bw.quantize(
        network(), [X], recipe="fixed", target=target, method=Nearest(), weight_range=MinMaxRange()
    )
    assert (found.recipe.target, found.recipe.method) == ("ort-cpu", "nearest")
    assert found.recipe.weight_range == "minmax"


def test_own_methods_share_the_store_only_with_themselves(tmp_path):
    for rule in (Half(), "minmax"):
        options = {"method": Named(), "weight_range": rule, "scheme": "w4a8"}
        plain = bw.quantize(network(), [X], **{"recipe": "fixed", **options})
        for _ in range(2):
            kept = bw.quantize(
                network(), [X], store=tmp_path / "store", **{"recipe": "fixed", **options}
            )
            assert torch.equal(kept.model(X), plain.model(X))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": 3}, r"method is of type int: .* It lacks name, needs, configured, solve"),
        ({"method": Named}, "method is of type type"),
        ({"weight_range": object()}, "weight_range is of type object: .* It lacks of_stats"),
        ({"target": {"name": "x"}}, "target is of type dict: give a name, or a Target"),
        ({"tune": [3]}, "tune holds 3, of type int"),
        ({"tune": [Nothing(), Nothing()]}, "tune holds 'nothing.*' twice"),
        ({"target": bw.Target("t", weight_bits=(8,)), "scheme": "w4a8"}, "'t' holds no weights"),
    ],
)
def test_what_is_no_such_thing_is_refused(options, told):
    with pytest.raises(bw.BitwrightError, match=told):
        bw.quantize(network(), [X], **{"recipe": "fixed", **options})


def test_a_method_that_can_change_is_refused():
    class Loose:
        name, needs, configured, solve = "loose", None, None, None

    with pytest.raises(bw.BitwrightError, match="can change: make its class a dataclass"):
        bw.quantize(network(), [X], recipe="fixed", method=Loose())


def test_options_are_the_keys_of_a_recipe():
    assert set(Options.__annotations__) == set(asdict(Recipe())) - {"model"}


MODULE = """
import torch
from dataclasses import replace
import bitwright as bw
from bitwright.methods.nearest import Nearest
from bitwright.tuning.bn import BatchNormTuning

plain = replace(Nearest(), weight_range="minmax")
target = bw.Target("far-runtime", "registered elsewhere", weight_bits=(4, 8))

def half(outputs, labels):
    return 0.5

step = BatchNormTuning(scales=False, name="far-step")

def source(rest):
    return [torch.ones(int(rest), 8)]
"""
POINTS = """
[bitwright.methods]
far-method = far_away:plain
[bitwright.targets]
far-runtime = far_away:target
[bitwright.metrics]
far-metric = far_away:half
[bitwright.tuning]
far-step = far_away:step
[bitwright.sources]
far = far_away:source
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Another distribution, as pip would have installed it."""
    info = tmp_path / "far_away-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (tmp_path / "far_away.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("far_away", None)


def test_another_distribution_registers_its_things(distribution):
    options = {"method": "far-method", "target": "far-runtime", "tune": "far-step"}
    made = bw.quantize(
        network(),
        "far:12",
        evaluation=[(X, torch.zeros(20))],
        metric="far-metric",
        **{"recipe": "fixed", **options},
    )
    assert 0.5 in made.metrics["float"].values()
    assert made.target.name == "far-runtime" and made.metrics["tuning"][0]["step"] == "far-step"
    assert made.recipe.method == "far-method"


def test_they_are_listed(distribution):
    told = subprocess.run(
        [sys.executable, "-m", "bitwright", "list", "--json"],
        capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    ).stdout  # fmt: skip
    lists = json.loads(told)
    for what, name in (("methods", "far-method"), ("targets", "far-runtime")):
        assert name in {row["name"] for row in lists[what]}


def test_one_that_cannot_be_imported_is_told(distribution):
    (distribution / "far_away.py").write_text("import nowhere_at_all\n")
    with pytest.raises(bw.BitwrightError, match=r"registered as 'far_away:plain', which cannot"):
        Plan.of(make_recipe("fixed", {"method": "far-method"}))
