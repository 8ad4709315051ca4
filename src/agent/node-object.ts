/**
 * What this node says of itself in its Node object. The object is compared whole with what should be there, so a
 * Node that somebody deleted, or a label that somebody removed, comes back without a case of its own.
 */
import { arch, cpus, platform, release, totalmem } from 'node:os';
import type { Condition, Node, NodeAddress } from '../model/kubernetes.ts';

/** What the agent knows of its node; everything else in the Node belongs to others. */
export interface NodeFacts {
  name: string;
  /** Addresses by which other nodes reach this one, at most one a family, the primary family first. */
  addresses: string[];
  labels: Record<string, string>;
  annotations: Record<string, string>;
  /** Why pods cannot be started here, or undefined when they can. */
  notReady: { reason: string; message: string } | undefined;
  /** Whether the overlay of this node is programmed. */
  networkUp: boolean;
  /** False where a kubelet owns addresses, capacity and the Ready condition. */
  ownsStatus: boolean;
  version: string;
}

/** How the Node object must change. `create` when there is none. */
export type NodeChange =
  | { kind: 'create'; node: Node }
  | {
      kind: 'patch';
      patch: { metadata: { labels?: Record<string, string>; annotations?: Record<string, string> } };
    }
  | { kind: 'patchStatus'; patch: { status: Partial<NonNullable<Node['status']>> } };

const MOST_PODS = '110';

/** Compares a Node with what it should say. `now` is RFC 3339 and stamps conditions that turn over. */
export function planNode(facts: NodeFacts, observed: Node | undefined, now: string): NodeChange[] {
  if (!observed) return [{ kind: 'create', node: freshNode(facts) }];
  const changes: NodeChange[] = [];
  const labels = differing(facts.labels, observed.metadata.labels ?? {});
  const annotations = differing(facts.annotations, observed.metadata.annotations ?? {});
  if (labels || annotations)
    changes.push({
      kind: 'patch',
      patch: { metadata: { ...(labels && { labels }), ...(annotations && { annotations }) } },
    });
  const status = statusPatch(facts, observed, now);
  if (status) changes.push({ kind: 'patchStatus', patch: { status } });
  return changes;
}

function freshNode(facts: NodeFacts): Node {
  const labels = { ...standardLabels(facts.name), ...facts.labels };
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: facts.name, labels, annotations: facts.annotations },
    spec: {},
  };
}

/** Entries of `want` that differ in `have`, or undefined when none does. */
function differing(
  want: Record<string, string>,
  have: Record<string, string>,
): Record<string, string> | undefined {
  const found = Object.entries(want).filter(([key, value]) => have[key] !== value);
  return found.length > 0 ? Object.fromEntries(found) : undefined;
}

function statusPatch(facts: NodeFacts, observed: Node, now: string) {
  const status: Partial<NonNullable<Node['status']>> = {};
  const conditions = desiredConditions(facts)
    .filter(({ type }) => facts.ownsStatus || type === 'NetworkUnavailable')
    .flatMap((condition) => turnedOver(condition, observed.status?.conditions ?? [], now));
  if (conditions.length > 0) status.conditions = conditions;
  // A Node without a kubelet is registered by this agent alone; one with a kubelet has its addresses from there.
  if (!facts.ownsStatus && (observed.status?.addresses ?? []).length === 0)
    status.addresses = desiredAddresses(facts);
  if (facts.ownsStatus) {
    const addresses = desiredAddresses(facts);
    if (JSON.stringify(observed.status?.addresses) !== JSON.stringify(addresses))
      status.addresses = addresses;
    const capacity = machineCapacity();
    if (JSON.stringify(observed.status?.capacity) !== JSON.stringify(capacity)) {
      status.capacity = capacity;
      status.allocatable = capacity;
    }
    if (observed.status?.nodeInfo?.['kubeletVersion'] !== facts.version)
      status.nodeInfo = machineInfo(facts.version);
  }
  return Object.keys(status).length > 0 ? status : undefined;
}

function desiredConditions(facts: NodeFacts): Condition[] {
  const { notReady, networkUp } = facts;
  return [
    notReady
      ? { type: 'Ready', status: 'False', ...notReady }
      : { type: 'Ready', status: 'True', reason: 'PortolanReady', message: 'pods can be started' },
    networkUp
      ? {
          type: 'NetworkUnavailable',
          status: 'False',
          reason: 'PortolanIsUp',
          message: 'the overlay is programmed',
        }
      : {
          type: 'NetworkUnavailable',
          status: 'True',
          reason: 'PortolanStarting',
          message: 'the overlay is not programmed yet',
        },
  ];
}

/** The condition with its times when it says something new, else nothing: liveness is told by the Lease. */
function turnedOver(want: Condition, have: readonly Condition[], now: string): Condition[] {
  const old = have.find(({ type }) => type === want.type);
  if (old && old.status === want.status && old.reason === want.reason && old.message === want.message)
    return [];
  const lastTransitionTime = old && old.status === want.status ? (old.lastTransitionTime ?? now) : now;
  return [{ ...want, lastTransitionTime, lastHeartbeatTime: now }];
}

function desiredAddresses(facts: NodeFacts): NodeAddress[] {
  return [
    ...facts.addresses.map((address): NodeAddress => ({ type: 'InternalIP', address })),
    { type: 'Hostname', address: facts.name },
  ];
}

function machineCapacity(): Record<string, string> {
  return { cpu: String(cpus().length), memory: `${Math.floor(totalmem() / 1024)}Ki`, pods: MOST_PODS };
}

function machineInfo(version: string): Record<string, string> {
  return {
    architecture: arch() === 'x64' ? 'amd64' : arch(),
    bootID: '',
    containerRuntimeVersion: `portolan://${version}`,
    kernelVersion: release(),
    kubeProxyVersion: '',
    kubeletVersion: version,
    machineID: '',
    operatingSystem: platform(),
    osImage: 'Linux',
    systemUUID: '',
  };
}

/** Labels that every node carries, as a kubelet sets them. */
export function standardLabels(name: string): Record<string, string> {
  return {
    'kubernetes.io/hostname': name,
    'kubernetes.io/os': platform(),
    'kubernetes.io/arch': arch() === 'x64' ? 'amd64' : arch(),
  };
}
