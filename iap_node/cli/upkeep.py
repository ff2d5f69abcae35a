"""`retention` and `fsck`: what leaves the spool, and whether everything that should be in it is there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from iap_node.upkeep.retention import Plan


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("retention")(retention)


def retention(
    config_path: Path = CONFIG,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would go, and why what stays stays."),
    limit: int = typer.Option(50, "--limit", "-n", min=1, help="Name at most so many series, the oldest."),
    as_json: bool = JSON,
) -> None:
    """Remove from the spool what `retention` in the configuration lets go, now instead of at the scheduler's next look.

    Bytes go; judgements, comparisons and routes stay. A series goes only once it is judged and every destination has
    it. Without limits in the configuration nothing ever goes.
    """
    from iap_node.spool import Spool
    from iap_node.upkeep.forecast import size_text
    from iap_node.upkeep.retention import plan, remove_expired

    config, database = open_node(config_path)
    now = datetime.now(UTC)
    if dry_run:
        planned = plan(database, config.retention, now, show=limit)
        if as_json:
            print_json(planned)
        else:
            _print_plan(planned, config.retention.enabled)
        return
    removed = remove_expired(Spool(config.spool_dir), database, config.retention, now)
    while not removed.complete:
        more = remove_expired(Spool(config.spool_dir), database, config.retention, now)
        removed.add(more)
    if as_json:
        print_json(removed)
        return
    console().print(
        f"removed {removed.instances} instances of {removed.series} series, {removed.conflicts} conflicts, "
        f"{removed.quarantined} quarantined: {size_text(removed.size_bytes)}"
        + ("" if config.retention.enabled else "; the configuration sets no limit under retention")
    )


def _print_plan(planned: Plan, enabled: bool) -> None:
    from iap_node.upkeep.forecast import size_text

    out = console()
    if not enabled:
        out.print("the configuration sets no limit under retention: nothing goes")
    if planned.unfinished:
        out.print("a run was interrupted: the next one finishes it first")
    print_table(
        "Goes",
        ("series", "last instance", "inst.", "size", "why"),
        [
            (
                departure.series.series_instance_uid,
                departure.series.last_received_at,
                departure.series.n_instances,
                size_text(departure.series.size_bytes),
                "age" if departure.by_age else "retention.max_gb",
            )
            for departure in planned.first
        ],
        empty="no series goes",
    )
    if planned.series > len(planned.first):
        out.print(f"and {planned.series - len(planned.first)} more series")
    out.print(
        f"{planned.series} series with {planned.instances} instances, {size_text(planned.size_bytes)} of "
        f"{size_text(planned.kept_bytes)}; {planned.conflicts} conflicts; {planned.quarantined} quarantined"
    )
    stays: list[tuple[object, ...]] = [
        (group.hold, group.state, group.n_series, size_text(group.size_bytes)) for group in planned.stays
    ]
    if planned.spared_series:
        reason = "young enough, and retention.max_gb is kept"
        stays.append((reason, "judged or not analysed", planned.spared_series, size_text(planned.spared_bytes)))
    print_table("Stays", ("why", "state", "series", "size"), stays, empty="nothing stays")
    if planned.above_limit_bytes:
        above = size_text(planned.above_limit_bytes)
        out.print(Text(f"{above} above retention.max_gb, and nothing more may go for it", style="bold"))
