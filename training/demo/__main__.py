"""`python -m training.demo`: a node, two downstream models, nine simulated studies, and whether all came out right.

Exit code 0 when everything is as it should be, 1 otherwise; the same is written to build/demo/result.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
import yaml
from pynetdicom import AE
from pynetdicom.presentation import build_context
from rich.console import Console
from rich.progress import Progress

from iap_node.cli.output import as_json
from iap_node.config import NodeConfig, load_config
from iap_node.database import archive, jobs
from iap_node.database.engine import Database
from iap_node.listener.address import read_port
from iap_node.records import JobState, SeriesState
from iap_node.scu import keep_answers
from training.demo.outcome import Outcome, conclude, outcome_of, show
from training.demo.studies import GE_DOMAIN, SIEMENS_DOMAIN, count, make_studies

# The demo compares 96 header values; at audit.alpha = 0.01 about one right one would be accused by chance. With this
# seed none is, so that whatever is not as it should be is news.
SEED = 2308
WAIT_S = 120.0
DOWNSTREAM = {"ge_lesion_finder": "GE_LESIONS", "siemens_lesion_finder": "SIEMENS_LESN"}


class DemoFailed(Exception):
    """The demo could not run to its end; the text says where it stopped."""


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/demo"), help="where all of it happens; emptied first"
    )
    folder: Path = parser.parse_args().folder
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    try:
        outcomes = _run(folder, out)
    except DemoFailed as error:
        out.print(f"[bold red]the demo stopped:[/bold red] {error}")
        return 1
    for outcome in outcomes:
        show(out, outcome)
    (folder / "result.json").write_text(
        json.dumps({"images": "simulated", "studies": as_json(outcomes)}, indent=2), encoding="utf-8"
    )
    conclude(out, outcomes, time.monotonic() - started, folder / "result.json")
    return 0 if all(check.holds for outcome in outcomes for check in outcome.checks) else 1


def _run(folder: Path, out: Console) -> list[Outcome]:
    """Start everything, send everything, wait for everything; what the node made of each study."""
    out.print("[bold]The IAP node, shown on simulated studies[/bold] (model: trained on simulated images)\n")
    with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
        step = progress.add_task("starting the node and two downstream models", total=2 * count() + 1)
        with _downstream_models(folder) as ports, _node(folder, ports) as config:
            progress.advance(step)
            studies = []
            for study in make_studies(folder / "sent", SEED):
                progress.update(step, description=f"sending: {study.title}")
                port = read_port(config.data_dir)
                if port is None:
                    raise DemoFailed(f"the listener is gone; see {folder / 'node.log'}")
                _send(study.files, port)
                studies.append(study)
                progress.advance(step)
            progress.update(step, description="judging and delivering")
            database = Database(config.database_url)
            try:
                _wait(folder, lambda: _settled(database, len(studies)), "all series to be judged and delivered")
                return [outcome_of(database, config, study, folder / "received") for study in studies]
            finally:
                database.dispose()


def _settled(database: Database, number: int) -> bool:
    """Whether every series is judged, and every job over."""
    with database.reading() as session:
        series = archive.list_series(session)
        waiting = jobs.list_jobs(session, (JobState.READY, JobState.LEASED))
    judged = [one for one in series if one.state not in {SeriesState.RECEIVING, SeriesState.COMPLETE}]
    return len(judged) == number and not waiting


@contextmanager
def _downstream_models(folder: Path) -> Iterator[dict[str, int]]:
    """Start the two C-STORE SCPs; yields destination name to port."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "training.demo.downstream", ae_title, str(folder / "received" / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, ae_title in DOWNSTREAM.items()
    }
    try:
        ports = {}
        for name, process in processes.items():
            assert process.stdout is not None
            ports[name] = int(process.stdout.readline())
        yield ports
    finally:
        for process in processes.values():
            process.communicate()  # closes its standard input, at which it stops


@contextmanager
def _node(folder: Path, ports: dict[str, int]) -> Iterator[NodeConfig]:
    """Start `iap-node serve` with the embedded defaults and two routes; yields its configuration."""
    path = folder / "config.yaml"
    ge, siemens = DOWNSTREAM
    content = {
        "data_dir": "node",
        "listener": {"port": 0},
        "web": {"enabled": False},
        "spool": {"prepared_mb": 64},  # nine studies, and a disk that may be small
        "series": {"complete_on_release": True},
        "jobs": {"poll_s": 0.1},
        "routing": {
            "domains": {
                GE_DOMAIN: {
                    "all": [
                        {"parameter": "Manufacturer", "equals": "GE MEDICAL SYSTEMS"},
                        {"parameter": "MagneticFieldStrength", "near": 1.5, "within": 0.1},
                    ]
                },
                SIEMENS_DOMAIN: {
                    "all": [
                        {"parameter": "Manufacturer", "equals": "SIEMENS"},
                        {"parameter": "MagneticFieldStrength", "near": 3.0, "within": 0.2},
                    ]
                },
            },
            "downstream_models": {
                ge: {"domain": GE_DOMAIN, "destinations": [ge]},
                siemens: {"domain": SIEMENS_DOMAIN, "destinations": [siemens]},
            },
        },
        "destinations": {
            name: {"ae_title": ae_title, "host": "127.0.0.1", "port": ports[name]}
            for name, ae_title in DOWNSTREAM.items()
        },
        "log": {"format": "json"},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "iap_node", "serve", "--config", str(path)], stderr=log)
    config = load_config(path)
    try:
        _wait(
            folder, lambda: process.poll() is not None or read_port(config.data_dir) is not None, "the listener"
        )
        if process.poll() is not None:
            raise DemoFailed(f"the node ended with exit code {process.returncode}; see {folder / 'node.log'}")
        yield config
    finally:
        process.terminate()
        process.wait()


def _wait(folder: Path, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {WAIT_S:.0f} s for {what}; see {folder / 'node.log'}")
        time.sleep(0.1)


def _send(files: Sequence[Path], port: int) -> None:
    """C-STORE a study over one association of its own."""
    datasets = [pydicom.dcmread(path) for path in files]
    contexts = {(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in datasets}
    ae = AE(ae_title="MR_SCANNER")
    assoc = ae.associate(
        "127.0.0.1", port, contexts=[build_context(*context) for context in sorted(contexts)], ae_title="IAP_NODE"
    )
    if not assoc.is_established:
        raise DemoFailed("the node refused the association")
    keep_answers(assoc)
    try:
        for ds in datasets:
            status = assoc.send_c_store(ds)
            if "Status" not in status:
                raise DemoFailed(f"the node did not answer a C-STORE within {ae.dimse_timeout:g} s; see its node.log")
            if status.Status != 0x0000:
                raise DemoFailed(f"the node answered {status.Status:04X}H for {ds.SOPInstanceUID}")
    finally:
        assoc.release()


if __name__ == "__main__":
    sys.exit(main())
