/**
 * Ways out over other nodes, each with a number of its own:
 *
 *     packet mark 0x03000000/0x7f000000 ──► rule 1250 ──► table 25003 ──► default via the node, as the overlay has it
 *
 * Numbers are found again in the kernel by where their route leads, so nothing is remembered, and a packet that was
 * marked before a change still goes to the node that it was marked for. Pure.
 */
import { addressBits, Cidr, type Family, IpAddress } from '../addr/index.ts';
import {
  deleteRoute,
  deleteRule,
  ensureRule,
  type Route,
  RT_TABLE,
  RTPROT_PORTOLAN,
  type RtnlChange,
  type Rule,
  type RuleSpec,
  replaceRoute,
} from '../kernel/rtnl/index.ts';
import type { EgressNode, Slot, Way } from './types.ts';

/** Bits 24 to 30 of the packet mark, for the number of a slot; 0x20000 and 0x4000 are others' (see docs/egress.md). */
export const MARK_MASK = 0x7f00_0000;
export const MARK_SHIFT = 24;
/** Before table main (32766) and after whoever has to be first. */
export const RULE_PRIORITY = 1250;
const FIRST_TABLE = 25_000;
export const MOST_SLOTS = 126;

export function tableOf(slot: number): number {
  return FIRST_TABLE + slot;
}

/** Whether a table is one of a slot's. */
export function isSlotTable(table: number): boolean {
  return table > FIRST_TABLE && table <= FIRST_TABLE + MOST_SLOTS;
}

export function markOf(slot: number): number {
  return slot << MARK_SHIFT;
}

/** The overlay's route to a node's pods, in one family; undefined when there is none. */
export function wayTo(
  node: Pick<EgressNode, 'podCidrs'>,
  family: Family,
  routes: readonly Route[],
): Way | undefined {
  const cidr = node.podCidrs.find((each) => each.family === family);
  const route =
    cidr &&
    routes.find(
      ({ table, protocol, type, dead, gateway, oif, destination }) =>
        table === RT_TABLE.MAIN &&
        protocol === RTPROT_PORTOLAN &&
        type === 'unicast' &&
        !dead &&
        gateway?.family === family &&
        oif !== undefined &&
        destination.equals(cidr),
    );
  return route && { gateway: route.gateway!, oif: route.oif!, onlink: route.onlink };
}

/** Gives each way a number: the one that it has in the kernel, else the lowest free one; none when all are taken. */
export function placeSlots(
  family: Family,
  ways: ReadonlyMap<string, Way>,
  routes: readonly Route[],
): Map<string, Slot> {
  const slots = new Map<string, Slot>();
  const taken = new Set<number>();
  const there = routes.filter((route) => isSlotRoute(route) && route.family === family);
  for (const [node, way] of ways) {
    const found = there.find((route) => leads(route, way) && !taken.has(route.table - FIRST_TABLE));
    if (!found) continue;
    const number = found.table - FIRST_TABLE;
    taken.add(number);
    slots.set(node, { ...way, number, family, node });
  }
  for (const [node, way] of [...ways].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (slots.has(node)) continue;
    // A number whose table still leads elsewhere is used last: packets with its mark may be under way.
    const free = freeNumber(taken, new Set(there.map(({ table }) => table - FIRST_TABLE)));
    if (free === undefined) continue;
    taken.add(free);
    slots.set(node, { ...way, number: free, family, node });
  }
  return slots;
}

function freeNumber(taken: ReadonlySet<number>, better: ReadonlySet<number>): number | undefined {
  let second: number | undefined;
  for (let number = 1; number <= MOST_SLOTS; number++) {
    if (taken.has(number)) continue;
    if (!better.has(number)) return number;
    second ??= number;
  }
  return second;
}

function leads({ gateway, oif, onlink }: Route, way: Way): boolean {
  return gateway?.equals(way.gateway) === true && oif === way.oif && onlink === way.onlink;
}

function isSlotRoute({ protocol, table, type }: Route): boolean {
  return protocol === RTPROT_PORTOLAN && isSlotTable(table) && type === 'unicast';
}

/** What the kernel has of rules and routes; those of others do no harm. */
export interface SlotsObserved {
  readonly rules: readonly Rule[];
  readonly routes: readonly Route[];
}

/** Additions come before packets are marked, removals after nobody marks any more. */
export interface SlotPlan {
  readonly before: readonly RtnlChange[];
  readonly after: readonly RtnlChange[];
}

/** From the rules and tables that there are to those that slots need. Only Portolan's own are ever removed. */
export function planSlots(slots: Iterable<Slot>, { rules, routes }: SlotsObserved): SlotPlan {
  const before: RtnlChange[] = [];
  const after: RtnlChange[] = [];
  const wantedRules = new Set<string>();
  const wantedRoutes = new Set<string>();
  const ours = rules.filter(
    (rule) => rule.protocol === RTPROT_PORTOLAN && rule.action === 'lookup' && isSlotTable(rule.table),
  );
  const there = routes.filter((route) => route.protocol === RTPROT_PORTOLAN && isSlotTable(route.table));
  for (const slot of slots) {
    const everything = defaultNetwork(slot.family);
    const table = tableOf(slot.number);
    wantedRoutes.add(`${slot.family} ${table} ${everything}`);
    const route = there.find((each) => each.table === table && each.destination.equals(everything));
    if (!route || !leads(route, slot))
      before.push(
        replaceRoute({
          destination: everything,
          table,
          gateway: slot.gateway,
          oif: slot.oif,
          onlink: slot.onlink,
          metric: METRIC[slot.family],
        }),
      );
    const spec = ruleOf(slot);
    wantedRules.add(ruleKey(spec));
    if (!ours.some((rule) => ruleKey(rule) === ruleKey(spec))) before.push(ensureRule(spec));
  }
  // First nobody is sent there, then the place goes.
  const kept = new Set<string>();
  for (const rule of ours) {
    const key = ruleKey(rule);
    if (!wantedRules.has(key) || kept.has(key)) after.push(deleteRule(rule));
    kept.add(key);
  }
  for (const route of there)
    if (!wantedRoutes.has(`${route.family} ${route.table} ${route.destination}`))
      after.push(deleteRoute(route));
  return { before, after };
}

/** The kernel gives IPv6 routes without a metric this one (IP6_RT_PRIO_USER), so that replacing finds them. */
const METRIC: Record<Family, number> = { 4: 0, 6: 1024 };

function defaultNetwork(family: Family): Cidr {
  return Cidr.around(IpAddress.fromBytes(new Uint8Array(addressBits(family) / 8)), 0);
}

function ruleOf({ family, number }: Slot): RuleSpec {
  return {
    family,
    priority: RULE_PRIORITY,
    action: 'lookup',
    table: tableOf(number),
    mark: markOf(number),
    mask: MARK_MASK,
    protocol: RTPROT_PORTOLAN,
  };
}

function ruleKey({
  family,
  priority,
  table,
  mark,
  mask,
  from,
  to,
  iif,
  oif,
  invert,
  action,
}: RuleSpec): string {
  // The kernel tells "from all" as no source, or as one of length 0.
  const wide = (cidr: Cidr | undefined) => (cidr && cidr.prefixLength > 0 ? String(cidr) : '');
  return [family, priority, table, mark, mask, wide(from), wide(to), iif, oif, invert === true, action].join(
    ' ',
  );
}
