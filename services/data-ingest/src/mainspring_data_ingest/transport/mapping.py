"""Between data-ingest's domain and `mainspring.data.v1`; pure functions."""

from __future__ import annotations

from mainspring.data.v1 import data_service_pb2, dataset_pb2, ingestion_pb2, recipe_pb2
from mainspring_data_ingest.application.ingestions import CreateIngestion
from mainspring_data_ingest.domain.datasets import Dataset, DatasetVersion, Deletion
from mainspring_data_ingest.domain.ingestions import Ingestion, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import (
    DEFAULT_MAX_FIELD_CHARACTERS,
    DEFAULT_PROMPT_TEMPLATE,
    IngestionRecipe,
    RecipeVersion,
    SplitShares,
    SplitStrata,
)
from mainspring_data_ingest.domain.records import ChangedRow, RefusalReason, RefusedRow
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.transport.steps import (
    columns_from_proto,
    columns_to_proto,
    reference_from_proto,
    reference_to_proto,
    step_from_proto,
    step_to_proto,
)
from mainspring_svckit.mapping import (
    artifact_from_proto,
    artifact_to_proto,
    failure_to_proto,
    progress_to_proto,
    time_to_proto,
)
from mainspring_svckit.repository import Stored


def recipe_from_proto(message: recipe_pb2.IngestionRecipe) -> IngestionRecipe:
    """Reads a recipe, with defaults where nothing is said; output-only fields are passed over."""
    split = message.split
    return IngestionRecipe(
        name=message.name,
        dataset=message.dataset,
        columns=columns_from_proto(message.columns),
        prompt_template=message.prompt_template or DEFAULT_PROMPT_TEMPLATE,
        system_prompt=message.system_prompt,
        split=SplitShares(
            split.train_percent,
            split.validation_percent,
            split.test_percent,
            SplitStrata(recipe_pb2.SplitStrata.Name(split.stratify_by).removeprefix("SPLIT_STRATA_"))
            if split.stratify_by
            else None,
        )
        if message.HasField("split")
        else SplitShares(),
        max_field_characters=message.max_field_characters or DEFAULT_MAX_FIELD_CHARACTERS,
        steps=tuple(map(step_from_proto, message.steps)),
        report_embedding_model_version=message.report_embedding_model_version,
        reference=reference_from_proto(message.reference) if message.HasField("reference") else None,
    )


def recipe_to_proto(stored: Stored[IngestionRecipe]) -> recipe_pb2.IngestionRecipe:
    """Prints a recipe."""
    message = _said_by(stored.value)
    message.update_time.FromDatetime(stored.update_time)
    message.etag = stored.etag
    return message


def recipe_version_to_proto(version: RecipeVersion) -> recipe_pb2.IngestionRecipeVersion:
    """Prints a version of a recipe."""
    return recipe_pb2.IngestionRecipeVersion(
        name=version.name,
        recipe_sha256=version.recipe.applied_sha256(),
        ingestion_recipe=_said_by(version.recipe),
        create_time=time_to_proto(version.create_time),
    )


def _said_by(recipe: IngestionRecipe) -> recipe_pb2.IngestionRecipe:
    return recipe_pb2.IngestionRecipe(
        name=recipe.name,
        dataset=recipe.dataset,
        columns=columns_to_proto(recipe.columns),
        prompt_template=recipe.prompt_template,
        system_prompt=recipe.system_prompt,
        split=recipe_pb2.SplitShares(
            train_percent=recipe.split.train_percent,
            validation_percent=recipe.split.validation_percent,
            test_percent=recipe.split.test_percent,
            stratify_by=recipe_pb2.SplitStrata.Value(f"SPLIT_STRATA_{recipe.split.stratify_by or 'UNSPECIFIED'}"),
        ),
        max_field_characters=recipe.max_field_characters,
        steps=map(step_to_proto, recipe.steps),
        report_embedding_model_version=recipe.report_embedding_model_version,
        version=recipe.version,
        reference=reference_to_proto(recipe.reference) if recipe.reference is not None else None,
    )


def ingestion_from_proto(
    project: str, ingestion_id: str, cycle: str, request: data_service_pb2.CreateIngestionRequest
) -> CreateIngestion:
    """Reads the wish for an ingestion."""
    return CreateIngestion(
        project=project,
        ingestion_id=ingestion_id,
        recipe=request.ingestion_recipe,
        sources=tuple(
            Source(
                artifact_from_proto(source.artifact),
                SourceFormat(ingestion_pb2.Source.Format.Name(source.format).removeprefix("FORMAT_")),
                columns_from_proto(source.columns) if source.HasField("columns") else None,
                source.origin,
            )
            for source in request.sources
        ),
        cycle=cycle,
    )


def ingestion_to_proto(work: Ingestion) -> ingestion_pb2.Ingestion:
    """Prints an ingestion."""
    return ingestion_pb2.Ingestion(
        name=work.name,
        ingestion_recipe=work.recipe.name,
        sources=[
            ingestion_pb2.Source(
                artifact=artifact_to_proto(source.artifact),
                format=ingestion_pb2.Source.Format.Value(f"FORMAT_{source.format.value}"),
                columns=columns_to_proto(source.columns) if source.columns is not None else None,
                origin=source.origin,
            )
            for source in work.sources
        ],
        state=ingestion_pb2.Ingestion.State.Value(f"STATE_{work.state.value}"),
        progress=progress_to_proto(work.progress),
        error=failure_to_proto(work.error_reason, work.error_message),
        dataset_version=work.dataset_version,
        cycle=work.cycle,
        create_time=time_to_proto(work.create_time),
        start_time=time_to_proto(work.start_time),
        end_time=time_to_proto(work.end_time),
        ingestion_recipe_version=work.recipe.version_name,
    )


def dataset_to_proto(dataset: Dataset) -> dataset_pb2.Dataset:
    """Prints a dataset."""
    return dataset_pb2.Dataset(
        name=dataset.name,
        create_time=time_to_proto(dataset.create_time),
        latest_version=dataset.latest_version,
        tags=[dataset_pb2.DatasetTag(tag=tag, dataset_version=version) for tag, version in dataset.tags.items()],
        keep_newest=dataset.keep_newest,
    )


def version_to_proto(version: DatasetVersion) -> dataset_pb2.DatasetVersion:
    """Prints a version."""
    return dataset_pb2.DatasetVersion(
        name=version.name,
        create_time=time_to_proto(version.create_time),
        root_sha256=version.root_sha256,
        manifest=artifact_to_proto(version.manifest),
        ingestion_recipe=version.ingestion_recipe,
        recipe_sha256=version.recipe_sha256,
        sources=[artifact_to_proto(source.artifact) for source in version.sources],
        input_rows=version.tally.input_rows,
        splits=[
            dataset_pb2.SplitCount(
                split=dataset_pb2.Split.Value(f"SPLIT_{split.value}"), rows=version.tally.splits.get(split, 0)
            )
            for split in Split
        ],
        refusals=[
            dataset_pb2.RefusalCount(reason=_reason_to_proto(reason), rows=rows)
            for reason, rows in version.tally.refusals.items()
        ],
        cycle=version.cycle,
        ingestion=version.ingestion,
        report=artifact_to_proto(version.report) if version.report is not None else None,
        deletion=_deletion_to_proto(version.deletion) if version.deletion is not None else None,
        supersedes=version.supersedes,
        ingestion_recipe_version=version.ingestion_recipe_version,
    )


def _deletion_to_proto(deletion: Deletion) -> dataset_pb2.DatasetVersionDeletion:
    return dataset_pb2.DatasetVersionDeletion(
        cause=dataset_pb2.DatasetVersionDeletion.Cause.Value(f"CAUSE_{deletion.cause.value}"),
        delete_time=time_to_proto(deletion.time),
        erasure=deletion.erasure,
        successor=deletion.successor,
    )


def refused_to_proto(row: RefusedRow) -> dataset_pb2.RefusedRow:
    """Prints a refused row."""
    return dataset_pb2.RefusedRow(
        source_index=row.source_index,
        line=row.line,
        reason=_reason_to_proto(row.reason),
        detail=row.detail,
        excerpt=row.excerpt,
        step=row.step.name,
        step_number=row.step.number,
    )


def changed_to_proto(row: ChangedRow) -> dataset_pb2.ChangedRow:
    """Prints a changed row."""
    return dataset_pb2.ChangedRow(
        source_index=row.source_index,
        line=row.line,
        row_id=row.row_id,
        steps=[dataset_pb2.ChangingStep(step=step.name, step_number=step.number) for step in row.steps],
    )


def _reason_to_proto(reason: RefusalReason) -> dataset_pb2.RefusalReason.ValueType:
    return dataset_pb2.RefusalReason.Value(f"REFUSAL_REASON_{reason.value}")
