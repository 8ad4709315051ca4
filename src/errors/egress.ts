import { entry, errorsOf } from './net-error.ts';

/** Egress addresses of namespaces. */
export const egressCatalogue = {
  EGRESS_NOT_PROGRAMMED: entry(
    (c: { pod: string; why: string }) => `Cannot give pod "${c.pod}" its egress address: ${c.why}`,
    () =>
      'The pod is not started, because it would be seen with another address; "portolan status" shows the last error',
  ),
  EGRESS_NOT_KNOWN: entry(
    () => 'Cannot answer questions about egress addresses yet: namespaces are not listed from the API server',
    () => 'Wait a moment; "portolan status" tells whether the API server answers',
  ),
  EGRESS_BAD_ADDRESS: entry(
    (c: { text: string }) => `Cannot explain a connection to "${c.text}": it is no IP address`,
    () => 'Give an address outside the cluster, such as --to 198.51.100.7',
  ),
  EGRESS_BAD_FROM: entry(
    (c: { from: string }) =>
      `Cannot explain connections of "${c.from}": want a pod as namespace/name, or a namespace`,
    () => 'Name a pod with its namespace, such as --from shop/web',
  ),
  EGRESS_NO_SUCH_NAMESPACE: entry(
    (c: { from: string; namespace: string; pods: readonly string[] }) =>
      `Cannot explain connections of "${c.from}": there is no namespace "${c.namespace}"`,
    ({ pods }) =>
      pods.length > 0
        ? `A pod is named with its namespace; on this node there is ${pods.map((pod) => `"${pod}"`).join(', ')}`
        : '"kubectl get namespaces" lists them; a pod is named with its namespace, such as --from shop/web',
  ),
  EGRESS_NO_SUCH_POD: entry(
    (c: { namespace: string; name: string }) =>
      `Cannot explain connections of pod "${c.name}": there is none in namespace "${c.namespace}"`,
    ({ namespace }) => `"kubectl get pods -n ${namespace}" lists them`,
  ),
} as const;

export const egressError = errorsOf(egressCatalogue);
