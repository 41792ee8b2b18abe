"""`annotate`: people label, and what they say becomes data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli import suggestions
from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.data.v1 import annotation_pb2
    from mainspring_client.client import Mainspring

Queue = Annotated[str, typer.Argument(help="Queue id.")]
_SELECTIONS = ("order", "uncertainty", "diversity", "disagreement")

annotate = group("Queues of items that people label; what they say becomes a dataset version.")
annotate.command()(suggestions.suggest)


@annotate.command()
def create(
    queue: Queue,
    choice: Annotated[list[str] | None, typer.Option(help="A choice; repeat it for each.")] = None,
    several: Annotated[bool, typer.Option("--several", help="Several choices may be taken.")] = False,
    rating: Annotated[str, typer.Option(help="A rating from worst to best, for example 1-5.")] = "",
    text: Annotated[bool, typer.Option("--text", help="The text that the answer should be.")] = False,
    preference: Annotated[bool, typer.Option("--preference", help="Which of two answers is better.")] = False,
    guidelines: Annotated[Path | None, typer.Option(help="Markdown file that says how to label.")] = None,
    overlap: Annotated[int, typer.Option(min=1, max=20, help="People who label each item.")] = 1,
    gold_every: Annotated[int, typer.Option(min=0, help="Every how-manieth item is a gold question.")] = 0,
    selection: Annotated[str, typer.Option(help=f"What comes next: {', '.join(_SELECTIONS)}.")] = "order",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes a queue, or changes one."""
    from mainspring.data.v1 import annotation_pb2 as pb
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    if [bool(choice), bool(rating), text, preference].count(True) != 1:
        raise typer.BadParameter("give one of --choice (repeated), --rating, --text and --preference")
    if selection not in _SELECTIONS:
        raise typer.BadParameter(f"must be one of {', '.join(_SELECTIONS)}", param_hint="--selection")
    schema = pb.LabelSchema()
    if choice:
        schema.choice.choices.extend(choice)
        schema.choice.several = several
    elif rating:
        worst, _, best = rating.partition("-")
        if not (worst.isdigit() and best.isdigit()):
            raise typer.BadParameter("is like 1-5", param_hint="--rating")
        schema.rating.worst, schema.rating.best = int(worst), int(best)
    elif text:
        schema.text.SetInParent()
    else:
        schema.preference.SetInParent()
    wish = pb.AnnotationQueue(
        name=_queue(project, queue),
        label_schema=schema,
        guidelines=guidelines.read_text(encoding="utf-8") if guidelines is not None else "",
        overlap=overlap,
        gold_every=gold_every,
        selection=pb.AnnotationQueue.Selection.Value(f"SELECTION_{selection.upper()}"),
    )
    made = with_client(data, lambda m: m.annotation.put_queue(wish))
    if json_:
        print_json(made)
    else:
        print(f"{made.name}; fill it with 'mainspring annotate add {queue} FILE'")


@annotate.command()
def add(
    queue: Queue,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="JSON Lines: messages, and candidates, suggestion, gold, synthetic as the contract has them."
        ),
    ] = None,
    dataset: Annotated[str, typer.Option(help="Or rows of a dataset version, for example support/3.")] = "",
    limit: Limit = 1000,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Adds items; what is in the queue already is passed over."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    if (file is None) == (not dataset):
        raise typer.BadParameter("give either a file or --dataset")
    name = _queue(project, queue)

    async def body(mainspring: Mainspring) -> tuple[int, int]:
        items = _read(file) if file is not None else await _rows(mainspring, project, dataset, limit)
        return await mainspring.annotation.add(name, items[:limit])

    added, known = with_client(data, body)
    if json_:
        print_json({"added": added, "known": known})
    else:
        print(f"{added} items are new, {known} were there")


@annotate.command("list")
def list_queues(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists queues with their progress."""
    from mainspring_client.cli.output import print_json, print_table, short
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda m: collect(m.annotation.queues(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "queue": lambda q: short(q.name),
            "labels": lambda q: q.label_schema.WhichOneof("kind"),
            "items": lambda q: q.items,
            "labelled": lambda q: q.labelled_items,
            "disputed": lambda q: q.disputed_items,
            "overlap": lambda q: q.overlap,
        },
        f"no annotation queues in {project}; 'mainspring annotate create ID --choice good --choice bad' makes one",
    )


@annotate.command()
def label(queue: Queue, project: Project = DEFAULT_PROJECT, data: Data = None) -> None:
    """Hands out items one after the other and asks for a label: an empty line skips, Ctrl-D ends."""
    from mainspring_client.cli.run import with_client

    name = _queue(project, queue)

    async def body(mainspring: Mainspring) -> None:
        schema = (await mainspring.annotation.queue(name)).label_schema
        while (item := await mainspring.annotation.claim(name)) is not None:
            _show(item)
            try:
                said = _ask(schema)
            except (EOFError, typer.Abort):
                print("\nthe item waits for you until its time is over")
                return
            await mainspring.annotation.submit(item.name, said)
        print("nothing is left for you")

    with_client(data, body)


@annotate.command()
def report(queue: Queue, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Shows how well people agree (Krippendorff's alpha), and how each does on gold questions."""
    from mainspring_client.cli.output import print_fields, print_json, print_table
    from mainspring_client.cli.run import with_client

    found = with_client(data, lambda m: m.annotation.report(_queue(project, queue)))
    if json_:
        print_json(found)
        return
    alpha = f"{found.alpha:.3f} over {found.alpha_items} items" if found.HasField("alpha") else "nothing to compare yet"
    print_fields({"alpha": alpha, **{f"label {name}": count for name, count in sorted(found.labels.items())}})
    print_table(
        found.annotators,
        {
            "annotator": lambda a: a.annotator,
            "labelled": lambda a: a.labelled,
            "skipped": lambda a: a.skipped,
            "gold": lambda a: f"{a.gold_right} of {a.gold_answered}" if a.gold_answered else "",
        },
        "nobody has labelled anything",
    )


@annotate.command()
def decide(queue: Queue, project: Project = DEFAULT_PROJECT, data: Data = None) -> None:
    """Shows disputed items with what everybody said, and asks for the final label: an empty line passes over."""
    from mainspring.data.v1 import annotation_pb2 as pb
    from mainspring_client.cli.output import printable
    from mainspring_client.cli.run import collect, with_client

    name = _queue(project, queue)

    async def body(mainspring: Mainspring) -> None:
        schema = (await mainspring.annotation.queue(name)).label_schema
        for item in await collect(mainspring.annotation.items(name, pb.AnnotationItem.STATE_DISPUTED), 1000):
            _show(item)
            for one in item.annotations:
                print(printable(f"  {one.annotator}: {_words(one.label)} {one.comment}"))
            said = _ask(schema)
            if said is not None:
                await mainspring.annotation.adjudicate(item.name, said)

    with_client(data, body)


@annotate.command()
def publish(
    queue: Queue,
    recipe: Annotated[str, typer.Option(help="Ingestion recipe whose dataset gets the rows.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Adds what is labelled to a dataset as a new version, and waits for it."""
    from mainspring_client.cli.output import Ticker, print_json, state_of
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import IngestionRecipeName

    recipe_name = expand(IngestionRecipeName, project, recipe, "recipe")

    async def body(mainspring: Mainspring) -> tuple[Any, int]:
        ingestion, rows = await mainspring.annotation.publish(_queue(project, queue), recipe_name)
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.data.watch_ingestion(ingestion.name):
                ticker.tell(f"adding {rows} rows: {state_of(update)}")
                ingestion = update
        return ingestion, rows

    ingestion, rows = with_client(data, body)
    if json_:
        print_json(ingestion)
    else:
        print(f"{rows} rows: {state_of(ingestion)} {ingestion.dataset_version or ingestion.error.message}")


def _queue(project: str, queue: str) -> str:
    from mainspring_client.resources import expand
    from mainspring_svckit.names import AnnotationQueueName

    return expand(AnnotationQueueName, project, queue, "queue")


def _read(path: Path) -> list[annotation_pb2.AnnotationItem]:
    """Items of a JSON Lines file; roles may be in lower case, as chats have them."""
    from google.protobuf import json_format

    from mainspring.data.v1 import annotation_pb2 as pb
    from mainspring_svckit.errors import InvalidInput

    items = list[pb.AnnotationItem]()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            for message in record.get("messages", []):
                role = str(message.get("role", "user"))
                message["role"] = role if role.startswith("ROLE_") else f"ROLE_{role.upper()}"
            items.append(json_format.ParseDict(record, pb.AnnotationItem()))
        except (ValueError, AttributeError, TypeError, json_format.ParseError) as err:
            raise InvalidInput(f"{path}:{number}: {err}", reason="ITEM_UNREADABLE") from err
    return items


async def _rows(mainspring: Mainspring, project: str, dataset: str, limit: int) -> list[annotation_pb2.AnnotationItem]:
    from mainspring.data.v1 import annotation_pb2 as pb
    from mainspring_client.cli.versions import resolve

    version = await resolve(mainspring, project, dataset)
    items = list[pb.AnnotationItem]()
    async for row in mainspring.dataset_versions.rows(version):
        origin = f"{version}#{row.row_id}"
        items.append(pb.AnnotationItem(messages=row.messages, origin=origin, synthetic=row.synthetic))
        if len(items) == limit:
            break
    return items


def _show(item: annotation_pb2.AnnotationItem) -> None:
    from mainspring_client.cli.output import enum_name, printable

    print("-" * 72)
    for message in item.messages:
        role = enum_name(type(message).Role.DESCRIPTOR, message.role, "ROLE_")
        print(printable(f"{role}: {message.content}"))
    for number, candidate in enumerate(item.candidates, 1):
        print(printable(f"answer {number}: {candidate}"))
    if item.HasField("suggestion"):
        print(printable(f"suggested, {item.suggestion.confidence:.0%} sure: {_words(item.suggestion.label)}"))


def _words(label: annotation_pb2.Label) -> str:
    preferred = {0: "", 1: "answer 1", 2: "answer 2", 3: "neither"}[label.preferred]
    rating = str(label.rating) if label.HasField("rating") else ""
    return ", ".join(label.choices) or label.text or rating or preferred or "(skipped)"


def _ask(schema: annotation_pb2.LabelSchema) -> annotation_pb2.Label | None:
    """What somebody types as a label; None for an empty line."""
    from mainspring.data.v1 import annotation_pb2 as pb

    match schema.WhichOneof("kind"):
        case "choice":
            choices = list(schema.choice.choices)
            typed = input(" ".join(f"[{n}] {name}" for n, name in enumerate(choices, 1)) + ": ").split()
            picked = [choices[int(t) - 1] if t.isdigit() and 0 < int(t) <= len(choices) else t for t in typed]
            return pb.Label(choices=picked) if picked else None
        case "rating":
            text = input(f"{schema.rating.worst} to {schema.rating.best}: ").strip()
            return pb.Label(rating=int(text)) if text.lstrip("-").isdigit() else None
        case "text":
            text = input("should be: ").strip()
            return pb.Label(text=text) if text else None
        case _:
            text = input("better answer, 1 or 2, or = for neither: ").strip()
            known = {"1": pb.Label.PREFERRED_FIRST, "2": pb.Label.PREFERRED_SECOND, "=": pb.Label.PREFERRED_TIE}
            return pb.Label(preferred=known[text]) if text in known else None
