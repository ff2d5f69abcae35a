"""`import`, `status`, `series`, `show`: what is here, and what was found out about it."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, SERIES, named_series, open_node
from iap_node.cli.output import console, print_json, print_models, print_table, printable
from iap_node.cli.series_report import print_series
from iap_node.records import JobState, SeriesState

MIB = 1024**2
NEARLY_FULL_DAYS = 3.0  # a weekend, with a day to act

LIMIT = typer.Option(50, "--limit", "-n", min=1, help="At most so many, the newest first.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("import")(import_folder)
    for command in (status, show):
        app.command(command.__name__)(command)
    app.command("series")(list_series)


def import_folder(
    path: Path = typer.Argument(
        ..., metavar="PATH", exists=True, help="Folder with DICOM files, searched deeply; a DICOMDIR, a zip, or a file."
    ),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """File instances as if they had been sent. The originals stay where they are; nothing of a zip is unpacked.

    A running node judges and routes them after the quiet period. Exit code 1 when something went to the quarantine, or
    was refused: encrypted or damaged in a zip, too large to be believed, named by a DICOMDIR and not there.
    """
    from iap_node.dicom.media import open_media
    from iap_node.listener.folder import ImportOutcome, import_files
    from iap_node.listener.intake import Intake
    from iap_node.listener.limits import DiskReserve
    from iap_node.listener.patients import load_or_create_patient_key
    from iap_node.spool import Spool

    config, database = open_node(config_path)
    intake = Intake(Spool(config.spool_dir), database, load_or_create_patient_key(config.patient_key_path))
    disk = DiskReserve(config.spool_dir, config.spool.disk_reserve_mb * MIB)
    counts: Counter[ImportOutcome] = Counter(dict.fromkeys(ImportOutcome, 0))
    out = console()
    bar = Progress(console=out, transient=True, disable=as_json or not out.is_terminal)
    max_bytes = config.listener.max_instance_mb * MIB
    with closing(intake), open_media(path, max_bytes) as paths, bar as progress:
        task = progress.add_task("importing", total=len(paths))
        for imported in import_files(paths, intake, disk):
            counts[imported.outcome] += 1
            progress.advance(task)
            if imported.outcome in (ImportOutcome.QUARANTINED, ImportOutcome.REFUSED) and not as_json:
                out.print(Text(f"{imported.outcome} {printable(imported.path)}: {printable(imported.reason)}"))
    if as_json:
        print_json({outcome.value: number for outcome, number in counts.items()})
    else:
        told = (f"{number} {outcome.replace('_', ' ')}" for outcome, number in counts.items())
        out.print(", ".join(text for text in told if text != "0 refused"))  # which only a zip or a DICOMDIR knows
    if counts[ImportOutcome.QUARANTINED] or counts[ImportOutcome.REFUSED]:
        raise typer.Exit(Exit.FAILED)


def status(
    config_path: Path = CONFIG,
    check: bool = typer.Option(False, "--check", help="Exit code 5 when something needs a person."),
    as_json: bool = JSON,
) -> None:
    """How the node is doing: series by state, the queue, what failed, what lies in the quarantine, and the room left.

    Needs a person: dead letters, held series, quarantine, conflicts, lost instances, storage commitments that could
    not be reported to who asked for them, a disk that is full within three days.
    """
    from iap_node.database.commitments import commitment_counts
    from iap_node.database.destination_health import pauses
    from iap_node.database.findings import count_findings
    from iap_node.database.status import status_counts
    from iap_node.database.tables import CommitmentState
    from iap_node.listener.address import read_port
    from iap_node.upkeep.capacity import capacity
    from iap_node.upkeep.forecast import size_text

    config, database = open_node(config_path)
    with database.reading() as session:
        counts = status_counts(session)
        open_findings = count_findings(session)
        commitments = commitment_counts(session)
        paused = pauses(session)
    dead = sum(number for (_, state), number in counts.jobs.items() if state is JobState.DEAD)
    reserve_bytes = config.spool.disk_reserve_mb * MIB
    room = capacity(database, config.spool_dir, reserve_bytes, config.retention, datetime.now(UTC))
    nearly_full = room.full_in_days is not None and room.full_in_days < NEARLY_FULL_DAYS
    untold = commitments.states[CommitmentState.EXPIRED]
    attention = dead + counts.n_held + counts.n_quarantined + counts.n_conflicts + counts.n_lost + untold + nearly_full
    port = read_port(config.data_dir)
    if as_json:
        by_kind: dict[str, dict[str, int]] = {}
        for (kind, state), number in counts.jobs.items():
            by_kind.setdefault(kind.value, {})[state.value] = number
        print_json(
            {
                "listener_port": port,
                "series": {state.value: number for state, number in counts.series.items()},
                "jobs": by_kind,
                "deliveries": {state.value: number for state, number in counts.deliveries.items()},
                "dead_letters": dead,
                "paused_destinations": paused,
                "open_findings": {severity.value: number for severity, number in open_findings.items()},
                "held": counts.n_held,
                "quarantine": counts.n_quarantined,
                "conflicts": counts.n_conflicts,
                "lost_instances": counts.n_lost,
                "storage_commitments": {state.value: number for state, number in commitments.states.items()},
                "oldest_waiting_commitment_at": commitments.oldest_waiting_at,
                "room": room,
                "oldest_waiting_job_at": counts.oldest_waiting_job_at,
            }
        )
    else:
        rows: list[tuple[str, object]] = [("listening on port", port or "no: the listener does not run")]
        rows += [(f"series {state}", number) for state, number in counts.series.items()]
        rows += [(f"jobs {kind} {state}", number) for (kind, state), number in counts.jobs.items() if number]
        rows += [(f"deliveries {state}", number) for state, number in counts.deliveries.items() if number]
        rows += [(f"{one.destination} fails: left alone until", one.paused_until) for one in paused]
        rows += [("series held for a person", counts.n_held)] if counts.n_held else []
        rows += [(f"open findings {severity}", number) for severity, number in open_findings.items() if number]
        rows += [("in quarantine", counts.n_quarantined), ("conflicts kept aside", counts.n_conflicts)]
        rows.append(("oldest waiting job since", counts.oldest_waiting_job_at or "none waits"))
        rows += [("instances whose bytes are lost", counts.n_lost)] if counts.n_lost else []
        rows += [
            (f"storage commitments {state}", number) for state, number in commitments.states.items() if number
        ]
        if commitments.oldest_waiting_at is not None:
            rows.append(("oldest waiting storage commitment since", commitments.oldest_waiting_at))
        free, total, reserve = (size_text(n) for n in (room.free_bytes, room.total_bytes, room.reserve_bytes))
        rows.append(("free room", f"{free} of {total}, {reserve} of them in reserve"))
        day, week = size_text(room.last_day_bytes), size_text(room.last_week_bytes)
        rows.append(("received", f"{day} in the last day, {week} in the last week"))
        rows.append(("the disk is", room.forecast))
        print_table("Node", ("what", "how many"), rows, empty="")
        if dead:
            console().print(
                f"{dead} dead letters: `iap-node jobs --state dead` says why, `iap-node retry` puts them back"
            )
    if check and attention:
        raise typer.Exit(Exit.ATTENTION)


def list_series(
    config_path: Path = CONFIG,
    state: list[SeriesState] = typer.Option([], "--state", "-s", help="Only series in this state; repeatable."),
    limit: int = LIMIT,
    as_json: bool = JSON,
) -> None:
    """One line per series: what it is, where it is on its way, what was found, where it went."""
    from iap_node.database import archive

    _, database = open_node(config_path)
    with database.reading() as session:
        found = archive.list_series(session, state or None, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "Series",
        ("series", "modality", "description", "scanner", "inst.", "state", "rev", "pixels", "findings", "went to"),
        [
            (
                one.series_instance_uid,
                one.modality,
                one.series_description,
                one.manufacturer_model_name,
                one.n_instances,
                one.state,
                one.revision,
                _pixels(one),
                one.n_findings or "",
                ", ".join(delivery.text for delivery in one.deliveries) or "held" * one.held,
            )
            for one in found
        ],
        empty="no series yet; send one with `storescu`, or `iap-node import` a folder",
    )
    print_models((one.model_id, one.training_data) for one in found)


def _pixels(series: Any) -> str:
    if series.not_analysed_reason:
        return "not analysed"
    return {None: "", True: "novel", False: "judged"}[series.novel]


def show(
    series_uid: str = SERIES,
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """All about one series: header against pixels, what was found, the route and its reasons, its instances."""
    from iap_node.database import archive, results
    from iap_node.database.findings import FindingFilter, every_finding

    _, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
        judgement = results.judgement(session, series.id)
        instances = archive.current_instances(session, series.id)
        answers = results.instance_deliveries(session, series.id)
        found = list(every_finding(session, FindingFilter(states=(), series_id=series.id)))
    if as_json:
        content = {"series": series, "judgement": judgement, "findings": found}
        print_json(content | {"instances": instances, "answers": answers})
    else:
        print_series(series, judgement, found, instances, answers)
