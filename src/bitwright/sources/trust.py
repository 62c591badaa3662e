"""The code that a run directory names is run only where its user named it before, or trusts it now.

A recipe names functions (`model`, `data`, `eval`, `metric`), and importing them runs code. A run
directory may come from anyone. So what `quantize` was told to run is recorded outside the run, in
the user's own state folder, under the run's path; and a run's code is imported only where it is, by
key and by name, what that record holds.

Why this is sound: nobody else can write the record (it counts only while it and its folder belong
to the user and nobody else may write them), so a run that was copied, unpacked or put in another's
place either has no record or names what the user has told this very run to import. A name that
depends on the working directory counts only there, and a file inside the run directory never does,
because whoever writes the run writes it too. What is compared is the parsed recipe that is then
used, so no change of the file in between matters.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bitwright.engine.files import write_atomically
from bitwright.errors import FileError, TrustError
from bitwright.sources.specs import ZOOS, code_target

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LARGEST_RECORD = 100_000


@dataclass(frozen=True)
class Gate:
    """Lets a spec of one run's recipe pass, where it names no code or code that may be run."""

    run: Path
    trusted: bool = False

    def allow(self, key: str, spec: str) -> str:
        """The spec itself.

        Raises:
            TrustError: it names code that was not named before, and nobody said to trust it.
        """
        if self.trusted or not names_code(key, spec):
            return spec
        problem = self._problem(key, spec)
        if problem:
            raise TrustError(
                f"the recipe of the run {str(self.run)!r} names code, {key} = {spec!r}, which is "
                f"not run: {problem}. Read that code; if you trust it, say --trust (from Python: "
                "trust=True). bitwright.load(RUN, model=net) needs none of it."
            )
        return spec

    def _problem(self, key: str, spec: str) -> str:
        """Why the code may not be run; empty where it may."""
        file = record_file(self.run)
        known = _read(file, self.run).get(key)
        if known is None:
            return f"no record in {file.parent} says that this run was made here, by you"
        if known.spec != spec:
            return f"the run was made with {key} = {known.spec!r}"
        if Path(code_target(spec)).resolve().is_relative_to(self.run.resolve()):
            return "the file lies in the run directory itself"
        here = NamedCode.of(spec).folder
        if known.folder != here:
            return f"it is found by way of the folder it is run from, which was {known.folder!r}"
        return ""


@dataclass(frozen=True)
class NamedCode:
    """A spec that names code, and the working directory where the spec means another elsewhere."""

    spec: str
    folder: str = field(default="")

    @classmethod
    def of(cls, spec: str) -> NamedCode:
        """The spec as it is found from here."""
        target = code_target(spec)
        is_file = target.endswith(".py")
        fixed = Path(target).expanduser().is_absolute() if is_file else _is_installed(target)
        return cls(spec, "" if fixed else str(Path.cwd()))


def names_code(key: str, spec: str) -> bool:
    """Whether the value of a recipe's key is Python code to be imported."""
    is_zoo = key == "model" and spec.partition(":")[0] in ZOOS
    return bool(spec) and not is_zoo and bool(code_target(spec))


def remember(run: Path, recipe: Mapping[str, Any]) -> bool:
    """Record what code a run was told to import; False where the state folder cannot be written.

    Where it names none, nothing is written.
    """
    named = {
        key: asdict(NamedCode.of(spec))
        for key, spec in recipe.items()
        if isinstance(spec, str) and names_code(key, spec)
    }
    file = record_file(run)
    content = json.dumps({"run": str(run.resolve()), "code": named}, indent=1) + "\n"
    try:
        if not named:
            file.unlink(missing_ok=True)
            return True
        for folder in (file.parent.parent, file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, content.encode())
        file.chmod(0o600)
    except (OSError, FileError):
        return False
    return bool(_read(file, run))


def record_file(run: Path) -> Path:
    """Where the record of a run is kept: below $XDG_STATE_HOME, else ~/.local/state."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    home = os.path.expanduser("~")  # noqa: PTH111 - never fails, unlike Path.home()
    state = Path(stated) if Path(stated).is_absolute() else Path(home) / ".local" / "state"
    key = hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:32]
    return state / "bitwright" / "made" / f"{key}.json"


def _read(file: Path, run: Path) -> dict[str, NamedCode]:
    """The record of a run; empty where there is none that counts."""
    try:
        if not all(_is_own(path) for path in (file.parent.parent, file.parent, file)):
            return {}
        found = json.loads(file.read_bytes()[:_LARGEST_RECORD])
        if found["run"] != str(run.resolve()):
            return {}
        return {str(key): NamedCode(**value) for key, value in found["code"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_own(path: Path) -> bool:
    """Whether a file or folder is the user's, and nobody else may write it."""
    state = path.lstat()
    if not hasattr(os, "geteuid"):  # on Windows the home folder is the user's alone
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & _OTHERS_WRITE


def _is_installed(module: str) -> bool:
    """Whether a module is found wherever the command is run from; nothing of it is imported."""
    top, here = module.partition(".")[0], Path.cwd()
    fixed = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    for finder in sys.meta_path:
        place = fixed if finder is PathFinder else None
        find = getattr(finder, "find_spec", None)
        if find is not None and find(top, place) is not None:
            return True
    return False
