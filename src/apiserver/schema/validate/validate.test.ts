import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  applyDefaults,
  decodeObject,
  findKind,
  type KindSchema,
  validateCreate,
  validateUpdate,
} from '../index.ts';

const kind = (apiVersion: string, name: string) => findKind(apiVersion, name)!;
const pod = kind('v1', 'Pod');
const service = kind('v1', 'Service');
const slice = kind('discovery.k8s.io/v1', 'EndpointSlice');
const policy = kind('networking.k8s.io/v1', 'NetworkPolicy');

/** An object of the kind as the server has it before validation. */
function read(schema: KindSchema, members: object, metadata: object = {}) {
  const namespace = schema.namespaced ? { namespace: 'default' } : {};
  const { object, typeErrors, unknownFields } = decodeObject(schema, {
    metadata: { name: 'web', ...namespace, ...metadata },
    ...members,
  });
  assert.deepEqual([typeErrors, unknownFields], [[], []]);
  applyDefaults(schema, object);
  return object;
}

const told = (errors: { field: string; message: string }[]) => errors.map((e) => `${e.field}: ${e.message}`);
const faults = (schema: KindSchema, members: object, metadata: object = {}) =>
  told(validateCreate(schema, read(schema, members, metadata)));
const change = (schema: KindSchema, old: object, next: object) =>
  told(validateUpdate(schema, read(schema, next), read(schema, old), ''));

const label63 =
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

test('a minimal object of each kind is accepted', () => {
  const cases: [KindSchema, object][] = [
    [pod, { spec: { containers: [{ name: 'c', image: 'nginx' }] } }],
    [service, { spec: { ports: [{ port: 80 }] } }],
    [service, { spec: { clusterIP: 'None' } }],
    [service, { spec: { type: 'ExternalName', externalName: 'example.com' } }],
    [slice, { addressType: 'IPv4', endpoints: [{ addresses: ['10.1.2.3'] }], ports: [{ port: 80 }] }],
    [policy, { spec: { podSelector: {} } }],
    [kind('v1', 'Namespace'), {}],
    [kind('v1', 'Node'), { spec: { podCIDR: '10.244.1.0/24' } }],
    [kind('v1', 'ConfigMap'), { data: { 'a.b': 'c' }, binaryData: { x: 'AAAA' } }],
    [kind('v1', 'Endpoints'), { subsets: [{ addresses: [{ ip: '10.1.1.1' }], ports: [{ port: 1 }] }] }],
    [kind('v1', 'Event'), { involvedObject: { namespace: 'default', kind: 'Pod', name: 'x' } }],
    [kind('coordination.k8s.io/v1', 'Lease'), { spec: { holderIdentity: 'n', leaseDurationSeconds: 40 } }],
    [kind('networking.k8s.io/v1', 'ServiceCIDR'), { spec: { cidrs: ['10.96.0.0/16', 'fd00::/112'] } }],
  ];
  for (const [schema, members] of cases) assert.deepEqual(faults(schema, members), [], schema.kind);
});

test('a Service with bad members is refused with the words of Kubernetes', () => {
  const port = { port: 80 };
  const cases: [object, string[]][] = [
    [{}, ['spec.ports: Required value']],
    [
      { ports: [{ port: 70000 }] },
      [
        'spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive',
        'spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive',
      ],
    ],
    [
      { ports: [{ port: 80, protocol: 'ICMP' }] },
      ['spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'],
    ],
    [{ ports: [port, { port: 81, name: 'b' }] }, ['spec.ports[0].name: Required value']],
    [
      {
        ports: [
          { port: 80, name: 'a' },
          { port: 81, name: 'a' },
        ],
      },
      ['spec.ports[1].name: Duplicate value: "a"'],
    ],
    [
      {
        ports: [
          { port: 80, name: 'a' },
          { port: 80, name: 'b' },
        ],
      },
      ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'],
    ],
    [
      { ports: [port], type: 'Cluster' },
      [
        'spec.type: Unsupported value: "Cluster": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
      ],
    ],
    [
      { ports: [{ port: 80, nodePort: 30000 }] },
      ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    ],
    [
      { ports: [port], externalTrafficPolicy: 'Local' },
      [
        'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
      ],
    ],
    [
      {
        ports: [port],
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 90000 } },
      },
      [
        'spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400',
      ],
    ],
    [
      { ports: [port], clusterIP: '10.96.0.300' },
      [
        'spec.clusterIP: Invalid value: "10.96.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [
      { ports: [port], externalIPs: ['127.0.0.1'] },
      [
        'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
      ],
    ],
    [{ type: 'ExternalName' }, ['spec.externalName: Required value']],
    [
      { ports: [port], loadBalancerSourceRanges: ['10.0.0.0/8'] },
      ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ],
  ];
  for (const [spec, want] of cases) assert.deepEqual(faults(service, { spec }), want);
  assert.match(
    faults(service, { spec: { ports: [port] } }, { name: '1web' })[0]!,
    /^metadata.name: .*DNS-1035 label/,
  );
});

test('a ClusterIP cannot change', () => {
  const spec = (clusterIP: string) => ({
    spec: { ports: [{ port: 80 }], clusterIP, clusterIPs: [clusterIP] },
  });
  assert.deepEqual(change(service, spec('10.96.0.5'), spec('10.96.0.6')), [
    'spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set',
  ]);
});

test('a Pod with bad members is refused with the words of Kubernetes', () => {
  const good = { name: 'c', image: 'nginx' };
  const cases: [object, string[]][] = [
    [{ containers: [] }, ['spec.containers: Required value']],
    [
      { containers: [{ name: 'C', image: 'x' }] },
      [`spec.containers[0].name: Invalid value: "C": ${label63}`],
    ],
    [{ containers: [{ name: 'c' }] }, ['spec.containers[0].image: Required value']],
    [{ containers: [good, good] }, ['spec.containers[1].name: Duplicate value: "c"']],
    [
      { containers: [{ ...good, ports: [{ containerPort: 0 }] }] },
      ['spec.containers[0].ports[0].containerPort: Required value'],
    ],
    [
      { containers: [{ ...good, volumeMounts: [{ name: 'v', mountPath: '/v' }] }] },
      ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
    ],
    [
      { containers: [{ ...good, readinessProbe: {} }] },
      ['spec.containers[0].readinessProbe: Required value: must specify a handler type'],
    ],
    [
      { containers: [{ ...good, resources: { requests: { cpu: '2' }, limits: { cpu: '1' } } }] },
      [
        'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
      ],
    ],
    [
      { containers: [good], restartPolicy: 'Sometimes' },
      [
        'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"',
      ],
    ],
    [
      { containers: [good], dnsPolicy: 'None' },
      [
        'spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None',
      ],
    ],
    [
      { containers: [good], tolerations: [{ effect: 'NoSchedule' }] },
      [
        'spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"',
      ],
    ],
    [
      { containers: [good], volumes: [{ name: 'v', hostPath: { path: '/x' }, emptyDir: {} }] },
      ['spec.volumes[0].emptyDir: Forbidden: may not specify more than 1 volume type'],
    ],
  ];
  for (const [spec, want] of cases) assert.deepEqual(faults(pod, { spec }), want);
});

test('of a running Pod only image, deadline, tolerations and grace may change', () => {
  const spec = (more: object, container: object = {}) => ({
    spec: { containers: [{ name: 'c', image: 'a', ...container }], ...more },
  });
  assert.deepEqual(change(pod, spec({}), spec({ activeDeadlineSeconds: 5 }, { image: 'b' })), []);
  assert.deepEqual(change(pod, spec({}), spec({ tolerations: [{ key: 'a', operator: 'Exists' }] })), []);
  assert.deepEqual(change(pod, spec({ tolerations: [{ key: 'a', operator: 'Exists' }] }), spec({})), [
    'spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds',
  ]);
  const refused = change(pod, spec({}), spec({ nodeName: 'n1' }, { ports: [{ containerPort: 80 }] }));
  assert.match(
    refused[0]!,
    /^spec: Forbidden: pod updates may not change fields other than `spec\.containers\[\*\]\.image`/,
  );
  assert.match(refused[0]!, /changed: spec\.containers\[0\]\.ports, spec\.nodeName$/);
  assert.deepEqual(
    change(pod, spec({}), {
      spec: {
        containers: [
          { name: 'c', image: 'a' },
          { name: 'd', image: 'a' },
        ],
      },
    }),
    ['spec.containers: Forbidden: pod updates may not add or remove containers'],
  );
});

test('an EndpointSlice holds addresses of its type only', () => {
  const of = (addressType: string, address: string) =>
    faults(slice, { addressType, endpoints: [{ addresses: [address] }] });
  assert.deepEqual(of('IPv4', 'fd00::1'), [
    'endpoints[0].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address',
  ]);
  assert.deepEqual(of('IPv6', 'fd00::1'), []);
  assert.deepEqual(of('FQDN', 'example.com'), []);
  assert.deepEqual(of('IPv4', '169.254.1.1'), [
    'endpoints[0].addresses[0]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)',
  ]);
  assert.deepEqual(change(slice, { addressType: 'IPv4' }, { addressType: 'IPv6' }), [
    'addressType: Invalid value: "IPv6": field is immutable',
  ]);
});

test('a NetworkPolicy is checked down to its networks', () => {
  const spec = (peer: object, port: object = {}) => ({
    spec: { podSelector: {}, ingress: [{ from: [peer], ports: [port] }] },
  });
  const at = 'spec.ingress[0]';
  assert.deepEqual(faults(policy, spec({})), [`${at}.from[0]: Required value: must specify a peer`]);
  assert.deepEqual(faults(policy, spec({ ipBlock: { cidr: '10.0.0.0/16', except: ['10.1.0.0/24'] } })), [
    `${at}.from[0].ipBlock.except[0]: Invalid value: "10.1.0.0/24": must be a strict subset of \`cidr\``,
  ]);
  assert.deepEqual(faults(policy, spec({ podSelector: {} }, { port: 80, endPort: 79 })), [
    `${at}.ports[0].endPort: Invalid value: 79: must be greater than or equal to \`port\``,
  ]);
  assert.deepEqual(faults(policy, spec({ podSelector: {} }, { port: 'http', endPort: 90 })), [
    `${at}.ports[0].endPort: Invalid value: 90: may not be specified when \`port\` is non-numeric`,
  ]);
});

test('an immutable ConfigMap stays as it is', () => {
  const map = kind('v1', 'ConfigMap');
  assert.deepEqual(change(map, { immutable: true, data: { a: '1' } }, { data: { a: '2' } }), [
    'immutable: Forbidden: field is immutable when `immutable` is set',
    'data: Forbidden: field is immutable when `immutable` is set',
  ]);
});

test('metadata is checked for every kind', () => {
  const map = kind('v1', 'ConfigMap');
  const big = { annotations: { a: 'x'.repeat(300_000) } };
  assert.deepEqual(faults(map, {}, big), [
    'metadata.annotations: Too long: may not be more than 262144 bytes',
  ]);
  assert.match(
    faults(map, {}, { labels: { 'a b': 'c' } })[0]!,
    /^metadata.labels: Invalid value: "a b": name part must consist/,
  );
  assert.match(
    faults(map, {}, { name: 'A' })[0]!,
    /^metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain/,
  );
  assert.deepEqual(faults(map, {}, { finalizers: ['x'] }), [
    'metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified',
  ]);
});
