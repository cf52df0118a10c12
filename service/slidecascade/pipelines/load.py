"""Pipelines: a YAML file each, no code. Its `kind` says which models it names and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union

import yaml
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from slidecascade.errors import PipelineSpecError
from slidecascade.models.repository import ModelPackage
from slidecascade.pipelines.spec import FileKind, Pipeline, PipelineSpec

BUNDLED_DIR = Path(__file__).parent
DEFAULT_KIND: Final = "cells"
"""The kind of a file that states none."""

P = TypeVar("P", bound=Pipeline)


def load_pipelines(
    models: Mapping[str, ModelPackage], extra_dir: Path | None, kinds: Sequence[FileKind[P]]
) -> Mapping[str, P]:
    """The bundled pipelines and those in `extra_dir`, by name.

    A bundled pipeline whose models are not all in `models` is left out (a lab may serve its own models only), and
    so is one of no kind of `kinds`; companions that are not there are left out of it.

    Raises:
        PipelineSpecError: for a file that is not valid, or one of `extra_dir` whose models are missing or do
            not fit together.
    """
    files = _Files(kinds)
    paths = [path for path in sorted(BUNDLED_DIR.glob("*.yaml")) if files.knows(path)]
    bundled = [files.read(path).served_with(models) for path in paths]
    chosen = {spec.name: spec for spec in bundled if spec.model_names <= models.keys()}
    if extra_dir is not None:
        if not extra_dir.is_dir():
            raise PipelineSpecError(
                "The pipelines folder does not exist: point SLIDECASCADE_PIPELINES_DIR at one."
            )
        extra = [files.read(path) for path in sorted(extra_dir.iterdir()) if path.suffix in (".yaml", ".yml")]
        if twice := {spec.name for spec in extra if [other.name for other in extra].count(spec.name) > 1}:
            raise PipelineSpecError(f"Two pipeline files are called {min(twice)!r}: give each a name of its own.")
        for spec in extra:
            if missing := sorted(spec.model_names - models.keys()):
                raise PipelineSpecError(
                    f"Pipeline {spec.name!r} needs the model {missing[0]!r}, which is not there: add its package "
                    "to the models folder, or correct the pipeline file."
                )
        chosen |= {spec.name: spec for spec in extra}
    assemble = {kind.name: kind.assemble for kind in kinds}
    return {name: assemble[spec.kind](spec, models) for name, spec in sorted(chosen.items())}


class _Files:
    """Reads pipeline files of some kinds: a union of their types, discriminated by `kind`."""

    def __init__(self, kinds: Sequence[FileKind[Any]]) -> None:
        self._names = [kind.name for kind in kinds]
        members = tuple(Annotated[kind.spec, Tag(kind.name)] for kind in kinds)
        union: Any = Annotated[Union[members], Discriminator(_kind_of)]  # noqa: UP007 - made of a table
        self._any: TypeAdapter[PipelineSpec] = TypeAdapter(union)

    def knows(self, path: Path) -> bool:
        """Whether a file states one of the kinds, or cannot be read and so has to be looked at."""
        try:
            return _kind_of(yaml.safe_load(path.read_text(encoding="utf-8"))) in self._names
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return True

    def read(self, path: Path) -> PipelineSpec:
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
            return self._any.validate_python(fields)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PipelineSpecError(
                f"The pipeline file {path.name} cannot be read as YAML: write it again."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"].startswith("union_tag"):
                raise PipelineSpecError(
                    f"The pipeline file {path.name} is wrong at kind: there are {', '.join(self._names)}."
                ) from error
            where = ".".join(str(part) for part in first["loc"][1:]) or "the file"
            raise PipelineSpecError(
                f"The pipeline file {path.name} is wrong at {where}: {first['msg']}."
            ) from error


def _kind_of(fields: Any) -> Any:
    return fields.get("kind", DEFAULT_KIND) if isinstance(fields, Mapping) else DEFAULT_KIND
