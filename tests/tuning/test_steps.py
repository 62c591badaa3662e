"""Tuning as steps of a run: recipes, what each step may change, what it is judged on."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.methods.catalogue import METHODS
from bitwright.pipeline.check import make_recipe
from bitwright.solving.samples import HELD_OUT
from bitwright.sources.data import as_dataset
from bitwright.tuning.catalogue import ABOUT, find_tuning_steps
from networks import pictures, small_network

QUICK = {"menu": "w8a8,w4a8,w3a8", "budget": "bops<=0.1", "keep": "", "batch": 8}


def batches(count=96):
    return [pictures(count, seed=1)[i : i + 16] for i in range(0, count, 16)]


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """What is asserted of the steps holds after a fifth of their iterations as after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ABOUT, "bias", replace(ABOUT["bias"], settings={"iterations": 40}))
        patch.setitem(METHODS, "adaquant", replace(METHODS["adaquant"], iterations=100))
        yield


def tuned(recipe="light", **options):
    return bw.quantize(small_network(width=16), batches(), recipe=recipe, **{**QUICK, **options})


def bits(result):
    weights = result.assignment.weights
    return {name: (w.q.clone(), w.qparams.scale.clone()) for name, w in weights.items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for n in first for a, b in zip(first[n], second[n], strict=True)
    )


class InTurn(NamedTuple):
    """Recipe light, then advanced, with one store; its files after each."""

    store: Path
    light: bw.Result
    advanced: bw.Result
    before: dict[Path, int]
    after: dict[Path, int]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory) -> InTurn:
    store = tmp_path_factory.mktemp("in_turn") / "store"

    def files():
        return {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}

    light, before = tuned("light", store=store), files()
    return InTurn(store, light, tuned("advanced", store=store), before, files())


def test_light_needs_no_backward_pass(in_turn):
    """Under inference_mode no gradient can be recorded: the run passes, with the same bits."""
    outside = in_turn.light
    with torch.inference_mode():
        inside = tuned()
    assert same(bits(outside), bits(inside))
    assert [r["step"] for r in inside.metrics["tuning"]] == ["bn"]


def test_batchnorm_tuning_leaves_every_integer(in_turn):
    plain, with_bn = tuned(tune=""), in_turn.light
    assert with_bn.recipe.tune == "bn"
    # Without tuning all samples are solved on, so the same split is asked for by an idle step.
    assert plain.metrics["tuning"] == []
    split = bits(tuned(tune="bias", store=in_turn.store))
    assert all(torch.equal(q, split[name][0]) for name, (q, _) in bits(with_bn).items())
    (report,) = with_bn.metrics["tuning"]
    assert report["loss_after"] <= report["loss_before"]
    assert report["fit_samples"] + report["held_out_samples"] == 96
    assert report["held_out_samples"] == 96 // HELD_OUT


@pytest.mark.parametrize("recipe", ["light", "advanced", "relaxed"])
def test_recipes_end_to_end(recipe, in_turn, tmp_path):
    if recipe == "relaxed":
        result = tuned(recipe, menu="w{2..4}a{4,8}")
    else:
        result = getattr(in_turn, recipe)
    run = result.save(tmp_path / "run")
    metrics = json.loads(run["metrics.json"].read_text())
    assert json.loads(run["verify.json"].read_text())["passed"]
    for report in metrics["tuning"]:
        assert report["loss_after"] <= report["loss_before"]
        assert report["kept"] or report["note"]
    named = {stage["name"]: stage for stage in metrics["stages"]}
    assert named["tune bn"]["loss"] <= named["tune bn"]["loss_before"]
    assert named["evaluate"]["loss"] == metrics["kl"]
    again = make_recipe(str(run["recipe.toml"]), {})
    assert again == result.recipe


def test_refinement_is_kept_only_where_the_held_out_samples_like_it(in_turn):
    result = tuned("advanced", refine_method="quadratic", store=in_turn.store)
    reports = result.metrics["tuning"]
    assert reports[-1]["step"] == "refine"
    refined = reports[-1]
    assert refined["loss_after"] <= refined["loss_before"]
    lower = refined["loss_after"] < refined["loss_before"]
    lower_softened = refined["softened_after"] < refined["softened_before"]
    assert refined["kept"] == (lower or lower_softened)


def test_refinement_of_what_is_sequential_already_is_refused():
    with pytest.raises(RecipeError, match=r"refine.*sequential"):
        make_recipe("light", {"tune": "bn,refine", "mode": "sequential"})


def test_advanced_after_light_solves_only_what_differs(in_turn):
    _, _, result, before, after = in_turn
    assert before and {p: after[p] for p in before} == before
    # The refinement's units, one each, are all that was added.
    units = [u for u in result.graph.units if not result.census["units"] or u]
    assert 0 < len(after) - len(before) <= 2 * len(units)


def test_order_of_the_data_and_its_batches_change_no_integer_of_tuning():
    samples = torch.cat(batches())
    shuffled = samples[torch.randperm(96, generator=torch.Generator().manual_seed(3))]
    net = small_network(width=16)
    options = {
        **QUICK,
        "method": "nearest",
        "tune": "bn",
        "menu": "",
        "budget": "",
        "scheme": "w4a8",
    }
    first = bw.quantize(net, [samples], recipe="fixed", **options)
    other = bw.quantize(net, list(shuffled.split(7)), recipe="fixed", **options)
    a, b = bits(first), bits(other)
    assert all(torch.equal(a[name][0], b[name][0]) for name in a)
    for name in a:
        torch.testing.assert_close(a[name][1], b[name][1], rtol=2e-2, atol=0)


def test_a_single_scheme_asked_for_overrules_the_recipes_menu():
    made = make_recipe("light", {"scheme": "w4a8"})
    assert (made.menu, made.budget, made.scheme) == ("", "", "w4a8")
    both = make_recipe("light", {"scheme": "w8a8", "menu": "w8a8,w4a8", "budget": "size<=0.2"})
    assert both.menu == "w8a8,w4a8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "bm"}, "unknown step 'bm' in --tune. Did you mean 'bn'"),
        ({"tune": "bn", "refine_method": "adaquant"}, "refine_method is 'adaquant', but tune"),
        ({"tune": "refine", "mode": "parallel", "refine_method": "adaqant"}, "adaqant"),
    ],
)
def test_wrong_steps(options, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe("fixed", options)


def test_steps_are_read_in_their_order():
    assert find_tuning_steps(" bias , bn-paper ") == ("bias", "bn-paper")
    assert find_tuning_steps("") == ()


def test_figures_go_to_the_newest_stage_of_that_name():
    progress = Progress()
    for _ in range(2):
        with progress.stage("tune bn"):
            pass
    progress.figures("tune bn", loss=0.5)
    progress.figures("nothing of that name", loss=1.0)
    records = [stage.to_json() for stage in progress.stages]
    assert "loss" not in records[0] and records[1]["loss"] == 0.5


def test_one_sample_judges_itself():
    """With a single calibration sample there is nothing to hold out: it serves as both parts."""
    data = as_dataset([pictures(1, seed=2)])
    result = bw.quantize(
        small_network(width=16), list(itertools.chain(b.inputs for b in data)),
        recipe="fixed", method="nearest", scheme="w4a8", tune="bn",
    )  # fmt: skip
    assert result.metrics["tuning"][0]["fit_samples"] == 1
