import assert from 'node:assert/strict';
import test from 'node:test';
import type { EventRecorder, Log } from '../client/index.ts';
import { serviceEvents } from './service-events.ts';

type Recorded = Parameters<EventRecorder['record']>;

test('refused connections are told of the Service, or of the Pod whose hostPort it is, and of no container without one', () => {
  const told: Recorded[] = [];
  const events = serviceEvents({
    recorder: { record: (...recorded: Recorded) => told.push(recorded) } as unknown as EventRecorder,
    nodeName: 'node-a',
    isApiPod: (key) => key.startsWith('pod/'),
    log: {} as Log,
  });
  for (const key of ['default/web', 'pod/default/web-1', 'container/portolan/a1'])
    events.refused(key, new Error('no place'));
  assert.deepEqual(
    told.map(([about, { type, reason, message }]) => [about.kind, about.name, type, reason, message]),
    [
      ['Service', 'web', 'Warning', 'ConnectionsRefused', 'node-a: no place'],
      ['Pod', 'web-1', 'Warning', 'ConnectionsRefused', 'node-a: no place'],
    ],
  );
});
