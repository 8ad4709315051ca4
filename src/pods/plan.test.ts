import assert from 'node:assert/strict';
import test from 'node:test';
import type { Container, Pod } from '../model/kubernetes.ts';
import { type Observed, type ObservedContainer, planPod } from './plan.ts';
import type { RunnerContainer, Sandbox } from './types.ts';

const now = 1_000_000;
const sandbox: Sandbox = {
  id: 's',
  metadata: { name: 'p', namespace: 'ns', uid: 'u', attempt: 0 },
  state: 'ready',
  createdAtMs: now,
  hostNetwork: false,
  ips: ['10.0.0.1'],
  labels: {},
  annotations: {},
};

function run(state: RunnerContainer['state'], exitCode = 0, attempt = 0): RunnerContainer {
  const base = {
    id: 'id',
    sandboxId: 's',
    name: 'c',
    attempt,
    image: 'i',
    createdAtMs: now,
    logPath: '/l',
    state,
  };
  return state === 'exited' ? { ...base, exitCode } : base;
}

function seen(latest?: RunnerContainer, rest: Partial<ObservedContainer> = {}): ObservedContainer {
  return {
    nextAttempt: latest ? latest.attempt + 1 : 0,
    backoffUntilMs: 0,
    stopping: false,
    ...(latest ? { latest } : {}),
    ...rest,
  };
}

interface Case {
  story: string;
  spec?: Partial<Pod['spec']>;
  init?: Container[];
  deleting?: boolean;
  containers?: Record<string, ObservedContainer>;
  observed?: Partial<Observed>;
  want: string;
}

const cases: Case[] = [
  { story: 'a new pod first gets a sandbox', observed: { nextSandboxAttempt: 0 }, want: 'sandbox 0' },
  { story: 'then its container', observed: { sandbox }, want: 'start c 0' },
  {
    story: 'a running container is left alone',
    observed: { sandbox },
    containers: { c: seen(run('running')) },
    want: '',
  },
  {
    story: 'init containers come one after the other',
    init: [{ name: 'i1' }, { name: 'i2' }],
    observed: { sandbox },
    containers: { i1: seen(run('running')) },
    want: '',
  },
  {
    story: 'the second init container follows the first',
    init: [{ name: 'i1' }, { name: 'i2' }],
    observed: { sandbox },
    containers: { i1: seen(run('exited', 0)) },
    want: 'start i2 0',
  },
  {
    story: 'a failed init container is tried again',
    init: [{ name: 'i1' }],
    observed: { sandbox },
    containers: { i1: seen(run('exited', 1)) },
    want: 'start i1 1',
  },
  {
    story: 'a failed init container of a Never pod is its end',
    spec: { restartPolicy: 'Never' },
    init: [{ name: 'i1' }],
    observed: { sandbox },
    containers: { i1: seen(run('exited', 1)) },
    want: 'finish',
  },
  {
    story: 'containers follow a sidecar that runs',
    init: [{ name: 'i1', restartPolicy: 'Always' }],
    observed: { sandbox },
    containers: { i1: seen(run('running')) },
    want: 'start c 0',
  },
  {
    story: 'containers wait for the startup probe of a sidecar',
    init: [{ name: 'i1', restartPolicy: 'Always' }],
    observed: { sandbox },
    containers: { i1: seen(run('running'), { startup: 'unknown' }) },
    want: '',
  },
  {
    story: 'Always restarts success',
    observed: { sandbox },
    containers: { c: seen(run('exited', 0, 4)) },
    want: 'start c 5',
  },
  {
    story: 'OnFailure does not restart success',
    spec: { restartPolicy: 'OnFailure' },
    observed: { sandbox },
    containers: { c: seen(run('exited', 0)) },
    want: 'finish',
  },
  {
    story: 'Never does not restart failure',
    spec: { restartPolicy: 'Never' },
    observed: { sandbox },
    containers: { c: seen(run('exited', 1)) },
    want: 'finish',
  },
  {
    story: 'back-off is waited for',
    observed: { sandbox },
    containers: { c: seen(run('exited', 1), { backoffUntilMs: now + 10 }) },
    want: `wait ${now + 10}`,
  },
  {
    story: 'what cannot start is not tried for ever',
    observed: { sandbox },
    containers: {
      c: seen(undefined, {
        blocked: { reason: 'NoCommand', message: '', retryAtMs: Number.POSITIVE_INFINITY },
      }),
    },
    want: '',
  },
  {
    story: 'a created container is started as the same attempt',
    observed: { sandbox },
    containers: { c: seen(run('created', 0, 2)) },
    want: 'start c 2',
  },
  {
    story: 'a failed liveness probe kills',
    observed: { sandbox },
    containers: { c: seen(run('running'), { liveness: 'failure' }) },
    want: 'kill c liveness',
  },
  {
    story: 'what is being stopped is not killed again',
    observed: { sandbox },
    containers: { c: seen(run('running'), { liveness: 'failure', stopping: true }) },
    want: '',
  },
  {
    story: 'a sandbox that died is replaced',
    observed: { sandbox: { ...sandbox, state: 'notReady' }, nextSandboxAttempt: 1 },
    containers: { c: seen(run('exited', 137)) },
    want: 'sandbox 1',
  },
  {
    story: 'but not for a pod that is done',
    spec: { restartPolicy: 'Never' },
    observed: { sandbox: { ...sandbox, state: 'notReady' }, nextSandboxAttempt: 1 },
    containers: { c: seen(run('exited', 137)) },
    want: 'finish',
  },
  { story: 'a sandbox that failed waits', observed: { sandboxRetryAtMs: now + 5 }, want: `wait ${now + 5}` },
  { story: 'a deleted pod ends whatever it does', deleting: true, observed: { sandbox }, want: 'terminate' },
  { story: 'Failed is for ever', observed: { sandbox, phase: 'Failed' }, want: 'finish' },
  {
    story: 'past its deadline a pod is killed',
    spec: { activeDeadlineSeconds: 1 },
    observed: { sandbox, startedAtMs: now - 1000 },
    containers: { c: seen(run('running')) },
    want: 'kill c deadline',
  },
  {
    story: 'the deadline is waited for',
    spec: { activeDeadlineSeconds: 2 },
    observed: { sandbox, startedAtMs: now - 1000 },
    containers: { c: seen(run('running')) },
    want: `wait ${now + 1000}`,
  },
];

test('planPod() decides by what is there', async (t) => {
  for (const one of cases)
    await t.test(one.story, () => {
      const pod: Pod = {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'p', ...(one.deleting ? { deletionTimestamp: 'x' } : {}) },
        spec: { containers: [{ name: 'c' }], ...(one.init ? { initContainers: one.init } : {}), ...one.spec },
      };
      const containers = new Map(
        [...(one.init ?? []), { name: 'c' }].map(({ name }) => [name, one.containers?.[name] ?? seen()]),
      );
      const observed: Observed = {
        nextSandboxAttempt: 0,
        sandboxRetryAtMs: 0,
        containers,
        initialized: containers.get('c')!.latest !== undefined,
        phase: 'Pending',
        startedAtMs: now,
        ...one.observed,
      };
      const told = planPod(pod, observed, now).map((action) => {
        if (action.kind === 'sandbox') return `sandbox ${action.attempt}`;
        if (action.kind === 'start') return `start ${action.container.name} ${action.attempt}`;
        if (action.kind === 'kill') return `kill ${action.container.name} ${action.why}`;
        return action.kind === 'wait' ? `wait ${action.untilMs}` : action.kind;
      });
      assert.equal(told.join(', '), one.want);
    });
});
