import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatQuantity, parseQuantity } from './quantity.ts';

const canonical = (text: string) => {
  const quantity = parseQuantity(text);
  return quantity && formatQuantity(quantity);
};

test('quantities have one spelling', () => {
  const cases: [string, string][] = [
    ['0.5', '500m'],
    ['1000m', '1'],
    ['1024Mi', '1Gi'],
    ['1.5Gi', '1536Mi'],
    ['512Ki', '512Ki'],
    ['1000Ki', '1000Ki'],
    ['1000', '1k'],
    ['1e3', '1e3'],
    ['12E', '12E'],
    ['1e4', '10e3'],
    ['-1500m', '-1500m'],
    ['0.0000000001', '1n'],
    ['0Mi', '0'],
    ['.5', '500m'],
    ['5.', '5'],
    ['100Mi', '100Mi'],
    ['0.5Ki', '512'],
  ];
  for (const [text, want] of cases) assert.equal(canonical(text), want, text);
});

test('what is no quantity is refused', () => {
  for (const text of ['', 'm', '1 Gi', '1gi', '1KiB', '--1', '1e', '1e999', '0x10', 'NaN', '1.2.3'])
    assert.equal(parseQuantity(text), undefined, text);
});

test('the canonical spelling is stable and has the same value', () => {
  const quantity = fc
    .tuple(
      fc.integer({ min: -1e6, max: 1e6 }),
      fc.constantFrom('', 'n', 'u', 'm', 'k', 'M', 'G', 'Ki', 'Mi', 'Gi', 'e3', 'e-3'),
    )
    .map(([value, suffix]) => `${value}${suffix}`);
  fc.assert(
    fc.property(quantity, (text) => {
      const once = canonical(text)!;
      assert.equal(canonical(once), once);
      assert.equal(parseQuantity(once)!.nanos, parseQuantity(text)!.nanos);
    }),
  );
});

test('any text is a quantity or undefined, never an exception', () => {
  fc.assert(fc.property(fc.string(), (text) => void parseQuantity(text)));
});
