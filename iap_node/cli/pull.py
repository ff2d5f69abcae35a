"""`pull`: series from a PACS, by hand; `pull-schedule`: as config.yaml schedules them, the role that `serve` runs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, SUPERVISED, open_node
from iap_node.cli.output import complain, console, print_json, printable

if TYPE_CHECKING:
    from iap_node.config import NodeConfig, SourceConfig
    from iap_node.database.engine import Database
    from iap_node.listener.intake import Intake
    from iap_node.pull.retrieve import Retriever
    from iap_node.pull.run import PulledSeries
    from iap_node.pull.search import Wanted

MIB = 1024**2
FROM_STANDARD_INPUT = "-"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("pull")(pull)
    app.command("pull-schedule")(pull_schedule)


def pull(
    source_name: str = typer.Argument(..., metavar="SOURCE", help="A name under `sources` in config.yaml."),
    modality: list[str] = typer.Option([], "--modality", "-m", help="Only series of this modality; repeatable."),
    study_date: str = typer.Option("", "--study-date", help="YYYYMMDD, or a range such as 20260101-20260131."),
    description: str = typer.Option("", "--description", help="Of the series, with * and ?; case does not count."),
    patient_id: str = typer.Option(
        "", "--patient-id", help="Never logged. '-' reads it from standard input, so that no list of processes has it."
    ),
    study: str = typer.Option("", "--study", help="Only the study of this Study Instance UID."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be pulled."),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Pull series from a PACS: C-FIND, then C-MOVE to our listener or C-GET. What is here already is left out.

    It may be interrupted and started again. Exit code 1 when a series did not come whole.
    """
    from iap_node.pull.run import PullOutcome
    from iap_node.pull.run import pull as run_pull
    from iap_node.pull.search import Wanted

    config, database = open_node(config_path)
    source = _source(config, source_name)
    if patient_id == FROM_STANDARD_INPUT:
        patient_id = sys.stdin.readline().strip()
    wanted = Wanted(tuple(modality), study_date, description, patient_id, study)
    out = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("studies"),
               TextColumn("{task.fields[instances]} instances"), TimeElapsedColumn())  # fmt: skip
    bar = Progress(*columns, console=out, transient=True, disable=as_json or not out.is_terminal)
    pulled: list[PulledSeries] = []
    with _retriever(config, database, source) as (retriever, intake), bar as progress:
        task = progress.add_task(f"pulling from {source_name}", total=None, instances=0)
        n_instances = 0

        def on_instance(n: int) -> None:
            nonlocal n_instances
            n_instances += n
            progress.update(task, instances=n_instances)

        retriever.on_instance = on_instance
        for one in run_pull(
            wanted, retriever, database, intake, dry_run=dry_run,
            on_studies=lambda n, done: progress.update(task, total=n, completed=done),
        ):  # fmt: skip
            pulled.append(one)
            if not as_json and (one.problem or dry_run):
                said = f"{one.outcome} {one.series_instance_uid} {printable(one.description)}"
                out.print(Text(f"{said}: {printable(one.problem)}" if one.problem else said))
    if as_json:
        print_json(pulled)
    else:
        counts = Counter(one.outcome for one in pulled)
        said = ", ".join(f"{counts[outcome]} series {outcome}" for outcome in PullOutcome if counts[outcome])
        out.print(Text(f"{said or 'no such series there'}; {sum(one.n_pulled for one in pulled)} instances pulled"))
    if any(one.problem for one in pulled):
        raise typer.Exit(Exit.FAILED)


def pull_schedule(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Pull by the clock, as `sources` in config.yaml schedules it."""
    from iap_node.cli.roles import start_role
    from iap_node.pull.run import pull as run_pull
    from iap_node.pull.schedule import run_schedule

    config, database, stop = start_role("pull", config_path, supervised)

    def run_one(name: str, wanted: Wanted) -> list[PulledSeries]:
        pulled: list[PulledSeries] = []
        with _retriever(config, database, config.sources[name], stop.wait) as (retriever, intake):
            for one in run_pull(wanted, retriever, database, intake):
                pulled.append(one)
                if stop.is_set():  # what is left is pulled the next time
                    break
        return pulled

    run_schedule(config, run_one, stop)
    database.dispose()


def _source(config: NodeConfig, name: str) -> SourceConfig:
    from iap_node.config.section import did_you_mean

    if name not in config.sources:
        near = did_you_mean(name, config.sources)
        complain(f"there is no source {name!r} in the configuration{near}")
        raise typer.Exit(Exit.NOT_FOUND)
    return config.sources[name]


@contextmanager
def _retriever(
    config: NodeConfig, database: Database, source: SourceConfig, pause: Callable[[float], object] = time.sleep
) -> Iterator[tuple[Retriever, Intake]]:
    from iap_node.listener.intake import Intake
    from iap_node.listener.limits import DiskReserve
    from iap_node.listener.patients import load_or_create_patient_key
    from iap_node.pull.retrieve import Retriever
    from iap_node.spool import Spool

    spool = Spool(
        config.spool_dir,
        durable=config.spool.durability == "strict",
        reserve_bytes=config.spool.disk_reserve_mb * MIB,
    )
    disk = DiskReserve(config.spool_dir, config.spool.disk_reserve_mb * MIB)
    with closing(Intake(spool, database, load_or_create_patient_key(config.patient_key_path))) as intake:
        yield Retriever(source, config.listener.ae_title, intake, disk, pause), intake
