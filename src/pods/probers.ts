/** Carries one probe out: a command in the container, an HTTP request, a TCP connection, a gRPC health check. */
import { request as httpRequest } from 'node:http';
import { connect as http2Connect } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import { isNetError } from '../errors/index.ts';
import type { Container, IntOrString, Probe } from '../model/kubernetes.ts';
import type { PodRunner } from './runner.ts';

export interface ProbeTarget {
  runner: Pick<PodRunner, 'execSync'>;
  containerId: string;
  container: Container;
  /** Address of the pod as this process reaches it. */
  podIp: string;
  timeoutMs: number;
}

/** `message` is what people read in the Unhealthy event. */
export interface ProbeOutcome {
  ok: boolean;
  message: string;
}

/** kubelet shows at most this much of what a probe said. */
const MESSAGE_BYTES = 10_240;

/** Never rejects: a probe that cannot be carried out has failed. */
export async function carryOut(probe: Probe, target: ProbeTarget): Promise<ProbeOutcome> {
  try {
    if (probe.exec) return await probeExec(probe.exec.command ?? [], target);
    if (probe.httpGet) return await probeHttp(probe.httpGet, target);
    if (probe.tcpSocket) return await probeTcp(probe.tcpSocket, target);
    if (probe.grpc) return await probeGrpc(probe.grpc, target);
    return { ok: false, message: 'the probe names nothing to do' };
  } catch (error) {
    const message = isNetError(error) ? error.message : String((error as Error).message ?? error);
    return { ok: false, message };
  }
}

/** The number of a port given by number or by name of the container's ports; undefined when there is none such. */
export function portNumber(port: IntOrString, container: Container): number | undefined {
  if (typeof port === 'number') return port;
  if (/^\d+$/.test(port)) return Number(port);
  return container.ports?.find((one) => one.name === port)?.containerPort;
}

function portOf(port: IntOrString, target: ProbeTarget): number {
  const found = portNumber(port, target.container);
  if (found === undefined) throw new Error(`couldn't find port: ${port}`);
  return found;
}

async function probeExec(command: string[], target: ProbeTarget): Promise<ProbeOutcome> {
  const { exitCode, stdout, stderr, timedOut } = await target.runner.execSync(target.containerId, command, {
    timeoutMs: target.timeoutMs,
    limitBytes: MESSAGE_BYTES,
  });
  if (timedOut) return { ok: false, message: `command timed out after ${target.timeoutMs / 1000}s` };
  const said = `${stdout}${stderr}`.trim();
  return { ok: exitCode === 0, message: said || `exit code ${exitCode}` };
}

function probeHttp(get: NonNullable<Probe['httpGet']>, target: ProbeTarget): Promise<ProbeOutcome> {
  const secure = get.scheme === 'HTTPS';
  const headers: Record<string, string> = {
    'User-Agent': 'kube-probe/portolan',
    Accept: '*/*',
    Connection: 'close',
  };
  for (const { name, value } of get.httpHeaders ?? []) headers[name] = value;
  const options = {
    host: get.host ?? target.podIp,
    port: portOf(get.port, target),
    path: get.path?.startsWith('/') ? get.path : `/${get.path ?? ''}`,
    headers,
    agent: false as const,
    // As kubelet: the certificate of a pod is its own business.
    rejectUnauthorized: false,
  };
  return new Promise((resolve, reject) => {
    const request = (secure ? httpsRequest : httpRequest)(options, (response) => {
      const status = response.statusCode ?? 0;
      clearTimeout(timer);
      resolve({ ok: status >= 200 && status < 400, message: `HTTP probe failed with statuscode: ${status}` });
      response.destroy();
    });
    const timer = setTimeout(() => request.destroy(new Error('context deadline exceeded')), target.timeoutMs);
    request.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    request.end();
  });
}

function probeTcp(tcp: NonNullable<Probe['tcpSocket']>, target: ProbeTarget): Promise<ProbeOutcome> {
  const port = portOf(tcp.port, target);
  return new Promise((resolve) => {
    const socket = connect({ host: tcp.host ?? target.podIp, port });
    const done = (ok: boolean, message: string) => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ ok, message });
    };
    const timer = setTimeout(() => done(false, `dial tcp: i/o timeout`), target.timeoutMs);
    socket.on('connect', () => done(true, ''));
    socket.on('error', (error) => done(false, error.message));
  });
}

/** grpc.health.v1.Health/Check: request field 1 is the service, answer field 1 the status, 1 is SERVING. */
function probeGrpc(grpc: NonNullable<Probe['grpc']>, target: ProbeTarget): Promise<ProbeOutcome> {
  const service = Buffer.from(grpc.service ?? '');
  if (service.length > 127) return Promise.resolve({ ok: false, message: 'service name is too long' });
  const message =
    service.length > 0 ? Buffer.concat([Buffer.from([0x0a, service.length]), service]) : service;
  const frame = Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]);
  const host = target.podIp.includes(':') ? `[${target.podIp}]` : target.podIp;
  return new Promise((resolve) => {
    const session = http2Connect(`http://${host}:${grpc.port}`);
    const parts: Buffer[] = [];
    let grpcStatus = 'unknown';
    const done = (ok: boolean, said: string) => {
      clearTimeout(timer);
      session.destroy();
      resolve({ ok, message: said });
    };
    const timer = setTimeout(() => done(false, 'timeout: health rpc did not complete'), target.timeoutMs);
    session.on('error', (error) => done(false, error.message));
    const stream = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', (error) => done(false, error.message));
    const note = (headers: Record<string, unknown>) => {
      if (headers['grpc-status'] !== undefined) grpcStatus = String(headers['grpc-status']);
    };
    stream.on('response', note);
    stream.on('trailers', note);
    stream.on('data', (chunk: Buffer) => parts.push(chunk));
    stream.on('end', () => {
      const body = Buffer.concat(parts).subarray(5);
      const serving = grpcStatus === '0' && body[0] === 0x08 && body[1] === 1;
      done(serving, `service unhealthy (grpc status ${grpcStatus}, answer ${body[1] ?? 'none'})`);
    });
    stream.end(frame);
  });
}
