"""The pages. Every text that people or models wrote is shown as text, never as markup."""

from __future__ import annotations

from functools import partial
from typing import Any

from nicegui import background_tasks, ui
from starlette.requests import Request

from mainspring.evaluation.v1 import run_pb2 as evaluation_run_pb2
from mainspring.feedback.v1 import feedback_pb2
from mainspring.inference.v1 import rollout_pb2
from mainspring.registry.v1 import release_pb2
from mainspring.training.v1 import run_pb2
from mainspring_console.adapters.services import Services, View
from mainspring_console.domain.wording import moment, project_of_token, short, state, step_title, with_interval
from mainspring_console.transport.annotation import register_annotation
from mainspring_console.transport.data import register_data
from mainspring_console.transport.frame import ViewOf, heading, page, register_style, route, shown, table, written
from mainspring_console.transport.session import PROJECT_COOKIE, caller_of
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.errors import MainspringError

# It is read on white and on dark ground.
_GREY = "#767676"
_AXIS: dict[str, Any] = {
    "nameTextStyle": {"color": _GREY},
    "axisLabel": {"color": _GREY},
    "splitLine": {"lineStyle": {"color": _GREY, "opacity": 0.3}},
}


def register(services: Services, verifier: TokenVerifier) -> None:
    """Makes the pages known to NiceGUI."""

    def view_of(request: Request) -> View:
        principal, token = caller_of(request, verifier)
        wanted = request.cookies.get(PROJECT_COOKIE, "")
        return View(services, token, project_of_token(principal.projects, wanted))

    register_style()
    _register_overview(view_of)
    register_data(view_of)
    _register_runs(view_of)
    _register_evaluations(view_of)
    _register_releases(view_of)
    _register_playground(view_of)
    _register_feedback(view_of)
    register_annotation(view_of)


def _register_overview(view_of: ViewOf) -> None:
    @route("/")
    async def overview(request: Request) -> None:
        view = view_of(request)
        with page("Overview", view.project):

            async def services() -> None:
                health = await view.services.health()
                table(("Service", "State"), list(health.items()), empty="")

            async def cycles() -> None:
                heading("Turns of the loop")
                turns = await view.cycles()
                if not turns:
                    ui.label("The loop has not turned yet: import data with 'mainspring flywheel run'.")
                for turn in turns:
                    title = f"{moment(turn.start_time.ToDatetime())} · {len(turn.steps)} steps"
                    with ui.expansion(title, value=turn is turns[0]).classes("w-full"):
                        rows = [
                            (moment(step.time.ToDatetime()), step_title(step.event_type), short(step.subject))
                            for step in turn.steps
                        ]
                        table(("When", "What", "About"), rows, empty="")

            await shown(services)
            await shown(cycles)


def _register_runs(view_of: ViewOf) -> None:
    @route("/runs")
    async def runs(request: Request) -> None:
        view = view_of(request)
        with page("Training", view.project):

            async def listed() -> None:
                rows = [
                    (
                        run.name.rsplit("/", 1)[-1],
                        state(run_pb2.TrainingRun.State.Name(run.state)),
                        short(run.dataset_version),
                        f"{run.progress.done}/{run.progress.total}",
                        f"{run.latest_metric.train_loss:.4f}",
                        run.error.message,
                    )
                    for run in await view.runs()
                ]
                columns = ("Run", "State", "Data", "Steps", "Loss", "Error")
                table(columns, rows, empty="No run yet; a published dataset version starts one.", link="/runs/{}")

            await shown(listed)

    @route("/runs/{run}")
    async def run_page(run: str, request: Request) -> None:
        view = view_of(request)
        with page("Training", view.project):
            heading(f"Run {run}")
            about = written().props("aria-live=polite")
            series: dict[str, list[tuple[int, float]]] = {"train": [], "validation": []}
            chart = ui.echart(
                {
                    "aria": {"enabled": True},
                    "tooltip": {"trigger": "axis"},
                    "legend": {"textStyle": {"color": _GREY}},
                    "xAxis": {"type": "value", "name": "step", **_AXIS},
                    "yAxis": {"type": "value", "name": "loss (nats per token)", "scale": True, **_AXIS},
                    "series": [
                        {"name": name, "type": "line", "data": points, "showSymbol": name == "validation"}
                        for name, points in series.items()
                    ],
                }
            ).classes("w-full h-96")

            async def follow() -> None:
                try:
                    async for update in view.watch_run(f"projects/{view.project}/trainingRuns/{run}"):
                        _draw(update, about, chart, series)
                except MainspringError as err:
                    about.set_text(err.message)

            background_tasks.create(follow())


def _draw(update: Any, about: ui.label, chart: ui.echart, series: dict[str, list[tuple[int, float]]]) -> None:
    run = update.training_run
    speed = f"{run.latest_metric.tokens_per_second:.0f} tokens/s" if run.latest_metric.step else ""
    about.set_text(
        f"{state(run_pb2.TrainingRun.State.Name(run.state))}, step {run.progress.done} of {run.progress.total}"
        f" {run.progress.phase} {speed} {run.error.message}"
    )
    for metric in update.metrics:
        series["train"].append((metric.step, metric.train_loss))
        if metric.HasField("validation_loss"):
            series["validation"].append((metric.step, metric.validation_loss))
    for index, points in enumerate(series.values()):
        chart.options["series"][index]["data"] = points
    chart.update()


def _register_evaluations(view_of: ViewOf) -> None:
    @route("/evaluations")
    async def evaluations(request: Request) -> None:
        view = view_of(request)
        with page("Evaluations", view.project):

            async def listed() -> None:
                rows = [
                    (
                        run.name.rsplit("/", 1)[-1],
                        state(evaluation_run_pb2.EvaluationRun.State.Name(run.state)),
                        short(run.candidate),
                        short(run.baseline),
                        run.items,
                        run.error.message,
                    )
                    for run in await view.evaluations()
                ]
                columns = ("Run", "State", "Candidate", "Baseline", "Items", "Error")
                table(
                    columns, rows, empty="No evaluation yet; a registered version starts one.", link="/evaluations/{}"
                )

            await shown(listed)

    @route("/evaluations/{run}")
    async def evaluation_page(run: str, request: Request) -> None:
        view = view_of(request)
        name = f"projects/{view.project}/evaluationRuns/{run}"
        with page("Evaluations", view.project):

            async def results() -> None:
                found = await view.evaluation(name)
                heading(f"{short(found.candidate)} against {short(found.baseline)}, {found.items} items")
                rows = [
                    (
                        result.scorer,
                        f"{result.baseline.value:.4f}",
                        f"{result.candidate.value:.4f}",
                        with_interval(
                            result.difference.value, result.difference.low, result.difference.high, signed=True
                        ),
                        f"{result.p_value:.4f}",
                    )
                    for result in found.results
                ]
                table(("Scorer", "Baseline", "Candidate", "Difference", "p"), rows, empty="No results yet.")
                if found.fidelity.positions:
                    ui.label(
                        f"serving engine against reference: mean KL {found.fidelity.mean_kl_nats:.4f} nats,"
                        f" top-1 agreement {found.fidelity.top1_agreement:.0%}"
                    )

            async def items() -> None:
                for item in await view.items(name):
                    with ui.card().classes("w-full"):
                        written(item.messages[-1].content).classes("opacity-80 text-sm")
                        rows = [
                            ("reference", "\n".join(item.references)),
                            ("baseline", item.baseline_text),
                            ("candidate", item.candidate_text),
                        ]
                        table(("Whose", "Text"), rows, empty="")

            await shown(results)
            await shown(items)


def _register_releases(view_of: ViewOf) -> None:
    @route("/releases")
    async def releases(request: Request) -> None:
        view = view_of(request)
        with page("Releases", view.project):

            async def per_model() -> None:
                for model in await view.models():
                    decisions = await view.decisions(model.name)
                    heading(short(model.name))
                    aliases = ", ".join(f"{alias} → {version}" for alias, version in model.aliases.items())
                    ui.label(f"{short(model.latest_version) or 'no version'}; {aliases or 'no alias'}")
                    for release in await view.releases(model.name):
                        _release(view, release)
                    for decision in decisions:
                        _decision(decision)

            async def rollouts() -> None:
                heading("Roll-outs")
                rows = [
                    (
                        short(rollout.release),
                        state(rollout_pb2.Rollout.State.Name(rollout.state)),
                        f"{rollout.percent} %",
                        rollout.reason,
                    )
                    for rollout in await view.rollouts()
                ]
                table(("Release", "State", "Traffic", "Reason"), rows, empty="No roll-out yet.")

            await shown(per_model)
            await shown(rollouts)


def _release(view: View, release: release_pb2.Release) -> None:
    words = state(release_pb2.Release.State.Name(release.state))
    with ui.row().classes("items-center"):
        written(f"{short(release.name)}: {short(release.model_version)}, {words} {release.end_reason}")
        if release.state == release_pb2.Release.STATE_ACTIVE:
            _revoking(view, release)
    unit = release.unit
    goes_along = {"prompt": unit.prompt_version, "context": unit.collection, "guard": unit.guard_policy}
    if named := ", ".join(f"{what} {short(name)}" for what, name in goes_along.items() if name):
        ui.label(f"with {named}")


def _revoking(view: View, release: release_pb2.Release) -> None:
    """A button that asks once more before it takes back what serves."""

    async def revoke() -> None:
        sure.close()
        try:
            await view.revoke(release.name, "revoked in the console")
            ui.notify("Revoked; the release before serves again.")
        except MainspringError as err:
            ui.notify(err.message, type="negative")

    with ui.dialog().props('aria-label="Revoke?"') as sure, ui.card():
        ui.label(f"Revoke {short(release.name)}? The release before serves again, or none.")
        with ui.row():
            ui.button("Keep", on_click=sure.close).props("outline autofocus")
            ui.button("Revoke now", on_click=revoke).props("color=negative")
    ui.button("Revoke", on_click=sure.open).props("outline color=negative")


def _decision(decision: release_pb2.GateDecision) -> None:
    words = state(release_pb2.GateDecision.Outcome.Name(decision.outcome))
    with ui.expansion(f"gate: {short(decision.model_version)} {words}").classes("w-full"):
        rows = [("kept" if rule.passed else "broken", rule.rule, rule.explanation) for rule in decision.rules]
        table(("Verdict", "Rule", "Reasoning"), rows, empty="")


def _register_playground(view_of: ViewOf) -> None:
    @route("/playground")
    async def playground(request: Request) -> None:
        view = view_of(request)
        with page("Playground", view.project):

            async def form() -> None:
                # What serves without a release does so for an evaluation, and may end at any moment.
                served = [model.model for model in sorted(await view.served(), key=lambda model: not model.release)]
                if not served:
                    ui.label("Nothing is served yet; a release changes that.")
                    return
                choice = ui.select({name: short(name) for name in served}, value=served[0], label="Model")
                prompt = ui.textarea("Message").classes("w-full")
                asking = ui.button("Ask")
                wrong = ui.label().classes("text-negative").props("role=alert")
                answer = written()
                judged = ui.row().classes("w-full items-center")

                async def ask() -> None:
                    for place in (answer, wrong):
                        place.set_text("")
                    judged.clear()
                    asking.disable()
                    try:
                        async for event in view.stream_answer(str(choice.value), str(prompt.value or "")):
                            answer.set_text(answer.text + event.delta)
                            if event.HasField("answer"):
                                _judging(view, event.answer.name, judged)
                    except MainspringError as err:
                        wrong.set_text(err.message)
                    finally:
                        asking.enable()

                asking.on_click(ask)

            await shown(form)


def _judging(view: View, answer: str, place: ui.row) -> None:
    async def send(**judgement: Any) -> None:
        try:
            await view.judge(answer, **judgement)
            ui.notify("Thank you.")
        except MainspringError as err:
            ui.notify(err.message, type="negative")

    with place:
        for icon, name, thumb in (("thumb_up", "good", True), ("thumb_down", "bad", False)):
            button = ui.button(icon=icon, on_click=partial(send, thumb=thumb))
            button.props(f"flat aria-label={name}").tooltip(name)
        better = ui.input("How it should have been").classes("w-full max-w-96")
        ui.button("Correct", on_click=lambda: send(correction=str(better.value))).props("outline")


def _register_feedback(view_of: ViewOf) -> None:
    @route("/feedback")
    async def feedback(request: Request) -> None:
        view = view_of(request)
        with page("Feedback", view.project):

            async def listed() -> None:
                rows = [
                    (
                        moment(item.create_time.ToDatetime()),
                        item.WhichOneof("judgement") or "",
                        _judgement(item),
                        item.comment,
                        item.author,
                        short(item.model_version),
                    )
                    for item in await view.feedback()
                ]
                columns = ("When", "Kind", "Value", "Remark", "By", "About")
                table(columns, rows, empty="Nobody has said anything yet.")

            await shown(listed)


def _judgement(item: feedback_pb2.FeedbackItem) -> str:
    match item.WhichOneof("judgement"):
        case "thumb":
            return "good" if item.thumb else "bad"
        case "score":
            return f"{item.score:g}"
        case "preference":
            return f"better than {short(item.preference.rejected_answer)}"
        case _:
            return item.correction
