"""One run from the archive to a candidate, stage after stage; what a stage has made is found by who resumes the run.

The data set is kept from run to run and brought up to date: it is what the archive holds, split by patient hash, so
that who is held out today is held out for ever. Everything that the archive holds is learned from, not the newest
alone: a model that sees new series only forgets the others, and what is new since the last run says whether a run is
worth its time. Called by `training.retrain`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from iap_node.config import NodeConfig
from iap_node.database import models, retraining
from iap_node.database.engine import Database
from iap_node.database.retraining import RetrainingRun
from iap_node.errors import NodeError
from iap_node.inference.heads import Head
from iap_node.inference.package import MANIFEST_FILE, ModelPackage, load_package, package_folder
from iap_node.inference.preprocess import Preprocessing
from iap_node.inference.store import load_installed
from iap_node.spool import Spool
from training import dataset
from training.dataset import DataSetError, SeriesSet
from training.fit import Progress, fit
from training.gates import GateResult, HeldOut, judge_gates
from training.manifest import ManifestRow, read_manifest
from training.prepare import PrepareOptions, prepare
from training.recipes import Labels, Recipe
from training.reference import Naming, package_from
from training.retraining.guards import contradicted_labels, judge_labels
from training.retraining.judging import held_out, predictions
from training.retraining.life import Life
from training.retraining.plan import Plan, code_version, plan_in, recipe_of
from training.retraining.publish import publish, remove_works
from training.retraining.start import class_patients, first_weights, heads_from
from training.sources.archive import ArchiveSource

DATA, CHAMPION_DATA, FIT, PACKAGE = "data", "data-of-champion", "fit", "package"
GUARDED_SERIES = 2000  # that labels are checked on, evenly from the whole data set; more say nothing new
_PREPARED_FILE = "prepared.json"
_PREPARE_TRIES = 3  # retention may take a file between two looks

log = structlog.get_logger("retraining")


class Refused(NodeError):
    """Nothing is trained, or nothing is made of it: the text says why, and what can be done."""

    def __init__(self, message: str, gates: Sequence[GateResult] = ()) -> None:
        super().__init__(message)
        self.gates = tuple(gates)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set of the archive: its folder and, per split, its rows in the order of its series."""

    folder: Path
    rows: Mapping[str, tuple[ManifestRow, ...]]

    def labels(self, split: str) -> list[Labels]:
        """Of each series of a split."""
        return [row.labels for row in self.rows[split]]

    def patients(self, split: str) -> list[str]:
        """Of each series of a split."""
        return [row.patient for row in self.rows[split]]


@dataclass(frozen=True, slots=True)
class Retraining:
    """What a run has at hand. `now` is the time; tests have their own."""

    node: NodeConfig
    database: Database
    run: RetrainingRun
    champion: ModelPackage
    life: Life
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def work(self) -> Path:
        """The run's own folder."""
        assert self.run.work is not None  # given when it began
        return self.node.retraining_dir / Path(self.run.work).name

    def report(self, **parts: Any) -> None:
        """Keep what was found out, for people who look at the run."""
        with self.database.transaction() as session:
            retraining.report_run(session, self.run.id, parts)


def model_at_work(node: NodeConfig, database: Database) -> tuple[ModelPackage, bool]:
    """The package of the champion and True; the configured one and False while no worker has registered any.

    Raises
    ------
    ModelPackageError
        Its package is not here, or damaged.
    """
    with database.reading() as session:
        champion = models.champion(session)
    if champion is None:
        return load_package(package_folder(node.inference.model)), False
    return load_installed(node.data_dir, champion.folder, champion.model_id), True


def retrain(job: Retraining) -> RetrainingRun:
    """Do what is left of a run, and end it.

    Raises
    ------
    Refused
        There is nothing to learn, or labels that must not be learned; the run is not ended yet.
    Stopped
        It is to end.
    """
    config, life = job.node.retraining, job.life
    with job.database.reading() as session:
        works = retraining.works_in_use(session)
    remove_works(job.node, works | {job.work.name})
    plan, resumed = plan_in(job.work, config, job.champion, job.now())
    with job.database.transaction() as session:
        facts = {"champion": job.champion.model_id, "plan": asdict(plan), "resumed": resumed}
        retraining.report_run(session, job.run.id, facts, plan.data_until)
    recipe = recipe_of(plan, config, job.champion)
    data = _data_set(job, plan, DATA, recipe.preprocessing)
    own = job.champion.manifest.preprocessing
    champion_data = data if own == recipe.preprocessing else _data_set(job, plan, CHAMPION_DATA, own)
    _check_labels(job, champion_data)
    heads = _heads(job, plan, recipe, data)
    package = _fitted(job, plan, recipe, heads, data)
    champion_held_out, candidate_held_out = _held_out(job, package, data, champion_data)
    gates = judge_gates(champion_held_out, candidate_held_out, config.gates, plan.seed)
    metrics = {
        "champion": _metrics(champion_held_out),
        "candidate": _metrics(candidate_held_out),
        "held_out_patients": len(set(candidate_held_out.patients)),
        "held_out_series": len(candidate_held_out.patients),
    }
    job.report(gates=[asdict(gate) for gate in gates], metrics=metrics)
    life.tell("registering", 0.0)
    return publish(
        package,
        gates,
        {
            "retraining": job.run.id,
            "start": plan.start,
            "champion": job.champion.model_id,
            "data_manifest_sha256": dataset.describe(data.folder)["manifest_sha256"],
            "data_until": plan.begun_at,
            "code": code_version(),
            "seed": plan.seed,
            "metrics": metrics,
            "package": package.manifest.provenance,
        },
        node=job.node,
        database=job.database,
        run=job.run,
        champion=job.champion,
        now=job.now(),
    )


def _data_set(job: Retraining, plan: Plan, name: str, preprocessing: Preprocessing) -> Prepared:
    """The archive as a data set; one that a run was interrupted with stays as it was."""
    folder = job.node.retraining_dir / name
    done = job.work / f"{name}.{_PREPARED_FILE}"
    if not _is_prepared(folder, done):
        if name == DATA:
            for made in (FIT, PACKAGE):  # of other data
                shutil.rmtree(job.work / made, ignore_errors=True)
        _prepare(job, plan, folder, preprocessing)
        partial = done.with_suffix(".partial")
        partial.write_text(json.dumps(dataset.describe(folder)["manifest_sha256"]))
        partial.replace(done)
    kept: dict[str, list[ManifestRow]] = {split: [] for split in dataset.SPLITS}
    for row in read_manifest(folder):
        if row.dropped_reason is None:
            kept[row.split].append(row)
    for split, rows in kept.items():
        if not rows:
            raise Refused(
                f"no patient of the archive falls into the split {split!r}: it holds too few patients to learn from"
            )
    return Prepared(folder, {split: tuple(rows) for split, rows in kept.items()})


def _is_prepared(folder: Path, done: Path) -> bool:
    try:
        return bool(json.loads(done.read_text()) == dataset.describe(folder)["manifest_sha256"])
    except (OSError, ValueError, KeyError):  # DataSetError is a ValueError
        return False


def _prepare(job: Retraining, plan: Plan, folder: Path, preprocessing: Preprocessing) -> None:
    source = ArchiveSource(job.database, Spool(job.node.spool_dir), keep_novel=plan.learn_novel)
    inference = job.node.inference
    options = PrepareOptions(
        processes=job.node.retraining.threads,
        max_pixels_per_slice=inference.max_pixels_per_slice,
        max_bytes_per_instance=inference.max_bytes_per_instance,
    )
    for tries_left in reversed(range(_PREPARE_TRIES)):
        total, done = max(1, source.count()), 0
        job.life.tell("preparing", 0.0)

        def advance(n_series: int, total: int = total) -> None:
            nonlocal done
            done += n_series
            job.life.tell("preparing", done / total, f"{done} of {total} series")

        try:
            summary = prepare(source, folder, preprocessing, options, advance)
        except DataSetError as error:
            if "holds another data set" in str(error) and tries_left:
                shutil.rmtree(folder)  # prepared for another network
                continue
            raise Refused(_with_remedy(str(error))) from error
        except OSError:
            if not tries_left:
                raise
            continue
        job.report(**{folder.name: summary.as_json()})
        return


def _with_remedy(why: str) -> str:
    if "novel" in why:
        return f"{why}. A first model of real images must learn from novel series: set retraining.learn_novel"
    return why


def _check_labels(job: Retraining, data: Prepared) -> None:
    """Hold the labels against the model at work.

    Raises
    ------
    Refused
        It is sure that too many are wrong.
    """
    n_all = sum(map(len, data.rows.values()))
    every = max(1, -(-n_all // GUARDED_SERIES))
    answers, labels = [], list[Labels]()
    for k, split in enumerate(dataset.SPLITS):
        series = dataset.load(data.folder, split)
        chosen = SeriesSet(series.inputs[::every], series.labels[::every])
        begin, share = k / len(dataset.SPLITS), 1 / len(dataset.SPLITS)

        def step(done: float, begin: float = begin, share: float = share) -> None:
            job.life.tell("checking labels", begin + share * done)

        answers += predictions(job.champion, chosen, step)
        labels += data.labels(split)[::every]
    config = job.node.retraining.guards
    found = contradicted_labels(answers, labels, config.confident_probability)
    gates = judge_labels(found, config)
    novel = float(np.mean([whole.novel for whole, _ in answers]))
    job.report(labels=[asdict(gate) for gate in gates], champion_abstains=novel)
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise Refused(
            "; ".join(gate.says for gate in failed)
            + ". Nothing was trained: look at these headers (`iap-node findings`), correct or remove what is wrong, or "
            "raise retraining.guards.max_contradicted where the model is",
            gates,
        )


def _heads(job: Retraining, plan: Plan, recipe: Recipe, data: Prepared) -> tuple[Head, ...]:
    labels, patients = data.labels("training"), data.patients("training")
    known = job.champion.manifest.parameters if plan.start == "champion" else ()
    heads = heads_from(recipe, labels, patients, plan.class_min_patients, known)
    if not heads:
        raise Refused("no parameter varies in the labels of the archive: there is nothing to learn from them")
    few = {
        head.keyword: {
            name: n
            for name, n in class_patients(head.keyword, labels, patients).items()
            if n < plan.class_min_patients and name not in head.classes
        }
        for head in heads
        if head.classes
    }
    before = {head.keyword: head.classes for head in known}
    new = {
        head.keyword: [name for name in head.classes if name not in before.get(head.keyword, ())] for head in heads
    }
    job.report(
        new_classes={key: names for key, names in new.items() if names},
        too_few_patients={key: counts for key, counts in few.items() if counts},
    )
    return heads


def _fitted(job: Retraining, plan: Plan, recipe: Recipe, heads: Sequence[Head], data: Prepared) -> ModelPackage:
    """The calibrated package; fitting goes on where it was interrupted."""
    folder = job.work / PACKAGE
    if (folder / MANIFEST_FILE).exists():  # written last
        return load_package(folder)
    warm = plan.start == "champion"
    start = first_weights(job.champion, heads, recipe, plan.seed) if warm else None

    def report(state: Progress) -> None:
        job.life.tell("training", state.share, f"epoch {state.epoch:.1f}, loss {state.loss:.3f}")

    fitted = fit(
        recipe,
        heads,
        dataset.load(data.folder, "training"),
        job.work / FIT,
        seed=plan.seed,
        epochs=plan.epochs,
        minutes=plan.minutes,
        device="cuda" if job.node.inference.device != "cpu" and torch.cuda.is_available() else "cpu",
        start=start,
        report=report,
    )
    job.life.tell("calibrating", 0.0)
    naming = Naming("archive", f"{plan.data_until:%Y.%m.%d}")
    return package_from(
        folder,
        naming,
        recipe,
        heads,
        fitted,
        data.folder,
        plan.seed,
        begun_from=job.champion if warm else None,
        provenance={
            "retraining": {"run": job.run.id, "start": plan.start, "champion": job.champion.model_id},
            "data_until": plan.begun_at,
            "code": code_version(),
        },
    )


def _held_out(
    job: Retraining, package: ModelPackage, data: Prepared, champion_data: Prepared
) -> tuple[HeldOut, HeldOut]:
    """Both models on the same series of the test split."""
    place = {(row.study_instance_uid, row.series_instance_uid): k for k, row in enumerate(champion_data.rows["test"])}
    both = [
        (k, place[key])
        for k, row in enumerate(data.rows["test"])
        if (key := (row.study_instance_uid, row.series_instance_uid)) in place
    ]
    if not both:
        raise Refused("the archive changed while it was read: no held-out series is in both data sets; try again")
    rows = [data.rows["test"][k] for k, _ in both]
    labels, patients = [row.labels for row in rows], [row.patient for row in rows]
    found = []
    for number, (model, folder, places) in enumerate(
        ((job.champion, champion_data.folder, [k for _, k in both]), (package, data.folder, [k for k, _ in both]))
    ):
        series = dataset.load(folder, "test")
        chosen = SeriesSet(series.inputs[places], tuple(series.labels[k] for k in places))

        def step(done: float, number: int = number) -> None:
            job.life.tell("evaluating", (number + done) / 2)

        found.append(held_out(model, chosen, labels, patients, step))
    return found[0], found[1]


def _metrics(judged: HeldOut) -> dict[str, Any]:
    """Means over series, for the record; what decides is counted over patients, in the gates."""
    scores = {
        keyword: round(float(np.nanmean(values)), 4)
        for keyword, values in judged.scores.items()
        if np.isfinite(values).any()
    }
    return {"model": judged.model_id, "scores": scores, "abstained": round(float(judged.abstained.mean()), 4)}
