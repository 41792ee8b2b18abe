/**
 * Follows releases and revocations and prints each as a JSON line; a backend would fetch and verify the artifact here.
 *
 *     node follow.mjs PROJECT DURABLE_NAME [--type TYPE] [--count N] [--since ISO_TIME]
 *
 * Environment: MAINSPRING_NATS_URL, which `mainspring up` writes to `nats-subscriber-url` in its data folder. The name
 * is what the bus remembers our place under: after a break the same name goes on where it was. Says `following` on
 * standard error as soon as no release is missed any more.
 */

import { parseArgs } from "node:util";

import { follow } from "./events.mjs";

const RELEASES = ["mainspring.registry.model.released.v1", "mainspring.registry.model.release_revoked.v1"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    type: { type: "string" },
    count: { type: "string", default: "0" },
    since: { type: "string" },
  },
});
const [project, durable] = positionals;
const url = process.env.MAINSPRING_NATS_URL;
if (!project || !durable || !url) {
  console.error("set MAINSPRING_NATS_URL, and run: node follow.mjs PROJECT DURABLE_NAME [--count N]");
  process.exit(2);
}

let left = Number(values.count);
const since = values.since ? new Date(values.since) : undefined;
const ready = () => console.error("following");
await follow({ url, project, durable, type: values.type, since, ready }, (event) => {
  if (!values.type && !RELEASES.includes(event.type)) return false;
  console.log(JSON.stringify(event));
  left -= 1;
  return left === 0;
});
