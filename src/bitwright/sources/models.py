"""MODEL -> a network with all that is known about its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bitwright.errors import ModelError
from bitwright.sources.arity import Arity, arity_of
from bitwright.sources.batches import BatchInputs, as_inputs, check_plain
from bitwright.sources.guard import Foreign
from bitwright.sources.hf import load_hf
from bitwright.sources.onnx_data import FileInputs
from bitwright.sources.onnx_model import load_file
from bitwright.sources.pt2 import load_program
from bitwright.sources.specs import Spec, load_function, parse_model
from bitwright.sources.zoo import load_timm, load_torchvision


@dataclass(frozen=True)
class LoadedModel:
    """A network and what came with it.

    `preprocess` is an ImagePreprocess, a TextPreprocess or None. `program` is the exported program
    when the MODEL was a .pt2 file; `module` is then its unlifted form, which has no train and eval
    modes. `trained` is False when a library built the network with random weights because no
    --weights were given: good enough for `doctor`, worthless to quantise. `file` says what an ONNX
    file takes, and `guess` is an example of it where the file leaves sizes free.
    """

    module: nn.Module
    spec: str
    example_inputs: BatchInputs | None = None
    preprocess: object | None = None
    program: ExportedProgram | None = None
    trained: bool = True
    file: FileInputs | None = None
    guess: BatchInputs | None = None

    @property
    def takes(self) -> Arity | None:
        """How many inputs the network takes, which tells inputs from targets in the data."""
        return arity_of(self.module, self.example_inputs)


def load_model(spec: str, weights: Path | None = None) -> LoadedModel:
    """Find, build and check the network that `spec` names; `weights` is the --weights file."""
    parsed = parse_model(spec)
    if weights is not None and parsed.kind not in ("timm", "torchvision", "hf"):
        raise ModelError(
            f"--weights {weights} cannot be used with {spec!r}: it goes with timm:, torchvision: "
            "and hf: alone. Let the function load its own weights."
        )
    if parsed.kind in ("file", "module"):
        loaded = _load_function(parsed)
    elif parsed.kind == "pt2":
        loaded = _load_pt2(parsed)
    elif parsed.kind == "onnx":
        found = load_file(parsed.path, spec)
        loaded = LoadedModel(
            found.module, spec, found.example, found.inputs, file=found.inputs, guess=found.guess
        )
    elif parsed.kind == "hf":
        network = load_hf(parsed, weights)
        loaded = LoadedModel(network.module, spec, network.example_inputs, network.preprocess)
    else:
        load = load_timm if parsed.kind == "timm" else load_torchvision
        network = load(parsed, weights)
        loaded = LoadedModel(
            network.module,
            spec,
            network.example_inputs,
            network.preprocess,
            trained=weights is not None,
        )
    check_weights(loaded.module, spec)
    return loaded


def check_weights(module: nn.Module, name: str = "the network") -> None:
    """Raise ModelError when a parameter or buffer holds NaN or infinity, or no values at all.

    Minus infinity is let pass in buffers: attention masks hold it on purpose.
    """
    for key, parameter in module.named_parameters():
        _check_tensor(parameter.detach(), f"parameter {key!r} of {name}", is_buffer=False)
    for key, buffer in module.named_buffers():
        _check_tensor(buffer.detach(), f"buffer {key!r} of {name}", is_buffer=True)


def _check_tensor(tensor: Tensor, place: str, *, is_buffer: bool) -> None:
    if tensor.is_meta:
        raise ModelError(f"{place} has no values (device 'meta'). Load the weights first.")
    check_plain(tensor, place, ModelError)
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor)
    if is_buffer:
        bad &= tensor != -torch.inf
    count = int(bad.sum())
    if count:
        raise ModelError(
            f"{count} of {tensor.numel()} values of {place} are NaN or infinite. "
            "Mend the weights: no quantised network can be better than the float one."
        )


def example_inputs_of(module: nn.Module, name: str = "the network") -> BatchInputs | None:
    """The `example_inputs` that a network carries, in one form; None where it has none."""
    given = getattr(module, "example_inputs", None)
    place = f"example_inputs of {name}"
    return None if given is None else as_inputs(given, place, ModelError)


# ---- functions -------------------------------------------------------------------------------


def _load_function(spec: Spec) -> LoadedModel:
    function = load_function(spec, ModelError)
    with function.guard(ModelError, f"calling {spec.text}"):
        module = function.call()
    if not isinstance(module, nn.Module):
        forgot = " Is the return missing?" if module is None else ""
        raise ModelError(
            f"{spec.text!r} returned {type(module).__name__}, not a network: it must return a "
            f"torch.nn.Module.{forgot}"
        )
    return LoadedModel(module, spec.text, example_inputs_of(module, spec.text))


# ---- torch.export files ----------------------------------------------------------------------


def _load_pt2(spec: Spec) -> LoadedModel:
    program = load_program(spec.path, spec.text)
    with Foreign(ModelError, f"loading {spec.text}"):
        module = program.module()
    return LoadedModel(module, spec.text, _program_inputs(program, spec.text), program=program)


def _program_inputs(program: ExportedProgram, name: str) -> BatchInputs | None:
    """The inputs that the program was exported with, where they are all tensors of one kind."""
    args, kwargs = program.example_inputs or ((), {})
    if bool(args) == bool(kwargs):
        return None
    given: tuple[object, ...] = tuple(kwargs.values()) if kwargs else args
    if not all(isinstance(value, Tensor) for value in given):
        return None
    return as_inputs(kwargs or args, f"example inputs of {name}", ModelError)
