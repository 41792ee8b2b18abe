/** Reads an AsyncAPI document with AsyncAPI's own parser and prints what it objects to: `node asyncapi.mjs FILE`. */

import { readFile } from "node:fs/promises";

import { Parser } from "@asyncapi/parser";

const ERROR = 0;
const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const errors = diagnostics.filter(({ severity }) => severity === ERROR);
const said = errors.map(({ message, path }) => `${path.join(".")}: ${message}`);
const messages = document?.allMessages().all().map((message) => message.name()) ?? [];
console.log(JSON.stringify({ errors: said, version: document?.version(), messages }));
