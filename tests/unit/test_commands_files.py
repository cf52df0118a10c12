"""Files of the commands: what the system refuses is one sentence, before anything was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from slidecascade.cli import main
from slidecascade.commands.files import require_file
from slidecascade.errors import InvalidRequestError, UnwritableOutputError
from slidecascade.staging import writing_to


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_demo_into_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str) -> None:
    """A file where the folder should be, or above it: one sentence and no stack trace."""
    in_the_way = tmp_path / "taken"
    in_the_way.write_text("mine", encoding="utf-8")

    assert main(["demo", "--out", str(in_the_way / below)]) == 1

    stderr = capsys.readouterr().err
    assert "Results cannot be written to" in stderr
    assert "Traceback" not in stderr
    assert in_the_way.read_text(encoding="utf-8") == "mine"


def test_a_demo_over_a_folder_of_the_image_s_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rendered image cannot be saved either: reported before a server is started."""
    (tmp_path / "region.png").mkdir()

    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "Results cannot be written to" in capsys.readouterr().err


def test_reasons_are_those_of_the_system(tmp_path: Path) -> None:
    """The sentence names the folder and says why."""
    with (
        pytest.raises(UnwritableOutputError, match=r"cannot be written to .* \(Is a directory\)"),
        writing_to(tmp_path),
    ):
        tmp_path.write_bytes(b"")
    with pytest.raises(InvalidRequestError, match="is a folder: give the path of"):
        require_file(tmp_path)
    with pytest.raises(InvalidRequestError, match="does not exist: give the path of"):
        require_file(tmp_path / "none")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission denied is a sentence; the refusal is made here because root may read everything."""
    path = tmp_path / "image.png"
    path.write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidRequestError, match=r"cannot be read \(Permission denied\)"):
        require_file(path)


@pytest.mark.parametrize(("content", "reported"), [(None, "No such file"), (b"\xff\xfe", "is not text in UTF-8")])
def test_a_message_that_cannot_be_sent_is_named_with_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reported: str
) -> None:
    """`lis send` distinguishes a missing file from one in another encoding."""
    file = tmp_path / "order.hl7"
    if content is not None:
        file.write_bytes(content)
    assert main(["lis", "send", str(file)]) == 2
    assert reported in capsys.readouterr().err
