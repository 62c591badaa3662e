"""timm and torchvision through small modules that follow their documented API."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitwright.errors import ModelError
from bitwright.sources.models import load_model
from bitwright.sources.zoo import load_weights, read_weights


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, pretrained=False):
        assert pretrained is False
        return Net()

    def resolve_model_data_config(model):
        return {
            "input_size": (3, 32, 32),
            "interpolation": "bicubic",
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.2, 0.2),
            "crop_pct": 0.9,
            "crop_mode": fake.crop_mode,
        }

    fake, data = ModuleType("timm"), ModuleType("timm.data")
    fake.crop_mode = "center"
    fake.create_model = create_model
    fake.list_models = lambda: ["resnet18", "resnet26", "vit_tiny"]
    fake.is_model = lambda name: name.split(".")[0] in fake.list_models()
    fake.data, data.resolve_model_data_config = data, resolve_model_data_config
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return fake


class InterpolationMode(Enum):
    BILINEAR = "bilinear"


@pytest.fixture
def torchvision(monkeypatch):
    preset = SimpleNamespace(
        crop_size=[224],
        resize_size=[232],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    video = SimpleNamespace(crop_size=[112, 112], resize_size=[128, 171])

    def get_model(name, weights="unset"):
        assert weights is None
        return Net()

    def get_model_weights(name):
        chosen = video if name == "r3d_18" else preset
        return SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: chosen))

    fake, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.get_model, models.get_model_weights = get_model, get_model_weights
    models.list_models = lambda: ["resnet18", "r3d_18"]
    fake.models = models
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return fake


def test_timm(timm):
    loaded = load_model("timm:resnet18.a1_in1k")
    assert not loaded.module.training and not loaded.trained
    assert loaded.example_inputs[0].shape == (2, 3, 32, 32)
    pre = loaded.preprocess
    assert (pre.size, pre.mean, pre.crop) == ((32, 32), (0.5, 0.4, 0.3), 0.9)
    assert pre.interpolation == "bicubic" and pre.scale == 255.0


def test_timm_squash(timm):
    timm.crop_mode = "squash"
    assert load_model("timm:vit_tiny").preprocess.crop is None


def test_timm_weights(timm, tmp_path):
    state = Net().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model("timm:resnet18", tmp_path / "w.safetensors")
    assert loaded.trained and torch.equal(loaded.module.fc.weight, state["fc.weight"])


def test_torchvision(torchvision, tmp_path):
    state = Net().state_dict()
    torch.save(state, tmp_path / "w.pth")
    loaded = load_model("torchvision:resnet18", tmp_path / "w.pth")
    assert loaded.trained and torch.equal(loaded.module.fc.weight, state["fc.weight"])
    assert loaded.example_inputs[0].shape == (2, 3, 224, 224)
    pre = loaded.preprocess
    assert pre.size == (224, 224) and pre.crop == pytest.approx(224 / 232)
    assert pre.interpolation == "bilinear" and pre.mean == (0.485, 0.456, 0.406)


def test_torchvision_video_has_no_known_image_preprocessing(torchvision):
    loaded = load_model("torchvision:r3d_18")
    assert loaded.preprocess is None and loaded.example_inputs is None


def test_unknown_names(timm, torchvision):
    with pytest.raises(ModelError, match=r"unknown network 'resnet19' in timm. Did you mean 'resn"):
        load_model("timm:resnet19")
    with pytest.raises(ModelError, match=r"in torchvision.*torchvision.models.list_models\(\)"):
        load_model("torchvision:resnet19")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_not_installed(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}.*pip install 'bitwright\[{package}\]'"):
        load_model(f"{package}:resnet18")


def test_installed_but_broken(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ModelError, match=r"fails to import .*operator nms does not exist"):
        load_model("torchvision:resnet18")


# ---- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_training_scripts(tmp_path, wrap, prefix):
    state = {prefix + k: v for k, v in Net().state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "w.pth")
    load_weights(Net(), tmp_path / "w.pth", "net")


def test_batch_norm_counters_may_be_missing(tmp_path):
    state = {k: v for k, v in Net().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    load_weights(Net(), tmp_path / "w.pth", "net")


def test_keys_that_do_not_fit(tmp_path):
    state = Net().state_dict()
    for key in [k for k in state if k.startswith(("bn", "fc"))]:
        state["x" + key] = state.pop(key)
    torch.save(state, tmp_path / "w.pth")
    message = (
        r"do not fit net: 6 missing \(bn.bias, bn.running_mean, bn.running_var, ...\) and "
        r"7 unexpected \(xbn.bias"
    )
    with pytest.raises(ModelError, match=message):
        load_weights(Net(), tmp_path / "w.pth", "net")


def test_shapes_that_do_not_fit(tmp_path):
    torch.save(Net(7).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"size mismatch for fc.weight.*another variant of net"):
        load_weights(Net(), tmp_path / "w.pth", "net")


def test_wrong_files(tmp_path):
    with pytest.raises(ModelError, match=r"no weights file 'missing.pth'"):
        read_weights(Path("missing.pth"))
    other = tmp_path / "w.h5"
    other.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"of an unknown kind '.h5'. Give .safetensors"):
        read_weights(other)
    torch.save(Net(), tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"Only plain tensors .* state_dict\(\)"):
        read_weights(tmp_path / "net.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="hold list, not tensors by name"):
        read_weights(tmp_path / "list.pth")
    torch.save({"a": 3}, tmp_path / "int.pth")
    with pytest.raises(ModelError, match="'a' is int, not a tensor"):
        read_weights(tmp_path / "int.pth")
    (tmp_path / "w.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"reading .*w.safetensors failed.*check the download"):
        read_weights(tmp_path / "w.safetensors")
