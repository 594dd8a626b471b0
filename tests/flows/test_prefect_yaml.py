from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.templating import apply_values

from flows.engine import read_engine

DEPLOYMENTS = ("nightly", "one-off")


@pytest.fixture
def manifest(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repository / "prefect.yaml").read_text())
    return found


def deployment(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [one for one in manifest["deployments"] if one["name"] == name]
    return dict(found)


def test_there_is_a_nightly_and_a_one_off_deployment(manifest: dict[str, Any]) -> None:
    assert sorted(one["name"] for one in manifest["deployments"]) == sorted(DEPLOYMENTS)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_entrypoint_loads_as_the_flow_under_its_own_module_name(manifest: dict[str, Any], name: str) -> None:
    flow: Flow[Any, Any] = load_flow_from_entrypoint(
        deployment(manifest, name)["entrypoint"], use_placeholder_flow=False
    )
    assert (flow.name, flow.fn.__module__) == ("migrate", "flows.migrate")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_parameters_fit_the_flow(manifest: dict[str, Any], repository: Path, name: str) -> None:
    chosen = deployment(manifest, name)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(chosen["entrypoint"], use_placeholder_flow=False)
    valid = flow.validate_parameters(chosen["parameters"])
    assert (repository / valid["migration"]).is_file()


def test_a_parameter_that_the_flow_does_not_have_would_be_noticed(manifest: dict[str, Any]) -> None:
    flow: Flow[Any, Any] = load_flow_from_entrypoint("flows.migrate.migrate", use_placeholder_flow=False)
    with pytest.raises(Exception, match="recipe"):
        flow.validate_parameters({**deployment(manifest, "nightly")["parameters"], "recipe": "x"})


def test_the_nightly_schedule_parses_and_comes_once_a_night(manifest: dict[str, Any]) -> None:
    from prefect.server.schemas.schedules import CronSchedule as ServerSchedule

    [schedule] = deployment(manifest, "nightly")["schedules"]
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    asked = ServerSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    import asyncio

    dates = asyncio.run(asked.get_dates(n=3, start=datetime(2026, 11, 22, tzinfo=UTC)))
    assert [(date.day, date.hour, date.minute) for date in dates] == [(22, 2, 15), (23, 2, 15), (24, 2, 15)]
    assert schedule["slug"] == "nightly"


def test_a_nightly_run_never_overtakes_one_that_is_still_at_work(manifest: dict[str, Any]) -> None:
    limit = deployment(manifest, "nightly")["concurrency_limit"]
    assert limit == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_work_pool_is_named_outright(manifest: dict[str, Any], name: str) -> None:
    """Prefect fills environment variables into it only where they are set, so one would be no default."""
    assert deployment(manifest, name)["work_pool"]["name"] == "lorax"


def test_an_engine_that_was_not_chosen_at_deployment_is_the_default_engine(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORAX_ENGINE", raising=False)
    environment = apply_values(deployment(manifest, "one-off"), {})["work_pool"]["job_variables"]["env"]
    assert read_engine(environment) == read_engine({})
