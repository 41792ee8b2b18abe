"""`datasets` for published versions: rows, diff, card, export, tag, retain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project

if TYPE_CHECKING:
    from mainspring.data.v1 import comparison_pb2
    from mainspring_client.client import Mainspring

Version = Annotated[str, typer.Argument(help="DATASET/VERSION, or DATASET@TAG; DATASET@latest is the newest.")]
Dataset = Annotated[str, typer.Argument(help="Dataset id.")]


def register(datasets: typer.Typer) -> None:
    """Adds the commands to the group."""
    for command in (rows, diff, measure, card, export, tag, retain):
        datasets.command()(command)


def rows(
    version: Version,
    split: Annotated[str, typer.Option(help="Only train, validation or test.")] = "",
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows rows of a version."""
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import print_json, print_table
    from mainspring_client.cli.run import collect, with_client

    if split and split not in {"train", "validation", "test"}:
        raise typer.BadParameter("write train, validation or test", param_hint="--split")
    part = dataset_pb2.Split.Value(f"SPLIT_{split.upper() or 'UNSPECIFIED'}")

    async def body(mainspring: Mainspring) -> list[comparison_pb2.DatasetRow]:
        name = await resolve(mainspring, project, version)
        return await collect(mainspring.dataset_versions.rows(name, part, page_size=min(limit, 500)), limit)

    found = with_client(data, body)
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "split": _split,
            "from": lambda row: f"{row.source_index}:{row.line}",
            "prompt": lambda row: _short(row.messages[-2].content if len(row.messages) > 1 else ""),
            "answer": lambda row: _short(row.messages[-1].content),
        },
        "no rows",
    )


def diff(
    base: Version,
    target: Version,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Compares two versions: rows added, removed, changed, moved to another split, and the texts as a whole.

    With --json one object is printed: the counts, and the first changes.
    """
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> tuple[Any, list[comparison_pb2.RowChange]]:
        with Ticker(quiet=json_) as ticker:
            names = [await resolve(mainspring, project, version) for version in (base, target)]
            ticker.tell("comparing")
            changes: list[comparison_pb2.RowChange] = []
            token = ""
            while True:
                page = await mainspring.dataset_versions.compare(
                    *names, page_size=min(500, limit - len(changes)), page_token=token
                )
                changes += page.changes
                token = page.next_page_token
                if not token or len(changes) >= limit:
                    return page.comparison, changes

    comparison, changes = with_client(data, body)
    if json_:
        print_json({"comparison": comparison, "changes": changes})
    else:
        _print_comparison(comparison, changes)


def measure(
    version: Version,
    reference: Annotated[str, typer.Option(help="DATASET/VERSION whose test split is the use case.")] = "",
    embedding_model: Annotated[str, typer.Option(help="MODEL/VERSION that makes vectors [default: lexical].")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Measures how different a version's rows are (self-BLEU, Vendi score, clusters), and how near to the use case."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.sending import embedding_version

    async def body(mainspring: Mainspring) -> Any:
        return await mainspring.dataset_versions.measure(
            await resolve(mainspring, project, version),
            reference=await resolve(mainspring, project, reference) if reference else "",
            embedding_model=await embedding_version(mainspring, project, embedding_model) if embedding_model else "",
        )

    found = with_client(data, body)
    if json_:
        print_json(found)
        return
    nearness = found.alignment
    print_fields(
        {
            "version": found.dataset_version,
            "rows measured": found.sample_rows,
            "vectors": found.vectors,
            "self-BLEU": f"{found.self_bleu:.1f} of 100",
            "Vendi score": f"{found.vendi_score:.1f} of {found.sample_rows}",
            "evenness of clusters": f"{found.cluster_evenness:.2f} of 1",
            **(
                {
                    "use case": f"{nearness.reference}, {nearness.reference_rows} rows",
                    "  covered by the version": f"{nearness.reference_to_nearest:.2f} of 1",
                    "  version is about it": f"{nearness.row_to_nearest:.2f} of 1",
                    "  clusters covered": f"{nearness.covered_clusters} of {nearness.reference_clusters}",
                }
                if found.HasField("alignment")
                else {"use case": "not measured; --reference names one"}
            ),
        }
    )


def card(
    version: Version,
    croissant: Annotated[bool, typer.Option("--croissant", help="Print Croissant metadata (JSON-LD) instead.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Prints a version's data card in Markdown."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> Any:
        return await mainspring.dataset_versions.card(await resolve(mainspring, project, version))

    found = with_client(data, body)
    if json_:
        print_json({"markdown": found.markdown, "croissant": json.loads(found.croissant_json)})
    else:
        print(found.croissant_json if croissant else found.markdown)


def export(
    version: Version,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", file_okay=False)],
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write JSON Lines instead of Parquet.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Writes a version into a folder, with its card, its Croissant metadata, its manifest and its report.

    `datasets.load_dataset(FOLDER)` and `pandas.read_parquet(FOLDER/data)` open it unchanged.
    """
    from mainspring.data.v1 import version_service_pb2 as pb
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client

    formats = pb.ExportDatasetVersionRequest

    async def body(mainspring: Mainspring) -> list[Path]:
        with Ticker(quiet=json_) as ticker:
            name = await resolve(mainspring, project, version)

            def told(done: int, total: int) -> None:
                ticker.tell(f"exporting {done >> 20} of {total >> 20} MiB" if total else f"exporting {done >> 20} MiB")

            form = formats.FORMAT_JSONL if jsonl else formats.FORMAT_PARQUET
            return await mainspring.dataset_versions.export(name, folder, form, on_bytes=told)

    files = with_client(data, body)
    if json_:
        print_json({"folder": str(folder), "files": [str(file.relative_to(folder)) for file in files]})
    else:
        print(f"{len(files)} files in {folder}; README.md says what they are")


def tag(
    version: Annotated[str, typer.Argument(help="DATASET/VERSION; with --remove the dataset alone is enough.")],
    tag: Annotated[str, typer.Argument(help="Tag, for example reviewed.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Gives a tag to a version, taking it from the one that had it. A version with a tag is never let go.

    One that loses its last tag goes at once, if 'mainspring datasets retain' keeps only newer ones.
    """
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DatasetName, DatasetVersionName

    async def body(mainspring: Mainspring) -> Any:
        if remove:
            dataset = version if version.startswith("projects/") else version.split("/")[0].split("@")[0]
            dataset = dataset.split("/versions/")[0]
            return await mainspring.dataset_versions.tag(expand(DatasetName, project, dataset, "version"), tag, "")
        name = DatasetVersionName.parse(await resolve(mainspring, project, version))
        return await mainspring.dataset_versions.tag(str(DatasetName(name.project, name.dataset)), tag, str(name))

    found = with_client(data, body)
    if json_:
        print_json(found)
    else:
        print(f"{tag} is taken away" if remove else f"{version} is {tag} from now on")


def retain(
    dataset: Dataset,
    newest: Annotated[int, typer.Option(min=0, max=100_000, help="How many of the newest versions stay; 0 for all.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete older versions without asking.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Says how many of a dataset's newest versions stay; older ones without a tag are deleted, now and later."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DatasetName

    name = expand(DatasetName, project, dataset, "dataset")
    if newest and not yes:
        typer.confirm(f"delete all versions of {name} but the newest {newest} and those with a tag?", abort=True)
    found = with_client(data, lambda mainspring: mainspring.dataset_versions.retain(name, newest))
    if json_:
        print_json(found)
    else:
        print(f"{name} keeps its newest {newest} versions" if newest else f"{name} keeps all versions")


async def resolve(mainspring: Mainspring, project: str, text: str) -> str:
    """The name of the version that a person named: DATASET/VERSION or DATASET@TAG.

    Raises:
        InvalidInput: It is no such name, or TAG_UNKNOWN.
    """
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import InvalidInput
    from mainspring_svckit.names import DatasetName, DatasetVersionName

    dataset, at, wanted = text.partition("@")
    if not at:
        return expand(DatasetVersionName, project, text, "version")
    found = await mainspring.data.dataset(expand(DatasetName, project, dataset, "version"))
    tags = {tag.tag: tag.dataset_version for tag in found.tags}
    if found.latest_version:
        tags["latest"] = found.latest_version
    if wanted not in tags:
        known = ", ".join(sorted(tags)) or "none"
        raise InvalidInput(f"{dataset} has no tag {wanted!r}, but {known}", reason="TAG_UNKNOWN")
    return tags[wanted]


def _print_comparison(comparison: Any, changes: list[comparison_pb2.RowChange]) -> None:
    from mainspring_client.cli.output import print_fields, print_table, short

    print_fields(
        {
            "base": f"{short(comparison.base)}, {comparison.base_rows} rows",
            "target": f"{short(comparison.target)}, {comparison.target_rows} rows",
            "  same": comparison.same_rows,
            "  changed": comparison.changed_rows,
            "  added": comparison.added_rows,
            "  removed": comparison.removed_rows,
            "  moved": comparison.moved_rows,
        }
    )
    print()
    if comparison.HasField("base_texts") and comparison.HasField("target_texts"):
        print_table(
            measures_of(comparison.base_texts, comparison.target_texts),
            {"texts": lambda m: m[0], "base": lambda m: m[1], "target": lambda m: m[2]},
            "",
        )
    print_table(
        changes,
        {
            "change": lambda c: _kind(c),
            "split": lambda c: _split(c.target if c.HasField("target") else c.base),
            "base": lambda c: _answer(c, "base"),
            "target": lambda c: _answer(c, "target"),
        },
        "no row is different",
    )


def measures_of(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Two descriptions of texts side by side."""
    measures: list[tuple[str, Any, Any]] = [("rows", before.rows, after.rows)]
    for part in ("prompt", "answer"):
        was, is_now = (f"{getattr(side, part).mean_words:.1f}" for side in (before, after))
        measures.append((f"mean words, {part}", was, is_now))
    shares = {distinct.ngram_words: distinct.share for distinct in before.distinct}
    for distinct in after.distinct:
        was = shares.get(distinct.ngram_words)
        shown = f"{was:.3f}" if was is not None else ""
        measures.append((f"distinct-{distinct.ngram_words}", shown, f"{distinct.share:.3f}"))
    measures += _diversity(before, after)
    labels = {label.label: label.rows for label in before.labels}
    for label in after.labels[:20]:
        measures.append((f"answer {label.label!r}", labels.get(label.label, ""), label.rows))
    return measures


def _diversity(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    if not (before.HasField("diversity") and after.HasField("diversity")):
        return []
    from mainspring_client.cli.output import short

    was, is_now = before.diversity, after.diversity
    made = short(is_now.vectors)
    found: list[tuple[str, Any, Any]] = [
        ("self-BLEU", f"{was.self_bleu:.1f}", f"{is_now.self_bleu:.1f}"),
        (f"Vendi score ({made})", _of_sample(was), _of_sample(is_now)),
        (f"cluster evenness ({made})", f"{was.cluster_evenness:.2f}", f"{is_now.cluster_evenness:.2f}"),
    ]
    if not (was.HasField("alignment") and is_now.HasField("alignment")):
        return found
    near, nearer = was.alignment, is_now.alignment
    return [
        *found,
        (
            f"evaluation set to nearest ({made})",
            f"{near.reference_to_nearest:.2f}",
            f"{nearer.reference_to_nearest:.2f}",
        ),
        (f"answer to nearest ({made})", f"{near.row_to_nearest:.2f}", f"{nearer.row_to_nearest:.2f}"),
        (
            "its clusters covered",
            f"{near.covered_clusters}/{near.reference_clusters}",
            f"{nearer.covered_clusters}/{nearer.reference_clusters}",
        ),
    ]


def _of_sample(side: Any) -> str:
    return f"{side.vendi_score:.1f} of {side.sample_rows}"


def _kind(change: Any) -> str:
    from mainspring_client.cli.output import state_of

    return state_of(change, "kind").lower()


def _split(row: Any) -> str:
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name

    return enum_name(dataset_pb2.Split.DESCRIPTOR, row.split, "SPLIT_")


def _answer(change: Any, side: str) -> str:
    if not change.HasField(side):
        return ""
    row = getattr(change, side)
    return _short(row.messages[-1].content)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"
