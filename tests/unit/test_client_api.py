"""The methods of the clients: paths, answers, health."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from typing import Any

import pytest

import slidecascade_client
from scripted_server import HTML_502, Answer, Ask, Drop, FakeTime, both_clients, problem, scripted
from slidecascade import wire
from slidecascade_client import (
    AsyncClient,
    Client,
    RequestRefusedError,
    RetryPolicy,
    UnexpectedAnswerError,
    UnknownSlideError,
)

NUCLEUS = wire.ClassInfo(name="Nucleus", color=(1, 2, 3))
MODEL = wire.ModelInfo(
    name="nuclei",
    version=1,
    task="segment",
    head="unet",
    mpp=0.5,
    classes=(NUCLEUS,),
    licence="CC0-1.0",
    training_data=({"name": "made up"},),
    accuracy={"ap50": 0.7},
    sha256="a" * 64,
)
PIPELINE = wire.PipelineInfo(
    name="nash",
    title="NASH",
    description="A cascade.",
    segmenter="nuclei",
    classifiers=("nash-cell",),
    classes=(NUCLEUS,),
    heatmaps=(wire.HeatmapInfo(name="immune", title="Immune", kind="density"),),
)
SLIDE = wire.SlideInfo(
    id="a.svs",
    width=10,
    height=20,
    mpp=None,
    objective_power=None,
    vendor="aperio",
    levels=(wire.LevelInfo(width=10, height=20, downsample=1.0),),
)
HEALTHY = Answer()
SLIDES = wire.SlideList(slides=(wire.SlideRef(id="a.svs"),), truncated=True)


@both_clients
@pytest.mark.parametrize(
    ("method", "argument", "path", "document", "expected"),
    [
        ("pipelines", None, "/v1/pipelines", wire.PipelineList(pipelines=(PIPELINE,)), (PIPELINE,)),
        ("pipeline", "nash", "/v1/pipelines/nash", PIPELINE, PIPELINE),
        ("models", None, "/v1/models", wire.ModelList(models=(MODEL,)), (MODEL,)),
        ("model", "nuclei", "/v1/models/nuclei", MODEL, MODEL),
        ("slides", None, "/v1/slides", SLIDES, SLIDES),
        ("slide", "a.svs", "/v1/slides/a.svs", SLIDE, SLIDE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_service_holds_is_answered_typed(
    ask: Ask, method: str, argument: str | None, path: str, document: wire.Answer, expected: Any
) -> None:
    """Pipelines, models and slides come as the wire types."""
    arguments = () if argument is None else (argument,)
    with scripted(Answer(body=document.model_dump_json().encode())) as server:
        assert ask(server.url, method, *arguments, time=FakeTime()) == expected
    (received,) = server.received
    assert (received.method, received.path) == ("GET", path)
    assert received.headers["Accept"] == "application/json"
    assert received.headers["User-Agent"].startswith("slidecascade-client/")


@both_clients
@pytest.mark.parametrize(
    ("slide_id", "path"),
    [
        ("folder/a b.svs", "/v1/slides/folder/a%20b.svs"),
        ("ä?#%.svs", "/v1/slides/%C3%A4%3F%23%25.svs"),
        ("../models/nuclei", "/v1/slides/%2E%2E%2Fmodels%2Fnuclei"),
        ("..", "/v1/slides/%2E%2E"),
        ("/etc/passwd", "/v1/slides/%2Fetc%2Fpasswd"),
        ("", "/v1/slides/"),
    ],
)
def test_a_slide_id_never_becomes_another_path(ask: Ask, slide_id: str, path: str) -> None:
    """Whatever the id, it is the service that judges it."""
    with scripted(problem("unknown-slide", 404)) as server, pytest.raises(UnknownSlideError):
        ask(server.url, "slide", slide_id, time=FakeTime())
    assert server.received[0].path == path


@both_clients
@pytest.mark.parametrize(("method", "path"), [("ready", "/readyz"), ("alive", "/livez")])
@pytest.mark.parametrize(
    ("act", "healthy"),
    [
        (HEALTHY, True),
        (problem("not-ready", 503), False),
        (problem("draining", 503), False),
        (HTML_502, False),
        (Answer(500), False),
        (Drop(), False),
    ],
    ids=["ok", "not-ready", "draining", "html-502", "500", "dropped"],
)
def test_health_is_yes_or_no(ask: Ask, method: str, path: str, act: Answer | Drop, healthy: bool) -> None:
    """A healthy service says so in its body; failures are a no, at once."""
    time = FakeTime()
    if act is HEALTHY:
        act = Answer(body=b'{"status": "%s", "more": 1}' % {"/readyz": b"ready", "/livez": b"alive"}[path])
    with scripted(act) as server:
        assert ask(server.url, method, time=time) is healthy
    assert [request.path for request in server.received] == [path]
    assert time.sleeps == []


@both_clients
def test_a_service_that_is_not_there_is_not_ready(ask: Ask) -> None:
    """Code that waits for a start need not catch anything."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert ask(url, "ready", time=FakeTime()) is False


@both_clients
def test_a_hanging_service_is_not_alive(ask: Ask) -> None:
    """Health has a limit of its own; the client's shorter one counts too."""
    options = {"timeout_s": 0.2, "retry": RetryPolicy()}
    with scripted(Answer(stall_s=5.0)) as server:
        assert ask(server.url, "alive", time=FakeTime(), options=options) is False


@both_clients
def test_another_service_is_an_error_not_a_no(ask: Ask) -> None:
    """Waiting for the wrong address to become ready would never end."""
    with scripted(Answer(404)) as server, pytest.raises(RequestRefusedError, match="base_url"):
        ask(server.url, "ready", time=FakeTime())


@both_clients
@pytest.mark.parametrize("method", ["ready", "alive"])
@pytest.mark.parametrize(
    "act",
    [
        Answer(200, b"<html>Sign in to the hospital's network</html>", "text/html"),
        Answer(200, b"\n", "text/plain"),
        Answer(200, b'{"status": "ok"}'),
        Answer(200, b'"ready"'),
        Answer(204),
    ],
    ids=["portal", "empty line", "other status", "text", "no content"],
)
def test_a_web_server_of_another_kind_is_never_healthy(ask: Ask, method: str, act: Answer) -> None:
    """Any web server may answer 200; waiting for it to become a SlideCascade service would never end."""
    with scripted(act) as server, pytest.raises(UnexpectedAnswerError, match="base_url"):
        ask(server.url, method, time=FakeTime())


def _public(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def test_both_clients_have_the_same_methods() -> None:
    """Name by name and parameter by parameter."""
    sync, later = _public(Client), _public(AsyncClient)
    assert sync.keys() == later.keys()
    for name, method in sync.items():
        ours, theirs = str(inspect.signature(method)), str(inspect.signature(later[name]))
        assert ours == theirs.replace("AsyncIterator", "Iterator").replace("AsyncJob", "Job")
        assert inspect.iscoroutinefunction(later[name]) or inspect.isasyncgenfunction(later[name])


def test_the_public_names_are_listed() -> None:
    """`__all__` is sorted and holds what the package offers: clients, results, errors, wire types."""
    listed = slidecascade_client.__all__
    public = {
        name
        for name, value in vars(slidecascade_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    errors = {
        name
        for name, value in inspect.getmembers(slidecascade_client.errors, inspect.isclass)
        if issubclass(value, slidecascade_client.SlideCascadeClientError)
    }
    assert listed == sorted(listed)
    assert set(listed) == public
    assert errors <= public
