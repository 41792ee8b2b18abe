/** Errors of a service: their stable reason, and what else it said. */

import grpc from "@grpc/grpc-js";

/** What errors may hold; names to ask `contractsOf` for beside the services. */
export const ERRORS = ["google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"];

/** An error that a service told of. `reason` is stable and for programs; `details` holds what else it said. */
export class MainspringError extends Error {
  constructor(message, code, reason, details) {
    super(message);
    Object.assign(this, { name: "MainspringError", code, reason, details });
  }

  /** What a detail of a type says, for example `detail("RetryInfo").retry_delay`; nothing where there is none. */
  detail(type) {
    return this.details.find((detail) => detail.type === `google.rpc.${type}`);
  }
}

/**
 * The service's own words: `google.rpc.Status` travels in the trailing metadata.
 *
 * @param {import("@grpc/proto-loader").PackageDefinition} contracts With those of `ERRORS`.
 * @param {Error} err What a call of grpc-js failed with.
 */
export function errorOf(contracts, err) {
  const code = grpc.status[err.code] ?? err.name;
  const [bytes] = err.metadata?.get("grpc-status-details-bin") ?? [];
  if (!bytes) return new MainspringError(err.details ?? err.message, code, "", []);
  const status = contracts["google.rpc.Status"].deserialize(bytes);
  const details = status.details.map(({ type_url: url, value }) => {
    const type = url.slice(url.lastIndexOf("/") + 1);
    return { type, ...contracts[type]?.deserialize(value) };
  });
  const reason = details.find(({ type }) => type === "google.rpc.ErrorInfo")?.reason ?? "";
  return new MainspringError(status.message, code, reason, details);
}
