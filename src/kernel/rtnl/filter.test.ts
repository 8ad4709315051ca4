import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../errors/index.ts';
import { NlWriter, readMessages } from '../netlink/index.ts';
import { ensureClsact, readBpfFilter, readQdisc, replaceBpfFilter } from './filter.ts';

function bodyOf({ request }: ReturnType<typeof ensureClsact>): Uint8Array {
  const writer = new NlWriter(16).begin(request.type, 1, 7);
  request.write(writer);
  return [...readMessages(Uint8Array.from(writer.end().written))][0]!.body;
}

const filter = replaceBpfFilter(
  { ifindex: 7, direction: 'egress', priority: 100, handle: 0x706f },
  { fd: 3, name: 'portolan:x' },
);

test('a filter reads as it was written', () => {
  assert.deepEqual(readBpfFilter(bodyOf(filter)), {
    ifindex: 7,
    direction: 'egress',
    priority: 100,
    handle: 0x706f,
    name: 'portolan:x',
    directAction: true,
    programId: 0,
  });
  assert.equal(readQdisc(bodyOf(ensureClsact(7))).kind, 'clsact');
});

test('changes read as commands of tc', () => {
  assert.equal(ensureClsact(7).text(), 'tc qdisc add dev if7 clsact');
  assert.equal(
    filter.text(() => 'po7'),
    'tc filter replace dev po7 egress pref 100 handle 0x706f bpf portolan:x direct-action',
  );
});

test('damaged messages are read or refused clearly', () => {
  const samples = [bodyOf(filter), bodyOf(ensureClsact(7))];
  fc.assert(
    fc.property(fc.constantFrom(...samples), fc.nat(), fc.nat(255), fc.nat(), (sample, at, byte, length) => {
      const bytes = sample.slice(0, length % (sample.length + 1));
      if (bytes.length > 0) bytes[at % bytes.length] = byte;
      for (const read of [readBpfFilter, readQdisc])
        try {
          read(bytes);
        } catch (error) {
          assert.ok(isNetError(error, 'NETLINK_MALFORMED'), String(error));
        }
    }),
  );
});
