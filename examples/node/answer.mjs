/**
 * First call: asks a model and prints JSON lines.
 *
 *     node answer.mjs projects/demo/models/summaries "What does this function do?" [--stream] [--max-tokens N]
 *
 * Environment: MAINSPRING_ADDRESS (inference, `host:port`) and MAINSPRING_TOKEN. Exit status 1 when the service refuses;
 * the last line then holds `error` with its stable `reason`.
 */

import { parseArgs } from "node:util";

import { Inference } from "./inference.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { stream: { type: "boolean" }, "max-tokens": { type: "string", default: "64" } },
});
const [model, question] = positionals;
const { MAINSPRING_ADDRESS: address, MAINSPRING_TOKEN: token } = process.env;
if (!model || question === undefined || !address || !token) {
  console.error("set MAINSPRING_ADDRESS and MAINSPRING_TOKEN, and run: node answer.mjs MODEL QUESTION [--stream]");
  process.exit(2);
}

const print = (line) => console.log(JSON.stringify(line));
const request = {
  parent: model.split("/").slice(0, 2).join("/"),
  model,
  messages: [{ role: "ROLE_USER", content: question }],
  sampling: { max_output_tokens: Number(values["max-tokens"]), temperature: 0 },
};

let inference;
try {
  inference = await Inference.connect(address, token);
  if (values.stream) for await (const part of inference.stream(request)) print(part);
  else print({ answer: await inference.answer(request) });
} catch (err) {
  const { code, reason, message, details } = err;
  print({ error: { code, reason, message, details } });
  process.exitCode = 1;
} finally {
  inference?.close();
}
