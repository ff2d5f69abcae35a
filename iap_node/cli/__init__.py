"""`iap-node`: the commands, and the only place where rooms are wired together.

One module per kind of command: `setup` (init, check-config, migrate), `roles` (serve and each role alone), `archive`
(import, status, series, show), `routing` (routes, why, held, hold, release, reroute, replay, coverage), `rejudge`,
`findings` (with `decisions`), `queue` (jobs, retry), `echo` (of destinations), `quarantine` (list, show, retry,
delete), `upkeep` (retention, fsck), `audit` (files in a folder, without a node), `accounts` (users, tokens),
`correct` (corrected copies), `results` (SR documents), `protocols` (the habits of scanners), `alarms` (how often the
pixels doubt headers), `notify` (who is told what is wrong), `backup` (and restore), `retrain` (the model, on the
node's own archive), `models` (which is at work), `remote` (another node, by its API).
Rooms are imported inside the commands, so that `--help` is instant and nothing but the infer role ever loads torch.
"""

from __future__ import annotations

import sys

import typer

from iap_node import __version__
from iap_node.cli import (
    accounts,
    alarms,
    archive,
    audit,
    backup,
    correct,
    echo,
    export,
    findings,
    models,
    notify,
    protocols,
    pull,
    quarantine,
    queue,
    rejudge,
    remote,
    report,
    results,
    retrain,
    roles,
    routing,
    setup,
    upkeep,
)
from iap_node.cli.exits import Exit
from iap_node.cli.output import complain
from iap_node.errors import ConfigError, NodeError

app = typer.Typer(
    name="iap-node",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""A DICOM node that settles what an MR series is from its pixels.

    It receives series by C-STORE, predicts how they were acquired, compares that with their headers and sends each
    to the AI model that it fits.

    Begin with `iap-node init`, then `iap-node serve`. All commands read config.yaml in the current folder unless
    --config names another; all that show something print JSON with --json.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the configuration is not valid; 4 no such series,
    job or quarantine entry; 5 something needs attention (`status --check`, `audit --check`, `fsck`).""",
)

setup.add_to(app)
roles.add_to(app)
archive.add_to(app)
findings.add_to(app)
routing.add_to(app)
audit.add_to(app)
alarms.add_to(app)
protocols.add_to(app)
correct.add_to(app)
report.add_to(app)
results.add_to(app)
retrain.add_to(app)
export.add_to(app)
pull.add_to(app)
models.add_to(app)
queue.add_to(app)
rejudge.add_to(app)
echo.add_to(app)
quarantine.add_to(app)
upkeep.add_to(app)
accounts.add_to(app)
notify.add_to(app)
backup.add_to(app)
remote.add_to(app)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"iap-node {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point: errors of the node become one line on standard error and an exit code that means something."""
    try:
        app()
    except ConfigError as error:
        complain(error)
        sys.exit(Exit.CONFIG)
    except NodeError as error:
        complain(error)
        sys.exit(Exit.FAILED)
    except BrokenPipeError:  # `iap-node series | head`
        sys.stderr.close()
        sys.exit(Exit.DONE)
