"""What a run is to do, as it stands in its folder: who resumes it does the same, or begins anew. Called by `run`."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import iap_node
from iap_node.config.retraining import RetrainingConfig
from iap_node.inference.package import ModelPackage
from training import recipes
from training.recipes import Recipe
from training.retraining.start import recipe_from

PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What everything that a run makes follows from.

    Attributes
    ----------
    champion
        Model ID of the model at work.
    begun_at
        When the archive was first looked at; of the first run in this folder.
    """

    champion: str
    recipe: str
    start: str
    epochs: int | None
    minutes: float | None
    seed: int
    learn_novel: bool
    class_min_patients: int
    software: str
    begun_at: str

    @property
    def data_until(self) -> datetime:
        """Series that were complete by then are looked at."""
        return datetime.fromisoformat(self.begun_at)


def plan_in(work: Path, config: RetrainingConfig, champion: ModelPackage, now: datetime) -> tuple[Plan, bool]:
    """The plan of a folder, and whether there is anything to go on with.

    A folder that was made for another champion, configuration or version is emptied: its checkpoint is another run's.
    """
    wanted = Plan(
        champion=champion.model_id,
        recipe=config.recipe,
        start=config.start,
        epochs=config.epochs,
        minutes=config.minutes,
        seed=config.seed,
        learn_novel=config.learn_novel,
        class_min_patients=config.guards.class_min_patients,
        software=iap_node.__version__,
        begun_at=now.isoformat(),
    )
    standing = _read(work / PLAN_FILE)
    if standing is not None and {**standing, "begun_at": ""} == {**asdict(wanted), "begun_at": ""}:
        return Plan(**standing), True
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    partial = work / f"{PLAN_FILE}.partial"
    partial.write_text(json.dumps(asdict(wanted), indent=1), encoding="utf-8")
    partial.replace(work / PLAN_FILE)
    return wanted, False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and set(content) == set(Plan.__dataclass_fields__) else None


def recipe_of(plan: Plan, config: RetrainingConfig, champion: ModelPackage) -> Recipe:
    """The recipe by which a run fits: the champion's network where it begins with it."""
    recipe = recipes.REFERENCE if plan.recipe == "reference" else recipes.paper()
    recipe = recipe if plan.start == "scratch" else recipe_from(recipe, champion)
    return replace(recipe, parts=max(1, min(recipe.parts, config.threads)))


def code_version() -> str:
    """Version of the software, with the commit where it runs from a checkout: "1.0.0 0123abc", "1.0.0 0123abc+"
    with changes that nobody committed."""
    root = Path(iap_node.__file__).resolve().parent.parent
    version = iap_node.__version__
    if not (root / ".git").exists():
        return version
    said = [_git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")]
    commit, changes = said
    return version if not commit else f"{version} {commit}{'+' if changes else ''}"


def _git(root: Path, *arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        return ""
    done = subprocess.run(
        [program, "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.strip() if done.returncode == 0 else ""
