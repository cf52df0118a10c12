"""The OpenAPI document states which fields of a request exclude each other, as the server does."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from slidecascade.wire.jobs import JobRequest
from slidecascade.wire.regions import RegionRequest

MPP = {"mpp": 0.5}
DIAMETER = {"object_diameter_px": 24.0}


def is_valid(model: type[RegionRequest] | type[JobRequest], fields: dict[str, object]) -> bool:
    try:
        model.model_validate(fields)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("model", [RegionRequest, JobRequest])
@pytest.mark.parametrize(
    ("sizes", "is_one"),
    [
        ({}, True),
        (MPP, True),
        (DIAMETER, True),
        (MPP | {"object_diameter_px": None}, True),
        (DIAMETER | {"mpp": None}, True),
        (MPP | DIAMETER, False),
    ],
)
def test_the_schema_of_a_request_allows_one_size(
    model: type[RegionRequest] | type[JobRequest], sizes: dict[str, object], is_one: bool
) -> None:
    fields = {"pipeline": "nash", **sizes}
    assert is_valid(model, fields) == is_one
    assert Draft202012Validator(model.model_json_schema()).is_valid(fields) == is_one


@pytest.mark.parametrize(
    ("size", "outputs", "is_right"),
    [
        (MPP, ["dicom"], True),
        ({}, ["geojson", "dicom"], True),
        (DIAMETER, ["geojson", "mask"], True),
        (DIAMETER, ["geojson", "dicom"], False),
    ],
)
def test_the_schema_of_a_job_wants_a_pixel_size_for_dicom(
    size: dict[str, object], outputs: list[str], is_right: bool
) -> None:
    fields = {"pipeline": "nash", "outputs": outputs, **size}
    assert is_valid(JobRequest, fields) == is_right
    assert Draft202012Validator(JobRequest.model_json_schema()).is_valid(fields) == is_right
