import assert from 'node:assert/strict';
import test from 'node:test';
import type { Container, Pod } from '../model/kubernetes.ts';
import { Backoff, goDuration } from './backoff.ts';
import { containerSecurity, podHostname, sandboxConfig } from './container-config.ts';
import { afterProbe, beforeProbes, eagerDelayMs, type ProbeProgress, probeSettings } from './probe.ts';
import { qosClass } from './qos.ts';
import { quantityValue } from './quantity.ts';
import { Semaphore } from './semaphore.ts';
import { configMapFiles } from './volumes.ts';

function podOf(spec: Partial<Pod['spec']>, container: Partial<Container> = {}): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p', namespace: 'ns', uid: 'u' },
    spec: { containers: [{ name: 'c', ...container }], ...spec },
  };
}

test('quantityValue() reads Kubernetes quantities', () => {
  const cases: [string | number, number][] = [
    ['64Mi', 64 * 2 ** 20],
    ['250m', 0.25],
    ['1', 1],
    [2, 2],
    ['1.5Gi', 1.5 * 2 ** 30],
    ['1e3', 1000],
    ['3k', 3000],
    ['.5', 0.5],
  ];
  for (const [text, want] of cases) assert.equal(quantityValue(text), want, String(text));
  for (const bad of ['', 'x', '1 Mi', '1mi', 'Mi']) assert.ok(Number.isNaN(quantityValue(bad)), bad);
});

test('qosClass() is Guaranteed only when every container limits cpu and memory to what it requests', () => {
  const limits = { cpu: '1', memory: '1Gi' };
  const cases: [Container['resources'], string][] = [
    [undefined, 'BestEffort'],
    [{ limits }, 'Guaranteed'],
    [{ limits, requests: { cpu: '1000m', memory: '1024Mi' } }, 'Guaranteed'],
    [{ limits, requests: { cpu: '500m' } }, 'Burstable'],
    [{ limits: { cpu: '1' } }, 'Burstable'],
    [{ requests: { memory: '1Mi' } }, 'Burstable'],
    [{ requests: { 'example.com/x': '1' } }, 'BestEffort'],
  ];
  for (const [resources, want] of cases)
    assert.equal(qosClass(podOf({}, resources ? { resources } : {})), want, JSON.stringify(resources));
});

test('Backoff lets the first restart through, then waits the base, doubling up to the bound', () => {
  const backoff = new Backoff({ baseMs: 10_000, maxMs: 300_000, resetMs: 600_000 });
  const waits = [];
  let now = 1_000;
  for (let i = 0; i < 8; i++) {
    waits.push(backoff.failed('c', now, 5) / 1000);
    now = backoff.untilMs('c') + 5;
  }
  assert.deepEqual(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
  assert.equal(backoff.failed('c', now, 600_000), 0, 'a long run starts anew');
  assert.equal(backoff.untilMs('other'), 0);
});

test('goDuration() prints as Go does', () => {
  const cases: [number, string][] = [
    [250, '250ms'],
    [10_000, '10s'],
    [80_000, '1m20s'],
    [300_000, '5m0s'],
    [1_500, '1.5s'],
  ];
  for (const [ms, want] of cases) assert.equal(goDuration(ms), want);
});

test('a probe changes its verdict only at its thresholds', () => {
  const settings = probeSettings({ successThreshold: 2, failureThreshold: 3 });
  const run = (results: string) => {
    let progress: ProbeProgress = beforeProbes('readiness');
    return [...results]
      .map((result) => {
        progress = afterProbe(progress, result === '+', settings);
        return progress.verdict === 'success' ? 'R' : '-';
      })
      .join('');
  };
  assert.equal(run('+++--+--+---++'), '-RRRRRRRRRR--R');
  assert.equal(run('++'), '-R');
  assert.equal(run('+-+-'), '----');
  assert.equal(run('++---'), '-RRR-');
  assert.equal(run('++--+---'), '-RRRRRR-');
});

test('probeSettings() has the defaults of Kubernetes', () => {
  assert.deepEqual(probeSettings({}), {
    initialDelayMs: 0,
    periodMs: 10_000,
    timeoutMs: 1_000,
    successThreshold: 1,
    failureThreshold: 3,
  });
});

test('eager probes come quickly at first, never slower than the period, and never for liveness', () => {
  const settings = probeSettings({ periodSeconds: 1 });
  const delays = Array.from({ length: 8 }, (_, i) => eagerDelayMs('readiness', i + 1, settings));
  assert.deepEqual(delays, [10, 20, 40, 80, 150, 300, 400, undefined]);
  assert.equal(eagerDelayMs('liveness', 1, settings), undefined);
});

test('sandboxConfig() gives cluster DNS, the host name, and only sysctls of the pod itself', () => {
  const dns = { servers: ['10.96.0.10'], clusterDomain: 'cluster.local' };
  const config = sandboxConfig(podOf({ dnsConfig: { options: [{ name: 'timeout', value: '1' }] } }), 2, dns);
  assert.deepEqual(config.dns, {
    servers: ['10.96.0.10'],
    searches: ['ns.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
    options: ['ndots:5', 'timeout:1'],
  });
  assert.equal(config.metadata.attempt, 2);
  assert.deepEqual(sandboxConfig(podOf({ hostNetwork: true }), 0, dns).dns.servers, []);
  const sysctls = (name: string) => ({ securityContext: { sysctls: [{ name, value: '1' }] } });
  assert.deepEqual(sandboxConfig(podOf(sysctls('net.core.somaxconn')), 0, dns).sysctls, {
    'net.core.somaxconn': '1',
  });
  assert.throws(() => sandboxConfig(podOf(sysctls('vm.swappiness')), 0, dns), /does not belong to the pod/);
  assert.throws(() => sandboxConfig(podOf({ hostNetwork: true, ...sysctls('net.ipv4.ip_forward') }), 0, dns));
  const long = podOf({});
  long.metadata.name = `${'a'.repeat(62)}-bbb`;
  assert.equal(podHostname(long), 'a'.repeat(62));
});

test('containerSecurity() takes the container before the pod, and keeps non-root promises', () => {
  const pod = podOf({
    securityContext: { runAsUser: 5, runAsGroup: 6, fsGroup: 7, supplementalGroups: [8] },
  });
  const [container] = pod.spec.containers;
  assert.deepEqual(containerSecurity(pod, container!).groups, [6, 8, 7]);
  const own = containerSecurity(pod, {
    name: 'c',
    securityContext: { runAsUser: 9, capabilities: { drop: ['ALL'] }, allowPrivilegeEscalation: false },
  });
  assert.deepEqual([own.uid, own.gid, own.dropCapabilities, own.noNewPrivileges], [9, 6, ['ALL'], true]);
  assert.throws(
    () => containerSecurity(podOf({ securityContext: { runAsNonRoot: true } }), { name: 'c' }),
    /runAsUser/,
  );
});

test('configMapFiles() picks keys, and refuses paths that lead outside', () => {
  const map = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'm' },
    data: { a: '1' },
    binaryData: { b: 'AAE=' },
  };
  const volume = (configMap: object) => ({ name: 'v', configMap: { name: 'm', ...configMap } });
  const told = (configMap: object, from: typeof map | undefined = map) =>
    configMapFiles(volume(configMap), from).map(
      (file) => `${file.path}=${file.content.toString('hex')} ${file.mode.toString(8)}`,
    );
  assert.deepEqual(told({}), ['a=31 644', 'b=0001 644']);
  assert.deepEqual(told({ items: [{ key: 'a', path: 'd/e', mode: 0o600 }] }), ['d/e=31 600']);
  assert.deepEqual(configMapFiles(volume({ optional: true }), undefined), []);
  assert.throws(() => configMapFiles(volume({}), undefined), /configmap "m" not found/);
  assert.throws(() => told({ items: [{ key: 'zz', path: 'x' }] }), /has no key "zz"/);
  for (const path of ['../x', 'a/../../x', '/etc/x'])
    assert.throws(() => told({ items: [{ key: 'a', path }] }), /outside/);
});

test('Semaphore never lets more than its limit work', async () => {
  const semaphore = new Semaphore(2);
  let now = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 7 }, (_, i) =>
      semaphore
        .run(async () => {
          most = Math.max(most, ++now);
          await Promise.resolve();
          now--;
          if (i === 3) throw new Error('one fails');
        })
        .catch(() => {}),
    ),
  );
  assert.equal(most, 2);
  assert.equal(now, 0);
});
