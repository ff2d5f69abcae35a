"""`models`: the packages that the node knows, which of them is champion or in shadow, and what happened to each."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import complain, console, print_json, print_table, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iap_node.database.engine import Database
    from iap_node.database.models import RegisteredModel
    from iap_node.database.shadow import Agreement

app = typer.Typer(no_args_is_help=True, help="Model packages: which is at work, which is tried beside it.")

MODEL = typer.Argument(..., metavar="MODEL", help="Name of a model, or its beginning.")
REASON = typer.Option("", "--reason", "-m", help="Why, for those who read what happened to it.")
MOST_EVENTS = 20


def add_to(parent: typer.Typer) -> None:
    """Register the commands of this module."""
    parent.add_typer(app, name="models")


@app.command("list")
def list_models(config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Every model that was ever at work or registered here; the champion first."""
    from iap_node.database import models
    from iap_node.inference.registry import unregistered

    config, database = open_node(config_path)
    with database.reading() as session:
        found = models.list_models(session)
        problems = models.load_problems(session)
    left = unregistered(config.data_dir, database)
    if as_json:
        print_json([_short(one) for one in found])
        return
    rows = [
        (one.model_id, one.state, one.training_data, "here" if one.folder else "not here", one.registered_at)
        for one in found
    ]
    columns = ("model", "state", "trained on", "package", "registered")
    print_table("Models", columns, rows, empty="no model yet: the infer role registers its own when it starts")
    for problem in problems:
        complain(f"{problem.model_id} does not load at {problem.who}: {problem.reason}")
    for one in left:
        complain(f"{one.folder} is not registered; `iap-node models add {one.folder}`")


@app.command("show")
def show(name: str = MODEL, config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """One model: where it comes from, its gates, and what happened to it."""
    from iap_node.database import models

    _, database = open_node(config_path)
    found = _named(database, name)
    with database.reading() as session:
        events = models.list_events(session, found.model_id, MOST_EVENTS)
    if as_json:
        print_json({"model": found, "events": events})
        return
    out = console()
    out.print(Text(f"{printable(found.model_id)}: {found.state}, {printable(found.training_data)}", style="bold"))
    facts = [
        ("package", found.folder or "not here; only its predictions are"),
        ("SHA-256 of model.json", found.manifest_sha256),
        ("registered", found.registered_at),
        ("trained from", found.parent_id),
        ("champion before it", found.predecessor_id),
        ("parameters", ", ".join(found.parameters)),
    ]
    for title, value in facts:
        if value:
            out.print(Text(f"  {title}: {printable(value)}"))
    if found.gates is not None:
        rows = [("passed" if gate.passed else "FAILED", gate.name, gate.sentence) for gate in found.gates]
        print_table("Gates", ("", "gate", "what was measured"), rows, empty="no gates")
    told = [(one.at, _words(one.event), one.who, one.reason) for one in events]
    print_table("What happened", ("at", "event", "who", "why"), told, empty="nothing")


@app.command("add")
def add(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="A model package, as iap-train writes it."),
    reason: str = REASON,
    config_path: Path = CONFIG,
) -> None:
    """Check a package, copy it below the data directory and register it as a candidate. It changes no verdict yet."""
    from iap_node.inference.registry import add_package

    config, database = open_node(config_path)
    added = add_package(folder, config.data_dir, database, _me(), reason, datetime.now(UTC))
    console().print(Text(f"{added.model_id} is {added.state}; `iap-node models shadow` or `promote` puts it to work"))


@app.command("promote")
def promote(name: str = MODEL, reason: str = REASON, config_path: Path = CONFIG) -> None:
    """Make a model the champion. Workers change to it between two series, without a restart."""
    from iap_node.inference import registry

    config, database = open_node(config_path)
    found = _named(database, name)
    promoted = registry.promote(found.model_id, config.data_dir, database, _me(), reason, datetime.now(UTC))
    before = f"; `iap-node models rollback` returns to {promoted.predecessor_id}" if promoted.predecessor_id else ""
    console().print(Text(f"{promoted.model_id} is champion{before}"))


@app.command("rollback")
def rollback(reason: str = REASON, config_path: Path = CONFIG) -> None:
    """Return to the champion before this one."""
    from iap_node.inference import registry

    config, database = open_node(config_path)
    restored = registry.roll_back(config.data_dir, database, _me(), reason, datetime.now(UTC))
    console().print(Text(f"{restored.model_id} is champion again"))


@app.command("shadow")
def shadow(
    name: str = MODEL,
    n_series: int | None = typer.Option(None, "--series", min=1, help="How many; else retraining.shadow_series."),
    end: bool = typer.Option(False, "--end", help="Take it out of shadow now."),
    reason: str = REASON,
    config_path: Path = CONFIG,
) -> None:
    """Let a model predict the next series beside the champion; its answers are kept and decide nothing."""
    from iap_node.inference import registry

    config, database = open_node(config_path)
    found, now = _named(database, name), datetime.now(UTC)
    if end:
        registry.end_shadow(found.model_id, database, _me(), reason, now)
        console().print(Text(f"{found.model_id} is a candidate; `iap-node models agreement {found.model_id}`"))
        return
    wanted = n_series or config.retraining.shadow_series or 200
    registry.begin_shadow(found.model_id, wanted, config.data_dir, database, _me(), reason, now)
    console().print(Text(f"{found.model_id} is in shadow for the next {wanted} series"))


@app.command("retire")
def retire(name: str = MODEL, reason: str = REASON, config_path: Path = CONFIG) -> None:
    """Lay a candidate aside; it may be promoted later."""
    from iap_node.inference import registry

    _, database = open_node(config_path)
    found = _named(database, name)
    registry.retire(found.model_id, database, _me(), reason, datetime.now(UTC))
    console().print(Text(f"{found.model_id} is retired"))


@app.command("agreement")
def agreement(name: str = MODEL, config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """How far a model agreed with the champion while it was in shadow, and both with the headers."""
    from iap_node.database import shadow as kept

    config, database = open_node(config_path)
    found = _named(database, name)
    with database.reading() as session:
        agreed = kept.agreement(session, found.model_id)
    gates = kept.agreement_gates(agreed, config.retraining.agreement, config.retraining.gates.parameters)
    if as_json:
        print_json({"agreement": agreed, "gates": gates})
        return
    _print_agreement(agreed)
    rows = [("holds" if gate.passed else "FAILS", gate.name, gate.sentence) for gate in gates]
    if agreed.n_series:
        print_table("Asked for a promotion by gate", ("", "gate", "what was measured"), rows, empty="")


@app.command("events")
def events(
    config_path: Path = CONFIG,
    limit: int = typer.Option(50, "--limit", "-n", min=1, help="At most so many, the newest first."),
    as_json: bool = JSON,
) -> None:
    """What happened to all models: registered, in shadow, promoted, rolled back."""
    from iap_node.database import models

    _, database = open_node(config_path)
    with database.reading() as session:
        found = models.list_events(session, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [(one.at, one.model_id, _words(one.event), one.who, one.reason) for one in found]
    print_table("Events", ("at", "model", "event", "who", "why"), rows, empty="nothing happened yet")


def _print_agreement(found: Agreement) -> None:
    if not found.n_series:
        console().print(Text(f"{found.model_id} has judged no series beside a champion yet"))
        return
    wanted = f" of {found.n_wanted}" if found.n_wanted else ""
    console().print(
        Text(
            f"{found.model_id} beside {', '.join(found.champions)}: {found.n_series}{wanted} series; novel to it "
            f"{found.n_novel_candidate}, to the champion {found.n_novel_champion}, the same in {found.n_same_novelty}"
        )
    )
    rows = [
        (
            one.keyword, one.n, _share(one.share_same),
            "" if one.mean_difference is None else f"{one.mean_difference:.4g}",
            one.n_stated, _share(one.champion_share), _share(one.candidate_share),
        )
        for one in found.parameters
    ]  # fmt: skip
    columns = ("parameter", "series", "same", "mean difference", "headers", "right: champion", "right: candidate")
    print_table("Agreement", columns, rows, empty="both models spoke about no series")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(one: RegisteredModel) -> dict[str, object]:
    return {
        "model_id": one.model_id,
        "state": one.state,
        "training_data": one.training_data,
        "folder": one.folder,
        "manifest_sha256": one.manifest_sha256,
        "registered_at": one.registered_at,
        "parent_id": one.parent_id,
        "predecessor_id": one.predecessor_id,
        "shadow_series": one.shadow_series,
    }


def _named(database: Database, name: str) -> RegisteredModel:
    """The model of this name, or the only one whose name begins so; ends the command otherwise."""
    from iap_node.database import models

    with database.reading() as session:
        found: Sequence[RegisteredModel] = models.list_models(session)
    same = [one for one in found if one.model_id == name] or [one for one in found if one.model_id.startswith(name)]
    if len(same) != 1:
        which = ", ".join(one.model_id for one in same)
        complain(f"{name!r} is " + (f"the beginning of {which}" if same else "no model; `iap-node models list`"))
        raise typer.Exit(Exit.NOT_FOUND)
    return same[0]


def _me() -> str:
    """As the audit trail has who works at the terminal."""
    return f"{getpass.getuser()} at the terminal"
