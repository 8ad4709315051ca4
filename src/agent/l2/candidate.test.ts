import assert from 'node:assert/strict';
import test from 'node:test';
import { type Mac, parseIp, parseMac } from '../../addr/index.ts';
import type { ApiClient } from '../../client/index.ts';
import { NetError } from '../../errors/index.ts';
import { Candidate } from './candidate.ts';
import type { L2Responder } from './responder.ts';

const failure = (code: string) => new NetError(code, { message: code, remedy: '', context: {} });
const other = parseMac('02:00:00:00:00:02');

/** Stands for an address until it is known to be taken, or is elected for; the API says `answers` about its Lease. */
async function standing(answers: readonly ('there' | 'none' | 'away')[], owner: Mac | undefined) {
  const told: string[] = [];
  const left = [...answers];
  const decided = Promise.withResolvers<'taken' | 'elected'>();
  const get = async (_resource: unknown, _name: unknown, { timeoutMs }: { timeoutMs?: number }) => {
    // Only an election is in a hurry.
    if (timeoutMs !== undefined) decided.resolve('elected');
    const answer = timeoutMs === undefined ? left.shift() : 'away';
    assert.ok(answer, 'asked more often than it need be');
    if (answer !== 'there') throw failure(answer === 'none' ? 'CLIENT_NOT_FOUND' : 'CLIENT_UNREACHABLE');
    return { metadata: {}, spec: { holderIdentity: 'node2' } };
  };
  const none = () => {};
  const candidate = new Candidate(
    '192.0.2.50',
    { address: parseIp('192.0.2.50'), ifindex: 2, services: ['Namespace/shop'] },
    {
      client: { get } as unknown as ApiClient,
      nodeName: 'node1',
      log: { debug: none, info: none, warn: none, error: none },
      responder: () => ({ owner: async () => owner, remove: none }) as unknown as L2Responder,
      onEvent: (_services, type, reason) => {
        told.push(`${type} ${reason}`);
        decided.resolve('taken');
      },
    },
  );
  const what = await decided.promise;
  const { reason } = candidate;
  await candidate.end(false);
  return { what, told, reason };
}

const TAKEN = { what: 'taken', told: ['Warning AddressConflict'], reason: `${other} has it on the link` };
const ELECTED = { what: 'elected', told: [], reason: undefined };

test('a host that has the address on the link while no node was elected keeps it', async () => {
  assert.deepEqual(await standing(['none', 'none'], other), TAKEN);
  assert.deepEqual(await standing(['none', 'away'], other), TAKEN, 'nobody knows better');
});

test('a node that was elected while the link was asked is no stranger', async () => {
  assert.deepEqual(await standing(['none', 'there'], other), ELECTED);
});

test('an address that nobody has, and one whose Lease is there, are stood for', async () => {
  assert.deepEqual(await standing(['none'], undefined), ELECTED);
  assert.deepEqual(await standing(['there'], other), ELECTED);
});
