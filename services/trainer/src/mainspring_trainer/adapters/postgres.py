"""The trainer's repositories on Postgres."""

from __future__ import annotations

from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of
from mainspring_trainer.application.ports import Mirrored
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.runs import TrainingMetric, TrainingRun, metric_key
from mainspring_trainer.domain.studies import Study, StudyTrial, trial_key


def recipes(database: Database) -> Documents[TuningRecipe]:
    """Recipes, listed by name."""
    return Documents(
        database, "tuning_recipe", TuningRecipe, parent=lambda r: project_name_of(r.name), sort_key=lambda r: r.name
    )


def runs(database: Database) -> Documents[TrainingRun]:
    """Runs, newest first; their ids go by time."""
    return Documents(
        database,
        "training_run",
        TrainingRun,
        parent=lambda r: project_name_of(r.name),
        sort_key=lambda r: r.name,
        newest_first=True,
    )


def metrics(database: Database) -> Documents[TrainingMetric]:
    """Metrics of a run, by step."""
    return Documents(
        database, "training_metric", TrainingMetric, parent=lambda m: m.run, sort_key=lambda m: metric_key(m.step)
    )


def studies(database: Database) -> Documents[Study]:
    """Studies, newest first; their ids go by time."""
    return Documents(
        database,
        "study",
        Study,
        parent=lambda s: project_name_of(s.name),
        sort_key=lambda s: s.name,
        newest_first=True,
    )


def trials(database: Database) -> Documents[StudyTrial]:
    """Trials of a study, by number."""
    return Documents(
        database, "study_trial", StudyTrial, parent=lambda t: t.study, sort_key=lambda t: trial_key(t.number)
    )


def mirrored(database: Database) -> Documents[Mirrored]:
    """How far each run was mirrored."""
    return Documents(
        database, "training_mirror", Mirrored, parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name
    )
