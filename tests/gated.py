"""``slidecascade`` with small fields, which a test can hold or make deadly; a script that is run in its place.

The folder that ``GATE`` names holds what the test says: ``hold`` keeps fields from being written, ``deadly`` names
a field that kills its process, ``hours`` sets this process's clock off by so many, read anew at each look at it.
A file ``at-PID-INDEX`` is made when a process begins a field.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

TILE_PX = 128
"""Fields of 512 px: 25 of the long slide."""


def main() -> int:
    from slidecascade.cli import main as command
    from slidecascade.commands import workerprocesses
    from slidecascade.jobs import fields, survey

    gate = Path(os.environ["GATE"])
    for module in (fields, survey):
        vars(module)["TILE_PX"] = TILE_PX
    workerprocesses.PROGRAM[:] = [sys.executable, __file__]
    run, now = survey.Survey.run, time.time

    def gated(self: Any, field: Any, control: Any, **options: Any) -> Any:
        (gate / f"at-{os.getpid()}-{field.index}").touch()
        deadly = gate / "deadly"
        if deadly.exists() and int(deadly.read_text()) == field.index:
            os.kill(os.getpid(), signal.SIGKILL)
        while (gate / "hold").exists():
            control.check()
            time.sleep(0.01)
        return run(self, field, control, **options)

    def shifted() -> float:
        hours = gate / "hours"
        return now() + (3600 * float(hours.read_text() or 0) if hours.exists() else 0.0)

    survey.Survey.run = gated  # type: ignore[method-assign]
    time.time = shifted
    return command()


if __name__ == "__main__":
    sys.exit(main())
