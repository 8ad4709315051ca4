/**
 * Which frontends a Service port has, and what each kind of client gets there:
 *
 *     endpoints        ClusterIP   ClusterIP     others          others, externalTrafficPolicy Local
 *                                  iTP Local                     outside       pod        this node
 *     none anywhere    reject      reject        reject          reject        reject     reject
 *     only elsewhere   cluster     drop          cluster, masq   drop          cluster    cluster, masq
 *     here too         cluster     local         cluster, masq   local         cluster    cluster, masq
 *
 * A pod or this node may use the cluster set in spite of policy Local: it stands for the way out to a load
 * balancer and back in somewhere else.
 */
import type {
  EndpointSet,
  Family,
  FrontendKind,
  FrontendPlan,
  NodeContext,
  Rule,
  Rules,
  ServiceFacts,
  ServicePortFacts,
  SetName,
} from './types.ts';

/** True when some frontend other than the ClusterIP leads to this port. */
export function isExternal(service: ServiceFacts, port: ServicePortFacts, node: NodeContext): boolean {
  return (
    port.nodePort !== 0 ||
    service.loadBalancerIPs.length > 0 ||
    (node.externalIPs && service.externalIPs.length > 0)
  );
}

/** Rules of the ClusterIP. */
export function clusterRules(
  service: ServiceFacts,
  node: NodeContext,
  sets: Readonly<Record<SetName, EndpointSet>>,
  any: boolean,
): Rules {
  const set = service.internalLocal ? 'local' : 'cluster';
  const rule = (masquerade: boolean) => shared(set, verdictOf(sets[set], any), masquerade);
  // A client outside may route the Service range to any node: its answers must come back this way.
  return ruled(rule(node.masqueradeAll), rule(node.masqueradeAll), rule(true));
}

/** Rules of nodePorts, load balancer addresses and externalIPs. */
export function externalRules(
  service: ServiceFacts,
  sets: Readonly<Record<SetName, EndpointSet>>,
  any: boolean,
): Rules {
  const rule = (set: SetName, masquerade: boolean) => shared(set, verdictOf(sets[set], any), masquerade);
  if (!service.externalLocal)
    return ruled(rule('cluster', true), rule('cluster', true), rule('cluster', true));
  return ruled(rule('cluster', false), rule('cluster', true), rule('local', false));
}

/** There are few rules and many frontends: each rule exists once. */
const rules = new Map<string, Rule>();
const ruleSets = new Map<string, Rules>();

function shared(set: SetName, verdict: Rule['verdict'], masquerade: boolean): Rule {
  const key = ruleKey({ set, verdict, masquerade });
  const known = rules.get(key);
  if (known) return known;
  const rule: Rule = { set, verdict, masquerade };
  rules.set(key, rule);
  return rule;
}

function ruleKey({ set, verdict, masquerade }: Rule): string {
  return `${set} ${verdict} ${masquerade}`;
}

function ruled(pod: Rule, node: Rule, outside: Rule): Rules {
  const key = `${ruleKey(pod)},${ruleKey(node)},${ruleKey(outside)}`;
  const known = ruleSets.get(key);
  if (known) return known;
  const made: Rules = { pod, node, outside };
  ruleSets.set(key, made);
  return made;
}

function verdictOf(set: EndpointSet, any: boolean): Rule['verdict'] {
  if (set.members.length > 0) return 'forward';
  return any ? 'drop' : 'reject';
}

/** The frontends of a port in one family. */
export function frontendsOf(
  service: ServiceFacts,
  port: ServicePortFacts,
  family: Family,
  node: NodeContext,
  rules: { readonly cluster: Rules; readonly external: Rules },
): FrontendPlan[] {
  const frontends: FrontendPlan[] = [];
  const add = (kind: FrontendKind, addresses: readonly string[], number: number, ruled: Rules) => {
    for (const address of addresses) {
      if (familyOf(address) !== family) continue;
      // An address given twice, as externalIP and by the load balancer, is one frontend: the first kind counts.
      if (frontends.some((f) => f.port === number && f.address === address)) continue;
      frontends.push({ kind, address, port: number, rules: ruled, shadowedBy: undefined });
    }
  };
  add('ClusterIP', service.clusterIPs, port.port, rules.cluster);
  if (port.nodePort !== 0) add('NodePort', node.nodePortAddresses, port.nodePort, rules.external);
  add('LoadBalancer', service.loadBalancerIPs, port.port, rules.external);
  if (node.externalIPs) add('ExternalIP', service.externalIPs, port.port, rules.external);
  return frontends.slice();
}

/** Family of an address in canonical text. */
export function familyOf(address: string): Family {
  return address.includes(':') ? 6 : 4;
}
