"""Every call of clients/curl.md answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import toy_models
from conftest import REPOSITORY
from served_process import StartServer
from slidecascade_client.png import png_chunks
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render

PAGE = (REPOSITORY / "clients" / "curl.md").read_text(encoding="utf-8")
BLOCK = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line for line in BLOCK.splitlines() if line.startswith("curl")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image, the slide and the models the page speaks of."""
    folder = tmp_path_factory.mktemp("curl")
    tissue = TissueOptions(seed=5, mpp=0.5)
    image = render(tissue, width_px=256, height_px=256).image
    (folder / "tile.png").write_bytes(b"".join(png_chunks(image)))
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "liver.tiff", tissue, 1024, 1024)
    models = folder / "models"
    toy_models.write_package(models, toy_models.segmenter_fields("nuclei-unet"), toy_models.darkness_segmenter())
    stages = {
        "nash-cell": ("Hepatocyte", "Immune", "Other"),
        "nash-hepatocyte": ("Ballooning", "Normal", "Steatosis"),
    }
    for name, classes in stages.items():
        fields = toy_models.classifier_fields(name, classes=[{"name": c, "color": [0, 0, 0]} for c in classes])
        toy_models.write_package(models, fields, toy_models.redness_classifier(72))
    return folder


@pytest.fixture(scope="module")
def url(workplace: Path, start_server: StartServer) -> str:
    """A served process of that folder."""
    return start_server(slides=workplace / "slides", models=workplace / "models").url


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_call_by_hand_answers(command: str, url: str, workplace: Path) -> None:
    """All calls of the page succeed and return content."""
    before = set(workplace.rglob("*"))
    call, _, _ = command.partition(" && ")  # what follows unpacks the answer
    shell = ["bash", "-c", call]
    result = subprocess.run(
        shell, cwd=workplace, env=os.environ | {"SERVER": url}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout or set(workplace.rglob("*")) > before
    assert "urn:slidecascade:problem" not in result.stdout
