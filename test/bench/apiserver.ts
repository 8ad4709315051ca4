/**
 * The API server with 10,000 Services and 10,000 EndpointSlices of 10 endpoints:
 *
 *   write throughput, a full list of each, the time from a write to the event at a watcher, memory
 *
 *   node test/bench/apiserver.ts [--json] [count]
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Access, accessOf, call, openStream } from '../lib/api-access.ts';

export interface ApiServerFigures {
  readonly count: number;
  /** Milliseconds for all creations, 16 at a time, each answered when it is on disk. */
  readonly createMs: number;
  readonly writesPerSecond: number;
  readonly listServicesMs: number;
  readonly listSlicesMs: number;
  readonly listBytes: number;
  readonly pagedListMs: number;
  /** From sending a PATCH to the event at a watcher. */
  readonly eventP50Ms: number;
  readonly eventP99Ms: number;
  readonly rssMiB: number;
  readonly restartMs: number;
}

const program = new URL('../lib/apiserver-process.ts', import.meta.url).pathname;

async function start(dataDir: string): Promise<{ child: ChildProcess; ms: number }> {
  const began = performance.now();
  // The launcher's flag: memory is measured.
  const args = ['--max-semi-space-size=4', program, dataDir, '0'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise<void>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
    child.stdout!.once('data', () => resolve());
  });
  return { child, ms: performance.now() - began };
}

const stop = (child: ChildProcess) =>
  new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.kill('SIGTERM');
  });

/** Resident memory of a process in MiB: VmRSS of /proc/PID/status is in kB. */
function rssMiB(pid: number): number {
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024);
}

const address = (i: number, j: number) =>
  `10.${244 + (i >> 14)}.${(i >> 6) & 255}.${((i & 63) * 4 + j) % 254}`;

const serviceOf = (i: number) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: `svc-${i}`, labels: { app: `app-${i}` } },
  spec: { selector: { app: `app-${i}` }, ports: [{ name: 'http', port: 80, targetPort: 8080 }] },
});

const sliceOf = (i: number) => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: { name: `svc-${i}-abcde`, labels: { 'kubernetes.io/service-name': `svc-${i}` } },
  addressType: 'IPv4',
  endpoints: Array.from({ length: 10 }, (_, j) => ({
    addresses: [address(i, j)],
    conditions: { ready: true, serving: true, terminating: false },
    nodeName: `node-${j % 3}`,
    targetRef: {
      kind: 'Pod',
      namespace: 'bench',
      name: `app-${i}-${j}`,
      uid: `00000000-0000-4000-8000-${String(i * 10 + j).padStart(12, '0')}`,
    },
  })),
  ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
});

const servicesPath = '/api/v1/namespaces/bench/services';
const slicesPath = '/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices';

async function post(access: Access, path: string, body: object): Promise<void> {
  const answer = await call(access, 'POST', path, body);
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
}

async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const began = performance.now();
  const result = await work();
  return [performance.now() - began, result];
}

async function eventLatencies(access: Access, count: number): Promise<number[]> {
  const list = await call(access, 'GET', `${slicesPath}?limit=1`);
  const { resourceVersion } = (list.body as { metadata: { resourceVersion: string } }).metadata;
  const watch = await openStream(access, `${slicesPath}?watch=1&resourceVersion=${resourceVersion}`);
  const latencies: number[] = [];
  for (let i = 0; i < 300; i++) {
    const body = { metadata: { annotations: { round: String(i) } } };
    const began = performance.now();
    const event = watch.lines.next();
    const patched = call(access, 'PATCH', `${slicesPath}/svc-${(i * 37) % count}-abcde`, body, {
      'content-type': 'application/merge-patch+json',
    });
    await event;
    latencies.push(performance.now() - began);
    await patched;
  }
  watch.close();
  return latencies.sort((a, b) => a - b);
}

export async function benchApiServer(count = 10_000): Promise<ApiServerFigures> {
  const dataDir = mkdtempSync(join(tmpdir(), 'portolan-bench-'));
  let { child } = await start(dataDir);
  try {
    let access = accessOf(join(dataDir, 'admin.kubeconfig'));
    await post(access, '/api/v1/namespaces', { metadata: { name: 'bench' } });
    let next = 0;
    const worker = async () => {
      for (let i = next++; i < count; i = next++) {
        await post(access, servicesPath, serviceOf(i));
        await post(access, slicesPath, sliceOf(i));
      }
    };
    const [createMs] = await timed(() => Promise.all(Array.from({ length: 16 }, worker)));
    const [listServicesMs] = await timed(() => call(access, 'GET', '/api/v1/services'));
    const [listSlicesMs, slices] = await timed(() =>
      call(access, 'GET', '/apis/discovery.k8s.io/v1/endpointslices'),
    );
    const found = (slices.body as { items: unknown[] }).items.length;
    if (found < count) throw new Error(`the list has ${found} of ${count} slices`);
    const [pagedListMs] = await timed(async () => {
      for (let token: string | undefined = ''; token !== undefined; ) {
        const page = await call(
          access,
          'GET',
          `/apis/discovery.k8s.io/v1/endpointslices?limit=500&continue=${token}`,
        );
        token = (page.body as { metadata: { continue?: string } }).metadata.continue;
      }
    });
    const latencies = await eventLatencies(access, count);
    const memory = rssMiB(child.pid!);
    access.agent.destroy();
    await stop(child);
    const again = await start(dataDir);
    child = again.child;
    access = accessOf(join(dataDir, 'admin.kubeconfig'));
    access.agent.destroy();
    const at = (share: number) => Math.round(latencies[Math.floor(latencies.length * share)]! * 100) / 100;
    return {
      count,
      createMs: Math.round(createMs),
      writesPerSecond: Math.round((2 * count * 1000) / createMs),
      listServicesMs: Math.round(listServicesMs),
      listSlicesMs: Math.round(listSlicesMs),
      listBytes: JSON.stringify(slices.body).length,
      pagedListMs: Math.round(pagedListMs),
      eventP50Ms: at(0.5),
      eventP99Ms: at(0.99),
      rssMiB: memory,
      restartMs: Math.round(again.ms),
    };
  } finally {
    await stop(child);
    rmSync(dataDir, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const args = process.argv.slice(2);
  const count = Number(args.find((arg) => /^\d+$/.test(arg)) ?? 10_000);
  const figures = await benchApiServer(count);
  if (args.includes('--json')) process.stdout.write(`${JSON.stringify(figures)}\n`);
  else
    for (const [name, value] of Object.entries(figures))
      process.stdout.write(`${name.padEnd(18)} ${value}\n`);
}
