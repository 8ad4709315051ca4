/**
 * Gives addresses of pools to Services of type LoadBalancer. The status of the Services is the only memory: what it
 * says is kept while it may be, so a restart changes nothing; of two Services with one address the older keeps it.
 *
 *     1. others' addresses are taken         Services that another load balancer serves
 *     2. what Services have is kept          in a pool for them, as requested, not taken, or shared by right
 *     3. what they miss is given             requested ones, then those of their sharing key, then the lowest free
 *
 * Pure.
 */
import { IpAddress, tryParseIp } from '../../addr/index.ts';
import type { Condition } from '../../model/kubernetes.ts';
import { type AddressPool, poolHas, words } from './pools.ts';
import { addressCondition, type LoadBalancerView, requestAnnotation } from './types.ts';

export type AddressReason =
  | 'Assigned'
  | 'BadRequest'
  | 'RequestNotInPool'
  | 'RequestTaken'
  | 'NoPool'
  | 'PoolsExhausted';

/** What has to be written into the status of one Service. */
export interface StatusWrite {
  readonly service: LoadBalancerView;
  readonly ingress: readonly string[];
  /** The whole list of conditions. */
  readonly conditions: readonly Condition[];
  /** What to tell people; undefined when the addresses were only taken back. */
  readonly told: { readonly reason: AddressReason; readonly message: string } | undefined;
}

/** Everything that one round of planning knows of one Service. */
interface Draft {
  readonly service: LoadBalancerView;
  readonly requested: readonly IpAddress[];
  readonly addresses: IpAddress[];
  problem: { reason: AddressReason; message: string } | undefined;
}

/** Who uses each address. */
type Owners = Map<string, LoadBalancerView[]>;

const conditionOf = (service: LoadBalancerView) =>
  service.conditions.find(({ type }) => type === addressCondition);

/** Status writes that bring all Services to what pools and annotations say; `now` is an RFC 3339 time. */
export function planLoadBalancers(
  services: Iterable<LoadBalancerView>,
  pools: readonly AddressPool[],
  now: string,
): StatusWrite[] {
  const owners: Owners = new Map();
  const drafts: Draft[] = [];
  const writes: StatusWrite[] = [];
  for (const service of [...services].sort(olderFirst)) {
    const ours = conditionOf(service) !== undefined;
    if (service.wanted && (ours || service.ingress.length === 0)) {
      // Without pools, Services belong to whoever serves them; what was given here is taken back below.
      if (pools.length > 0 || ours) drafts.push(draftOf(service));
    } else if (ours)
      writes.push({ service, ingress: [], conditions: withCondition(service), told: undefined });
    else for (const ip of service.ingress) owners.set(canonical(ip), [service]);
  }
  for (const draft of drafts) keepWhatItHas(draft, pools, owners);
  const cursors = new Map<string, bigint>();
  for (const draft of drafts) if (!draft.problem) giveWhatItMisses(draft, pools, owners, cursors);
  for (const draft of drafts) {
    const write = pools.length > 0 ? writeOf(draft, now) : undefined;
    if (write) writes.push(write);
    else if (pools.length === 0)
      writes.push({
        service: draft.service,
        ingress: [],
        conditions: withCondition(draft.service),
        told: undefined,
      });
  }
  return writes;
}

function olderFirst(a: LoadBalancerView, b: LoadBalancerView): number {
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1;
  return a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
}

const canonical = (text: string) => String(tryParseIp(text) ?? text);

function draftOf(service: LoadBalancerView): Draft {
  const requested: IpAddress[] = [];
  let problem: Draft['problem'];
  for (const text of words(service.request)) {
    const address = tryParseIp(text);
    const message = !address
      ? `is no IP address`
      : !service.families.includes(address.family)
        ? `is of no family of this Service`
        : requested.some(({ family }) => family === address.family)
          ? `is the second of its family, want one`
          : undefined;
    if (message || !address)
      problem ??= { reason: 'BadRequest', message: `"${text}" in ${requestAnnotation} ${message}` };
    else requested.push(address);
  }
  return { service, requested, addresses: [], problem };
}

/** Whether the Service may have this address beside those who have it. */
function mayHave(service: LoadBalancerView, address: IpAddress, owners: Owners): boolean {
  return (owners.get(String(address)) ?? []).every(
    (other) =>
      service.sharingKey !== '' &&
      other.sharingKey === service.sharingKey &&
      other.namespace === service.namespace &&
      !other.ports.some((port) => service.ports.includes(port)) &&
      // Only a node with pods of both would be right for the two, and which nodes have some changes.
      ((!other.local && !service.local) || other.selector === service.selector),
  );
}

function take(draft: Draft, address: IpAddress, owners: Owners): void {
  const key = String(address);
  draft.addresses.push(address);
  const sharers = owners.get(key);
  if (sharers) sharers.push(draft.service);
  else owners.set(key, [draft.service]);
}

function keepWhatItHas(draft: Draft, pools: readonly AddressPool[], owners: Owners): void {
  const { service, requested } = draft;
  for (const text of service.ingress) {
    const address = tryParseIp(text);
    if (!address || !service.families.includes(address.family)) continue;
    if (draft.addresses.some(({ family }) => family === address.family)) continue;
    const wish = requested.find(({ family }) => family === address.family);
    if (wish && !wish.equals(address)) continue;
    const usable = pools.some((pool) => pool.selects(service.labels) && poolHas(pool, address));
    if (usable && mayHave(service, address, owners)) take(draft, address, owners);
  }
}

function giveWhatItMisses(
  draft: Draft,
  pools: readonly AddressPool[],
  owners: Owners,
  cursors: Map<string, bigint>,
): void {
  const { service, requested } = draft;
  const own = pools.filter((pool) => pool.selects(service.labels));
  for (const family of service.families) {
    if (draft.addresses.some((address) => address.family === family)) continue;
    const wish = requested.find((address) => address.family === family);
    if (wish) {
      if (!own.some((pool) => poolHas(pool, wish)))
        draft.problem ??= {
          reason: 'RequestNotInPool',
          message: `Requested address ${wish} is in no pool that selects this Service`,
        };
      else if (!mayHave(service, wish, owners))
        draft.problem ??= {
          reason: 'RequestTaken',
          message: `Requested address ${wish} belongs to Service "${owners.get(String(wish))![0]!.key}"`,
        };
      else take(draft, wish, owners);
      continue;
    }
    const automatic = own.filter(
      (pool) => pool.autoAssign && pool.ranges.some((range) => range.family === family),
    );
    const found =
      sharedAddress(service, family, automatic, owners) ?? lowestFree(family, automatic, owners, cursors);
    if (found) take(draft, found, owners);
    else if (service.required.includes(family))
      draft.problem ??=
        automatic.length === 0
          ? {
              reason: 'NoPool',
              message: `No pool of IPv${family} addresses selects this Service and assigns by itself`,
            }
          : {
              reason: 'PoolsExhausted',
              message: `All IPv${family} addresses of ${automatic.map(({ name }) => `"${name}"`).join(', ')} are in use`,
            };
  }
}

/** An address that Services with the same sharing key have and that this one can use beside them. */
function sharedAddress(
  service: LoadBalancerView,
  family: 4 | 6,
  pools: readonly AddressPool[],
  owners: Owners,
): IpAddress | undefined {
  if (service.sharingKey === '') return undefined;
  for (const text of owners.keys()) {
    const address = tryParseIp(text);
    if (address?.family !== family || !pools.some((pool) => poolHas(pool, address))) continue;
    if (mayHave(service, address, owners)) return address;
  }
  return undefined;
}

/** Addresses are only taken during a round, so a search goes on where the last one ended. */
function lowestFree(
  family: 4 | 6,
  pools: readonly AddressPool[],
  owners: Owners,
  cursors: Map<string, bigint>,
): IpAddress | undefined {
  for (const pool of pools)
    for (const range of pool.ranges) {
      if (range.family !== family) continue;
      const key = `${family} ${range.first} ${range.last}`;
      let at = cursors.get(key) ?? range.first;
      while (at <= range.last && owners.has(String(IpAddress.of(family, at)))) at++;
      cursors.set(key, at);
      if (at <= range.last) return IpAddress.of(family, at);
    }
  return undefined;
}

/** The other conditions, and ours if given. */
function withCondition({ conditions }: LoadBalancerView, ours?: Condition): Condition[] {
  return [...conditions.filter(({ type }) => type !== addressCondition), ...(ours ? [ours] : [])];
}

/** Undefined when the status says it all already. */
function writeOf({ service, addresses, problem }: Draft, now: string): StatusWrite | undefined {
  // Families in the order of the Service, so that a status never flips.
  const ingress = service.families.flatMap((family) =>
    addresses.filter((address) => address.family === family).map(String),
  );
  const told = problem ?? { reason: 'Assigned' as const, message: `Addresses ${ingress.join(', ')}` };
  const status = problem ? ('False' as const) : ('True' as const);
  const before = conditionOf(service);
  const sameAddresses = service.plain && service.ingress.join() === ingress.join();
  if (
    sameAddresses &&
    before?.status === status &&
    before.reason === told.reason &&
    before.message === told.message
  )
    return undefined;
  const condition: Condition = {
    type: addressCondition,
    status,
    reason: told.reason,
    message: told.message,
    lastTransitionTime: before?.status === status ? (before.lastTransitionTime ?? now) : now,
  };
  return { service, ingress, conditions: withCondition(service, condition), told };
}
