/** Events of Mainspring: CloudEvents 1.0 in binary mode, on a NATS JetStream. */

import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager, JetStreamApiError } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const STREAM = "MAINSPRING_EVENTS";
const CONSUMER_NOT_FOUND = 10014;
const PULL_MS = 10_000;
const REMEMBERED = 10_000;
export const MODELS = "mainspring.registry.model.>";

/**
 * Calls `handle` with each event of a type, or of all that a type ending in `>` begins, of a project, one at a time and
 * in order, until it returns `true`. An event is acknowledged when `handle` is done with it. One that it throws at comes again, also to a later program that gives
 * the same `durable`; so does one that was in hand when the program was killed.
 *
 * @param {{url: string, project: string, durable: string, type?: string, since?: Date, ready?: () => void}} options
 *   `since` says where a new subscription begins (default: now); `ready` is called once nothing is missed any more.
 * @param {(event: object) => Promise<boolean | void> | boolean | void} handle
 */
export async function follow({ url, project, durable, type = MODELS, since = new Date(), ready }, handle) {
  const { host, username, password } = new URL(url);
  const connection = await connect({
    servers: host,
    user: decodeURIComponent(username),
    pass: decodeURIComponent(password),
    name: `example-${durable}`,
    maxReconnectAttempts: -1,
  });
  const seen = new Set();
  try {
    const consumer = await consumerOf(connection, durable, {
      filter_subject: `mainspring.events.${project}.${type.replace(/^mainspring\./, "")}`,
      deliver_policy: DeliverPolicy.StartTime,
      opt_start_time: since.toISOString(),
    });
    ready?.();
    for (let done = false; !done; ) {
      const message = await consumer.next({ expires: PULL_MS });
      if (!message) continue;
      const event = cloudEvent(message);
      try {
        // The bus delivers at least once; the same event is handled once.
        if (!seen.has(event.id)) done = (await handle(event)) === true;
      } catch (err) {
        message.nak();
        throw err;
      }
      seen.add(event.id);
      if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
      await message.ackAck();
    }
  } finally {
    await connection.drain();
  }
}

async function consumerOf(connection, durable, start) {
  const manager = await jetstreamManager(connection);
  try {
    await manager.consumers.info(STREAM, durable);
  } catch (err) {
    if (!(err instanceof JetStreamApiError) || err.code !== CONSUMER_NOT_FOUND) throw err;
    // One at a time: a redelivery must not come after a later event.
    const config = { durable_name: durable, ack_policy: AckPolicy.Explicit, max_ack_pending: 1, ...start };
    await manager.consumers.add(STREAM, config);
  }
  return jetstream(connection).consumers.get(STREAM, durable);
}

/** Attributes from the headers, percent-decoded as the CloudEvents binding for NATS wants it; `data` from the body. */
export function cloudEvent(message) {
  const event = {};
  for (const [name, [value]] of message.headers ?? []) {
    if (name.toLowerCase().startsWith("ce-")) event[name.toLowerCase().slice(3)] = decodeURIComponent(value);
  }
  return { ...event, data: message.json() };
}
