/**
 * Elements of an nftables map by raw nfnetlink, beside `nft -f -`. Root; makes its own network namespace.
 *
 *   node test/bench/nft-elements.ts [--json]
 */
import { execFileSync } from 'node:child_process';
import { IpAddress } from '../../src/addr/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { type NftElement, NftRuleset } from '../../src/kernel/nft/index.ts';
import { type BenchRow, medians, printRows, startedAlone } from './measure.ts';

const COUNT = 10_000;
const SINGLES = 100;
const ROUNDS = 5;

export async function bench(): Promise<BenchRow[]> {
  const name = `pt-bn-${process.pid}`;
  using netns = createNetns(name);
  try {
    const nft = (input: string) =>
      void execFileSync('ip', ['netns', 'exec', name, 'nft', '-f', '-'], { input });
    nft('table ip t {\n map m {\n  type ipv4_addr . inet_service : ipv4_addr . inet_service\n }\n}\n');
    using ruleset = NftRuleset.open({ netns });
    const set = ruleset.set({ family: 'ip', table: 't' }, 'm');
    const at = { family: 'ip', table: 't' } as const;
    let generation = 0;
    const address = (network: number, n: number) => `10.${network}.${n >> 8}.${n & 255}`;
    const asText = () => {
      const to = 100 + (generation++ % 100);
      const list = Array.from(
        { length: COUNT },
        (_, n) => `${address(96, n)} . 80 : ${address(to, n)} . 8080`,
      );
      nft(`flush map ip t m\nadd element ip t m { ${list.join(', ')} }\n`);
    };
    const asMessages = () => {
      const to = 0x0a640000 + ((generation++ % 100) << 16);
      const elements = Array.from({ length: COUNT }, (_, n) => ({
        key: [IpAddress.v4(0x0a600000 + n), 80],
        data: [IpAddress.v4(to + n), 8080],
      }));
      ruleset.apply([
        { ...at, change: 'flush elements', set: { name: 'm', map: true } },
        { ...at, change: 'add elements', set, elements },
      ]);
    };
    const [raw, text] = await medians(ROUNDS, [asMessages, asText]);
    let next = 0;
    const oneText = () => nft(`add element ip t m { ${address(99, next++)} . 81 : 10.1.1.1 . 8080 }\n`);
    const oneMessage = () => {
      for (let count = 0; count < SINGLES; count++) {
        const element: NftElement = {
          key: [IpAddress.v4(0x0a630000 + next++), 82],
          data: [IpAddress.v4(0x0a010101), 8080],
        };
        ruleset.apply([{ ...at, change: 'add elements', set, elements: [element] }]);
      }
    };
    const [singles, oneByText] = await medians(ROUNDS, [oneMessage, oneText]);
    const listText = () =>
      execFileSync('ip', ['netns', 'exec', name, 'nft', '-j', 'list', 'map', 'ip', 't', 'm'], {
        maxBuffer: 64 << 20,
      });
    const [list, listByText] = await medians(ROUNDS, [
      () => ruleset.elements(set),
      () => JSON.parse(String(listText())),
    ]);
    return [
      { name: `replace ${COUNT} map elements`, ms: raw!, baseline: 'nft -f -', baselineMs: text! },
      {
        name: `add 1 element (${COUNT} present)`,
        ms: singles! / SINGLES,
        baseline: 'nft -f -',
        baselineMs: oneByText!,
      },
      { name: `list ${COUNT} elements`, ms: list!, baseline: 'nft -j list map', baselineMs: listByText! },
    ];
  } finally {
    deleteNetns(name);
  }
}

if (startedAlone(import.meta.url)) printRows(await bench(), process.argv.includes('--json'));
