"""Every setting of the service: read once from the environment (prefix ``SLIDECASCADE_``), then passed down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slidecascade.errors import SettingsError

PACKAGE_DIR = Path(__file__).parent


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
    """What an overloaded answer tells the caller to wait, in seconds."""

    max_deadline_s: float = Field(default=600.0, gt=0)
    """Longest a region may take in seconds; a request can only ask for less."""

    drain_grace_s: float = Field(default=60.0, gt=0)
    """After SIGTERM, how long requests in flight may take to finish, in seconds."""

    drain_notice_s: float = Field(default=1.0, ge=0)
    """After SIGTERM, how long the listener stays open at least, so that balancers see readiness fall."""

    threads: int = Field(default=0, ge=0)
    """Tiles worked on at a time; 0: as many as the cores this process may use."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks run. ``cuda`` never falls back: without a usable GPU the service does not start."""

    slide_handles: int = Field(default=16, ge=1)
    """Slides kept open."""

    max_slide_listing: int = Field(default=1000, ge=1)
    """Most slides ``/v1/slides`` lists."""

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
        name = "SLIDECASCADE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name} cannot be {first['input']!r}: {first['msg']}.") from error
