/**
 * Calls a service with generated code, as a strict TypeScript backend would: `node calls.mjs GENERATED WHAT`.
 *
 * GENERATED is a folder with the output of `protoc-gen-es`; WHAT is `answer`, `stream`, `pages` or `late`. Environment:
 * MAINSPRING_ADDRESS, MAINSPRING_TOKEN, MODEL, TEXT. Prints JSON lines, an error as the last one with exit status 1.
 */

import { create, toJson } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const [generated, what] = process.argv.slice(2);
const { MAINSPRING_ADDRESS: address, MAINSPRING_TOKEN: token, MODEL: model, TEXT: text } = process.env;
const load = (path) => import(`${generated}/${path}_pb.js`);
const { InferenceService } = await load("mainspring/inference/v1/inference_service");
const { RegistryService } = await load("mainspring/registry/v1/registry_service");
const { AnswerSchema } = await load("mainspring/inference/v1/answer");
const { ChatMessageSchema, ChatMessage_Role: Role } = await load("mainspring/common/v1/chat");
const details = await load("google/rpc/error_details");

const transport = createGrpcTransport({ baseUrl: `http://${address}` });
const options = { headers: { authorization: `Bearer ${token}` }, timeoutMs: what === "late" ? 300 : 20_000 };
const question = {
  parent: "projects/p",
  model,
  messages: [create(ChatMessageSchema, { role: Role.USER, content: text })],
  sampling: { maxOutputTokens: text ? 8 : 40_000 },
};
const print = (line) => console.log(JSON.stringify(line));

const ways = {
  async answer() {
    const { answer } = await createClient(InferenceService, transport).generateAnswer(question, options);
    print({ answer: toJson(AnswerSchema, answer), tokens: String(answer.usage.inputTokens) });
  },
  async stream() {
    for await (const { event } of createClient(InferenceService, transport).streamAnswer(question, options)) {
      print(event.case === "delta" ? { delta: event.value } : { answer: event.value.text });
    }
  },
  async pages() {
    const client = createClient(RegistryService, transport);
    for (let pageToken = "", page = 1; page === 1 || pageToken; page += 1) {
      const found = await client.listModels({ parent: "projects/p", pageSize: 2, pageToken }, options);
      print({ page, models: found.models.map(({ name }) => name) });
      pageToken = found.nextPageToken;
    }
  },
};
ways.late = ways.answer;

try {
  await ways[what]();
} catch (err) {
  const error = ConnectError.from(err);
  const [info] = error.findDetails(details.ErrorInfoSchema);
  const [bad] = error.findDetails(details.BadRequestSchema);
  const [retry] = error.findDetails(details.RetryInfoSchema);
  print({
    code: Code[error.code],
    reason: info?.reason,
    fields: bad?.fieldViolations.map(({ field }) => field),
    retryS: retry && String(retry.retryDelay.seconds),
  });
  process.exitCode = 1;
}
