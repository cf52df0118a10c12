"""What `jobs/durable.py` relies on in DBOS beyond its documentation."""

from __future__ import annotations

import inspect
from importlib.metadata import version

from dbos import DBOS


def test_the_pinned_version_is_installed() -> None:
    """Another minor version may have changed what is private."""
    assert version("dbos").startswith("3.4.")


def test_work_of_named_processes_can_be_taken_over() -> None:
    """The private call takes a list of executor ids and returns handles; the contract tests of jobs run it."""
    parameters = inspect.signature(DBOS._recover_pending_workflows).parameters
    assert list(parameters) == ["executor_ids"]
    status = inspect.signature(DBOS.list_workflows).parameters
    assert {"status", "workflow_id_prefix", "load_input", "load_output", "executor_id"} <= set(status)
