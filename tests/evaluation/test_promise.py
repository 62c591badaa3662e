"""What a promise may say, and what samples show of it."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.errors import RecipeError
from bitwright.evaluation.promise import (
    ALPHA,
    Evidence,
    estimate_of,
    is_refuted,
    judge_best,
    judge_promise,
    share_of_error,
)
from bitwright.recipe.promises import Promise, parse_promise


@pytest.mark.parametrize(
    ("text", "metric", "name", "limit", "falls"),
    [
        ("agreement>=99%", None, "agreement", 0.99, False),
        ("agreement ≥ 0.99", None, "agreement", 0.99, False),
        ("drop<=0.5%", "top1", "drop", 0.005, True),
        ("top1>=82%", "top1", "top1", 0.82, False),
        ("kl<=1e-2", None, "kl", 0.01, True),
        ("perplexity<=12.5", "perplexity", "perplexity", 12.5, True),
    ],
)
def test_promises_as_people_write_them(text, metric, name, limit, falls):
    found = parse_promise(text, metric)
    assert (found.name, found.falls) == (name, falls)
    assert found.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [
        ("agreement", None, "is no promise"),
        ("agreement>99%", None, "is no promise"),
        ("agreement>=99", None, "Write 99% or agreement>=0.99"),
        ("agreement<=99%", None, "Write agreement>=NUMBER"),
        ("drop>=1%", "top1", "Write drop<=NUMBER"),
        ("drop<=1%", None, "Give --eval D with labels"),
        ("miou>=50%", "top1", "'miou' is not measured here"),
        ("agreement>=" + "9" * 100_000, None, "is no promise"),
    ],
)
def test_what_is_no_promise_is_refused_with_what_to_write(text, metric, said):
    with pytest.raises(RecipeError) as refused:
        parse_promise(text, metric)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 500


def evidence(agreement, scores=None, **more):
    values = np.asarray(agreement, dtype=float)
    return Evidence(values, 1.0 - values, scores, **more)


def test_299_equal_answers_of_299_show_99_per_cent_and_298_do_not():
    promise = parse_promise("agreement>=99%", None)
    assert judge_promise(promise, evidence(np.ones(299)), ALPHA).holds
    short = judge_promise(promise, evidence(np.ones(298)), ALPHA)
    assert not short.holds
    assert short.needed == 299
    assert short.by == "Clopper-Pearson"


def test_a_rate_that_is_not_there_needs_no_count_of_samples():
    found = judge_promise(
        parse_promise("agreement>=99%", None), evidence([1.0] * 97 + [0.0] * 3), ALPHA
    )
    assert not found.holds
    assert found.needed is None
    assert found.estimate == pytest.approx(0.97)


def test_a_drop_is_judged_by_pairs_not_by_two_rates():
    before = np.ones(1000)
    before[:300] = 0
    after = before.copy()
    after[:3], after[300:304] = 1, 0
    found = judge_promise(
        parse_promise("drop<=1%", "top1"), evidence(np.ones(1000), (before, after)), ALPHA
    )
    # Two rates of 70 % known to 1.4 points each could show no drop of 1 %; pairs do.
    assert found.holds
    assert found.estimate == pytest.approx(0.001)
    assert found.by.startswith("Tango")


def test_scores_between_0_and_1_are_judged_by_the_bootstrap():
    draw = np.random.default_rng(0)
    before = draw.uniform(size=400)
    after = np.clip(before + draw.normal(0, 0.01, 400), 0, 1)
    promise = parse_promise("drop<=1%", "f1")
    found = judge_promise(promise, evidence(np.ones(400), (before, after)), ALPHA)
    assert found.holds
    assert found.by.startswith("bootstrap")
    assert found == judge_promise(promise, evidence(np.ones(400), (before, after)), ALPHA)


def test_a_metric_that_is_no_mean_is_resampled_by_samples():
    draw = np.random.default_rng(1)
    x = draw.normal(size=300)
    y, z = x + 0.3 * draw.normal(size=300), x + 0.32 * draw.normal(size=300)

    def correlation(of):
        return lambda places: float(np.corrcoef(x[places], of[places])[0, 1])

    figures = correlation(y), correlation(z)
    shown = {
        text: judge_promise(
            parse_promise(text, "spearman"), evidence(np.ones(300), figures=figures), ALPHA
        )
        for text in ("spearman>=0.9", "spearman>=0.99", "drop<=5%", "drop<=0.0001%")
    }
    assert [f.holds for f in shown.values()] == [True, False, True, False]


@pytest.mark.parametrize("mean", [True, False])
def test_what_is_lost_of_an_error_is_what_it_grows_by(mean):
    draw = np.random.default_rng(2)
    before = draw.uniform(0.2, 0.4, size=400)
    worse = before + draw.uniform(0.05, 0.15, size=400)
    promise = parse_promise("drop<=1%", "mae")

    def judged(one, other):
        figures = tuple(lambda places, of=of: float(of[places].mean()) for of in (one, other))
        seen = {"scores": (one, other)} if mean else {"figures": figures}
        return judge_promise(promise, evidence(np.ones(400), less=True, **seen), ALPHA)

    assert not judged(before, worse).holds and judged(worse, before).holds
    assert judged(before, worse).estimate == pytest.approx(float((worse - before).mean()))


def test_looks_at_the_same_samples_spend_one_chance_of_error_together():
    assert sum(share_of_error(look) for look in range(1, 50)) <= ALPHA
    assert share_of_error(1) == ALPHA / 2


def test_one_sample_shows_nothing():
    assert not judge_promise(Promise("agreement", 0.5, False, "x"), evidence([1.0]), ALPHA).holds


def test_a_promise_of_a_metric_without_labels_is_refused():
    with pytest.raises(RecipeError, match="no sample has a label"):
        judge_promise(Promise("top1", 0.5, False, "top1>=50%"), evidence(np.ones(9)), ALPHA)


def evidence_of(agreement, kl=None, scores=None):
    same = np.asarray(agreement, dtype=float)
    return Evidence(same, 1.0 - same if kl is None else np.asarray(kl), scores)


@pytest.mark.parametrize("share", [0.80, 0.88, 0.92, 0.97])
def test_only_what_lies_clearly_beyond_is_refuted(share):
    """Of 400 samples 95 % have a standard error of 1.1 %: 88 % refute it, 92 % and more do not."""
    values = np.arange(400) < share * 400
    promise = parse_promise("agreement>=93%", None)
    assert is_refuted(promise, evidence_of(values)) == (share < 0.9)
    falling = parse_promise("kl<=0.07", None)
    assert is_refuted(falling, evidence_of(values)) == (share < 0.9)


def test_without_labels_agreement_speaks():
    found = evidence_of(np.arange(100) < 97)
    drop, top1 = parse_promise("drop<=1%", "top1"), parse_promise("top1>=80%", "top1")
    assert estimate_of(drop, found) == pytest.approx(0.03)
    assert estimate_of(top1, found) == pytest.approx(0.97)
    assert not is_refuted(drop, found)
    right = np.ones(100), (np.arange(100) < 95).astype(float)
    assert estimate_of(drop, evidence_of(np.ones(100), scores=right)) == pytest.approx(0.05)


@pytest.mark.parametrize("text", ["agreement>=99%", "drop<=1%"])
def test_what_float_itself_could_show(text):
    """The least count that shows it of equal answers is the count that is told."""
    promise = parse_promise(text, "top1")
    few = judge_best(promise, 50, 0.025)
    assert few is not None and not few.holds
    enough = next(n for n in range(50, 2000) if judge_best(promise, n, 0.025).holds)
    assert not judge_best(promise, enough - 1, 0.025).holds
    if promise.name == "agreement":
        assert few.needed == enough == 368
    assert judge_best(parse_promise("top1>=80%", "top1"), 50, 0.025) is None
