/** Maps, constants and variables on the real kernel; bpftool is the oracle. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { bytes, pad, struct, u8, u16, u32, u64 } from '../../src/codec/index.ts';
import { isNetError, kernelCause } from '../../src/errors/index.ts';
import {
  adoptMap,
  BpfMap,
  checkLayout,
  ensureBpffs,
  loadObject,
  MAP_TYPE,
  possibleCpus,
  RingBuffer,
  readObjectFile,
} from '../../src/kernel/bpf/index.ts';
import { bpftool, dumpMap, numberOf, testObject, u32Bytes } from '../lib/bpf.ts';

const key = struct('key', [
  ['address', u32],
  ['port', u16],
  ['proto', u8],
  ['pad', pad(1)],
]);
const value = struct('value', [
  ['id', u64],
  ['address', u32],
  ['port', u16],
  ['flags', u16],
]);
const prefixKey = struct('prefix_key', [
  ['length', u32],
  ['address', bytes(4)],
]);

const packet = { data: new Uint8Array(64) };

test('structures in TypeScript agree with what clang laid out', () => {
  const file = readObjectFile(readFileSync(testObject('maps')), 'maps');
  for (const declared of [key, value, prefixKey]) checkLayout(declared, file.btf);
});

test('constants, variables, static, global and callback functions work in a loaded program', () => {
  using object = loadObject(testObject('maps'), {
    rodata: { magic: 100, wide: 1000n, address: new Uint8Array(16).fill(3), started: 5 },
  });
  const program = object.program('sum');
  assert.equal(program.run(packet).returned, 1103);
  assert.equal(program.run({ ...packet, repeat: 3 }).returned, 1103);
  const counts = object.map('counts');
  assert.equal(numberOf(counts.get(u32Bytes(0))), 4);
  assert.equal(numberOf(counts.get(u32Bytes(2))), 4 * 10);
  assert.equal(numberOf(object.readVariable('started')), 9);
  assert.equal(numberOf(object.readVariable('zeroed')), 4000);
  const shown = bpftool('prog', 'show', 'id', program.info().id) as Record<string, unknown>;
  assert.equal(shown['name'], 'sum');
  assert.equal(shown['type'], 'sched_cls');
  assert.equal(shown['tag'], program.info().tag);
  const constants = bpftool('map', 'show', 'id', object.data.get('.rodata')!.info().id) as Record<
    string,
    unknown
  >;
  assert.equal(constants['frozen'], 1);
  assert.throws(
    () => object.data.get('.rodata')!.set(u32Bytes(0), new Uint8Array(object.data.get('.rodata')!.valueSize)),
    (error) => isNetError(error, 'BPF_MAP_CALL') && kernelCause(error)?.name === 'EPERM',
  );
});

test('a hash map takes, lists and loses entries singly and in batches', () => {
  using object = loadObject(testObject('maps'), { maps: { services: { maxEntries: 30_000 } } });
  const services = object.map('services').typed(key, value);
  const entry = (n: number) =>
    [
      { address: n, port: 80, proto: 6 },
      { id: BigInt(n), address: n * 2, port: n & 0xffff, flags: 1 },
    ] as const;
  const [first, one] = entry(1);
  assert.equal(services.get(first), undefined);
  assert.equal(services.set(first, one, 'replace'), false);
  assert.equal(services.set(first, one, 'create'), true);
  assert.equal(services.set(first, one, 'create'), false);
  assert.deepEqual(services.get(first), one);
  assert.deepEqual(dumpMap(services.map.info().id), [
    { key: [...key.encode(first)], value: [...value.encode(one)] },
  ]);
  assert.equal(services.delete(first), true);
  assert.equal(services.delete(first), false);

  const many = Array.from({ length: 20_000 }, (_, n) => entry(n));
  assert.equal(services.setMany(many), 20_000);
  const listed = [...services.entries()].sort(([a], [b]) => a.address - b.address);
  assert.deepEqual(listed, many);
  // Absent keys between those that exist are skipped.
  const gone = Array.from({ length: 25_000 }, (_, n) => entry(n * 2)[0]);
  assert.equal(services.deleteMany(gone), 10_000);
  assert.equal([...services.entries()].length, 10_000);
  assert.equal(services.map.clear(), 10_000);
  assert.equal(services.map.nextKey(), undefined);
  assert.throws(
    () => services.setMany(Array.from({ length: 30_001 }, (_, n) => entry(n))),
    (error) => isNetError(error, 'BPF_MAP_CALL') && kernelCause(error)?.name === 'E2BIG',
  );
});

test('per-CPU maps keep one value for each possible CPU', () => {
  using object = loadObject(testObject('maps'));
  const cpus = possibleCpus();
  for (const [name, typeName] of [
    ['per_cpu_hash', 'percpu_hash'],
    ['recent_per_cpu', 'lru_percpu_hash'],
    ['per_cpu_array', 'percpu_array'],
  ] as const) {
    const map = object.map(name);
    assert.equal((bpftool('map', 'show', 'id', map.info().id) as { type: string }).type, typeName);
    const stride = (map.valueSize + 7) & ~7;
    const all = new Uint8Array(stride * cpus);
    for (let cpu = 0; cpu < cpus; cpu++) all[cpu * stride] = cpu + 1;
    map.setMany([[u32Bytes(2), all]]);
    assert.deepEqual(
      map.getPerCpu(u32Bytes(2))?.map((one) => one[0]),
      Array.from({ length: cpus }, (_, cpu) => cpu + 1),
    );
    const dumped = bpftool('map', 'lookup', 'id', map.info().id, 'key', 2, 0, 0, 0) as {
      values: { cpu: number; value: string[] }[];
    };
    assert.deepEqual(
      dumped.values.map(({ value }) => Number.parseInt(value[0]!, 16)),
      Array.from({ length: cpus }, (_, cpu) => cpu + 1),
    );
    const seen = [...map.entries()].find(([k]) => numberOf(k) === 2);
    assert.deepEqual(seen?.[1], all);
  }
});

test('an LPM map answers with the longest prefix', () => {
  using object = loadObject(testObject('maps'));
  const prefixes = object.map('prefixes').typed(prefixKey, u32);
  prefixes.setMany([
    [{ length: 8, address: Uint8Array.of(10, 0, 0, 0) }, 8],
    [{ length: 24, address: Uint8Array.of(10, 244, 1, 0) }, 24],
  ]);
  const find = (...address: number[]) => prefixes.get({ length: 32, address: Uint8Array.from(address) });
  assert.equal(find(10, 244, 1, 7), 24);
  assert.equal(find(10, 1, 1, 1), 8);
  assert.equal(find(192, 168, 0, 1), undefined);
  assert.equal(dumpMap(prefixes.map.info().id).length, 2);
  assert.deepEqual([...prefixes.entries()].map(([k]) => k.length).sort(), [24, 8]);
  assert.equal(prefixes.delete({ length: 24, address: Uint8Array.of(10, 244, 1, 0) }), true);
  assert.equal(find(10, 244, 1, 7), 8);
});

test('an LRU map drops old entries instead of refusing new ones', () => {
  using object = loadObject(testObject('maps'));
  const recent = object.map('recent').typed(key, u32);
  recent.setMany(Array.from({ length: 1000 }, (_, n) => [{ address: n, port: 1, proto: 17 }, n] as const));
  const left = [...recent.entries()].length;
  assert.ok(left > 0 && left <= 128, `${left} entries`);
  assert.equal(dumpMap(recent.map.info().id).length, left);
});

test('maps of maps hold their initial maps and are swapped under a program', () => {
  using object = loadObject(testObject('maps'));
  object.map('table_a').set(u32Bytes(2), u32Bytes(7));
  const program = object.program('from_table');
  assert.equal(program.run(packet).returned, 7);
  const tables = object.map('tables');
  assert.equal(numberOf(tables.get(u32Bytes(1))), object.map('table_a').info().id);
  assert.equal(numberOf(tables.get(u32Bytes(3))), object.map('table_b').info().id);
  using other = BpfMap.create({
    name: 'other',
    type: MAP_TYPE.ARRAY,
    keySize: 4,
    valueSize: 4,
    maxEntries: 4,
  });
  other.set(u32Bytes(2), u32Bytes(9));
  tables.setFd(u32Bytes(1), other);
  assert.equal(program.run(packet).returned, 9);

  const named = object.map('named_tables');
  using inner = BpfMap.create({
    name: 'inner',
    type: MAP_TYPE.HASH,
    keySize: 4,
    valueSize: 8,
    maxEntries: 32,
  });
  named.setFd(u32Bytes(77), inner);
  assert.deepEqual(
    [...named.entries()].map(([k, v]) => [numberOf(k), numberOf(v)]),
    [[77, inner.info().id]],
  );
  using unfit = BpfMap.create({
    name: 'unfit',
    type: MAP_TYPE.HASH,
    keySize: 4,
    valueSize: 4,
    maxEntries: 32,
  });
  assert.throws(() => named.setFd(u32Bytes(78), unfit), /Cannot write to BPF map "named_tables"/);
});

test('a queue keeps order and says when it is full', () => {
  using object = loadObject(testObject('maps'));
  const queue = object.map('queue');
  assert.equal(queue.push(u32Bytes(1)), true);
  assert.equal(queue.push(u32Bytes(2)), true);
  assert.equal(queue.push(u32Bytes(3)), false);
  assert.deepEqual([queue.pop(), queue.pop(), queue.pop()], [u32Bytes(1), u32Bytes(2), undefined]);
});

test('a ring buffer delivers every record, also after it wrapped and through the event loop', async () => {
  using object = loadObject(testObject('maps'), { rodata: { magic: 0x1234 } });
  const lengths: number[] = [];
  using ring = new RingBuffer(object.map('events'), (record) => {
    lengths.push(numberOf(record.slice(0, 4)));
    assert.equal(numberOf(record.slice(4, 8)), 0x1234);
  });
  const program = object.program('event');
  // 16 bytes each: 10,000 records are more than twice the 64 KiB.
  for (let round = 0; round < 20; round++) {
    program.run({ data: new Uint8Array(100 + round), repeat: 500 });
    assert.equal(ring.drain(), 500);
  }
  assert.equal(lengths.length, 10_000);
  assert.deepEqual([lengths[0], lengths.at(-1)], [100, 119]);
  ring.start();
  program.run(packet);
  for (let waited = 0; lengths.length === 10_000 && waited < 100; waited++)
    await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(lengths.at(-1), 64);
});

test('a mapped array is the same memory that programs count in', () => {
  using object = loadObject(testObject('maps'));
  const memory = object.map('counts').memory();
  const counts = new BigUint64Array(memory.buffer, 0, 8);
  object.program('sum').run(packet);
  assert.equal(counts[1], 64n);
  counts[1] = 0n;
  object.program('sum').run(packet);
  assert.deepEqual(dumpMap(object.map('counts').info().id)[1]!.value, [64, 0, 0, 0, 0, 0, 0, 0]);
  memory.unmap();
});

test('a map marked for pinning survives its process; another shape under its name is refused', () => {
  const pins = ensureBpffs('/sys/fs/bpf', `pt-maps-${process.pid}`);
  try {
    const source = `
      import { loadObject } from ${JSON.stringify(join(import.meta.dirname, '../../src/kernel/bpf/index.ts'))};
      const object = loadObject(${JSON.stringify(testObject('maps'))}, { pins: ${JSON.stringify(pins)} });
      object.map('kept').set(Uint8Array.of(1, 0, 0, 0), Uint8Array.of(2, 0, 0, 0));
      console.log(object.map('kept').info().id);`;
    const id = Number(
      execFileSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' }),
    );
    using object = loadObject(testObject('maps'), { pins });
    assert.equal(object.map('kept').info().id, id);
    assert.deepEqual(object.map('kept').get(u32Bytes(1)), u32Bytes(2));
    using adopted = adoptMap(join(pins, 'kept'));
    assert.equal(adopted?.info().id, id);
    assert.equal(adoptMap(join(pins, 'nothing')), undefined);
    assert.throws(
      () => loadObject(testObject('maps'), { pins, maps: { kept: { maxEntries: 9 } } }),
      (error) => isNetError(error, 'BPF_PIN_MISMATCH') && error.message.includes('8 entries'),
    );
    assert.throws(
      () => loadObject(testObject('maps'), { maps: { services: adopted! } }),
      (error) => isNetError(error, 'BPF_PIN_MISMATCH'),
    );
  } finally {
    rmSync(pins, { recursive: true, force: true });
  }
});

test('keys and values of the wrong size are refused before the kernel sees them', () => {
  using object = loadObject(testObject('maps'));
  const services = object.map('services');
  const wrong = (run: () => unknown) =>
    assert.throws(run, (error) => isNetError(error, 'BPF_MAP_SIZE') && error.message.includes('"services"'));
  wrong(() => services.get(new Uint8Array(4)));
  wrong(() => services.set(new Uint8Array(8), new Uint8Array(15)));
  wrong(() => services.setMany([[new Uint8Array(9), new Uint8Array(16)]]));
  wrong(() => services.typed(u32, value));
  assert.throws(
    () => BpfMap.create({ name: 'odd', type: MAP_TYPE.RINGBUF, keySize: 0, valueSize: 0, maxEntries: 1000 }),
    (error) => isNetError(error, 'BPF_MAP_REFUSED') && error.message.includes('RINGBUF'),
  );
});

test('entries of a map may be written back to it, and a source of entries may write on its own', () => {
  using map = BpfMap.create({
    name: 'own',
    type: MAP_TYPE.HASH,
    keySize: 4,
    valueSize: 4,
    maxEntries: 20_000,
  });
  const typed = map.typed(u32, u32);
  typed.setMany(Array.from({ length: 9000 }, (_, n) => [n, n] as const));
  assert.equal(typed.setMany([...typed.entries()].map(([k, v]) => [k, v * 2] as const)), 9000);
  // Walks and writes at the same time: existing keys only, so the walk ends.
  assert.equal(map.setMany(map.entries()), 9000);
  function* nested() {
    for (let n = 0; n < 100; n++) {
      typed.setMany([[10_000 + n, 1]]);
      yield [n, 7] as const;
    }
  }
  assert.equal(typed.setMany(nested()), 100);
  const found = new Map(typed.entries());
  assert.equal(found.size, 9100);
  assert.deepEqual([found.get(99), found.get(100), found.get(10_099)], [7, 200, 1]);
  assert.equal(map.deleteMany(map.keys()), 9100);
});

test('map types without batches are written and read one by one', () => {
  using map = BpfMap.create({
    name: 'links',
    type: MAP_TYPE.DEVMAP_HASH,
    keySize: 4,
    valueSize: 4,
    maxEntries: 8,
  });
  const LOOPBACK = 1;
  const typed = map.typed(u32, u32);
  assert.equal(
    typed.setMany([
      [5, LOOPBACK],
      [6, LOOPBACK],
    ]),
    2,
  );
  assert.deepEqual([...typed.entries()].sort(), [
    [5, LOOPBACK],
    [6, LOOPBACK],
  ]);
  assert.equal(typed.deleteMany([5, 7, 6]), 2);
  assert.deepEqual([...typed.entries()], []);
});

test('an object of clang that is cut or damaged anywhere is refused or loaded, and nothing leaks', () => {
  const whole = readFileSync(testObject('maps'));
  const open = () => readdirSync('/proc/self/fd').length;
  const refuses = (data: Uint8Array) => {
    try {
      readObjectFile(data, 'damaged');
    } catch (error) {
      if (!isNetError(error, 'BPF_OBJECT_MALFORMED') && !isNetError(error, 'BPF_OBJECT_UNSUPPORTED'))
        throw error;
    }
  };
  for (let length = 0; length < whole.length; length += 97) refuses(whole.subarray(0, length));
  for (let at = 0; at < whole.length; at += 61) {
    const damaged = Uint8Array.from(whole);
    damaged[at] = damaged[at]! ^ (1 << (at % 8));
    refuses(damaged);
  }
  // Given to the kernel, damaged code and types are refused by it; whatever was made until then is closed.
  const before = open();
  for (let at = 64; at < whole.length; at += 1531) {
    const damaged = Uint8Array.from(whole);
    damaged[at] = damaged[at]! ^ 0x55;
    try {
      loadObject(damaged).close();
    } catch (error) {
      assert.ok(isNetError(error), String(error));
    }
  }
  assert.equal(open(), before);
});
