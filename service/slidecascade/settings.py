"""The settings of the service, read once from the environment (prefix ``SLIDECASCADE_``) and passed down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, cast, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slidecascade.errors import SettingsError
from slidecascade.hosts import host_name

PACKAGE_DIR = Path(__file__).parent

RunnerKind = Literal["local", "bento", "triton"]
_ONE_MODEL = f"[a-z0-9][a-z0-9._-]*=({'|'.join(get_args(RunnerKind))})"
_BY_MODEL = f"^({_ONE_MODEL}(,{_ONE_MODEL})*)?$"
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?")
_SERVER = re.compile(r"[A-Za-z0-9._-]+=https?://[^\s,]+")
_EXAMPLES = {"gpus": "0,1", "runner_by_model": "nuclei-unet=triton,nash-cell=local"}
"""Examples of settings with a pattern, for error messages."""


def bundled_models_dir() -> Path:
    """The model repository of this installation: inside the wheel, or beside the sources."""
    installed = PACKAGE_DIR / "bundled_models"
    return installed if installed.is_dir() else PACKAGE_DIR.parents[1] / "models"


class Settings(BaseSettings):
    """All settings; the field docstrings are the help texts, with unit and reason of the default."""

    model_config = SettingsConfigDict(
        env_prefix="SLIDECASCADE_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    models_dir: Path = Field(default_factory=bundled_models_dir)
    """Model repository (``<name>/<version>/model.onnx``)."""

    model_keys: Path | None = None
    """PEM file of the public keys (Ed25519) of which one must have signed each model package; none: packages need
    no signature."""

    pipelines_dir: Path | None = None
    """Folder of additional pipeline files; a pipeline of the same name replaces the bundled one."""

    slide_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders whose slides can be requested, separated like PATH. None: uploads only."""

    dicomweb_servers: str = ""
    """DICOMweb servers whose slides can be requested as ``dicomweb:NAME/STUDY/SERIES`` (UIDs): ``NAME=URL``,
    separated by commas, such as ``pacs=https://pacs.hospital.org/dicom-web``. Empty: none."""

    dicomweb_tokens_dir: Path | None = None
    """Folder of files with the bearer tokens of DICOMweb servers, named as they are; read at each request. None:
    no tokens are sent."""

    dicomweb_cache_mib: int = Field(default=128, ge=1)
    """Memory for decoded frames of slides on DICOMweb servers, in MiB."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(default=3000, ge=1, le=65535)
    """Port to listen on."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of its own for ``/metrics``, at the same address; that port answers nothing else but health, and the
    other one has no metrics. None: the service's port."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Allowed values of the Host header, without port, separated by commas. None: any, except that
    ``slidecascade serve`` on loopback allows loopback names only, as a protection against DNS rebinding."""

    keys_file: Path | None = None
    """File of API keys, written by ``slidecascade keys``; it is read again when it changes. None: no keys."""

    oidc_file: Path | None = None
    """YAML file of the issuer whose tokens (OpenID Connect) are accepted; none: no tokens. With neither keys nor
    tokens, authentication is off."""

    allow_anonymous: bool = False
    """Whether an address beyond loopback may be listened on without authentication."""

    tls_certificate: Path | None = None
    """PEM file of the server's certificate and its chain, to speak TLS 1.2 and newer; none: plain HTTP."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key; none: it is in the certificate's file."""

    tls_client_ca: Path | None = None
    """PEM file of the authorities of which every client needs a certificate; none: clients need none."""

    audit_dir: Path | None = None
    """Folder of the audit log, which one process writes; none: no audit log."""

    max_connections: int = Field(default=1024, ge=16)
    """Maximum open connections, fewer if the limit of open files is lower. At the limit, the connection that has
    waited longest for its client is closed for a new one."""

    cors_origins: str = ""
    """Allowed origins of cross-origin requests (CORS), such as ``https://viewer.hospital.org``, separated by
    commas; ``*``: all. Empty: none."""

    max_upload_bytes: int = Field(default=256 * 2**20, ge=1)
    """Maximum request body in bytes: a 10,000 x 10,000 px PNG of tissue is about 200 MB."""

    decoders: int = Field(default=2, ge=0)
    """Number of confined processes that decode uploads and stacks of channels, about 40 MiB each; slides that are
    open have one each besides. 0: all is decoded in the service's own process, where a fault in a decoder ends the
    service."""

    max_arriving_bytes: int = Field(default=2**30, ge=1)
    """Maximum total size in bytes of bodies being received: four maximum uploads; one is always accepted."""

    max_region_px: int = Field(default=100_000_000, ge=1)
    """Maximum region in level-0 pixels: a decoded upload of this size is 300 MB."""

    max_regions_in_flight: int = Field(default=8, ge=1)
    """Maximum concurrent regions; more are rejected as ``overloaded``. An upload in progress uses no slot."""

    memory_mib: int = Field(default=0, ge=0)
    """Memory budget shared by all regions in flight, in MiB; 0: half of the memory available to this process.
    Regions wait for their share."""

    retry_after_s: int = Field(default=2, ge=1)
    """Value of the Retry-After header of 429 and 503 responses, in seconds."""

    max_deadline_s: float = Field(default=600.0, gt=0)
    """Maximum processing time of a region in seconds; a request can set a shorter deadline."""

    drain_grace_s: float = Field(default=60.0, gt=0)
    """Maximum time after SIGTERM for requests in flight to finish, in seconds."""

    drain_notice_s: float = Field(default=1.0, ge=0)
    """Minimum time after SIGTERM before the listener closes, in seconds, so that load balancers see the readiness
    change."""

    threads: int = Field(default=0, ge=0)
    """Number of tiles processed concurrently; 0: the number of cores available to this process."""

    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """Device of networks on this machine. No fallback: without a usable GPU the service does not start."""

    precision: Literal["float32", "auto", "int8"] = "float32"
    """Graph of models that have one in int8: ``auto`` runs int8 on a CPU with VNNI or Arm's dot products, and
    float32 elsewhere; ``int8`` does not start elsewhere. Cells and ids differ between the two graphs."""

    gpus: str = Field(default="0", pattern=r"^\d+(,\d+)*$")
    """Indices of the GPUs to use, such as ``0,1``. Each holds all networks, and batches are distributed over them;
    with ``bento`` each network is on one GPU."""

    gpu_memory_mib: int = Field(default=0, ge=0)
    """Maximum GPU memory of a network for each batch shape, in MiB; 0: unlimited."""

    engine_dir: Path | None = None
    """Folder of TensorRT's engine cache; none: engines are built at every start, which takes minutes."""

    runner: RunnerKind = "local"
    """Where networks run: ``local``, in this process; ``bento``, one process per network; or ``triton``."""

    runner_by_model: str = Field(default="", pattern=_BY_MODEL)
    """Runners of single models, overriding the runner: ``nuclei-unet=triton,nash-cell=bento``."""

    triton_url: str = "localhost:8001"
    """``host:port`` of the Triton server's gRPC endpoint."""

    batching: Literal["auto", "on", "off"] = "auto"
    """Whether images of several requests are batched: ``auto`` on a GPU only, because a CPU gains nothing."""

    max_batch: int = Field(default=32, ge=1, le=1024)
    """Maximum images per batch; fewer for large images."""

    max_queue_items: int = Field(default=8192, ge=1)
    """Maximum images queued for the networks when another request's images arrive: tiles, and crops of cells."""

    max_inferences_in_flight: int = Field(default=32, ge=1)
    """Maximum concurrent calls of ``/v2/.../infer``; more are rejected as ``overloaded``."""

    max_tensor_bytes: int = Field(default=64 * 2**20, ge=1)
    """Maximum body of ``/v2/.../infer`` in bytes: 16 tiles of 1024 x 1024 px are 48 MiB in binary form."""

    jobs_dir: Path | None = None
    """Folder for jobs, their results, and their SQLite database; none: jobs are disabled."""

    jobs_database_url: str | None = None
    """Postgres database for jobs, ``postgresql+psycopg://...``, for several processes; none: SQLite, for one."""

    max_fields_in_flight: int = Field(default=2, ge=1)
    """Maximum concurrent fields of jobs in a process; each uses all threads except near its end."""

    max_jobs: int = Field(default=1000, ge=1)
    """Maximum unfinished jobs; more are rejected as ``overloaded``."""

    jobs_min_free_bytes: int = Field(default=2**30, ge=0)
    """Minimum free space in the folder of jobs, in bytes; with less, jobs are rejected as ``storage-full``."""

    jobs_lease_s: float = Field(default=3.0, gt=0)
    """Time without a heartbeat after which the other processes take over the fields of a process, in seconds."""

    jobs_keep_days: float | None = Field(default=None, gt=0)
    """Days after its end until a job is deleted with its results; none: jobs are kept."""

    max_job_upload_bytes: int = Field(default=8 * 2**30, ge=1)
    """Maximum request body in bytes of a job with an uploaded slide; images are bounded like those of regions."""

    webhooks_file: Path | None = None
    """YAML file of the webhook targets that jobs can name in ``notify``; none: no notifications."""

    slide_handles: int = Field(default=16, ge=1)
    """Maximum number of open slides that nobody reads. Each has a confined process, which takes 5 to 60 MiB."""

    max_slide_listing: int = Field(default=1000, ge=1)
    """Maximum number of slides listed by ``/v1/slides``."""

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """`gpus`, parsed."""
        return tuple(map(int, self.gpus.split(",")))

    @property
    def runners_by_model(self) -> Mapping[str, RunnerKind]:
        """`runner_by_model`, parsed."""
        pairs = (pair.split("=") for pair in self.runner_by_model.split(",") if pair)
        return {name: cast("RunnerKind", kind) for name, kind in pairs}

    @field_validator("runner_by_model")
    @classmethod
    def _one_runner_for_each(cls, value: str) -> str:
        names = [pair.partition("=")[0] for pair in value.split(",")]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice: name each model once")
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name for part in value.split(",") if (name := host_name(part)))
        return value

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """`cors_origins`, taken apart."""
        return tuple(part.strip() for part in self.cors_origins.split(",") if part.strip())

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if wrong := next((part for part in parts if part != "*" and not _ORIGIN.fullmatch(part)), None):
            raise ValueError(f"{wrong!r} is not an origin: write https://host or http://host:port, without a path")
        return value

    @field_validator("dicomweb_servers")
    @classmethod
    def _require_servers(cls, value: str) -> str:
        for part in filter(None, value.split(",")):
            if not _SERVER.fullmatch(part):
                raise ValueError("write NAME=URL, separated by commas, with an http or https URL")
        return value

    @property
    def dicomweb(self) -> dict[str, str]:
        """URLs of DICOMweb servers by name."""
        pairs = (part.split("=", 1) for part in filter(None, self.dicomweb_servers.split(",")))
        return {name: url.rstrip("/") for name, url in pairs}

    @field_validator("slide_roots", mode="before")
    @classmethod
    def _split_path_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value


def read_settings(**overrides: object) -> Settings:
    """The settings of this process: `overrides`, then the environment, then the defaults.

    Raises:
        SettingsError: for an invalid value; the message names the setting and the reason.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        if first["type"] == "string_pattern_mismatch":  # its message is the pattern
            reason = f"write it like {_EXAMPLES[parts[0]]}"
        elif first["type"] == "value_error":
            reason = str(first["ctx"]["error"])
        else:
            reason = first["msg"].replace("Input should be", "it should be").partition(", unable")[0]
            reason = reason.replace("valid integer", "whole number")
        raise SettingsError(f"{_variable(*parts)} cannot be {first['input']!r}: {reason}.") from error


_OF_CLIENTS: Final = frozenset({"URL", "API_KEY", "STOW_TOKEN"})
"""Variables that commands read, and that a shell in which a server is started may have."""


def unknown_settings(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Variables with our prefix that are not settings, each with the most similar setting or an empty string.

    They are logged, not rejected: Kubernetes sets such variables for a Service named ``slidecascade``.
    """
    known = [name.upper() for name in Settings.model_fields]
    prefix = _variable("")
    prefixed = {name: name.upper().removeprefix(prefix) for name in environment if name.upper().startswith(prefix)}
    return {
        name: next((_variable(found) for found in get_close_matches(part, known, n=1, cutoff=0.7)), "")
        for name, part in sorted(prefixed.items())
        if part not in known and part not in _OF_CLIENTS
    }


def _variable(*parts: str) -> str:
    return "SLIDECASCADE_" + "_".join(parts).upper()
