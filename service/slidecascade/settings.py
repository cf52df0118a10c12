"""Every setting of the service: read once from the environment (prefix ``SLIDECASCADE_``), then passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slidecascade.errors import SettingsError

PACKAGE_DIR = Path(__file__).parent

RunnerKind = Literal["local", "bento", "triton"]
_ONE_MODEL = f"[a-z0-9][a-z0-9._-]*=({'|'.join(get_args(RunnerKind))})"
_BY_MODEL = f"^({_ONE_MODEL}(,{_ONE_MODEL})*)?$"
_EXAMPLES = {"gpus": "0,1", "runner_by_model": "nuclei-unet=triton,nash-cell=local"}
"""What settings with a pattern look like."""


def bundled_models_dir() -> Path:
    """The model repository that came with this installation: inside the wheel, or beside the sources."""
    installed = PACKAGE_DIR / "bundled_models"
    return installed if installed.is_dir() else PACKAGE_DIR.parents[1] / "models"


class Settings(BaseSettings):
    """One frozen object; each field says its unit and why the default is what it is."""

    model_config = SettingsConfigDict(
        env_prefix="SLIDECASCADE_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    models_dir: Path = Field(default_factory=bundled_models_dir)
    """Model repository (``<name>/<version>/model.onnx``)."""

    pipelines_dir: Path | None = None
    """A folder of further pipeline files; a pipeline of the same name replaces the bundled one."""

    slide_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders whose slides may be named in requests, separated like PATH. None: uploads only."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback unless asked otherwise."""

    port: int = Field(default=3000, ge=1, le=65535)
    """Port to listen on."""

    max_upload_bytes: int = Field(default=256 * 2**20, ge=1)
    """Largest request body in bytes: a 10,000 x 10,000 px PNG of tissue is about 200 MB."""

    max_region_px: int = Field(default=100_000_000, ge=1)
    """Largest region in level-0 pixels: a decoded upload of this size is 300 MB."""

    max_regions_in_flight: int = Field(default=8, ge=1)
    """Regions accepted at a time; more are answered ``overloaded``."""

    retry_after_s: int = Field(default=2, ge=1)
    """What an answer of 429 or 503 tells the caller to wait, in seconds."""

    max_deadline_s: float = Field(default=600.0, gt=0)
    """Longest a region may take in seconds; a request can only ask for less."""

    drain_grace_s: float = Field(default=60.0, gt=0)
    """After SIGTERM, how long requests in flight may take to finish, in seconds."""

    drain_notice_s: float = Field(default=1.0, ge=0)
    """After SIGTERM, how long the listener stays open at least, so that balancers see readiness fall."""

    threads: int = Field(default=0, ge=0)
    """Tiles worked on at a time; 0: as many as the cores this process may use."""

    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """Where networks run on this machine. Nothing falls back: without a usable GPU the service does not start."""

    gpus: str = Field(default="0", pattern=r"^\d+(,\d+)*$")
    """Numbers of the GPUs to use, ``0,1``: each holds all networks, and with batching they share the work. With
    ``bento`` each network is on one of them."""

    gpu_memory_mib: int = Field(default=0, ge=0)
    """Most memory a network may take on the GPU for each shape of batch, in MiB; 0: all there is."""

    engine_dir: Path | None = None
    """Where TensorRT keeps the engines it builds, which takes minutes; none: they are built at every start."""

    runner: RunnerKind = "local"
    """Where networks run: ``local``, in this process, ``bento``, each in a process of its own, or ``triton``."""

    runner_by_model: str = Field(default="", pattern=_BY_MODEL)
    """Models that run elsewhere than the others: ``nuclei-unet=triton,nash-cell=bento``."""

    triton_url: str = "localhost:8001"
    """``host:port`` of the Triton server's gRPC endpoint."""

    batching: Literal["auto", "on", "off"] = "auto"
    """Whether images of several requests run together: ``auto`` on a GPU only, for on a CPU it gains nothing."""

    max_batch: int = Field(default=32, ge=1, le=1024)
    """Most images run together; the larger the images, the fewer."""

    max_queue_items: int = Field(default=8192, ge=1)
    """Images that may wait for the networks when another caller comes: tiles, and the cells of tiles in flight."""

    max_inferences_in_flight: int = Field(default=32, ge=1)
    """Calls of ``/v2/.../infer`` accepted at a time; more are answered ``overloaded``."""

    max_tensor_bytes: int = Field(default=64 * 2**20, ge=1)
    """Largest body of ``/v2/.../infer`` in bytes: 16 tiles of 1024 x 1024 px take 48 MiB in binary form."""

    jobs_dir: Path | None = None
    """Folder of jobs and their results, and of their database; none: this server takes no jobs."""

    jobs_database_url: str | None = None
    """Postgres, for several processes to work on jobs: ``postgresql+psycopg://...``; none: SQLite, for one."""

    max_fields_in_flight: int = Field(default=2, ge=1)
    """Fields of jobs that a process works on at a time; each keeps all threads busy but for its end."""

    max_jobs: int = Field(default=1000, ge=1)
    """Jobs that are not done; more are answered ``overloaded``."""

    jobs_min_free_bytes: int = Field(default=2**30, ge=0)
    """Jobs are answered ``storage-full`` when less is free on the disk of their folder."""

    jobs_lease_s: float = Field(default=3.0, gt=0)
    """A process that was not heard of for so long has lost its fields to the others."""

    slide_handles: int = Field(default=16, ge=1)
    """Slides kept open."""

    max_slide_listing: int = Field(default=1000, ge=1)
    """Most slides ``/v1/slides`` lists."""

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """`gpus`, taken apart."""
        return tuple(map(int, self.gpus.split(",")))

    @property
    def runners_by_model(self) -> Mapping[str, RunnerKind]:
        """`runner_by_model`, taken apart."""
        pairs = (pair.split("=") for pair in self.runner_by_model.split(",") if pair)
        return {name: cast("RunnerKind", kind) for name, kind in pairs}

    @field_validator("runner_by_model")
    @classmethod
    def _one_runner_for_each(cls, value: str) -> str:
        names = [pair.partition("=")[0] for pair in value.split(",")]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice, and only one can be meant")
        return value

    @field_validator("slide_roots", mode="before")
    @classmethod
    def _split_path_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value


def read_settings(**overrides: object) -> Settings:
    """The settings of this process: `overrides` first, then the environment, then the defaults.

    Raises:
        SettingsError: with one sentence that names the setting and what is wrong with it.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        if first["type"] == "string_pattern_mismatch":  # whose message is the pattern
            reason = f"write it like {_EXAMPLES[parts[0]]}"
        elif first["type"] == "value_error":
            reason = str(first["ctx"]["error"])
        else:
            reason = first["msg"].replace("Input should be", "it should be").partition(", unable")[0]
            reason = reason.replace("valid integer", "whole number")
        raise SettingsError(f"{_variable(*parts)} cannot be {first['input']!r}: {reason}.") from error


def unknown_settings(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Variables with our prefix that are no setting, each with the setting it resembles or an empty string.

    They are told and not refused: Kubernetes sets such variables for a Service of the name ``slidecascade``.
    """
    known = [name.upper() for name in Settings.model_fields]
    prefix = _variable("")
    strange = {name: name.upper().removeprefix(prefix) for name in environment if name.upper().startswith(prefix)}
    return {
        name: next((_variable(found) for found in get_close_matches(part, known, n=1, cutoff=0.7)), "")
        for name, part in sorted(strange.items())
        if part not in known
    }


def _variable(*parts: str) -> str:
    return "SLIDECASCADE_" + "_".join(parts).upper()
