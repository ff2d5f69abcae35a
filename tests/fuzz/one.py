"""Runs one fuzz target under atheris, in a process of its own: `python -m tests.fuzz.one headers FOLDER -runs=1000`.

Called by `tests.fuzz.__main__`. atheris instruments what is imported after it and never returns from `Fuzz`; hence the
process. Arguments behind the folder are libFuzzer's.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import warnings
from importlib import import_module
from pathlib import Path

import atheris
import structlog

INSTRUMENTED = [
    "iap_node.audit.checks", "iap_node.dicom", "iap_node.listener", "iap_node.spool", "pynetdicom.dimse_messages",
    "pynetdicom.pdu",
]  # fmt: skip


def main(target: str, folder: Path, options: list[str]) -> None:
    """Write the seeds, then fuzz; never returns."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        module = import_module(f"tests.fuzz.{target}")
    corpus, findings = folder / "corpus", folder / "findings"
    for directory in (corpus, findings):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in module.seeds():
        (corpus / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    arguments = [sys.argv[0], f"-artifact_prefix={findings}/", "-print_final_stats=1", *options, str(corpus)]
    atheris.Setup(arguments, module.execute, enable_python_coverage=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
