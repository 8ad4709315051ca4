import assert from 'node:assert/strict';
import test from 'node:test';
import { fault, importsOf } from './check-imports.ts';

const check = (file: string, specifier: string) => fault({ file, line: 1, specifier });

test('a folder may import from folders before it and from itself', () => {
  assert.equal(check('overlay/plan.ts', '../kernel/rtnl/index.ts'), undefined);
  assert.equal(check('overlay/vxlan/plan.ts', '../backend.ts'), undefined);
  assert.equal(check('overlay/plan.ts', 'node:path'), undefined);
});

test('a folder may not import from folders after it or beside it', () => {
  assert.match(check('kernel/rtnl/link.ts', '../../overlay/plan.ts')!, /comes after/);
  assert.match(check('apiserver/main.ts', '../client/index.ts')!, /beside/);
  assert.match(check('model/a.ts', '../../tools/build.ts')!, /outside of src/);
});

test('processes and databases are opened only behind their doors', () => {
  assert.match(check('overlay/plan.ts', 'node:child_process')!, /may/);
  assert.equal(check('kernel/nft/run.ts', 'node:child_process'), undefined);
  assert.match(check('agent/cleanup.ts', '../kernel/nft-program/index.ts')!, /may/);
  assert.equal(check('trace/firewall/observe.ts', '../../kernel/nft-program/index.ts'), undefined);
});

test('importsOf() finds static, type, re-exporting and dynamic imports with their lines', () => {
  const text =
    "import { a } from './a.ts';\nimport type {\n  B,\n} from './b.ts';\nexport * from './c.ts';\nawait import('./d.ts');\nimport './e.ts';\n";
  assert.deepEqual(
    importsOf('x/y.ts', text).map((found) => `${found.line} ${found.specifier}`),
    ['1 ./a.ts', '4 ./b.ts', '5 ./c.ts', '6 ./d.ts', '7 ./e.ts'],
  );
});
