"""Who takes part, how each is set up, and why so."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.peers import knobs
from benchmarks.peers.alone import Alone
from benchmarks.peers.cases import Case
from benchmarks.peers.composition import MPP, PIPELINE, Composition
from benchmarks.peers.environments import python_of
from benchmarks.peers.knobs import BentoKnobs, Knobs, LitServeKnobs, RayKnobs, TritonKnobs
from benchmarks.peers.process import ROOT, PeerFailedError, Process, ask, environment, free_port, running
from benchmarks.peers.rounds import Ask, Started
from benchmarks.peers.triton_server import TritonServer, serving

from slidecascade.cores import usable_cores

_EDGE = "slidecascade-peers"
K = TypeVar("K", bound=Knobs)
Launch = Callable[..., contextlib.AbstractContextManager[Process]]
Serving = Callable[[Path, Path], contextlib.AbstractContextManager[TritonServer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a contender needs to start: the regions to come, a folder of its own, the pipeline, and what starts it.

    `launch` runs a command as `process.running` does, in the Python that `python_of` names; `serve_triton` a
    server as `triton_server.serving` does."""

    cases: Sequence[Case]
    folder: Path
    composition: Composition
    launch: Launch = running
    python_of: Callable[[str], Path] = python_of
    serve_triton: Serving = serving


Start = Callable[[Place], contextlib.AbstractContextManager[Started]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A contender with one choice of its settings."""

    knobs: Knobs
    start: Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to serve the pipeline.

    Attributes:
        setup: what is the same in all its candidates, for the reader to judge.
        candidates: settings to choose from, the documented ones first.
        target: how many times its throughput, and what part of its latency, the service aims at.
        slow: takes so long that it gets one short round.
        answers: whether it gives cells that can be compared.
    """

    name: str
    title: str
    setup: str
    candidates: tuple[Candidate, ...]
    target: float | None = None
    slow: bool = False
    answers: bool = True


def contenders() -> tuple[Contender, ...]:
    """All of them, the service first."""
    cores = usable_cores()
    return (
        Contender(
            name="ours",
            title="SlideCascade",
            setup="`slidecascade serve`, default settings, which are not tuned",
            candidates=_only(_ours),
        ),
        *_alone_contenders(cores),
        Contender(
            name="triton",
            title="Triton, plain client",
            setup="single-threaded ONNX Runtime in Triton's Python backend (its package on PyPI has no other), "
            "dynamic "
            "batching; a client program decodes, crops and encodes, and sends a tile, and up to 32 crops of a "
            "tile, in "
            "one gRPC message",
            candidates=_candidates(_triton, knobs.triton(cores)),
        ),
        *_litserve_contenders(cores),
        Contender(
            name="ray",
            title="Ray Serve",
            setup="a deployment for each network and one in front, single-threaded ONNX Runtime, "
            "`serve.batch`; a call "
            "for a tile, and for up to 32 crops of a tile",
            candidates=_candidates(_ray, knobs.ray(cores)),
            target=1.5,
        ),
        *_naive_contenders(cores),
        Contender(
            name="published",
            title="Keras predict, cell by cell",
            setup="the networks as Keras models with the same weights, TensorFlow's default threads, `predict` "
            "for one tile or cell at a time, one region after the other",
            candidates=_only(_published),
            target=10.0,
            slow=True,
        ),
    )


def _alone_contenders(cores: int) -> tuple[Contender, ...]:
    return (
        Contender(
            name="alone-per-core",
            title="ONNX Runtime alone, a thread per core",
            setup=f"the same network inputs and nothing else; {cores} threads share single-threaded sessions",
            candidates=_only(lambda place: _alone(Alone.per_core(place.composition, cores))),
            answers=False,
        ),
        Contender(
            name="alone-spread",
            title="ONNX Runtime alone, a call at a time",
            setup=f"the same network inputs and nothing else; one call at a time, spread over {cores} threads",
            candidates=_only(lambda place: _alone(Alone.spread(place.composition, cores))),
            answers=False,
        ),
    )


def _litserve_contenders(cores: int) -> tuple[Contender, ...]:
    return (
        Contender(
            name="litserve",
            title="LitServe, batching",
            setup="single-threaded ONNX Runtime in every worker; the tiles of a batch's regions are one call, "
            "their "
            "crops another",
            candidates=_candidates(_litserve, knobs.litserve_batching(cores)),
            target=1.5,
        ),
        Contender(
            name="litserve-unbatched",
            title="LitServe, no batching",
            setup="single-threaded ONNX Runtime in every worker",
            candidates=_candidates(_litserve, knobs.litserve_single(cores)),
            target=1.5,
        ),
    )


def _naive_contenders(cores: int) -> tuple[Contender, ...]:
    return (
        Contender(
            name="naive",
            title="naive BentoML, call after call",
            setup="a BentoML service per network (`batchable=True`), default settings but for the 60 s limit, "
            "as one "
            "writes it first and so not tuned; one `depends` call per tile and per cell, each waited for",
            candidates=_only(_naive),
            target=3.0,
        ),
        Contender(
            name="naive-gathered",
            title="naive BentoML, calls gathered",
            setup="the same with the calls of a tile's cells at the same time, so that BentoML batches them, and "
            "`runner_connection` raised, without which some of them fail",
            candidates=_candidates(_naive_gathered, knobs.bento(cores)),
            target=3.0,
        ),
    )


def _only(start: Start) -> tuple[Candidate, ...]:
    return (Candidate(knobs=Knobs(), start=start),)


def _candidates(
    start: Callable[[Place, K], contextlib.AbstractContextManager[Started]], choices: Sequence[K]
) -> tuple[Candidate, ...]:
    return tuple(Candidate(knobs=choice, start=partial(_start_with, start, choice)) for choice in choices)


def _start_with(
    start: Callable[[Place, K], contextlib.AbstractContextManager[Started]], choice: K, place: Place
) -> contextlib.AbstractContextManager[Started]:
    return start(place, choice)


@contextlib.contextmanager
def _ours(place: Place) -> Iterator[Started]:
    request = json.dumps({"pipeline": PIPELINE, "mpp": MPP}).encode()
    bodies = {
        case.number: multipart({"request": (request, "application/json"), "image": (case.png, "image/png")})
        for case in place.cases
    }
    command = [sys.executable, "-m", "slidecascade", "serve", "--port"]
    with _server("ours", command, place, ready="/readyz", BENTOML_HOME=str(place.folder)) as (port, process):
        yield Started(ask=_asker("ours", port, "/v1/regions", bodies, _FORM), process=process)


def _naive(place: Place) -> contextlib.AbstractContextManager[Started]:
    return _bento(place, "Naive", {})


def _naive_gathered(place: Place, choice: BentoKnobs) -> contextlib.AbstractContextManager[Started]:
    return _bento(place, "NaiveGathered", choice.variables())


@contextlib.contextmanager
def _bento(place: Place, service: str, variables: Mapping[str, str]) -> Iterator[Started]:
    bodies = {case.number: multipart({"image": (case.png, "image/png")}) for case in place.cases}
    command = [sys.executable, "-m", "bentoml", "serve", f"benchmarks.peers.naive_app:{service}"]
    command += ["--working-dir", str(ROOT), "--host", "127.0.0.1", "--port"]
    with _server(service, command, place, ready="/readyz", **{"BENTOML_HOME": str(place.folder), **variables}) as (
        port,
        process,
    ):
        yield Started(ask=_asker(service, port, "/analyse", bodies, _FORM), process=process)


@contextlib.contextmanager
def _litserve(place: Place, choice: LitServeKnobs) -> Iterator[Started]:
    bodies = {
        case.number: json.dumps({"image": base64.b64encode(case.png).decode()}).encode() for case in place.cases
    }
    command = [str(place.python_of("litserve")), "-m", "benchmarks.peers.lit_app", *choice.options(), "--port"]
    with _server("litserve", command, place, ready="/health", OMP_NUM_THREADS="1") as (port, process):
        yield Started(ask=_asker("litserve", port, "/predict", bodies, "application/json"), process=process)


@contextlib.contextmanager
def _ray(place: Place, choice: RayKnobs) -> Iterator[Started]:
    # A short path: Ray's sockets lie in it, and their names may have about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None))  # noqa: S108
    try:
        command = [str(place.python_of("ray")), "-m", "benchmarks.peers.ray_app", "--cores", str(usable_cores())]
        command += ["--folder", str(folder), *choice.options(), "--port"]
        # On loopback and for minutes: no report of usage, no tokens left in the user's home.
        quiet = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_raylet_start_wait_time_s": "120",
        }
        bodies = {case.number: case.png for case in place.cases}
        with _server("ray", command, place, ready="/ready", **quiet) as (port, process):
            yield Started(ask=_asker("ray", port, "/", bodies, "image/png"), process=process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _published(place: Place) -> Iterator[Started]:
    bodies = {case.number: case.png for case in place.cases}
    command = [sys.executable, "-m", "benchmarks.peers.published_app", "--port"]
    with _server("published", command, place, ready="/", TF_CPP_MIN_LOG_LEVEL="2") as (port, process):
        yield Started(ask=_asker("published", port, "/", bodies, "image/png"), process=process)


@contextlib.contextmanager
def _triton(place: Place, choice: TritonKnobs) -> Iterator[Started]:
    from benchmarks.peers.plain_triton import Plain, served

    with served(place.composition, place.folder, choice, place.serve_triton) as server:
        plain = Plain(server.url)
        yield Started(
            ask=lambda case: place.composition.answer(case.png, plain), process=Process.of(server.process.pid)
        )
        plain.close()


@contextlib.contextmanager
def _alone(alone: Alone) -> Iterator[Started]:
    yield Started(ask=alone.run, process=None)
    alone.close()


@contextlib.contextmanager
def _server(
    name: str, command: list[str], place: Place, *, ready: str, **variables: str
) -> Iterator[tuple[int, Process]]:
    """`command` with a free port as its last argument."""
    port = free_port()
    with place.launch(
        name,
        [*command, str(port)],
        port=port,
        ready=ready,
        folder=place.folder,
        variables=environment(**variables),
    ) as process:
        yield port, process


def _asker(name: str, port: int, path: str, bodies: Mapping[int, bytes], content_type: str) -> Ask:
    def send(case: Case) -> bytes:
        try:
            reply = ask(port, "POST", path, bodies[case.number], {"Content-Type": content_type})
        except http.client.HTTPException as error:
            raise PeerFailedError(f"{name} broke off its answer") from error
        if reply.status != http.client.OK:
            raise PeerFailedError(f"{name} answered {reply.status}: {reply.body[:300]!r}")
        return reply.body

    return send


_FORM = f"multipart/form-data; boundary={_EDGE}"


def multipart(parts: Mapping[str, tuple[bytes, str]]) -> bytes:
    """A form, made once: what is measured is servers, not the making of forms."""
    edge = b"--" + _EDGE.encode()
    lines: list[bytes] = []
    for name, (content, kind) in parts.items():
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="{name}"'
        lines += [edge, disposition.encode(), f"Content-Type: {kind}".encode(), b"", content]
    return b"\r\n".join([*lines, edge + b"--", b""])
