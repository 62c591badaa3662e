"""Whatever the bytes of a file: a text, or one sentence that names the file and what is wrong."""

from __future__ import annotations

import os

import pytest

from bitwright.engine.texts import MOST_BYTES, parse_json, parse_toml, read_text
from bitwright.errors import InputError, RecipeError, RunDirectoryError
from bitwright.export.rundir import RunDirectory
from bitwright.graph.target import load_target
from bitwright.recipe.values import load_recipe

DEEP = 200_000


def test_nesting_deeper_than_the_stack():
    for nested in ("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP):
        with pytest.raises(RunDirectoryError, match=r"m\.json is damaged.*Again\."):
            parse_json(nested, "m.json", RunDirectoryError, "Again.")
    with pytest.raises(RecipeError, match=r"r\.toml (nests too deep|is not valid TOML)"):
        parse_toml("a = " + "[" * DEEP + "]" * DEEP, "r.toml", RecipeError)


def test_integers_of_any_length():
    with pytest.raises(RunDirectoryError, match="is damaged"):
        parse_json("9" * 10_000, "m.json", RunDirectoryError, "")
    with pytest.raises(RecipeError, match="is not valid TOML"):
        parse_toml("a = " + "9" * 10_000, "r.toml", RecipeError)


def test_half_a_pair_of_surrogates_is_refused():
    """No file and no terminal takes one, so that every page and message would fail later on."""
    for text in ('"a\\ud800b"', '{"\\uDC00": 1}', '["\\ude00\\ud83d"]'):
        with pytest.raises(RunDirectoryError, match="is damaged"):
            parse_json(text, "m.json", RunDirectoryError, "")
    assert parse_json('"\\ud83d\\ude00"', "m.json", RunDirectoryError, "") == "\U0001f600"


@pytest.mark.parametrize("read", [load_recipe, load_target])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"name = '\xc3\x28'", b"a = " + b"[" * DEEP, b"\x00"]
)
def test_files_of_any_bytes(tmp_path, read, content):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"x\.toml"):
        read(str(path))


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "metrics.json")
    with pytest.raises(RunDirectoryError, match="no plain file"):
        RunDirectory(tmp_path).read_json("metrics.json")
    with pytest.raises(RunDirectoryError, match="no regular file"):
        read_text(tmp_path, RunDirectoryError, "")


def test_what_is_too_large_is_not_held(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match="is larger than 64 MB"):
        read_text(path, InputError, "")


def test_line_ends_of_every_kind(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a\r\nb\rc\n")
    assert read_text(path, InputError, "") == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weight_bits = [8.0]", "weight_bits holds 8.0"),
        ("weight_bits = [true, 8]", "weight_bits holds True"),
        ('input_bits = ["8"]', "input_bits holds '8'"),
        ("chain = [['add']]", r"unknown operator .\['add'\]."),
        ("ties = [{}]", "unknown tie '{}'"),
    ],
)
def test_a_list_where_a_word_belongs(tmp_path, line, message):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n{line}\n')
    with pytest.raises(RecipeError, match=message):
        load_target(str(path))
