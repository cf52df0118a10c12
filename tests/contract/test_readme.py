"""Every block of the README and of the pages under ``docs/`` runs, and their links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import toy_models
from served_process import StartServer
from slidecascade import cli
from slidecascade.models.repository import load_repository
from slidecascade.pipelines.cells import FILE
from slidecascade.pipelines.load import load_pipelines
from slidecascade.settings import bundled_models_dir
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS[PAGES[0]]
BLOCKS = [
    block
    for text in TEXTS.values()
    for block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
LOCAL = "http://localhost:3000"


def _blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def _commands() -> list[str]:
    joined = "".join(_blocks("sh")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    tissue = render(TissueOptions(seed=5, mpp=0.5), width_px=256, height_px=256)
    cv2.imwrite(str(folder / "tile.png"), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    (folder / "my-images").mkdir()
    cv2.imwrite(str(folder / "my-images" / "x.png"), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(folder / "my-images" / "x_labels.png"), tissue.nuclei.astype(np.uint16))
    (folder / "my-slides").mkdir()
    write_slide(folder / "my-slides" / "x.tif", TissueOptions(seed=5, mpp=0.25), 1024, 1024)
    lesion = np.zeros((1024, 1024), np.uint8)
    lesion[256:512, 256:512] = 255
    cv2.imwrite(str(folder / "my-slides" / "x_mask.tif"), lesion)
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "liver.tiff", TissueOptions(seed=5, mpp=0.25), 1024, 1024)
    shutil.copytree(bundled_models_dir() / "nash-cell", folder / "models" / "nash-cell")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "lab.pem").write_bytes(private)
    return folder


@pytest.fixture(scope="module")
def url(workplace: Path, start_server: StartServer) -> str:
    """A served process whose slide root is the README's, with the bundled models."""
    return start_server(slides=workplace / "slides", jobs_dir=workplace / "jobs").url


@pytest.mark.parametrize("command", [line for line in _commands() if line.startswith("curl")])
def test_curl_commands_answer(command: str, url: str, workplace: Path) -> None:
    """The calls by hand return JSON."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    shell = ["bash", "-c", command.replace(LOCAL, url)]
    result = subprocess.run(shell, cwd=workplace, capture_output=True, text=True, check=True)
    answer = result.stdout or (workplace / "cells.geojson").read_text(encoding="utf-8")
    assert "slidecascade" in json.loads(answer) or "counts" in json.loads(answer)


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_blocks_run(code: str, url: str, workplace: Path) -> None:
    """The client's examples print something and raise nothing."""
    here = code.replace(LOCAL, url).replace(LOCAL.removeprefix("http://"), url.removeprefix("http://"))
    script = [sys.executable, "-c", here]
    result = subprocess.run(script, cwd=workplace, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


# They need a bridge with messages, or the log of a server, as test_lis.py and test_access.py have.
ELSEWHERE = ("slidecascade lis", "slidecascade audit")


@pytest.mark.parametrize(
    "command",
    [
        line
        for line in _commands()
        if line.startswith("slidecascade") and " serve" not in line and not line.startswith(ELSEWHERE)
    ],
)
def test_commands_run(command: str, workplace: Path) -> None:
    """The command line's examples exit with 0, in the order of the pages."""
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "SLIDECASCADE_KEYS_FILE": str(workplace / "keys.json"),
    }
    shell = ["bash", "-c", command]
    result = subprocess.run(shell, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [line for line in _commands() if line.startswith(ELSEWHERE)])
def test_commands_are_understood(command: str) -> None:
    """Actions and options of the examples exist; a wrong one ends the parser. The shell's ``>`` is not theirs."""
    words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
    assert callable(cli._parser(words).parse_args(words).run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, so that no page is lost when another moves."""
    for target in re.findall(r"\]\(([^)#:]*)(?:#[^)]*)?\)", TEXTS[page]):
        assert not target or (page.parent / target).exists(), target


def test_make_targets_exist() -> None:
    """Every `make` command of the pages names a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {
        target for text in TEXTS.values() for target in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, re.M)
    }
    named = {first or second for first, second in named}
    assert named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_pipeline_of_your_own_is_accepted(tmp_path: Path) -> None:
    """The YAML block is a valid pipeline once its models exist."""
    models = tmp_path / "models"
    toy_models.write_package(models, toy_models.segmenter_fields("nuclei-unet"), toy_models.darkness_segmenter())
    first = [{"name": name, "color": [0, 0, 0]} for name in ("Hepatocyte", "Immune", "Other")]
    second = [{"name": name, "color": [0, 0, 0]} for name in ("Ballooning", "Normal", "Steatosis")]
    for name, classes in (("my-cell-classifier", first), ("my-hepatocyte-classifier", second)):
        fields = toy_models.classifier_fields(name, classes=classes)
        toy_models.write_package(models, fields, toy_models.redness_classifier(72))
    block = next(text for text in _blocks("yaml") if "my-nash" in text)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    assert "my-nash" in load_pipelines(load_repository(models), tmp_path, (FILE,))


def test_the_pipeline_of_a_converted_network_is_accepted(tmp_path: Path) -> None:
    """The YAML block of the converters' page fits the package that its commands write, and the call names it."""
    page = (REPOSITORY / "converters" / "README.md").read_text(encoding="utf-8")
    assert "--name my-nuclei --task segment" in page
    assert '"pipeline": "my-nuclei"' in page
    models = tmp_path / "models"
    toy_models.write_package(models, toy_models.segmenter_fields("my-nuclei"), toy_models.darkness_segmenter())
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    assert "my-nuclei" in load_pipelines(load_repository(models), tmp_path, (FILE,))
