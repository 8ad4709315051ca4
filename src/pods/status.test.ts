import assert from 'node:assert/strict';
import test from 'node:test';
import type { Container, Pod, PodStatus } from '../model/kubernetes.ts';
import type { Observed, ObservedContainer } from './plan.ts';
import { podStatus, type StatusInput } from './status.ts';
import type { RunnerContainer } from './types.ts';

const now = Date.parse('2026-01-01T00:01:00Z');

function run(state: RunnerContainer['state'], rest: Partial<RunnerContainer> = {}): RunnerContainer {
  return {
    id: 'f'.repeat(64),
    sandboxId: 's',
    name: 'c',
    attempt: 0,
    image: 'nginx',
    createdAtMs: now - 5000,
    startedAtMs: now - 5000,
    logPath: '/l',
    state,
    ...(state === 'exited' ? { exitCode: 1, reason: 'Error', finishedAtMs: now - 1000 } : {}),
    ...rest,
  };
}

const seen = (latest?: RunnerContainer, rest: Partial<ObservedContainer> = {}): ObservedContainer => ({
  nextAttempt: latest ? latest.attempt + 1 : 0,
  backoffUntilMs: 0,
  stopping: false,
  ...(latest ? { latest } : {}),
  ...rest,
});

interface Given {
  spec?: Partial<Pod['spec']>;
  init?: Container[];
  containers?: Record<string, ObservedContainer>;
  observed?: Partial<Observed>;
  before?: PodStatus;
  rest?: Partial<StatusInput>;
}

function status(given: Given): PodStatus {
  const names = [...(given.init ?? []).map((one) => one.name), 'c'];
  const containers = new Map(names.map((name) => [name, given.containers?.[name] ?? seen()]));
  return podStatus({
    pod: {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'ns', uid: 'u' },
      spec: {
        containers: [{ name: 'c', image: 'nginx' }],
        ...(given.init ? { initContainers: given.init } : {}),
        ...given.spec,
      },
    },
    observed: {
      sandbox: {
        id: 's',
        metadata: { name: 'p', namespace: 'ns', uid: 'u', attempt: 0 },
        state: 'ready',
        createdAtMs: now,
        hostNetwork: false,
        ips: ['10.0.0.1', 'fd00::1'],
        labels: {},
        annotations: {},
      },
      nextSandboxAttempt: 1,
      sandboxRetryAtMs: 0,
      containers,
      initialized: containers.get('c')!.latest !== undefined,
      phase: given.before?.phase,
      startedAtMs: now - 10_000,
      ...given.observed,
    },
    previousEnds: new Map(),
    backoffDelayMs: () => 20_000,
    runtimeName: 'portolan',
    hostIps: ['192.0.2.1'],
    before: given.before,
    nowMs: now,
    ...given.rest,
  });
}

/** `phase Ready=… | container state`, as kubectl would sum it up. */
function told(given: Given): string {
  const one = status(given);
  const ready = one.conditions!.find((condition) => condition.type === 'Ready')!.status;
  const [c] = one.containerStatuses!;
  const state = c!.state!.running
    ? 'running'
    : c!.state!.terminated
      ? `terminated ${c!.state!.terminated.exitCode}`
      : `waiting ${c!.state!.waiting!.reason}`;
  const last = c!.lastState?.terminated ? ` last ${c!.lastState.terminated.exitCode}` : '';
  return `${one.phase} Ready=${ready} ${state}${last} restarts=${c!.restartCount}`;
}

test('podStatus() says phase, readiness and states as kubelet would', async (t) => {
  const policy = (restartPolicy: 'Never' | 'OnFailure') => ({ restartPolicy });
  const cases: [string, Given, string][] = [
    ['new', {}, 'Pending Ready=False waiting ContainerCreating restarts=0'],
    ['initializing', { init: [{ name: 'i' }] }, 'Pending Ready=False waiting PodInitializing restarts=0'],
    ['running', { containers: { c: seen(run('running')) } }, 'Running Ready=True running restarts=0'],
    [
      'probe not passed',
      { containers: { c: seen(run('running'), { readiness: 'failure' }) } },
      'Running Ready=False running restarts=0',
    ],
    [
      'not started',
      { containers: { c: seen(run('running'), { startup: 'unknown' }) } },
      'Running Ready=False running restarts=0',
    ],
    [
      'being stopped',
      { containers: { c: seen(run('running'), { stopping: true }) } },
      'Running Ready=False running restarts=0',
    ],
    [
      'crash loop',
      { containers: { c: seen(run('exited', { attempt: 3 }), { backoffUntilMs: now + 1 }) } },
      'Running Ready=False waiting CrashLoopBackOff last 1 restarts=3',
    ],
    [
      'between two runs',
      { containers: { c: seen(run('exited')) } },
      'Running Ready=False terminated 1 restarts=0',
    ],
    [
      'failed',
      { spec: policy('Never'), containers: { c: seen(run('exited')) } },
      'Failed Ready=False terminated 1 restarts=0',
    ],
    [
      'completed',
      { spec: policy('OnFailure'), containers: { c: seen(run('exited', { exitCode: 0 })) } },
      'Succeeded Ready=False terminated 0 restarts=0',
    ],
    [
      'no command',
      {
        containers: {
          c: seen(undefined, { blocked: { reason: 'NoCommand', message: 'm', retryAtMs: Infinity } }),
        },
      },
      'Pending Ready=False waiting NoCommand restarts=0',
    ],
    [
      'init failed for good',
      { spec: policy('Never'), init: [{ name: 'i' }], containers: { i: seen(run('exited')) } },
      'Failed Ready=False waiting PodInitializing restarts=0',
    ],
    [
      'Failed stays',
      { before: { phase: 'Failed' }, containers: { c: seen(run('exited')) } },
      'Failed Ready=False terminated 1 restarts=0',
    ],
    [
      'past its deadline',
      { spec: { activeDeadlineSeconds: 5 }, containers: { c: seen(run('exited')) } },
      'Failed Ready=False terminated 1 restarts=0',
    ],
  ];
  for (const [story, given, want] of cases) await t.test(story, () => assert.equal(told(given), want));
});

test('podStatus() keeps a transition time as long as the condition keeps its status', () => {
  const first = status({ containers: { c: seen(run('running')) } });
  const later = status({
    containers: { c: seen(run('running'), { readiness: 'failure' }) },
    before: first,
    rest: { nowMs: now + 60_000 },
  });
  const times = (one: PodStatus) =>
    Object.fromEntries(one.conditions!.map(({ type, lastTransitionTime }) => [type, lastTransitionTime]));
  assert.equal(times(first)['Ready'], '2026-01-01T00:01:00Z');
  assert.equal(times(later)['Ready'], '2026-01-01T00:02:00Z');
  assert.equal(times(later)['Initialized'], '2026-01-01T00:01:00Z');
});

test('podStatus() tells addresses of both families, of the node for host network, and those a done pod had', () => {
  const both = status({ containers: { c: seen(run('running')) } });
  assert.deepEqual([both.podIP, both.podIPs], ['10.0.0.1', [{ ip: '10.0.0.1' }, { ip: 'fd00::1' }]]);
  assert.equal(status({ spec: { hostNetwork: true } }).podIP, '192.0.2.1');
  assert.equal(withoutSandbox({ phase: 'Failed', podIP: '10.0.0.9' }).podIP, '10.0.0.9');
});

function withoutSandbox(before: PodStatus): PodStatus {
  return podStatus({
    pod: { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, spec: { containers: [{ name: 'c' }] } },
    observed: {
      nextSandboxAttempt: 1,
      sandboxRetryAtMs: 0,
      containers: new Map([['c', seen()]]),
      initialized: false,
      phase: before.phase,
      startedAtMs: now,
    },
    previousEnds: new Map(),
    backoffDelayMs: () => 0,
    runtimeName: 'portolan',
    hostIps: ['192.0.2.1'],
    before,
    nowMs: now,
  });
}

test('readiness gates hold the pod back, not its containers', () => {
  const gated = status({
    spec: { readinessGates: [{ conditionType: 'example.com/x' }] },
    containers: { c: seen(run('running')) },
  });
  const byType = Object.fromEntries(gated.conditions!.map((one) => [one.type, one.status]));
  assert.deepEqual([byType['Ready'], byType['ContainersReady']], ['False', 'True']);
});
