/** Answers of a model over gRPC. */

import grpc from "@grpc/grpc-js";

import { contractsOf } from "./contracts.mjs";
import { ERRORS, MainspringError, errorOf } from "./errors.mjs";

const SERVICE = "mainspring.inference.v1.InferenceService";
const TIMEOUT_MS = 300_000;

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
        err ? reject(errorOf(this.contracts, err)) : resolve(response.answer),
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
      throw errorOf(this.contracts, err);
    } finally {
      call.cancel();
    }
    if (!whole) throw new MainspringError("the stream ended before the answer was whole", "UNAVAILABLE", "CUT_SHORT", []);
  }
}
