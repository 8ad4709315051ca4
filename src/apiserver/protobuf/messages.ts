/**
 * Field numbers of the messages that clients send in protobuf: `kubectl create namespace | configmap | service`,
 * `kubectl drain`, `kubectl auth` and other programs with typed Go clients.
 * Source: the generated.proto files of k8s.io/api and k8s.io/apimachinery, v1.32.
 */

export type FieldKind =
  | 'string'
  | 'int'
  | 'bool'
  | 'bytes'
  /** metav1.Time and MicroTime. */
  | 'time'
  | 'microTime'
  | 'intOrString'
  /** resource.Quantity. */
  | 'quantity'
  | 'stringMap'
  | 'bytesMap'
  | 'quantityMap'
  | { readonly message: () => Message };

export interface MessageField {
  readonly name: string;
  readonly kind: FieldKind;
  readonly list: boolean;
}

export type Message = ReadonlyMap<number, MessageField>;

type Spec = Readonly<Record<string, readonly [number, FieldKind] | readonly [number, FieldKind, 'list']>>;

/** `{ name: [number, kind] }` to a table by number. */
function message(spec: Spec): Message {
  return new Map(
    Object.entries(spec).map(([name, [number, kind, list]]) => [
      number,
      { name, kind, list: list === 'list' },
    ]),
  );
}

const of = (make: () => Message): FieldKind => ({ message: make });

const ownerReference = message({
  kind: [1, 'string'],
  name: [3, 'string'],
  uid: [4, 'string'],
  apiVersion: [5, 'string'],
  controller: [6, 'bool'],
  blockOwnerDeletion: [7, 'bool'],
});

const objectMeta = message({
  name: [1, 'string'],
  generateName: [2, 'string'],
  namespace: [3, 'string'],
  uid: [5, 'string'],
  resourceVersion: [6, 'string'],
  generation: [7, 'int'],
  creationTimestamp: [8, 'time'],
  deletionTimestamp: [9, 'time'],
  deletionGracePeriodSeconds: [10, 'int'],
  labels: [11, 'stringMap'],
  annotations: [12, 'stringMap'],
  ownerReferences: [13, of(() => ownerReference), 'list'],
  finalizers: [14, 'string', 'list'],
});
const metadata = [1, of(() => objectMeta)] as const;

const condition = message({
  type: [1, 'string'],
  status: [2, 'string'],
  lastTransitionTime: [4, 'time'],
  reason: [5, 'string'],
  message: [6, 'string'],
});

const preconditions = message({ uid: [1, 'string'], resourceVersion: [2, 'string'] });
const deleteOptions = message({
  gracePeriodSeconds: [1, 'int'],
  preconditions: [2, of(() => preconditions)],
  orphanDependents: [3, 'bool'],
  propagationPolicy: [4, 'string'],
  dryRun: [5, 'string', 'list'],
});

const objectReference = message({
  kind: [1, 'string'],
  namespace: [2, 'string'],
  name: [3, 'string'],
  uid: [4, 'string'],
  apiVersion: [5, 'string'],
  resourceVersion: [6, 'string'],
  fieldPath: [7, 'string'],
});

const namespaceSpec = message({ finalizers: [1, 'string', 'list'] });
const namespaceStatus = message({ phase: [1, 'string'], conditions: [2, of(() => condition), 'list'] });

const servicePort = message({
  name: [1, 'string'],
  protocol: [2, 'string'],
  port: [3, 'int'],
  targetPort: [4, 'intOrString'],
  nodePort: [5, 'int'],
  appProtocol: [6, 'string'],
});
const clientIp = message({ timeoutSeconds: [1, 'int'] });
const affinity = message({ clientIP: [1, of(() => clientIp)] });
const serviceSpec = message({
  ports: [1, of(() => servicePort), 'list'],
  selector: [2, 'stringMap'],
  clusterIP: [3, 'string'],
  type: [4, 'string'],
  externalIPs: [5, 'string', 'list'],
  sessionAffinity: [7, 'string'],
  loadBalancerIP: [8, 'string'],
  loadBalancerSourceRanges: [9, 'string', 'list'],
  externalName: [10, 'string'],
  externalTrafficPolicy: [11, 'string'],
  healthCheckNodePort: [12, 'int'],
  publishNotReadyAddresses: [13, 'bool'],
  sessionAffinityConfig: [14, of(() => affinity)],
  ipFamilyPolicy: [17, 'string'],
  clusterIPs: [18, 'string', 'list'],
  ipFamilies: [19, 'string', 'list'],
  allocateLoadBalancerNodePorts: [20, 'bool'],
  loadBalancerClass: [21, 'string'],
  internalTrafficPolicy: [22, 'string'],
  trafficDistribution: [23, 'string'],
});

const eventSource = message({ component: [1, 'string'], host: [2, 'string'] });
const coreSeries = message({ count: [1, 'int'], lastObservedTime: [2, 'microTime'] });

const leaseSpec = message({
  holderIdentity: [1, 'string'],
  leaseDurationSeconds: [2, 'int'],
  acquireTime: [3, 'microTime'],
  renewTime: [4, 'microTime'],
  leaseTransitions: [5, 'int'],
});

const resourceAttributes = message({
  namespace: [1, 'string'],
  verb: [2, 'string'],
  group: [3, 'string'],
  version: [4, 'string'],
  resource: [5, 'string'],
  subresource: [6, 'string'],
  name: [7, 'string'],
});
const nonResourceAttributes = message({ path: [1, 'string'], verb: [2, 'string'] });
const accessReviewSpec = message({
  resourceAttributes: [1, of(() => resourceAttributes)],
  nonResourceAttributes: [2, of(() => nonResourceAttributes)],
});
const rulesReviewSpec = message({ namespace: [1, 'string'] });

/** The messages by apiVersion and kind. */
export const messages: Readonly<Record<string, Message>> = {
  'v1/Namespace': message({
    metadata,
    spec: [2, of(() => namespaceSpec)],
    status: [3, of(() => namespaceStatus)],
  }),
  'v1/ConfigMap': message({
    metadata,
    data: [2, 'stringMap'],
    binaryData: [3, 'bytesMap'],
    immutable: [4, 'bool'],
  }),
  'v1/Service': message({ metadata, spec: [2, of(() => serviceSpec)] }),
  'v1/Binding': message({ metadata, target: [2, of(() => objectReference)] }),
  'v1/Event': message({
    metadata,
    involvedObject: [2, of(() => objectReference)],
    reason: [3, 'string'],
    message: [4, 'string'],
    source: [5, of(() => eventSource)],
    firstTimestamp: [6, 'time'],
    lastTimestamp: [7, 'time'],
    count: [8, 'int'],
    type: [9, 'string'],
    eventTime: [10, 'microTime'],
    series: [11, of(() => coreSeries)],
    action: [12, 'string'],
    related: [13, of(() => objectReference)],
    reportingComponent: [14, 'string'],
    reportingInstance: [15, 'string'],
  }),
  'v1/DeleteOptions': deleteOptions,
  'meta.k8s.io/v1/DeleteOptions': deleteOptions,
  'policy/v1/Eviction': message({ metadata, deleteOptions: [2, of(() => deleteOptions)] }),
  'coordination.k8s.io/v1/Lease': message({ metadata, spec: [2, of(() => leaseSpec)] }),
  'authorization.k8s.io/v1/SelfSubjectAccessReview': message({
    metadata,
    spec: [2, of(() => accessReviewSpec)],
  }),
  'authorization.k8s.io/v1/SelfSubjectRulesReview': message({
    metadata,
    spec: [2, of(() => rulesReviewSpec)],
  }),
  'authentication.k8s.io/v1/SelfSubjectReview': message({ metadata }),
};
