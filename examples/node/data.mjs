/**
 * From a file to a dataset version, looked at, compared, named, labelled and taken elsewhere, over gRPC alone.
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

const SERVICES = ["AnnotationService", "DataService", "DatasetVersionService", "ErasureService", "SourceService"].map((name) => `mainspring.data.v1.${name}`);
const CHUNK_BYTES = 1 << 20;

const [project, dataset, file, input_column, target_column] = process.argv.slice(2);
const address = process.env.MAINSPRING_ADDRESS;
const contracts = grpc.loadPackageDefinition(await contractsOf(address, SERVICES)).mainspring.data.v1;
const credentials = grpc.credentials.createInsecure();
const data = new contracts.DataService(address, credentials);
const versions = new contracts.DatasetVersionService(address, credentials);
const sources = new contracts.SourceService(address, credentials);
const annotation = new contracts.AnnotationService(address, credentials);
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

/** The version that an ingestion ends with. */
async function published({ name }) {
  let last;
  for await (const update of data.WatchIngestion({ name }, metadata)) last = update.ingestion;
  if (last.state !== "STATE_SUCCEEDED") throw new Error(`${last.state}: ${last.error?.message}`);
  return last.dataset_version;
}

/** Rows of a version are asked of people, of whom this program is one, and what they say becomes a version. */
async function label(version) {
  const queue = `${parent}/annotationQueues/${dataset}`;
  const label_schema = { choice: { choices: ["good", "bad"] } };
  await call(annotation, "UpdateAnnotationQueue", { annotation_queue: { name: queue, label_schema }, allow_missing: true, request_id: randomUUID() });
  const { rows } = await call(versions, "ListDatasetRows", { parent: version, page_size: 3 });
  const annotation_items = rows.map(({ messages, row_id, synthetic }) => ({ messages, synthetic, origin: `${version}#${row_id}` }));
  const { added } = await call(annotation, "AddAnnotationItems", { parent: queue, annotation_items, request_id: randomUUID() });
  for (let turn = 0; turn < added; turn += 1) {
    const { annotation_item: item } = await call(annotation, "ClaimAnnotationItem", { parent: queue, request_id: randomUUID() });
    await call(annotation, "SubmitAnnotation", { name: item.name, label: { choices: ["good"] }, request_id: randomUUID() });
  }
  const labels = `${recipe}-labels`;
  const ingestion_recipe = { name: labels, dataset: `${parent}/datasets/${dataset}-labels`, columns: { messages_column: "messages" } };
  await call(data, "UpdateIngestionRecipe", { ingestion_recipe, allow_missing: true, request_id: randomUUID() });
  const { ingestion } = await call(annotation, "PublishAnnotationQueue", { name: queue, ingestion_recipe: labels, request_id: randomUUID() });
  const { dataset_version } = await call(data, "GetDatasetVersion", { name: await published(ingestion) });
  return { labelled: added, input: dataset_version.input_rows };
}

async function ingest(artifact, steps) {
  const ingestion_recipe = { name: recipe, dataset: `${parent}/datasets/${dataset}`, columns: { input_column, target_column }, steps };
  await call(data, "UpdateIngestionRecipe", { ingestion_recipe, allow_missing: true, request_id: randomUUID() });
  const wish = { parent, ingestion_recipe: recipe, sources: [{ artifact, format: "FORMAT_JSONL" }], request_id: randomUUID() };
  const { ingestion } = await call(data, "CreateIngestion", wish);
  return published(ingestion);
}

try {
  const artifact = await upload(file);
  const { preview } = await call(sources, "PreviewSource", { parent, artifact });
  say({ preview: [preview.format, preview.column_names] });
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

  say({ annotation: await label(clean) });

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
  for (const stub of [data, versions, sources, annotation, erasures]) stub.close();
}
