"""table.csv: what is written is read back exactly, what cannot be is told with its line."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from allocation_cases import random_table, row

from bitwright.allocation.table import COLUMNS, make_table, read_table, write_table
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import Choice

CONTRACT = [
    "unit", "w_bits", "a_bits", "points", "loss_delta", "params", "weight_bits", "macs", "bops",
    "latency_ms", "method", "solve_seconds",
]  # fmt: skip
HEAD = ",".join(CONTRACT[:9])
LINE = "conv,8,8,1,0.5,10,80,20,1280"


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_columns_are_the_contracts_then_ours(tmp_path):
    assert [*CONTRACT, "loss_stderr", "energy_pj", "group", "drop", "loss_fitted"] == list(COLUMNS)
    path = tmp_path / "table.csv"
    write_table(path, random_table(1))
    with path.open() as file:
        assert next(csv.reader(file)) == [*COLUMNS, "rows"]


def test_a_table_cut_short_anywhere_is_refused(tmp_path):
    """After any line, and within the last number of the last line."""
    path = tmp_path / "table.csv"
    table = make_table(
        row(f"u{i}", Choice(w, 8), 1.0 / w, 10, 20) for i in range(6) for w in (4, 8)
    )
    write_table(path, table)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert read_table(path).note == ""
    for end in (*ends[1:-1], *range(ends[-2] + 1, len(whole) - 1)):
        path.write_bytes(whole[:end])
        with pytest.raises(RunDirectoryError, match=r"cut short|cells where|rows is"):
            read_table(path)
    path.write_bytes(whole[:-1])
    assert read_table(path) == replace(table, place=str(path))


def test_a_table_without_a_count_is_read_with_a_note(tmp_path):
    found = read_table(written(tmp_path, f"{HEAD}\n{LINE}\n"))
    assert "does not say how many lines" in found.note


@pytest.mark.parametrize(
    "cell", [("0.5", "1e31"), ("1280", "9" * 5000), ("80", "1" + "0" * 40)], ids=("loss", "x", "y")
)
def test_numbers_without_end_are_refused_by_value(tmp_path, cell):
    with pytest.raises(RunDirectoryError, match="it must be") as told:
        read_table(written(tmp_path, f"{HEAD}\n{LINE.replace(*cell, 1)}\n"))
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, seed):
    table = random_table(seed)
    rows = [
        replace(found, method="quadratic", solve_seconds=0.1 + 0.2, loss_stderr=1 / 3, drop=-1e-300)
        for found in table.rows
    ]
    table = make_table([*rows, *table.references])
    path = tmp_path / "table.csv"
    write_table(path, table)
    again = read_table(path)
    assert again.rows == table.rows and again.references == table.references
    assert again.place == str(path) and again.units == table.units
    before = path.read_bytes()
    write_table(path, again)
    assert path.read_bytes() == before


def test_names_with_commas_and_quotes(tmp_path):
    table = make_table([row('a,"b" c', Choice(8, 8), 0.0, 1, 1)])
    write_table(tmp_path / "t.csv", table)
    assert read_table(tmp_path / "t.csv").units == ('a,"b" c',)


def test_float_is_0_and_32_means_the_same(tmp_path):
    table = read_table(
        written(tmp_path, f"{HEAD}\na,32,32,1,0.1,1,32,1,1024\nb,4,32,1,0.1,1,4,1,128\n")
    )
    assert [found.choice for found in table.rows] == [Choice(0, 0), Choice(4, 0)]
    write_table(tmp_path / "again.csv", table)
    assert "\na,0,0,1,0.1," in (tmp_path / "again.csv").read_text()


def test_the_contracts_columns_are_enough_and_may_come_in_any_order(tmp_path):
    lines = f"{HEAD}\n{LINE}\n"
    columns = list(zip(*(line.split(",") for line in lines.split()), strict=True))
    turned = "\n".join(",".join(cells) for cells in zip(*reversed(columns), strict=True))
    assert read_table(written(tmp_path, turned)).rows == read_table(written(tmp_path, lines)).rows
    bom = "\ufeff" + lines.replace("\n", "\r\n") + "\r\n"
    assert len(read_table(written(tmp_path, bom)).rows) == 1


def test_a_kept_unit_needs_no_loss_and_float_rows_without_one_are_no_choices():
    rows = [
        row("kept", Choice(8, 8), None, 10, 10),
        row("kept", Choice(0, 0), None, 10, 10),
        row("float", Choice(0, 0), None, 10, 10),
        row("free", Choice(8, 8), 0.0, 10, 10),
        row("free", Choice(4, 4), 0.5, 10, 10),
        row("free", Choice(0, 0), None, 10, 10),
        row("all", Choice(8, 8), 0.0, 10, 10),
        row("all", Choice(0, 0), -0.1, 10, 10),
    ]
    table = make_table(rows)
    shown = {unit: [str(found.choice) for found in table.of(unit)] for unit in table.units}
    assert shown == {
        "kept": ["w8a8"],
        "float": ["float"],
        "free": ["w8a8", "w4a4"],
        "all": ["w8a8", "float"],
    }
    assert [found.unit for found in table.references] == ["kept", "free"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("unit,w_bits\n", "line 1 lacks the column 'a_bits'"),
        (HEAD.replace("loss_delta", "loss"), "unknown column 'loss' in .*line 1.*'loss_delta'"),
        (f"{HEAD},unit\n", "names a column twice"),
        (f"{HEAD}\n", "holds no rows"),
        (f"{HEAD}\n{LINE},7\n", "line 2 has 10 cells where the heading has 9"),
        (f"{HEAD}\n{LINE}\n\n{LINE.replace('8,8', '4;4')}\n", "line 4 has 8 cells"),
        (HEAD + "\n" + LINE.replace("conv", " "), "line 2: unit is ''; it must be a module path"),
        (HEAD + "\n" + LINE.replace("8,8,1", "9,8,1"), "line 2: w_bits is '9'; it must be 2 to 8"),
        (HEAD + "\n" + LINE.replace("8,8,1", "8,,1"), "line 2: a_bits is ''"),
        (HEAD + "\n" + LINE.replace("8,8,1", "8,8,0"), "line 2: points is '0'; it must be 1"),
        (HEAD + "\n" + LINE.replace("0.5", "nan"), "line 2: loss_delta is 'nan'.*finite"),
        (HEAD + "\n" + LINE.replace("0.5", "0,5"), "line 2 has 10 cells"),
        (HEAD + "\n" + LINE.replace(",80,", ",80.5,"), "weight_bits is '80.5'.*whole number"),
        (HEAD + "\n" + LINE.replace(",80,", ",,"), "weight_bits is ''"),
        (HEAD + "\n" + LINE.replace(",20,", ",-20,"), "macs is '-20'.*0 or more"),
        (f"{HEAD},latency_ms\n{LINE},soon", "line 2: latency_ms is 'soon'.*Correct the line"),
        (f"{HEAD}\n{LINE}\n{LINE}\n", "line 3: unit 'conv' has the choice w8a8 twice"),
        (
            f"{HEAD}\n{LINE}\n{LINE.replace('8,8', '4,4').replace(',10,', ',11,')}\n",
            "line 3: params of unit 'conv' is 11, but 10 at its first choice",
        ),
        (
            f"{HEAD}\n{LINE}\n{LINE.replace('8,8', '4,4').replace('0.5', '')}\n",
            "line 3: unit 'conv' has several choices, but w4a4 has no loss_delta",
        ),
        (f'{HEAD}\n"{LINE}', "is not a CSV file"),
    ],
)
def test_a_damaged_table_is_told_with_file_line_value_and_remedy(tmp_path, text, told):
    path = written(tmp_path, text)
    with pytest.raises(RunDirectoryError, match=told) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"cannot be read.*bitwright quantize"):
        read_table(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00unit")
    with pytest.raises(RunDirectoryError, match="is no text: byte 0"):
        read_table(tmp_path / "table.csv")


def test_an_unknown_unit_is_told_with_the_nearest(tmp_path):
    table = make_table([row("layer1.conv", Choice(8, 8), 0.0, 1, 1)])
    with pytest.raises(RunDirectoryError, match=r"Did you mean 'layer1.conv'"):
        table.of("layer1.conf")


def test_groups_of_weights_are_no_ties(tmp_path):
    """The choice's own group has a column of its own, and only where there is one."""
    table = random_table(0)
    first, *others = table.rows
    grouped = replace(first, choice=replace(first.choice, points=1, group=64))
    path = tmp_path / "table.csv"
    rows = [
        replace(row, group="tied") if row.unit == first.unit else row
        for row in (grouped, *others, *table.references)
    ]
    write_table(path, make_table(rows))
    again = next(row for row in read_table(path).rows if row.choice.group)
    assert (again.choice.group, again.group) == (64, "tied")
    write_table(path, table)
    assert "weight_group" not in path.read_text()
