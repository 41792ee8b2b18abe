"""From the domain's reports to `mainspring.data.v1`; pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.data.v1 import dataset_pb2, measurement_pb2, report_pb2
from mainspring_data_ingest.domain.measurements import Alignment, Measurement
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.report import LengthReport, Report, TextReport


def report_to_proto(version: str, report: Report) -> report_pb2.DatasetReport:
    """Prints a report."""
    return report_pb2.DatasetReport(
        dataset_version=version,
        input_rows=report.input_rows,
        kept_unchanged_rows=report.kept_unchanged,
        kept_changed_rows=report.kept_changed,
        refusals=refusals_to_proto(report.refused),
        steps=[
            report_pb2.StepReport(
                step=step.step,
                passed_rows=step.passed,
                changed_rows=step.changed,
                refusals=refusals_to_proto(step.refused),
                findings=[report_pb2.Finding(name=name, count=count) for name, count in step.found.items()],
            )
            for step in report.steps
        ],
        before=texts_to_proto(report.before),
        after=texts_to_proto(report.after),
    )


def refusals_to_proto(refusals: Mapping[RefusalReason, int]) -> list[dataset_pb2.RefusalCount]:
    """Prints counts by reason."""
    return [
        dataset_pb2.RefusalCount(reason=dataset_pb2.RefusalReason.Value(f"REFUSAL_REASON_{reason}"), rows=rows)
        for reason, rows in refusals.items()
    ]


def texts_to_proto(texts: TextReport) -> report_pb2.TextReport:
    """Prints a description of texts."""
    return report_pb2.TextReport(
        rows=texts.rows,
        prompt=_lengths(texts.prompt),
        answer=_lengths(texts.answer),
        distinct=[
            report_pb2.DistinctShare(ngram_words=size, share=share) for size, share in sorted(texts.distinct.items())
        ],
        labels=[
            report_pb2.LabelCount(label=label, rows=rows)
            for label, rows in sorted((texts.labels or {}).items(), key=lambda item: (-item[1], item[0]))
        ],
        diversity=_diversity(texts.diversity) if texts.diversity is not None else None,
    )


def _diversity(found: Measurement) -> report_pb2.DiversityReport:
    return report_pb2.DiversityReport(
        sample_rows=found.rows,
        vectors=found.vectors,
        self_bleu=found.self_bleu,
        vendi_score=found.vendi_score,
        cluster_evenness=found.cluster_evenness,
        alignment=alignment_to_proto("", found.alignment) if found.alignment is not None else None,
    )


def alignment_to_proto(reference: str, found: Alignment) -> measurement_pb2.DatasetAlignment:
    """Prints how near texts come to a reference, which is a version or nameless."""
    return measurement_pb2.DatasetAlignment(
        reference=reference,
        reference_rows=found.reference_rows,
        reference_to_nearest=found.reference_to_nearest,
        row_to_nearest=found.row_to_nearest,
        reference_clusters=found.reference_clusters,
        covered_clusters=found.covered_clusters,
    )


def _lengths(lengths: LengthReport) -> report_pb2.LengthReport:
    return report_pb2.LengthReport(
        mean_characters=lengths.mean_characters,
        mean_words=lengths.mean_words,
        buckets=[report_pb2.LengthBucket(min_words=least, rows=rows) for least, rows in sorted(lengths.words.items())],
    )
