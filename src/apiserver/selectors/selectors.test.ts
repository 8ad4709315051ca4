import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../errors/net-error.ts';
import { fieldMatch } from './fields.ts';
import { labelMatch, labelSelectorText } from './labels.ts';

const labels = { app: 'web', tier: 'front', n: '7', 'example.com/x': '' };

test('label selectors match as kubectl users expect', () => {
  const cases: [string, boolean][] = [
    ['', true],
    ['app=web', true],
    ['app==web,tier!=back', true],
    ['app = web , tier in (front, back)', true],
    ['tier notin (front)', false],
    ['missing notin (front)', true],
    ['missing!=x', true],
    ['app', true],
    ['!app', false],
    ['!missing', true],
    ['example.com/x=', true],
    ['example.com/x', true],
    ['n>6,n<8', true],
    ['n>7', false],
    ['app>1', false],
    ['toString', false],
  ];
  for (const [selector, expected] of cases) {
    const match = labelMatch(selector);
    assert.equal(match ? match(labels) : true, expected, selector);
  }
});

test('broken selectors are bad requests, whatever they hold', () => {
  const badRequest = (error: unknown) => isNetError(error, 'API_BAD_REQUEST');
  for (const text of [
    'app=',
    'a b',
    'app in web',
    'app in (a',
    ',',
    'a,',
    '=x',
    'a=b=c',
    '-a=b',
    'a=-b',
    'n>x',
    'a/b/c=d',
  ]) {
    if (text === 'app=') assert.doesNotThrow(() => labelMatch(text));
    else assert.throws(() => labelMatch(text), badRequest, text);
  }
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[ab=!(),<> ]*$/)), (text) => {
      for (const parse of [() => labelMatch(text), () => fieldMatch('Pod', text)])
        try {
          parse();
        } catch (error) {
          assert.ok(badRequest(error), String(error));
        }
    }),
  );
});

test('field selectors read the fields of their kind only', () => {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p', namespace: 'd' },
    spec: { nodeName: 'n1' },
    status: { phase: 'Running' },
  };
  const matches = (selector: string) => fieldMatch('Pod', selector)!.matches(pod);
  assert.ok(matches('spec.nodeName=n1,status.phase!=Failed'));
  assert.ok(!matches('spec.nodeName='));
  assert.ok(matches('metadata.name==p,metadata.namespace=d,spec.hostNetwork=false'));
  assert.equal(fieldMatch('Pod', 'metadata.name=p')!.name, 'p');
  assert.throws(() => fieldMatch('ConfigMap', 'spec.nodeName=n1'), /is not a known field selector/);
});

test('label selectors of objects print as tables show them', () => {
  assert.equal(labelSelectorText(undefined), '<none>');
  const selector = {
    matchLabels: { b: '2', a: '1' },
    matchExpressions: [
      { key: 'c', operator: 'In' as const, values: ['y', 'x'] },
      { key: 'd', operator: 'DoesNotExist' as const },
    ],
  };
  assert.equal(labelSelectorText(selector), 'a=1,b=2,c in (x,y),!d');
});
