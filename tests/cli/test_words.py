from __future__ import annotations

import pytest
import typer

from bitwright.cli.parser import app
from bitwright.cli.words import join_numbers

COMMAS = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (COMMAS, COMMAS),
        (["--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225"], COMMAS),
        (["--mean", "-1", "-1", "-1", "--std", "2"], ["--mean", "-1,-1,-1", "--std", "2"]),
        (["--mean", "1", "2", "3", "4"], ["--mean", "1,2,3", "4"]),
        (["--mean", "1", "2", "net.py:f"], ["--mean", "1,2", "net.py:f"]),
        (["--size", "1", "2"], ["--size", "1", "2"]),
        (["--mean", "x", "2"], ["--mean", "x", "2"]),
        (["--mean"], ["--mean"]),
        ([], []),
    ],
)
def test_numbers_with_spaces_are_one_word(words, want):
    assert join_numbers(words) == want


@pytest.mark.parametrize("name", ["quantize", "doctor", "measure"])
@pytest.mark.parametrize("mean", [["0.5,0.4,0.3"], ["0.5", "0.4", "0.3"], ["0.5 0.4 0.3"]])
def test_every_command_on_pictures_takes_both_forms(name, mean):
    command = typer.main.get_command(app).commands[name]
    words = ["net.py:f", "--data", "photos", "--size", "8", "--mean", *mean, "--std", "1", "2", "3"]
    given = command.make_context(name, [*words, "--crop", "0.9"]).params
    assert given["mean"].replace(" ", ",") == "0.5,0.4,0.3" and given["std"] == "1,2,3"
    assert given["size"] == 8 and given["crop"] == 0.9 and given["model"] == "net.py:f"
