import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nearestService, noSuchService } from './service-names.ts';

const KNOWN = ['default/web', 'default/kubernetes', 'kube-system/kube-dns', 'shop/cart'];

test('a mistyped Service has a suggestion, another name has none', () => {
  for (const [typed, meant] of [
    ['default/wbe', 'default/web'],
    ['default/webb', 'default/web'],
    ['defualt/web', 'default/web'],
    ['default/kubernets', 'default/kubernetes'],
    ['default/kube-dns', 'kube-system/kube-dns'],
    ['default/cart', 'shop/cart'],
    ['default/database', undefined],
    ['default/', undefined],
  ] as const)
    assert.equal(nearestService(typed, KNOWN), meant, typed);
});

test('the suggestion stands in the remedy', () => {
  assert.match(
    noSuchService('default/wbe', KNOWN).remedy,
    /^Did you mean "default\/web"\? "portolan service list"/,
  );
  assert.match(noSuchService('default/database', KNOWN).remedy, /^"portolan service list"/);
});
