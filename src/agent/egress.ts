/**
 * Egress addresses of namespaces in the agent: where the controller knows from what is asked for, and who is told.
 *
 *     Namespaces ─► wishes ─► addresses that nodes elect a holder for ─► Announcer ─► role ─┐
 *     Nodes ──────► claims of the others ──────────────────────────────────────────────────┼─► EgressController
 *     Pods of namespaces whose address this node may hold ─────────────────────────────────┘     │
 *                                     annotation of the own Node, Events of the Namespaces ◄──────┘
 */
import { join } from 'node:path';
import { type Cidr, type IpAddress, tryParseCidr, tryParseIp } from '../addr/index.ts';
import { type ApiClient, type EventRecorder, type Log, Reflector, resources } from '../client/index.ts';
import {
  claimsText,
  EGRESS_ANNOTATION,
  EgressController,
  type EgressNode,
  type EgressPod,
  HELD_ANNOTATION,
  movableAddresses,
  readClaims,
} from '../egress/index.ts';
import { isNetError } from '../errors/index.ts';
import { type Attachment, attachmentKey } from '../ipam/index.ts';
import type { Namespace, Node } from '../model/kubernetes.ts';
import { podFacts } from '../policy/index.ts';
import { EgressEvents } from './egress-events.ts';
import type { EgressWorld } from './egress-explain.ts';
import { EgressSeenFile } from './egress-seen.ts';
import type { Announcer } from './l2/announcer.ts';
import { LocalAddresses } from './local-addresses.ts';
import { NamespacePods } from './namespace-pods.ts';
import type { Sources } from './sources.ts';

export interface NodeEgressOptions {
  readonly client: ApiClient;
  readonly recorder: EventRecorder;
  readonly nodeName: string;
  readonly stateDir: string;
  readonly clusterCidrs: readonly Cidr[];
  readonly nodes: Pick<Sources['nodes'], 'items' | 'hasSynced' | 'onChange'>;
  readonly ranges: Pick<Sources['ranges'], 'items' | 'onChange'>;
  readonly ownCidrs: () => readonly Cidr[];
  readonly announcer: () => Announcer;
  /** The node's annotations have changed. */
  readonly onClaims: () => void;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface NodeEgress {
  readonly controller: EgressController;
  /** Addresses that nodes have to elect a holder for, with their users' keys. */
  movable(): ReadonlyMap<string, readonly string[]>;
  /** What this node's Node has to say. */
  annotations(): Record<string, string>;
  /** Throws EGRESS_NOT_PROGRAMMED. */
  /** Asks the API for a pod of any node. */
  readonly findPod: EgressWorld['findPod'];
  admit(attachment: Attachment): void;
  forget(attachment: Attachment): void;
  start(attachments: Iterable<Attachment>): void;
}

/** By which users of an announced address are told from Services. */
export const NAMESPACE_KEY = 'Namespace/';

export function openEgress(options: NodeEgressOptions, undo: AsyncDisposableStack): NodeEgress {
  const { client, nodeName, nodes, signal, log, clusterCidrs, ranges } = options;
  const namespaces = new Reflector<Namespace, string | null>({
    client,
    signal,
    log,
    resource: resources.namespaces,
    project: ({ metadata }) => metadata.annotations?.[EGRESS_ANNOTATION] ?? null,
  });
  const seen = new EgressSeenFile(join(options.stateDir, 'egress-seen.json'), nodeName);
  const remembered = seen.read();
  const events = new EgressEvents({ recorder: options.recorder, nodeName, nodes: () => nodes.items.keys() });
  undo.defer(() => events.close());
  const local = new LocalAddresses({ except: clusterCidrs, log });
  undo.defer(() => local.close());
  const known = () =>
    nodes.hasSynced ? [...nodes.items.values()].map(egressNode) : (remembered?.nodes ?? []);
  const trigger = () => controller.trigger();
  const pods = new NamespacePods({ client, signal, log, except: nodeName, onChange: trigger });
  undo.defer(() => pods.close());
  let movable: ReadonlyMap<string, readonly string[]> = new Map();
  const controller: EgressController = new EgressController({
    node: nodeName,
    clusterCidrs,
    log,
    sources: {
      namespaces: () => (namespaces.hasSynced && nodes.hasSynced ? namespaces.items : remembered?.namespaces),
      isKnown: (namespace) => !namespaces.hasSynced || namespaces.items.has(namespace),
      nodes: known,
      localAddresses: () => local.now.filter(reachable),
      role: (address) => options.announcer().role(address),
      whyNot: (address) => options.announcer().reason(address),
      mayHold: (address) =>
        local.now.some((each) => String(each) === address) || options.announcer().stands(address),
      remotePods: (wanted) => pods.of(wanted),
      serviceCidrs: () => [...ranges.items.values()].flat().flatMap((text) => tryParseCidr(text) ?? []),
      ownCidrs: options.ownCidrs,
    },
    onClaims: (claims) => {
      log.info({ held: claimsText(claims) }, 'egress addresses that this node holds');
      options.onClaims();
    },
    onStates: (states) => events.tell(states),
    onWishes: () => {
      const own = new Set(local.now.map(String));
      const next = movableAddresses(controller.wishes.values(), known(), own);
      const users = new Map(
        [...next].map(([address, keys]) => [address, keys.map((key) => NAMESPACE_KEY + key)]),
      );
      if (JSON.stringify([...users]) !== JSON.stringify([...movable])) {
        movable = users;
        options.announcer().trigger();
      }
      if (namespaces.hasSynced && nodes.hasSynced)
        seen.save({ namespaces: wished(namespaces.items), nodes: controller.wishes.size > 0 ? known() : [] });
    },
  });
  undo.defer(() => controller.close());
  local.follow(trigger);
  namespaces.onChange(trigger);
  ranges.onChange(trigger);
  /** What Nodes said last, as text. */
  const told = new Map<string, string>();
  nodes.onChange((names) => {
    // Nodes change all the time, and hardly ever in what matters here.
    let news = false;
    for (const name of names) {
      const node = nodes.items.get(name);
      const text = node && nodeText(egressNode(node));
      if (text === told.get(name)) continue;
      news = true;
      if (text === undefined) told.delete(name);
      else told.set(name, text);
    }
    if (news) trigger();
  });
  return {
    controller,
    movable: () => movable,
    annotations: () => {
      const { claims } = controller;
      const there = nodes.items.get(nodeName)?.metadata.annotations?.[HELD_ANNOTATION] !== undefined;
      return claims && (there || claims.size > 0) ? { [HELD_ANNOTATION]: claimsText(claims) } : {};
    },
    findPod: async (namespace, name) => {
      try {
        return podFacts(
          await client.get(resources.pods, { namespace, name }, { retryForMs: 0, timeoutMs: 5_000 }),
        );
      } catch (error) {
        return isNetError(error, 'CLIENT_NOT_FOUND') ? undefined : 'unknown';
      }
    },
    admit: (attachment) => {
      const pod = podOf(attachment);
      if (pod) controller.admit(attachmentKey(attachment), pod);
    },
    forget: (attachment) => controller.forget(attachmentKey(attachment)),
    start: (attachments) => {
      namespaces.start();
      controller.start(
        [...attachments].flatMap((attachment) => {
          const pod = podOf(attachment);
          return pod ? [{ key: attachmentKey(attachment), ...pod }] : [];
        }),
      );
    },
  };
}

function podOf({ pod, addresses }: Attachment): EgressPod | undefined {
  return pod && { name: `${pod.namespace}/${pod.name}`, namespace: pod.namespace, addresses };
}

/** Addresses that hosts outside can answer to. */
function reachable(address: IpAddress): boolean {
  return !address.isLoopback && !address.isLinkLocal && !address.isUnspecified;
}

function wished(namespaces: ReadonlyMap<string, string | null>): Map<string, string> {
  return new Map([...namespaces].flatMap(([name, text]) => (text === null ? [] : [[name, text] as const])));
}

/** A Node object never changes, so it is read once. */
const read = new WeakMap<Node, EgressNode>();

function egressNode(node: Node): EgressNode {
  const before = read.get(node);
  if (before) return before;
  const { metadata, spec, status } = node;
  const made: EgressNode = {
    name: metadata.name,
    podCidrs: (spec?.podCIDRs ?? []).flatMap((text) => tryParseCidr(text) ?? []),
    addresses: (status?.addresses ?? []).flatMap(({ address }) => tryParseIp(address) ?? []),
    claims: readClaims(metadata.annotations?.[HELD_ANNOTATION]),
  };
  read.set(node, made);
  return made;
}

function nodeText({ podCidrs, addresses, claims }: EgressNode): string {
  return [podCidrs, addresses, claimsText(claims)].join(' ');
}
