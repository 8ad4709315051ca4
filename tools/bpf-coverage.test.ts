import assert from 'node:assert/strict';
import test from 'node:test';
import { instrument, mapping } from './bpf-coverage-ir.ts';
import { judge, sidesOf, sideText } from './bpf-coverage-report.ts';

const MODULE = `source_filename = "a.bpf.c"
$__covrec_1u = comdat any
@lb_map = dso_local global i32 0, section ".maps"
@__profn_run = private constant [3 x i8] c"run"
@__profn_a.bpf.c_part = private constant [12 x i8] c"a.bpf.c:part"
@__covrec_1u = linkonce_odr hidden constant i64 1
@llvm.used = appending global [1 x i8*] [i8* bitcast (i64* @__covrec_1u to i8*)], section "llvm.metadata"
define i32 @run() {
  call void @llvm.instrprof.increment(i8* getelementptr inbounds ([3 x i8], [3 x i8]* @__profn_run, i32 0, i32 0), i64 -1, i32 2, i32 0), !dbg !7
  call void @llvm.instrprof.increment.step(i8* getelementptr inbounds ([3 x i8], [3 x i8]* @__profn_run, i32 0, i32 0), i64 -1, i32 2, i32 1, i64 %4)
  call void @llvm.instrprof.increment(i8* getelementptr inbounds ([12 x i8], [12 x i8]* @__profn_a.bpf.c_part, i32 0, i32 0), i64 24, i32 1, i32 0)
}
declare void @llvm.instrprof.increment(i8*, i64, i32, i32)`;

test('counters of functions lie behind each other, after the number of the run', () => {
  const { program, functions } = instrument(MODULE, 77n);
  assert.deepEqual(functions, [
    { name: 'run', hash: '18446744073709551615', first: 1, counters: 2 },
    { name: 'a.bpf.c:part', hash: '24', first: 3, counters: 1 },
  ]);
  assert.match(
    program,
    /^@__coverage = global \[4 x i64\] \[i64 77, i64 0, i64 0, i64 0\], section ".data.cov"/m,
  );
  assert.deepEqual(
    [...program.matchAll(/\(\$0 \+ (\d+)\) \+= \$1", "([^"]*)"(.*)/g)].map((found) => found.slice(1)),
    [
      ['8', '=&r,=&r', '(), !dbg !7'],
      ['16', '=&r,r', '(i64 %4)'],
      ['24', '=&r,=&r', '()'],
    ],
  );
  assert.doesNotMatch(program, /covrec|instrprof|profn|llvm\.used/);
  assert.equal(mapping(MODULE).trimEnd().split('\n').length, 3);
});

test('what is not understood is an error, not a branch that nobody takes', () => {
  assert.throws(() => instrument(MODULE.replace('i32 2, i32 0)', 'i32 2, i32 %1)'), 1n), /not understood/);
  assert.throws(() => instrument('define i32 @run() {\n}', 1n), /nothing to count/);
});

const SOURCE = 'int f(int a, int b)\n{\n\tif (a &&\n\t    b)\n\t\treturn 1;\n\treturn 0;\n}\n';
const exported = (branches: number[][]) => ({
  data: [
    {
      files: [
        { filename: '/t/bpf/x.h', branches },
        { filename: '/usr/include/y.h', branches },
      ],
    },
  ],
});

test('a condition has two sides, and a header that two programs have counts once', () => {
  const sides = sidesOf(
    exported([
      [3, 6, 3, 7, 5, 0],
      [4, 6, 4, 7, 0, 0],
      [3, 6, 3, 7, 1, 2],
    ]),
    '/t/bpf',
    () => SOURCE,
  );
  assert.deepEqual(
    sides.map(({ condition, side, taken }) => [condition, side, taken]),
    [
      ['a', 'true', 6],
      ['a', 'false', 2],
      ['b', 'true', 0],
      ['b', 'false', 0],
    ],
  );
  assert.equal(sideText(sides[2]!), 'x.h:4:6                            never true   b');
});

test('a side that is never taken is explained by its words, and an explanation that nothing needs is told', () => {
  const sides = sidesOf(exported([[3, 6, 4, 7, 5, 0]]), '/t/bpf', () => SOURCE);
  const why = { file: 'x.h', condition: 'a && b', side: 'false' as const, why: 'it is so' };
  assert.deepEqual(judge(sides, [why]), { taken: 1, explained: [sides[1]], missing: [], idle: [] });
  const twice = sidesOf(
    exported([
      [3, 6, 4, 7, 5, 0],
      [3, 6, 4, 7, 5, 0],
      [4, 6, 4, 7, 1, 0],
    ]),
    '/t/bpf',
    () => SOURCE,
  );
  assert.deepEqual(judge(twice, [why, { ...why }]).idle, [why], 'one entry for each place');
  const other = { ...why, side: 'true' as const };
  assert.deepEqual(judge(sides, [other]), { taken: 1, explained: [], missing: [sides[1]], idle: [other] });
});
