"""A device that is not there: tensors that say they are on it, and refuse to meet others.

Values are computed on the CPU. A tensor that was moved to `FAKE` reports that device, and so does
whatever is computed from it or made with its device; an operation on tensors of both sides raises,
as an accelerator's would, numbers of no dimension left out; so does reading it as a NumPy array.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

FAKE = torch.device("cuda:0")
MARK = "_on_fake_device"
_DEVICE = Tensor.device.__get__
_QUESTIONS = ("__get__", "__set__", "dim", "size", "numel", "is_floating_point", "element_size")


def is_fake(value: object) -> bool:
    """Whether a tensor is on the device."""
    return isinstance(value, Tensor) and getattr(value, MARK, False)


def _marked(value: Tensor) -> Tensor:
    setattr(value, MARK, True)
    return value


class FakeDevice(TorchFunctionMode):
    """While it is entered, `FAKE` is a device; `count` is how many operations ran on it."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == _DEVICE:
            return FAKE if is_fake(args[0]) else func(*args)
        if func in (Tensor.to, Tensor.cpu):
            return self._move(func, args, kwargs)
        if func is Tensor.numpy and is_fake(args[0]):
            raise TypeError("can't convert a tensor of the fake device to numpy")
        made_there = kwargs.get("device") is not None and torch.device(kwargs["device"]) == FAKE
        if made_there:
            kwargs["device"] = "cpu"
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [t for t in tensors if is_fake(t)]
        here = [t for t in tensors if not is_fake(t) and t.ndim]
        if there and here and name not in _QUESTIONS:
            raise RuntimeError(f"{name}: tensors on two devices")
        result = func(*args, **kwargs)
        if made_there or there:
            self.count += bool(there)
            # torch's named results are tuples that are no tree to pytree.
            whole = tuple(result) if isinstance(result, tuple) else result
            for value in pytree.tree_leaves(whole):
                if isinstance(value, Tensor):
                    _marked(value)
        return result

    def _move(self, func, args, kwargs):
        value, *rest = args
        named = [kwargs.pop("device", None), *rest] if func is Tensor.to else ["cpu"]
        devices = [torch.device(d) for d in named if isinstance(d, (str, torch.device))]
        devices += [
            FAKE if is_fake(d) else torch.device("cpu") for d in rest if isinstance(d, Tensor)
        ]
        others = [d for d in rest if not isinstance(d, (str, torch.device))]
        result = func(value, *others, **kwargs) if others or kwargs else value
        there = devices[0] == FAKE if devices else is_fake(value)
        if there == is_fake(result):
            return result
        result = result.view(result.shape) if result is value else result
        if there:
            return _marked(result)
        copy = result.clone()
        delattr(copy, MARK) if hasattr(copy, MARK) else None
        return copy
