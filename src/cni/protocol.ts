import { cniError } from '../errors/cni.ts';

/**
 * How the plugin binary (native/portolan-cni.freestanding.c) and the agent talk; one call a connection.
 *
 *   to the agent     NAME=value NUL NAME=value NUL ... NUL  stdin ...            then half close
 *   from the agent   exit status (u8), length (u32, little-endian), stdout (length bytes)
 */

/** One execution of the plugin: its CNI_* variables and its standard input. */
export interface CniCall {
  readonly env: ReadonlyMap<string, string>;
  readonly stdin: Uint8Array;
}

/** What the plugin prints, and its exit status. */
export interface CniAnswer {
  readonly status: number;
  readonly stdout: string;
}

const NUL = 0;
const HEADER_BYTES = 5;
const MOST_VARIABLES = 64;

/** Reads a whole call. Throws CNI_FRAME_MALFORMED. */
export function decodeCall(frame: Uint8Array): CniCall {
  const env = new Map<string, string>();
  const decoder = new TextDecoder('utf-8', { fatal: true });
  for (let at = 0; ; ) {
    const end = frame.indexOf(NUL, at);
    if (end < 0) throw cniError('CNI_FRAME_MALFORMED', { why: 'its environment has no end' });
    if (end === at) return { env, stdin: frame.subarray(end + 1) };
    let text: string;
    try {
      text = decoder.decode(frame.subarray(at, end));
    } catch {
      throw cniError('CNI_FRAME_MALFORMED', { why: 'an environment variable is no UTF-8' });
    }
    const equals = text.indexOf('=');
    if (!text.startsWith('CNI_') || equals < 0)
      throw cniError('CNI_FRAME_MALFORMED', {
        why: 'an environment variable is not of the form CNI_NAME=value',
      });
    if (env.size >= MOST_VARIABLES)
      throw cniError('CNI_FRAME_MALFORMED', {
        why: `it has more than ${MOST_VARIABLES} environment variables`,
      });
    env.set(text.slice(0, equals), text.slice(equals + 1));
    at = end + 1;
  }
}

/** The bytes of a call, as the plugin binary writes them: of the environment only the CNI_* variables. */
export function encodeCall(env: Readonly<Record<string, string>>, stdin: Uint8Array | string): Uint8Array {
  const own = Object.entries(env).filter(([name]) => name.startsWith('CNI_'));
  const variables = own.map(([name, value]) => `${name}=${value}\0`);
  return Buffer.concat([Buffer.from(`${variables.join('')}\0`), Buffer.from(stdin)]);
}

/** The bytes of an answer. */
export function encodeAnswer({ status, stdout }: CniAnswer): Uint8Array {
  const body = Buffer.from(stdout);
  const frame = Buffer.alloc(HEADER_BYTES + body.length);
  frame.writeUInt8(status, 0);
  frame.writeUInt32LE(body.length, 1);
  body.copy(frame, HEADER_BYTES);
  return frame;
}

/** Reads a whole answer. Throws CNI_FRAME_MALFORMED. */
export function decodeAnswer(frame: Uint8Array): CniAnswer {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
  if (bytes.length < HEADER_BYTES || bytes.readUInt32LE(1) !== bytes.length - HEADER_BYTES)
    throw cniError('CNI_FRAME_MALFORMED', {
      why: `an answer of ${bytes.length} bytes is not as long as it says`,
    });
  return { status: bytes.readUInt8(0), stdout: bytes.toString('utf8', HEADER_BYTES) };
}
