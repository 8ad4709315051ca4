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
} as const;

export const egressError = errorsOf(egressCatalogue);
