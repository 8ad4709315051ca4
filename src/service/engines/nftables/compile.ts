/** From a plan to elements of sets. Pure. */
import { type Family, type IpAddress, parseCidr, parseIp, withoutCovered } from '../../../addr/index.ts';
import type { Datum, NftElement, NftVerdict } from '../../../kernel/nft/index.ts';
import type { BackendPlan, FrontendPlan, PortPlan, Rule, SetName } from '../../types.ts';
import { weightedMembers } from '../../weighted.ts';
import { DROPPED, REJECTED } from './base-chains.ts';
import { LOCAL_SLOT, type SetId } from './layout.ts';
import { type Chain, chainLooks, type Space } from './rule-parts.ts';
import {
  type AffineEndpoint,
  affineChain,
  affineName,
  endpointChain,
  endpointName,
  type Target,
  targetChain,
  targetName,
} from './target-chains.ts';

/** IPPROTO_* */
export const PROTOCOL_NUMBER: Readonly<Record<string, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

export interface Entry {
  readonly set: SetId;
  readonly element: NftElement;
}

/** An endpoint as slots hold it. */
export interface SlotBackend {
  readonly address: string;
  readonly port: number;
}

/** What is chosen from, in the order of the slots. */
export type Slots = Readonly<Record<SetName, readonly SlotBackend[]>>;

/** A frontend that has slots. */
export interface SlotFront {
  readonly space: Space;
  readonly key: readonly Datum[];
  readonly sets: readonly SetName[];
}

export interface CompiledPort {
  readonly family: Family;
  readonly fronts: readonly SlotFront[];
  /** Everything but slots. */
  readonly entries: readonly Entry[];
  /** Entries that other ports may want as well: the same endpoint, the same ClusterIP. */
  readonly shared: readonly Entry[];
  /** Chains that choose, with their names. */
  readonly chains: readonly (readonly [name: string, chain: PlannedChain])[];
}

export interface PlannedChain {
  readonly chain: Chain;
  /** Changes when its rules do; empty when its name says everything. */
  readonly looks: string;
}

/** How a port with affinity is known. */
export interface PortAffinity {
  readonly number: number;
  /** Number of each endpoint, by `backendText`. */
  readonly ids: ReadonlyMap<string, number>;
}

/** nft keeps 127 bytes of a comment. */
const LONGEST_COMMENT = 127;
const MOST_REMEMBERED = 4096;
const NO_SLOTS: readonly SlotBackend[] = [];

export function entryId(set: SetId, key: readonly Datum[], keyEnd?: readonly Datum[]): string {
  return keyEnd ? `${set} ${key.join(' ')}-${keyEnd.join(' ')}` : `${set} ${key.join(' ')}`;
}

/**
 * The endpoints of each set in slots: those that stay keep theirs, so that a change is as small as it can be. Weights
 * are numbers of slots.
 */
export function arrangeSlots(port: PortPlan, before: Slots | undefined): Slots {
  return { cluster: arranged(port, 'cluster', before), local: arranged(port, 'local', before) };
}

function arranged(port: PortPlan, set: SetName, before: Slots | undefined): readonly SlotBackend[] {
  const members = weightedMembers(port, set);
  if (members.length === 0) return NO_SLOTS;
  const wanted = members.map((at) => slotOf(port.backends[at]!));
  const old = before?.[set] ?? NO_SLOTS;
  if (old.length === 0) return wanted;
  const same = ({ address, port: number }: SlotBackend, at: number) =>
    old[at]!.port === number && old[at]!.address === address;
  if (old.length === wanted.length && wanted.every(same)) return old;
  const open = new Map<string, SlotBackend[]>();
  for (const backend of wanted) {
    const name = backendText(backend);
    const same = open.get(name);
    if (same) same.push(backend);
    else open.set(name, [backend]);
  }
  const slots = new Array<SlotBackend | undefined>(wanted.length);
  for (let at = 0; at < Math.min(old.length, wanted.length); at++)
    slots[at] = open.get(backendText(old[at]!))?.pop();
  const rest = [...open.values()].flat();
  // Not map(), which passes over what was never set.
  return Array.from(slots, (slot) => slot ?? rest.shift()!);
}

function slotOf({ endpoint, port }: BackendPlan): SlotBackend {
  return { address: endpoint.address, port };
}

export function backendText({ address, port }: SlotBackend): string {
  return `${address}|${port}`;
}

/** The elements of a frontend's slots. */
export function* slotEntries(fronts: readonly SlotFront[], slots: Slots): Generator<Entry> {
  const addresses = new Map<string, IpAddress>();
  const parsed = (text: string): IpAddress => {
    let address = addresses.get(text);
    if (!address) {
      address = parseIp(text);
      addresses.set(text, address);
    }
    return address;
  };
  for (const { space, key, sets } of fronts)
    for (const name of sets) {
      const first = name === 'local' ? LOCAL_SLOT : 0;
      const set: SetId = space === 'vip' ? 'slots' : 'nodeport-slots';
      const backends = slots[name];
      for (let at = 0; at < backends.length; at++) {
        const { address, port } = backends[at]!;
        yield { set, element: { key: [...key, first + at], data: [parsed(address), port] } };
      }
    }
}

export interface CompileContext {
  readonly nodeName: string;
  readonly affinity: PortAffinity | undefined;
}

/** Everything of a port but its slots. */
export function compilePort(port: PortPlan, slots: Slots, context: CompileContext): CompiledPort {
  const builder = new PortBuilder(port, slots, context);
  for (const frontend of port.frontends) if (isServed(frontend)) builder.frontend(frontend);
  builder.hairpins();
  return builder.done();
}

/** Whether rules serve a frontend: nobody else has it. */
export function isServed({ shadowedBy }: Pick<FrontendPlan, 'shadowedBy'>): boolean {
  return shadowedBy === undefined;
}

/**
 * What happens to pods of this node: nobody hides them, because answers come by their node whoever sends them. So
 * policies at the backend know them. Only --masquerade-all hides them, at ClusterIPs.
 */
export function podRule({ kind, rules }: Pick<FrontendPlan, 'kind' | 'rules'>): Rule {
  return kind === 'ClusterIP' ? rules.pod : { ...rules.pod, masquerade: false };
}

/** There are few targets and many ports: each verdict and chain exists once. */
const verdicts = new Map<string, NftVerdict>();
const sharedChains = new Map<string, PlannedChain>();

function go(chain: string): NftVerdict {
  let verdict = verdicts.get(chain);
  if (!verdict) {
    verdict = { verdict: 'goto', chain };
    if (verdicts.size < MOST_REMEMBERED) verdicts.set(chain, verdict);
  }
  return verdict;
}

function sharedChain(family: Family, name: string, target: Target): PlannedChain {
  const key = `${family} ${name}`;
  let chain = sharedChains.get(key);
  if (!chain) {
    chain = { chain: targetChain(family, target), looks: '' };
    if (sharedChains.size < MOST_REMEMBERED) sharedChains.set(key, chain);
  }
  return chain;
}

class PortBuilder {
  readonly #port: PortPlan;
  readonly #slots: Slots;
  readonly #context: CompileContext;
  readonly #protocol: number;
  readonly #fronts = new Map<string, { space: Space; key: readonly Datum[]; sets: Set<SetName> }>();
  readonly #entries = new Map<string, Entry>();
  readonly #shared = new Map<string, Entry>();
  readonly #chains = new Map<string, PlannedChain>();
  readonly #comment: string;

  constructor(port: PortPlan, slots: Slots, context: CompileContext) {
    this.#port = port;
    this.#slots = slots;
    this.#context = context;
    this.#protocol = PROTOCOL_NUMBER[port.protocol]!;
    this.#comment = port.name.slice(0, LONGEST_COMMENT);
  }

  frontend(frontend: FrontendPlan): void {
    const address = parseIp(frontend.address);
    const space: Space = frontend.kind === 'NodePort' ? 'nodeport' : 'vip';
    const key: Datum[] = [this.#protocol, frontend.port];
    if (space === 'vip') key.unshift(address);
    if (space === 'nodeport') this.#share('node-addresses', [address]);
    if (frontend.kind === 'ClusterIP') this.#share('cluster-ips', [address]);
    this.#rules(frontend, space, key);
    if (frontend.kind === 'LoadBalancer') this.#ranges(key);
  }

  /** A client that is its own backend; those that can reach themselves through this node are on it. */
  hairpins(): void {
    for (const { endpoint } of this.#port.backends) {
      if (endpoint.nodeName !== '' && endpoint.nodeName !== this.#context.nodeName) continue;
      const address = parseIp(endpoint.address);
      this.#share('hairpins', [address, address]);
    }
  }

  done(): CompiledPort {
    return {
      family: this.#port.family,
      fronts: [...this.#fronts.values()].map(({ space, key, sets }) => ({ space, key, sets: [...sets] })),
      // There are as many of these as Services: lists take a third of what maps do.
      entries: [...this.#entries.values()],
      shared: [...this.#shared.values()],
      chains: [...this.#chains],
    };
  }

  #rules(frontend: FrontendPlan, space: Space, key: readonly Datum[]): void {
    const { rules } = frontend;
    const map = (inVip: SetId, inNodePort: SetId) => (space === 'vip' ? inVip : inNodePort);
    const pod = this.#verdict(podRule(frontend), space, key);
    const node = this.#verdict(rules.node, space, key);
    const outside = this.#verdict(rules.outside, space, key);
    if (pod.forward) this.#put(map('vips', 'nodeports'), { key, data: pod.to, comment: this.#comment });
    else this.#put(map('refused', 'refused-nodeports'), { key, data: pod.to, comment: this.#comment });
    if (node.name !== pod.name)
      this.#put(map('vips-node', 'nodeports-node'), { key, data: node.to, comment: this.#comment });
    // Whatever comes from outside and finds nothing of its own is treated like a pod, and masqueraded.
    const asPod = pod.forward
      ? outside.forward && rules.outside.set === rules.pod.set && rules.outside.masquerade
      : outside.name === pod.name;
    if (asPod) return;
    const separate = outside.forward || pod.forward;
    this.#put(
      separate
        ? map('vips-outside', 'nodeports-outside')
        : map('refused-outside', 'refused-nodeports-outside'),
      { key, data: outside.to, comment: this.#comment },
    );
  }

  #verdict(
    rule: Rule,
    space: Space,
    key: readonly Datum[],
  ): { readonly forward: boolean; readonly name: string; readonly to: NftVerdict } {
    const size = this.#slots[rule.set].length;
    if (rule.verdict !== 'forward' || size === 0) {
      const name = rule.verdict === 'drop' ? DROPPED : REJECTED;
      return { forward: false, name, to: go(name) };
    }
    if (this.#context.affinity) {
      const name = this.#affine(rule, this.#context.affinity, size);
      return { forward: true, name, to: go(name) };
    }
    const target = { space, set: rule.set, size, masquerade: rule.masquerade };
    const name = targetName(target);
    if (!this.#chains.has(name)) this.#chains.set(name, sharedChain(this.#port.family, name, target));
    const id = key.join(' ');
    const front = this.#fronts.get(id) ?? { space, key, sets: new Set<SetName>() };
    front.sets.add(rule.set);
    this.#fronts.set(id, front);
    return { forward: true, name, to: go(name) };
  }

  /** The chains of a set whose clients are remembered; all frontends share them. */
  #affine({ set, masquerade }: Rule, { number, ids }: PortAffinity, size: number): string {
    const { family, affinitySeconds } = this.#port;
    const put = (name: string, chain: Chain) => this.#chains.set(name, { chain, looks: chainLooks(chain) });
    const plain = affineName({ number, set, masquerade: false });
    if (!this.#chains.has(plain)) {
      const endpoints = new Map<number, AffineEndpoint>();
      const first = set === 'local' ? LOCAL_SLOT : 0;
      this.#slots[set].forEach((backend, at) => {
        const id = ids.get(backendText(backend))!;
        const { address, port } = backend;
        endpoints.set(id, { id, address: parseIp(address), port });
        const data = go(endpointName(id));
        this.#put('affinity-slots', { key: [number, first + at], data, comment: this.#comment });
      });
      const list = [...endpoints.values()];
      for (const endpoint of list)
        put(endpointName(endpoint.id), endpointChain(family, endpoint, affinitySeconds));
      put(plain, affineChain(family, { number, set, masquerade: false }, list, size));
    }
    if (!masquerade) return plain;
    const marked = affineName({ number, set, masquerade });
    put(marked, affineChain(family, { number, set, masquerade }, [], size));
    return marked;
  }

  #ranges(key: readonly Datum[]): void {
    const { sourceRanges } = this.#port;
    if (sourceRanges.length === 0) return;
    this.#put('ranged', { key });
    // The kernel tells an interval of one address without its end.
    for (const { address, last } of withoutCovered(sourceRanges.map(parseCidr)))
      this.#put(
        'allowed',
        address.equals(last)
          ? { key: [...key, address] }
          : { key: [...key, address], keyEnd: [...key, last] },
      );
  }

  #put(set: SetId, element: NftElement): void {
    this.#entries.set(entryId(set, element.key, element.keyEnd), { set, element });
  }

  #share(set: SetId, key: readonly Datum[]): void {
    this.#shared.set(entryId(set, key), { set, element: { key } });
  }
}
