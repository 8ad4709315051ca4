/**
 * Sets as text, and plans as the same text, so that both can be compared:
 *
 *     SVC 10.96.0.10:80/TCP -> 10.244.1.2:8080, 10.244.2.2:8080 | outside -> the same, masquerade
 *     SVC 10.96.0.11:53/UDP -> reject
 *     SVC 192.168.0.1:30080/TCP NodePort affinity=10800s -> 10.244.1.2:8080, masquerade
 */
import { FAMILIES, type Family } from '../../../addr/index.ts';
import type { NftElement } from '../../../kernel/nft/index.ts';
import { socketAddress } from '../../describe.ts';
import type { PortPlan, Rule, ServicePlan } from '../../types.ts';
import { weightedMembers } from '../../weighted.ts';
import { DROPPED } from './base-chains.ts';
import { isServed, PROTOCOL_NUMBER, podRule } from './compile.ts';
import type { SetContents } from './kernel.ts';
import { LOCAL_SLOT, type SetId } from './layout.ts';
import { chainOf, endpointOf } from './leftovers.ts';
import type { Space } from './rule-parts.ts';
import { affineName, parseAffine, parseTarget } from './target-chains.ts';

export interface DumpedTable {
  readonly sets: SetContents;
  /** Chains that choose, with the comments of their rules. */
  readonly chains: ReadonlyMap<string, string>;
}

interface Shown {
  readonly address: string;
  readonly port: number;
  readonly protocol: string;
  readonly nodePort: boolean;
  readonly affinitySeconds: number;
  readonly ranged: boolean;
  readonly pod: string;
  readonly node: string;
  readonly outside: string;
}

const PROTOCOL_NAME = new Map(Object.entries(PROTOCOL_NUMBER).map(([name, number]) => [number, name]));

/** What the kernel holds, one line a frontend, sorted. */
export function dumpTables(tables: Readonly<Record<Family, DumpedTable>>): string[] {
  return FAMILIES.flatMap((family) => dumpTable(tables[family])).sort();
}

/** Chains by frontend. */
function verdicts(elements: readonly NftElement[]): Map<string, string> {
  return new Map(elements.map((element) => [element.key.join(' '), chainOf(element)]));
}

const NAMES = {
  vip: {
    forwarded: 'vips',
    refused: 'refused',
    node: 'vips-node',
    outside: 'vips-outside',
    refusedOutside: 'refused-outside',
  },
  nodeport: {
    forwarded: 'nodeports',
    refused: 'refused-nodeports',
    node: 'nodeports-node',
    outside: 'nodeports-outside',
    refusedOutside: 'refused-nodeports-outside',
  },
} as const satisfies Readonly<Record<Space, Readonly<Record<string, SetId>>>>;

function dumpTable({ sets, chains }: DumpedTable): string[] {
  const lines: string[] = [];
  const all = (id: SetId) => sets[id] ?? [];
  const ranged = new Set(all('ranged').map(({ key }) => key.join(' ')));
  const nodeAddresses = all('node-addresses').map(({ key: [address] }) => String(address));
  const slots = slotTexts({ sets, chains });
  const text = (chain: string, front: string, masquerade: boolean) => {
    const target = parseAffine(chain) ?? parseTarget(chain);
    if (!target) return chain === DROPPED ? 'drop' : 'reject';
    return sideText(slotNames(chain, front, slots, chains), masquerade || target.masquerade);
  };
  for (const space of ['vip', 'nodeport'] as const) {
    const names = NAMES[space];
    const inside = verdicts([...all(names.forwarded), ...all(names.refused)]);
    const node = verdicts(all(names.node));
    const outside = verdicts([...all(names.outside), ...all(names.refusedOutside)]);
    for (const { key } of [...all(names.forwarded), ...all(names.refused)]) {
      const id = key.join(' ');
      const chain = inside.get(id)!;
      const elsewhere = outside.get(id);
      const shown = {
        port: key.at(-1) as number,
        protocol: PROTOCOL_NAME.get(key.at(-2) as number) ?? String(key.at(-2)),
        nodePort: space === 'nodeport',
        affinitySeconds: secondsOf(chain, chains, all('affinity-slots')),
        ranged: ranged.has(id),
        pod: text(chain, id, false),
        node: text(node.get(id) ?? chain, id, false),
        outside: text(elsewhere ?? chain, id, elsewhere === undefined),
      };
      for (const address of space === 'vip' ? [String(key[0])] : nodeAddresses)
        lines.push(lineOf({ ...shown, address }));
    }
  }
  return lines;
}

/** How long clients are remembered; what the rule of the first endpoint says. */
function secondsOf(name: string, chains: ReadonlyMap<string, string>, slots: readonly NftElement[]): number {
  const affine = parseAffine(name);
  const first = affine && slots.find(({ key }) => key[0] === affine.number);
  return Number(/^remembered for (\d+) s$/m.exec((first && chains.get(chainOf(first))) ?? '')?.[1] ?? 0);
}

/** Endpoints of a chain that chooses, in the order of its slots; `front` is the key of the frontend. */
export function slotsOf(table: DumpedTable, chain: string, front: string): string[] {
  return slotNames(chain, front, slotTexts(table), table.chains);
}

/** Endpoints as text, by the key of their slot. */
function slotTexts({ sets, chains }: DumpedTable): Map<string, string> {
  const slots = new Map<string, string>();
  for (const element of sets['affinity-slots'] ?? []) {
    const backend = endpointOf(chains.get(chainOf(element)));
    if (backend) slots.set(element.key.join(' '), socketAddress(backend.address, backend.port));
  }
  for (const { key, data } of [...(sets.slots ?? []), ...(sets['nodeport-slots'] ?? [])])
    if (Array.isArray(data)) slots.set(key.join(' '), socketAddress(String(data[0]), data[1] as number));
  return slots;
}

function slotNames(
  chain: string,
  front: string,
  slots: ReadonlyMap<string, string>,
  chains: ReadonlyMap<string, string>,
): string[] {
  const affine = parseAffine(chain);
  const target = parseTarget(chain);
  const plain = affine && affineName({ ...affine, masquerade: false });
  const size = affine
    ? Number(/^one of (\d+) /m.exec(chains.get(plain!) ?? '')?.[1] ?? 0)
    : (target?.size ?? 0);
  const first = (affine ?? target)?.set === 'local' ? LOCAL_SLOT : 0;
  const place = affine ? String(affine.number) : front;
  return Array.from({ length: size }, (_, at) => slots.get(`${place} ${first + at}`) ?? `missing slot ${at}`);
}

/** What the kernel should hold for these plans. */
export function dumpPlans(plans: Iterable<ServicePlan>): string[] {
  const lines: string[] = [];
  for (const plan of plans) for (const port of plan.ports) lines.push(...portLines(port));
  return lines.sort();
}

function portLines(port: PortPlan): string[] {
  const names = (rule: Rule) =>
    weightedMembers(port, rule.set).map((at) => {
      const { endpoint, port: number } = port.backends[at]!;
      return socketAddress(endpoint.address, number);
    });
  const text = (rule: Rule) => {
    if (rule.verdict === 'drop') return 'drop';
    const list = rule.verdict === 'forward' ? names(rule) : [];
    return list.length === 0 ? 'reject' : sideText(list, rule.masquerade);
  };
  return port.frontends
    .filter((frontend) => isServed(frontend))
    .map((frontend) => {
      const { kind, address, port: number, rules } = frontend;
      const forwards = rules.pod.verdict === 'forward' && names(rules.pod).length > 0;
      return lineOf({
        address,
        port: number,
        protocol: port.protocol,
        nodePort: kind === 'NodePort',
        affinitySeconds: forwards ? port.affinitySeconds : 0,
        ranged: kind === 'LoadBalancer' && port.sourceRanges.length > 0,
        pod: text(podRule(frontend)),
        node: text(rules.node),
        outside: text(rules.outside),
      });
    });
}

function lineOf(shown: Shown): string {
  const { pod, node, outside } = shown;
  const head = [
    `SVC ${socketAddress(shown.address, shown.port)}/${shown.protocol}`,
    shown.nodePort ? 'NodePort' : '',
    shown.affinitySeconds === 0 ? '' : `affinity=${shown.affinitySeconds}s`,
    shown.ranged ? 'ranges' : '',
  ];
  const others = [
    node === pod ? '' : ` | node -> ${node}`,
    outside === pod ? '' : ` | outside -> ${outside}`,
  ];
  return `${head.filter(Boolean).join(' ')} -> ${pod}${others.join('')}`;
}

/** Endpoints with how many slots they have where that is not one. */
function sideText(names: readonly string[], masquerade: boolean): string {
  const times = new Map<string, number>();
  for (const name of names) times.set(name, (times.get(name) ?? 0) + 1);
  const list = [...times.keys()]
    .sort()
    .map((name) => (times.get(name) === 1 ? name : `${name} x${times.get(name)}`));
  return `${list.join(', ')}${masquerade ? ', masquerade' : ''}`;
}
