/** Verdicts in words: who decided, and for default denies who isolated. Pure. */
import type { Endpoint, Flow, SideVerdict, TierMatch, Verdict } from './evaluate.ts';
import type { Direction, PodFacts } from './types.ts';

export interface Explanation {
  readonly from: string;
  readonly to: string;
  readonly port: string;
  readonly allowed: boolean;
  /** One sentence a direction. */
  readonly reasons: readonly string[];
}

export function explain(flow: Flow, verdict: Verdict): Explanation {
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
  return {
    ...base,
    reasons: [
      sideText('egress', verdict.egress, from, to, port),
      sideText('ingress', verdict.ingress, to, from, port),
    ],
  };
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
  if (last && last.rule.action !== 'Pass')
    return `${direction}: ${last.rule.action === 'Accept' ? 'allowed' : 'denied'} by ${tierText(last, direction)}`;
  const passed = side.tiers.map((match) => `, after ${tierText(match, direction)} passed it on`).join('');
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
