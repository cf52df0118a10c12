"""``slidecascade jobs``: manage jobs of a server through the client."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from slidecascade import wire
from slidecascade.commands.arguments import region_of, threshold_of
from slidecascade.staging import writing_to
from slidecascade_client import Client, Job

DEFAULT_URL = "http://127.0.0.1:3000"
KEY_VARIABLE = "SLIDECASCADE_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server (default: {DEFAULT_URL})")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    submit = actions.add_parser("submit", help="submit a slide of the server")
    submit.add_argument("slide", help="its id in GET /v1/slides")
    submit.add_argument("--pipeline", required=True)
    submit.add_argument("--mpp", type=float, help="um per pixel; required if the slide states none")
    submit.add_argument("--region", type=region_of, help="x,y,width,height in level-0 pixels")
    submit.add_argument("--threshold", type=threshold_of, action="append", default=[], metavar="MODEL=NUMBER")
    submit.add_argument("--allow-partial", action="store_true", help="finish even if tiles fail")
    submit.add_argument("--label", help="a label to find the job by")
    submit.add_argument("--key", help="idempotency key: repeated submissions return the same job")
    submit.add_argument("--wait", action="store_true", help="wait for the job")
    submit.add_argument(
        "--out", type=Path, metavar="DIR", help="wait for the job and write its files to this folder"
    )
    submit.set_defaults(act=_submit)
    listed = actions.add_parser("list", help="list jobs, the newest first")
    listed.add_argument("--status", choices=("queued", "running", "succeeded", "failed", "cancelled"))
    listed.add_argument("--label")
    listed.set_defaults(act=_list)
    for name, text, act in (("show", "show a job", _show), ("cancel", "stop a job", _cancel)):
        action = actions.add_parser(name, help=text)
        action.add_argument("id")
        action.set_defaults(act=act)
    fetch = actions.add_parser("fetch", help="wait for a job and write its files")
    fetch.add_argument("id")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    fetch.set_defaults(act=_fetch)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code."""
    act: Callable[[Client, argparse.Namespace], None] = options.act
    with Client(options.url, api_key=os.environ.get(KEY_VARIABLE)) as client:
        act(client, options)
    return 0


def _submit(client: Client, options: argparse.Namespace) -> None:
    job = client.submit(
        options.slide,
        pipeline=options.pipeline,
        mpp=options.mpp,
        region=options.region,
        thresholds=dict(options.threshold),
        allow_partial=options.allow_partial,
        label=options.label,
        idempotency_key=options.key,
    )
    sys.stdout.write(f"{job.id}\n")
    sys.stdout.flush()
    if options.wait or options.out:
        _await(job)
    if options.out:
        _write(job, options.out)


def _list(client: Client, options: argparse.Namespace) -> None:
    for job in client.jobs(status=options.status, label=options.label):
        sys.stdout.write(_line(job.info))


def _show(client: Client, options: argparse.Namespace) -> None:
    sys.stdout.write(client.job(options.id).info.model_dump_json(indent=2) + "\n")


def _cancel(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.id)
    job.cancel()
    sys.stdout.write(_line(job.info))


def _fetch(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.id)
    _await(job)
    _write(job, options.out)


def _await(job: Job) -> None:
    for progress in job.progress():
        total = "?" if progress.fields_total is None else str(progress.fields_total)
        left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
        sys.stderr.write(f"{progress.fields_done}/{total} fields, {progress.cells:,} cells{left}\n")


def _write(job: Job, folder: Path) -> None:
    with writing_to(folder):
        job.fetch(folder)
    sys.stdout.write(f"Results are in {folder}. {wire.RESEARCH_USE_ONLY}\n")


def _line(info: wire.JobInfo) -> str:
    created = info.created_at.strftime("%Y-%m-%d %H:%M:%S")
    label = "" if info.label is None else f"  {info.label}"
    share = f"{info.progress.fraction:4.0%}"
    return f"{info.id}  {created}  {info.status:9}  {share}  {info.pipeline}  {info.slide}{label}\n"
