"""`rejudge`: series are judged again, by the model and the rules of now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, named_series, open_node
from iap_node.cli.output import complain, console, print_json
from iap_node.cli.routing import WHO, since_time, user_of_this_session

if TYPE_CHECKING:
    from iap_node.database.engine import Database

AT_ONCE = 500  # series that are looked up at a time; each is put into the queue by itself


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("rejudge")(rejudge)


def rejudge(
    series_uids: list[str] = typer.Argument(None, metavar="[SERIES]...", help="UIDs, or parts of them."),
    since: str | None = typer.Option(None, "--since", metavar="TIME", help="All that came since: 30d, or 2026-03-01."),
    every: bool = typer.Option(False, "--all", help="All that are here."),
    reason: str = typer.Option("", "--reason", "-r", help="Why, for those who come after."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask before --since and --all."),
    who: str | None = WHO,
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Put series into the queue, to be judged again by the model and the rules of now, each as its next revision.

    Series that wait for their judgement anyway are passed over, and those of which bytes are gone. What a destination
    has accepted is not sent there again. Exit code 1 when a named series cannot be judged again.
    """
    from iap_node.database import accounts
    from iap_node.database.archive import BytesGone, NotJudgedAgain, judge_again
    from iap_node.database.timeline import JUDGE_AGAIN

    if sum((bool(series_uids), since is not None, every)) != 1:
        raise typer.BadParameter("name series, or say --since TIME, or --all")
    begin = None if since is None else since_time(since, datetime.now(UTC))
    _, database = open_node(config_path)
    if series_uids:
        with database.reading() as session:
            numbers: Iterator[int] = iter([named_series(session, uid).id for uid in series_uids])
    else:
        if not yes:
            typer.confirm(f"Judge {_count(database, begin)} series again?", abort=True, err=True)
        numbers = _numbers(database, begin)
    person, n_queued, n_waiting, n_gone = who or user_of_this_session(), 0, 0, 0
    for number in numbers:
        now = datetime.now(UTC)
        try:
            with database.transaction() as session:
                judge_again(session, number, now)
                accounts.note(session, person, JUDGE_AGAIN, str(number), now, reason.strip())
        except NotJudgedAgain as error:
            if series_uids:
                complain(error)
            if isinstance(error, BytesGone):
                n_gone += 1
            else:
                n_waiting += 1
        else:
            n_queued += 1
    if as_json:
        print_json({"queued": n_queued, "wait_already": n_waiting, "bytes_gone": n_gone})
    else:
        passed = f"; {n_waiting} waited already" * bool(n_waiting) + f"; of {n_gone} bytes are gone" * bool(n_gone)
        console().print(f"{n_queued} series are in the queue, to be judged again{passed}")
    if series_uids and (n_waiting or n_gone):
        raise typer.Exit(Exit.FAILED)


def _numbers(database: Database, since: datetime | None) -> Iterator[int]:
    from iap_node.database.archive import series_to_judge_again

    last = 0
    while True:
        with database.reading() as session:
            found = series_to_judge_again(session, since, last, AT_ONCE)
        yield from found
        if len(found) < AT_ONCE:
            return
        last = found[-1]


def _count(database: Database, since: datetime | None) -> int:
    return sum(1 for _ in _numbers(database, since))
