/** Rules for ClusterNetworkPolicy: the schema of kubernetes-sigs/network-policy-api v1alpha2, standard channel and `nodes`. */
import type {
  ClusterNetworkPolicy,
  ClusterPolicyPeer,
  ClusterPolicyProtocol,
  ClusterPolicyRule,
  NamespacedPods,
  PortMatch,
} from '../../../model/cluster-network-policy.ts';
import type { LabelSelector } from '../../../model/kubernetes.ts';
import { CONFIRM_BY, type NodeNetworkPolicy } from '../../../model/node-network-policy.ts';
import type { FieldError } from '../decode.ts';
import { validateCidr } from './addresses.ts';
import { duplicate, invalid, oneOf, optionalOneOf, required, tooLong, tooMany } from './field-errors.ts';
import { validateLabelSelector } from './meta.ts';

/** Most rules a direction, peers and protocols a rule, networks a peer. */
const MOST = 25;
const LONGEST_NAME = 100;
const HIGHEST_PRIORITY = 1000;
const INGRESS_PEERS = ['namespaces', 'pods'] as const;
const EGRESS_PEERS = [...INGRESS_PEERS, 'nodes', 'networks'] as const;

export function validateClusterNetworkPolicy({ spec }: ClusterNetworkPolicy): FieldError[] {
  if (!spec) return [required('spec')];
  const errors = oneOf('spec.tier', spec.tier, ['Admin', 'Baseline']);
  errors.push(...validatePriority(spec.priority));
  if (!spec.subject) errors.push(required('spec.subject'));
  else {
    errors.push(...exactlyOne('spec.subject', spec.subject, INGRESS_PEERS));
    errors.push(...validateSelectors('spec.subject', spec.subject));
  }
  for (const [direction, side, kinds] of [
    ['ingress', 'from', INGRESS_PEERS],
    ['egress', 'to', EGRESS_PEERS],
  ] as const) {
    const rules = spec[direction] ?? [];
    errors.push(...atMost(`spec.${direction}`, rules));
    for (const [i, rule] of rules.entries())
      errors.push(...validateRule(`spec.${direction}[${i}]`, rule, side, kinds, ['Accept', 'Deny', 'Pass']));
  }
  return errors;
}

export function validateNodeNetworkPolicy({ metadata, spec }: NodeNetworkPolicy): FieldError[] {
  if (!spec) return [required('spec')];
  const errors = spec.nodeSelector
    ? validateLabelSelector(spec.nodeSelector, 'spec.nodeSelector')
    : [required('spec.nodeSelector')];
  errors.push(...validatePriority(spec.priority));
  for (const [direction, side, fallback] of [
    ['ingress', 'from', 'defaultIngress'],
    ['egress', 'to', 'defaultEgress'],
  ] as const) {
    errors.push(...optionalOneOf(`spec.${fallback}`, spec[fallback], ['Accept', 'Deny']));
    const rules = spec[direction] ?? [];
    errors.push(...atMost(`spec.${direction}`, rules));
    for (const [i, rule] of rules.entries())
      errors.push(...validateRule(`spec.${direction}[${i}]`, rule, side, EGRESS_PEERS, ['Accept', 'Deny']));
  }
  const confirmBy = metadata.annotations?.[CONFIRM_BY];
  if (confirmBy !== undefined && Number.isNaN(Date.parse(confirmBy)))
    errors.push(
      invalid(
        `metadata.annotations[${CONFIRM_BY}]`,
        confirmBy,
        'must be a time such as 2026-03-01T10:00:00Z',
      ),
    );
  return errors;
}

function validatePriority(priority: number | undefined): FieldError[] {
  if (priority === undefined) return [required('spec.priority')];
  return priority < 0 || priority > HIGHEST_PRIORITY
    ? [invalid('spec.priority', priority, `must be between 0 and ${HIGHEST_PRIORITY}`)]
    : [];
}

function validateRule(
  at: string,
  rule: ClusterPolicyRule,
  side: 'from' | 'to',
  kinds: readonly (keyof ClusterPolicyPeer)[],
  actions: readonly string[],
): FieldError[] {
  const errors = oneOf(`${at}.action`, rule.action, actions);
  if ((rule.name ?? '').length > LONGEST_NAME) errors.push(tooLong(`${at}.name`, LONGEST_NAME));
  const peers = rule[side] ?? [];
  if (peers.length === 0) errors.push(required(`${at}.${side}`, 'at least one peer'));
  errors.push(...atMost(`${at}.${side}`, peers));
  for (const [i, peer] of peers.entries()) errors.push(...validatePeer(`${at}.${side}[${i}]`, peer, kinds));
  const { protocols } = rule;
  if (protocols?.length === 0) errors.push(required(`${at}.protocols`, 'at least one, or leave it out'));
  errors.push(...atMost(`${at}.protocols`, protocols ?? []));
  for (const [i, protocol] of (protocols ?? []).entries())
    errors.push(...validateProtocol(`${at}.protocols[${i}]`, protocol));
  const named = protocols?.some(({ destinationNamedPort }) => destinationNamedPort !== undefined);
  if (named && peers.some(({ networks, nodes }) => networks || nodes))
    errors.push(
      invalid(at, 'destinationNamedPort', 'networks and nodes have no named ports; use port numbers'),
    );
  return errors;
}

function validatePeer(
  at: string,
  peer: ClusterPolicyPeer,
  kinds: readonly (keyof ClusterPolicyPeer)[],
): FieldError[] {
  const errors = [...exactlyOne(at, peer, kinds), ...validateSelectors(at, peer)];
  errors.push(...validateLabelSelector(peer.nodes, `${at}.nodes`));
  const { networks } = peer;
  if (networks?.length === 0) errors.push(required(`${at}.networks`, 'at least one network'));
  errors.push(...atMost(`${at}.networks`, networks ?? []));
  for (const [i, text] of (networks ?? []).entries()) {
    errors.push(...validateCidr(`${at}.networks[${i}]`, text));
    if (networks!.indexOf(text) < i) errors.push(duplicate(`${at}.networks[${i}]`, text));
  }
  return errors;
}

function validateSelectors(
  at: string,
  { namespaces, pods }: { namespaces?: LabelSelector; pods?: NamespacedPods },
): FieldError[] {
  return [
    ...validateLabelSelector(namespaces, `${at}.namespaces`),
    ...validateLabelSelector(pods?.namespaceSelector, `${at}.pods.namespaceSelector`),
    ...validateLabelSelector(pods?.podSelector, `${at}.pods.podSelector`),
  ];
}

function validateProtocol(at: string, protocol: ClusterPolicyProtocol): FieldError[] {
  const errors = exactlyOne(at, protocol, ['tcp', 'udp', 'sctp', 'destinationNamedPort']);
  for (const name of ['tcp', 'udp', 'sctp'] as const) {
    const match = protocol[name];
    if (!match) continue;
    if (!match.destinationPort) errors.push(required(`${at}.${name}.destinationPort`));
    else errors.push(...validatePort(`${at}.${name}.destinationPort`, match.destinationPort));
  }
  if (protocol.destinationNamedPort === '') errors.push(required(`${at}.destinationNamedPort`));
  return errors;
}

function validatePort(at: string, port: PortMatch): FieldError[] {
  const errors = exactlyOne(at, port, ['number', 'range']);
  const { number, range } = port;
  const inRange = (field: string, value: number) =>
    value >= 1 && value <= 65_535 ? [] : [invalid(field, value, 'must be between 1 and 65535, inclusive')];
  if (number !== undefined) errors.push(...inRange(`${at}.number`, number));
  if (!range) return errors;
  errors.push(...inRange(`${at}.range.start`, range.start), ...inRange(`${at}.range.end`, range.end));
  if (range.start >= range.end)
    errors.push(invalid(`${at}.range`, range, 'Start port must be less than End port'));
  return errors;
}

/** A union whose members would otherwise contradict each other. */
function exactlyOne<T extends object>(
  at: string,
  value: T,
  members: readonly (keyof T & string)[],
): FieldError[] {
  const set = members.filter((member) => value[member] !== undefined);
  if (set.length === 1) return [];
  const words = members.join(', ');
  return set.length === 0
    ? [required(at, `set one of ${words}`)]
    : [invalid(at, set.join(' and '), `set only one of ${words}`)];
}

const atMost = (at: string, items: readonly unknown[]): FieldError[] =>
  items.length > MOST ? [tooMany(at, items.length, MOST)] : [];
