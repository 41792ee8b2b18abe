"""`advise`: what is worth its cost before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring_client.advice import Advice
    from mainspring_client.client import Mainspring


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(advise)


def advise(
    model: Annotated[str, typer.Argument(help="Model that would be tuned; its policy and suite set the bar.")],
    dataset: Annotated[
        str,
        typer.Option(help="DATASET, DATASET/VERSION or DATASET@TAG that would be learned [default: the model's id]."),
    ] = "",
    base: Annotated[str, typer.Option(help="Foundation model, MODEL or MODEL/VERSION.")] = "smollm2",
    instruction: Annotated[str, typer.Option(help="Instruction of the second rung [default: a plain one].")] = "",
    examples: Annotated[int, typer.Option(min=0, max=64, help="Examples of the third rung; 0 leaves it out.")] = 4,
    probe_steps: Annotated[int, typer.Option(min=1, max=10000, help="Optimiser steps of the LoRA probe.")] = 16,
    epochs: Annotated[float, typer.Option(min=0.01, max=100, help="Passes of the tuning that is predicted.")] = 1.0,
    items: Annotated[int, typer.Option(min=1, max=100000, help="Most questions that are measured.")] = 40,
    scorer: Annotated[str, typer.Option(help="What decides, where the model has no policy.")] = "rouge_l",
    min_gain: Annotated[float, typer.Option(help="Least gain over the base, where it has none.")] = 0.0,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Measures the rungs before training is paid for: base, instruction, examples in the prompt, a small LoRA probe.

    Every rung answers the questions of the frozen test split through the plane that serves; the cheapest that
    breaks no rule of the model's gate is recommended, the base itself where no gain is asked for. The time of the whole
    tuning is predicted from the probe's speed, and rules that could not be measured are named.
    """
    from mainspring_client import advice
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> Advice:
        with Ticker(quiet=json_) as ticker:
            version, foundation = await _inputs(mainspring, project, dataset or model, base)
            question = advice.Question(
                project=project,
                model=model,
                base=foundation,
                dataset_version=version,
                instruction=instruction or advice.PLAIN_INSTRUCTION,
                examples=examples,
                probe_steps=probe_steps,
                epochs=epochs,
                max_items=items,
                scorer=scorer,
                min_gain=min_gain,
            )
            return await advice.advise(mainspring, question, ticker.tell)

    found = with_client(data, body)
    if json_:
        from dataclasses import asdict

        print_json(asdict(found))
    else:
        _print(found)


async def _inputs(mainspring: Mainspring, project: str, dataset: str, base: str) -> tuple[str, str]:
    """The dataset version and the base's version that people named shortly."""
    from mainspring_client.cli.train import newest_base, newest_version

    return await newest_version(mainspring, project, dataset), await newest_base(mainspring, project, base)


def _print(found: Advice) -> None:
    from mainspring_client.cli.output import print_table

    bar = f"{found.scorer}, gain above {found.min_gain:g}" + (
        f" ({found.policy.rsplit('/', 1)[-1]})" if found.policy else ""
    )
    print(f"{found.items} questions; what decides: {bar}")
    print_table(
        found.rungs,
        {
            "rung": lambda r: r.name,
            found.scorer: lambda r: f"{r.score:.4f}",
            "gain": lambda r: f"{r.gain.value:+.4f} [{r.gain.low:+.4f}, {r.gain.high:+.4f}]" if r.gain else "",
            "passes": lambda r: r.error or ("yes" if r.passes else f"no: {', '.join(r.broken)}"),
            "answer, s": lambda r: f"{r.answer_p50_s:.2f}",
            "more prompt": lambda r: f"{r.prompt_characters} characters" if r.prompt_characters else "",
            "set-up": lambda r: f"{r.setup_s:.0f} s" if r.setup_s else "",
        },
        "",
    )
    tuning = found.tuning
    print(
        f"whole tuning: {tuning['rows']} rows, about {tuning['tokens']} tokens at {tuning['tokens_per_second']:.0f}"
        f" tokens/s: {tuning['seconds']:.0f} s"
        + (f", {tuning['cost']:.3g} {tuning['currency']}" if tuning["cost"] else "")
    )
    for rule in found.unmeasured:
        print(f"not measured: {rule}")
    print(found.text)
