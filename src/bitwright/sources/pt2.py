"""A torch.export file X.pt2, checked entry by entry before torch sees any of it.

torch.export.load runs what a file says: it evaluates the file's expressions, generates Python from
its names, unpickles objects and opens the compiled libraries inside. And two readers of one zip
file may see different things in it. So the file is read once, here; what is not known is refused;
and torch is given a new archive, in memory, of the entries that were checked and nothing else.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.export import ExportedProgram

from bitwright.errors import ModelError
from bitwright.sources.guard import Foreign, reason, say_absent
from bitwright.sources.pt2_program import check_payloads, check_program

_FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_REMEDY = "Write the file again by torch.export.save with this version of PyTorch."
_LARGEST_JSON = 256 * 2**20
_ROOT = "checked"


def load_program(path: Path, name: str) -> ExportedProgram:
    """The exported program of a file, read from a copy of its checked entries.

    Raises:
        ModelError: no such file, or an entry that is not known, or that could run code.
    """
    if not path.is_file():
        raise ModelError(f"{say_absent('file', name)}. Check the path.")
    entries = _read(path, name)
    with Foreign(ModelError, f"loading {name}", remedy=_REMEDY), plain_tensors_only():
        program: ExportedProgram = torch.export.load(_archive(entries))
    return program


@contextmanager
def plain_tensors_only() -> Iterator[None]:
    """Make torch read every tensor with weights_only=True, where it would fall back to pickle."""
    before = os.environ.get(_FORCE_SAFE)
    os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_SAFE]
        else:
            os.environ[_FORCE_SAFE] = before


# ---- entries ---------------------------------------------------------------------------------


def _word(content: bytes, place: str) -> bytes:
    if not re.fullmatch(rb"[A-Za-z0-9_.]{1,64}\n?", content):
        raise ModelError(f"{place} is not one plain word. {_REMEDY}")
    return content


def _raw(content: bytes, _place: str) -> bytes:
    return content


def _tensors(content: bytes, place: str) -> bytes:
    """A file of torch.save: tensors in tuples, lists and dicts."""
    if not content:
        return content
    try:
        with Foreign(ModelError, f"reading {place}", remedy=_REMEDY):
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ModelError as exc:
        if isinstance(exc.__cause__, UnpicklingError):  # torch advises to run it
            raise ModelError(
                f"{place} holds pickled Python objects, which are never loaded: they run code. "
                "Export the network with tensors alone."
            ) from exc
        raise
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (tuple, list)):
            waiting += value
        elif not (value is None or isinstance(value, (Tensor, bool, int, float, str))):
            raise ModelError(f"{place} holds {type(value).__name__}, not tensors. {_REMEDY}")
    return content


EntryCheck = Callable[[bytes, str], bytes]
# The entries of a file, below its root folder; None for what torch.export.load can do without.
_KNOWN: tuple[tuple[re.Pattern[str], EntryCheck | None], ...] = tuple(
    (re.compile(pattern), check)
    for pattern, check in (
        (r"models/model\.json", check_program),
        (r"data/(weights/model_weights|constants/model_constants)_config\.json", check_payloads),
        (r"data/(weights/weight|constants/tensor)_[0-9]{1,9}", _raw),
        (r"data/(weights|constants|sample_inputs)/model\.pt", _tensors),
        (r"archive_format|archive_version|byteorder|\.data/version", _word),
        (r"(extra|\.data)/.*|\.format_version|\.storage_alignment|version", None),
        # The form of torch 2.6 and 2.7.
        (r"serialized_exported_program\.json", check_program),
        (r"serialized_(state_dict|constants|example_inputs)\.pt", _tensors),
        (r"extra_files/.*", None),
    )
)
_OLD = "serialized_exported_program.json"


def _read(path: Path, name: str) -> dict[str, bytes]:
    """What is to be loaded, by its name in the new archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_directory(members, path.stat().st_size, name)
            # torch 2.6 and 2.7 wrote no root folder.
            old = any(member.filename == _OLD for member in members)
            found = {}
            for member in members:
                own = member.filename if old else member.filename.partition("/")[2]
                check = _word if old and own == "version" else _check_of(member, own, name)
                if check is not None:
                    place = f"{own!r} of {name!r}"
                    found[own if old else f"{_ROOT}/{own}"] = check(archive.read(member), place)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as exc:
        raise ModelError(
            f"{name!r} is no torch.export file ({reason(exc)}). Write it by torch.export.save."
        ) from exc
    return found


def _check_directory(members: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """One root, every name once, nothing compressed, no two entries of the same bytes."""
    names = [member.filename for member in members]
    twice = [entry for entry, count in Counter(names).items() if count > 1]
    if twice:
        raise ModelError(
            f"{name!r} holds the entry {twice[0]!r} twice: which of them would be read depends on "
            f"the reader, so the file is refused. {_REMEDY}"
        )
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > size:
        what = f"the compressed entry {packed[0]!r}" if packed else "more bytes than the file has"
        raise ModelError(f"{name!r} holds {what}, which torch.export.save never writes. {_REMEDY}")
    roots = sorted({entry.partition("/")[0] for entry in names})
    if len(roots) > 1 and _OLD not in names:
        raise ModelError(f"{name!r} holds several folders ({', '.join(roots[:3])}). {_REMEDY}")


def _check_of(member: zipfile.ZipInfo, own: str, name: str) -> EntryCheck | None:
    if own.startswith("data/aotinductor/"):
        raise ModelError(
            f"{name!r} holds a compiled library ({own!r}), which loading would run: it is refused. "
            "Save the network by torch.export.save alone, without AOTInductor."
        )
    if own.endswith(".json") and member.file_size > _LARGEST_JSON:
        raise ModelError(f"{own!r} of {name!r} has over {_LARGEST_JSON} bytes. {_REMEDY}")
    for pattern, check in _KNOWN:
        if pattern.fullmatch(own):
            return check
    raise ModelError(
        f"{name!r} holds the entry {own!r}, which is not known: only the graph and plain tensors "
        f"of one network are loaded. {_REMEDY}"
    )


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    made.seek(0)
    return made
