"""A result as people see it: one line, a summary, a table in notebooks."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

import bitwright as bw
from networks import pictures, small_network


@pytest.fixture(scope="module")
def result():
    held_out = [(pictures(40, seed=5, size=8), torch.arange(40) % 10)]
    data = [pictures(25, seed=1, size=8)]
    return bw.quantize(
        small_network(width=8), data, recipe="fixed", scheme="w4a8", evaluation=held_out
    )


def test_a_result_is_one_short_line(result):
    shown = repr(result)
    assert len(shown) < 150 and "\n" not in shown
    assert shown.startswith("<bitwright Result SmallNet: w4a8, agreement ")
    assert "of 40 samples, weights 0." in shown


def test_its_summary_says_what_the_command_says(result):
    text = result.summary()
    assert text.startswith("SmallNet: w4a8\n")
    for words in (
        "top-1 ", "of 40 samples (evaluation data), KL ", "warning: measured on 40 ",
        "float, quantised weights ", "note: stem_bn: the calibration data do not",
    ):  # fmt: skip
        assert words in text


def test_in_a_notebook_it_is_a_table(result):
    page = result._repr_html_()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert tags.count("table") == 1 and len(page) < 5000
    assert "<td>top-1</td>" in page and "SmallNet: w4a8" in page


def test_names_are_only_text_in_a_notebook():
    class Net(torch.nn.Linear):
        pass

    Net.__name__ = "<script>alert(1)</script>"
    page = bw.quantize(Net(4, 2).eval(), [torch.randn(9, 4)], recipe="fixed")._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page
