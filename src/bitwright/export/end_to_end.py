"""The whole network's answers in a runtime beside the simulation's, summed up batch by batch."""

from __future__ import annotations

from bitwright.export.kernels import AGREEMENT
from bitwright.export.rounding import find_agreeing
from bitwright.graph.answers import Answer, Compared, as_parts, name_parts


class EndToEnd:
    """Sums over batches of whole-network comparisons."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.same = self.rows = 0
        # The largest difference and the largest number of every output.
        self.spans: dict[str, tuple[float, float]] = {}

    def add(self, expected: Compared, got: Compared) -> int:
        """Take in a batch; returns how many answers differ."""
        agree = find_agreeing(self.answer, expected, got)
        same, rows = int(agree.sum()), agree.numel()
        self.same += same
        self.rows += rows
        parts = zip(name_parts(self.answer, expected).items(), as_parts(got), strict=True)
        for (name, want), have in parts:
            worst, scale = self.spans.get(name, (0.0, 1e-12))
            difference = float((want - have).abs().max())
            self.spans[name] = max(worst, difference), max(scale, float(want.abs().max()))
        return rows - same

    def agrees(self, left_out: int) -> bool:
        """Whether the promise holds for the answers that count."""
        return self.rows > 0 and self.same >= AGREEMENT * (self.rows - left_out)

    @property
    def agreement(self) -> float:
        """Share of the answers that are the same."""
        return self.same / max(self.rows, 1)

    @property
    def worst(self) -> float:
        """The largest difference of all outputs."""
        return max((worst for worst, _ in self.spans.values()), default=0.0)

    @property
    def by_output(self) -> dict[str, float]:
        """The worst difference of every output against its largest number."""
        return {name: worst / scale for name, (worst, scale) in self.spans.items()}

    @property
    def relative(self) -> float:
        """The worst difference against the largest number, of the worst output."""
        return max(self.by_output.values(), default=0.0)
