"""Recipes: TOML there and back, defaults resolved, every wrong key and value named."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest

from bitwright.errors import BitwrightError, RecipeError
from bitwright.pipeline.check import check_recipe, make_recipe
from bitwright.recipe.values import BUILT_IN, VERSION, Recipe, load_recipe, to_toml, update

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHANGED = Recipe(
    model='/a "quoted"\\path/net.py:f', weights="w.pth", data="d.npz", eval="e.npz",
    method="adaquant", mode="parallel", scheme="w4a8", keep="first,last=w8a8",
    allocation='{"a": "w4a8"}',
    menu="w8a8,w4a8", budget="loss<=0.1", minimize="size", solver="greedy-accuracy",
    table="quick", table_samples=9, labels=True, ties="stem|fc", pairwise=5, lossless=0.02,
    prepare="equalize,absorb-bias", tune="bn,refine", refine_method="adaquant", target="ort-cpu",
    metric="agreement",
    calib=17, activation_range="minmax", weight_range="lp", batch=3, size=224,
    mean=(0.5, 0.25, 1e-3),
    std=(1.0,), crop=0.875, device="cuda", seed=3, time="2min", opset=21,
    dynamic=True, onnx="/mine.onnx",
    latencies="pi=pi.csv", portable=True, promise="kl<=1", answer="a=box", loss="l.py:f",
)  # fmt: skip


@pytest.mark.parametrize("recipe", [Recipe(), CHANGED], ids=["default", "all changed"])
def test_toml_there_and_back(recipe):
    text = to_toml(recipe)
    assert update(Recipe(), tomllib.loads(text), "here") == recipe
    assert set(tomllib.loads(text)) == {f.name for f in fields(Recipe)}


def test_every_key_was_changed():
    default = Recipe()
    same = [f.name for f in fields(Recipe) if getattr(default, f.name) == getattr(CHANGED, f.name)]
    assert same == ["version"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_are_valid(name):
    assert check_recipe(make_recipe(name, {})) == update(Recipe(), load_recipe(name), name)


def test_options_overrule_the_file_and_the_file_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('scheme = "w4a4"\nseed = 5\nmean = [1, 2]\ncrop = 1\n')
    made = make_recipe(str(path), {"seed": 6})
    assert (made.scheme, made.seed, made.calib) == ("w4a4", 6, Recipe().calib)
    assert made.mean == (1.0, 2.0) and made.crop == 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schme", "w4a4", "unknown recipe key 'schme' in the options. Did you mean 'scheme'"),
        ("scheme", 4, "the options: 'scheme' has the value 4; it must be a text"),
        ("calib", "100", "'calib' has the value '100'; it must be a whole number"),
        ("calib", 1.5, "it must be a whole number"),
        ("calib", True, "it must be a whole number"),
        ("seed", None, "it must be a whole number"),
        ("crop", "all", "it must be a finite number"),
        ("mean", 0.5, "'mean' has the value 0.5; it must be a list of finite numbers"),
        ("mean", ["a"], "it must be a list of finite numbers"),
        ("mean", [True], "it must be a list of finite numbers"),
        ("scheme", "w4", "unknown scheme 'w4'"),
        ("scheme", "w1a8", "asks for 1 weight bits"),
        ("keep", "first", "no scheme for 'first'"),
        ("method", "nearst", "unknown method 'nearst' in --method. Did you mean 'nearest'"),
        ("target", "papers", "unknown target 'papers'.*Did you mean 'paper'"),
        ("metric", "top7", "unknown metric 'top7' in --metric.*Known: accuracy, agreement"),
        ("activation_range", "mad", "unknown range rule 'mad'.*Known: .*minmax"),
        ("weight_range", "msee", "unknown range rule 'msee' in --weight-range. Did you mean 'mse'"),
        ("calib", -1, "calib is -1"),
        ("pairwise", -1, "pairwise is -1: pairs are counted from 0"),
        ("labels", 1, "it must be true or false"),
        ("ties", "stem fc", "no pattern over unit names"),
        ("batch", 0, "batch 0: samples are counted from 1"),
        ("device", "gpu", "unknown device 'gpu' in --device"),
        ("device", "cpu:7x", "unknown device 'cpu:7x' in --device. Write cpu, cuda"),
        ("device", "mps:1", "unknown device 'mps:1'"),
        ("seed", 1 << 80, "'seed' has the value 1208925819614629174706176; .* below 2.63"),
        ("seed", -1, "seed is -1: it is a whole number from 0"),
        ("lossless", 10**400, "'lossless' has the value 1000.*; it must be a finite number"),
        ("crop", float("inf"), "it must be a finite number"),
        ("mean", [float("nan")], "it must be a list of finite numbers"),
        ("version", VERSION + 1, f"version {VERSION + 1}; this bitwright reads {VERSION}"),
    ],
)
def test_wrong_keys_and_values(key, value, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe("fixed", {key: value})


def test_bits_that_the_target_does_not_hold(tmp_path):
    path = tmp_path / "eight.toml"
    path.write_text('name = "eight"\nweight_bits = [8]\ninput_bits = [8]\n')
    made = make_recipe("fixed", {"target": str(path)})
    assert made.target == str(path)
    for options, message in (
        ({"scheme": "w4a8"}, "target 'eight' holds no weights of 4 bits. It holds 8"),
        ({"scheme": "w8a4"}, "holds no inputs of 4 bits"),
        ({"keep": "first=w2a8"}, "holds no weights of 2 bits"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_recipe("fixed", {"target": str(path), **options})
    assert make_recipe("fixed", {"target": str(path), "keep": "first=float"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"scheme = ", "recipe .* is not valid TOML"),
        (b"\xff\xfe\x00", "mine.toml is no text: byte 0 .0xff. is not UTF-8"),
        (b'colour = "red"', "unknown recipe key 'colour' in recipe .*mine.toml"),
        (b"[scheme]\na = 1", "'scheme' has the value .* it must be a text"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        make_recipe(str(path), {})


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown recipe 'fixd' in --recipe. Did you mean '"):
        make_recipe("fixd", {})
    with pytest.raises(RecipeError, match=r"recipe file .*none.toml' does not exist"):
        make_recipe(str(tmp_path / "none.toml"), {})


def test_every_error_is_the_users_with_exit_code_two():
    with pytest.raises(BitwrightError) as caught:
        make_recipe("fixed", {"scheme": "w0a0"})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", 2**80, "seed"),
        ("seed", -1, "seed"),
        ("seed", 10**1000, "seed"),
        ("calib", 10**12, "calib is 1000000000000: that many there are not"),
        ("table_samples", 10**10, "Give at most 1000000000"),
        ("batch", 10**12, "batch is 1000000000000"),
        ("pairwise", 10**12, "pairwise is 1000000000000"),
        ("budget", "size<=1e9999999999", "no number that a cost can have"),
        ("menu", "w{2..99999999}a8", "which cannot be read"),
    ],
)
def test_numbers_without_end_are_refused_by_value(key, value, told):
    others = {"menu": "w8a8,w4a8", "budget": "size<=0.5"}
    with pytest.raises(RecipeError, match=told):
        make_recipe("fixed", {**others, key: value})


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seeds_that_torch_takes_are_taken(seed):
    assert make_recipe("fixed", {"seed": seed}).seed == seed
