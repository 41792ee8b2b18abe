/**
 * Reads one event from the bus with CloudEvents' own SDK: `node cloudevent.mjs SUBJECT`, with MAINSPRING_NATS_URL.
 *
 * The SDK knows binary mode by HTTP's headers, which are the ones of the NATS binding, percent-encoded.
 */

import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { HTTP } from "cloudevents";

const { host, username, password } = new URL(process.env.MAINSPRING_NATS_URL);
const connection = await connect({ servers: host, user: decodeURIComponent(username), pass: decodeURIComponent(password) });
try {
  const manager = await jetstreamManager(connection);
  const message = await manager.streams.getMessage("MAINSPRING_EVENTS", { last_by_subj: process.argv[2] });
  const headers = {};
  for (const [name, [value]] of message.header) headers[name.toLowerCase()] = decodeURIComponent(value);
  headers["content-type"] = headers["ce-datacontenttype"];
  const event = HTTP.toEvent({ headers, body: new TextDecoder().decode(message.data) });
  event.validate();
  console.log(JSON.stringify(event));
} finally {
  await connection.close();
}
