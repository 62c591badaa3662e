"""The program of a torch.export file, field by field: nothing in it is run but tensor operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bitwright.errors import ModelError
from bitwright.sources.guard import reason
from bitwright.sources.pt2_words import (
    is_expression,
    is_name,
    is_operator,
    is_path,
    is_structure,
    words,
)

_DEEPEST = 100
_LONGEST_TEXT = 4000
_SHOWN = 80

# What the text of a field must be. Fields of the schema that are not here hold no text.
_TEXT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda text: text == "" or is_name(text), "a name"),
    **dict.fromkeys(("as_name", "forward_arg_names", "field_names"), (is_name, "a name")),
    **dict.fromkeys(
        ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"),
        (is_path, "a module path"),
    ),
    **dict.fromkeys(("target", "as_operator"), (is_operator, "an operator of tensors")),
    "expr_str": (is_expression, "an expression of sizes"),
    "in_spec": (lambda text: is_structure(text, True), "a plain structure of arguments"),
    "out_spec": (lambda text: is_structure(text, False), "a plain structure of results"),
    **dict.fromkeys(("type", "path_name"), (is_name, "a plain word")),
    **dict.fromkeys(("verifiers", "torch_version"), (is_path, "a plain word")),
    **dict.fromkeys(("as_string", "as_strings"), (lambda text: text.isprintable(), "one line")),
}
# Fields whose keys are free, and what these must be.
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"),
        (is_name, "a name"),
    ),
    **dict.fromkeys(("opset_version", "as_string_to_argument"), (is_name, "a name")),
    "range_constraints": (is_expression, "an expression of sizes"),
    **dict.fromkeys(("treespec_namedtuple_fields", "config"), (is_path, "a module path")),
}
_PLAIN = words(
    "graph_module graph inputs outputs nodes is_single_tensor_return custom_obj_values signature "
    "input_specs output_specs module_call_graph schema_version major minor min_val max_val dtype "
    "sizes requires_grad device index strides storage_offset layout is_param use_pickle "
    "tensor_meta user_input parameter buffer tensor_constant token constant_input arg persistent "
    "value user_output loss_output buffer_mutation parameter_mutation gradient_to_parameter "
    "gradient_to_user_input user_input_mutation kind is_hop_single_tensor_return hint real imag "
    "as_none as_tensor as_tensors as_int as_ints as_float as_floats as_expr as_sym_int as_sym_ints "
    "as_scalar_type as_memory_format as_layout as_device as_bool as_bools as_sym_bool as_sym_bools "
    "as_graph as_optional_tensors as_sym_float as_sym_floats as_optional_tensor as_complex "
    "as_nested_tensors as_int_lists as_float_lists"
)
# Where an operation came from: read for messages and for the units' names, never run.
_METADATA = ("stack_trace", "nn_module_stack")


def check_program(content: bytes, place: str) -> bytes:
    """The program with what torch needs to run it, or ModelError at the first thing it must not.

    Guards are left out: they are code that checks inputs, which capture checks itself.
    """
    program = _object(content, place)
    program.pop("guards_code", None)
    return json.dumps(_check_texts(program, "", place, 0)).encode()


def check_payloads(content: bytes, place: str) -> bytes:
    """The list of a file's tensors: plain ones alone."""
    found = _object(content, place)
    config = found.get("config")
    for key, meta in (config if isinstance(config, dict) else {}).items():
        plain = isinstance(meta, dict) and meta.get("use_pickle") is False
        path = str(meta.get("path_name", "")) if plain else ""
        if not path.startswith(("weight_", "tensor_")):
            raise ModelError(
                f"{_kind(place)} {key!r} in {place} is a pickled Python object, which is never "
                "loaded. Export the network with tensors only."
            )
    _check_texts(found, "", place, 0)
    return content


def _kind(place: str) -> str:
    return "constant" if "constants" in place else "weight"


def _object(content: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ModelError(
            f"{place} is no JSON ({reason(exc)}). Write the file again by torch.export.save."
        ) from exc
    if not isinstance(found, dict):
        raise ModelError(f"{place} holds no object. Write the file again by torch.export.save.")
    return found


def _check_texts(value: Any, field: str, place: str, depth: int) -> Any:
    """The same value, every text in it checked by the field that holds it."""
    if depth > _DEEPEST:
        raise ModelError(f"{place} is nested more than {_DEEPEST} deep, so it is not read.")
    if isinstance(value, str):
        return _text(value, field, place)
    if isinstance(value, list):
        return [_check_texts(item, field, place, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if field == "metadata":
        return {key: text for key, text in value.items() if _is_origin(key, text)}
    if field in _KEYS:
        fits, what = _KEYS[field]
        for key in value:
            if not fits(key):
                raise _refuse(key, field, what, place)
        return {key: _check_texts(inside, "", place, depth + 1) for key, inside in value.items()}
    return {key: _check_texts(inside, _check_known(key, inside, place), place, depth + 1)
            for key, inside in value.items()}  # fmt: skip


def _is_origin(key: str, text: object) -> bool:
    return key in _METADATA and isinstance(text, str)


def _check_known(field: str, value: Any, place: str) -> str:
    if field in ("custom_obj_values", "guards_code") and not value:
        return field
    if field not in _TEXT and field not in _KEYS and field not in _PLAIN and field != "metadata":
        raise ModelError(
            f"{place} has the field {field[:_SHOWN]!r}: Python objects, and fields that this "
            "version does not know, are never loaded. Export a network of tensors alone."
        )
    return field


def _text(text: str, field: str, place: str) -> str:
    fits, what = _TEXT.get(field, (lambda _: False, "a number"))
    if len(text) > _LONGEST_TEXT and field not in ("in_spec", "out_spec"):
        raise _refuse(text, field, "a short text", place)
    if not fits(text):
        raise _refuse(text, field, what, place)
    return text


def _refuse(text: str, field: str, what: str, place: str) -> ModelError:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return ModelError(
        f"{place} has {shown!r} as {field or 'a value'}, which is not {what}: loading it could run "
        "code, so the file is refused. Export the network again, or build it in a "
        "FILE.py:FUNCTION of your own."
    )
