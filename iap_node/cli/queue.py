"""`jobs` and `retry`: the queue and its dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import console, print_json, print_table
from iap_node.records import JobState


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("jobs")(show_jobs)
    app.command("retry")(retry)


def show_jobs(
    config_path: Path = CONFIG,
    state: list[JobState] = typer.Option(
        [JobState.READY, JobState.LEASED, JobState.DEAD], "--state", "-s", help="Only jobs in this state; repeatable."
    ),
    limit: int = typer.Option(100, "--limit", "-n", min=1, help="At most so many."),
    as_json: bool = JSON,
) -> None:
    """What waits, what runs, and the dead letters with their reasons. Finished jobs with `--state done`."""
    from iap_node.database import jobs

    _, database = open_node(config_path)
    with database.reading() as session:
        found = jobs.list_jobs(session, state, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "Jobs",
        ("job", "kind", "state", "series", "rev", "destination", "tries", "due", "last error"),
        [
            (
                job.id,
                job.kind,
                job.state,
                job.series_instance_uid,
                job.revision,
                job.destination,
                job.attempts,
                job.due_at,
                job.error,
            )
            for job in found
        ],
        empty="nothing waits, runs or failed",
    )


def retry(
    config_path: Path = CONFIG,
    job_ids: list[int] = typer.Argument(None, metavar="[JOB]...", help="Dead letters to put back."),
    every: bool = typer.Option(False, "--all", help="Put all dead letters back."),
    as_json: bool = JSON,
) -> None:
    """Put dead letters back into the queue with a fresh count of attempts. Exit code 4 when there was none."""
    from iap_node.database import jobs

    if bool(job_ids) == every:
        raise typer.BadParameter("name jobs (see `iap-node jobs`), or say --all")
    _, database = open_node(config_path)
    with database.transaction() as session:
        requeued = jobs.retry(session, None if every else job_ids, datetime.now(UTC))
    if as_json:
        print_json({"requeued": requeued})
    else:
        console().print(f"{requeued} dead letters are back in the queue")
    if requeued < len(job_ids or [None]):
        raise typer.Exit(Exit.NOT_FOUND)
