import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { bytes, pad, struct, u32, u64, viewOf } from '../../codec/index.ts';
import { isNetError } from '../../errors/index.ts';
import { Btf, KIND } from './btf.ts';
import { NO_BTF_EXT, parseBtfExt } from './btf-ext.ts';
import { btfForKernel } from './btf-kernel.ts';
import { checkLayout, layoutOf } from './check-layout.ts';
import { parseElf } from './elf.ts';
import { BtfBuilder, buildElf, code, sampleObject } from './object-builder.ts';
import { type ObjectFile, readObjectFile, setVariable } from './object-file.ts';
import { programKind } from './sections.ts';

/** Runs a parser; anything but a result or an error that names the place is a bug. */
function refusesOrReads(read: () => unknown): 'read' | 'refused' {
  try {
    read();
    return 'read';
  } catch (error) {
    if (isNetError(error, 'BPF_OBJECT_MALFORMED')) {
      const { part, offset } = error.context;
      assert.equal(typeof part, 'string');
      assert.ok(Number.isInteger(offset));
    } else if (!isNetError(error, 'BPF_OBJECT_UNSUPPORTED')) throw error;
    return 'refused';
  }
}

/** Reads everything that a loader would read. */
function readAll(data: Uint8Array): ObjectFile {
  const file = readObjectFile(data, 'sample');
  btfForKernel(file.btf, file.elf);
  for (const type of file.btf.ofKind(KIND.STRUCT)) if (type.name !== '') layoutOf(file.btf, type.name);
  return file;
}

test('readObjectFile() finds maps, constants, programs and the functions they call', () => {
  const file = readAll(sampleObject());
  assert.equal(file.license, 'GPL');
  assert.deepEqual(
    file.maps.map(({ name, type, keySize, valueSize, maxEntries }) => [
      name,
      type,
      keySize,
      valueSize,
      maxEntries,
    ]),
    [['counts', 2, 4, 8, 8]],
  );
  assert.deepEqual(
    file.data.map(({ name, variables }) => [name, variables]),
    [['.rodata', [{ name: 'magic', offset: 0, size: 4 }]]],
  );
  const [program] = file.programs;
  assert.equal(program?.name, 'main');
  assert.deepEqual(program.code.parts, ['main', 'helper']);
  assert.equal(program.code.instructions.length, 64);
  // The call is instruction 2 and "helper" begins at 4: distance 4 - 2 - 1.
  assert.equal(viewOf(program.code.instructions).getInt32(2 * 8 + 4, true), 1);
  assert.deepEqual(
    program.code.fixups.map((fixup) => [fixup.kind, fixup.instruction]),
    [
      ['map', 0],
      ['data', 4],
    ],
  );
});

test('readObjectFile() refuses an object that is cut at any offset, and says where', () => {
  const whole = sampleObject();
  for (let length = 0; length < whole.length; length++)
    assert.equal(
      refusesOrReads(() => readAll(whole.subarray(0, length))),
      'refused',
      `cut at ${length}`,
    );
});

test('readObjectFile() survives any byte being wrong', () => {
  const whole = sampleObject();
  for (let at = 0; at < whole.length; at++)
    for (const value of [0, 1, 0x7f, 0xff, whole[at]! ^ 0x80]) {
      const broken = whole.slice();
      broken[at] = value;
      refusesOrReads(() => readAll(broken));
    }
});

test('readObjectFile() survives random edits', () => {
  const whole = sampleObject();
  const edits = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(edits, (list) => {
      const broken = whole.slice();
      for (const [at, value] of list) broken[at] = value;
      refusesOrReads(() => readAll(broken));
    }),
    { numRuns: 400 },
  );
});

test('parseElf(), Btf and parseBtfExt() refuse noise', () => {
  const btf = new Btf(new BtfBuilder().data, 'empty');
  const ext = Buffer.from('9feb010018000000', 'hex');
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (noise) => {
      refusesOrReads(() => parseElf(noise, 'noise'));
      refusesOrReads(() => new Btf(noise, 'noise'));
      refusesOrReads(() => new Btf(Buffer.concat([new BtfBuilder().data.subarray(0, 8), noise]), 'noise'));
      refusesOrReads(() => parseBtfExt(noise, btf));
      refusesOrReads(() => parseBtfExt(Buffer.concat([ext, noise]), btf));
    }),
    { numRuns: 300 },
  );
});

test('a program may not call into the middle of a function', () => {
  const data = buildElf(
    [
      { name: 'tc', type: 1, flags: 6, data: code([0x85, 0x10, 0, 1], [0x95, 0, 0, 0], [0x95, 0, 0, 0]) },
      { name: '.BTF', type: 1, data: new BtfBuilder().data },
    ],
    [{ name: 'main', type: 2, binding: 1, section: 'tc', value: 0, size: 24 }],
  );
  assert.throws(
    () => readObjectFile(data, 'x.o'),
    (error) =>
      isNetError(error, 'BPF_OBJECT_MALFORMED') &&
      error.message ===
        'Cannot read BPF object "x.o": section "tc" at offset 0: calls offset 16 of section 1, where no function begins',
  );
  assert.deepEqual(NO_BTF_EXT.functions.recordSize, 0);
});

test('setVariable() takes numbers that fit and bytes of the exact size', () => {
  const file = readObjectFile(sampleObject(), 'sample');
  const value = () => [...file.data[0]!.bytes];
  setVariable(file, 'magic', 0x01020304);
  assert.deepEqual(value(), [4, 3, 2, 1]);
  setVariable(file, 'magic', -1);
  assert.deepEqual(value(), [255, 255, 255, 255]);
  setVariable(file, 'magic', Uint8Array.of(9, 8, 7, 6));
  assert.deepEqual(value(), [9, 8, 7, 6]);
  for (const wrong of [2 ** 32, -(2 ** 31) - 1, 1.5, Uint8Array.of(1)])
    assert.throws(
      () => setVariable(file, 'magic', wrong),
      (error) => isNetError(error, 'BPF_VARIABLE_VALUE'),
    );
  assert.throws(
    () => setVariable(file, 'magik', 1),
    (error) => isNetError(error, 'BPF_VARIABLE_UNKNOWN') && error.message.includes('want one of: magic'),
  );
});

test('checkLayout() compares a structure with BTF and lists every difference', () => {
  const { btf } = readObjectFile(sampleObject(), 'sample');
  checkLayout(
    struct('pair', [
      ['address', bytes(4)],
      ['port', u32],
      ['id', u64],
    ]),
    btf,
  );
  checkLayout(
    struct('pair', [
      ['ADDRESS', bytes(4)],
      ['_port', u32],
      ['id', u64],
    ]),
    btf,
  );
  const wrong = struct('pair', [
    ['port', u32],
    ['address', u32],
    ['id', u32],
    ['pad', pad(4)],
    ['more', u64],
  ]);
  assert.throws(
    () => checkLayout(wrong, btf),
    (error) => {
      assert.ok(isNetError(error, 'BPF_LAYOUT_DIFFERS'));
      assert.deepEqual(error.context['differences'], [
        'size is 24, in C 16',
        '"port" is at 0 with 4 bytes, in C at 4 with 4',
        '"address" is at 4 with 4 bytes, in C at 0 with 4',
        '"id" is at 8 with 4 bytes, in C at 8 with 8',
        '"more" is not in C',
      ]);
      return true;
    },
  );
  assert.throws(() => checkLayout(struct('nothing', [['a', u32]]), btf), /no such struct/);
});

test('programKind() reads section names as libbpf does', () => {
  const shown = (section: string) => {
    const kind = programKind(section);
    return (
      kind && [kind.type, kind.attachType, kind.flags, kind.target, kind.kernelTarget?.name ?? ''].join(' ')
    );
  };
  const cases: [string, string | undefined][] = [
    ['xdp', '6 37 0  '],
    ['xdp.frags', '6 37 32  '],
    ['tcx/ingress', '3 46 0  '],
    ['tcx/egress/second', '3 47 0 second '],
    ['tc', '3 0 0  '],
    ['cgroup/connect4', '18 10 0  '],
    ['cgroup/getpeername6', '18 30 0  '],
    ['cgroup/post_bind6', '9 13 0  '],
    ['cgroup/sock_release', '9 34 0  '],
    ['tp_btf/kfree_skb', '26 23 0 kfree_skb btf_trace_kfree_skb'],
    ['iter/udp', '26 28 0 udp bpf_iter_udp'],
    ['raw_tp/sys_enter', '17 0 0 sys_enter '],
    ['tracepoint/skb/kfree_skb', '5 0 0 skb/kfree_skb '],
    ['syscall', '31 0 16  '],
    ['xdpx', undefined],
    ['cgroup/connect', undefined],
  ];
  for (const [section, expected] of cases) assert.equal(shown(section), expected, section);
});
