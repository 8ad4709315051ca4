/**
 * A CNI agent as a process of its own, for tests that kill it: folder, namespace path,
 * delay in ms before an ADD is ready, kind of pod links.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCidr } from '../../src/addr/index.ts';
import { answerCall, CniServer, PodNetworking } from '../../src/cni/index.ts';
import { AttachmentStore } from '../../src/ipam/index.ts';
import { openNetns } from '../../src/kernel/netns/index.ts';
import { PodLinks } from '../../src/podlink/index.ts';

const [folder = '', netnsPath = '', delayMs = '0', kind = 'routed'] = process.argv.slice(2);
const store = new AttachmentStore({
  path: join(folder, 'attachments.db'),
  pools: [parseCidr('10.244.1.0/24'), parseCidr('fd00:10:244:1::/64')],
});
const network = new PodNetworking({
  store,
  links: new PodLinks({ netns: openNetns(netnsPath) }),
  kind: kind === 'bridge' ? 'bridge' : 'routed',
  mtuBytes: () => 1450,
  beforeReady: async () => {
    if (Number(delayMs) > 0) await sleep(Math.random() * Number(delayMs));
  },
});
await network.start();
const times: number[] = [];
const server = new CniServer({
  socketPath: join(folder, 'cni.sock'),
  answer: (call) => answerCall(call, network),
  onCall: ({ command, durationMs }) => command === 'ADD' && times.push(durationMs),
});
// For the benchmark: prints the times of the ADDs since the last signal.
process.on('SIGUSR2', () => process.stdout.write(`${JSON.stringify(times.splice(0))}\n`));
await server.listen();
process.stdout.write('ready\n');
