"""What to do next, from what a run amounts to."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

from bitwright.graph.census_record import UnitEntry
from bitwright.report.rates import FEW_SAMPLES, say_count
from bitwright.report.speed_words import speed_advice
from bitwright.report.texts import Summary, compute_kept_db, percent

GOOD_AGREEMENT, GOOD_DROP = 0.98, 0.005
FEW_CALIBRATION = 256
WEAK_DB = 6.0


def advice(
    summary: Summary, units: Sequence[UnitEntry], calibration: int | None
) -> list[tuple[str, str]]:
    """What to do next, the most pressing first: (reason, option or command; may be empty)."""
    found = _about_verify(summary)
    if summary.poor:
        found += _about_loss(units, calibration)
    if summary.metric is None and summary.agreement is not None:
        found.append(
            ("Only agreement was measured. Labelled data show the accuracy:",
             "--eval DATA --metric top1")
        )  # fmt: skip
    if summary.samples is not None and summary.samples < FEW_SAMPLES:
        found.append(
            (f"Measured on {say_count(summary.samples, 'sample')}: one answer is "
             f"{percent(1 / max(summary.samples, 1))}. Give more:", "--eval DATA")
        )  # fmt: skip
    if summary.slow:
        found.append(speed_advice(summary.target))
    if _has_room(summary, units):
        found.append(("There is room for fewer bits:", "--scheme w4a8 --keep first,last=w8a8"))
    return found or [("Nothing needs doing: the figures above are good.", "")]


def _about_verify(summary: Summary) -> list[tuple[str, str]]:
    if summary.verified is None:
        return [
            ("See whether ONNX Runtime computes the same from model.onnx:",
             "bitwright verify RUN --data DATA")
        ]  # fmt: skip
    if summary.verified:
        return []
    if summary.first_failure:
        return [
            ("ONNX Runtime computes this unit otherwise than the simulation. Leave it in float, or "
             "use a target that the runtime follows exactly:",
             f"--keep {shlex.quote(f'{summary.first_failure}=float')}")
        ]  # fmt: skip
    return [
        ("Each unit agrees, yet the whole network does not, or no unit was checked. Verify again "
         "with more data:", "bitwright verify RUN --data DATA")
    ]  # fmt: skip


def _about_loss(units: Sequence[UnitEntry], calibration: int | None) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    coarse = {unit.name for unit in units if _is_coarse(unit)}
    ends = {unit.name for unit in (*units[:1], *units[-1:])}
    if ends & coarse and len(units) > 2:
        found.append(
            ("The answers differ too much. The first and the last unit often need more bits:",
             "--keep first,last=w8a8")
        )  # fmt: skip
    weak = _weak_units(units)
    if weak:
        keep = ",".join(weak) + ("=w8a8" if coarse & set(weak) else "=float")
        found.append(
            ("These units lose far more than the others. Keep them finer:",
             f"--keep {shlex.quote(keep)}")
        )  # fmt: skip
    if coarse:
        found.append(("The answers differ too much. Use more bits:", "--scheme w8a8"))
    if calibration is None or calibration < FEW_CALIBRATION:
        seen = "" if calibration is None else f" than {say_count(calibration, 'sample')}"
        found.append((f"More calibration data{seen} make better ranges:", "--data DATA --calib N"))
    found.append(("Another rounding method may lose less:", "bitwright list methods"))
    return found


def _is_coarse(unit: UnitEntry) -> bool:
    return any(0 < bits < 8 for bits in (unit.w_bits, unit.a_bits))


def _weak_units(units: Sequence[UnitEntry], most: int = 3) -> list[str]:
    """Units that keep far less of their signal than the median, worst first."""
    measured = compute_kept_db(units)
    if len(measured) < 3:
        return []
    limit = statistics.median(measured.values()) - WEAK_DB
    return [name for name in sorted(measured, key=lambda n: measured[n]) if measured[name] < limit][
        :most
    ]


def _has_room(summary: Summary, units: Sequence[UnitEntry]) -> bool:
    close = summary.agreement is not None and summary.agreement >= GOOD_AGREEMENT
    kept = summary.drop is None or summary.drop <= GOOD_DROP
    quantised = [unit for unit in units if unit.w_bits]
    return close and kept and bool(quantised) and not any(map(_is_coarse, quantised))
