/**
 * Requests that take over their connection: exec, attach and portforward of a pod. Who asks and for what is checked
 * as for any request, before anything is upgraded; so refusals are ordinary answers.
 */
import type { Duplex } from 'node:stream';
import { apiError } from '../../errors/api.ts';
import type { Pod } from '../../model/kubernetes.ts';
import { isAllowed, refusalText } from '../auth/authorize.ts';
import { type ApiRequest, flag, parseResourcePath, type ResourcePath } from '../http/request.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { resourceOfKind } from '../resources.ts';
import type { PodLogs } from '../rest/pods.ts';
import { badRequest } from '../status.ts';
import { attachByLog } from './attach.ts';
import { socketLink } from './bytes.ts';
import { forwardPorts } from './port-forward.ts';
import {
  type CommandStreams,
  connectCommand,
  type RemoteCommand,
  spdyClient,
  webSocketClient,
} from './remote-command.ts';
import { SpdySession } from './spdy-session.ts';
import { acceptKey, tunnelLink, WebSocketLink } from './websocket.ts';

/** The way to the nodes. */
export interface PodStreams {
  /** Starts a command in a running container. */
  exec(
    pod: Pod,
    options: { container: string; command: readonly string[]; stdin: boolean; tty: boolean },
  ): Promise<RemoteCommand>;
  /** A connection to a port inside the pod. */
  dial(pod: Pod, port: number): Promise<Duplex>;
}

export interface StreamOptions {
  readonly registry: Registry;
  readonly podStreams?: PodStreams;
  readonly podLogs?: PodLogs;
}

/** Answers a request by taking over its connection; the head is what came after the request. */
export type TakeOver = (socket: Duplex, head: Buffer) => void;
export type StreamHandler = (request: ApiRequest) => Promise<TakeOver>;

const STREAMED = new Set(['exec', 'attach', 'portforward']);

/** Whether this path is one of those that have to be upgraded. */
export function isStreamed(path: ResourcePath | undefined): path is ResourcePath {
  return (
    path?.group === '' &&
    path.resource === 'pods' &&
    path.name !== undefined &&
    STREAMED.has(path.subresource ?? '')
  );
}

export function createStreamHandler(options: StreamOptions): StreamHandler {
  const { registry, podStreams, podLogs } = options;

  function podOf(path: ResourcePath): Pod {
    const pod = objectOf(registry.get(resourceOfKind('Pod'), path.namespace, path.name!)) as Pod;
    if (!pod.spec.nodeName) throw badRequest(`pod ${path.name} does not have a host assigned`);
    const phase = pod.status?.phase;
    if (phase === 'Succeeded' || phase === 'Failed')
      throw badRequest(
        `cannot ${path.subresource} into a container in a completed pod; current phase is ${phase}`,
      );
    return pod;
  }

  async function commandOf(
    request: ApiRequest,
    path: ResourcePath,
    wanted: CommandStreams,
  ): Promise<RemoteCommand> {
    const pod = podOf(path);
    const container = containerOf(pod, request.query.get('container'));
    if (path.subresource === 'attach') {
      if (!podLogs)
        throw apiError('API_NOT_IMPLEMENTED', { what: 'pods/attach: no way to the nodes is set up' });
      return attachByLog(pod, container, podLogs);
    }
    if (!podStreams)
      throw apiError('API_NOT_IMPLEMENTED', { what: 'pods/exec: no way to the nodes is set up' });
    const command = request.query.getAll('command');
    if (command.length === 0) throw badRequest('you must specify at least one command for the container');
    return podStreams.exec(pod, { container, command, stdin: wanted.stdin, tty: wanted.tty });
  }

  async function remoteCommand(request: ApiRequest, path: ResourcePath): Promise<TakeOver> {
    const wanted = wantedStreams(request.query);
    const web = webSocketOf(request, ['v5.channel.k8s.io', 'v4.channel.k8s.io']);
    const protocol = web
      ? web.protocol
      : spdyOf(request, ['v4.channel.k8s.io', 'v3.channel.k8s.io', 'v2.channel.k8s.io', 'v1.channel.k8s.io']);
    const command = await commandOf(request, path, wanted);
    return (socket, head) => {
      socket.once('close', () => command.cancel());
      if (web) {
        socket.write(web.answer);
        connectCommand(webSocketClient(new WebSocketLink(socketLink(socket, head)), wanted), command);
        return;
      }
      socket.write(spdyAnswer(protocol));
      const { onStream, client } = spdyClient(wanted, protocol);
      const session = new SpdySession(socketLink(socket, head), onStream);
      client(session).then(
        (ready) => connectCommand(ready, command),
        () => {
          command.cancel();
          socket.destroy();
        },
      );
    };
  }

  function portForward(request: ApiRequest, path: ResourcePath): TakeOver {
    const pod = podOf(path);
    if (!podStreams)
      throw apiError('API_NOT_IMPLEMENTED', { what: 'pods/portforward: no way to the nodes is set up' });
    const dial = (port: number) => podStreams.dial(pod, port);
    const web = webSocketOf(request, ['SPDY/3.1+portforward.k8s.io']);
    if (!web) spdyOf(request, ['portforward.k8s.io']);
    return (socket, head) => {
      socket.write(web ? web.answer : spdyAnswer('portforward.k8s.io'));
      const bytes = socketLink(socket, head);
      forwardPorts(web ? tunnelLink(new WebSocketLink(bytes)) : bytes, dial);
    };
  }

  return async (request) => {
    const path = parseResourcePath(request.path);
    if (!isStreamed(path)) throw apiError('API_NO_SUCH_PATH', { path: request.path });
    // A GET here runs commands, so it is no reading: kube-apiserver asks for `create`, too, since 1.31.
    const attributes = {
      verb: 'create',
      group: '',
      resource: 'pods',
      subresource: path.subresource!,
      namespace: path.namespace ?? '',
      name: path.name!,
    };
    if (!isAllowed(request.user, attributes)) {
      if (request.user.groups.includes('system:unauthenticated')) throw apiError('API_UNAUTHORIZED', {});
      const { group, resource, name } = attributes;
      throw apiError('API_FORBIDDEN', { group, resource, name, why: refusalText(request.user, attributes) });
    }
    return path.subresource === 'portforward' ? portForward(request, path) : remoteCommand(request, path);
  };
}

/** Throws API_BAD_REQUEST for a container that the pod does not have. */
function containerOf(pod: Pod, asked: string | null): string {
  const names = pod.spec.containers.map(({ name }) => name);
  if (asked && !names.includes(asked))
    throw badRequest(`container ${asked} is not valid for pod ${pod.metadata.name}`);
  if (!asked && names.length > 1)
    throw badRequest(
      `a container name must be specified for pod ${pod.metadata.name}, choose one of: [${names.join(' ')}]`,
    );
  return asked || names[0]!;
}

function wantedStreams(query: URLSearchParams): CommandStreams {
  const [stdin, stdout, stderr, tty] = ['stdin', 'stdout', 'stderr', 'tty'].map((name) =>
    flag(query, name),
  ) as [boolean, boolean, boolean, boolean];
  if (!stdin && !stdout && !stderr) throw badRequest('you must specify at least 1 of stdin, stdout, stderr');
  return { stdin, stdout, stderr, tty };
}

const list = (header: string | string[] | undefined) =>
  (Array.isArray(header) ? header : [header ?? '']).flatMap((line) => line.split(/,\s*/)).filter(Boolean);

/** The handshake of RFC 6455 section 4.2, with the first protocol of ours that the client offers. */
function webSocketOf({ headers, method }: ApiRequest, ours: readonly string[]) {
  if (headers.upgrade?.toLowerCase() !== 'websocket') return undefined;
  const key = headers['sec-websocket-key'] ?? '';
  if (method !== 'GET' || !/^[A-Za-z0-9+/]{22}==$/.test(key) || headers['sec-websocket-version'] !== '13')
    throw badRequest('not a WebSocket handshake of version 13');
  const offered = list(headers['sec-websocket-protocol']);
  const protocol = ours.find((one) => offered.includes(one));
  if (protocol === undefined)
    throw badRequest(
      `unable to upgrade: none of the protocols [${offered.join(' ')}] is one of [${ours.join(' ')}]`,
    );
  const answer = [
    'HTTP/1.1 101 Switching Protocols',
    'Upgrade: websocket',
    'Connection: Upgrade',
    `Sec-WebSocket-Accept: ${acceptKey(key)}`,
    `Sec-WebSocket-Protocol: ${protocol}`,
    '',
    '',
  ].join('\r\n');
  return { protocol, answer };
}

/** The protocol on top of SPDY that both sides know. */
function spdyOf({ headers }: ApiRequest, ours: readonly string[]): string {
  if (headers.upgrade?.toLowerCase() !== 'spdy/3.1')
    throw badRequest('unable to upgrade: want Upgrade: websocket or SPDY/3.1');
  const offered = list(headers['x-stream-protocol-version']);
  // Clients of the first days named none.
  if (offered.length === 0) return ours.at(-1)!;
  const protocol = ours.find((one) => offered.includes(one));
  if (protocol === undefined)
    throw badRequest(
      `unable to upgrade: none of the protocols [${offered.join(' ')}] is one of [${ours.join(' ')}]`,
    );
  return protocol;
}

const spdyAnswer = (protocol: string) =>
  `HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`;
