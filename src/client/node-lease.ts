/**
 * A node's sign of life: the Lease with its name in kube-node-lease, renewed every quarter of its duration (kubelet:
 * 40 s, every 10 s). The node lifecycle controller calls a node unreachable once the Lease stands still.
 */
import { isNetError } from '../errors/net-error.ts';
import type { Lease, OwnerReference } from '../model/kubernetes.ts';
import type { ApiClient } from './api-client.ts';
import { sleep } from './backoff.ts';
import { microTime } from './leader-elector.ts';
import type { Log } from './reflector.ts';
import { resources } from './resources.ts';

/** Namespace of node Leases, as in Kubernetes. */
export const nodeLeaseNamespace = 'kube-node-lease';

/** Options of {@link keepNodeLease}. */
export interface NodeLeaseOptions {
  client: ApiClient;
  nodeName: string;
  signal: AbortSignal;
  log?: Log;
  /** 40 by default. */
  durationSeconds?: number;
  /** uid of the Node object: the Lease is collected with it. */
  nodeUid?: () => string | undefined;
  /** Called after each renewal, and with the error after each failure. */
  onRenew?: (error: Error | undefined) => void;
}

/** Creates the Lease or takes over the one that is there, and renews it until `signal`. */
export async function keepNodeLease(options: NodeLeaseOptions): Promise<void> {
  const { signal, log } = options;
  const durationSeconds = options.durationSeconds ?? 40;
  const periodMs = (durationSeconds * 1000) / 4;
  let current: Lease | undefined;
  let failures = 0;
  while (!signal.aborted) {
    try {
      current = await renewNodeLease(options, current, durationSeconds);
      failures = 0;
      options.onRenew?.(undefined);
    } catch (error) {
      if (signal.aborted) return;
      current = undefined;
      if (failures++ === 0)
        log?.warn({ node: options.nodeName, error: (error as Error).message }, 'node lease was not renewed');
      options.onRenew?.(error as Error);
    }
    // After a failure sooner, but not all nodes at once.
    const waitMs =
      failures === 0
        ? periodMs * (1 + 0.04 * Math.random())
        : Math.min(periodMs, 200 * 2 ** Math.min(failures, 6));
    await sleep(waitMs, signal);
  }
}

/** One renewal; `current` is the Lease as last written, or undefined to read it first. */
async function renewNodeLease(
  options: NodeLeaseOptions,
  current: Lease | undefined,
  durationSeconds: number,
): Promise<Lease> {
  const { client, nodeName, signal } = options;
  const call = { signal, retryForMs: 0, timeoutMs: 10_000 };
  const uid = options.nodeUid?.();
  const owners: OwnerReference[] = uid ? [{ apiVersion: 'v1', kind: 'Node', name: nodeName, uid }] : [];
  const spec = {
    holderIdentity: nodeName,
    leaseDurationSeconds: durationSeconds,
    renewTime: microTime(),
  };
  let base = current;
  for (let attempt = 0; ; attempt++) {
    try {
      base ??= await client.get(resources.leases, { namespace: nodeLeaseNamespace, name: nodeName }, call);
      const next: Lease = { ...base, spec: { ...base.spec, ...spec } };
      if (owners.length > 0) next.metadata = { ...base.metadata, ownerReferences: owners };
      return await client.update(resources.leases, next, call);
    } catch (error) {
      if (isNetError(error, 'CLIENT_CONFLICT') && attempt < 3) {
        base = undefined;
        continue;
      }
      if (!isNetError(error, 'CLIENT_NOT_FOUND')) throw error;
      const made: Lease = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: {
          namespace: nodeLeaseNamespace,
          name: nodeName,
          ...(owners.length > 0 && { ownerReferences: owners }),
        },
        spec,
      };
      return await client.create(resources.leases, made, call);
    }
  }
}
