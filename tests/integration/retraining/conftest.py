"""A node whose archive holds simulated series of many patients, a good model of them, and one that has hardly learned.

Images are stripes: their direction is the manufacturer's, their distance the field strength's. What a model makes of
them is known in advance, and a model of 32 pixels learns them in a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import MRImageStorage

from iap_node.config import NodeConfig, load_config
from iap_node.database import models, results, retraining
from iap_node.database.archive import complete_series
from iap_node.database.engine import Database
from iap_node.database.jobs import claim
from iap_node.inference.registry import begin_with
from iap_node.listener.intake import Intake
from iap_node.listener.patients import patient_hash
from iap_node.listener.reception import Request
from iap_node.records import InstanceHeader, JobKind, RouteDecision, SeriesHeader, SeriesPrediction
from iap_node.spool import Spool
from training import dataset, recipes, reference
from training.fit import fit
from training.manifest import split_of
from training.prepare import PrepareOptions, prepare
from training.recipes import REFERENCE, heads_for
from training.retraining import run, start
from training.sources.archive import ArchiveSource

KEY = b"k" * 32
SIZE = 48
MAKERS = ("GE MEDICAL SYSTEMS", "SIEMENS")
MATTERS = ["Manufacturer", "MagneticFieldStrength"]
RETRAINING: dict[str, Any] = {
    "epochs": 10,
    "minutes": None,
    "niceness": 0,
    "shadow_series": 0,
    "gates": {"parameters": MATTERS, "min_patients": 8, "max_abstained": 0.5, "max_ece": 0.2, "coverage": [0.8, 1.0]},
}
OPTIONS = PrepareOptions(training_slices=2, held_out_slices=2, processes=1)  # of one instance each: more only cost
TINY = replace(
    REFERENCE, preprocessing=replace(REFERENCE.preprocessing, size=32), width=0.125, bfloat16=False, parts=1,
    position_jitter=1, continuous=("EchoTime",), batch_size=64,
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series of a patient of its own; `stated` is what its header says instead of the truth."""

    number: int
    maker: int
    strong: bool
    stated: dict[str, Any] = field(default_factory=dict)

    @property
    def patient_id(self) -> str:
        return f"P{self.number}"

    @property
    def uid(self) -> str:
        return f"1.2.826.8.{self.number}"


def split_of_patient(number: int) -> str:
    header = InstanceHeader("", "", "", "", "", patient_id=f"P{number}")
    return split_of(patient_hash(KEY, header))


def instance(series: Series) -> bytes:
    """The encoded data set of a series' only instance."""
    rng = np.random.default_rng(series.number)
    place = np.arange(SIZE) * (2 * np.pi / (4.0 if series.strong else 9.0)) + rng.uniform(0, 6)
    wave = np.broadcast_to(1 + np.sin(place), (SIZE, SIZE))
    pixels = 400 * (wave if series.maker else wave.T) + np.abs(rng.normal(0, 60, (SIZE, SIZE)))
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = f"1.2.826.9.{series.number}"
    ds.StudyInstanceUID = f"1.2.826.7.{series.number}"
    ds.SeriesInstanceUID = series.uid
    ds.PatientID = series.patient_id
    ds.Modality = "MR"
    ds.Manufacturer = MAKERS[series.maker]
    ds.MagneticFieldStrength = "3" if series.strong else "1.5"
    ds.EchoTime = f"{2.0 + series.maker + rng.normal(0, 0.02):.3f}"
    ds.InstanceNumber = 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = SIZE, SIZE, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    for keyword, value in series.stated.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


@dataclass
class ArchivedNode:
    """A node on SQLite in a folder: what a test changes of its configuration it writes there."""

    folder: Path
    database: Database

    @property
    def config_path(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def config(self) -> NodeConfig:
        return load_config(self.config_path)

    def configure(self, **changes: Any) -> None:
        """Write the configuration; keys of `gates` and `guards` are added to those of the tests."""
        section = RETRAINING | changes
        section["gates"] = RETRAINING["gates"] | changes.get("gates", {})
        content = {"data_dir": ".", "retraining": section, "log": {"level": "error"}}
        self.config_path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def file(self, series: Sequence[Series], novel: bool = False) -> None:
        """Take series in and settle them, as the node does after it judged them and found nothing against them."""
        intake = Intake(Spool(self.config.spool_dir, durable=False), self.database, KEY)
        for one in series:
            uids = (MRImageStorage, f"1.2.826.9.{one.number}", ExplicitVRLittleEndian)
            intake.file(instance(one), Request(*map(str, uids), "SCANNER", "127.0.0.1"))
        intake.close(10.0)
        now = datetime.now(UTC)
        decision = RouteDecision(None, (), (), "for a test", (), "0")
        with self.database.transaction() as session:
            complete_series(session, [one.uid for one in series], now)
            while (job := claim(session, JobKind.INFER, "test", 60.0, now)) is not None:
                results.save_judgement(
                    session, job, header=SeriesHeader(()), prediction=self._prediction(novel), comparisons=(),
                    decision=decision, problems=(), not_analysed_reason=None, now=now,
                )  # fmt: skip

    def _prediction(self, novel: bool) -> SeriesPrediction:
        return SeriesPrediction("judge-1", "none: for a test", novel, 1.0, 4.5, 1)

    def champion(self) -> str:
        with self.database.reading() as session:
            standing = models.champion(session)
        assert standing is not None
        return standing.model_id

    def model(self, model_id: str) -> models.RegisteredModel:
        with self.database.reading() as session:
            return models.model(session, model_id)

    def packages(self) -> list[str]:
        """What lies where the node keeps packages, unfinished copies included."""
        return sorted(path.name for path in (self.folder / "models").iterdir())

    def ask(self, who: str = "test") -> retraining.RetrainingRun:
        with self.database.transaction() as session:
            return retraining.request_run(session, who, datetime.now(UTC))

    def run(self, number: int) -> retraining.RetrainingRun:
        with self.database.reading() as session:
            found = retraining.retraining_run(session, number)
        assert found is not None
        return found

    def runs(self) -> list[retraining.RetrainingRun]:
        """Oldest first."""
        with self.database.reading() as session:
            return retraining.list_runs(session)[::-1]


@dataclass(frozen=True)
class Template:
    """What every test gets anew, always at the same place: a data set names the files that it was made of."""

    pristine: Path
    node: Path
    good: Path
    poor: Path


class _SameProcess(ThreadPoolExecutor):
    """Reads series in a thread of ours: a process would take seconds to start."""

    def __init__(self, max_workers: int, **_: Any) -> None:
        super().__init__(1)


@pytest.fixture(scope="package")
def template(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Template]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("archive")
    archive = folder / "node"
    archive.mkdir()
    shutil.copyfile(migrated_sqlite, archive / "node.sqlite")
    node = ArchivedNode(archive, Database(f"sqlite:///{archive / 'node.sqlite'}"))
    with pytest.MonkeyPatch.context() as patched:
        # few slices, and arithmetic that is fastest for so small a network
        patched.setattr(run, "PrepareOptions", lambda **_: OPTIONS)
        patched.setattr(recipes, "REFERENCE", replace(REFERENCE, bfloat16=False, batch_size=64))
        patched.setattr("training.prepare.ProcessPoolExecutor", _SameProcess)
        patched.setattr(start, "WARM_LEARNING_RATE", 1.0)  # the champions here know little that could be lost
        node.configure()
        node.file([Series(number, number % 2, number % 4 > 1) for number in range(160)])
        data = node.config.retraining_dir / "data"
        prepare(ArchiveSource(node.database, Spool(node.config.spool_dir)), data, TINY.preprocessing, OPTIONS)
        training = dataset.load(data, "training")
        heads = heads_for(TINY, training.labels)
        packages = []
        for name, epochs in (("good", 20), ("poor", 1)):
            fitted = fit(TINY, heads, training, folder / f"fit-{name}", epochs=epochs)
            naming = reference.Naming(name, "1")
            packages.append(reference.package_from(folder / name, naming, TINY, heads, fitted, data, seed=0).folder)
        node.database.dispose()
        archive.rename(folder / "pristine")
        yield Template(folder / "pristine", archive, *packages)


@pytest.fixture
def make_node(template: Template, request: pytest.FixtureRequest) -> Callable[..., ArchivedNode]:
    """Factory: `make_node("poor", epochs=3)`: a copy of the node whose champion is that model."""

    def make(champion: str = "poor", **changes: Any) -> ArchivedNode:
        folder = template.node
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template.pristine, folder)
        node = ArchivedNode(folder, Database(f"sqlite:///{folder / 'node.sqlite'}"))
        request.addfinalizer(node.database.dispose)
        node.configure(**changes)
        begin_with(str(getattr(template, champion)), node.config.data_dir, node.database, datetime.now(UTC))
        return node

    return make
