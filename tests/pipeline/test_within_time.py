"""--time: what fits is chosen, best first; it is written down, and gives the same bits again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.graph.execute import bind
from bitwright.graph.sites import find_sites
from bitwright.pipeline import within_time
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.outlook import Scene, foretell
from bitwright.pipeline.pace import Pace, measure_pace
from bitwright.pipeline.plan import Plan
from bitwright.pipeline.within_time import choose, list_candidates
from networks import pictures, small_network


@pytest.fixture(scope="module")
def scene():
    """A machine of known speed: a millisecond for a sample and a node."""
    graph = bw.capture(small_network(), (pictures(8),))
    flat = bind(graph, pictures(8))
    sites = find_sites(graph, bw.load_target("ort-cpu"))
    nodes = {node.name: 1e-3 for node in graph.module.graph.nodes}
    sums = {unit.name: (1e-4, 1e-6) for unit in graph.units}
    forward = sum(nodes.values())
    pace = Pace(8, forward, 2 * forward, nodes, {s.reader: 1e-4 for s in sites}, sums, 1.0, 1.0)
    return Scene(graph, sites, flat, pace, workers=1)


def plan(recipe: str = "default", **options) -> Plan:
    return Plan.of(make_recipe(recipe, {"target": "ort-cpu", **options}))


@pytest.mark.parametrize("recipe", ["default", "light", "advanced", "brecq", "adaround", "fixed"])
def test_more_time_never_buys_less(scene, recipe):
    own = plan(recipe)
    asked = foretell(scene, own, 1000).seconds
    order = list(list_candidates(own, 1000))
    places = []
    for share in (2.0, 0.8, 0.4, 0.2, 0.1, 0.05, 0.0):
        found = choose(scene, own, 1000, share * asked)
        assert found.fits == (within_time.MARGIN * found.outlook.seconds <= share * asked)
        places.append(order.index(found.settings))
        assert found.outlook.seconds <= asked * (1 + 1e-9)
    assert places == sorted(places) and places[0] == 0 and not found.fits


def test_gradients_give_way_to_solved_rounding_before_nearest(scene):
    own = plan("adaround")
    methods = [c.get("method", "adaround") for c in list_candidates(own, 1000)]
    assert list(dict.fromkeys(methods)) == ["adaround", "quadratic", "nearest"]
    whole = list(list_candidates(plan("advanced"), 1000))
    assert any(c.get("table") == "quick" for c in whole)
    assert all("refine" not in c["tune"] for c in whole if c.get("method") == "nearest")


def test_an_object_of_the_callers_is_not_replaced(scene):
    from bitwright.methods.quadratic import QuadraticSolver
    from bitwright.pipeline.objects import as_words

    words, objects = as_words({"method": QuadraticSolver(sweeps=3), "target": "ort-cpu"})
    own = Plan.of(make_recipe("fixed", words), objects)
    assert all("method" not in c for c in list_candidates(own, 1000))


def test_what_was_chosen_is_recorded_and_repeats_bit_for_bit(tmp_path, monkeypatch):
    net, data = small_network(), [pictures(80)]
    notes = []
    progress = Progress([lambda event: notes.append(event.text)])
    slow = measure_pace

    def slower(*args):
        return replace(slow(*args), load=1000.0)

    monkeypatch.setattr(within_time, "measure_pace", slower)
    first = bw.quantize(net, data, time="1min", progress=progress, store=tmp_path / "store")
    assert first.recipe.time == "" and first.recipe.calib < 80
    line = next(text for text in notes if text.startswith("--time 1min"))
    assert f"{first.recipe.calib} samples" in line
    # A quicker machine takes up the interrupted run as it was begun.
    monkeypatch.setattr(within_time, "measure_pace", slow)
    again = bw.quantize(net, data, time="1min", store=tmp_path / "store")
    assert again.recipe == first.recipe
    # And the recipe alone gives the same bits, whatever the machine.
    first.save(tmp_path / "run", verify=False)
    plain = bw.quantize(net, data, recipe=str(tmp_path / "run" / "recipe.toml"))
    assert plain.recipe == first.recipe
    for name, weight in first.assignment.weights.items():
        assert torch.equal(weight.q, plain.assignment.weights[name].q)


def test_the_same_command_keeps_a_finished_run(tmp_path, bitwright):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(),"
        " torch.nn.Linear(16, 4)).eval()\n"
        "def calib():\n"
        "    return [torch.randn(96, 8, generator=torch.Generator().manual_seed(1))]\n"
    )
    user = tmp_path / "net.py"
    words = ("quantize", f"{user}:net", "--data", f"{user}:calib", "--out", tmp_path / "run")
    assert bitwright(*words, "--time", "1ms", "--quiet").code == 2
    done = bitwright(*words, "--time", "1s")
    assert done.code == 0 and "--time 1s" in done.out
    written = (tmp_path / "run" / "recipe.toml").read_text()
    assert 'time = ""' in written
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert bitwright(*words, "--time", "1s", "--quiet").code == 0
    assert (tmp_path / "run" / "recipe.toml").read_text() == written
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
    other = bitwright(*words, "--time", "1s", "--scheme", "w4a8", "--quiet")
    assert other.code == 2 and "another run" in other.err


@pytest.mark.parametrize(
    "options", [{"promise": "agreement>=90%"}, {"lossless": 0.01, "menu": "w8a8"}, {"data": "none"}]
)
def test_what_has_no_forecast_takes_no_time(options):
    with pytest.raises(RecipeError, match="--time 2min is given with"):
        make_recipe("default", {"time": "2min", **options})
