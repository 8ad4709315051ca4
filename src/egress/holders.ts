/**
 * Who holds which address. Each node tells what it holds in an annotation of its Node; a node that died goes on telling
 * it, so a claim by election has a number, and who is elected takes one higher than any that is told. Pure.
 */
import type { Claim, Claims, EgressNode, Role, Wish } from './types.ts';

/** The node that packets for an address go to; `others` say that it is theirs, too. */
export interface Holder {
  readonly node: string;
  readonly claim: Claim;
  readonly others: readonly string[];
}

/** Of all claims to an address: that of a node whose link has it, else the latest election; then the lesser name. */
export function holderOf(
  address: string,
  nodes: Iterable<Pick<EgressNode, 'name' | 'claims'>>,
): Holder | undefined {
  let best: { node: string; claim: Claim } | undefined;
  const owners: string[] = [];
  for (const { name, claims } of nodes) {
    const claim = claims.get(address);
    if (claim === undefined) continue;
    if (claim === 'own') owners.push(name);
    if (!best || outranks({ node: name, claim }, best)) best = { node: name, claim };
  }
  return best && { ...best, others: owners.filter((name) => name !== best.node) };
}

function outranks(a: { node: string; claim: Claim }, b: { node: string; claim: Claim }): boolean {
  if (a.claim === b.claim) return a.node < b.node;
  if (a.claim === 'own' || b.claim === 'own') return a.claim === 'own';
  return a.claim > b.claim;
}

export interface ClaimInput {
  readonly wishes: Iterable<Wish>;
  /** Addresses of this node's links. */
  readonly local: ReadonlySet<string>;
  readonly role: (address: string) => Role;
  /** What this node told last. */
  readonly before: Claims;
  readonly others: Iterable<Pick<EgressNode, 'claims'>>;
}

/** What this node holds of what namespaces ask for. */
export function ownClaims({ wishes, local, role, before, others }: ClaimInput): Claims {
  const claims = new Map<string, Claim>();
  const nodes = [...others];
  for (const address of wantedAddresses(wishes)) {
    if (local.has(address)) {
      claims.set(address, 'own');
      continue;
    }
    const now = role(address);
    if (!now) continue;
    const told = before.get(address);
    const mine = typeof told === 'number' ? told : 0;
    let highest = 0;
    for (const { claims: theirs } of nodes) {
      const claim = theirs.get(address);
      if (typeof claim === 'number') highest = Math.max(highest, claim);
    }
    // An agent that has just started holds on to what it held, unless somebody took it meanwhile.
    if (now === 'undecided' && mine <= highest) continue;
    claims.set(address, mine > highest || (now === 'keeper' && mine > 0) ? mine : highest + 1);
  }
  return claims;
}

/** Every address that some namespace asks for. */
export function wantedAddresses(wishes: Iterable<Wish>): Set<string> {
  const found = new Set<string>();
  for (const { addresses } of wishes)
    for (const address of [addresses[4], addresses[6]]) if (address) found.add(String(address));
  return found;
}

/**
 * Addresses that nodes have to elect a holder for: no link of any node has them. `known` are addresses of nodes: one of
 * those is never taken from its node, whether or not that has told already.
 */
export function movableAddresses(
  wishes: Iterable<Wish>,
  nodes: Iterable<Pick<EgressNode, 'claims' | 'addresses'>>,
  local: ReadonlySet<string>,
): Map<string, string[]> {
  const list = [...wishes];
  const fixed = new Set<string>(local);
  for (const { claims, addresses } of nodes) {
    for (const [address, claim] of claims) if (claim === 'own') fixed.add(address);
    for (const address of addresses) fixed.add(String(address));
  }
  const found = new Map<string, string[]>();
  for (const { namespace, addresses } of list)
    for (const address of [addresses[4], addresses[6]]) {
      if (!address || fixed.has(String(address))) continue;
      const users = found.get(String(address));
      if (users) users.push(namespace);
      else found.set(String(address), [namespace]);
    }
  return found;
}
