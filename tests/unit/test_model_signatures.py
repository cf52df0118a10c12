"""Signatures of model packages: made by a command, asked for by a setting."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from slidecascade.cli import main
from slidecascade.errors import ModelPackageError, SettingsError
from slidecascade.models.repository import load_repository
from slidecascade.models.signatures import SIGNATURE_FILE, key_id, read_trusted
from slidecascade.runners.precision import served_packages
from slidecascade.settings import Settings
from toy_pipeline import ToyPipeline


class Signer:
    """A private key and its public one, as files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self.id = key_id(key.public_key())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return ToyPipeline(tmp_path).models_dir


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "lab")


def signed(models: Path, signer: Signer) -> None:
    assert main(["models", "sign", "--models", str(models), "--key", str(signer.private)]) == 0


def served(models: Path, keys: Path) -> set[str | None]:
    return {
        package.signed_by for package in served_packages(Settings(models_dir=models, model_keys=keys)).values()
    }


def test_signed_models_are_served_and_name_their_key(models: Path, signer: Signer) -> None:
    """All of them, where a file holds several keys as well."""
    signed(models, signer)
    other = Signer(signer.public.parent, "other")
    both = signer.public.with_name("both.pub")
    both.write_bytes(other.public.read_bytes() + b"\n" + signer.public.read_bytes())
    assert served(models, signer.public) == served(models, both) == {signer.id}


def test_without_the_setting_nothing_is_asked_for(models: Path) -> None:
    """The bundled models are not signed."""
    assert {package.signed_by for package in load_repository(models).values()} == {None}


def test_unsigned_models_are_refused_when_asked_for(models: Path, signer: Signer) -> None:
    """One without a signature is enough, and so is an empty one."""
    signed(models, signer)
    signature = next(models.glob(f"*/{SIGNATURE_FILE}"))
    signature.write_bytes(b"")
    with pytest.raises(ModelPackageError, match=r"is not signed.*models sign"):
        served(models, signer.public)
    signature.unlink()
    with pytest.raises(ModelPackageError, match="is not signed"):
        served(models, signer.public)


def test_the_signature_of_a_stranger_is_refused(models: Path, tmp_path: Path, signer: Signer) -> None:
    """Also where the file claims the trusted key."""
    stranger = Signer(tmp_path, "stranger")
    signed(models, stranger)
    with pytest.raises(ModelPackageError, match="a key that is not trusted here"):
        served(models, signer.public)
    for file in models.glob(f"*/{SIGNATURE_FILE}"):
        file.write_text(file.read_text().replace(stranger.id, signer.id))
    with pytest.raises(ModelPackageError, match="was changed after it was signed"):
        served(models, signer.public)


def test_a_changed_model_is_refused(models: Path, signer: Signer) -> None:
    """A byte of its model.yaml, or of its graph, whose sha256 that file states."""
    signed(models, signer)
    document = next(models.glob("*/model.yaml"))
    before = document.read_bytes()
    document.write_bytes(before + b"# more\n")
    with pytest.raises(ModelPackageError, match="was changed after it was signed"):
        served(models, signer.public)
    document.write_bytes(before)
    graph = next(document.parent.glob("*/model.onnx"))
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelPackageError, match="sha256"):
        served(models, signer.public)


def test_the_signature_of_another_model_is_refused(models: Path, signer: Signer) -> None:
    """A signature belongs to one file."""
    signed(models, signer)
    one, other, *_ = sorted(models.glob(f"*/{SIGNATURE_FILE}"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(ModelPackageError, match="was changed after it was signed"):
        served(models, signer.public)


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_a_file_without_keys_is_refused(models: Path, tmp_path: Path, content: bytes) -> None:
    """An empty list would trust nobody, and is a mistake."""
    (tmp_path / "keys.pub").write_bytes(content)
    with pytest.raises(SettingsError, match="trusted model keys"):
        served(models, tmp_path / "keys.pub")


def test_keys_made_by_openssl_are_read(models: Path, tmp_path: Path) -> None:
    """With the commands that the messages name; one of another kind is refused."""
    private, public = tmp_path / "k.pem", tmp_path / "k.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    assert main(["models", "sign", "--models", str(models), "--key", str(private)]) == 0
    assert served(models, public) == set(read_trusted(public))
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", private], check=True)
    assert main(["models", "sign", "--models", str(models), "--key", str(private)]) == 2


def test_verify_shows_who_signed(
    models: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that nobody did, or that nobody looked."""
    name = next(models.glob("*/model.yaml")).parent.name
    command = ["models", "verify", "--models", str(models), name]
    assert main(command) == 0
    assert "; not signed." in capsys.readouterr().out
    signed(models, signer)
    assert main(command) == 0
    assert "its signature is not checked" in capsys.readouterr().out
    monkeypatch.setenv("SLIDECASCADE_MODEL_KEYS", str(signer.public))
    assert main(command) == 0
    assert f"signed with the trusted key {signer.id}" in capsys.readouterr().out
    (models / name / SIGNATURE_FILE).unlink()
    assert main(command) != 0
