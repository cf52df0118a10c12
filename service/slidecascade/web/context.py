"""The components of a serving process: analyser, admission, REST API, shutdown."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from slidecascade.analysis.analyser import Analyser
from slidecascade.jobs.desk import Desk
from slidecascade.metrics import Metrics
from slidecascade.runners.choice import NO_SERVICES, open_runner
from slidecascade.settings import Settings
from slidecascade.slides.confineddecoder import open_decoder
from slidecascade.slides.confinedslides import open_slides
from slidecascade.web.entry import ALWAYS_OPEN
from slidecascade.web.inference import Inferences
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.middleware.audit import Audit
from slidecascade.web.middleware.auth import Auth
from slidecascade.web.middleware.drain import Drain
from slidecascade.web.middleware.problems import Boundary, ProblemAnswers
from slidecascade.web.pool import Pool
from slidecascade.web.readiness import Readiness
from slidecascade.web.regions import Regions
from slidecascade.web.rest import create_app
from slidecascade.web.submission import Submissions
from slidecascade.web.tensors import MAX_RUN_PX

NATIVE_ROUTE: Final = "/analyze_region"
"""The path of BentoML's clients for regions."""

NATIVE_JOB_ROUTE: Final = "/submit_job"
"""Where they send jobs."""

NATIVE_SHOW_ROUTE: Final = "/show_job"
NATIVE_RESULT_ROUTE: Final = "/job_result"
NATIVE_CANCEL_ROUTE: Final = "/cancel_job"
"""Where they ask for a job and its result, and cancel one."""

WORK_PATHS: Final = frozenset({"/v1/regions", NATIVE_ROUTE})
_LOOKUP_THREADS = 4
_PICTURE_THREADS = 4
_SUBMISSION_THREADS = 8
"""They mostly wait: for memory to decode an image, for servers of slides."""


class Process:
    """An analyser and its HTTP interface. `rest` is the REST API without `guard`."""

    def __init__(self, settings: Settings, *, analyser: Analyser, metrics: Metrics) -> None:
        self._analyser = analyser
        self._allowed_hosts = settings.allowed_hosts
        self._metrics_port = settings.metrics_port
        self._auth = Auth(settings)
        self.audit = Audit(settings)
        self._metrics = metrics
        self._cors_origins = settings.allowed_origins
        self._lookups = Pool(_LOOKUP_THREADS, name="lookup")
        self._pictures = Pool(_PICTURE_THREADS, name="picture")
        self._readiness = Readiness(analyser, metrics, retry_after_s=settings.retry_after_s)
        self._admission = Admission(
            regions=settings.max_regions_in_flight,
            inferences=settings.max_inferences_in_flight,
            max_arriving_bytes=max(
                settings.max_arriving_bytes, settings.max_upload_bytes, settings.max_tensor_bytes
            ),
            retry_after_s=settings.retry_after_s,
            metrics=metrics,
        )
        self.drain = Drain(self._admission, notice_s=settings.drain_notice_s, grace_s=settings.drain_grace_s)
        self.regions = Regions(analyser, settings, metrics)
        self._inferences = Inferences(analyser, settings)
        self._desk = None if settings.jobs_dir is None else Desk(analyser, settings, settings.jobs_dir)
        self._submitting = Pool(_SUBMISSION_THREADS, name="submission")
        self.submissions = None if self._desk is None else Submissions(self._desk, self._lookups, self._submitting)
        self.rest: ASGIApp = create_app(
            analyser,
            self.regions,
            self._inferences,
            metrics=metrics,
            admission=self._admission,
            lookups=self._lookups,
            pictures=self._pictures,
            readiness=self._readiness,
            is_keyed=self._auth.is_on,
            max_mask_px=min(settings.max_region_px, MAX_RUN_PX),
            desk=self._desk,
            submissions=self.submissions,
        )

    @classmethod
    def open(cls, settings: Settings, *, services: Mapping[str, Any] = NO_SERVICES) -> Self:
        """A process with an analyser made from its settings; `services` are the BentoML services of models.

        Raises:
            ModelPackageError, PipelineSpecError: for an invalid package or pipeline.
        """
        metrics = Metrics()
        make_runner = partial(open_runner, settings=settings, observer=metrics, services=services)
        retry_after_s, died = settings.retry_after_s, metrics.decoder_ended
        with ExitStack() as opened:
            decoder = open_decoder(settings.decoders, retry_after_s=retry_after_s, died=died)
            opened.callback(decoder.close)
            opener = open_slides(settings.decoders, retry_after_s=retry_after_s, died=died)
            opened.callback(opener.close)
            analyser = Analyser(
                settings, observer=metrics, make_runner=make_runner, decoder=decoder, opener=opener
            )
            opened.pop_all()  # the analyser closes them
        return cls(settings, analyser=analyser, metrics=metrics)

    def take_over(self) -> None:
        """Complete the start; call it in the server's event loop."""
        self.drain.take_over()
        self._readiness.begin()
        self.audit.start()
        if self._desk is not None:
            self._desk.start()

    def guard(self, app: ASGIApp) -> ASGIApp:
        """The request boundary around `app`, an application with `rest` mounted in it.

        Health and metrics are served by `rest`, even if `app` has these paths, and error responses of `app`
        become problems.
        """
        others = ProblemAnswers(app)

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            is_ours = scope["type"] == "http" and scope["path"] in ALWAYS_OPEN
            await (self.rest if is_ours else others)(scope, receive, send)

        return Boundary(
            routed,
            admission=self._admission,
            auth=self._auth,
            audit=self.audit,
            metrics=self._metrics,
            work_paths=WORK_PATHS,
            allowed_hosts=self._allowed_hosts,
            cors_origins=self._cors_origins,
            metrics_port=self._metrics_port,
        )

    def close(self) -> None:
        if self._desk is not None:
            self._desk.stop()
        self.regions.close()
        self._inferences.close()
        self._auth.close()
        self._lookups.close()
        self._submitting.close()
        self._pictures.close()
        self._readiness.close()
        self._analyser.close()
        self.audit.stop()
