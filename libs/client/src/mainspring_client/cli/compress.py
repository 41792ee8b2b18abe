"""`quantize`: a smaller version of a model, with what it gained and what it lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.evaluation.v1 import run_pb2
    from mainspring.registry.v1 import quantization_pb2
    from mainspring_client.cli.output import Ticker
    from mainspring_client.client import Mainspring

_FORMATS = ("Q8_0", "Q6_K", "Q4_K_M", "INT8", "INT4")
_FOR_GPUS = ("INT8", "INT4")
_PATIENCE_S, _NEWEST = 120.0, 50


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(quantize)


def quantize(
    model: Annotated[str, typer.Argument(help="MODEL/VERSION or MODEL@ALIAS, for example summaries@champion.")],
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(_FORMATS)}.")] = "Q4_K_M",
    detach: Annotated[bool, typer.Option("--detach", help="Print the quantization's name and do not wait.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes a smaller version of a model version, and prints what it gained in memory and speed and what it lost.

    An adapter is merged into its base. The result is a version of the same model with a lineage of its own; the model's
    suites measure it against what is released, and the gate decides on it as on every version.

    Q8_0, Q6_K and Q4_K_M are llama.cpp's. INT8 and INT4 are Hugging Face folders for engines on GPUs (vLLM, SGLang), in
    the format of compressed-tensors; what they lost is told on this machine, on rows of the suite that measures the
    model, and their speed is not. A plane whose engine is llama.cpp cannot serve them, so no suite runs on them there.
    """
    from mainspring.registry.v1 import quantization_pb2
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand_model
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    if format_ not in _FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(_FORMATS)}", param_hint="--format")
    source = expand_model(project, model)
    wanted = quantization_pb2.QuantizationFormat.Value(f"QUANTIZATION_FORMAT_{format_}")

    async def body(mainspring: Mainspring) -> tuple[quantization_pb2.Quantization, run_pb2.EvaluationRun | None]:
        samples = await _samples(mainspring, source) if format_ in _FOR_GPUS else []
        done = await mainspring.compression.quantize(source, wanted, samples=samples)
        if detach:
            return done, None
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.compression.watch(done.name):
                done = update
                ticker.tell(f"compressing {model}: {done.State.Name(done.state)[6:].lower()}")
            if done.state != quantization_pb2.Quantization.STATE_SUCCEEDED:
                raise PreconditionFailed(error_info(done.error).reason or "QUANTIZATION_FAILED", done.error.message)
            return done, await _evaluation(mainspring, done, ticker)

    done, run = with_client(data, body)
    if json_:
        print_json({"quantization": done, "evaluation_run": run})
    elif detach:
        print(done.name)
    else:
        _print(done, run)


async def _samples(mainspring: Mainspring, source: str) -> list[quantization_pb2.QuantizationSample]:
    """Rows that the model's suite asks; of the test split of what it learned from where no suite names others."""
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.run import collect
    from mainspring_client.compression import SAMPLES, samples_of

    version = await mainspring.registry.version(source)
    dataset, split = version.lineage.dataset_version, dataset_pb2.SPLIT_TEST
    async for suite in mainspring.evaluation.suites(source.split("/")[1]):
        if suite.model == version.name.rpartition("/versions/")[0]:
            items = next((each.dataset for each in suite.sources if each.HasField("dataset")), None)
            dataset = (items.dataset_version if items is not None else suite.dataset_version) or dataset
            split = (items.split if items is not None else 0) or split
            break
    if not dataset:
        return []
    return samples_of(await collect(mainspring.dataset_versions.rows(dataset, split, page_size=SAMPLES), SAMPLES))


async def _evaluation(
    mainspring: Mainspring, done: quantization_pb2.Quantization, ticker: Ticker
) -> run_pb2.EvaluationRun | None:
    """The run that measures the result, at its end; None when no suite measures the model.

    Raises:
        PreconditionFailed: EVALUATION_MISSING, a suite measures the model, but no run has begun.
    """
    from mainspring_client.cli.output import progress_text
    from mainspring_client.cli.run import collect
    from mainspring_svckit.errors import PreconditionFailed

    project, model = done.name.split("/")[1], done.model_version.rpartition("/versions/")[0]
    if not [suite async for suite in mainspring.evaluation.suites(project) if suite.model == model]:
        return None
    ends = asyncio.get_running_loop().time() + _PATIENCE_S
    while asyncio.get_running_loop().time() < ends:
        for run in await collect(mainspring.evaluation.runs(project), _NEWEST):
            if run.candidate == done.model_version:
                newest = run
                async for update in mainspring.evaluation.watch(run.name):
                    newest = update
                    ticker.tell(f"measuring: {progress_text(newest)}")
                return newest
        ticker.tell("waiting for the evaluation to begin")
        await asyncio.sleep(0.5)
    message = f"{done.model_version} is made, but no evaluation has begun; 'mainspring status' shows what is wrong"
    raise PreconditionFailed("EVALUATION_MISSING", message)


def _print(done: quantization_pb2.Quantization, run: run_pb2.EvaluationRun | None) -> None:
    from mainspring_client.cli.output import estimate_text, print_fields, print_table, short

    before, after = done.before, done.after
    print_fields(
        {
            "version": done.model_version,
            "compressed from": done.source_model_version,
            "tensors": ", ".join(f"{count} {name}" for name, count in sorted(done.tensor_types.items())),
        }
    )
    measured: list[tuple[str, float, float]] = [
        ("file, MB", before.file_bytes / 1e6, after.file_bytes / 1e6),
        ("resident memory, MB", before.resident_bytes / 1e6, after.resident_bytes / 1e6),
        ("prompt, tokens/s", before.prompt_tokens_per_second, after.prompt_tokens_per_second),
        ("answer, tokens/s", before.tokens_per_second, after.tokens_per_second),
    ]
    if done.HasField("lost"):
        lost = done.lost
        measured.append((f"loss of {lost.tokens} tokens, nats", lost.loss_before, lost.loss_after))
    print_table(
        [row for row in measured if row[1] or row[2]],
        {
            after.device or "files": lambda row: row[0],
            "before": lambda row: f"{row[1]:.3f}" if "nats" in row[0] else f"{row[1]:.1f}",
            "after": lambda row: f"{row[2]:.3f}" if "nats" in row[0] else f"{row[2]:.1f}",
            "change": lambda row: f"{100 * (row[2] / row[1] - 1):+.0f} %" if row[1] else "",
        },
        "",
    )
    if done.HasField("lost"):
        close = done.lost.fidelity
        agreed = f"same first choice {close.top1_agreement:.0%}"
        print(f"mean KL to the source in float32 {close.mean_kl_nats:.4f} nats, {agreed}")
        print("memory and speed were not measured: this machine has not the engine that the format is for")
    if run is None:
        print("no evaluation suite measures this model; 'mainspring apply' writes one")
        return
    if run.error.message:
        print(f"the evaluation failed: {run.error.message}")
        return
    close = run.fidelity
    against = f"against {short(run.baseline)}" if run.baseline else "alone"
    print(f"measured on {run.items} items {against}")
    if close.positions:
        print(f"  mean KL to the reference {close.mean_kl_nats:.4f} nats, same first choice {close.top1_agreement:.0%}")

    def difference(result: Any) -> str:
        return estimate_text(result.difference) if result.HasField("difference") else ""

    print_table(
        run.results,
        {"scorer": lambda r: r.scorer, "after": lambda r: estimate_text(r.candidate), "difference": difference},
        "",
    )
    print(f"'mainspring releases decisions {short(done.model_version).split('/')[0]}' shows what the gate said")
