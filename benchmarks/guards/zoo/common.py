"""What the zoo's builders share: a fixed seed, weights that are awake, and the example inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

Builder = Callable[[], nn.Module]
SEED = 20240613
VOCAB = 200
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Replace the degenerate parts of an initialisation, so that every operator matters.

    Freshly built networks have batch norms that do nothing, layer scales of 1e-6, zero biases and
    weights of std 0.02 whatever the width; a graph pass that drops one of these would go unseen.
    """
    for param in model.parameters():
        if not param.is_floating_point() or param.numel() < 2:
            continue
        spread = float(param.std())
        if spread < 1e-8:  # a constant: bias, norm scale, layer scale, position embedding
            base = param.clone() if float(param.abs().max()) > 0.05 else torch.zeros_like(param)
            param.copy_(base + 0.1 * torch.randn_like(param))
        elif param.numel() > param.shape[0]:  # not one gain a channel, as weight norm has it
            gain = 1.4 if param.dim() > 2 else 0.7
            param.mul_(max(1.0, gain * math.sqrt(param.shape[0] / param.numel()) / spread))
    for module in model.modules():
        if isinstance(module, NORMS) and module.affine:  # transformers starts some at N(0, 0.02)
            module.weight.uniform_(0.6, 1.4)


@torch.no_grad()
def settle(model: nn.Module, inputs: object) -> None:
    """Give every batch norm the statistics of its input, so that signals keep their size."""
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.running_mean is not None]
    if not norms or not all(x.is_floating_point() for x in leaves(inputs)):
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    grown = [torch.randn(6, *x.shape[1:]) for x in leaves(inputs)]
    if isinstance(inputs, dict):
        model(**dict(zip(inputs, grown, strict=True)))
    else:
        model(*grown)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.eval().momentum = momentum
        norm.running_var.clamp_(min=1e-3)


def leaves(inputs: object) -> list[torch.Tensor]:
    """The tensors of `example_inputs`."""
    return list(inputs.values() if isinstance(inputs, dict) else inputs)


def build(make: Callable[[], nn.Module], inputs: Callable[[], object]) -> nn.Module:
    """The module `make` returns, seeded, in eval mode, with its `example_inputs` attached."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = make()
        enliven(model)
        model.eval()
        model.example_inputs = inputs()
        settle(model, model.example_inputs)
    return model


def image(side: int = 64, channels: int = 3) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A batch of two square images, as positional arguments."""
    return lambda: (torch.randn(2, channels, side, side),)


def floats(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    """One float tensor with a batch of two in front of `shape`."""
    return lambda: (torch.randn(2, *shape),)


def pixels(side: int = 64) -> Callable[[], dict[str, torch.Tensor]]:
    """A batch of two square images, by transformers' keyword."""
    return lambda: {"pixel_values": torch.randn(2, 3, side, side)}


def tokens(length: int = 16, mask: bool = True) -> Callable[[], dict[str, torch.Tensor]]:
    """Two rows of token ids, the second one padded at the end if there is a mask."""

    def make() -> dict[str, torch.Tensor]:
        ids = torch.randint(5, VOCAB, (2, length))
        if not mask:
            return {"input_ids": ids}
        attention = torch.ones_like(ids)
        attention[1, -length // 4 :] = 0
        return {"input_ids": ids, "attention_mask": attention}

    return make


def wave(samples: int = 2000, key: str = "input_values") -> Callable[[], dict[str, torch.Tensor]]:
    """Two short waveforms."""
    return lambda: {key: torch.randn(2, samples)}


def hf(
    name: str,
    inputs: Callable[[], object],
    config: str | None = None,
    pick: str | None = None,
    **settings: object,
) -> Builder:
    """A builder for transformers' class `name` from `settings`; `pick` takes one submodule."""

    def builder() -> nn.Module:
        import transformers

        def make() -> nn.Module:
            owner = getattr(transformers, name)
            kind = getattr(transformers, config) if config else owner.config_class
            made = kind(attn_implementation="eager", **settings)
            if getattr(made, "use_cache", None):
                made.use_cache = False
            model = owner(made)
            return model.get_submodule(pick) if pick else model

        return build(make, inputs)

    return builder


def plain(make: Callable[[], nn.Module], inputs: Callable[[], object]) -> Builder:
    """A builder for one of the hand-written networks."""
    return lambda: build(make, inputs)
