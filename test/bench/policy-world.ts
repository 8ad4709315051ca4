/** A cluster of pods and policies for benchmarks, as objects of the API and as the facts that the agent reads from them. */
import { IpAddress, parseIp } from '../../src/addr/index.ts';
import type { Attachment } from '../../src/ipam/index.ts';
import type { NetworkPolicy, Pod } from '../../src/model/kubernetes.ts';
import { attachmentOf } from '../lib/policy-cluster.ts';

export const NODE = 'bench-node';
export const NAMESPACES = 50;
const APPS = 20;
/** Pods of this node. */
export const LOCAL = 250;

const FIRST_IP6 = BigInt(parseIp('fd00:10:244::').value);

export const namespaceName = (at: number) => `ns${at % NAMESPACES}`;

export function namespaceObject(at: number, team = at % 5) {
  return { metadata: { name: namespaceName(at), labels: { team: `t${team}` } } };
}

export function addressesOf(at: number): [IpAddress, IpAddress] {
  return [IpAddress.v4(0x0af4_0000 + at), IpAddress.v6(FIRST_IP6 + BigInt(at))];
}

/** Pod number `at`; the first 250 are on this node. */
export function podObject(at: number, labels: Record<string, string> = {}, node?: string): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace: namespaceName(at),
      name: `p${at}`,
      labels: { app: `a${Math.floor(at / NAMESPACES) % APPS}`, ...labels },
    },
    spec: {
      nodeName: node ?? (at < LOCAL ? NODE : `n${Math.floor(at / 250)}`),
      containers: [{ name: 'c', image: 'none', ports: [{ name: 'http', containerPort: 8080 }] }],
    },
    status: { phase: 'Running', podIPs: addressesOf(at).map((ip) => ({ ip: String(ip) })) },
  } as Pod;
}

/** Selects one app of a namespace; lets in another app of it and the namespaces of a team. */
export function policyObject(at: number, generation = 1): NetworkPolicy {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: namespaceName(at), name: `np${at}`, generation },
    spec: {
      podSelector: { matchLabels: { app: `a${Math.floor(at / NAMESPACES) % APPS}` } },
      ingress: [
        {
          from: [
            { podSelector: { matchLabels: { app: `a${(at + generation) % APPS}` } } },
            { namespaceSelector: { matchLabels: { team: `t${at % 5}` } } },
          ],
          ports: [{ port: 'http' }, { port: 9000, endPort: 9100 }],
        },
      ],
    },
  };
}

/** The link of a local pod, as the agent's store has it. */
export function attachment(at: number, uid = `${at}`): Attachment {
  const [ip4, ip6] = addressesOf(at);
  const [namespace, name] = [namespaceName(at), `p${at}`];
  return {
    ...attachmentOf({ name: '', netns: `c${at}`, ip4, ip6 }, `${namespace}/${name}`),
    pod: { namespace, name, uid },
  };
}
