"""PyTorch files are read without running their code; others are rejected in one sentence."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the [convert] extra is not installed")

import torch

import toy_torch
from slidecascade.errors import ConversionError
from slidecascade_convert.source import SourceFormat, recognise
from slidecascade_convert.torch_checkpoints import read_checkpoint, read_safetensors
from slidecascade_convert.torch_networks import fit
from slidecascade_convert.torch_program import open_program
from slidecascade_convert.torch_script import open_script


class Runs:
    """Unpickling an instance makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def _weights() -> dict[str, Any]:
    return toy_torch.classifier().state_dict()


def _prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in _weights().items()}


@pytest.mark.parametrize(
    "content",
    [
        _weights(),
        OrderedDict(_prefixed("module.")),
        _prefixed("_orig_mod.module."),
        {"model_state_dict": _weights(), "optimizer_state_dict": {"step": torch.tensor(1.0)}, "epoch": 4},
        {"model": _prefixed("model."), "opt": None},
        {
            "state_dict": _prefixed("model.") | {"criterion.weight": torch.ones(3)},
            "hyper_parameters": argparse.Namespace(lr=0.1, root=Path("slides")),
            "pytorch-lightning_version": "1.9.5",
        },
        {name: value.half() for name, value in _weights().items()},
        {name.replace("features.", "features._orig_mod."): value for name, value in _weights().items()},
    ],
    ids=["plain", "parallel", "compiled", "wrapped", "fastai", "lightning", "half", "compiled part"],
)
def test_weights_are_found_in_what_training_leaves(tmp_path: Path, content: Any) -> None:
    """Wrappers, prefixes, settings beside the weights, half precision; ignored contents are reported."""
    torch.save(content, tmp_path / "weights.pth")
    model = toy_torch.Classifier()
    notes = fit(model, read_checkpoint(tmp_path / "weights.pth"))
    pixels = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.allclose(model(pixels), toy_torch.classifier()(pixels), atol=1e-3)
    expected = ("Weights outside of the network were left out: criterion.weight.",)
    assert notes == (expected if "hyper_parameters" in content else ())


def test_a_file_of_an_old_torch_is_read(tmp_path: Path) -> None:
    """Before 1.6 torch.save wrote pickles one after the other, not a zip archive."""
    torch.save({"state_dict": _weights()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert recognise(tmp_path / "old.pth") is SourceFormat.TORCH_CHECKPOINT
    assert read_checkpoint(tmp_path / "old.pth").keys() == _weights().keys()


def test_safetensors_are_read(tmp_path: Path) -> None:
    """A header and numbers; a damaged one is refused."""
    header = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    content = len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "weights.bin").write_bytes(content)
    assert recognise(tmp_path / "weights.bin") is SourceFormat.SAFETENSORS
    assert read_safetensors(tmp_path / "weights.bin")["a"].tolist() == [1.5, -2.0]
    (tmp_path / "weights.bin").write_bytes(content[:-4])
    with pytest.raises(ConversionError, match="safetensors file but is damaged"):
        read_safetensors(tmp_path / "weights.bin")


def test_weights_of_another_network_are_named() -> None:
    """The first missing and unexpected names, or the first other shape."""
    weights = _weights()
    weights["tail.weight"] = weights.pop("head.weight")
    with pytest.raises(ConversionError, match=r"the source lacks head.weight and the network has no tail.weight;"):
        fit(toy_torch.Classifier(), weights)
    with pytest.raises(ConversionError, match=r"head.bias has the shape \(3,\) in the source and \(5,\) in the"):
        fit(toy_torch.Classifier(5), _weights())


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (
            toy_torch.classifier(),
            r"a pickled Classifier, and opening it would run code: save its weights, torch.save",
        ),
        ({"model": toy_torch.classifier(), "epoch": 3}, "(pickled module|cannot be read without running)"),
        (torch.ones(3), "holds one tensor and no named weights"),
        ([1, 2], "holds a list and no named weights"),
        ({"epoch": 3, "loss": 0.1}, r"no weights \(its entries: 'epoch', 'loss'\)"),
    ],
    ids=["module", "module inside", "tensor", "list", "numbers"],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any, reported: str, is_zip: bool) -> None:
    """With the way out; a pickled module is never unpickled."""
    torch.save(content, tmp_path / "source.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ConversionError, match=reported):
        read_checkpoint(tmp_path / "source.pth")


def test_a_fastai_learner_is_refused(tmp_path: Path) -> None:
    """export.pkl holds the whole training set-up; its way out is fastai's."""
    learner = b"\x80\x02cfastai.learner\nLearner\nq\x00)\x81q\x01."
    path = toy_torch.archived(tmp_path / "export.pkl", learner)
    assert recognise(path) is SourceFormat.TORCH_CHECKPOINT
    with pytest.raises(ConversionError, match=r"pickled fastai Learner.*torch.save\(learn.model.state_dict"):
        read_checkpoint(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    """Neither beside the weights nor in their place."""
    evil = {"state_dict": _weights(), "extra": Runs(tmp_path / "ran")}
    torch.save(evil, tmp_path / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ConversionError, match="and opening it would run that"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page, not a model"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (pickle.dumps({"a": 1}), "a Python pickle, and opening it would run code"),
    ],
)
def test_files_that_are_not_models_are_distinguished(tmp_path: Path, content: bytes, reported: str) -> None:
    """Files that carry a model's ending and are something else."""
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ConversionError, match=reported):
        recognise(tmp_path / "model.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_truncated_file_is_damaged(tmp_path: Path, is_zip: bool) -> None:
    """A download that broke off."""
    path = tmp_path / "weights.pth"
    torch.save(_weights(), path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[:-300])
    # A damaged archive is recognised as such, a damaged row of pickles only when it is read.
    damaged = recognise if is_zip else read_checkpoint
    with pytest.raises(ConversionError, match="damaged: copy it again"):
        damaged(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    """2.1 GiB of zeros in a few megabytes."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}, protocol=2))
        for index in range(9):
            archive.writestr(f"bomb/data/{index}", bytes(2**20))
    with zipfile.ZipFile(path) as archive:
        offset = archive.start_dir
    content = bytearray(path.read_bytes())
    # The directory states the sizes; a real bomb would take minutes to make.
    for index in range(9):
        entry = content.index(f"bomb/data/{index}".encode(), offset) - 46
        content[entry + 24 : entry + 28] = (2**28).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="unpacks to more than 2 GiB"):
        read_checkpoint(path)


def test_torchscript_that_reaches_for_files_is_refused(tmp_path: Path) -> None:
    """Its code is read before it is compiled: it could run while it is loaded."""

    class Writes(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            torch.save(pixels, "stolen.pt")
            return pixels

    toy_torch.scripted(Writes()).save(tmp_path / "model.pt")
    with pytest.raises(ConversionError, match="uses save, which reaches beyond the network"):
        open_script(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return toy_torch.program(tmp_path_factory.mktemp("program") / "model.pt2").read_bytes()


def _target(program: Any, _ran: str) -> Any:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"
    return program


def _expression(program: Any, ran: str) -> Any:
    for value in program["graph_module"]["graph"]["tensor_values"].values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = f"open({ran!r}, 'w').close() or Integer(2)"
    return program


def _tree(program: Any, _ran: str) -> Any:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.dict", "collections.defaultdict")
    return program


def _name(program: Any, ran: str) -> Any:
    program["graph_module"]["graph"]["nodes"][0]["name"] = f"x = open({ran!r}, 'w')"
    return program


@pytest.mark.parametrize("change", [_target, _expression, _tree, _name])
def test_a_program_that_names_other_code_is_refused(
    tmp_path: Path, program: bytes, change: Callable[[Any, str], Any]
) -> None:
    """torch.export.load would look it up, import it or evaluate it."""
    path, ran = tmp_path / "model.pt2", tmp_path / "ran"
    path.write_bytes(program)
    toy_torch.rewritten(path, "models/model.json", lambda content: change(content, str(ran)))
    with pytest.raises(ConversionError, match="which is no tensor operator of torch"):
        open_program(path, tmp_path)
    assert not ran.exists()


def test_a_program_with_pickled_weights_is_refused(tmp_path: Path, program: bytes) -> None:
    """torch.export.load would unpickle them."""

    def pickled(config: Any) -> Any:
        next(iter(config["config"].values()))["use_pickle"] = True
        return config

    path = tmp_path / "model.pt2"
    path.write_bytes(program)
    toy_torch.rewritten(path, "model_weights_config.json", pickled)
    with pytest.raises(ConversionError, match="as a pickle, and opening it would run code"):
        open_program(path, tmp_path)


def test_pickles_beside_a_program_are_left_unread(tmp_path: Path, program: bytes) -> None:
    """Sample inputs and guards are no part of what is loaded."""
    path, ran = tmp_path / "model.pt2", tmp_path / "ran"
    path.write_bytes(program)
    toy_torch.rewritten(
        path, "models/model.json", lambda content: content | {"guards_code": [f"open({str(ran)!r}, 'w')"]}
    )
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, pickle.dumps(Runs(ran)) if "sample_inputs" in name else content)
    assert open_program(path, tmp_path).shape.height_px is None
    assert not ran.exists()
