"""`routes`, `why`, `held`, `hold`, `release`, `reroute`, `replay`, `coverage`: where series go, why, and what if."""

from __future__ import annotations

import gc
import getpass
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, SERIES, named_series, open_node
from iap_node.cli.output import as_json as to_json
from iap_node.cli.output import complain, console, print_json, print_models, print_table, printable
from iap_node.cli.route_report import route_tree

LIMIT = typer.Option(50, "--limit", "-n", min=1, help="At most so many, the newest first.")
SINCE = typer.Option("30d", "--since", metavar="TIME", help="30d, 12h, 4w, or a date such as 2026-03-01.")
WHO = typer.Option(None, "--as", metavar="NAME", help="Who decides, where that is not the user of this session.")
REASON = typer.Option("", "--reason", "-r", help="Why, for those who come after.")

SHOWN_EVERY = 100  # series between two moves of a progress bar

_AGO = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    for command in (routes, why, held, hold, release, reroute, replay, coverage):
        app.command(command.__name__)(command)


def since_time(text: str, now: datetime) -> datetime:
    """A moment as people say it: how long ago, or a date (of this machine's time zone).

    Raises
    ------
    typer.BadParameter
        It is neither.
    """
    ago = _AGO.fullmatch(text)
    if ago:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 30d, 12h or 4w nor a date such as 2026-03-01") from None


def routes(config_path: Path = CONFIG, limit: int = LIMIT, as_json: bool = JSON) -> None:
    """Where series went, and why, in one sentence each; `why` says it at length."""
    from iap_node.database import archive

    _, database = open_node(config_path)
    with database.reading() as session:
        found = [one for one in archive.list_series(session, None, limit) if one.judged_revision is not None]
    if as_json:
        keys = (
            "series_instance_uid",
            "judged_revision",
            "domain",
            "route_reason",
            "held",
            "deliveries",
            "model_id",
            "training_data",
        )
        print_json([{key: to_json(getattr(one, key)) for key in keys} for one in found])
        return
    print_table(
        "Routes",
        ("series", "description", "domain", "went to", "why"),
        [
            (
                one.series_instance_uid,
                one.series_description,
                one.domain or "",
                ", ".join(delivery.text for delivery in one.deliveries) or ("held" if one.held else "stays here"),
                one.route_reason,
            )
            for one in found
        ],
        empty="nothing was routed yet",
    )
    print_models((one.model_id, one.training_data) for one in found)


def why(series_uid: str = SERIES, config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Why a series goes where it goes: every domain, rule and model, every condition with its value and probability.

    Shows the decision as it was made, by the version of the rules that made it, and what people did about it since.
    """
    from iap_node.database import routes as rows

    _, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
        decision = rows.latest_decision(session, series.id)
        changes = rows.route_changes(session, series.id)
        rules = None if decision is None else rows.rules_of(session, decision.rules_version)
        waits = rows.held_series(session, series_id=series.id)
    if decision is None:
        complain(f"series {series.series_instance_uid} is {series.state} and was not judged yet: it has no route")
        raise typer.Exit(Exit.NOT_FOUND)
    if as_json:
        print_json(
            {
                "series_instance_uid": series.series_instance_uid,
                "revision": series.judged_revision,
                "waits_for_a_person": bool(waits),
                "decision": decision,
                "changes": changes,
                "deliveries": series.deliveries,
                "rules": rules,
            }
        )
        return
    out = console()
    out.print(Text(f"Series {series.series_instance_uid}, {printable(series.series_description)}", style="bold"))
    out.print(route_tree(decision, changes))
    for delivery in series.deliveries:
        out.print(Text(f"  {printable(delivery.text)}"))
    if waits:
        why_held = f"{printable(waits[0].held)}, since {printable(waits[0].held_at)}"
        out.print(Text(f"waits for a person, {why_held}: `iap-node release` or `iap-node reroute --to`", style="bold"))


def held(config_path: Path = CONFIG, limit: int = LIMIT, as_json: bool = JSON) -> None:
    """Series that a rule or a person holds, those first that wait longest. Nothing of them is sent meanwhile."""
    from iap_node.database import routes as rows

    _, database = open_node(config_path)
    with database.reading() as session:
        found = rows.held_series(session, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "Held",
        ("series", "modality", "description", "sent by", "since", "why", "once released"),
        [
            (
                one.series_instance_uid,
                one.modality,
                one.series_description,
                one.calling_ae_title,
                one.held_at,
                one.held,
                ", ".join([*one.destinations, *(f"{name} (shadow)" for name in one.shadow_destinations)])
                or "stays here",
            )
            for one in found
        ],
        empty="no series waits for a person",
    )


def hold(
    series_uid: str = SERIES,
    reason: str = typer.Option(..., "--reason", "-r", help="Why: others will ask why nothing arrives."),
    who: str | None = WHO,
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Let nothing of a series be sent until somebody says `release` or `reroute`, whatever is judged meanwhile.

    Deliveries that wait, wait on; late instances wait too. What is being sent at this moment is
    sent. Exit code 1 when it is held already.
    """
    from iap_node.database import accounts
    from iap_node.database import routes as rows

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    _, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
    now, person = datetime.now(UTC), who or user_of_this_session()
    with database.transaction() as session:
        under_way = rows.hold(session, series.id, person, reason.strip(), now)
        accounts.note(session, person, "hold series", str(series.id), now, reason.strip())
    if as_json:
        print_json({"series_instance_uid": series.series_instance_uid, "under_way": under_way})
    else:
        goes_on = f"; {under_way} deliveries are under way and go on" if under_way else ""
        console().print(Text(f"held: nothing more is sent until it is released{goes_on}"), soft_wrap=True)


def release(
    series_uid: str = SERIES,
    reason: str = REASON,
    who: str | None = WHO,
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Let a held series go where the rules would have sent it. Exit code 4 when it is not held."""
    from iap_node.database import accounts
    from iap_node.database import routes as rows

    _, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
    try:
        with database.transaction() as session:
            now, person = datetime.now(UTC), who or user_of_this_session()
            sent = rows.release(session, series.id, person, reason, now)
            accounts.note(session, person, "release series", str(series.id), now, ", ".join(sent))
    except rows.NotHeld as error:
        complain(error)
        raise typer.Exit(Exit.NOT_FOUND) from error
    if as_json:
        print_json({"series_instance_uid": series.series_instance_uid, "destinations": sent})
    else:
        where = printable(", ".join(sent)) or (
            "nowhere, it stays here" if series.judged_revision is not None else "where its judgement will say"
        )
        console().print(Text(f"released: goes to {where}"))


def reroute(
    series_uid: str = SERIES,
    destinations: list[str] = typer.Option(..., "--to", metavar="DESTINATION", help="Where to; repeatable."),
    reason: str = REASON,
    who: str | None = WHO,
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Send a judged series to these destinations, whatever the rules say, held or not.

    What still waits for other destinations, or is a dead letter there, ends; what was delivered stays delivered.
    """
    from iap_node.config.section import did_you_mean
    from iap_node.database import accounts
    from iap_node.database import routes as rows

    config, database = open_node(config_path)
    for name in destinations:
        if name not in config.destinations:
            raise typer.BadParameter(
                f"{name!r} is not under destinations{did_you_mean(name, config.destinations)}", param_hint="--to"
            )
    with database.reading() as session:
        series = named_series(session, series_uid)
    with database.transaction() as session:
        now, person = datetime.now(UTC), who or user_of_this_session()
        revision = rows.reroute(session, series.id, destinations, person, reason, now)
        accounts.note(session, person, "reroute series", str(series.id), now, ", ".join(destinations))
    if as_json:
        print_json(
            {
                "series_instance_uid": series.series_instance_uid,
                "revision": revision,
                "destinations": list(dict.fromkeys(destinations)),
            }
        )
    else:
        console().print(Text(f"rerouted: revision {revision} goes to {printable(', '.join(destinations))}"))


def replay(
    rules_path: Path = typer.Option(
        ..., "--rules", metavar="FILE", help="A configuration file, or one with its routing section alone."
    ),
    since: str = SINCE,
    limit: int = typer.Option(50, "--limit", "-n", min=0, help="Name at most so many series that go elsewhere."),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """What if: decide the series since then again by other rules, and show which would go elsewhere. Sends nothing.

    Decides by what is stored: predictions, headers, and findings as they stand now.
    """
    from iap_node.config import load_routing
    from iap_node.database import route_history
    from iap_node.routing.replay import Replayed, Tally, wanted_by
    from iap_node.routing.replay import replay as decide_again
    from iap_node.routing.rules import Rules

    _, database = open_node(config_path)
    rules = Rules(load_routing(rules_path, config_path))
    begin = since_time(since, datetime.now(UTC))
    with database.reading() as session:
        total = route_history.count_decided(session, begin)
    tally = Tally()
    shown: list[Replayed] = []
    out = console()
    gc.freeze()  # what is loaded by now stays: no need to look through it for garbage with every batch
    with Progress(console=out, transient=True, disable=as_json or not out.is_terminal) as progress:
        task = progress.add_task("deciding again", total=total)
        for one in decide_again(rules, route_history.with_evidence(database, begin, wanted_by(rules))):
            tally.count(one)
            if one.goes_elsewhere and len(shown) < limit:
                shown.append(one)
            if tally.n_series % SHOWN_EVERY == 0:
                progress.update(task, completed=tally.n_series)
    ways = tally.ways.most_common()
    if as_json:
        print_json(
            {
                "rules_version": rules.version,
                "since": begin,
                "series": tally.n_series,
                "elsewhere": tally.n_elsewhere,
                "ways": [
                    {"before": before._asdict(), "after": after._asdict(), "series": number}
                    for (before, after), number in ways
                ],
                "examples": [
                    {
                        "series_instance_uid": one.series_instance_uid,
                        "before": one.before._asdict(),
                        "after": one.after._asdict(),
                        "reason_before": one.reason_before,
                        "reason_after": rules.decide(one.evidence).reason,
                    }
                    for one in shown
                ],
            }
        )
        return
    print_table(
        "Routes, as they were and as they would be",
        ("route", "to", "would be", "to", "series"),
        [
            (before.route, _goes_to(before), after.route, _goes_to(after), number)
            for (before, after), number in ways
        ],
        empty="no series was judged since then",
    )
    if shown:
        print_table(
            "Series that would go elsewhere",
            ("series", "description", "went to", "would go to", "because"),
            [
                (
                    one.series_instance_uid,
                    one.series_description,
                    _goes_to(one.before),
                    _goes_to(one.after),
                    rules.decide(one.evidence).reason,
                )
                for one in shown
            ],
            empty="",
        )
    more = f" (the first {len(shown)} are shown)" if tally.n_elsewhere > len(shown) else ""
    out.print(f"{tally.n_elsewhere} of {tally.n_series} series would go elsewhere{more}; nothing was sent")


def coverage(since: str = SINCE, config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Which share of the series had a downstream model, which fell between, and which model is given nothing."""
    from iap_node.database import route_history
    from iap_node.routing.coverage import coverage as cover

    config, database = open_node(config_path)
    begin = since_time(since, datetime.now(UTC))
    found = cover(config.routing, route_history.decided(database, begin), begin)
    if as_json:
        print_json({**to_json(found), "share_with_model": found.share_with_model})
        return
    out = console()
    print_table(
        "Downstream models",
        ("model", "accepts", "series", "share", "last", "nearly", "lives at", "contact", "what it does"),
        [
            (
                one.model + " (shadow)" * one.shadow,
                one.domain,
                Text("none: it starves", style="bold red") if one.starves else one.n_series,
                _percent(one.share),
                one.last_at,
                one.n_domain_unknown or "",
                one.address,
                one.contact,
                one.description,
            )
            for one in found.models
        ],
        empty="no downstream models are registered (routing.downstream_models)",
    )
    print_table(
        "Series that had no model, by the domains that they missed",
        ("in domains", "unknown for", "series", "share", "the newest", "why that one"),
        [
            (
                ", ".join(one.true_domains) or "none",
                ", ".join(one.unknown_domains) or "none",
                one.n_series,
                _percent(one.share),
                one.example,
                one.reason,
            )
            for one in found.gaps
        ],
        empty="every series had a model",
    )
    share = f" ({_percent(found.share_with_model)})" if found.n_series else ""
    out.print(
        f"{found.n_series} series: {found.n_with_model} had a model{share}, "
        f"{found.n_by_rules} went by rules alone, {found.n_default} by the default route; {found.n_held} were held"
    )


def _goes_to(way: object) -> str:
    destinations: tuple[str, ...] = getattr(way, "destinations", ())
    shadow: tuple[str, ...] = getattr(way, "shadow_destinations", ())
    text = ", ".join([*destinations, *(f"{name} (shadow)" for name in shadow)]) or "stays here"
    return f"held ({text})" if getattr(way, "held", False) else text


def _percent(part: float | None) -> str:
    return "" if part is None else f"{100.0 * part:.1f} %"


def user_of_this_session() -> str:
    """Who decides, where nobody says so: the operating system's name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown user"
