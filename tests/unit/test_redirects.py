"""Servers that the operator named redirect elsewhere: the service asks no address that others choose."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import jwt
import pytest
from pydantic import HttpUrl, SecretStr

from scripted_server import NO_PIPELINES, Answer, FakeTime, ScriptedServer, scripted
from slidecascade.access.tokens import OidcConfig, Tokens
from slidecascade.errors import NotReadyError, UnreadableSlideError
from slidecascade.jobs.database import open_database
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from slidecascade.jobs.webhooks import Notifier, Target, Webhooks
from slidecascade.slides.dicomweb import DicomWeb
from slidecascade.slides.dicomwebslide import DicomWebSlides
from slidecascade.wire import JobRequest

STATUSES = (301, 302, 307, 308)
LIMIT_S = 60.0


def redirect(status: int, elsewhere: ScriptedServer) -> Answer:
    return Answer(status, headers={"Location": f"{elsewhere.url}/secrets"})


@pytest.mark.parametrize("status", STATUSES)
def test_a_dicomweb_server_redirects_nowhere(status: int) -> None:
    """The slide is unreadable, and the token stays with the server it is for."""
    with scripted(NO_PIPELINES) as elsewhere, scripted(redirect(status, elsewhere)) as server:
        clock = FakeTime()
        web = DicomWeb("pacs", server.url, lambda: "token", clock.policy(max_tries=2), clock.sleep)
        slides = DicomWebSlides({"pacs": web}, handles=1, cache_bytes=2**20)
        with pytest.raises(UnreadableSlideError), slides.open("dicomweb:pacs/1.2/3.4"):
            pass
        assert server.received
        assert elsewhere.received == []


@pytest.mark.parametrize("status", [405, 500, 501])
def test_other_errors_of_a_dicomweb_server_are_reported(status: int) -> None:
    """With the status, as an unreadable slide."""
    with scripted(Answer(status)) as server:
        clock = FakeTime()
        web = DicomWeb("pacs", server.url, lambda: None, clock.policy(max_tries=2), clock.sleep)
        slides = DicomWebSlides({"pacs": web}, handles=1, cache_bytes=2**20)
        with pytest.raises(UnreadableSlideError, match=f"status {status}"), slides.open("dicomweb:pacs/1.2/3.4"):
            pass


@pytest.mark.parametrize("status", STATUSES)
def test_an_issuer_redirects_nowhere(status: int) -> None:
    """Its keys are then unknown: a token is not verified with keys of another address."""
    token = jwt.encode({"sub": "a"}, "x" * 32, headers={"kid": "1"})
    parts = token.split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"1"}').decode().rstrip("=")
    with scripted(Answer(body=b'{"keys": []}')) as elsewhere, scripted(redirect(status, elsewhere)) as server:
        tokens = Tokens(OidcConfig(issuer=server.url, audience="a"), clock=time.monotonic)
        with pytest.raises(NotReadyError):
            tokens.caller(".".join([head, *parts[1:]]))
        assert server.received
        assert elsewhere.received == []


@pytest.mark.parametrize("status", [302, 307])
def test_a_webhook_target_redirects_nowhere(status: int, tmp_path: Path) -> None:
    """The notification has failed; its body is sent to the configured address only."""
    database = open_database(None, tmp_path)
    records, outbox = Records(database), Outbox(database)
    request = JobRequest(pipeline="toy", slide="a.svs", notify="lis")
    job = records.add(request, request_id="r", key=None, most_active=9, retry_after_s=2)[0].id
    assert records.end(job, 1, "failed")
    secret = SecretStr("whsec_" + base64.b64encode(b"s" * 24).decode())
    with scripted(NO_PIPELINES) as elsewhere, scripted(redirect(status, elsewhere)) as server:
        target = Target(url=HttpUrl(f"{server.url}/hook"), secrets=(secret,), attempts=1)
        notifier = Notifier(outbox, Webhooks(targets={"lis": target}))
        notifier.start()
        ends_at = time.monotonic() + LIMIT_S
        while not (dead := outbox.list(state="dead", limit=9)):
            assert time.monotonic() < ends_at
            time.sleep(0.02)
        notifier.stop()
        notifier.join(time.monotonic() + 60)
        assert dead[0].error == f"status {status}"
        assert [item.path for item in server.received] == ["/hook"]
        assert elsewhere.received == []
    database.dispose()
