/**
 * Floods addresses with first packets from one namespace until killed: netns, its IPv4 and IPv6 address, then the
 * addresses to hit. Each round sends a TCP SYN, a UDP datagram and an SCTP INIT to each, then rests a moment.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseIp } from '../../src/addr/index.ts';
import { Prober } from './policy-net.ts';

const [netns = '', ip4 = '', ip6 = '', ...targets] = process.argv.slice(2);
const place = { name: 'hammer', netns, ip4: parseIp(ip4), ip6: parseIp(ip6) };
const prober = new Prober(place);
process.stdout.write('ready\n');
for (let round = 0; ; round++) {
  for (const text of targets) {
    const address = parseIp(text);
    const to = { name: text, netns: '', ip4: address, ip6: address };
    for (const protocol of ['TCP', 'UDP', 'SCTP'] as const)
      prober.send({ from: place, to, family: address.family, protocol, port: 80 }, 20_000 + (round % 40_000));
  }
  prober.drain();
  await sleep(3);
}
