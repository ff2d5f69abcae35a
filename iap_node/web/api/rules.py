"""`/api/v1/rules`: the `routing` section of config.yaml, read, checked, replayed, saved; coverage and what is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from iap_node.database import route_history
from iap_node.database import routes as rows
from iap_node.errors import ConfigError
from iap_node.routing.coverage import coverage
from iap_node.routing.replay import Way
from iap_node.routing.rules import rules_version
from iap_node.routing.rules_edit import MOST_CHARACTERS
from iap_node.web.actions import rules as actions
from iap_node.web.api.paging import Limit, plain
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["rules"])

DAYS = Field(30, ge=1, le=366)


class RulesSection(BaseModel):
    """The section, YAML, beginning with `routing:`."""

    text: str = Field(max_length=MOST_CHARACTERS)


class RulesReplay(RulesSection):
    """Rules, and the series that they are to be tried on."""

    days: int = DAYS


class RulesSave(RulesSection):
    """Rules that were replayed, and the file that they are to go into."""

    file_version: str = Field(max_length=64, description="`file_version` of the rules that were read")
    replayed: str = Field(max_length=64, description="`rules_version` of the replay")


class InForce(BaseModel):
    """The rules that decide now, and the section as it stands in the file."""

    rules_version: str
    rules: dict[str, Any]
    text: str | None = Field(description="null: it cannot be edited here; `problems` says why")
    file_version: str | None
    problems: list[str]


class Checked(BaseModel):
    """Whether a section is valid."""

    valid: bool
    problems: list[str]
    rules_version: str | None
    is_new: bool


class Turn(BaseModel):
    """How many series go from one place to another."""

    before: dict[str, Any]
    after: dict[str, Any]
    series: int


class Replayed(BaseModel):
    """How series would go; nothing was sent."""

    rules_version: str
    decided: int = Field(description="series of these days; more than `replayed` where time ran out")
    replayed: int
    elsewhere: int
    ways: list[Turn]
    examples: list[dict[str, Any]] = Field(description="some of those that would go elsewhere")


class Saved(BaseModel):
    """The version of the rules that stand in the file now."""

    rules_version: str


@router.get("/rules")
def rules(node: Node, _: Viewer) -> InForce:
    """What decides where series go."""
    in_force = actions.rules_in_force(node)
    text, file_version, problems = None, None, list[str]()
    try:
        found = actions.rules_text(node)
        text, file_version = found.section, found.version
        problems = list(actions.check(node, found.section).problems)
    except (actions.RulesConflict, ConfigError) as error:
        problems = [str(error)]
    return InForce(
        rules_version=rules_version(in_force),
        rules=in_force.model_dump(mode="json"),
        text=text,
        file_version=file_version,
        problems=problems,
    )


@router.post("/rules/check")
def check(node: Node, _: Operator, asked: RulesSection) -> Checked:
    """Whether a section is valid, line by line what is wrong with it; nothing is changed."""
    found = actions.check(node, asked.text)
    return Checked(
        valid=found.routing is not None,
        problems=list(found.problems),
        rules_version=found.version or None,
        is_new=found.is_new,
    )


@router.post("/rules/replay")
def replay(node: Node, _: Operator, asked: RulesReplay) -> Replayed:
    """Which series of the last days would go elsewhere by these rules; nothing is sent."""
    found = actions.check(node, asked.text)
    if found.routing is None:
        raise ConfigError("; ".join(found.problems))
    done = actions.replay(node, found.routing, asked.days)
    return Replayed(
        rules_version=done.version,
        decided=done.n_decided,
        replayed=done.tally.n_series,
        elsewhere=done.tally.n_elsewhere,
        ways=[Turn(before=_way(a), after=_way(b), series=n) for (a, b), n in done.tally.ways.most_common()],
        examples=[
            {
                "series_instance_uid": one.series_instance_uid, "judged_at": plain(one.judged_at),
                "before": _way(one.before), "after": _way(one.after), "reason_before": one.reason_before,
            }
            for one in done.named
        ],
    )  # fmt: skip


@router.put("/rules")
def save(node: Node, operator: Operator, asked: RulesSave) -> Saved:
    """Put a section into the file, once it was replayed; the workers take it by themselves."""
    return Saved(rules_version=actions.save(node, operator, asked.text, asked.file_version, asked.replayed))


@router.get("/coverage")
def covered(node: Node, _: Viewer, days: Annotated[int, Query(ge=1, le=366)] = 30) -> dict[str, Any]:
    """Which share of the last days' series had a model, which fell between, which model starves."""
    since = datetime.now(UTC) - timedelta(days=days)
    found = coverage(actions.rules_in_force(node), route_history.decided(node.database, since), since)
    told: dict[str, Any] = plain(found)
    return told


@router.get("/held")
def held(node: Node, _: Viewer, limit: Limit = 100) -> dict[str, Any]:
    """Series that wait for a person, those first that wait longest; `release` and `reroute` let them go."""
    with node.database.reading() as session:
        return {"items": plain(rows.held_series(session, limit)), "all": rows.count_held(session)}


def _way(way: Way) -> dict[str, Any]:
    told: dict[str, Any] = plain(way._asdict())
    return told
