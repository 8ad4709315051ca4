/** Verdicts in words: who decided, and for default denies who isolated. Pure. */
import type { Endpoint, Flow, SideVerdict, TierMatch, Verdict } from './evaluate.ts';
import type { NodeVerdict } from './host/index.ts';
import type { Direction, PodFacts } from './types.ts';

export interface Explanation {
  readonly from: string;
  readonly to: string;
  readonly port: string;
  readonly allowed: boolean;
  /** One sentence a direction. */
  readonly reasons: readonly string[];
}

/** `node` is what policies of nodes themselves say, where an end is one. */
export function explain(
  flow: Flow,
  verdict: Verdict,
  node: Partial<Record<Direction, NodeVerdict>> = {},
): Explanation {
  const { from, to } = flow;
  const port = flow.protocol ? `${flow.port}/${flow.protocol.toLowerCase()}` : 'no port';
  const base = { from: endpointText(from), to: endpointText(to), port, allowed: verdict.allowed };
  if (verdict.exempt)
    return {
      ...base,
      reasons: [
        verdict.exempt === 'itself'
          ? 'a pod reaches itself always: policies do not apply'
          : 'a node reaches its own pods always: policies do not apply',
      ],
    };
  const byNodes = Object.values(node).every(({ allowed }) => allowed);
  return {
    ...base,
    allowed: verdict.allowed && byNodes,
    reasons: [
      node.egress
        ? nodeText('egress', node.egress, from)
        : sideText('egress', verdict.egress, from, to, port),
      node.ingress
        ? nodeText('ingress', node.ingress, to)
        : sideText('ingress', verdict.ingress, to, from, port),
    ],
  };
}

function nodeText(direction: Direction, { allowed, by, rule }: NodeVerdict, own: Endpoint): string {
  const name = endpointText(own);
  const names = by.join(', ');
  if (rule !== undefined)
    return `${direction}: ${name}: ${allowed ? 'allowed' : 'denied'} by NodeNetworkPolicy ${names} ${direction}[${rule}]`;
  return allowed
    ? `${direction}: ${name}: no rule of its NodeNetworkPolicies matches, and none denies by default`
    : `${direction}: ${name}: denied by default by NodeNetworkPolicy ${names}, no rule matches`;
}

function sideText(
  direction: Direction,
  side: SideVerdict,
  own: Endpoint,
  peer: Endpoint,
  port: string,
): string {
  const name = endpointText(own);
  if (!own.pod) return `${direction}: ${name} is no pod, policies do not select it`;
  if (own.pod.hostNetwork) return `${direction}: ${name} uses its node's network, policies do not select it`;
  const last = side.tiers.at(-1);
  const passed = side.tiers
    .filter((match) => match !== last || match.rule.action === 'Pass')
    .map((match) => `, after ${tierText(match, direction)} passed it on`)
    .join('');
  if (last && last.rule.action !== 'Pass')
    return `${direction}: ${last.rule.action === 'Accept' ? 'allowed' : 'denied'} by ${tierText(last, direction)}${passed}`;
  const { rule } = side;
  if (rule) return `${direction}: allowed by ${rule.policy} ${direction}[${rule.index}]${passed}`;
  if (side.isolatedBy.length === 0)
    return `${direction}: ${name} is not isolated, no policy ${passed ? 'decides' : 'selects it'}${passed}`;
  const [first, ...rest] = side.isolatedBy;
  const what = direction === 'ingress' ? `from ${endpointText(peer)}` : `to ${endpointText(peer)}`;
  const who = rest.length === 0 ? first : `${first} and ${rest.length} more (${rest.join(', ')})`;
  return `${direction}: ${name} is isolated by ${who}, no policy allows ${what} on ${port}${passed}`;
}

function tierText({ tier, policy, index, rule }: TierMatch, direction: Direction): string {
  const name = rule.name ? ` "${rule.name}"` : '';
  return `ClusterNetworkPolicy ${policy} ${direction}[${index}]${name} (${tier} tier)`;
}

export function endpointText({ address, pod, node }: Endpoint): string {
  if (pod) return podText(pod, String(address));
  return node ? `node ${node} (${address})` : String(address);
}

function podText({ namespace, name }: PodFacts, address: string): string {
  return `${namespace}/${name} (${address})`;
}
