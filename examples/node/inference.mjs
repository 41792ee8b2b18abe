/** Answers of a model over gRPC. */

import grpc from "@grpc/grpc-js";

import { contractsOf } from "./contracts.mjs";

const SERVICE = "mainspring.inference.v1.InferenceService";
const ERRORS = ["google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"];
const TIMEOUT_MS = 300_000;

/** An error that a service told of. `reason` is stable and for programs; `details` holds what else it said. */
export class MainspringError extends Error {
  constructor(message, code, reason, details) {
    super(message);
    Object.assign(this, { name: "MainspringError", code, reason, details });
  }
}

/** A client of inference; `close` it when done. */
export class Inference {
  /**
   * @param {string} address `host:port` of inference
   * @param {string} token
   */
  static async connect(addresses, token) {
    // `host:port`, or one for each service: `registry=host:port,inference=host:port`.
    const named = Object.fromEntries(addresses.split(",").map((part) => part.split("=").reverse()).map(([a, n]) => [n ?? "", a]));
    const address = named.inference ?? named[""];
    return new Inference(address, token, await contractsOf(address, [SERVICE, ...ERRORS]));
  }

  constructor(address, token, contracts) {
    const { InferenceService } = grpc.loadPackageDefinition(contracts).mainspring.inference.v1;
    this.contracts = contracts;
    this.stub = new InferenceService(address, grpc.credentials.createInsecure());
    this.metadata = new grpc.Metadata();
    this.metadata.set("authorization", `Bearer ${token}`);
  }

  close() {
    this.stub.close();
  }

  /**
   * A whole answer.
   *
   * @param {object} request `GenerateAnswerRequest`, with field names as in the contract
   */
  answer(request) {
    return new Promise((resolve, reject) =>
      this.stub.GenerateAnswer(request, this.metadata, { deadline: Date.now() + TIMEOUT_MS }, (err, response) =>
        err ? reject(this.#errorOf(err)) : resolve(response.answer),
      ),
    );
  }

  /**
   * Pieces of text as they are generated, `{delta}`, then the whole answer, `{answer}`. Leaving the loop early stops
   * the generation.
   *
   * @param {object} request `StreamAnswerRequest`, with field names as in the contract
   */
  async *stream(request) {
    const call = this.stub.StreamAnswer(request, this.metadata, { deadline: Date.now() + TIMEOUT_MS });
    let whole = false;
    try {
      for await (const response of call) {
        whole ||= response.event === "answer";
        yield { [response.event]: response[response.event] };
      }
    } catch (err) {
      throw this.#errorOf(err);
    } finally {
      call.cancel();
    }
    if (!whole) throw new MainspringError("the stream ended before the answer was whole", "UNAVAILABLE", "CUT_SHORT", []);
  }

  /** The service's own words: `google.rpc.Status` travels in the trailing metadata. */
  #errorOf(err) {
    const code = grpc.status[err.code] ?? err.name;
    const [bytes] = err.metadata?.get("grpc-status-details-bin") ?? [];
    if (!bytes) return new MainspringError(err.details ?? err.message, code, "", []);
    const status = this.contracts["google.rpc.Status"].deserialize(bytes);
    const details = status.details.map(({ type_url: url, value }) => {
      const type = url.slice(url.lastIndexOf("/") + 1);
      return { type, ...this.contracts[type]?.deserialize(value) };
    });
    const reason = details.find(({ type }) => type === "google.rpc.ErrorInfo")?.reason ?? "";
    return new MainspringError(status.message, code, reason, details);
  }
}
