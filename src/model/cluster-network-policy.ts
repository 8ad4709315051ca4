/** policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy: kubernetes-sigs/network-policy-api v0.2.0 (NPEP-285). */
import type { Condition, KubeObject, LabelSelector } from './kubernetes.ts';

export type PolicyAction = 'Accept' | 'Deny' | 'Pass';

/** Pods of selected namespaces; an empty selector selects all. */
export interface NamespacedPods {
  namespaceSelector?: LabelSelector;
  podSelector?: LabelSelector;
}

/** Exactly one member is set; one that is not known here is a peer of a newer version. */
export interface ClusterPolicyPeer {
  namespaces?: LabelSelector;
  pods?: NamespacedPods;
  /** Egress only. By labels of nodes; matches the addresses of their status. */
  nodes?: LabelSelector;
  /** Egress only. */
  networks?: string[];
}

export interface PortMatch {
  number?: number;
  range?: { start: number; end: number };
}

/** Exactly one member is set. */
export interface ClusterPolicyProtocol {
  tcp?: { destinationPort?: PortMatch };
  udp?: { destinationPort?: PortMatch };
  sctp?: { destinationPort?: PortMatch };
  /** Name of a container port of the destination. */
  destinationNamedPort?: string;
}

export interface ClusterPolicyRule {
  name?: string;
  action: PolicyAction;
  /** Of an ingress rule. */
  from?: ClusterPolicyPeer[];
  /** Of an egress rule. */
  to?: ClusterPolicyPeer[];
  protocols?: ClusterPolicyProtocol[];
}

export interface ClusterNetworkPolicy extends KubeObject {
  spec: {
    tier: 'Admin' | 'Baseline';
    /** 0 to 1000, lower ones first. */
    priority: number;
    subject: { namespaces?: LabelSelector; pods?: NamespacedPods };
    ingress?: ClusterPolicyRule[];
    egress?: ClusterPolicyRule[];
  };
  status?: { conditions?: Condition[] };
}
