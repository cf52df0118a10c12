"""``torch.export`` programs (.pt2): a graph in JSON and tensors.

``torch.export.load`` unpickles parts of the file, evaluates its size expressions and its guards as Python, and
looks up operators by any path below ``torch``, ``torch.os.system`` among them. Therefore only the graph, checked
to hold nothing but names of tensor operators and arithmetic, and the plain tensors are copied to a new file, and
that is what is loaded.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from slidecascade.errors import ConversionError
from slidecascade_convert.original import ImageShape, image_shape
from slidecascade_convert.torch_checkpoints import check_archive
from slidecascade_convert.torch_failures import failing_as

_DAMAGED: Final = "The source is a torch.export program but is damaged: export it again."
_TENSORS: Final = re.compile(r"data/(weights|constants)/((weight|tensor)_\d+|\w+_config\.json)")
_NUMBERED: Final = re.compile(r"models/\w+\.json|archive_format|archive_version|byteorder|\.data/version")

_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims?)\.[A-Za-z_]\w*(\.[A-Za-z_]\w*)?"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(int|float|max|min|not|ite|sum)"
)
_PLAIN: Final = re.compile(r"[\w.+\-]{0,512}")
_TREE: Final = re.compile(r'"type": (?!"builtins\.(tuple|list|dict)"|null)')

# What size expressions consist of: names called with names, numbers and keywords.
_EXPRESSION: Final = (
    *(
        ast.Expression,
        ast.Call,
        ast.Name,
        ast.Load,
        ast.keyword,
        ast.Constant,
        ast.BinOp,
        ast.UnaryOp,
        ast.Compare,
    ),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_SYMBOL: Final = re.compile(r"[a-z]{1,4}\d+|oo|int_oo")
_FUNCTION: Final = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Min|Max|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|Identity"
    "|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv"
    "|CeilToInt|FloorToInt|CeilDiv|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToInt|TruncToFloat"
    "|RoundToInt|ToFloat"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A loaded program: its module, its source for the export, and its inputs."""

    module: Callable[[Any], Any]
    exported: torch.export.ExportedProgram
    shape: ImageShape
    batch: int | None
    takes_bytes: bool
    saved_by: str


def open_program(path: Path, scratch: Path) -> Program:
    """The program in `path`; a checked copy is written to `scratch`.

    Raises:
        ConversionError: when it is damaged, holds anything but tensors and their operators, was exported for one
            batch size or for training, or does not take one image.
    """
    copy = scratch / "checked.pt2"
    with failing_as(_DAMAGED):
        check_archive(path)
        saved_by = _copy_checked(path, copy)
        exported = torch.export.load(copy)
    copy.unlink()
    _refuse_training(exported)
    image = _image_input(exported)
    sizes = [_fixed(size) for size in image.shape]
    shape = image_shape("The program's input", sizes)
    if sizes[0] not in (None, 1):
        raise ConversionError(
            f"The program was exported for a batch of {image.shape[0]}: export it with dynamic_shapes that leave "
            "the batch open, {0: torch.export.Dim.DYNAMIC}."
        )
    return Program(
        module=exported.module(check_guards=False),
        exported=exported,
        shape=shape,
        batch=sizes[0],
        takes_bytes=image.dtype == torch.uint8,
        saved_by=saved_by,
    )


def _copy_checked(path: Path, copy: Path) -> str:
    """Write the safe parts to `copy`; returns the version of torch that saved it."""
    saved_by = "unknown"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as checked:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        models = [name for name in names if name.startswith("models/")]
        if len(models) != 1:
            raise ConversionError(
                f"The .pt2 file holds {len(models)} programs: save one with torch.export.save, torch 2.8 or newer."
            )
        for name, full in names.items():
            content = archive.read(full)
            if name == models[0]:
                program = json.loads(content)
                saved_by = str(program.get("torch_version", "unknown"))[:40]
                content = json.dumps(_checked_program(program)).encode()
            elif _TENSORS.fullmatch(name):
                content = _checked_config(content) if name.endswith(".json") else content
            elif not _NUMBERED.fullmatch(name):
                continue
            checked.writestr(f"program/{name}", content)
        # The reader requires sample inputs, which are a pickle; an empty one is valid.
        model = models[0].removeprefix("models/").removesuffix(".json")
        checked.writestr(f"program/data/sample_inputs/{model}.pt", b"")
    return saved_by


def _checked_config(content: bytes) -> bytes:
    for name, entry in json.loads(content)["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise ConversionError(
                f"The program keeps {name[:80]} as a pickle, and opening it would run code: save the model's "
                "state_dict instead, and give that with --arch."
            )
    return content


def _checked_program(program: dict[str, Any]) -> dict[str, Any]:
    """The program without its notes and guards, when all that is left is harmless."""
    program = {**program, "guards_code": []}
    return {key: _checked(value, key) for key, value in program.items()}


def _checked(value: Any, key: str) -> Any:
    """`value` of the JSON object's `key`, without the notes in it."""
    if key == "metadata":
        return {}
    if isinstance(value, dict):
        for name in value:
            _check_text(name, "")
        return {name: _checked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_checked(inner, key) for inner in value]
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _check_text(text: str, key: str) -> None:
    if key == "target":
        is_fine = bool(_OPERATOR.fullmatch(text))
    elif key == "expr_str":
        is_fine = _is_arithmetic(text)
    elif key in {"in_spec", "out_spec"}:
        is_fine = not _TREE.search(text)
    else:
        is_fine = bool(_PLAIN.fullmatch(text))
    if not is_fine:
        raise ConversionError(
            f"The program uses {text[:80]!r}, which is no tensor operator of torch: export the network without "
            "it, or save its state_dict and give that with --arch."
        )


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) < 10_000 else []
    except (SyntaxError, ValueError, RecursionError):
        return False
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return bool(nodes) and all(_is_term(node, is_function=id(node) in functions) for node in nodes)


def _is_term(node: ast.AST, *, is_function: bool) -> bool:
    """Whether a size expression may contain `node`; `is_function` if it is a called function."""
    match node:
        case ast.Name(id=name):
            return bool((_FUNCTION if is_function else _SYMBOL).fullmatch(name))
        case ast.Constant(value=str(text)):
            return bool(_PLAIN.fullmatch(text))
    return isinstance(node, _EXPRESSION) and not is_function


def _refuse_training(exported: torch.export.ExportedProgram) -> None:
    """Dropout and batch normalisation still in training make answers depend on chance and on the batch."""
    for node in exported.graph.nodes:
        name = str(node.target)
        is_training = (
            (name.startswith("aten.batch_norm") and len(node.args) > 5 and node.args[5] is True)
            or (name.startswith(("aten.dropout", "aten.feature_dropout")) and node.args[2] is True)
            or name.startswith("aten._native_batch_norm_legit.default")
        )
        if is_training:
            raise ConversionError("The program was exported in training mode: call the module's eval() before.")


def _image_input(exported: torch.export.ExportedProgram) -> torch.Tensor:
    inputs, outputs = exported.graph_signature.user_inputs, exported.graph_signature.user_outputs
    images = [
        node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in inputs
    ]
    if len(images) != 1 or len(outputs) != 1:
        raise ConversionError(
            f"The program has {len(images)} inputs and {len(outputs)} outputs: export one image and one answer."
        )
    (image,) = images
    if not isinstance(image, torch.Tensor):
        raise ConversionError("The program's input is not a tensor: export it with a batch of images.")
    if image.dtype not in (torch.float32, torch.uint8):
        raise ConversionError(f"The program's input is {image.dtype}: export it with float32 or uint8 images.")
    return image


def _fixed(size: object) -> int | None:
    return size if isinstance(size, int) else None
