"""What a torch.export file may say: names, operators, expressions of sizes and shapes of results.

torch turns each of these into code or looks it up by attribute: it evaluates expressions with
sympy, writes names into the source of `forward`, walks from `torch` to whatever a node calls, and
imports the modules that the description of a result names. So each has a small language of its own
here, and what is not in it is refused.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from typing import Any

import torch


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keys of modules may hold a dash or a space; nothing that ends a string or opens a call.
_PATH = re.compile(r"[A-Za-z0-9_.\-/:@+ ]*")
_SYMBOL = re.compile(r"[a-z]{1,3}[0-9]{1,9}")
_DIGITS = re.compile(r"-?[0-9.]{1,40}(e-?[0-9]{1,3})?")
_LONGEST_EXPRESSION = 2000
_LARGEST_EXPONENT = 64
_LARGEST_NUMBER = 2**63

_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)")
_FUNCTIONS = frozenset(
    f"{place}.{name}"
    for place, names in {
        "_operator": "add sub mul truediv floordiv mod pow neg pos eq ne lt le gt ge and_ or_ not_ "
        "getitem",
        "math": "ceil floor trunc sqrt",
        "torch": "sym_int sym_float sym_max sym_min sym_ite sym_not sym_sum _sym_sqrt sym_sqrt",
        "torch.ops.higher_order": "cond wrap_with_autocast wrap_with_set_grad_enabled",
    }.items()
    for name in names.split()
)
# A text that an operator of tensors takes is one of a few words; elsewhere it may be a file's name.
_TEXTS = words(
    "UPLO approximate assert_msg driver equation indexing interpolation mode norm ord pad_mode "
    "padding padding_side reduce rounding_mode side"
)
_TYPES = frozenset(
    f"{before}{kind}{after}"
    for kind in (
        "Tensor", "bool", "complex", "float", "int", "number", "str", "Device", "Generator",
        "ScalarType", "MemoryFormat", "Layout", "SymInt", "List[Optional[Tensor]]",
    )
    for before, after in (("", ""), ("Optional[", "]"), ("List[", "]"), ("Optional[List[", "]]"))
)  # fmt: skip

_CALLS = words(
    "Add Mul Pow Integer Float Rational Symbol Equality Unequality LessThan GreaterThan "
    "StrictLessThan StrictGreaterThan FloorDiv ModularIndexing Where PythonMod Mod CleanDiv "
    "CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv "
    "TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity Max Min Eq Ne Gt Ge Lt Le "
    "And Or Not"
)
_POWERS = ("Pow", "PowByNatural", "FloatPow", "LShift")
_NODES = (
    ast.Expression, ast.Load, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Add, ast.Sub,
    ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.BitAnd, ast.BitOr,
    ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip

_RESULTS = re.compile(
    r"builtins\.(tuple|list|dict)|collections\.(OrderedDict|namedtuple|deque)"
    r"|torch\.fx\.immutable_collections\.immutable_(list|dict)|transformers(\.[A-Za-z_]\w*)+"
)
_DEEPEST = 60


def is_name(text: object) -> bool:
    """A Python name, which may stand in the source of a function."""
    return isinstance(text, str) and bool(_NAME.fullmatch(text))


def is_path(text: object) -> bool:
    """A module path such as `layer1.0.conv`."""
    return isinstance(text, str) and bool(_PATH.fullmatch(text))


def is_operator(text: object) -> bool:
    """Something that a node may call: an operator of tensors, or arithmetic on sizes.

    >>> is_operator("torch.ops.aten.relu.default"), is_operator("torch.ops.aten.from_file.default")
    (True, False)
    """
    if not isinstance(text, str):
        return False
    found = _OPERATOR.fullmatch(text)
    return _takes_tensors(*found.groups()) if found else text in _FUNCTIONS


@cache
def _takes_tensors(space: str, name: str, overload: str) -> bool:
    """Whether an operator knows tensors, numbers and a few words alone: no files, no objects."""
    wanted = "" if overload == "default" else overload
    try:
        schema = torch._C._get_schema(f"{space}::{name}", wanted)
    except RuntimeError:  # no such operator here
        return False
    texts = {arg.name for arg in schema.arguments if "str" in str(arg.type)}
    types = {str(arg.type) for arg in (*schema.arguments, *schema.returns)}
    return texts <= _TEXTS and types <= _TYPES


def is_expression(text: object) -> bool:
    """An expression of sizes: symbols, numbers, arithmetic and torch's own functions of them.

    >>> is_expression("Mul(Integer(2), Symbol('s77', integer=True))"), is_expression("2*s77 + 1")
    (True, True)
    >>> is_expression("__import__('os').getcwd()"), is_expression("9**9**9")
    (False, False)
    """
    if not isinstance(text, str) or len(text) > _LONGEST_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_arithmetic(node, id(node) in called) for node in nodes)


def _is_arithmetic(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Name):
        known = _CALLS if called else ("True", "False", "true", "false")
        return node.id in known or (not called and bool(_SYMBOL.fullmatch(node.id)))
    if isinstance(node, ast.Constant):
        return _is_number(node.value)
    if _power(node) is not None:
        return _is_small_power(node)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and all(
            keyword.arg and _is_setting(keyword.value) for keyword in node.keywords
        )
    return isinstance(node, _NODES)


def _is_number(value: object) -> bool:
    if isinstance(value, str):  # the name of a Symbol, the digits of a Float
        return bool(_SYMBOL.fullmatch(value) or _DIGITS.fullmatch(value))
    return value is None or (isinstance(value, (int, float)) and abs(value) <= _LARGEST_NUMBER)


def _is_setting(value: ast.expr) -> bool:
    """What a Symbol is assumed to be, or the digits of a Float."""
    setting = value.value if isinstance(value, ast.Constant) else ""
    return setting is None or (isinstance(setting, int) and 0 <= setting <= _LARGEST_EXPONENT)


def _power(node: ast.AST) -> ast.AST | None:
    """What something is raised to, or shifted by."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.right
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    return node.args[-1] if node.func.id in _POWERS and node.args else None


def _is_small_power(node: ast.AST) -> bool:
    """One power of a small exponent: a tower of them would never be done."""
    inside = [other for other in ast.walk(node) if other is not node]
    exponent = _power(node)
    numbers = (
        [n.value for n in ast.walk(exponent) if isinstance(n, ast.Constant)] if exponent else ()
    )
    small = all(isinstance(n, (int, float)) and abs(n) <= _LARGEST_EXPONENT for n in numbers)
    return small and not any(_power(other) for other in inside)


def is_structure(text: object, arguments: bool) -> bool:
    """How inputs or results are nested, as JSON; `arguments` have keys that are Python names."""
    if not isinstance(text, str):
        return False
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        return False
    known = isinstance(described, list) and len(described) == 2 and described[0] == 1
    return known and _is_node(described[1], arguments, 0)


def _is_node(node: Any, arguments: bool, depth: int) -> bool:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        return False
    kind, inside = node["type"], node["children_spec"]
    if depth > _DEEPEST or not isinstance(inside, list):
        return False
    if kind is None:
        return node["context"] is None and not inside
    if not isinstance(kind, str) or not _RESULTS.fullmatch(kind):
        return False
    in_order = _is_context(node["context"], arguments)
    return in_order and all(_is_node(child, arguments, depth + 1) for child in inside)


def _is_context(text: object, arguments: bool) -> bool:
    """The keys of a dict, or the name of a tuple's type; what an object names would be imported."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return False
    keys = value if isinstance(value, list) else [] if value is None else [value]
    fits = is_name if arguments else is_path
    return all(type(key) is int or fits(key) for key in keys)
