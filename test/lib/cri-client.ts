/**
 * A minimal CRI client: gRPC over HTTP/2 on a unix socket with protobuf written by hand, after
 * k8s.io/cri-api runtime.v1. Field numbers stand beside the names; what a test does not need is left out.
 */
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';

/** A message as [field number, value] pairs; strings, numbers (varint), booleans, bytes and messages. */
export type Fields = readonly (readonly [
  number: number,
  value: string | number | boolean | Uint8Array | Fields,
])[];

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt(value);
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 0x80 : low);
  } while (rest > 0n);
  return Buffer.from(bytes);
}

export function encodeFields(fields: Fields): Buffer {
  return Buffer.concat(
    fields.map(([number, value]) => {
      if (typeof value === 'number' || typeof value === 'boolean')
        return Buffer.concat([varint(number << 3), varint(Number(value))]);
      const bytes =
        typeof value === 'string'
          ? Buffer.from(value)
          : value instanceof Uint8Array
            ? Buffer.from(value)
            : encodeFields(value);
      return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
    }),
  );
}

/** A decoded message: values of each field number, in order. */
export class Message {
  readonly #values = new Map<number, (Buffer | number)[]>();

  constructor(bytes: Buffer) {
    for (let at = 0; at < bytes.length; ) {
      const read = () => {
        let value = 0n;
        for (let shift = 0n; ; shift += 7n) {
          const byte = bytes[at++];
          if (byte === undefined) throw new RangeError('a protobuf message ends inside a number');
          value |= BigInt(byte & 0x7f) << shift;
          if (byte < 0x80) return Number(value);
        }
      };
      const tag = read();
      let value: Buffer | number;
      if ((tag & 7) === 0) value = read();
      else if ((tag & 7) === 2) {
        const length = read();
        value = bytes.subarray(at, at + length);
        at += length;
      } else throw new RangeError(`wire type ${tag & 7} is not used by CRI`);
      this.#values.set(tag >>> 3, [...(this.#values.get(tag >>> 3) ?? []), value]);
    }
  }

  text(field: number): string {
    const value = this.#values.get(field)?.[0];
    return Buffer.isBuffer(value) ? value.toString() : '';
  }
  number(field: number): number {
    return Number(this.#values.get(field)?.[0] ?? 0);
  }
  messages(field: number): Message[] {
    return (this.#values.get(field) ?? []).flatMap((value) =>
      Buffer.isBuffer(value) ? new Message(value) : [],
    );
  }
}

export class CriClient {
  readonly #session: ClientHttp2Session;

  constructor(socketPath: string) {
    this.#session = connectHttp2('http://localhost', { createConnection: () => connect(socketPath) });
    this.#session.on('error', () => {});
  }

  call(method: string, fields: Fields, service = 'runtime.v1.RuntimeService'): Promise<Message> {
    return new Promise((resolve, reject) => {
      const stream = this.#session.request({
        ':method': 'POST',
        ':path': `/${service}/${method}`,
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      const chunks: Buffer[] = [];
      let status: Record<string, unknown> = {};
      stream.on('response', (headers) => {
        status = { ...status, ...headers };
      });
      stream.on('trailers', (headers) => {
        status = { ...status, ...headers };
      });
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('error', reject);
      stream.on('close', () => {
        if (String(status['grpc-status']) !== '0')
          return reject(
            new Error(
              `${method}: ${status['grpc-status']} ${decodeURIComponent(String(status['grpc-message']))}`,
            ),
          );
        // 1 byte compressed or not, 4 bytes length, message
        resolve(new Message(Buffer.concat(chunks).subarray(5)));
      });
      const body = encodeFields(fields);
      const head = Buffer.alloc(5);
      head.writeUInt32BE(body.length, 1);
      stream.end(Buffer.concat([head, body]));
    });
  }

  close(): void {
    this.#session.destroy();
  }
}
