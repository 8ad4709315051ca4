/** What nodes tell each other in a packet's header, built and read from its description in docs/services.md. */
import { parseIp } from '../../src/addr/index.ts';
import { checksum } from './packet.ts';

const ETHERNET = 14;

export interface Told {
  readonly vip: string;
  readonly port: number;
  readonly node: string;
}

function bytesOf(address: string): Uint8Array {
  const ip = parseIp(address);
  const bytes = new Uint8Array(ip.family === 4 ? 4 : 16);
  ip.writeTo(bytes, 0);
  return bytes;
}

/** A frame with the option as the first thing after its plain IP header. */
export function withOption(frame: Uint8Array, told: Told): Uint8Array {
  const four = frame[12] === 8;
  const at = ETHERNET + (four ? 20 : 40);
  const port = [told.port >> 8, told.port & 255];
  const option = four
    ? [158, 12, ...port, ...bytesOf(told.vip), ...bytesOf(told.node)]
    : [frame[20]!, 4, 0x5e, 36, ...port, 0x70, 0x6f, ...bytesOf(told.vip), ...bytesOf(told.node)];
  const out = Uint8Array.from([...frame.subarray(0, at), ...option, ...frame.subarray(at)]);
  const view = new DataView(out.buffer);
  if (four) {
    out[ETHERNET]! += option.length / 4;
    view.setUint16(ETHERNET + 2, view.getUint16(ETHERNET + 2) + option.length);
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, checksum(out.subarray(ETHERNET, at + option.length)));
  } else {
    out[ETHERNET + 6] = 60;
    view.setUint16(ETHERNET + 4, view.getUint16(ETHERNET + 4) + option.length);
  }
  return out;
}
