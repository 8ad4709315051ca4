import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyDefaults, decodeObject, findKind } from '../index.ts';
import { imageTag } from './pod.ts';

function defaulted(apiVersion: string, kind: string, members: object): Record<string, unknown> {
  const schema = findKind(apiVersion, kind)!;
  const { object } = decodeObject(schema, { metadata: { name: 'x' }, ...members });
  applyDefaults(schema, object);
  const once = structuredClone(object);
  applyDefaults(schema, object);
  assert.deepEqual(object, once, 'defaulting twice changes nothing');
  return object as unknown as Record<string, unknown>;
}

test('a Service gets the defaults of its type', () => {
  const base = { sessionAffinity: 'None', internalTrafficPolicy: 'Cluster' };
  const ports = [{ port: 80, protocol: 'TCP', targetPort: 80 }];
  const cases: [object, object][] = [
    [{}, { ...base, type: 'ClusterIP' }],
    [{ ports: [{ port: 80 }] }, { ...base, type: 'ClusterIP', ports }],
    [{ type: 'NodePort' }, { ...base, type: 'NodePort', externalTrafficPolicy: 'Cluster' }],
    [
      { type: 'LoadBalancer', externalTrafficPolicy: 'Local' },
      { ...base, type: 'LoadBalancer', externalTrafficPolicy: 'Local', allocateLoadBalancerNodePorts: true },
    ],
    [
      { externalIPs: ['192.0.2.1'] },
      { ...base, type: 'ClusterIP', externalIPs: ['192.0.2.1'], externalTrafficPolicy: 'Cluster' },
    ],
    [
      { type: 'ExternalName', externalName: 'a.b' },
      { type: 'ExternalName', externalName: 'a.b', sessionAffinity: 'None' },
    ],
    [
      { sessionAffinity: 'ClientIP' },
      {
        ...base,
        type: 'ClusterIP',
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } },
      },
    ],
  ];
  for (const [spec, want] of cases) assert.deepEqual(defaulted('v1', 'Service', { spec })['spec'], want);
});

test('a Pod gets the defaults of Kubernetes', () => {
  const { spec, status } = defaulted('v1', 'Pod', {
    spec: {
      hostNetwork: true,
      volumes: [
        { name: 'e' },
        { name: 'c', configMap: { name: 'm' } },
        { name: 'h', hostPath: { path: '/' } },
      ],
      containers: [
        {
          name: 'a',
          image: 'nginx:1',
          ports: [{ containerPort: 80 }],
          env: [{ name: 'N', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
          readinessProbe: { httpGet: { port: 80 } },
        },
      ],
    },
  });
  assert.deepEqual(spec, {
    hostNetwork: true,
    volumes: [
      { name: 'e', emptyDir: {} },
      { name: 'c', configMap: { name: 'm', defaultMode: 420 } },
      { name: 'h', hostPath: { path: '/', type: '' } },
    ],
    containers: [
      {
        name: 'a',
        image: 'nginx:1',
        ports: [{ containerPort: 80, protocol: 'TCP', hostPort: 80 }],
        env: [{ name: 'N', valueFrom: { fieldRef: { fieldPath: 'metadata.name', apiVersion: 'v1' } } }],
        readinessProbe: {
          httpGet: { port: 80, path: '/', scheme: 'HTTP' },
          timeoutSeconds: 1,
          periodSeconds: 10,
          successThreshold: 1,
          failureThreshold: 3,
        },
        resources: {},
        terminationMessagePath: '/dev/termination-log',
        terminationMessagePolicy: 'File',
        imagePullPolicy: 'IfNotPresent',
      },
    ],
    restartPolicy: 'Always',
    dnsPolicy: 'ClusterFirst',
    terminationGracePeriodSeconds: 30,
    schedulerName: 'default-scheduler',
    securityContext: {},
    enableServiceLinks: true,
    preemptionPolicy: 'PreemptLowerPriority',
    priority: 0,
  });
  assert.deepEqual(status, { phase: 'Pending', qosClass: 'BestEffort' });
});

test('policies and slices get their protocols', () => {
  const policy = defaulted('networking.k8s.io/v1', 'NetworkPolicy', {
    spec: { egress: [{ ports: [{ port: 53 }] }] },
  });
  assert.deepEqual(policy['spec'], {
    podSelector: {},
    egress: [{ ports: [{ port: 53, protocol: 'TCP' }] }],
    policyTypes: ['Ingress', 'Egress'],
  });
  const slice = defaulted('discovery.k8s.io/v1', 'EndpointSlice', {
    addressType: 'IPv4',
    ports: [{ port: 1 }],
  });
  assert.deepEqual(slice['ports'], [{ port: 1, name: '', protocol: 'TCP' }]);
});

test('the tag of an image is found behind registries with ports, and not in digests', () => {
  const cases: [string, string][] = [
    ['nginx', 'latest'],
    ['nginx:1.27', '1.27'],
    ['registry.example:5000/nginx', 'latest'],
    ['registry.example:5000/nginx:2', '2'],
    ['nginx@sha256:abc', ''],
    ['nginx:1@sha256:abc', '1'],
  ];
  for (const [image, want] of cases) assert.equal(imageTag(image), want);
});
