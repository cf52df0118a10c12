"""Which graph of a model is run where: where it is set, int8 on CPUs that multiply it fast, else float32.

Both are graphs of one package, and models of their own: answers and ids state the sha256 of the one that ran.
"""

from __future__ import annotations

from collections.abc import Mapping

from slidecascade.cores import multiplies_int8
from slidecascade.errors import SettingsError
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.signatures import read_trusted
from slidecascade.runners.choice import names_by_kind
from slidecascade.settings import Settings


def served_packages(settings: Settings) -> Mapping[str, ModelPackage]:
    """The packages of the models folder by name, each with the graph that `settings` and this CPU choose.

    Raises:
        ModelPackageError: for an invalid package, or when the folder does not exist.
        SettingsError: when the file of trusted keys cannot be used, or int8 is set and cannot be run here.
    """
    trusted = None if settings.model_keys is None else read_trusted(settings.model_keys)
    packages = load_repository(settings.models_dir, trusted)
    if not _wants_int8(settings):
        return packages
    # A Triton server runs the graph that its config.pbtxt states.
    elsewhere = set(names_by_kind(packages, settings).get("triton", []))
    return {
        name: package if name in elsewhere or package.spec.int8 is None else package.in_int8()
        for name, package in packages.items()
    }


def _wants_int8(settings: Settings) -> bool:
    is_able = settings.device == "cpu" and multiplies_int8()
    if settings.precision == "int8" and not is_able:
        # Without these instructions sums of products saturate, and the outputs are others than elsewhere.
        raise SettingsError(
            "SLIDECASCADE_PRECISION is 'int8', which needs a CPU with VNNI (x86) or dot products (Arm) as the "
            "device: set it to 'auto' or 'float32'."
        )
    return settings.precision != "float32" and is_able
