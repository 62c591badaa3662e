"""Networks of timm and torchvision, and files of weights for them.

Both libraries are optional: they are imported here, inside functions, and nowhere else. Weights are
never downloaded.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitwright.errors import ModelError
from bitwright.sources.batches import BatchInputs
from bitwright.sources.guard import Foreign, reason, say_absent
from bitwright.sources.images import INTERPOLATIONS, ImagePreprocess
from bitwright.sources.specs import Spec

# Where training scripts keep the weights inside a checkpoint.
_NESTED = ("state_dict", "model", "model_state_dict")
_NAMED = 3


@dataclass(frozen=True)
class ZooNetwork:
    """What a library gave: the network in eval mode, its inputs and its preprocessing."""

    module: nn.Module
    example_inputs: BatchInputs | None
    preprocess: object | None


def import_optional(package: str, extra: str, spec: str) -> ModuleType:
    """Import an optional library, or ModelError with the line that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        how = "is not installed" if exc.name == package else f"cannot be imported ({reason(exc)})"
        raise ModelError(_install(package, extra, spec, how)) from exc
    # A torchvision that does not fit the installed torch fails in these ways on import.
    except (RuntimeError, AttributeError, OSError) as exc:
        how = f"is installed but fails to import ({reason(exc)})"
        raise ModelError(_install(package, extra, spec, how)) from exc


def _install(package: str, extra: str, spec: str, how: str) -> str:
    return f"{spec!r} needs {package}, which {how}. Install it by: pip install 'bitwright[{extra}]'"


# ---- timm ------------------------------------------------------------------------------------


def load_timm(spec: Spec, weights: Path | None) -> ZooNetwork:
    """`timm:NAME`, with the preprocessing of its pretrained configuration."""
    timm = import_optional("timm", "timm", spec.text)
    if not timm.is_model(spec.target):
        raise ModelError(_no_network(spec, timm.list_models()))
    with Foreign(ModelError, f"building {spec.text}"):
        module = timm.create_model(spec.target, pretrained=False).eval()
        config = dict(importlib.import_module("timm.data").resolve_model_data_config(module))
    if weights is not None:
        load_weights(module, weights, spec.text)
    channels, height, width = config["input_size"]
    squash = config.get("crop_mode", "center") == "squash"
    preprocess = None
    if channels == 3:
        preprocess = ImagePreprocess(
            (int(height), int(width)),
            tuple(config["mean"]),
            tuple(config["std"]),
            crop=None if squash else float(config.get("crop_pct", 0.875)),
            interpolation=_interpolation(config.get("interpolation", "bicubic")),
        )
    return ZooNetwork(module, (torch.zeros(2, channels, height, width),), preprocess)


# ---- torchvision -----------------------------------------------------------------------------


def load_torchvision(spec: Spec, weights: Path | None) -> ZooNetwork:
    """`torchvision:NAME`, with the preprocessing of its default weights."""
    import_optional("torchvision", "torchvision", spec.text)
    models = import_optional("torchvision.models", "torchvision", spec.text)
    names = models.list_models()
    if spec.target not in names:
        raise ModelError(_no_network(spec, names))
    with Foreign(ModelError, f"building {spec.text}"):
        module = models.get_model(spec.target, weights=None).eval()
        transforms = models.get_model_weights(spec.target).DEFAULT.transforms()
    if weights is not None:
        load_weights(module, weights, spec.text)
    preprocess = _preset(transforms)
    example = None if preprocess is None else (torch.zeros(2, 3, *preprocess.size),)
    return ZooNetwork(module, example, preprocess)


def _preset(transforms: object) -> ImagePreprocess | None:
    """torchvision's preset for classification; those for video or detection have other fields."""
    crop = list(getattr(transforms, "crop_size", ()))
    resize = list(getattr(transforms, "resize_size", ()))
    if len(crop) != 1 or len(resize) != 1:
        return None
    mode = getattr(transforms, "interpolation", "bilinear")
    return ImagePreprocess(
        (int(crop[0]), int(crop[0])),
        tuple(getattr(transforms, "mean", ())),
        tuple(getattr(transforms, "std", ())),
        crop=min(1.0, crop[0] / resize[0]),
        interpolation=_interpolation(getattr(mode, "value", mode)),
    )


def _interpolation(name: str) -> str:
    return name if name in INTERPOLATIONS else "bilinear"  # timm's "random" is for training


def _no_network(spec: Spec, names: Iterable[str]) -> str:
    # Both libraries know hundreds of networks: only the nearest are worth printing.
    near = difflib.get_close_matches(spec.target, list(names), n=_NAMED, cutoff=0.5)
    hint = f"Did you mean {', '.join(repr(name) for name in near)}? " if near else ""
    listing = "timm.list_models()" if spec.kind == "timm" else "torchvision.models.list_models()"
    return f"unknown network {spec.target!r} in {spec.kind}. {hint}All names: {listing}."


# ---- weights ---------------------------------------------------------------------------------


def load_weights(module: nn.Module, file: Path, name: str) -> None:
    """Load a file of weights into `module`; every weight must be found and every one used."""
    state = read_weights(file)
    remedy = f"These weights belong to another variant of {name}."
    with Foreign(ModelError, f"loading {file} into {name}", remedy=remedy):
        outcome = module.load_state_dict(state, strict=False)
    # Counters of batch-norm matter in training alone; old files lack them.
    missing = [key for key in outcome.missing_keys if not key.endswith("num_batches_tracked")]
    check_keys(f"weights {file}", name, missing, outcome.unexpected_keys)


def check_keys(
    what: str, name: str, missing: Iterable[str], unexpected: Iterable[str] = ()
) -> None:
    """Raise ModelError naming the first missing and unexpected keys, if there are any."""
    parts = [
        f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])}{', ...' if len(keys) > _NAMED else ''})"
        for kind, keys in (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
        if keys
    ]
    if parts:
        raise ModelError(
            f"{what} do not fit {name}: {' and '.join(parts)}. "
            "Check that they belong to this very network, its number of classes included."
        )


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, .pth, .pt or .bin; never anything but plain tensors."""
    path = file.expanduser()
    if not path.is_file():
        raise ModelError(f"{say_absent('weights file', file)}. Check --weights.")
    if path.suffix == ".safetensors":
        with Foreign(ModelError, f"reading {file}", remedy="Save it again, or check the download."):
            return dict(load_file(path))
    if path.suffix not in (".pth", ".pt", ".bin"):
        raise ModelError(
            f"weights {str(file)!r} are of an unknown kind {path.suffix!r}. "
            "Give .safetensors, .pth, .pt or .bin."
        )
    remedy = (
        "Only plain tensors are loaded, never pickled objects: save the network's state_dict() by "
        "torch.save or, better, safetensors."
    )
    with Foreign(ModelError, f"reading {file}", remedy=remedy):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return _state_dict(content, file)


def _state_dict(content: object, file: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(
            f"weights {str(file)!r} hold {type(content).__name__}, not tensors by name. "
            "Save the network's state_dict()."
        )
    wrong = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ModelError(
            f"weights {str(file)!r}: {wrong[0]!r} is {type(content[wrong[0]]).__name__}, not a "
            "tensor. Save the network's state_dict() alone."
        )
    state = {str(key): value for key, value in content.items()}
    if all(key.startswith("module.") for key in state):  # nn.DataParallel writes this prefix
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state
