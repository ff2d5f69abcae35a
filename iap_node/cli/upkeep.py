"""`retention` and `fsck`: what leaves the spool, and whether everything that should be in it is there."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import console, print_json, print_table, printable

if TYPE_CHECKING:
    from iap_node.upkeep.fsck import Problem, Summary
    from iap_node.upkeep.retention import Plan


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("retention")(retention)
    app.command("fsck")(fsck)


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


def fsck(
    config_path: Path = CONFIG,
    deep: bool = typer.Option(False, "--deep", help="Read all bytes and compare their checksums, too."),
    repair: bool = typer.Option(False, "--repair", help="Mend what is wrong; nothing is deleted silently."),
    settled_after_s: float = typer.Option(
        600.0, "--settled-after", min=0.0, metavar="SECONDS", help="Leave bytes without a row that are younger."
    ),
    limit: int = typer.Option(100, "--limit", "-n", min=1, help="Name at most so many problems; all are counted."),
    as_json: bool = JSON,
) -> None:
    """Check that every row has its bytes and that all bytes have their row. The node may go on working.

    --repair files bytes that have no row, puts damaged ones into the quarantine, notes rows whose bytes are gone as
    lost (sent again, they are whole), and removes torn files. Exit code 5 when something is wrong and was not mended.
    """
    from iap_node.database.consistency import count_holders
    from iap_node.listener.intake import Intake
    from iap_node.listener.patients import load_or_create_patient_key
    from iap_node.listener.recovery import adopt, checksum_of
    from iap_node.spool import Spool
    from iap_node.upkeep.fsck import check

    config, database = open_node(config_path)
    spool = Spool(config.spool_dir)
    intake = Intake(spool, database, load_or_create_patient_key(config.patient_key_path))
    with database.reading() as session:
        expected = count_holders(session)
    problems: list[Problem] = []
    out = console()
    bar = Progress(console=out, transient=True, disable=as_json or not out.is_terminal)
    with closing(intake), bar as progress:
        rows = progress.add_task("rows", total=expected)
        files = progress.add_task("files", total=expected)

        def show_progress(summary: Summary) -> None:
            progress.update(rows, completed=summary.rows)
            progress.update(files, completed=summary.files)

        def note(problem: Problem) -> None:
            if len(problems) < limit:
                problems.append(problem)
                if not as_json:
                    out.print(Text(_problem_text(problem)), soft_wrap=True)

        summary = check(
            spool,
            database,
            lambda spool_path: checksum_of(spool, spool_path),
            deep=deep,
            adopt=(lambda spool_path, facts: adopt(spool, intake, spool_path, facts)) if repair else None,
            settled_after_s=settled_after_s,
            report=note,
            progress=show_progress,
        )
    if as_json:
        print_json({"summary": summary, "is_well": summary.is_well, "problems": problems})
    else:
        _print_summary(summary, repaired=repair)
    if not summary.is_well:
        raise typer.Exit(Exit.ATTENTION)


def _problem_text(problem: Problem) -> str:
    of = f" (SOP Instance UID {problem.sop_instance_uid})" if problem.sop_instance_uid else ""
    return f"{problem.fault}: {printable(problem.spool_path)}{of}" + (f"; {problem.done}" if problem.done else "")


def _print_summary(summary: Summary, *, repaired: bool) -> None:
    out = console()
    rows = [(fault, number, summary.mended[fault]) for fault, number in summary.found.items()]
    print_table("Problems", ("what", "found", "mended"), rows, empty="rows and bytes agree")
    young = f", {summary.too_young} files too young to tell" if summary.too_young else ""
    out.print(f"looked at {summary.rows} rows and {summary.files} files{young}")
    if not summary.is_well:
        remedy = "what is lost must be sent again; `iap-node quarantine list` shows what was put aside"
        out.print(Text(remedy if repaired else "`iap-node fsck --repair` mends what can be mended"))


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
