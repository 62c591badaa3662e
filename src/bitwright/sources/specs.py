"""MODEL and D as written on a command line -> what they name.

A user's Python file is imported once per content of the file, under a name of its own, so that a
MODEL and a D from the same file share one module and edited files are read again.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bitwright.errors import DataError, InputError, ModelError, RecipeError, unknown
from bitwright.recipe.registered import find_registered
from bitwright.sources.guard import Foreign, say_absent, shorten

ZOOS = ("timm", "torchvision", "hf")
MODEL_FORMS = (
    "A MODEL is FILE.py:FUNCTION, package.module:FUNCTION, timm:NAME, torchvision:NAME, hf:FOLDER, "
    "a torch.export file X.pt2 or an ONNX file X.onnx"
)
DATA_FORMS = (
    "Data are FILE.py:FUNCTION, package.module:FUNCTION, a folder of images, X.npz, X.jsonl or none"
)

NONE, RANDOM = "none", "random"

# What file systems hold: a name, and a path.
_LONGEST_NAME = 255
_LONGEST = 4095

_PY_FILE = re.compile(r"^(?P<file>.+\.py):(?P<function>[^:/\\]*)$")
_MODULE = re.compile(r"^(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)$")


@dataclass(frozen=True)
class Spec:
    """A parsed MODEL or D.

    `kind` is file, module, timm, torchvision, hf, pt2, onnx, folder, npz, jsonl, source, random or
    none; `target` is the file, folder, module or name; `function` belongs to file and module alone.
    """

    text: str
    kind: str
    target: str = ""
    function: str = ""

    @property
    def path(self) -> Path:
        """The target as an absolute path, for the kinds that are files or folders."""
        return Path(self.target).expanduser().absolute()

    @property
    def is_path(self) -> bool:
        """Whether the target is a file or a folder of this machine."""
        return self.kind in ("file", "hf", "pt2", "onnx", "folder", "npz", "jsonl")


def parse_model(spec: str) -> Spec:
    """A MODEL, or ModelError with the accepted forms."""
    _check_text("MODEL", spec, ModelError)
    prefix, colon, name = spec.partition(":")
    if colon and prefix in ZOOS:
        if not name:
            example = "hf:FOLDER" if prefix == "hf" else f"{prefix}:NAME"
            raise ModelError(f"MODEL {spec!r} names no network. Write {example}.")
        return Spec(spec, prefix, name)
    python = _parse_python(spec, ModelError)
    if python is not None:
        return python
    if spec.lower().endswith(".onnx"):
        return Spec(spec, "onnx", spec)
    if spec.endswith(".pt2"):
        return Spec(spec, "pt2", spec)
    if spec.endswith((".pt", ".pth", ".safetensors", ".bin", ".ckpt")):
        raise ModelError(
            f"MODEL {spec!r} is a file of weights: the network itself is missing. Name a function "
            "that builds it and loads them (FILE.py:FUNCTION), or a library's network with "
            "--weights FILE."
        )
    raise ModelError(f"MODEL {spec!r} is not understood. {MODEL_FORMS}.")


def _check_text(what: str, spec: str, error: type[InputError]) -> None:
    """Refuse what can name nothing, before any file system or import machinery is asked."""
    odd = next((c for c in spec if ord(c) < 32 or ord(c) == 127), None)
    if odd is not None:
        name = "a line break" if odd in "\r\n" else f"the control character {odd!r}"
        raise error(f"{what} {shorten(spec)} holds {name}. Write it as one line of plain text.")
    whole = spec.encode("utf-8", "surrogatepass")
    if len(whole) > _LONGEST or max(map(len, re.split(rb"[/\\:]", whole))) > _LONGEST_NAME:
        raise error(
            f"{what} {shorten(spec)} has {len(spec)} characters: a name has up to "
            f"{_LONGEST_NAME} bytes, a path up to {_LONGEST}. Check what was passed."
        )


def _is_registered(spec: str) -> bool:
    """Whether a D is NAME:REST, of a source that another distribution registers."""
    name, colon, _ = spec.partition(":")
    return bool(colon) and name.isidentifier() and name in find_registered("source")


def parse_data(spec: str) -> Spec:
    """A D, or DataError with the accepted forms."""
    _check_text("data", spec, DataError)
    if spec in (NONE, RANDOM):
        return Spec(spec, spec)
    if _is_registered(spec):
        return Spec(spec, "source")
    python = _parse_python(spec, DataError)
    if python is not None:
        return python
    for kind in ("npz", "jsonl"):
        if spec.endswith("." + kind):
            return Spec(spec, kind, spec)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return Spec(spec, "folder", spec)
    if spec and path.is_file():
        raise DataError(f"data {spec!r} is a file of an unknown kind. {DATA_FORMS}.")
    raise DataError(f"{say_absent('file or folder', spec)}. {DATA_FORMS}.")


def check_present(spec: Spec, error: type[InputError]) -> None:
    """Whether the file or folder of a MODEL or a D is there; nothing is imported or read.

    Raises:
        InputError: of the kind given; it is not.
    """
    if spec.kind == "file":
        path = spec.path
        if not path.is_file():
            raise error(f"{say_absent('file', spec.target)}.{_near_file(path.resolve())}")
    elif spec.is_path and not spec.path.exists():
        what = "folder" if spec.kind in ("hf", "folder") else "file"
        raise error(f"{say_absent(what, spec.target)}. Check the path.")


def check_object(spec: str, error: type[InputError]) -> None:
    """Whether `FILE.py:NAME` or `package.module:NAME` is written so, and the file is there.

    Raises:
        InputError: of the kind given.
    """
    parsed = _parse_python(spec, error)
    if parsed is None:
        raise error(
            f"{spec!r} is not understood. Write FILE.py:FUNCTION or package.module:FUNCTION."
        )
    check_present(parsed, error)


def resolve_spec(spec: str) -> str:
    """The same spec with its file or folder made absolute: it then works from any directory."""
    prefix, colon, name = spec.partition(":")
    if (
        spec in (NONE, RANDOM)
        or (colon and prefix in ("timm", "torchvision"))
        or _is_registered(spec)
    ):
        return spec
    if colon and prefix == "hf" and name:
        return f"hf:{Path(name).expanduser().absolute()}"
    found = _PY_FILE.match(spec)
    if found:
        return f"{Path(found['file']).expanduser().absolute()}:{found['function']}"
    if _MODULE.match(spec):
        return spec
    return str(Path(spec).expanduser().absolute()) if spec else spec


def code_target(spec: str) -> str:
    """The file or module whose code a spec would run; empty where it names none."""
    found = _PY_FILE.match(spec)
    if found:
        return found["file"]
    found = _MODULE.match(spec)
    return found["module"] if found else ""


def _parse_python(spec: str, error: type[InputError]) -> Spec | None:
    found = _PY_FILE.match(spec)
    if found and found["function"]:
        return Spec(spec, "file", found["file"], found["function"])
    if found or spec.endswith(".py"):
        file = Path(found["file"] if found else spec).expanduser()
        if not file.is_file():
            raise error(f"{say_absent('file', file)}. Check the path.")
        names = _functions_in(file)
        some = f" Functions there: {', '.join(names)}." if names else ""
        raise error(f"{spec!r} names a file but no function. Write {file}:FUNCTION.{some}")
    found = _MODULE.match(spec)
    return Spec(spec, "module", found["module"], found["function"]) if found else None


def _functions_in(file: Path) -> list[str]:
    """Names of public top-level functions, read without running the file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if not name.startswith("_")]


# ---- python functions ------------------------------------------------------------------------


@dataclass(frozen=True)
class UserFunction:
    """A user's function without arguments, and the file to blame when it fails."""

    spec: str
    call: Callable[[], object]
    file: Path | None

    def guard(self, error: type[InputError], doing: str) -> Foreign:
        """The context in which this function, and what it returned, may run."""
        return Foreign(error, doing, file=self.file)


def load_function(spec: Spec, error: type[InputError]) -> UserFunction:
    """The function that a file or module spec names; `error` is the kind of error to raise."""
    value, file = _find(spec, error)
    if not callable(value):
        raise error(
            f"{spec.text!r} is of type {type(value).__name__}, not a function. "
            "Name a function that takes no arguments and returns it."
        )
    needed = _list_needed_arguments(value)
    if needed:
        raise error(
            f"{spec.text!r} needs arguments ({', '.join(needed)}) but is called with none. "
            "Give them defaults, or write a function without arguments that calls it."
        )
    return UserFunction(spec.text, value, file)


def load_object(spec: str, error: type[InputError] = RecipeError) -> object:
    """What `FILE.py:NAME` or `package.module:NAME` names, whatever it is and takes: a metric."""
    _check_text("the function", spec, error)
    parsed = _parse_python(spec, error)
    if parsed is None:
        raise error(
            f"{spec!r} is not understood. Write FILE.py:FUNCTION or package.module:FUNCTION."
        )
    return _find(parsed, error)[0]


def _find(spec: Spec, error: type[InputError]) -> tuple[object, Path | None]:
    """The named object and the file of its module."""
    module = _import_file(spec, error) if spec.kind == "file" else _import_module(spec, error)
    where = getattr(module, "__file__", None)
    file = Path(where) if where else None
    value = vars(module).get(spec.function)
    if value is None:
        # A module may make attributes on demand (PEP 562): this runs its code.
        with Foreign(error, f"looking up {spec.text}", file=file):
            value = getattr(module, spec.function, None)
    if value is None:
        raise error(_no_function(spec, module))
    return value, file


def _import_file(spec: Spec, error: type[InputError]) -> ModuleType:
    path = spec.path.resolve()
    if not path.is_file():
        raise error(f"{say_absent('file', spec.target)}.{_near_file(path)}")
    state = path.stat()
    identity = f"{path}|{state.st_mtime_ns}|{state.st_size}"
    name = f"_bitwright_user_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    plan = importlib.util.spec_from_file_location(name, path)
    if plan is None or plan.loader is None:
        raise error(f"{spec.target!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(plan)
    sys.modules[name] = module  # dataclasses and pickles look their module up while it is read
    done = False
    try:
        with Foreign(error, f"importing {spec.target}", file=path):
            plan.loader.exec_module(module)
        done = True
    finally:
        if not done:
            del sys.modules[name]
    return module


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {str(path.parent)!r}."
    names = sorted(entry.name for entry in path.parent.glob("*.py"))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else " Check the path."


def _import_module(spec: Spec, error: type[InputError]) -> ModuleType:
    # The command does not put the working directory on sys.path as `python -m` does. At the end,
    # so that a file there never hides an installed package.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        with Foreign(error, f"importing {spec.target}"):
            try:
                return importlib.import_module(spec.target)
            except ModuleNotFoundError as exc:
                if exc.name and f"{spec.target}.".startswith(f"{exc.name}."):
                    raise error(_no_module(spec, exc.name, error)) from exc
                raise
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _no_module(spec: Spec, missing: str, error: type[InputError]) -> str:
    near = difflib.get_close_matches(spec.target, ZOOS, n=1, cutoff=0.6)
    if near and error is ModelError:
        hint = f"Did you mean '{near[0]}:{spec.function}'?"
    else:
        hint = "Install it, run from its folder, or name the file as FILE.py:FUNCTION."
    return f"{spec.text!r}: no module {missing!r} on this machine. {hint}"


def _no_function(spec: Spec, module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    if names:
        return unknown("function", spec.function, names, spec.target)
    return f"unknown function {spec.function!r} in {spec.target}: it defines no public function."


def _list_needed_arguments(function: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature: calling will tell
        return []
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in stars]
