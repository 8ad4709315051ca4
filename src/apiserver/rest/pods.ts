/** The subresources of a pod that are actions: binding, eviction, log. */
import { apiError } from '../../errors/api.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Condition, Pod } from '../../model/kubernetes.ts';
import { parseObjectBody } from '../http/body.ts';
import { type ApiResponse, jsonResponse } from '../http/response.ts';
import { deleteObject } from '../registry/deletion.ts';
import { objectOf, timeText } from '../registry/objects.ts';
import { conflict } from '../registry/registry.ts';
import { badRequest } from '../status.ts';
import type { WriteContext } from './write.ts';

const success = (code: number): ApiResponse =>
  jsonResponse(code, { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', code });

interface Binding {
  kind?: string;
  metadata?: { name?: string; uid?: string; annotations?: Record<string, string> };
  target?: { kind?: string; name?: string };
}

/** Binds a pod to a node, once. */
export async function bindPod(context: WriteContext): Promise<ApiResponse> {
  const { registry, resource, path, request } = context;
  const binding = parseObjectBody(request.body, request.headers['content-type']) as Binding | null;
  const target = binding?.target;
  if (!target?.name || (target.kind !== undefined && target.kind !== '' && target.kind !== 'Node'))
    throw badRequest('Binding "" is invalid: target: Invalid value: must name a Node');
  const nodeName = target.name;
  await registry.update(
    resource,
    path.namespace,
    path.name!,
    (current) => {
      const pod = current as Pod;
      const uid = binding?.metadata?.uid;
      if (uid !== undefined && uid !== '' && uid !== pod.metadata.uid)
        throw conflict(
          resource,
          path.name!,
          `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${pod.metadata.uid}`,
        );
      if (pod.metadata.deletionTimestamp !== undefined)
        throw conflict(
          resource,
          path.name!,
          `pod ${path.name} is being deleted, cannot be assigned to a host`,
        );
      if (pod.spec.nodeName)
        throw conflict(
          resource,
          path.name!,
          `pod ${path.name} is already assigned to node "${pod.spec.nodeName}"`,
        );
      pod.spec.nodeName = nodeName;
      if (binding?.metadata?.annotations)
        pod.metadata.annotations = { ...pod.metadata.annotations, ...binding.metadata.annotations };
      const scheduled: Condition = {
        type: 'PodScheduled',
        status: 'True',
        lastProbeTime: null,
        lastTransitionTime: timeText(registry.clock()),
      };
      const others = (pod.status?.conditions ?? []).filter((condition) => condition.type !== 'PodScheduled');
      pod.status = { ...pod.status, conditions: [...others, scheduled] };
      return { next: pod };
    },
    { subresource: 'binding' },
  );
  return success(201);
}

/** There are no disruption budgets here, so an eviction is a delete. */
export async function evictPod(context: WriteContext): Promise<ApiResponse> {
  const { registry, resource, path, request } = context;
  const eviction = parseObjectBody(request.body, request.headers['content-type']) as {
    deleteOptions?: { gracePeriodSeconds?: number; preconditions?: { uid?: string } };
  } | null;
  const { gracePeriodSeconds, preconditions } = eviction?.deleteOptions ?? {};
  await deleteObject(registry, resource, path.namespace, path.name!, {
    ...(typeof gracePeriodSeconds === 'number' && { gracePeriodSeconds }),
    ...(typeof preconditions?.uid === 'string' && { uid: preconditions.uid }),
  });
  return success(201);
}

/** Hands out a container's log; the node that runs the pod has it. */
export type PodLogs = (
  pod: Pod,
  query: URLSearchParams,
  signal: AbortSignal,
) => Promise<AsyncIterable<Uint8Array> | Iterable<Uint8Array>>;

/** Why a container has no log, in the kubelet's words: what it waits for, or that it runs for the first time. */
function withoutLog({ metadata, status }: Pod, container: string, previous: boolean): string {
  if (previous) return `previous terminated container "${container}" in pod "${metadata.name}" not found`;
  const found = [...(status?.containerStatuses ?? []), ...(status?.initContainerStatuses ?? [])];
  const reason = found.find(({ name }) => name === container)?.state?.waiting?.reason ?? 'ContainerCreating';
  return `container "${container}" in pod "${metadata.name}" is waiting to start: ${reason}`;
}

export async function podLog(context: WriteContext, logs: PodLogs | undefined): Promise<ApiResponse> {
  const { registry, resource, path, request } = context;
  const pod = objectOf(registry.get(resource, path.namespace, path.name!)) as Pod;
  if (!pod.spec.nodeName) throw badRequest(`pod ${path.name} does not have a host assigned`);
  const container = request.query.get('container');
  const names = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map((c) => c.name);
  if (container !== null && !names.includes(container))
    throw badRequest(`container ${container} is not valid for pod ${path.name}`);
  if (container === null && pod.spec.containers.length > 1)
    throw badRequest(
      `a container name must be specified for pod ${path.name}, choose one of: [${names.join(' ')}]`,
    );
  if (!logs) throw apiError('API_NOT_IMPLEMENTED', { what: 'logs: no way to the nodes is set up' });
  const chunks = await logs(pod, request.query, request.signal).catch((error: unknown) => {
    if (!isNetError(error, 'PODS_NO_LOG')) throw error;
    throw badRequest(withoutLog(pod, container ?? names[0] ?? '', error.context['previous'] === true));
  });
  return {
    status: 200,
    headers: { 'content-type': 'text/plain' },
    stream: async (sink) => {
      for await (const chunk of chunks) if (!sink.write(chunk)) return;
      sink.end();
    },
  };
}
