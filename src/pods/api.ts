import type { ApiClient } from '../client/index.ts';
import { resources } from '../client/index.ts';
import { isNetError } from '../errors/index.ts';
import type { Pod, PodStatus } from '../model/kubernetes.ts';
import type { PodApi } from './status-writer.ts';

/** Fields of a status that a merge patch must set to null when they are not there any more. */
const clearable = ['reason', 'message', 'initContainerStatuses'] as const;

/** The Kubernetes API as the pod manager writes to it: merge patches that hold only for the same uid. */
export function podApi(client: ApiClient): PodApi {
  return {
    async writeStatus(pod: Pod, status: PodStatus) {
      const { name, namespace = 'default', uid } = pod.metadata;
      const cleared = Object.fromEntries(
        clearable.filter((field) => status[field] === undefined).map((field) => [field, null]),
      );
      // A merge patch with a uid is refused with Conflict when the name belongs to another pod by now.
      await client.patchStatus(
        resources.pods,
        { name, namespace },
        { metadata: { uid }, status: { ...cleared, ...status } },
      );
    },
    async deletePod(pod: Pod) {
      const { name, namespace = 'default', uid } = pod.metadata;
      try {
        await client.delete(
          resources.pods,
          { name, namespace },
          { gracePeriodSeconds: 0, ...(uid === undefined ? {} : { preconditions: { uid } }) },
        );
      } catch (error) {
        if (isNetError(error, 'CLIENT_NOT_FOUND') || isNetError(error, 'CLIENT_CONFLICT')) return;
        throw error;
      }
    },
  };
}
