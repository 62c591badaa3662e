"""What a network that comes from a file says of itself: the file's own names, and its notes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from bitwright.engine.note import Note

_KEY = "bitwright.interface"


@dataclass(frozen=True, eq=False)
class Interface:
    """How a file calls its inputs and outputs, and what else is to be known of it.

    Attributes:
        inputs, outputs: names as in the file, in its order.
        batch: how many samples the network takes at a time, where it takes no other number.
        notes: what a user should know.
        origin: the file itself, of a type that the graph does not know.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None = None
    notes: tuple[Note, ...] = ()
    origin: object = None

    def __deepcopy__(self, memo: object) -> Interface:
        """Itself: a network that is copied still comes from the one file."""
        return self


def interface_of(module: nn.Module) -> Interface | None:
    """What the network says; None for one that comes from no file."""
    found = module.meta.get(_KEY) if isinstance(module, fx.GraphModule) else None
    return found if isinstance(found, Interface) else None


def set_interface(module: fx.GraphModule, interface: Interface) -> None:
    """Let the network say it."""
    module.meta[_KEY] = interface
