"""What is tried for a promise, one thing after the other, and what of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bitwright.evaluation.promised import LookRecord, RungRecord
from bitwright.pipeline.proof import Judged, Prover
from bitwright.pipeline.result import Result
from bitwright.report.promise_words import word_rung

Settings = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Attempt:
    """A configuration that may keep the promise.

    Attributes:
        name: what was changed, in words.
        settings: the keys of the recipe that differ from what was asked for.
        result: the network.
        used: the cost that is to be small, where one is searched for.
    """

    name: str
    settings: Settings
    result: Result
    used: float | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """The best so far: what it is, how it was judged, and what its file showed."""

    candidate: Attempt
    judged: Judged
    look: LookRecord | None
    file: str

    @property
    def holds(self) -> bool:
        """Whether its file keeps the promise."""
        return self.look is not None and self.look.holds


@dataclass(eq=False)
class Ascent:
    """The rungs that were climbed. None that is worse on held-out samples is kept."""

    prover: Prover
    rungs: list[RungRecord] = field(default_factory=list)
    kept: Kept | None = None

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.kept is not None and self.kept.holds

    @property
    def is_hopeless(self) -> bool:
        """Whether float itself could not show the promise on these samples any more."""
        return self.prover.can_show() is not None

    def climb(self, candidate: Attempt) -> bool:
        """Judge a configuration; look at its file where it is no worse and may hold."""
        prover, before = self.prover, self.kept
        judged = prover.judge(candidate.result.model)
        falls = prover.promise.falls
        kept = before is None or not judged.is_worse(before.judged, falls)
        look, file = None, ""
        # Beyond the first look only what may succeed is looked at: every look costs confidence.
        if kept and not judged.refuted and not (prover.looks and self.is_hopeless):
            look, file = prover.prove(candidate.result)
        if kept:
            self.kept = Kept(candidate, judged, look, file)
        rung = RungRecord(
            name=candidate.name,
            settings=candidate.settings,
            figure=judged.figure,
            kl=judged.kl,
            kept=kept,
            look=look,
        )
        self.rungs.append(rung)
        prover.progress.note("promise", word_rung(rung, prover.promise.name))
        return self.holds

    def end(self) -> Kept:
        """What is kept, its file looked at if it was not before."""
        kept = self.kept
        assert kept is not None
        if kept.look is None:
            look, file = self.prover.prove(kept.candidate.result)
            self.kept = kept = replace(kept, look=look, file=file)
            place = max(i for i, rung in enumerate(self.rungs) if rung.kept)
            self.rungs[place] = replace(self.rungs[place], look=look)
        return kept
