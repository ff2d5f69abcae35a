"""`result`: what the node found out about a series, as a DICOM SR document or JSON; `result-schema`: of that JSON."""

from __future__ import annotations

from pathlib import Path

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, SERIES, named_series, open_node
from iap_node.cli.output import complain, print_json, printable


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("result")(result)
    app.command("result-schema")(show_result_schema)


def result(
    series_uid: str = SERIES,
    config_path: Path = CONFIG,
    out: Path = typer.Option(
        None, "--out", metavar="FILE.dcm", help="Where the SR document goes; a file that is there is not overwritten."
    ),
    as_json: bool = JSON,
) -> None:
    """Write the result of a series as a DICOM SR document (TID 1500), or print the same as JSON.

    The document names patient and study as the images do, and refers to them; it is the same file whenever it is
    written, until something else is found out. The JSON holds UIDs and acquisition parameters, and no patient. Exit
    code 1 when the series has not been judged yet, or nothing of it is here to tell whose it is.
    """
    from iap_node.results.content import series_result
    from iap_node.results.report import sr_document
    from iap_node.spool import Spool

    if (out is None) != as_json:
        raise typer.BadParameter("give --out FILE.dcm for the SR document, or --json")
    config, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
        if as_json:
            print_json(series_result(session, series.id).as_json())
            return
    document = sr_document(
        database,
        Spool(config.spool_dir),
        series.id,
        ae_title=config.listener.ae_title,
        max_inflated_bytes=config.inference.max_bytes_per_instance,
    )
    try:
        with out.open("xb") as file:
            file.write(document.content)
    except OSError as error:
        complain(f"cannot write {out}: {error.strerror}")
        raise typer.Exit(Exit.FAILED) from error
    typer.echo(printable(f"{document.result.statement} SR document {document.sop_instance_uid} in {out}"), err=True)


def show_result_schema(
    webhook: bool = typer.Option(False, "--webhook", help="Of the message that a webhook gets, with the result in it."),
) -> None:
    """Print the JSON Schema of a result, as `result --json`, the API and webhooks give it.

    The published ones are docs/result.schema.json and docs/result-message.schema.json.
    """
    from iap_node.results.schema import message_schema, result_schema, schema_text

    typer.echo(schema_text(message_schema() if webhook else result_schema()), nl=False)
