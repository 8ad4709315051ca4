/**
 * A policy controller as a process of its own, for tests that kill it: node netns, node name, then `key=ip4,ip6` of
 * local pods. A policy denies everything to pods of namespace x; others that allow nobody come and go without a pause.
 */
import { flushCompileCache } from 'node:module';
import { parseIp } from '../../src/addr/index.ts';
import { openNetns } from '../../src/kernel/netns/index.ts';
import type { PodFacts, PolicyFacts } from '../../src/policy/index.ts';
import { namespaceLabels, PolicyController, policyFacts } from '../../src/policy/index.ts';
import { attachmentOf, MemoryTable } from './policy-cluster.ts';

const [netns = '', nodeName = '', ...locals] = process.argv.slice(2);
/** Rules of each policy that comes and goes. */
const RULES = 400;
const policies = new MemoryTable<PolicyFacts>();
const pods = new MemoryTable<PodFacts>();
const namespaces = new MemoryTable<Readonly<Record<string, string>>>();
namespaces.set('x', namespaceLabels({ metadata: { name: 'x' } }));
const attachments = locals.map((text) => {
  const [key = '', list = ''] = text.split('=');
  const [ip4, ip6] = list.split(',').map((each) => parseIp(each));
  const [namespace = '', name = ''] = key.split('/');
  pods.set(key, {
    namespace,
    name,
    uid: key,
    labels: { app: name },
    node: nodeName,
    hostNetwork: false,
    ended: false,
    addresses: [ip4!, ip6!],
    ports: [],
  });
  return attachmentOf({ name: nodeName, netns: key, ip4: ip4!, ip6: ip6! }, key);
});
const policy = (name: string, round: number) =>
  policyFacts({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: 'x', name },
    spec: {
      podSelector: {},
      // So many rules that most of the time is spent inside a transaction.
      ingress:
        name === 'deny'
          ? []
          : Array.from({ length: RULES }, (_, n) => ({
              from: [{ podSelector: { matchLabels: { nobody: `r${round}-${n % 8}` } } }],
              ports: [{ port: 1 + n }],
            })),
    },
  });
policies.set('x/deny', policy('deny', 0));
const controller = new PolicyController({
  nodeName,
  policies,
  pods,
  namespaces,
  netns: openNetns(netns),
});
await controller.start(attachments);
// Whoever kills it lets it keep nothing at its end.
flushCompileCache();
process.stdout.write('ready\n');
for (let round = 1; ; round++) {
  const key = `x/extra${round % 3}`;
  if (round % 2) policies.set(key, policy(`extra${round % 3}`, round));
  else policies.delete(key);
  await new Promise((resolve) => setImmediate(resolve));
  await controller.settled();
}
