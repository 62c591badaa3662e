"""`bitwright measure` from end to end, in this process. No duration is asserted."""

from __future__ import annotations

import pytest

from bitwright.allocation.latency_csv import read_latencies
from bitwright.graph.choice import FLOAT, Choice
from networks import TESTS

USER_FILE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from networks import pictures, small_network


def net():
    made = small_network()
    made.example_inputs = (torch.zeros(2, 3, 16, 16),)
    return made


def plain():
    return small_network()


def calib():
    return [pictures(3)]
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(USER_FILE)
    return path


QUICK = ("--repetitions", 1, "--checks", 0)


def test_a_table_is_measured_shown_and_written(bitwright, user, tmp_path):
    out = tmp_path / "new" / "latency.csv"
    code, shown, _ = bitwright("measure", f"{user}:net", "--menu", "w8a8", "--out", out, *QUICK)
    assert code == 0
    table = read_latencies(out)
    assert table.choices["stem"] == (Choice(8, 8), FLOAT)
    for word in (*table.units, "the rest", "predicted", "measured", f"wrote {out}", "1 thread"):
        assert str(word) in shown.replace("\n", " ")


def test_the_shape_may_come_from_the_data(bitwright, user, tmp_path):
    out = tmp_path / "latency.csv"
    words = ("measure", f"{user}:plain", "--menu", "w8a8", "--out", out, "--quiet", *QUICK)
    code, _, told = bitwright(*words)
    assert code == 2 and "shape of the inputs" in told and "--data" in told
    code, shown, _ = bitwright(
        *words, "--data", f"{user}:calib", "--target", "weights-only", "--batch", 2, "--threads", 2
    )
    assert code == 0 and shown == ""
    about = read_latencies(out).conditions
    assert (about.target, about.batch, about.threads) == ("weights-only", 2, 2)


def test_what_is_replaced_is_told(bitwright, user, tmp_path):
    out = tmp_path / "latency.csv"
    words = ("measure", f"{user}:net", "--menu", "w8a8", "--out", out, *QUICK)
    assert bitwright(*words)[0] == 0
    out.write_text(out.read_text().replace(read_latencies(out).conditions.processor, "old one"))
    code, shown, _ = bitwright(*words)
    assert code == 0 and "processor was old one, is" in shown.replace("\n", " ")
    assert read_latencies(out).conditions.processor != "old one"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--menu", "w9a8"), "w9a8"),
        (("--target", "ort-cp"), "Did you mean 'ort-cpu'?"),
        (("--threads", "0"), "--threads 0 makes no sense"),
        (("--out", "{user}"), "line 1"),
        (("--out", "{user}/latency.csv"), "cannot be written"),
    ],
)
def test_wrong_input_is_told_before_the_work(bitwright, user, words, message):
    code, shown, told = bitwright(
        "measure", f"{user}:net", *(word.format(user=user) for word in words)
    )
    assert code == 2 and message in told and "export" not in shown
