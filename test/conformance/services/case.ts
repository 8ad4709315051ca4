/** What a case of the suite is, and the words that cases are written in. */
import assert from 'node:assert/strict';
import type { ServiceCluster } from './cluster.ts';
import { type AttemptOptions, EXTRA, FAMILY_NAMES, type FamilyName, type Kind, type Seen } from './net.ts';

/** One behaviour, with the ids of the acceptance cases that it holds. */
export interface Case {
  readonly ids: readonly string[];
  readonly title: string;
  run(cluster: ServiceCluster): Promise<void>;
}

export function aCase(ids: string, title: string, run: Case['run']): Case {
  return { ids: ids.split(' '), title, run };
}

/** `10.0.0.1:80` or `[fd00::1]:80` → the address. */
export function host(text: string | undefined): string {
  return (text ?? '').replace(/:\d+$/, '').replace(/[[\]]/g, '');
}

export interface Target {
  readonly ip4: string;
  readonly ip6: string;
}

/** What attempts in both families saw. */
export interface Saw {
  readonly family: FamilyName;
  readonly from: string;
  readonly seen: readonly Seen[];
}

/** Attempts from each of these places, in both families. */
export async function attempts(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: Kind,
  to: Target,
  port: number,
  options: AttemptOptions = {},
): Promise<Saw[]> {
  const places = typeof from === 'string' ? [from] : from;
  const at = (some: readonly string[]) =>
    Promise.all(
      some.flatMap((place) =>
        FAMILY_NAMES.map(async (family) => ({
          family,
          from: place,
          seen: await cluster.at(place).attempt(kind, to[family], port, options),
        })),
      ),
    );
  // One pod's two processes, each with its own way to an endpoint, may choose one source port at the same time. That is
  // a known limit of eBPF (src/service/README.md), and no matter of any case.
  const packets = places.filter((place) => place.startsWith('packets '));
  return [...(await at(places.filter((place) => !packets.includes(place)))), ...(await at(packets))];
}

/** What failed, else the first three. */
const told = ({ family, from, seen }: Saw) => {
  const failed = seen.filter(({ result }) => result !== 'ok');
  return `from ${from} in ${family}: ${JSON.stringify((failed.length > 0 ? failed : seen).slice(0, 3))}`;
};

/** All attempts reach exactly these servers, each of them by somebody of every place and family. */
export async function reach(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: Kind,
  to: Target,
  port: number,
  servers: readonly string[],
  options: AttemptOptions = {},
): Promise<Saw[]> {
  // With n servers chosen at random, one of them is missed by 16 n attempts once in n * e^-16.
  const times = options.times ?? (servers.length === 1 ? 2 : servers.length * 16);
  const saws = await attempts(cluster, from, kind, to, port, { ...options, times });
  for (const saw of saws) {
    assert.deepEqual([...new Set(saw.seen.map(({ result }) => result))], ['ok'], told(saw));
    assert.deepEqual(
      [...new Set(saw.seen.map(({ server }) => server))].sort(),
      [...servers].sort(),
      told(saw),
    );
    for (const { peer } of saw.seen) assert.equal(host(peer), to[saw.family], told(saw));
  }
  return saws;
}

/** Every attempt is refused at once: a client does not wait for what is not there. */
export async function refused(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: 'tcp' | 'udp-connected',
  to: Target,
  port: number,
  options: AttemptOptions = {},
): Promise<void> {
  for (const saw of await attempts(cluster, from, kind, to, port, options))
    assert.deepEqual([...new Set(saw.seen.map(({ result }) => result))], ['ECONNREFUSED'], told(saw));
}

/** Nothing comes back: dropped, neither served nor refused. EPERM is how a socket hook drops. */
export async function dropped(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: Kind,
  to: Target,
  port: number,
  options: AttemptOptions = {},
): Promise<void> {
  for (const saw of await attempts(cluster, from, kind, to, port, { timeout: 0.3, ...options }))
    for (const { result } of saw.seen) assert.match(result, /^(timeout|EPERM)$/, told(saw));
}

/** Nobody answers as a server: refused or dropped, whoever does it. The kernel itself limits how often it refuses. */
export async function unserved(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: Kind,
  to: Target,
  port: number,
): Promise<void> {
  for (const saw of await attempts(cluster, from, kind, to, port, { timeout: 0.3 }))
    for (const { result } of saw.seen) assert.notEqual(result, 'ok', told(saw));
}

/** The servers saw clients with these addresses. */
export function sawClient(saws: readonly Saw[], client: (saw: Saw) => string): void {
  for (const saw of saws) for (const one of saw.seen) assert.equal(host(one.client), client(saw), told(saw));
}

/** The ClusterIPs of a Service, by family. */
export async function clusterIPs(cluster: ServiceCluster, name: string): Promise<Target> {
  const { spec } = await cluster.get(name);
  const of = (six: boolean) => spec.clusterIPs?.find((ip) => ip.includes(':') === six) ?? '';
  return { ip4: of(false), ip6: of(true) };
}

/** Everywhere a client inside can be: pods with and without socket hooks, on each node, and nodes. */
export const INSIDE = ['a1', 'packets a1', 'b1', 'packets b1', 'node-a', 'node-b'] as const;

/** The nodePort of a port of a Service, by the port's name. */
export async function nodePortOf(cluster: ServiceCluster, name: string, port = 'tcp'): Promise<number> {
  const { spec } = await cluster.get(name);
  return spec.ports?.find((one) => one.name === port)?.nodePort ?? 0;
}

/** Addresses of a node as a target. */
export function nodeTarget(cluster: ServiceCluster, letter: string): Target {
  const { ip4, ip6 } = cluster.net.node(letter);
  return { ip4, ip6 };
}

/** The servers saw one of these clients; a node has several addresses that hide somebody. */
export function sawOneOf(saws: readonly Saw[], clients: (saw: Saw) => readonly string[]): void {
  for (const saw of saws)
    for (const one of saw.seen) assert.ok(clients(saw).includes(host(one.client)), told(saw));
}

/** Everything by which a node may hide a client. */
export function nodeAddresses(cluster: ServiceCluster, letter: string): (saw: Saw) => readonly string[] {
  return ({ family }) => [cluster.net.node(letter)[family], EXTRA[family]];
}

/** The API refuses it. */
export async function forbidden(what: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(what, (error: Error) => {
    assert.match(`${error.message} ${String(error.cause ?? '')}`, message);
    return true;
  });
}
