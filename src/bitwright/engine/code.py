"""What code a stored result depends on: the files behind a function, found by their imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch

from bitwright.engine.digest import digest

PACKAGE = Path(__file__).parents[1]


def code_version(*keyed: Any) -> str:
    """Digest of the code that functions and classes run, and of torch's version.

    Of what belongs to this package that is the module it stands in and every module of the package
    that this one imports, directly or not. Of what a user brings along it is the file, or where
    there is none (a notebook) the source.

    Args:
        keyed: functions and classes whose outcome is kept.

    Raises:
        LookupError: a file is not where the imports say.
    """
    return digest(str(torch.__version__), [_version_of(thing) for thing in keyed])


def _version_of(thing: Any) -> str:
    package, _, module = thing.__module__.partition(".")
    if package == PACKAGE.name:
        return _package_version(module)
    try:
        path = inspect.getsourcefile(thing)
        text = Path(path).read_text() if path and Path(path).is_file() else inspect.getsource(thing)
    except (OSError, TypeError) as error:
        raise LookupError(
            f"the source of {thing.__module__}.{thing.__qualname__} cannot be read, so what it "
            "makes cannot be kept in a store. Define it in a file."
        ) from error
    return digest(thing.__qualname__, text)


@functools.cache
def _package_version(module: str) -> str:
    return digest(
        {
            path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in source_files(PACKAGE, module)
        }
    )


def source_files(package: Path, module: str) -> tuple[Path, ...]:
    """The files of a module and of all that it imports from its own package, directly or not.

    Args:
        package: the package's folder.
        module: such as `solving.parallel`.

    Raises:
        LookupError: a file is not there.
    """
    found: set[Path] = set()
    todo = [module]
    known: set[str] = set()
    while todo:
        name = todo.pop()
        if name in known:
            continue
        known.add(name)
        path = _file_of(package, name)
        if path is None:
            raise LookupError(f"the package {package.name} has no module {name!r}, which is keyed.")
        found.add(path)
        todo += _imports_of(package, path)
        # Importing a module runs the folders above it first.
        todo += [name.rpartition(".")[0]] if "." in name else []
    return tuple(sorted(found))


def _file_of(package: Path, module: str) -> Path | None:
    base = package / Path(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imports_of(package: Path, path: Path) -> list[str]:
    """The package's modules that a file imports, at its top or within a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            head, _, base = node.module.partition(".")
            if head != package.name:
                continue
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
            inner = [name for name in names if _file_of(package, name)]
            found += [*inner, *([base] if base else [])]
        elif isinstance(node, ast.Import):
            dotted = (alias.name.partition(".") for alias in node.names)
            found += [rest for head, _, rest in dotted if head == package.name and rest]
    return found
