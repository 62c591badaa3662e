"""The command from end to end, in this process; every wrong input is told, not traced."""

from __future__ import annotations

import csv
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.cli.catalogue import catalogue
from bitwright.export.rundir import RunDirectory
from bitwright.pipeline import runs
from bitwright.prepare.names import ABOUT as PREPARE
from bitwright.recipe.values import Recipe, load_recipe, update
from bitwright.sources.trust import remember
from bitwright.tuning.catalogue import STEPS as TUNE
from networks import TESTS

FILES = {
    "recipe.toml", "census.json", "table.csv", "allocation.json", "metrics.json",
    "model.safetensors", "model.onnx", "verify.json", "report.html", "log.jsonl",
    "manifest.json",
}  # fmt: skip

USER_FILE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from torch import nn
from networks import pictures, small_network


def net():
    made = small_network()
    made.example_inputs = (torch.zeros(2, 3, 16, 16),)
    return made


def plain():
    return small_network()


def calib():
    return [pictures(20), pictures(20, seed=2)]


def labelled():
    x = pictures(40, seed=3)
    with torch.no_grad():
        return [(x, small_network()(x).argmax(1))]


def metric(outputs, labels):
    return (outputs.argmax(1) == labels).float().mean()


# ---- wrong ones ----


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        if x.sum() > 0:  # depends on the data
            return self.linear(x)
        return -self.linear(x)


def branching():
    made = Branching()
    made.example_inputs = (torch.ones(2, 4),)
    return made


def nothing():
    return None


def failing():
    return small_network()["head"]


def no_weights():
    return nn.ReLU()


def nan_weights():
    made = net()
    made.head.weight.data[0, 0] = float("nan")
    return made


def bare():
    made = nn.Sequential(nn.Linear(4, 3))
    made.example_inputs = (torch.ones(2, 4),)
    return made.eval()


def empty():
    return []


def nan_data():
    x = pictures(10)
    x[7, 0, 0, 0] = float("nan")
    return [x]


def wrong_shape():
    return [torch.zeros(4, 3, 8, 8)]


def wrong_type():
    return [torch.zeros(4, 3, 16, 16, dtype=torch.uint8)]


def wrong_rank():
    return [torch.zeros(4, 3, 16)]


def unlabelled():
    return [pictures(8)]


def number():
    return 3
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("user") / "net.py"
    path.write_text(USER_FILE)
    return path


@pytest.fixture(scope="module")
def finished(user, tmp_path_factory) -> Path:
    """A run made by the real command, once."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [
        sys.executable, "-m", "bitwright.cli", "quantize", f"{user}:net", "--data",
        f"{user}:calib", "--eval", f"{user}:labelled", "--scheme", "w4a8", "--keep",
        "first,last=w8a8", "--target", "ort-cpu", "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verified in ONNX Runtime" in done.stdout and "report.html" in done.stdout
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run that a test may spoil, as if it had been made there."""
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    remember(copy, vars(runs.recipe_of(RunDirectory(copy))))
    return copy


@pytest.fixture
def unsealed(run) -> Path:
    """A run without a manifest, as an earlier version wrote it."""
    (run / "manifest.json").unlink()
    return run


# ---- the run directory -----------------------------------------------------------------------


def test_the_files_are_those_of_the_contract(finished):
    assert {p.name for p in finished.iterdir()} == FILES


def test_a_promise_that_no_choice_keeps_is_told_and_ends_with_1(bitwright, user, tmp_path):
    out = tmp_path / "run"
    done = bitwright(
        "quantize", f"{user}:net", "--data", f"{user}:calib", "--menu", "w2a2,w2a2x2",
        "--lossless", "0.001", "--out", out,
    )  # fmt: skip
    assert done.code == 1 and "lossless    no choice of the menu is lossless to 0.001" in done.out
    record = json.loads((out / "allocation.json").read_text())["lossless"]
    assert record["tolerance"] == 0.001 and not record["attained"] and record["samples"] == 10
    explained = bitwright("explain", out, "stem", "--budget", "bops<=0.01")
    assert explained.code == 0 and "w2a2x2" in explained.out
    drawn = bitwright("frontier", out, "--cost", "bops")
    assert drawn.code == 0, drawn.err


def test_the_recipe_is_complete_and_works_from_anywhere(finished, user):
    recipe = update(Recipe(), load_recipe(str(finished / "recipe.toml")), "here")
    assert recipe.model == f"{user}:net" and recipe.data == f"{user}:calib"
    assert (recipe.scheme, recipe.keep, recipe.target) == ("w4a8", "first,last=w8a8", "ort-cpu")
    assert recipe.calib == Recipe.calib and recipe.version == Recipe.version


def test_the_table_has_the_contracts_columns(finished):
    with (finished / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:12] == [
        "unit", "w_bits", "a_bits", "points", "loss_delta", "params", "weight_bits", "macs", "bops",
        "latency_ms", "method", "solve_seconds",
    ]  # fmt: skip
    assert [(r["unit"], r["w_bits"]) for r in rows] == [
        ("stem", "8"), ("depthwise", "4"), ("project", "4"), ("grouped", "4"), ("head", "8"),
    ]  # fmt: skip
    assert all(int(r["bops"]) == int(r["macs"]) * int(r["w_bits"]) * int(r["a_bits"]) for r in rows)


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


def test_the_records_have_the_contracts_keys(finished):
    allocation = read(finished, "allocation.json")
    assert {
        "solver",
        "status",
        "objective",
        "bound",
        "gap",
        "budgets",
        "choices",
        "uniform",
    } <= set(allocation)
    assert allocation["choices"]["stem"] == {"w_bits": 8, "a_bits": 8, "points": 1}
    metrics = read(finished, "metrics.json")
    assert {
        "float",
        "quantized",
        "agreement",
        "stages",
        "size",
        "bops_ratio",
        "environment",
    } <= set(metrics)
    assert metrics["float"]["top1"] == 1.0 and 0 < metrics["quantized"]["top1"] <= 1
    assert all({"name", "seconds", "peak_rss_mb"} <= set(stage) for stage in metrics["stages"])
    size = metrics["size"]
    assert {"float_bytes", "weight_bytes", "file_bytes", "ratio"} <= set(size)
    assert size["file_bytes"] == (finished / "model.safetensors").stat().st_size
    assert size["ratio"] == pytest.approx(size["file_bytes"] / size["float_bytes"])
    verified = read(finished, "verify.json")
    assert {"passed", "agreement", "max_difference", "units", "first_failure"} <= set(verified)
    assert verified["passed"] is True and set(verified["units"]) == set(allocation["choices"])
    census = read(finished, "census.json")
    assert {"units", "float_ops", "protocol", "notes", "calibration_samples"} <= set(census)


def test_the_log_is_one_line_an_event(finished):
    entries = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert all({"time", "kind", "stage"} <= set(entry) for entry in entries)
    ended = [entry["stage"] for entry in entries if entry["kind"] == "end"]
    assert ended[:5] == ["capture", "observe", "solve", "stitch", "evaluate"]
    assert {"save", "export", "verify"} <= set(ended)


def test_the_report_needs_no_network(finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "w4a8" in page and "depthwise" in page


# ---- the other commands ----------------------------------------------------------------------


def test_verify(bitwright, run, user):
    (run / "verify.json").unlink()
    done = bitwright("verify", run)
    assert done.code == 0 and "5 of 5 units agree" in done.out
    assert read(run, "verify.json")["passed"] is True
    assert bitwright("verify", run, "--data", f"{user}:unlabelled").code == 0
    assert read(run, "verify.json")["samples"] == 8


def test_verify_fails_with_exit_code_one(bitwright, unsealed):
    """Of a run that no manifest guards: the file itself is found not to do what was promised."""
    run = unsealed
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(run / "model.onnx"))
    (tensor,) = [t for t in model.graph.initializer if t.name == "head.weight.scale"]
    changed = numpy_helper.to_array(tensor) * 1.01
    tensor.CopyFrom(numpy_helper.from_array(changed.astype("float32"), tensor.name))
    onnx.save(model, str(run / "model.onnx"))
    done = bitwright("verify", run)
    assert done.code == 1 and "NOT VERIFIED" in done.out and "head" in done.out
    assert read(run, "verify.json")["first_failure"] == "head"


def test_evaluate(bitwright, finished, user):
    done = bitwright("evaluate", finished)
    assert done.code == 0 and "top-1" in done.out and "100.00 %" in done.out
    own = bitwright(
        "evaluate", finished, "--eval", f"{user}:labelled", "--metric", f"{user}:metric"
    )
    assert own.code == 0 and "metric" in own.out
    alone = bitwright("evaluate", finished, "--eval", f"{user}:calib", "--metric", "agreement")
    assert alone.code == 0 and "of 40 samples" in alone.out and "top1" not in alone.out


def test_export_and_report_write_the_same_files_again(bitwright, run):
    before = (run / "model.onnx").read_bytes()
    for name in ("model.onnx", "report.html"):
        (run / name).unlink()
    done = bitwright("export", run)
    assert done.code == 0 and str(run / "model.onnx") in done.out
    assert (run / "model.onnx").read_bytes() == before
    done = bitwright("report", run)
    assert done.code == 0 and (run / "report.html").stat().st_size > 1000


def test_the_recipe_of_a_run_repeats_it_bit_for_bit(bitwright, finished, tmp_path):
    out = tmp_path / "again"
    done = bitwright("quantize", "--recipe", finished / "recipe.toml", "--out", out, "--quiet")
    assert done.code == 0
    for name in ("model.safetensors", "model.onnx", "recipe.toml"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_same_command_may_be_given_again(bitwright, run):
    words = ("quantize", "--recipe", run / "recipe.toml", "--out", run, "--quiet")
    before = (run / "model.safetensors").read_bytes()
    done = bitwright(*words)
    assert done.code == 0 and (run / "model.safetensors").read_bytes() == before


def test_a_request_that_failed_at_once_does_not_block_the_folder(bitwright, user, tmp_path):
    out = tmp_path / "run"
    words = ("--data", f"{user}:calib", "--out", out, "--calib", 20, "--quiet")
    assert bitwright("quantize", f"{user}:nothing", *words).code == 2
    assert bitwright("quantize", f"{user}:net", *words).code == 0


def test_doctor(bitwright, user):
    done = bitwright("doctor", f"{user}:net")
    assert done.code == 0 and "x: float32 [N, 3, 16, 16]" in done.out
    words = (
        "depthwise",
        "5 units are quantised",
        "relu6",
        "287 k MACs a sample",
        "Speed, measured",
    )
    for word in words:
        assert word in done.out
    for data in ("calib", "labelled"):
        assert (
            bitwright("doctor", f"{user}:plain", "--no-speed", "--data", f"{user}:{data}").code == 0
        )
    assert bitwright("doctor", f"{user}:net", "--no-speed", "--data", "none").code == 0


@pytest.mark.parametrize(
    ("what", "name"),
    [("methods", "nearest"), ("recipes", "fixed"), ("targets", "ort-cpu"), ("metrics", "top1")],
)
def test_list(bitwright, what, name):
    done = bitwright("list", what)
    assert done.code == 0 and name in done.out
    rows = json.loads(bitwright("list", what, "--json").out)
    assert name in {row["name"] for row in rows}


def test_every_method_step_and_recipe_says_what_it_needs():
    listed = {(row["key"], row["name"]): row for row in catalogue("methods")}
    assert {"nearest", "adaround"} <= {name for key, name in listed if key == "method"}
    assert {name for key, name in listed if key == "prepare"} == set(PREPARE)
    assert {name for key, name in listed if key == "tune"} == set(TUNE)
    for row in (*listed.values(), *catalogue("recipes")):
        assert {row[k] for k in ("data", "labels", "backward")} <= {"yes", "no"}
        assert row["paper"] and row["cost"]
    recipes = {row["name"]: row for row in catalogue("recipes")}
    # Without data they are made by gradient steps on the inputs, and that takes its time.
    assert (recipes["zeroq"]["data"], recipes["zeroq"]["backward"]) == ("no", "yes")
    assert recipes["zeroq"]["cost"].startswith(listed["data", "none"]["cost"])
    assert recipes["brecq"]["backward"] == "yes"
    assert recipes["dfq"]["cost"] == "seconds; milliseconds"
    assert recipes["lapq"]["backward"] == "no" and "1911.07190" in recipes["lapq"]["paper"]


def test_quiet_prints_nothing(bitwright, finished):
    done = bitwright("evaluate", finished, "--quiet")
    assert (done.code, done.out) == (0, "")


# ---- wrong inputs ----------------------------------------------------------------------------


def wrong(done, *words: str) -> None:
    """Exit code 2, one message, which says all of the words."""
    assert done.code == 2, (done.code, done.out, done.err)
    said = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert said[0].startswith("bitwright: ")
    for word in words:
        assert re.search(word, done.err), f"{word!r} is not in: {done.err}"


MODELS = {
    "absent.py:net": [r"no file '.*absent\.py'", "Did you mean 'net.py'"],
    "net.py:nett": ["unknown function 'nett'", "net.py", "Did you mean 'net'"],
    "net.py": ["names a file but no function", "Functions there: .*calib"],
    "net.py:nothing": ["net.py:nothing' returned NoneType, not a network", "Is the return missing"],
    "net.py:failing": ["calling .*net.py:failing failed at .*net.py:\\d+", "TypeError"],
    "net.py:nan_weights": ["1 of 320 values of parameter 'head.weight'", "Mend the weights"],
    "net.py:branching": ["Branching", r"net\.py, line \d+: if x\.sum", "torch.where"],
    "nowhere": ["MODEL '.*nowhere' is not understood", "FILE.py:FUNCTION"],
    "no.such.module:f": ["no module 'no'", "Install it"],
    "timm:": ["names no network", "timm:NAME"],
    "weights.pth": ["file of weights", "FILE.py:FUNCTION"],
}


@pytest.mark.parametrize("model", MODELS)
def test_wrong_models(bitwright, user, tmp_path, monkeypatch, model):
    monkeypatch.chdir(user.parent)
    done = bitwright("quantize", model, "--data", "net.py:calib", "--out", tmp_path / "run")
    wrong(done, *MODELS[model])
    wrong(bitwright("doctor", model), *MODELS[model])


def test_a_network_without_weights(bitwright, user, tmp_path):
    words = ("--data", f"{user}:calib", "--out", tmp_path / "run")
    wrong(bitwright("quantize", f"{user}:no_weights", *words), "ReLU", "nothing to quantise")
    wrong(bitwright("doctor", f"{user}:plain"), "shape of the inputs", "--data")


DATA = {
    "net.py:empty": ["net.py:empty", "no .*(batch|sample)|empty"],
    "net.py:nan_data": ["sample 7 of .*net.py:nan_data", "NaN or infinite", "Mend or leave out"],
    "net.py:wrong_shape": [r"\[4, 3, 8, 8\]", r"x: float32 \[N, 3, 16, 16\]", "Resize"],
    "net.py:wrong_rank": [r"\[4, 3, 16\]", r"x: float32 \[N, 3, 16, 16\]"],
    "net.py:wrong_type": ["uint8", "x: float32", "Convert"],
    "net.py:number": ["returned int", "re-iterable of batches"],
    "net.py:no_such": ["unknown function 'no_such'", "net.py"],
    "absent.npz": ["absent.npz", "[Nn]o file|does not exist"],
    "nowhere": ["no file or folder '.*nowhere'", "FILE.py:FUNCTION"],
    "none": ["--data none", "no batch-norm that was folded"],
}


@pytest.mark.parametrize("data", DATA)
def test_wrong_data(bitwright, user, tmp_path, monkeypatch, data):
    monkeypatch.chdir(user.parent)
    net = "net.py:bare" if data == "none" else "net.py:net"
    done = bitwright("quantize", net, "--data", data, "--out", tmp_path / "run")
    wrong(done, *DATA[data])


def test_an_empty_folder_of_images(bitwright, user, tmp_path):
    (tmp_path / "images").mkdir()
    done = bitwright(
        "quantize", f"{user}:net", "--data", tmp_path / "images", "--out", tmp_path / "run"
    )
    wrong(done, "images")


OPTIONS = {
    "--scheme w4": ["unknown scheme 'w4' in --scheme", "w4a8"],
    "--scheme w1a8": ["asks for 1 weight bits", "2 to 8, or 16"],
    "--scheme w8a99": ["asks for 99 input bits", "2 to 8, or 16"],
    "--scheme w4a8x9": ["9 points", "weights of 4 bits have 1 to 4 points"],
    "--keep first": ["--keep 'first' gives no scheme", "first=w8a8"],
    "--keep nothing=w8a8": ["--keep pattern 'nothing' matches no unit", "doctor"],
    "--target ort-cp": ["unknown target 'ort-cp'", "Did you mean 'ort-cpu'"],
    "--target none.toml": ["target file 'none.toml' does not exist", "Check the path"],
    "--metric top7": ["unknown metric 'top7' in --metric", "agreement"],
    "--method adaroud": ["unknown method 'adaroud' in --method", "nearest"],
    "--recipe fixd": ["unknown recipe 'fixd' in --recipe", "Did you mean 'fixed'"],
    "--recipe none.toml": ["recipe file 'none.toml' does not exist", "Check the path"],
    "--recipe keys.toml": ["unknown recipe key 'schme' in recipe keys.toml", "mean 'scheme'"],
    "--activation-range all": ["unknown range rule 'all'", "minmax"],
    "--calib -1": ["calib is -1", "counted from 1"],
    "--batch 0": ["batch 0", "counted from 1"],
    "--device tpu": ["unknown device 'tpu' in --device", "cpu, cuda"],
    "--mean red": ["--mean 'red' is not a list of numbers", "0.5,0.5,0.5"],
    "--std 1,x": ["--std '1,x' is not a list of numbers"],
    "--weights w.pth": ["--weights .*w.pth cannot be used with"],
    "--eval net.py:unlabelled": ["top1 needs integer class labels", "--metric agreement"],
}


@pytest.mark.parametrize("options", OPTIONS)
def test_wrong_options(bitwright, user, tmp_path, monkeypatch, options):
    monkeypatch.chdir(user.parent)
    Path("keys.toml").write_text('schme = "w4a4"\n')
    words = ("quantize", "net.py:net", "--data", "net.py:calib", "--out", tmp_path / "run")
    wrong(bitwright(*words, *options.split()), *OPTIONS[options])


def test_what_is_missing_altogether(bitwright, user, tmp_path):
    out = ("--out", tmp_path / "run")
    wrong(bitwright("quantize", *out), "no MODEL", "models.py")
    wrong(bitwright("quantize", f"{user}:net", *out), "no --data", "loaders.py")


def test_folders_that_cannot_be_written(bitwright, user, finished, tmp_path):
    words = ("quantize", f"{user}:net", "--data", f"{user}:calib", "--out")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run", file / "deep" / "run"):
        wrong(bitwright(*words, out), f"--out {out} cannot be written", "Name a folder")
    wrong(bitwright(*words, finished), "already holds another run", "another folder, .*--force")
    wrong(bitwright(*words, tmp_path), "is not empty and holds no run", "'file'", "new folder")
    assert file.read_text() == "mine"
    assert {p.name for p in finished.iterdir()} == FILES


COMMANDS = ("verify", "evaluate", "export", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_folders_that_are_no_runs(bitwright, tmp_path, command):
    wrong(bitwright(command, tmp_path / "none"), "no run directory", "bitwright quantize")
    wrong(bitwright(command, tmp_path), "holds no recipe.toml", "bitwright quantize")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_another_version(bitwright, unsealed, command):
    run = unsealed
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace("version = 1", "version = 7"))
    wrong(bitwright(command, run), "recipe.toml has version 7; this bitwright reads 1", "again")


@pytest.mark.parametrize("command", ["verify", "evaluate", "export"])
def test_a_damaged_or_foreign_model_file(bitwright, unsealed, command):
    run = unsealed
    path = run / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-10] + bytes([content[-10] ^ 255]) + content[-9:])
    wrong(bitwright(command, run), "model.safetensors is damaged", "checksum", "quantize --recipe")
    path.write_bytes(content[: len(content) // 2])
    wrong(bitwright(command, run), "model.safetensors is damaged", "quantize --recipe")
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    wrong(bitwright(command, run), "was not written by bitwright", "run directory")
    path.unlink()
    wrong(bitwright(command, run), "model.safetensors cannot be read", "--out")


def test_a_damaged_or_missing_onnx_file(bitwright, unsealed):
    run, path = unsealed, unsealed / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    wrong(bitwright("verify", run), "model.onnx is damaged", "bitwright export")
    path.unlink()
    wrong(bitwright("verify", run), "model.onnx cannot be read", "'bitwright export")


@pytest.mark.parametrize("name", ["metrics.json", "census.json"])
def test_damaged_records(bitwright, unsealed, name):
    run = unsealed
    (run / name).write_text("{")
    wrong(bitwright("report", run), f"{name} is damaged", "again")
    (run / name).unlink()
    wrong(bitwright("report", run), f"{name} cannot be read", "--out")


def test_a_run_whose_network_has_changed(bitwright, unsealed, user):
    run = unsealed
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(':net"', ':branching"'))
    done = bitwright("evaluate", run, "--trust")
    wrong(done, "cannot capture the network Branching")
    (user.parent / "other.py").write_text(
        USER_FILE.replace("return made\n\n\ndef plain", "return made\n\n\ndef plain").replace(
            "made = small_network()\n    made.ex", "made = small_network(width=8)\n    made.ex"
        )
    )
    recipe.write_text(recipe.read_text().replace("net.py:branching", "other.py:net"))
    wrong(
        bitwright("evaluate", run, "--trust"),
        "belongs to another network",
        "'stem'",
        "MODEL changed",
    )


def test_list_of_what_there_is_not(bitwright):
    wrong(bitwright("list", "method"), "unknown list 'method'", "Did you mean 'methods'")


@pytest.mark.parametrize(
    "words",
    [
        ["quantise"],
        ["quantize", "m.py:f", "--schem", "w4a4"],
        ["quantize", "m.py:f", "--calib", "many"],
        ["verify"],
        ["list", "methods", "recipes"],
    ],
    ids=" ".join,
)
def test_usage_errors(bitwright, words):
    done = bitwright(*words)
    assert done.code == 2 and "Usage" in done.err + done.out


def test_help_is_no_error(bitwright):
    done = bitwright("--help")
    assert done.code == 0
    for command in ("quantize", "verify", "evaluate", "export", "report", "doctor", "list", "demo"):
        assert command in done.out
        assert bitwright(command, "--help").code == 0


def test_an_interruption_says_how_to_resume(bitwright, user, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bitwright.cli.commands.run", interrupted)
    out = tmp_path / "a run"
    done = bitwright("quantize", f"{user}:net", "--data", f"{user}:calib", "--out", out)
    assert done.code == 130
    assert f"Resume with:  bitwright quantize {user}:net" in done.err
    assert f"'{out}'" in done.err  # quoted, so that the line can be pasted
