/**
 * Chains that choose an endpoint: one for each number of slots, and some of their own for Service ports that remember
 * their clients. Their names say what they do.
 */
import type { Family, IpAddress } from '../../../addr/index.ts';
import {
  constant,
  counter,
  dnat,
  hostU32,
  lookup,
  type NftExpression,
  random,
  remember,
  verdict,
  verdictMap,
} from '../../../kernel/nft/index.ts';
import { socketAddress } from '../../describe.ts';
import type { SetName } from '../../types.ts';
import { LOCAL_SLOT, type SetId } from './layout.ts';
import { address, type Chain, FOUND, frontend, mark, rule, type Space, words } from './rule-parts.ts';

/** Where a new connection goes that is forwarded, when nobody remembers clients. */
export interface Target {
  readonly space: Space;
  readonly set: SetName;
  /** How many slots the set has. */
  readonly size: number;
  readonly masquerade: boolean;
}

/** The same of a Service port with affinity, which has chains of its own. */
export interface AffineTarget {
  /** Number of the Service port. */
  readonly number: number;
  readonly set: SetName;
  readonly masquerade: boolean;
}

/** An endpoint of a Service port with affinity. */
export interface AffineEndpoint {
  /** Never used again while a client may be remembered by it. */
  readonly id: number;
  readonly address: IpAddress;
  readonly port: number;
}

/** `vip-3`, `nodeport-2-local-masquerade`. */
export function targetName({ space, set, size, masquerade: masqueraded }: Target): string {
  return `${space}-${size}${suffix(set, masqueraded)}`;
}

function suffix(set: SetName, masqueraded: boolean): string {
  return `${set === 'local' ? '-local' : ''}${masqueraded ? '-masquerade' : ''}`;
}

const TARGET = /^(?<space>vip|nodeport)-(?<size>\d+)(?<local>-local)?(?<masquerade>-masquerade)?$/;

/** The target of a chain by its name; undefined for other chains. */
export function parseTarget(name: string): Target | undefined {
  const groups = TARGET.exec(name)?.groups;
  if (!groups) return undefined;
  return {
    space: groups['space'] as Space,
    set: groups['local'] ? 'local' : 'cluster',
    size: Number(groups['size']),
    masquerade: groups['masquerade'] !== undefined,
  };
}

/** The chain that chooses an endpoint. */
export function targetChain(family: Family, { space, set, size, masquerade: masqueraded }: Target): Chain {
  const slots: SetId = space === 'vip' ? 'slots' : 'nodeport-slots';
  const { load, next } = frontend(family, space);
  const first = set === 'local' ? LOCAL_SLOT : 0;
  const choice = rule(
    'an endpoint by chance',
    load,
    random(size, first, next),
    lookup(slots, 0, FOUND),
    counter(),
    dnat(family, FOUND, FOUND + words(family)),
  );
  return { rules: masqueraded ? [MARKED, choice] : [choice] };
}

const MARKED = rule('answers must come back by this node', mark(true));

/** `affinity-4`, `affinity-4-local-masquerade`. */
export function affineName({ number, set, masquerade: masqueraded }: AffineTarget): string {
  return `affinity-${number}${suffix(set, masqueraded)}`;
}

const AFFINE = /^affinity-(?<number>\d+)(?<local>-local)?(?<masquerade>-masquerade)?$/;

export function parseAffine(name: string): AffineTarget | undefined {
  const groups = AFFINE.exec(name)?.groups;
  if (!groups) return undefined;
  return {
    number: Number(groups['number']),
    set: groups['local'] ? 'local' : 'cluster',
    masquerade: groups['masquerade'] !== undefined,
  };
}

const ENDPOINT_CHAIN = 'endpoint-';

export function endpointName(id: number): string {
  return `${ENDPOINT_CHAIN}${id}`;
}

/** The number in the name of an endpoint's chain. */
export function parseEndpointName(name: string): number | undefined {
  const digits = name.startsWith(ENDPOINT_CHAIN) ? name.slice(ENDPOINT_CHAIN.length) : '';
  return /^\d+$/.test(digits) ? Number(digits) : undefined;
}

/** Loads the client and a number: the key of `affinity`. */
function client(family: Family, id: number): NftExpression[] {
  return [address(family, 'source', 0), constant(hostU32(id), words(family))];
}

/** First the endpoint that the client had, then one by chance. `size` is the number of slots. */
export function affineChain(
  family: Family,
  target: AffineTarget,
  endpoints: readonly AffineEndpoint[],
  size: number,
): Chain {
  const { number, set } = target;
  if (target.masquerade) {
    const plain = affineName({ ...target, masquerade: false });
    return { rules: [MARKED, rule('and the endpoint', verdict({ verdict: 'goto', chain: plain }))] };
  }
  const known = endpoints.map(({ id, address: to, port }) =>
    rule(
      `${id}: clients that had ${socketAddress(String(to), port)}`,
      client(family, id),
      lookup('affinity' satisfies SetId, 0),
      verdict({ verdict: 'goto', chain: endpointName(id) }),
    ),
  );
  const choice = rule(
    `one of ${size} by chance`,
    constant(hostU32(number), 0),
    random(size, set === 'local' ? LOCAL_SLOT : 0, 1),
    verdictMap('affinity-slots' satisfies SetId, 0),
  );
  return { rules: [...known, choice] };
}

/** Remembers the client, and sends it on. */
export function endpointChain(family: Family, endpoint: AffineEndpoint, seconds: number): Chain {
  const { id, address: to, port } = endpoint;
  const bytes = new Uint8Array(words(family) * 4);
  to.writeTo(bytes, 0);
  return {
    rules: [
      rule(
        `remembered for ${seconds} s`,
        client(family, id),
        remember('affinity' satisfies SetId, 0, seconds * 1000),
      ),
      rule(
        `to ${socketAddress(String(to), port)}`,
        constant(bytes, FOUND),
        constant(Uint8Array.of(port >> 8, port & 0xff), FOUND + words(family)),
        counter(),
        dnat(family, FOUND, FOUND + words(family)),
      ),
    ],
  };
}
