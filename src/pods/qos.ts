import type { Container, Pod } from '../model/kubernetes.ts';
import { quantityValue } from './quantity.ts';

/** Kubernetes' quality class of a pod: by its requests and limits of cpu and memory. */
export function qosClass(pod: Pod): 'Guaranteed' | 'Burstable' | 'BestEffort' {
  const containers = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])];
  const amount = (container: Container, list: 'requests' | 'limits', name: string) => {
    const value = container.resources?.[list]?.[name];
    return value === undefined ? 0 : quantityValue(value);
  };
  const names = ['cpu', 'memory'];
  const any = containers.some((one) =>
    names.some((name) => amount(one, 'requests', name) > 0 || amount(one, 'limits', name) > 0),
  );
  if (!any) return 'BestEffort';
  const whole = containers.every((one) =>
    names.every((name) => {
      const limit = amount(one, 'limits', name);
      // A request that is not given is the limit.
      const request = amount(one, 'requests', name) || limit;
      return limit > 0 && request === limit;
    }),
  );
  return whole ? 'Guaranteed' : 'Burstable';
}
