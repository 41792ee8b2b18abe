"""Between the steps of recipes and `mainspring.data.v1`; pure functions."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from mainspring.data.v1 import dataset_pb2, recipe_pb2
from mainspring_data_ingest.domain import steps as domain
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.quality import QualityRule
from mainspring_svckit.mapping import artifact_from_proto, artifact_to_proto


def step_from_proto(message: recipe_pb2.RecipeStep) -> domain.RecipeStep:
    """Reads a step, with defaults where nothing is said."""
    kind = message.WhichOneof("step")
    assert kind is not None, "the contract demands one"
    return _READ[kind](getattr(message, kind))


def step_to_proto(step: domain.RecipeStep) -> recipe_pb2.RecipeStep:
    """Prints a step."""
    message = recipe_pb2.RecipeStep()
    getattr(message, step.kind).CopyFrom(_print(step))
    return message


def reference_from_proto(message: recipe_pb2.ReferenceExamples) -> domain.ReferenceExamples:
    """Reads reference examples."""
    return domain.ReferenceExamples(
        message.dataset_version,
        artifact_from_proto(message.file) if message.HasField("file") else None,
        columns_from_proto(message.columns) if message.HasField("columns") else None,
        _splits(message),
        message.evaluation_suite_version,
    )


def reference_to_proto(reference: domain.ReferenceExamples) -> recipe_pb2.ReferenceExamples:
    """Prints reference examples."""
    return recipe_pb2.ReferenceExamples(**_evaluation_set(reference))


def columns_from_proto(message: recipe_pb2.ColumnMapping) -> ColumnMapping:
    """Reads columns."""
    return ColumnMapping(**{field.name: getattr(message, field.name) for field in fields(ColumnMapping)})


def columns_to_proto(columns: ColumnMapping) -> recipe_pb2.ColumnMapping:
    """Prints columns."""
    return recipe_pb2.ColumnMapping(**asdict(columns))


def _print(step: domain.RecipeStep) -> Any:
    if isinstance(step, domain.Decontamination):
        return recipe_pb2.Decontamination(
            ngram_words=step.ngram_words, ngram_overlap=step.ngram_overlap, **_evaluation_set(step)
        )
    if isinstance(step, domain.Balance):
        by = recipe_pb2.BalanceBy.Value(f"BALANCE_BY_{step.by}")
        return recipe_pb2.Balance(
            by=by,
            max_rows=step.max_rows,
            max_ratio=step.max_ratio,
            sample_rows=step.sample_rows,
            min_weight=step.min_weight,
            max_repeats=step.max_repeats,
            clusters=recipe_pb2.BalanceClusters(**asdict(step.clusters)) if step.clusters is not None else None,
        )
    part = recipe_pb2.TextPart.Value(f"TEXT_PART_{step.part}")
    match step:
        case domain.TextRepair():
            return recipe_pb2.TextRepair(part=part)
        case domain.MarkupToText():
            return recipe_pb2.MarkupToText(part=part)
        case domain.LanguageFilter():
            return recipe_pb2.LanguageFilter(
                languages=step.languages,
                other_languages=step.other_languages,
                min_confidence=step.min_confidence,
                part=part,
            )
        case domain.LengthFilter():
            return recipe_pb2.LengthFilter(
                min_words=step.min_words,
                max_words=step.max_words,
                min_characters=step.min_characters,
                max_characters=step.max_characters,
                part=part,
            )
        case domain.QualityFilter():
            rules = [recipe_pb2.QualityRule.Value(f"QUALITY_RULE_{rule}") for rule in step.rules]
            return recipe_pb2.QualityFilter(rules=rules, part=part)
        case domain.PersonalData():
            return recipe_pb2.PersonalData(
                default_action=_action_to_proto(step.default_action),
                rules=[
                    recipe_pb2.PersonalDataRule(
                        kind=recipe_pb2.PersonalDataKind.Value(f"PERSONAL_DATA_KIND_{rule.data}"),
                        action=_action_to_proto(rule.action),
                    )
                    for rule in step.rules
                ],
                part=part,
            )
        case domain.NearDuplicates():
            return recipe_pb2.NearDuplicates(
                threshold=step.threshold,
                shingle_words=step.shingle_words,
                part=part,
                keep=recipe_pb2.NearDuplicateKeep.Value(f"NEAR_DUPLICATE_KEEP_{step.keep}"),
            )
        case domain.Secrets():
            return recipe_pb2.Secrets(action=_action_to_proto(step.action), part=part)
        case domain.WordList():
            file = artifact_to_proto(step.file) if step.file is not None else None
            return recipe_pb2.WordList(words=step.words, file=file, min_hits=step.min_hits, part=part)
        case domain.TokenStatistics():
            file = artifact_to_proto(step.file) if step.file is not None else None
            return recipe_pb2.TokenStatistics(
                file=file, max_tokens=step.max_tokens, part=part, model_version=step.model_version
            )


def _language(message: recipe_pb2.LanguageFilter) -> domain.LanguageFilter:
    return domain.LanguageFilter(
        languages=tuple(message.languages),
        other_languages=tuple(message.other_languages) or domain.DEFAULT_LANGUAGES,
        min_confidence=message.min_confidence or 0.5,
        part=_part(message.part, domain.TextPart.ANSWER),
    )


def _length(message: recipe_pb2.LengthFilter) -> domain.LengthFilter:
    return domain.LengthFilter(
        message.min_words,
        message.max_words,
        message.min_characters,
        message.max_characters,
        _part(message.part, domain.TextPart.ANSWER),
    )


def _quality(message: recipe_pb2.QualityFilter) -> domain.QualityFilter:
    rules = [recipe_pb2.QualityRule.Name(rule).removeprefix("QUALITY_RULE_") for rule in message.rules]
    return domain.QualityFilter(
        tuple(map(QualityRule, rules)) or domain.DEFAULT_RULES, _part(message.part, domain.TextPart.ANSWER)
    )


def _personal_data(message: recipe_pb2.PersonalData) -> domain.PersonalData:
    return domain.PersonalData(
        _action(message.default_action),
        tuple(
            domain.PersonalDataRule(
                domain.PersonalDataKind(
                    recipe_pb2.PersonalDataKind.Name(rule.kind).removeprefix("PERSONAL_DATA_KIND_")
                ),
                _action(rule.action),
            )
            for rule in message.rules
        ),
        _part(message.part, domain.TextPart.ALL),
    )


def _near_duplicates(message: recipe_pb2.NearDuplicates) -> domain.NearDuplicates:
    return domain.NearDuplicates(
        message.threshold or 0.9,
        message.shingle_words or 3,
        _part(message.part, domain.TextPart.ALL),
        domain.Keep(recipe_pb2.NearDuplicateKeep.Name(message.keep).removeprefix("NEAR_DUPLICATE_KEEP_"))
        if message.keep
        else domain.Keep.FIRST,
    )


def _word_list(message: recipe_pb2.WordList) -> domain.WordList:
    return domain.WordList(
        tuple(message.words),
        artifact_from_proto(message.file) if message.HasField("file") else None,
        message.min_hits or 1,
        _part(message.part, domain.TextPart.ALL),
    )


def _token_statistics(message: recipe_pb2.TokenStatistics) -> domain.TokenStatistics:
    part = _part(message.part, domain.TextPart.ALL)
    file = artifact_from_proto(message.file) if message.HasField("file") else None
    return domain.TokenStatistics(file, message.max_tokens, part, message.model_version)


def _balance(message: recipe_pb2.Balance) -> domain.Balance:
    by = domain.BalanceBy(recipe_pb2.BalanceBy.Name(message.by).removeprefix("BALANCE_BY_"))
    clusters = message.clusters
    return domain.Balance(
        by,
        message.max_rows,
        message.max_ratio,
        message.sample_rows,
        message.min_weight,
        message.max_repeats or 10,
        domain.BalanceClusters(clusters.embedding_model_version, clusters.count or 16, clusters.seed)
        if message.HasField("clusters")
        else None,
    )


def _decontamination(message: recipe_pb2.Decontamination) -> domain.Decontamination:
    return domain.Decontamination(
        message.dataset_version,
        artifact_from_proto(message.file) if message.HasField("file") else None,
        columns_from_proto(message.columns) if message.HasField("columns") else None,
        message.ngram_words or 8,
        message.ngram_overlap or 0.8,
        _splits(message),
        message.evaluation_suite_version,
    )


def _splits(message: recipe_pb2.Decontamination | recipe_pb2.ReferenceExamples) -> tuple[str, ...]:
    return tuple(dataset_pb2.Split.Name(split).removeprefix("SPLIT_") for split in message.splits)


def _evaluation_set(examples: domain.Decontamination | domain.ReferenceExamples) -> dict[str, Any]:
    """The fields that name examples."""
    return {
        "dataset_version": examples.dataset_version,
        "file": artifact_to_proto(examples.file) if examples.file is not None else None,
        "columns": columns_to_proto(examples.columns) if examples.columns is not None else None,
        "splits": [dataset_pb2.Split.Value(f"SPLIT_{split}") for split in examples.splits],
        "evaluation_suite_version": examples.evaluation_suite_version,
    }


def _part(value: recipe_pb2.TextPart.ValueType, default: domain.TextPart) -> domain.TextPart:
    return domain.TextPart(recipe_pb2.TextPart.Name(value).removeprefix("TEXT_PART_")) if value else default


def _action(value: recipe_pb2.PersonalDataAction.ValueType) -> domain.PersonalDataAction:
    if not value:
        return domain.PersonalDataAction.MASK
    return domain.PersonalDataAction(recipe_pb2.PersonalDataAction.Name(value).removeprefix("PERSONAL_DATA_ACTION_"))


def _action_to_proto(action: domain.PersonalDataAction) -> recipe_pb2.PersonalDataAction.ValueType:
    return recipe_pb2.PersonalDataAction.Value(f"PERSONAL_DATA_ACTION_{action}")


_READ: dict[str, Any] = {
    "text_repair": lambda m: domain.TextRepair(_part(m.part, domain.TextPart.ALL)),
    "markup_to_text": lambda m: domain.MarkupToText(_part(m.part, domain.TextPart.ALL)),
    "language_filter": _language,
    "length_filter": _length,
    "quality_filter": _quality,
    "personal_data": _personal_data,
    "near_duplicates": _near_duplicates,
    "decontamination": _decontamination,
    "secrets": lambda m: domain.Secrets(_action(m.action), _part(m.part, domain.TextPart.ALL)),
    "word_list": _word_list,
    "token_statistics": _token_statistics,
    "balance": _balance,
}
