/**
 * From a file to a dataset version, looked at, compared, named and taken elsewhere, over gRPC alone.
 *
 * usage: node data.mjs PROJECT DATASET FILE.jsonl INPUT_COLUMN TARGET_COLUMN
 *
 * Prints one JSON object a line. `MAINSPRING_ADDRESS` is data-ingest's `host:port`, `MAINSPRING_TOKEN` a contributor's token.
 */

import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { basename } from "node:path";

import grpc from "@grpc/grpc-js";

import { contractsOf } from "./contracts.mjs";

const SERVICES = ["mainspring.data.v1.DataService", "mainspring.data.v1.DatasetVersionService", "mainspring.data.v1.ErasureService"];
const CHUNK_BYTES = 1 << 20;

const [project, dataset, file, input_column, target_column] = process.argv.slice(2);
const address = process.env.MAINSPRING_ADDRESS;
const contracts = grpc.loadPackageDefinition(await contractsOf(address, SERVICES)).mainspring.data.v1;
const credentials = grpc.credentials.createInsecure();
const data = new contracts.DataService(address, credentials);
const versions = new contracts.DatasetVersionService(address, credentials);
const erasures = new contracts.ErasureService(address, credentials);
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.MAINSPRING_TOKEN}`);

const parent = `projects/${project}`;
const recipe = `${parent}/ingestionRecipes/${dataset}`;
const say = (value) => console.log(JSON.stringify(value));

function call(stub, method, request) {
  return new Promise((resolve, reject) =>
    stub[method](request, metadata, { deadline: Date.now() + 60_000 }, (err, response) => (err ? reject(err) : resolve(response))),
  );
}

/** All results of a List RPC, page by page. */
async function* pages(stub, method, request, field) {
  for (let page_token = ""; ; ) {
    const page = await call(stub, method, { ...request, page_token });
    yield* page[field];
    if (!(page_token = page.next_page_token)) return;
  }
}

function upload(path) {
  return new Promise((resolve, reject) => {
    const stream = data.UploadArtifact(metadata, (err, response) => (err ? reject(err) : resolve(response.artifact)));
    createReadStream(path, { highWaterMark: CHUNK_BYTES })
      .on("data", (chunk) => stream.write({ parent, filename: basename(path), chunk }))
      .on("end", () => stream.end())
      .on("error", reject);
  });
}

async function ingest(artifact, steps) {
  const ingestion_recipe = { name: recipe, dataset: `${parent}/datasets/${dataset}`, columns: { input_column, target_column }, steps };
  await call(data, "UpdateIngestionRecipe", { ingestion_recipe, allow_missing: true, request_id: randomUUID() });
  const sources = [{ artifact, format: "FORMAT_JSONL" }];
  const { ingestion } = await call(data, "CreateIngestion", { parent, ingestion_recipe: recipe, sources, request_id: randomUUID() });
  let last = ingestion;
  for await (const update of data.WatchIngestion({ name: ingestion.name }, metadata)) last = update.ingestion;
  if (last.state !== "STATE_SUCCEEDED") throw new Error(`${last.state}: ${last.error?.message}`);
  return last.dataset_version;
}

try {
  const artifact = await upload(file);
  const plain = await ingest(artifact, []);
  const clean = await ingest(artifact, [{ markup_to_text: {} }, { text_repair: {} }]);
  say({ versions: [plain, clean] });

  const { dataset_report: report } = await call(data, "GetDatasetReport", { name: clean });
  say({ report: { input: report.input_rows, unchanged: report.kept_unchanged_rows, changed: report.kept_changed_rows } });

  const refused = [];
  for await (const row of pages(data, "ListRefusedRows", { parent: clean, page_size: 2 }, "refused_rows")) refused.push([row.line, row.reason]);
  say({ refused });

  const rows = [];
  for await (const row of pages(versions, "ListDatasetRows", { parent: clean, page_size: 3 }, "rows")) rows.push(row.messages.at(-1).content);
  say({ rows });

  const { comparison, changes } = await call(versions, "CompareDatasetVersions", { base: plain, target: clean });
  say({ comparison: { same: comparison.same_rows, changed: comparison.changed_rows }, kinds: changes.map((change) => change.kind) });

  const tagged = await call(versions, "SetDatasetTag", { dataset: `${parent}/datasets/${dataset}`, tag: "reviewed", dataset_version: clean, request_id: randomUUID() });
  say({ tags: tagged.dataset.tags });

  const files = {};
  let current;
  for await (const part of versions.ExportDatasetVersion({ name: clean, format: "FORMAT_JSONL" }, metadata)) {
    if (part.file) files[(current = part.file.path)] = 0;
    else files[current] += part.chunk.length;
  }
  say({ files });

  // Erasing is an admin's right; a contributor is refused with PERMISSION_DENIED.
  await call(erasures, "CreateErasure", { parent, selector: { text: "nobody at all" }, request_id: randomUUID() }).then(
    ({ erasure }) => say({ erasure: erasure.state }),
    (err) => say({ refused_with: grpc.status[err.code] }),
  );
} catch (err) {
  say({ error: { code: grpc.status[err.code] ?? err.name, message: err.details ?? err.message } });
  process.exitCode = 1;
} finally {
  for (const stub of [data, versions, erasures]) stub.close();
}
