"""``slidecascade jobs``: manage jobs of a server through the client."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slidecascade import wire
from slidecascade.commands.arguments import METHODS, add_averaging, channel_of, region_of, threshold_of
from slidecascade.errors import InvalidRequestError
from slidecascade.staging import writing_to
from slidecascade_client import Client, Job, SlideCascadeClientError, UnknownSlideError

DEFAULT_URL = "http://127.0.0.1:3000"
URL_VARIABLE = "SLIDECASCADE_URL"
KEY_VARIABLE = "SLIDECASCADE_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"the server (default: {URL_VARIABLE}, else {DEFAULT_URL}); its key is read from {KEY_VARIABLE}",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    submit = actions.add_parser("submit", help="analyse slides of the server, or a file, which is uploaded")
    submit.add_argument("slide", nargs="+", help="an id, as GET /v1/slides lists it, or a file of this machine")
    submit.add_argument("--pipeline", required=True)
    submit.add_argument("--mpp", type=float, help="um per pixel; required if the slide states none")
    submit.add_argument(
        "--object-diameter-px",
        type=float,
        help="usual diameter of the objects in pixels, in place of --mpp where nobody knows it",
    )
    submit.add_argument("--region", type=region_of, help="x,y,width,height in level-0 pixels")
    submit.add_argument("--threshold", type=threshold_of, action="append", default=[], metavar="MODEL=NUMBER")
    submit.add_argument(
        "--channels",
        type=channel_of,
        nargs="+",
        default=[],
        metavar="MEANING=CHANNEL",
        help="channels by index or name, such as nuclear=0 membrane=CD45",
    )
    submit.add_argument("--stain", choices=METHODS, help="stain normalisation; default: the pipeline's")
    add_averaging(submit)
    submit.add_argument("--allow-partial", action="store_true", help="finish even if tiles fail")
    submit.add_argument(
        "--origin",
        choices=("slide", "bounds"),
        default="slide",
        help="what GeoJSON outlines count from: level 0's corner, or the scanned part's, as in QuPath",
    )
    submit.add_argument("--label", help="a label to find the job by")
    submit.add_argument(
        "--notify", metavar="TARGET", help="a webhook target that the server's operator configured"
    )
    submit.add_argument(
        "--key", help="idempotency key of a single slide: repeated submissions return the same job"
    )
    submit.add_argument("--wait", action="store_true", help="wait for the job")
    submit.add_argument(
        "--out", type=Path, metavar="DIR", help="wait for the job and write its files to this folder"
    )
    submit.set_defaults(act=_submit)
    listed = actions.add_parser("list", help="list jobs, the newest first")
    listed.add_argument("--status", choices=("queued", "running", "succeeded", "failed", "cancelled"))
    listed.add_argument("--label")
    listed.set_defaults(act=_list)
    for name, text, act in (
        ("show", "show a job", _show),
        ("cancel", "stop a job", _cancel),
        ("retry", "continue a job that failed or was cancelled", _retry),
        ("delete", "remove a job that has ended, and its results", _delete),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("id")
        action.set_defaults(act=act)
    notifications = actions.add_parser(
        "notifications", help="list the notifications of ended jobs, the newest first"
    )
    notifications.add_argument("--state", choices=("waiting", "delivered", "dead"))
    notifications.add_argument("--resend", metavar="ID", help="send this one again")
    notifications.set_defaults(act=_notifications)
    fetch = actions.add_parser("fetch", help="wait for a job and write its files; an interrupted download goes on")
    fetch.add_argument("id")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    fetch.set_defaults(act=_fetch)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code."""
    act: Callable[[Client, argparse.Namespace], None] = options.act
    with _client(options.url) as client:
        act(client, options)
    return 0


def _client(url: str) -> Client:
    try:
        return Client(url, api_key=os.environ.get(KEY_VARIABLE))
    except ValueError as error:  # names the argument, base_url or api_key
        raise InvalidRequestError(f"--url, {URL_VARIABLE} or {KEY_VARIABLE} cannot be used: {error}") from error


def _submit(client: Client, options: argparse.Namespace) -> None:
    if len(options.slide) > 1:
        _submit_many(client, options)
        return
    try:
        job = client.submit(options.slide[0], idempotency_key=options.key, **_fields(options))
    except UnknownSlideError:
        sys.stderr.write(f"There is no file {options.slide[0]} on this machine, so it was sent as a slide's id.\n")
        raise
    sys.stdout.write(f"{job.id}\n")
    sys.stdout.flush()
    if options.wait or options.out:
        _await(job)
    if options.out:
        _write(job, options.out)


def _submit_many(client: Client, options: argparse.Namespace) -> None:
    """Each slide by itself; raises the first error when all that could be submitted are."""
    if options.key or options.wait or options.out:
        raise InvalidRequestError("--key, --wait and --out are for a single slide: submit the slides one by one.")
    fields = _fields(options)
    made: list[Job | SlideCascadeClientError] = []
    ids = []
    for slide in options.slide:
        if Path(slide).is_file():
            made.append(client.submit(slide, **fields))
        else:
            ids.append(slide)
    made += client.submit_many([{"slide": slide, **fields} for slide in ids])
    for job in made:
        sys.stdout.write(f"{job.id}\n" if isinstance(job, Job) else f"rejected: {job}\n")
    if failed := [job for job in made if not isinstance(job, Job)]:
        raise failed[0]


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "pipeline": options.pipeline,
        "mpp": options.mpp,
        "object_diameter_px": options.object_diameter_px,
        "region": options.region,
        "thresholds": dict(options.threshold),
        "channels": dict(options.channels),
        "stain": options.stain,
        "tta": options.tta,
        "allow_partial": options.allow_partial,
        "origin": options.origin,
        "label": options.label,
        "notify": options.notify,
    }


def _list(client: Client, options: argparse.Namespace) -> None:
    for job in client.jobs(status=options.status, label=options.label):
        sys.stdout.write(_line(job.info))


def _show(client: Client, options: argparse.Namespace) -> None:
    sys.stdout.write(client.job(options.id).info.model_dump_json(indent=2) + "\n")


def _cancel(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.id)
    job.cancel()
    sys.stdout.write(_line(job.info))


def _retry(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.id)
    job.retry()
    sys.stdout.write(_line(job.info))


def _delete(client: Client, options: argparse.Namespace) -> None:
    client.job(options.id).delete()


def _notifications(client: Client, options: argparse.Namespace) -> None:
    found = (client.resend(options.resend),) if options.resend else client.notifications(state=options.state)
    for item in found:
        created = item.created_at.strftime("%Y-%m-%d %H:%M:%S")
        error = "" if item.error is None else f"  {item.error}"
        sys.stdout.write(
            f"{item.id}  {created}  {item.state:9}  {item.attempts} attempts  {item.event}  {item.target}  "
            f"{item.job}{error}\n"
        )


def _fetch(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.id)
    _await(job)
    _write(job, options.out)


def _await(job: Job) -> None:
    for progress in job.progress():
        total = "?" if progress.fields_total is None else str(progress.fields_total)
        left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
        # Pipelines of other kinds find none.
        cells = f", {progress.cells:,} cells" if progress.cells else ""
        sys.stderr.write(f"{progress.fields_done}/{total} fields{cells}{left}\n")


def _write(job: Job, folder: Path) -> None:
    with writing_to(folder):
        job.fetch(folder)
    sys.stdout.write(f"Results are in {folder}. {wire.RESEARCH_USE_ONLY}\n")


def _line(info: wire.JobInfo) -> str:
    created = info.created_at.strftime("%Y-%m-%d %H:%M:%S")
    label = "" if info.label is None else f"  {info.label}"
    share = f"{info.progress.fraction:4.0%}"
    return f"{info.id}  {created}  {info.status:9}  {share}  {info.pipeline}  {info.slide or '(upload)'}{label}\n"
