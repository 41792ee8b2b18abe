/**
 * Contracts of a running Mainspring, asked from the service itself by gRPC server reflection, so that a host name is all
 * that a program needs. A program that is built beforehand takes `protos/` of the repository instead.
 */

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

/** 64-bit integers and enums arrive as in protobuf's JSON: as text, and by name. */
const READING = { longs: String, enums: String, defaults: true, oneofs: true };

const REFLECTION = {
  nested: {
    grpc: {
      nested: {
        reflection: {
          nested: {
            v1alpha: {
              nested: {
                ServerReflectionRequest: { fields: { file_containing_symbol: { type: "string", id: 4 } } },
                ServerReflectionResponse: {
                  fields: {
                    file_descriptor_response: { type: "FileDescriptorResponse", id: 4 },
                    error_response: { type: "ErrorResponse", id: 7 },
                  },
                },
                FileDescriptorResponse: {
                  fields: { file_descriptor_proto: { rule: "repeated", type: "bytes", id: 1 } },
                },
                ErrorResponse: {
                  fields: { error_code: { type: "int32", id: 1 }, error_message: { type: "string", id: 2 } },
                },
                ServerReflection: {
                  methods: {
                    ServerReflectionInfo: {
                      requestType: "ServerReflectionRequest",
                      requestStream: true,
                      responseType: "ServerReflectionResponse",
                      responseStream: true,
                    },
                  },
                },
              },
            },
          },
        },
      },
    },
  },
};

/**
 * The definitions of `symbols` and of everything that they refer to, by full name.
 *
 * @param {string} address `host:port`
 * @param {string[]} symbols Full names of services and messages.
 * @returns {Promise<import("@grpc/proto-loader").PackageDefinition>}
 */
export async function contractsOf(address, symbols) {
  const { ServerReflection } = grpc.loadPackageDefinition(protoLoader.fromJSON(REFLECTION)).grpc.reflection.v1alpha;
  const client = new ServerReflection(address, grpc.credentials.createInsecure());
  const files = new Map();
  try {
    const call = client.ServerReflectionInfo({ deadline: Date.now() + 10_000 });
    for (const symbol of symbols) call.write({ file_containing_symbol: symbol });
    call.end();
    for await (const { file_descriptor_response: found, error_response: failure } of call) {
      if (failure) throw new Error(`${address} does not describe its contracts: ${failure.error_message}`);
      for (const file of found.file_descriptor_proto) files.set(file.toString("base64"), file);
    }
  } finally {
    client.close();
  }
  return protoLoader.loadFileDescriptorSetFromBuffer(descriptorSet([...files.values()]), READING);
}

/** Serialized FileDescriptorProtos as one serialized FileDescriptorSet: field 1, length, bytes, for each of them. */
function descriptorSet(files) {
  return Buffer.concat(files.flatMap((file) => [Buffer.from([0x0a, ...varint(file.length)]), file]));
}

function varint(value) {
  const bytes = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}
