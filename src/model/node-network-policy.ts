/** policy.portolan.dev/v1alpha1 NodeNetworkPolicy: what nodes themselves accept and send. Portolan's own kind. */
import type { ClusterPolicyPeer, ClusterPolicyProtocol } from './cluster-network-policy.ts';
import type { Condition, KubeObject, LabelSelector } from './kubernetes.ts';

export interface NodePolicyRule {
  name?: string;
  action: 'Accept' | 'Deny';
  /** Of an ingress rule; unlike those of pods, nodes and networks may be sources. */
  from?: ClusterPolicyPeer[];
  to?: ClusterPolicyPeer[];
  protocols?: ClusterPolicyProtocol[];
}

export interface NodeNetworkPolicy extends KubeObject {
  spec: {
    /** Nodes that it is about; empty selects all. */
    nodeSelector: LabelSelector;
    /** 0 to 1000, lower ones first. */
    priority: number;
    /** What happens where no rule of any policy matches; Deny of any policy wins. Accept if unset. */
    defaultIngress?: 'Accept' | 'Deny';
    defaultEgress?: 'Accept' | 'Deny';
    ingress?: NodePolicyRule[];
    egress?: NodePolicyRule[];
  };
  status?: { conditions?: Condition[] };
}

/** Until this moment (RFC 3339) the policy is on trial: nodes let go of it then, unless the annotation is gone. */
export const CONFIRM_BY = 'portolan.dev/confirm-by';
/** "true": enforced although it cuts what the node needs to be reached. */
export const ALLOW_LOCKOUT = 'portolan.dev/allow-lockout';
