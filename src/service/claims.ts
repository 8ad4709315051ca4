import type { FrontendKind, FrontendPlan, Protocol } from './types.ts';

/** One Service's wish for a frontend. */
interface Claim {
  readonly service: string;
  readonly kind: FrontendKind;
  readonly createdAt: string;
}

/** The first in this order wins. */
function byRank(a: Claim, b: Claim): number {
  return (
    KIND_RANK[a.kind] - KIND_RANK[b.kind] ||
    compare(a.createdAt, b.createdAt) ||
    compare(a.service, b.service)
  );
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * ClusterIPs and nodePorts are allocated and can't be stolen; a hostPort is the node's own; external addresses anyone
 * may write into a Service.
 */
const KIND_RANK: Readonly<Record<FrontendKind, number>> = {
  ClusterIP: 0,
  NodePort: 1,
  HostPort: 2,
  LoadBalancer: 3,
  ExternalIP: 4,
};

const nobody: readonly string[] = [];

/** How claims are keyed: address, port and protocol. */
export function frontendKey(frontend: Pick<FrontendPlan, 'address' | 'port'>, protocol: Protocol): string {
  return `${frontend.address}|${frontend.port}|${protocol}`;
}

/**
 * Who owns each frontend when several Services want it. The API prevents that for ClusterIPs and nodePorts, not
 * for load balancer addresses and externalIPs. The winner is the same on every node: kind, then age, then name.
 */
export class FrontendClaims {
  /** One claim is kept bare, because that is nearly always how it is. */
  readonly #claims = new Map<string, Claim | Claim[]>();

  /** Adds or renews a claim. Returns the other claimants when the owner changes by it: their plans tell the owner. */
  claim(key: string, service: string, kind: FrontendKind, createdAt: string): readonly string[] {
    const claim: Claim = { service, kind, createdAt };
    const held = this.#claims.get(key);
    if (held === undefined || (!Array.isArray(held) && held.service === service)) {
      this.#claims.set(key, claim);
      return nobody;
    }
    const before = this.owner(key);
    const others = (Array.isArray(held) ? held : [held]).filter((one) => one.service !== service);
    const all = [...others, claim].sort(byRank);
    this.#claims.set(key, all.length === 1 ? claim : all);
    return before === all[0]!.service ? nobody : others.map((one) => one.service);
  }

  /** Takes a claim back. Returns the claimants left when the owner changes by it. */
  release(key: string, service: string): readonly string[] {
    const held = this.#claims.get(key);
    if (held === undefined) return nobody;
    if (!Array.isArray(held)) {
      if (held.service === service) this.#claims.delete(key);
      return nobody;
    }
    const before = held[0]!.service;
    const left = held.filter((one) => one.service !== service);
    this.#claims.set(key, left.length === 1 ? left[0]! : left);
    return before === service ? left.map((one) => one.service) : nobody;
  }

  owner(key: string): string | undefined {
    const held = this.#claims.get(key);
    return Array.isArray(held) ? held[0]!.service : held?.service;
  }
}
