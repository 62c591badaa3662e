"""The default: what the network decides is decided once, told, and written down."""

from __future__ import annotations

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.recipe.values import load_recipe
from networks import pictures, small_network


def test_the_default_is_solved_rounding_in_sequence_for_the_target_that_fits():
    progress, notes = Progress(), []
    progress.listeners.append(lambda event: notes.append(getattr(event, "text", "")))
    result = bw.quantize(small_network(), [pictures(48)], progress=progress)
    made = result.recipe
    assert (made.method, made.mode, made.scheme) == ("quadratic", "sequential", "w8a8")
    assert made.target == result.target.name == "ort-cpu"
    assert any("target ort-cpu: convolutions do" in str(text) for text in notes)


def test_a_run_says_what_was_decided_and_the_same_command_takes_it_up_again(tmp_path, bitwright):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(),"
        " torch.nn.Linear(16, 4)).eval()\n"
        "def calib():\n"
        "    return [torch.randn(32, 8, generator=torch.Generator().manual_seed(1))]\n"
    )
    user = tmp_path / "net.py"
    words = ("quantize", f"{user}:net", "--data", f"{user}:calib", "--out", tmp_path / "run")
    assert bitwright(*words, "--quiet").code == 0
    recipe = tmp_path / "run" / "recipe.toml"
    assert load_recipe(str(recipe))["target"] == "ort-linear"
    first = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert bitwright(*words, "--quiet").code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == first
    assert bitwright("check", tmp_path / "run").code == 0
    other = bitwright(*words, "--target", "weights-only", "--quiet")
    assert other.code == 2
    assert "another run" in other.err
