"""The configuration of the bridge, ``lis.yaml``."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from slidecascade.errors import SettingsError
from slidecascade.fhir.config import LOOPBACK, Coding, FhirServer
from slidecascade_lis import er7

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _path(text: object) -> object:
    return er7.Path.parse(text) if isinstance(text, str) else text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


FieldPath = Annotated[er7.Path, BeforeValidator(_path)]
Pattern = Annotated[str, AfterValidator(_pattern)]
CodedText = tuple[str, str, str]
"""Identifier, text and coding system."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Rule(_Part):
    """How a value is taken from an order: the first of the fields `take` that has one. `pattern` must match all of
    it, and its first group is taken; `table` replaces it and must have it; `template` puts it into ``{value}``."""

    take: tuple[FieldPath, ...] = ()
    pattern: Pattern | None = None
    table: dict[str, str] | None = None
    template: str = "{value}"
    default: str | None = Field(default=None, description="when none of the fields has a value")

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if not self.take and self.default is None:
            raise ValueError("a rule needs fields to `take`, or a `default`")
        if "{value}" not in self.template:
            raise ValueError("`template` must contain {value}")
        return self


class Orders(_Part):
    """How orders become jobs."""

    slide: Rule
    pipeline: Rule
    region: Rule | None = Field(default=None, description="x,y,width,height in level-0 pixels")
    priority: Rule | None = Field(
        default=None, description="a whole number, greater first, such as a table of TQ1-9"
    )
    label: Rule | None = Field(default=None, description="stored as a keyed hash, to find the jobs of a case")
    mpp: Positive | None = None
    allow_partial: bool = False
    unknown_slide: Literal["reject", "wait"] = "reject"
    wait_for_slide_hours: Positive = 24.0
    slide_retry_s: Positive = 30.0


@contextmanager
def _loading(part: str) -> Iterator[None]:
    """Raises SettingsError where certificates or keys cannot be loaded."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{part}: a certificate or key cannot be loaded: check its path and content."
        ) from error


class ServerTls(_Part):
    """TLS of the listener; with `client_ca`, clients must present a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises SettingsError."""
        with _loading("listen.tls"):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            return context


class ClientTls(_Part):
    """TLS to a receiver; `certificate` and `key` identify the bridge."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises SettingsError."""
        with _loading("receivers.tls"):
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            return context


class Listen(_Part):
    """Where orders are taken."""

    host: str = "127.0.0.1"
    port: int = Field(default=2575, ge=0, le=65535)
    tls: ServerTls | None = None
    allow_plaintext: bool = False
    max_message_bytes: int = Field(default=2**20, ge=1024)
    max_connections: int = Field(default=100, ge=1)
    idle_timeout_s: Positive = 3600.0
    frame_timeout_s: Positive = 30.0

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        if self.tls is None and self.host not in LOOPBACK and not self.allow_plaintext:
            raise ValueError("beyond loopback `tls` is required, unless `allow_plaintext: true` is set")
        return self


class Retries(_Part):
    """Which results go to a receiver: those of the sending applications in `senders`, or all that no other one
    takes; and how long they are tried."""

    senders: tuple[str, ...] = ()
    first_retry_s: Positive = 1.0
    max_retry_s: Positive = 300.0
    give_up_after_hours: Positive = 168.0


class Receiver(Retries):
    """A LIS that takes results over MLLP."""

    host: str
    port: int = Field(ge=1, le=65535)
    application: str = "LIS"
    facility: str = ""
    tls: ClientTls | None = None
    allow_plaintext: bool = False
    messages: tuple[Literal["ORU^R01", "OUL^R21"], ...] = ("ORU^R01",)
    charset: Literal["UNICODE UTF-8", "8859/1"] = "UNICODE UTF-8"
    ack_timeout_s: Positive = 30.0

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        if self.tls is None and self.host not in LOOPBACK and not self.allow_plaintext:
            raise ValueError("beyond loopback `tls` is required, unless `allow_plaintext: true` is set")
        return self


class Requests(_Part):
    """ServiceRequests that are taken as orders: those that a search finds, again and again."""

    poll_s: Positive = 30.0
    query: dict[str, str] = Field(
        default_factory=dict, description="further parameters of the search, such as {category: 'urn:x|analysis'}"
    )


class FhirReceiver(Retries):
    """A FHIR server that takes results as Bundles; with `requests`, orders come from it, and go back to it."""

    server: FhirServer
    codes: dict[str, Coding] = Field(default_factory=dict, description="as of `slidecascade export --fhir-config`")
    requests: Requests | None = None


class Pointer(_Part):
    """A reference in the result; `url` may contain ``{job}``."""

    code: CodedText
    url: str
    file: str | None = Field(
        default=None, description="the job's file that the address leads to: FHIR gets its size and hash"
    )
    data_type: str = "AP"
    subtype: str = "octet-stream"


class Picture(_Part):
    """A picture of the job in the result, as PNG: reduced until it keeps `max_bytes`."""

    file: str = "overlay.png"
    code: CodedText = ("picture", "Overview", "99SLIDECASCADE")
    max_side_px: int = Field(default=512, ge=64, le=4096)
    max_bytes: int = Field(default=200_000, ge=4096, le=5_000_000)


class Results(_Part):
    """How results are written."""

    codes: dict[str, CodedText] = Field(
        default_factory=dict, description="by observation, such as count.Ballooned"
    )
    system: str = Field(default="99SLIDECASCADE", description="coding system of observations without a code")
    patient_fields: tuple[int, ...] = Field(default=(3, 5), description="fields of PID that results repeat")
    pointers: tuple[Pointer, ...] = ()
    picture: Picture | None = None


class Service(_Part):
    """The SlideCascade service."""

    url: str = "http://127.0.0.1:3000"
    api_key_file: Path | None = None
    timeout_s: Positive = 60.0
    poll_s: Positive = 0.5
    max_jobs: int = Field(default=8, ge=1, description="jobs of the bridge that are not finished")


class Store(_Part):
    """Where messages are kept: an SQLite file, or the URL of a Postgres database."""

    database: str = "lis.sqlite"
    keep_days: Positive | None = Field(
        default=None, description="then ended orders and their messages are deleted"
    )
    busy_timeout_s: Positive = 10.0
    key_file: Path | None = Field(
        default=None, description="encrypts what is stored; a key a line, the current one first"
    )

    def path(self) -> Path | None:
        """The SQLite file; None for Postgres."""
        return None if "://" in self.database else Path(self.database)


class Metrics(_Part):
    """Prometheus metrics at ``/metrics`` of a loopback port."""

    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    port: int = Field(ge=0, le=65535)


class LisConfig(_Part):
    """All of ``lis.yaml``."""

    application: str = "SLIDECASCADE"
    facility: str = ""
    listen: Listen = Listen()
    service: Service = Service()
    store: Store = Store()
    orders: Orders
    receivers: dict[str, Receiver] = Field(default_factory=dict)
    fhir: dict[str, FhirReceiver] = Field(default_factory=dict)
    results: Results = Results()
    metrics: Metrics | None = None
    pseudonym_key_file: Path | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.receivers and not self.fhir:
            raise ValueError("`receivers` or `fhir` needs at least one receiver of results")
        if both := sorted(set(self.receivers) & set(self.fhir)):
            raise ValueError(f"`receivers` and `fhir` both have the name {both[0]!r}: choose another")
        if self.orders.label is not None and self.pseudonym_key_file is None:
            raise ValueError("`orders.label` needs `pseudonym_key_file`, the key of its hash")
        return self

    def receiver_of(self, application: str) -> str:
        """The name of the receiver for the orders of a sending application."""
        takers: dict[str, Retries] = {**self.receivers, **self.fhir}
        for name, receiver in takers.items():
            if application in receiver.senders:
                return name
        return next((name for name, receiver in takers.items() if not receiver.senders), next(iter(takers)))


def read_config(path: Path) -> LisConfig:
    """The configuration in a file.

    Raises:
        SettingsError: it cannot be read or is invalid; names the field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = LisConfig.model_validate(content)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): give the file by --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML in UTF-8: correct the file.") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        about = f"{place} is invalid" if place else "the document is invalid"
        raise SettingsError(f"{path}: {about}: {_sentence(first)}.") from None
    return config


def _sentence(error: ErrorDetails) -> str:
    """What is wrong with a field and what to write there, in place of pydantic's words."""
    own = {
        "extra_forbidden": "there is no such field, correct its name or remove it (see docs/lis.md)",
        "missing": "it is required, add it (see docs/lis.md)",
        "model_type": "it must be a mapping of fields",
    }
    text = own.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    return text.replace("Input should be", "it must be")


def read_secret(path: Path) -> str:
    """The content of a file with a key.

    Raises:
        SettingsError: it cannot be read or is empty.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key file {path} cannot be read: check its path and permissions.") from error
    if not secret:
        raise SettingsError(f"The key file {path} is empty: write the key into it.")
    return secret
