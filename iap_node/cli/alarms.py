"""`alarms`: how often the pixels doubt right headers, per scanner and parameter, beside the alpha that was promised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from rich.text import Text

from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import as_json as plain
from iap_node.cli.output import console, print_json, print_models, print_table

DAYS = 90  # unless a period is given


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("alarms")(alarms)


def alarms(
    config_path: Path = CONFIG,
    since: datetime | None = typer.Option(None, metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="In UTC."),
    until: datetime | None = typer.Option(
        None, metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="In UTC: the first day that is left out."
    ),
    above: bool = typer.Option(False, "--above", help="Only rates that are clearly above alpha."),
    as_json: bool = JSON,
) -> None:
    """How often the pixels doubt what headers state, per scanner and parameter: the last 90 days without a period.

    A right header is doubted at a rate of about alpha. The rate leaves out what people accepted as faults; one that is
    clearly above alpha says that this scanner's headers are often wrong, or that the model does not fit its images.
    """
    from iap_node.database.alarms import CONFIDENCE, WHOLE_HEADER, alarm_rates, models_heard
    from iap_node.dicom.parameters import BY_KEYWORD

    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    begin = end - timedelta(days=DAYS) if since is None else since.replace(tzinfo=UTC)
    if begin >= end:
        raise typer.BadParameter("the period ends before it begins", param_hint="--until")
    config, database = open_node(config_path)
    with database.reading() as session:
        rates = alarm_rates(session, begin, end, joint_alpha=config.audit.joint_alpha)
        models = models_heard(session, begin, end)
    shown = [rate for rate in rates if rate.above_alpha or not above]
    if as_json:
        derived = ("n_undecided", "rate", "interval", "above_alpha")
        print_json([plain(rate) | {name: plain(getattr(rate, name)) for name in derived} for rate in shown])
        return
    rows = [
        (
            rate.scanner,
            "whole header" if rate.keyword == WHOLE_HEADER else BY_KEYWORD[rate.keyword].title,
            rate.n_judged,
            rate.n_alarms,
            rate.n_dismissed,
            rate.n_accepted,
            rate.n_undecided,
            Text(f"{rate.rate:.2%}", style="bold red" if rate.above_alpha else ""),
            "{:.2%} to {:.2%}".format(*rate.interval),
            f"{rate.alpha:.2%}",
            "above alpha" if rate.above_alpha else "",
        )
        for rate in shown
    ]
    columns = (
        "scanner", "parameter", "series", "alarms", "dismissed", "accepted", "undecided", "rate",
        f"{CONFIDENCE:.0%} interval", "alpha", "",
    )  # fmt: skip
    empty = "no rate is above alpha" if above else "nothing was judged"
    print_table("Alarms of the pixels", columns, rows, empty)
    if any(rate.above_alpha for rate in shown):
        console().print(
            Text("above alpha: look at what was dismissed; where the headers are right, the model does not fit")
        )
    print_models(models)
