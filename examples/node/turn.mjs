/**
 * What a turn of the loop brought, and what one thinks of an answer: evaluation, training and feedback over gRPC.
 *
 * usage: node turn.mjs PROJECT ANSWER
 *
 * Prints one JSON object a service: pages of a list, the last message of a stream, the errors that it met. `MAINSPRING_ADDRESS` names the services
 * (`evaluator=host:port,trainer=host:port,feedback=host:port`), `MAINSPRING_TOKEN` is a contributor's token.
 */

import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import grpc from "@grpc/grpc-js";

import { contractsOf } from "./contracts.mjs";
import { ERRORS, errorOf } from "./errors.mjs";

const [project, answer] = process.argv.slice(2);
const addresses = Object.fromEntries(process.env.MAINSPRING_ADDRESS.split(",").map((part) => part.split("=")));
const parent = `projects/${project}`;
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.MAINSPRING_TOKEN}`);

/** A service by its full name, with its contracts from itself. */
async function connect(address, name) {
  const contracts = await contractsOf(address, [name, ...ERRORS]);
  const Stub = name.split(".").reduce((found, part) => found[part], grpc.loadPackageDefinition(contracts));
  const stub = new Stub(address, grpc.credentials.createInsecure());
  return {
    call: (method, request, timeoutMs = 20_000) =>
      new Promise((resolve, reject) =>
        stub[method](request, metadata, { deadline: Date.now() + timeoutMs }, (err, response) => (err ? reject(errorOf(contracts, err)) : resolve(response))),
      ),
    stream: (method, request) => stub[method](request, metadata, { deadline: Date.now() + 20_000 }),
    close: () => stub.close(),
  };
}

/** The pages of a List RPC. */
async function pagesOf(service, method, request, field) {
  const pages = [];
  for (let page_token = ""; pages.length === 0 || page_token; ) {
    const page = await service.call(method, { ...request, page_token });
    pages.push(page[field]);
    page_token = page.next_page_token;
  }
  return pages;
}

/** What is worth knowing of the error that a call must end with. */
function refusal(called) {
  return called.then(
    () => ({}),
    (err) => ({ code: err.code, reason: err.reason, fields: err.detail("BadRequest")?.field_violations.map(({ field }) => field) ?? [] }),
  );
}

async function evaluation(evaluator) {
  const [[{ name }]] = await pagesOf(evaluator, "ListEvaluationRuns", { parent }, "evaluation_runs");
  const pages = await pagesOf(evaluator, "ListEvaluationItems", { parent: name, page_size: 12 }, "evaluation_items");
  let last;
  for await (const { evaluation_run } of evaluator.stream("WatchEvaluationRun", { name })) last = evaluation_run;
  return {
    pages: pages.map((page) => page.length),
    watched: [last.name === name, last.state],
    refused: await refusal(evaluator.call("ListEvaluationItems", { parent: name, page_size: -1, scorer: "No Scorer" })),
  };
}

async function training(trainer) {
  const [[{ name }]] = await pagesOf(trainer, "ListTrainingRuns", { parent }, "training_runs");
  const pages = await pagesOf(trainer, "ListTrainingMetrics", { parent: name, page_size: 25 }, "training_metrics");
  let last;
  let metrics = 0;
  for await (const update of trainer.stream("WatchTrainingRun", { name })) {
    last = update.training_run;
    metrics += update.metrics.length;
  }
  return {
    pages: pages.map((page) => page.length),
    watched: [last.name === name, last.state, metrics],
    refused: await refusal(trainer.call("PauseTrainingRun", { name })),
  };
}

/** Says what an answer is worth; one that was given a moment ago may not be known yet, and the error says when to try again. */
async function judge(feedback, feedback_item) {
  for (const request_id = randomUUID(); ; ) {
    try {
      return (await feedback.call("CreateFeedbackItem", { parent, feedback_item, request_id })).feedback_item;
    } catch (err) {
      const retry = err.detail?.("RetryInfo");
      if (err.reason !== "ANSWER_NOT_KNOWN_YET" || !retry) throw err;
      await pause(Number(retry.retry_delay.seconds) * 1_000 + retry.retry_delay.nanos / 1e6);
    }
  }
}

async function judging(feedback) {
  const judgements = [{ thumb: true }, { score: 0.75 }, { correction: "as it should have been" }];
  const made = [];
  for (const judgement of judgements) made.push(await judge(feedback, { answer, ...judgement }));
  const pages = await pagesOf(feedback, "ListFeedbackItems", { parent, answer, page_size: 2 }, "feedback_items");
  const mine = pages.flat().filter(({ name }) => made.some((item) => item.name === name));
  return {
    pages: pages.map((page) => page.length),
    made: mine.map(({ judgement }) => judgement).sort(),
    refused: await refusal(feedback.call("CreateFeedbackItem", { parent, feedback_item: { answer: "no name" } })),
    unknown: await refusal(feedback.call("GetFeedbackItem", { name: `${parent}/feedbackItems/none` })),
    // Nobody answers in a millisecond: a call without a deadline of its own may wait for ever.
    late: (await refusal(feedback.call("ListFeedbackItems", { parent }, 1))).code,
  };
}

const steps = [
  ["evaluator", "mainspring.evaluation.v1.EvaluationService", evaluation],
  ["trainer", "mainspring.training.v1.TrainingService", training],
  ["feedback", "mainspring.feedback.v1.FeedbackService", judging],
];
try {
  for (const [name, service, step] of steps) {
    const connected = await connect(addresses[name], service);
    try {
      console.log(JSON.stringify({ service: name, ...(await step(connected)) }));
    } finally {
      connected.close();
    }
  }
} catch (err) {
  console.log(JSON.stringify({ error: { code: err.code ?? err.name, reason: err.reason, message: err.message } }));
  process.exitCode = 1;
}
