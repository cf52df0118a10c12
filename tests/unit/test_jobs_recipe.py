"""What decides what a job finds, by which an interrupted job knows its parts again."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from slidecascade.jobs.collect import recipe_of
from slidecascade.models.repository import load_repository
from slidecascade.pipelines.cells import FILE
from slidecascade.pipelines.load import load_pipelines
from slidecascade.settings import bundled_models_dir

pipelines = load_pipelines(load_repository(bundled_models_dir()), None, (FILE,))
assert pipelines["nash"].area_fractions
for name, pipeline in sorted(pipelines.items()):
    print(name, recipe_of(pipeline))
"""


def test_the_recipe_is_the_same_in_every_process() -> None:
    """A job that a restarted service or another worker goes on with is not taken for one of other models."""
    first, second = (
        subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert "nash" in first
    assert first == second
