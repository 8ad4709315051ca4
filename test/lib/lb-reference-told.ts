/** What nodes tell each other in a header, for the reference of the packet programs: docs/services.md has the bytes. */
import { ETHERNET, type Packet, readAddress } from './lb-reference-packet.ts';

export interface ToldWords {
  readonly vip: Uint32Array;
  readonly node: Uint32Array;
  port: number;
}

/** Bytes that it takes. */
export const toldSize = (four: boolean) => (four ? 12 : 40);

const told: ToldWords = { vip: new Uint32Array(4), node: new Uint32Array(4), port: 0 };

/** What the first thing after the plain IP header tells; the same object each time. */
export function readTold(p: Packet): ToldWords | undefined {
  const { bytes, view, four } = p;
  const at = ETHERNET + (four ? 20 : 40);
  const end = at + toldSize(four);
  if (end > p.transportAt || end > p.length) return undefined;
  const known = four
    ? bytes[at] === 158 && bytes[at + 1] === 12
    : bytes[ETHERNET + 6] === 60 &&
      view.getUint32(at) % 2 ** 24 === 0x04_5e24 &&
      view.getUint16(at + 6) === 0x706f;
  if (!known) return undefined;
  told.port = view.getUint16(at + (four ? 2 : 4));
  readAddress(told.vip, view, at + (four ? 4 : 8), four);
  readAddress(told.node, view, at + (four ? 8 : 24), four);
  return told;
}

/** Takes it out; returns the packet's new length, 0 where lengths do not allow it. */
export function takeTold(p: Packet, length: number): number {
  const { bytes, view, four } = p;
  const at = ETHERNET + (four ? 20 : 40);
  const size = toldSize(four);
  const lengthAt = ETHERNET + (four ? 2 : 4);
  const said = view.getUint16(lengthAt);
  if (said < size) return 0;
  if (four) {
    const before = wordSum(p, ETHERNET, ETHERNET + 4) + wordSum(p, at, at + size);
    view.setUint16(lengthAt, said - size);
    bytes[ETHERNET]! -= size / 4;
    p.adjust(ETHERNET + 10, wordSum(p, ETHERNET, ETHERNET + 4) + 65_535 * 16 - before);
  } else {
    bytes[ETHERNET + 6] = bytes[at]!;
    view.setUint16(lengthAt, said - size);
  }
  bytes.copyWithin(at, at + size, length);
  return length - size;
}

/** Puts it in; returns the new length, 0 where there is no room in the header. */
export function putTold(
  p: Packet,
  length: number,
  { vip, port, node }: { vip: Uint32Array; port: number; node: Uint32Array },
): number {
  const { bytes, view, four } = p;
  const at = ETHERNET + (four ? 20 : 40);
  const size = toldSize(four);
  const lengthAt = ETHERNET + (four ? 2 : 4);
  const said = view.getUint16(lengthAt) + size;
  if (said > 0xffff || (four && (bytes[ETHERNET]! & 15) + size / 4 > 15)) return 0;
  bytes.copyWithin(at + size, at, length);
  const before = wordSum(p, ETHERNET, ETHERNET + 4);
  view.setUint16(lengthAt, said);
  if (four) {
    bytes[ETHERNET]! += size / 4;
    view.setUint32(at, (158 << 24) | (12 << 16) | port);
    view.setUint32(at + 4, vip[3]!);
    view.setUint32(at + 8, node[3]!);
    const now = wordSum(p, ETHERNET, ETHERNET + 4) + wordSum(p, at, at + size);
    p.adjust(ETHERNET + 10, now + 65_535 * 4 - before);
  } else {
    view.setUint32(at, (bytes[ETHERNET + 6]! << 24) | 0x04_5e24);
    bytes[ETHERNET + 6] = 60;
    view.setUint32(at + 4, (port << 16) | 0x706f);
    for (let word = 0; word < 4; word++) {
      view.setUint32(at + 8 + word * 4, vip[word]!);
      view.setUint32(at + 24 + word * 4, node[word]!);
    }
  }
  return length + size;
}

function wordSum({ view }: Packet, from: number, to: number): number {
  let sum = 0;
  for (let at = from; at < to; at += 2) sum += view.getUint16(at);
  return sum;
}
