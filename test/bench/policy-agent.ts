/**
 * The agent's network policy as a process of its own, in the network namespace that it is started in: kubeconfig, then
 * the number of local pods. Prints "ready" when the policies are in force.
 */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { openPolicy } from '../../src/agent/policy.ts';
import { ApiClient, EventRecorder, loadKubeconfig } from '../../src/client/index.ts';
import { keepYoungHeapSmall } from '../../src/kernel/process/heap.ts';
import { trimMalloc } from '../../src/kernel/syscall/index.ts';
import { attachment, NODE } from './policy-world.ts';

const [kubeconfig = '', locals = '0', uidFile = ''] = process.argv.slice(2);
const uids = JSON.parse(readFileSync(uidFile, 'utf8')) as string[];
const log = { debug: () => {}, info: () => {}, warn: console.error, error: console.error };
// As the agent does.
keepYoungHeapSmall();
const access = loadKubeconfig(kubeconfig);
const client = new ApiClient(access);
const policy = openPolicy({
  client,
  nodeName: NODE,
  stateDir: dirname(uidFile),
  cutEstablished: true,
  logging: 'off',
  recorder: new EventRecorder({ client, component: 'portolan-bench' }),
  server: String(access.server),
  tunnelPort: 8472,
  signal: new AbortController().signal,
  log: log as never,
});
policy.startSources();
await policy.controller.start(Array.from({ length: Number(locals) }, (_, at) => attachment(at, uids[at])));
process.stdout.write(`ready ${JSON.stringify(policy.controller.status().timing)}\n`);
// What the agent has given back half a minute after a start.
setTimeout(() => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: object) => void;
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  trimMalloc();
}, 500);
