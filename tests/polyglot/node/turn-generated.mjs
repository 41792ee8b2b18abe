/**
 * The same calls as `examples/node/turn.mjs` with generated code: `node turn-generated.mjs GENERATED PROJECT ANSWER`.
 *
 * GENERATED is a folder with the output of `protoc-gen-es`. Environment: MAINSPRING_ADDRESS (`evaluator=host:port,...`),
 * MAINSPRING_TOKEN. Prints one JSON object a service, an error as the last one with exit status 1.
 */

import { toJson } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const [generated, project, answer] = process.argv.slice(2);
const addresses = Object.fromEntries(process.env.MAINSPRING_ADDRESS.split(",").map((part) => part.split("=")));
const parent = `projects/${project}`;
const load = (path) => import(`${generated}/${path}_pb.js`);
const { EvaluationService } = await load("mainspring/evaluation/v1/evaluation_service");
const { EvaluationRunSchema } = await load("mainspring/evaluation/v1/run");
const { TrainingService } = await load("mainspring/training/v1/training_service");
const { TrainingRunSchema } = await load("mainspring/training/v1/run");
const { FeedbackService } = await load("mainspring/feedback/v1/feedback_service");
const details = await load("google/rpc/error_details");

const options = { headers: { authorization: `Bearer ${process.env.MAINSPRING_TOKEN}` }, timeoutMs: 20_000 };
const client = (service, name) => createClient(service, createGrpcTransport({ baseUrl: `http://${addresses[name]}` }));

/** The pages of a List RPC; `list` takes a page's token. */
async function pagesOf(list, field) {
  const pages = [];
  for (let pageToken = ""; pages.length === 0 || pageToken; ) {
    const page = await list(pageToken);
    pages.push(page[field]);
    pageToken = page.nextPageToken;
  }
  return pages;
}

function refusal(called) {
  return called.then(
    () => ({}),
    (err) => {
      const error = ConnectError.from(err);
      const [info] = error.findDetails(details.ErrorInfoSchema);
      const [bad] = error.findDetails(details.BadRequestSchema);
      const code = Code[error.code].replace(/([a-z])([A-Z])/g, "$1_$2").toUpperCase();
      return { code, reason: info?.reason ?? "", fields: bad?.fieldViolations.map(({ field }) => field) ?? [] };
    },
  );
}

const steps = {
  async evaluator() {
    const evaluator = client(EvaluationService, "evaluator");
    const [{ name }] = (await evaluator.listEvaluationRuns({ parent }, options)).evaluationRuns;
    const pages = await pagesOf(
      (pageToken) => evaluator.listEvaluationItems({ parent: name, pageSize: 12, pageToken }, options),
      "evaluationItems",
    );
    let last;
    for await (const { evaluationRun } of evaluator.watchEvaluationRun({ name }, options)) last = evaluationRun;
    return {
      pages: pages.map((page) => page.length),
      watched: [last.name === name, toJson(EvaluationRunSchema, last).state],
      refused: await refusal(evaluator.listEvaluationItems({ parent: name, pageSize: -1, scorer: "No Scorer" }, options)),
    };
  },
  async trainer() {
    const trainer = client(TrainingService, "trainer");
    const [{ name }] = (await trainer.listTrainingRuns({ parent }, options)).trainingRuns;
    const pages = await pagesOf(
      (pageToken) => trainer.listTrainingMetrics({ parent: name, pageSize: 25, pageToken }, options),
      "trainingMetrics",
    );
    let last;
    let metrics = 0;
    for await (const update of trainer.watchTrainingRun({ name }, options)) {
      last = update.trainingRun;
      metrics += update.metrics.length;
    }
    return {
      pages: pages.map((page) => page.length),
      watched: [last.name === name, toJson(TrainingRunSchema, last).state, metrics],
      refused: await refusal(trainer.pauseTrainingRun({ name }, options)),
    };
  },
  async feedback() {
    const feedback = client(FeedbackService, "feedback");
    const judgements = [
      { case: "thumb", value: true },
      { case: "score", value: 0.75 },
      { case: "correction", value: "as it should have been" },
    ];
    const made = [];
    for (const judgement of judgements) {
      made.push((await feedback.createFeedbackItem({ parent, feedbackItem: { answer, judgement } }, options)).feedbackItem);
    }
    const pages = await pagesOf(
      (pageToken) => feedback.listFeedbackItems({ parent, answer, pageSize: 2, pageToken }, options),
      "feedbackItems",
    );
    const mine = pages.flat().filter(({ name }) => made.some((item) => item.name === name));
    return {
      pages: pages.map((page) => page.length),
      made: mine.map(({ judgement }) => judgement.case).sort(),
      refused: await refusal(feedback.createFeedbackItem({ parent, feedbackItem: { answer: "no name" } }, options)),
      unknown: await refusal(feedback.getFeedbackItem({ name: `${parent}/feedbackItems/none` }, options)),
      late: (await refusal(feedback.listFeedbackItems({ parent }, { ...options, timeoutMs: 1 }))).code,
    };
  },
};

try {
  for (const [service, step] of Object.entries(steps)) console.log(JSON.stringify({ service, ...(await step()) }));
} catch (err) {
  const error = ConnectError.from(err);
  console.log(JSON.stringify({ error: { code: Code[error.code], message: error.rawMessage } }));
  process.exitCode = 1;
}
