"""An order becomes a job of a real server and comes back as a result."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.lis.kills import Bridge, write_config

from lis_messages import Mllp, Reply, message, msh, number, order, pid
from long_slide import MPP, write_long_slide
from served_process import StartServer, free_port
from slidecascade_client import Client
from slidecascade_lis.simulator import ResultReceiver, Tally
from toy_pipeline import ToyPipeline

SLIDE = "long.tif"


REGION = (0, 0, 1200, 400)


def test_the_result_has_the_figures_of_the_job(start_server: StartServer, tmp_path: Path) -> None:
    """Counts, fractions with denominators and models are those of the job's summary; an unknown slide is rejected
    by name."""
    toy = ToyPipeline(tmp_path / "toy")
    slides = tmp_path / "slides"
    slides.mkdir()
    write_long_slide(slides / SLIDE)
    server = start_server(
        slides=slides,
        models=toy.models_dir,
        pipelines_dir=toy.pipelines_dir,
        threads=2,
        jobs_dir=tmp_path / "jobs",
        jobs_min_free_bytes=0,
    )
    reply, result, unknown = asyncio.run(_exchange(tmp_path, server.url))

    assert unknown.errors[0][:2] == ("OBR^1^13^1", "204")
    filler = reply.all("ORC")[0][3]
    with Client(server.url) as client:
        (job,) = list(client.jobs())
        summary = job.summary()
        assert job.result().counts == summary.counts
    assert result.all("ORC")[0][3] == filler
    seen = {line[3].split("^")[1]: line for line in result.all("OBX")}
    assert {name: seen[f"Number of {name}"][5] for name in summary.counts} == {
        name: str(count) for name, count in summary.counts.items()
    }
    assert sum(summary.counts.values()) > 0
    for name, share in summary.fractions.items():
        assert seen[f"{name} of {share.of}"][5] == f"^{share.numerator}^/^{share.denominator}"
    assert {line[18] for line in result.all("OBX")} == {
        "~".join(f"{model.name}:{model.version}^sha256^{model.sha256}^L" for model in summary.models)
    }
    assert summary.region.width == REGION[2]
    warned = [line[3].split(":")[0] for line in result.all("NTE")[1:]]
    assert warned == [f"Warning {warning.code}" for warning in summary.warnings]


async def _exchange(folder: Path, url: str) -> tuple[Reply, Reply, Reply]:
    """Order a region and an unknown slide: the reply and the result of the first, the reply to the second."""
    receiver = ResultReceiver(Tally())
    port = free_port()
    config = write_config(
        folder,
        service_url=url,
        port=port,
        result_port=await receiver.start(),
        orders={
            "slide": {"take": ["OBR-13"], "template": "{value}.tif"},
            "pipeline": {"take": ["OBR-4"], "table": {"A-17": "toy"}},
            "region": {"take": ["OBR-39"]},
            "mpp": MPP,
        },
    )
    bridge = Bridge.start(config, port)
    try:
        await bridge.listens()
        lines = order(number(), slide="long", pipeline="A-17")
        lines[1] += "|" * 26 + ",".join(map(str, REGION))
        reply = await asyncio.to_thread(_ask, port, message(msh(), pid(), *lines))
        unknown = await asyncio.to_thread(
            _ask, port, message(msh(), pid(), *order(number(), slide="nowhere", pipeline="A-17"))
        )
        async with asyncio.timeout(120):
            while not receiver.messages:  # noqa: ASYNC110 - a receiver of the package has no event for tests
                await asyncio.sleep(0.05)
    finally:
        bridge.stop()
        await receiver.stop()
    return reply, Reply.read(receiver.messages[0]), unknown


def _ask(port: int, content: str) -> Reply:
    with Mllp(port) as mllp:
        return mllp.ask(content)
