"""The measured table equals plain full passes through stitched networks, at half their work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bitwright.errors import DataError
from bitwright.graph.change import with_changes
from bitwright.graph.choice import parse_scheme
from bitwright.graph.execute import bind, walk
from bitwright.graph.simulate import stitch
from bitwright.graph.variants import BASE
from bitwright.graph.work import OperationCount
from bitwright.sensitivity.measure import (
    collect,
    loss_of_network,
    measure,
    measure_table,
    unit_groups,
)
from bitwright.sensitivity.sample_loss import CrossEntropy, Divergence, SeveralOutputs
from bitwright.sources.batches import as_batch
from nearest_menu import solve_menu, stitched_losses
from networks import Chain, Tied, TwoTowers, normal, pictures, seeded, small_network


def chunks_of(x, size=8):
    return list(torch.split(x, size))


def assert_equals_full_passes(solved, loss=None, **options):
    """Every entry of the table, sample by sample, against the stitched network's own losses."""
    measured = measure_table(solved.subject(loss, **options), solved.changes, solved.chunks)
    np.testing.assert_allclose(
        measured.base, stitched_losses(solved, solved.base, loss), rtol=1e-4, atol=1e-9
    )
    for unit, of_unit in solved.changes.items():
        for choice, change in of_unit.items():
            changes = () if change is None else (change,)
            want = stitched_losses(solved, with_changes(solved.base, changes), loss)
            got = measured.values[unit][choice]
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9, err_msg=f"{unit} {choice}")
    return measured


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "weights-only"])
def test_equals_full_passes(target):
    solved = solve_menu(small_network(), chunks_of(pictures(20)), target=target)
    assert_equals_full_passes(solved)


@pytest.mark.parametrize("stack_bytes", [0, 200_000, 1 << 30])
def test_stacking_changes_nothing(stack_bytes):
    solved = solve_menu(small_network(), chunks_of(pictures(16)))
    assert_equals_full_passes(solved, stack_bytes=stack_bytes)


def test_a_choice_may_be_float():
    solved = solve_menu(small_network(), chunks_of(pictures(16)), menu="w4a4,float,w8afloat")
    assert_equals_full_passes(solved)


def test_the_base_may_be_float():
    solved = solve_menu(small_network(), chunks_of(pictures(16)), menu="float,w4a4")
    measured = assert_equals_full_passes(solved)
    assert np.allclose(measured.base, 0.0, atol=1e-9)


def test_a_unit_with_two_calls():
    solved = solve_menu(seeded(Tied).eval(), chunks_of(normal(24, 6)))
    assert_equals_full_passes(solved)


def test_keyword_inputs_and_structured_outputs():
    batches = [{"first": normal(8, 4, seed=i), "second": normal(8, 6, seed=9 + i)} for i in (0, 1)]
    solved = solve_menu(seeded(TwoTowers).eval(), batches)
    assert_equals_full_passes(solved)


class Branches(nn.Module):
    """Branches that join, a padding that is quantised before, shapes that are computed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.left, self.right = nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 1)
        self.down = nn.Conv2d(8, 8, 1, 2)
        self.head, self.second = nn.Linear(16, 5), nn.Linear(16, 1)
        self.unused = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        left = functional.pad(x, (0, 1, 0, 1))
        left = torch.relu(self.left(left))
        right = torch.relu(self.right(functional.max_pool2d(x, 2)))
        y = torch.cat([left + self.down(x), right], 1)
        y = y.mean((2, 3)).reshape(x.shape[0], -1)
        return self.head(y), self.second(y), self.unused(y).argmax(1)


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_branches(target):
    net = seeded(Branches).eval()
    solved = solve_menu(net, chunks_of(pictures(16, size=16)), target=target)
    loss = loss_of_network(solved.graph, solved.chunks[0], use_labels=False)
    assert isinstance(loss, SeveralOutputs)
    measured = assert_equals_full_passes(solved, loss)
    # What does not reach an output that is looked at changes nothing, and is not run.
    assert measured.delta("unused", parse_scheme("w2a4")).loss == 0.0
    assert measured.delta("second", parse_scheme("w2a4")).loss > 0.0


class Words(nn.Module):
    """Tied embedding, attention that keeps the batch second, a mask, heads merged with it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 2)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, tokens, mask):
        x = self.words(tokens)
        y = x.transpose(0, 1)
        y, _ = self.attention(y, y, y, key_padding_mask=mask == 0, need_weights=False)
        x = self.norm(x + self.mix(y.transpose(0, 1)))
        return functional.linear(x, self.words.weight)


@pytest.mark.parametrize("stack_bytes", [0, 1 << 30])
def test_attention_and_tied_embedding(stack_bytes):
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        tokens = torch.randint(0, 30, (6, 7), generator=generator)
        mask = torch.ones(6, 7, dtype=torch.int64)
        mask[::2, 5:] = 0
        batches.append({"tokens": tokens, "mask": mask})
    solved = solve_menu(seeded(Words).eval(), batches)
    assert_equals_full_passes(solved, stack_bytes=stack_bytes)


class Mixes(nn.Module):
    """Samples that depend on one another: nothing behind the mean may be stacked."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.b(y - y.mean(0, keepdim=True))


def test_samples_that_depend_on_one_another_are_not_stacked():
    solved = solve_menu(seeded(Mixes).eval(), chunks_of(normal(24, 6)))
    assert_equals_full_passes(solved, stack_bytes=1 << 30)


# ---- work ------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.more, self.stride = outputs - inputs, stride

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        x = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.more))
        return torch.relu(x + 0.3 * y)


class ResNet(nn.Module):
    """The residual network for CIFAR-10 (He et al. 2015) of depth 6 n + 2."""

    def __init__(self, depth, width=16):
        super().__init__()
        blocks = (depth - 2) // 6
        sizes = [width] * blocks + [2 * width] * blocks + [4 * width] * blocks
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        before = [width, *sizes[:-1]]
        self.blocks = nn.Sequential(
            *(Block(i, o, 1 if i == o else 2) for i, o in zip(before, sizes, strict=True))
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def full_pass(solved):
    """Multiply-accumulates of one plain pass over all chunks, counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for batch in solved.chunks:
            walk(solved.graph.module, bind(solved.graph, batch.inputs))
    return counter.get_total_flops() // 2


def test_work_of_resnet56():
    """At most 0.55 of (units x choices) full passes; with the base left out as it may be, 0.43."""
    net = seeded(lambda: ResNet(56)).eval()
    solved = solve_menu(net, [pictures(2, size=16)])
    units, choices = len(solved.graph.units), 5
    assert units == 56
    full = full_pass(solved)
    every = {
        u: {c: solved.change(u, c) for c in of} for u, of in solved.changes.items()
    }  # the base's choice measured as if it were another
    for changes, bound in ((every, 0.55), (solved.changes, 0.45)):
        work = OperationCount()
        measured = measure_table(solved.subject(), changes, solved.chunks, work=work)
        assert work.macs <= bound * units * choices * full, work.macs / (units * choices * full)
    for unit, choice in (("stem", "w2a4"), ("blocks.13.conv1", "w4a8"), ("head", "w4a4")):
        change = solved.changes[unit][parse_scheme(choice)]
        want = stitched_losses(solved, with_changes(solved.base, (change,)))
        np.testing.assert_allclose(measured.values[unit][parse_scheme(choice)], want, rtol=1e-4)


def test_counted_work_is_what_torch_counts():
    solved = solve_menu(small_network(), chunks_of(pictures(16)))
    work = OperationCount()
    with FlopCounterMode(display=False) as counter:
        measure_table(solved.subject(stack_bytes=0), solved.changes, solved.chunks, work=work)
    assert work.macs == counter.get_total_flops() // 2


# ---- resuming --------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was():
    solved = solve_menu(small_network(), chunks_of(pictures(24)))
    groups, subject = unit_groups(solved.changes), solved.subject()
    whole = list(measure(subject, groups, solved.chunks))
    assert all(part.fresh for part in whole) and len(whole) == 3 * (1 + len(groups))
    store = {(part.chunk, part.group): part.values for part in whole[:9]}

    work = OperationCount()
    again = list(measure(subject, groups, solved.chunks, lambda *k: store.get(k, {}), work))
    assert sum(part.fresh for part in again) == len(whole) - 9
    one, other = (collect(groups, parts, subject.loss) for parts in (whole, again))
    for unit in groups:
        for choice in groups[unit]:
            np.testing.assert_array_equal(one.values[unit][choice], other.values[unit][choice])

    full = {(part.chunk, part.group): part.values for part in again}
    idle = OperationCount()
    assert not any(
        p.fresh for p in measure(subject, groups, solved.chunks, lambda *k: full[k], idle)
    )
    assert idle.macs == 0 < work.macs


def test_new_choices_are_all_that_is_run():
    small = solve_menu(small_network(), chunks_of(pictures(16)), menu="w8a8,w4a8")
    wide = solve_menu(small_network(), chunks_of(pictures(16)), menu="w8a8,w4a8,w2a4")
    parts = measure(small.subject(), unit_groups(small.changes), small.chunks)
    store = {(part.chunk, part.group): part.values for part in parts}
    first, more = OperationCount(), OperationCount()
    groups = unit_groups(wide.changes)
    list(measure(wide.subject(), groups, wide.chunks, work=first))
    parts = list(measure(wide.subject(), groups, wide.chunks, lambda *k: store.get(k, {}), more))
    assert more.macs < 0.7 * first.macs
    resumed = collect(groups, parts, Divergence())
    fresh = measure_table(wide.subject(), wide.changes, wide.chunks)
    for unit in groups:
        for choice in groups[unit]:
            np.testing.assert_allclose(
                resumed.values[unit][choice], fresh.values[unit][choice], rtol=1e-6, atol=1e-12
            )


def test_nothing_but_losses_outlives_a_chunk():
    solved = solve_menu(small_network(), chunks_of(pictures(24)))
    for part in measure(solved.subject(), unit_groups(solved.changes), solved.chunks):
        for values in part.values.values():
            assert values.shape == (2, 8) and values.dtype == np.float64


# ---- what the entries say --------------------------------------------------------------------


def test_mean_and_standard_error_are_of_the_paired_difference():
    solved = solve_menu(small_network(), chunks_of(pictures(24)))
    measured = measure_table(solved.subject(), solved.changes, solved.chunks)
    choice = parse_scheme("w2a4")
    delta = measured.delta("project", choice)
    difference = (measured.values["project"][choice] - measured.base)[0]
    assert delta.samples == 24 and delta.loss == pytest.approx(difference.mean())
    assert delta.stderr == pytest.approx(difference.std(ddof=1) / 24**0.5)
    own = measured.delta("project", solved.base_choice)
    assert own.loss == 0.0 and own.stderr == 0.0 and own.drop == 0.0
    assert delta.loss > measured.delta("project", parse_scheme("w4a8")).loss
    assert set(measured.table()) == {u.name for u in solved.graph.units}


def test_the_order_of_batches_and_their_size_do_not_matter():
    net = small_network()
    few = solve_menu(net, chunks_of(pictures(24), 8))
    many = solve_menu(net, chunks_of(pictures(24), 5))
    one = measure_table(few.subject(), few.changes, few.chunks)
    other = measure_table(few.subject(), few.changes, many.chunks)
    for unit in one.values:
        for choice in one.values[unit]:
            got, want = other.delta(unit, choice), one.delta(unit, choice)
            assert got.loss == pytest.approx(want.loss, rel=1e-3, abs=1e-7)


def test_with_labels():
    x = pictures(16)
    net = small_network()
    labels = torch.arange(16) % 10
    solved = solve_menu(net, [(x[:8], labels[:8]), (x[8:], labels[8:])])
    loss = loss_of_network(solved.graph, solved.chunks[0], use_labels=True)
    assert isinstance(loss, CrossEntropy)
    measured = assert_equals_full_passes(solved, loss)
    base = stitch(solved.graph, solved.base)
    with torch.no_grad():
        want = functional.cross_entropy(base(x), labels, reduction="none")
        wrong = (base(x).argmax(1) != labels).double().mean()
    np.testing.assert_allclose(measured.base[0], want.numpy(), rtol=1e-4)
    assert measured.base[1].mean() == pytest.approx(float(wrong))
    with pytest.raises(DataError, match="have none"):
        loss_of_network(solved.graph, as_batch(x, "test"), use_labels=True)


def test_outputs_that_are_no_scores():
    net = seeded(lambda: Chain(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))).eval()
    solved = solve_menu(net, chunks_of(normal(24, 6)))
    loss = loss_of_network(solved.graph, solved.chunks[0], use_labels=False)
    assert isinstance(loss, SeveralOutputs)
    (spread,) = loss.gauge.spreads
    assert spread.rows == solved.chunks[0].size
    measured = assert_equals_full_passes(solved, loss)
    delta = measured.delta("m0", parse_scheme("w2a4"))
    assert delta.loss > 0 and delta.drop > 0


def test_no_data():
    solved = solve_menu(small_network(), chunks_of(pictures(8)))
    with pytest.raises(DataError, match="empty"):
        measure_table(solved.subject(), solved.changes, [])


def test_the_base_has_a_part_of_its_own():
    solved = solve_menu(small_network(), chunks_of(pictures(8)), menu="w8a8")
    parts = list(measure(solved.subject(), unit_groups(solved.changes), solved.chunks))
    assert {part.group for part in parts if part.fresh} == {BASE}
