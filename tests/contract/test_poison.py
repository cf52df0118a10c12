"""Work that kills its process again and again is given up, and the process lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from long_slide import write_long_slide
from toy_pipeline import ToyPipeline

_PROCESS = """
import os, sys, time
from pathlib import Path
from slidecascade.access.caller import ANYONE
from slidecascade.analysis.analyser import Analyser
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.foreman import Foreman
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade.wire import JobRequest

folder, toy = Path(sys.argv[1]), Path(sys.argv[2])
healthy = Foreman._do

def do(self, name, job, attempt, work):
    def deadly(record, control):
        if name == f"{job}.{attempt}.1" and record.request.label == "poison":
            os._exit(9)
        work(record, control)

    healthy(self, name, job, attempt, deadly)

Foreman._do = do
settings = Settings(models_dir=toy / "models", pipelines_dir=toy / "pipelines", slide_roots=(folder / "slides",))
analyser = Analyser(settings, observer=Silent())
desk = Desk(analyser, settings, folder / "jobs")
desk.start()
jobs = [
    desk.submit(
        JobRequest(pipeline="toy", slide="long.tif", mpp=0.5, label=label), ANYONE, request_id="r", key=label
    )[0].id
    for label in ("poison", "good")
]
ends_at = time.monotonic() + 100
while time.monotonic() < ends_at:
    records = [desk.show(job, ANYONE) for job in jobs]
    if all(record.ended for record in records):
        print(*(f"{record.status}:{record.failure.problem if record.failure else ''}" for record in records))
        break
    time.sleep(0.05)
desk.stop()
analyser.close()
"""


def test_a_job_that_kills_its_processes_is_given_up(tmp_path: Path) -> None:
    """After a few deaths it has failed, and the other job has succeeded."""
    ToyPipeline(tmp_path / "toy")
    (tmp_path / "slides").mkdir()
    write_long_slide(tmp_path / "slides" / "long.tif")
    deaths = 0
    while True:
        command = [sys.executable, "-c", _PROCESS, str(tmp_path), str(tmp_path / "toy")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if ended.returncode != 9:
            break
        deaths += 1
        assert deaths < 12
    assert ended.stdout.split() == ["failed:worker-lost", "succeeded:"], ended.stderr[-2000:]
    assert deaths >= 3
