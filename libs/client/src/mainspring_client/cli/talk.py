"""`answer` and `feedback`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.inference.v1 import answer_pb2
    from mainspring_client.client import Mainspring

feedback = group("Judgements of answers; corrections and preferences turn the loop.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(answer)
    app.add_typer(feedback, name="feedback")


def answer(
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads it from the standard input.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="MODEL for what is released, MODEL/VERSION for one version.")
    ],
    system: Annotated[str, typer.Option(help="Instructions that stand above the question.")] = "",
    collection: Annotated[str, typer.Option(help="Collection whose passages the answer may cite.")] = "",
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 takes the most probable token.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=0, max=32768, help="Longest answer; 0: the service's default.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, show_default=False, help="Makes the answer repeatable.")] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the text as it is made.")] = True,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Asks a model. The answer's name, for feedback, goes to the standard error."""
    from mainspring.inference.v1 import answer_pb2
    from mainspring_client.cli.output import print_json, printable
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand, expand_model
    from mainspring_svckit.names import CollectionName

    name, text = expand_model(project, model), sys.stdin.read() if prompt == "-" else prompt
    sampling = answer_pb2.SamplingParameters(max_output_tokens=max_tokens)
    if temperature is not None:
        sampling.temperature = temperature
    if seed is not None:
        sampling.seed = seed
    context = None
    if collection:
        context = answer_pb2.ContextRequest(collection=expand(CollectionName, project, collection, "collection"))

    async def body(mainspring: Mainspring) -> answer_pb2.Answer:
        if json_ or not stream:
            return await mainspring.inference.answer(name, text, system=system, sampling=sampling, context=context)
        whole = answer_pb2.Answer()
        async for part in mainspring.inference.stream(name, text, system=system, sampling=sampling, context=context):
            if isinstance(part, str):
                print(printable(part), end="", flush=True)
            else:
                whole = part
        print()
        return whole

    given = with_client(data, body)
    if json_:
        print_json(given)
        return
    if not stream:
        print(printable(given.text))
    for citation in given.citations:
        print(
            f"[{citation.number}] {printable(citation.title or citation.document_id)} {citation.uri}", file=sys.stderr
        )
    print(f"{given.name}  {given.model_version}", file=sys.stderr)


@feedback.command()
def send(
    answer_name: Annotated[str, typer.Argument(metavar="ANSWER", help="Answer id, or its whole name.")],
    thumb: Annotated[str, typer.Option(help="up or down.")] = "",
    score: Annotated[float | None, typer.Option(min=0, max=1, help="0 useless, 1 perfect.", show_default=False)] = None,
    correction: Annotated[str, typer.Option(help="The answer as it should have been.")] = "",
    better_than: Annotated[str, typer.Option(help="Another answer to the same question, which is worse.")] = "",
    comment: Annotated[str, typer.Option(help="What else to say.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Judges an answer, in one of four ways: --thumb, --score, --correction or --better-than."""
    from mainspring.feedback.v1 import feedback_pb2
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import AnswerName

    if sum([bool(thumb), score is not None, bool(correction), bool(better_than)]) != 1:
        raise typer.BadParameter("give exactly one of --thumb, --score, --correction and --better-than")
    if thumb not in {"", "up", "down"}:
        raise typer.BadParameter("must be up or down", param_hint="--thumb")
    item = feedback_pb2.FeedbackItem(answer=expand(AnswerName, project, answer_name, "answer"), comment=comment)
    if thumb:
        item.thumb = thumb == "up"
    elif score is not None:
        item.score = score
    elif correction:
        item.correction = correction
    else:
        item.preference.rejected_answer = expand(AnswerName, project, better_than, "better-than")
    stored = with_client(data, lambda mainspring: mainspring.feedback.send(item))
    if json_:
        print_json(stored)
    else:
        print(stored.name)


@feedback.command("list")
def list_feedback(
    answer_name: Annotated[str, typer.Option("--answer", help="Only of this answer.")] = "",
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists feedback, newest first."""
    from mainspring_client.cli.output import print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import AnswerName

    name = expand(AnswerName, project, answer_name, "answer") if answer_name else ""
    found = with_client(data, lambda mainspring: collect(mainspring.feedback.items(project, name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "item": lambda i: short(i.name),
            "answer": lambda i: short(i.answer),
            "judgement": lambda i: i.WhichOneof("judgement"),
            "author": lambda i: i.author,
            "given": lambda i: when(i.create_time),
        },
        f"no feedback in {project}",
    )
