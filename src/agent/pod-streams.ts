/**
 * Commands in containers and connections into pods, as connections of their own on the agent's socket:
 *
 *   /pods/exec?namespace=&name=&container=&command=&command=&stdin=&tty=     frames of src/codec/frames.ts
 *   /pods/dial?namespace=&name=&port=                                        the bytes of one TCP connection
 */
import { connect, Socket } from 'node:net';
import { FrameLink, STREAM } from '../codec/frames.ts';
import { agentError, kernelCause } from '../errors/index.ts';
import { openNetns } from '../kernel/netns/index.ts';
import { connectInNetns } from '../kernel/socket/connect.ts';
import type { ExecSession, PodManager, PodRunner } from '../pods/index.ts';
import type { Upgrade } from './socket.ts';

/** What these streams need of the pods of this node. */
export interface StreamedPods {
  readonly manager: Pick<PodManager, 'findContainer' | 'list'>;
  readonly runner: Pick<PodRunner, 'exec' | 'sandbox'>;
}

export function podStreams({ manager, runner }: StreamedPods): Record<string, Upgrade> {
  const refused = (path: string, message: string) =>
    agentError('AGENT_REFUSED', { path, status: 409, message });
  const podOf = (query: URLSearchParams) => ({
    namespace: query.get('namespace') ?? '',
    name: query.get('name') ?? '',
  });
  return {
    '/pods/exec': async (query, accept) => {
      const { namespace, name } = podOf(query);
      const wanted = query.get('container') ?? undefined;
      const container = manager.findContainer(namespace, name, wanted);
      if (!container) throw refused('/pods/exec', `container not found ("${wanted ?? name}")`);
      const command = query.getAll('command');
      const tty = query.get('tty') === '1';
      const session = await runner.exec(container.id, command, { stdin: query.get('stdin') === '1', tty });
      carry(session, new FrameLink(accept()));
    },
    '/pods/dial': async (query, accept) => {
      const { namespace, name } = podOf(query);
      const port = Number(query.get('port'));
      const pod = manager.list().find((one) => one.namespace === namespace && one.name === name);
      const sandbox = pod?.sandboxId === undefined ? undefined : runner.sandbox(pod.sandboxId);
      if (!sandbox) throw refused('/pods/dial', `pod "${namespace}/${name}" does not run on this node`);
      // What listens on one family of addresses only is reached by it, as `localhost` is resolved.
      const there = await dial(sandbox.netnsPath, '127.0.0.1', port)
        .catch(() => dial(sandbox.netnsPath, '::1', port))
        .catch((cause: unknown) => {
          const why = kernelCause(cause)?.name ?? (cause as NodeJS.ErrnoException).code ?? String(cause);
          throw refused('/pods/dial', `nothing answers at localhost port ${port} in the pod: ${why}`);
        });
      const here = accept();
      here.on('error', () => there.destroy());
      there.on('error', () => here.destroy());
      here.on('close', () => there.destroy());
      there.on('close', () => here.destroy());
      here.pipe(there).pipe(here);
    },
  };
}

/** A connection to a process of the pod; pods on the host's network are this node's own. */
async function dial(netnsPath: string | undefined, address: string, port: number): Promise<Socket> {
  if (netnsPath === undefined) {
    const socket = connect({ host: address, port, allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return socket;
  }
  using netns = openNetns(netnsPath);
  const fd = await connectInNetns(netns, address, port);
  return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}

/** Moves bytes between a command and the connection until the command has ended. */
function carry(session: ExecSession, link: FrameLink): void {
  const { stdin, stdout, stderr } = session;
  let over = false;
  stdin?.on('error', () => {});
  link.start(({ stream, payload }) => {
    if (stream === STREAM.stdin && stdin) {
      if (payload.length === 0) stdin.end();
      else if (stdin.writable && !stdin.write(payload)) {
        link.pause();
        stdin.once('drain', () => link.resume());
      }
    } else if (stream === STREAM.size) {
      const size = readSize(payload);
      if (size) session.resize(size.rows, size.columns);
    }
  });
  void link.closed.then(() => {
    if (!over) session.kill();
  });
  const out = async (stream: number, from: AsyncIterable<Buffer> | null) => {
    try {
      for await (const chunk of from ?? []) await link.send(stream, chunk);
    } catch {
      // The command's end tells what happened.
    }
  };
  const output = Promise.all([out(STREAM.stdout, stdout), out(STREAM.stderr, stderr)]);
  void session.exited.then(async (exit) => {
    // Something it left behind may hold the pipes for ever; what it wrote itself has been read by then.
    const late = new Promise((resolve) => setTimeout(resolve, 2_000).unref());
    await Promise.race([output, late]);
    over = true;
    await link.send(STREAM.outcome, Buffer.from(JSON.stringify(exit)));
    link.end();
  });
}

/** `{"Width":80,"Height":24}` as Kubernetes clients say it; undefined for anything else. */
export function readSize(payload: Uint8Array): { rows: number; columns: number } | undefined {
  try {
    const { Width, Height } = JSON.parse(Buffer.from(payload).toString('utf8')) as Record<string, unknown>;
    const good = (value: unknown): value is number =>
      Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff;
    return good(Width) && good(Height) ? { rows: Height, columns: Width } : undefined;
  } catch {
    return undefined;
  }
}
