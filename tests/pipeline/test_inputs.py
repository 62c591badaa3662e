"""What a new user gives, in Python and by the command: taken, or refused before solving."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import DataError
from networks import normal, pictures, seeded

USER_FILE = """
import torch
from torch import nn


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def spread():
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))


def masks():
    torch.manual_seed(1)
    return [(torch.rand(8, 3, 8, 8), (torch.rand(8, 8, 8) > 0.5).float()) for _ in range(2)]


def agree(outputs, labels):
    return ((outputs[:, 1] > outputs[:, 0]).float() == labels).float().mean()


def pairs():
    return [((torch.rand(8, 3, 8, 8), torch.rand(8, 2)), torch.arange(8))]


def sparse():
    return [torch.eye(4).to_sparse()]
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(USER_FILE)
    return path


def stages_of(*args, **options):
    """The stages that ran before a run was refused, and the message."""
    progress, seen = Progress(), []
    progress.listeners.append(lambda event: seen.append(event.stage))
    with pytest.raises(DataError) as caught:
        bw.quantize(*args, recipe="fixed", progress=progress, **options)
    return set(seen), str(caught.value)


# ---- (image, target) -------------------------------------------------------------------------


class Both(nn.Module):
    """A picture and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = nn.Conv2d(3, 4, 3), nn.Linear(6, 4)

    def forward(self, image, table):
        return self.image(image).mean((2, 3)) + self.table(table)


def spread() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)).eval()


def test_a_loader_of_image_and_mask(user):
    x, mask = pictures(12, size=8), torch.rand(12, 8, 8)
    loader = DataLoader(TensorDataset(x, mask), batch_size=4)
    result = bw.quantize(
        seeded(spread), loader, recipe="fixed", evaluation=loader, metric=f"{user}:agree", calib=8
    )
    assert "agree" in result.metrics["quantized"] and result.metrics["samples"] == 12


def test_image_table_and_label():
    x, table, label = pictures(12, size=8), normal(12, 6), torch.arange(12) % 4
    loader = DataLoader(TensorDataset(x, table, label), batch_size=4)
    result = bw.quantize(seeded(Both).eval(), loader, recipe="fixed", evaluation=loader)
    assert result.metrics["samples"] == 12 and 0 <= result.metrics["float"]["top1"] <= 1


def test_two_inputs_of_which_one_looks_like_labels():
    class Lengths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 4)

        def forward(self, x, lengths):
            return self.body(x) / lengths[:, None]

    data = [(normal(8, 6), torch.arange(8) + 1)]
    assert bw.quantize(seeded(Lengths).eval(), data, recipe="fixed").metrics["samples"] == 8


def test_masks_by_the_command(bitwright, user, tmp_path):
    done = bitwright(
        "quantize", f"{user}:spread", "--data", f"{user}:masks", "--eval", f"{user}:masks",
        "--metric", f"{user}:agree", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0 and "agree" in done.out, done.err


def test_evaluation_data_that_do_not_fit_are_refused_before_solving(bitwright, user, tmp_path):
    net, x = seeded(spread), pictures(8, size=8)
    stages, text = stages_of(net, [x], evaluation=[((x, normal(8, 2)), torch.arange(8))])
    assert stages == {"capture"} and "2 input tensors, the network takes 1" in text
    stages, _ = stages_of(net, [x], evaluation=[(x[:, :1], torch.arange(8))])
    assert stages == {"capture"}
    stages, text = stages_of(net, [x], evaluation=[])
    assert stages == {"capture"} and "the evaluation data holds no sample" in text
    done = bitwright(
        "quantize", f"{user}:spread", "--data", f"{user}:masks", "--eval", f"{user}:pairs",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 2 and "2 input tensors" in done.err and "observe" not in done.out


# ---- DataLoader(shuffle=True) ----------------------------------------------------------------


def test_a_loader_that_shuffles_gives_the_same_run_twice():
    x = pictures(40, size=8)
    notes, states = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loader = DataLoader(TensorDataset(x, torch.arange(40)), batch_size=8, shuffle=True)
        result = bw.quantize(
            seeded(spread), loader, recipe="fixed", method="quadratic", scheme="w4a4", calib=24
        )
        states.append(result.model.state_dict())
        notes += [n["text"] for n in result.census["notes"] if "shuffles" in n["text"]]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert len(notes) == 2 and "of the seed 0" in notes[0]


# ---- a folder of pictures with one's own network ---------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30))):
        for i in range(4):
            path = tmp_path / "photos" / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 12), tuple(c + 5 * i for c in colour)).save(path)
    return tmp_path / "photos"


def test_what_the_message_says_works_for_doctor_and_quantize(bitwright, user, folder, tmp_path):
    for words in (("doctor", "--no-speed"), ("quantize", "--out", tmp_path / "run")):
        command = [words[0], f"{user}:tiny", "--data", folder, *words[1:]]
        refused = bitwright(*command)
        assert refused.code == 2
        example = re.search(r"for example (--size .*?), or pass", refused.err).group(1).split()
        example[1] = "8"
        done = bitwright(*command, *example, "--crop", "1")
        assert done.code == 0, done.err
        spaced = " ".join(example).replace(",", " ").split()
        assert bitwright(*command, *spaced, "--crop", "1").code == 0


def test_the_order_of_folder_labels_is_said(bitwright, user, folder, tmp_path):
    stated = ("--size", "8", "--mean", "0.5", "--std", "0.25")
    done = bitwright("doctor", f"{user}:tiny", "--no-speed", "--data", folder, *stated)
    assert done.code == 0 and "0 'green', 1 'red'" in done.out
    assert "scores 5 classes and there are 2 folders" in done.out
    done = bitwright(
        "quantize", f"{user}:tiny", "--data", folder, "--eval", folder, *stated,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0 and "0 'green', 1 'red'" in done.out
    assert "Make a folder for each class" in done.out
    again = bitwright("evaluate", tmp_path / "run", "--eval", folder)
    assert "scores 5 classes and there are 2 folders" in again.out
    for name in "uvw":
        (folder / name).mkdir()
    done = bitwright("doctor", f"{user}:tiny", "--no-speed", "--data", folder, *stated)
    assert "3 'v', 4 'w'." in done.out and "scores 5" not in done.out
    for name in "xyz":
        (folder / name).mkdir()
    done = bitwright("doctor", f"{user}:tiny", "--no-speed", "--data", folder, *stated)
    assert "3 'v', ..., 7 'z'." in done.out
    assert "5 classes and there are 8 folders: no answer can be right" in done.out


def test_a_folder_from_python(folder):
    net = seeded(spread)
    result = bw.quantize(net, str(folder), recipe="fixed", size=8, mean=[0.5], std=[0.25])
    assert result.metrics["samples"] == 8
    with pytest.raises(DataError, match="give --size, --mean and --std"):
        bw.quantize(net, str(folder), recipe="fixed")


# ---- what cannot be taken --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [("model.onnx", "no file 'model.onnx'"),
     ("a" * 5000, "characters: a name has up to"),
     ("m:f\n", "holds a line break")],
)  # fmt: skip
def test_odd_models_end_with_2(bitwright, user, model, message, tmp_path):
    for words in (("doctor", model, "--no-speed"), ("quantize", model, "--out", tmp_path / "run")):
        done = bitwright(*words, "--data", f"{user}:masks")
        assert done.code == 2 and message in done.err


def test_sparse_data_end_with_2(bitwright, user, tmp_path):
    done = bitwright(
        "quantize", f"{user}:tiny", "--data", f"{user}:sparse", "--out", tmp_path / "run"
    )
    assert done.code == 2 and "is a sparse tensor. Pass .to_dense() of it." in done.err
