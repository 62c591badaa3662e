"""A method whose units are solved on another device than the one that their tensors lie on."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.engine.device import is_host, move
from bitwright.methods.problem import Method, Needs, UnitProblem, UnitSolution
from bitwright.numerics.ranges import RangeRule


@dataclass(frozen=True)
class OnDevice:
    """A method that takes its problem to a device and brings the solution back.

    Attributes:
        method: what solves.
        device: where; as `torch.device` reads it.
    """

    method: Method
    device: str

    @property
    def name(self) -> str:
        """The method's own."""
        return self.method.name

    @property
    def needs(self) -> Needs:
        """The method's own."""
        return self.method.needs

    def configured(self, weight_range: str | RangeRule) -> OnDevice:
        """The same with what a recipe says of ranges."""
        return OnDevice(self.method.configured(weight_range), self.device)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit there."""
        return move(self.method.solve(move(problem, self.device)), "cpu")


def solve_on(method: Method, device: str) -> Method:
    """The method, solving on a device; itself on the CPU, or where it needs no data.

    Methods without data look at a weight once: the way there and back is longer than the work.
    """
    return method if is_host(device) or not method.needs.data else OnDevice(method, device)
