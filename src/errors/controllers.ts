/** What can go wrong in the controllers before they run; later failures are told as Events on the objects. */
import { entry, errorsOf } from './net-error.ts';

export const controllersErrors = {
  CONTROLLER_BAD_CIDR: entry(
    (c: { option: string; cidr: string; why: string }) => `Cannot use ${c.option} "${c.cidr}": ${c.why}`,
    (c) => `Give ${c.option} networks such as 10.244.0.0/16,fd00:10:244::/56`,
  ),
  CONTROLLER_CIDRS_OVERLAP: entry(
    (c: { first: string; firstOption: string; second: string; secondOption: string }) =>
      `Cannot use ${c.secondOption} "${c.second}": it overlaps ${c.firstOption} "${c.first}"`,
    () => 'Pod and Service networks must be disjoint: choose another one',
  ),
  CONTROLLER_BAD_NODE_MASK: entry(
    (c: { option: string; mask: number; cidr: string }) =>
      `Cannot cut "${c.cidr}" into /${c.mask} for nodes: want a longer prefix than the network's own, with room for pods`,
    (c) => `Give ${c.option} a length between that of "${c.cidr}" and /30 (IPv4) or /126 (IPv6)`,
  ),
  CONTROLLER_BAD_POOL: entry(
    (c: { pool: string; key: string; value: string; want: string }) =>
      `Cannot use load balancer pool "${c.pool}": ${c.key} is "${c.value}", want ${c.want}`,
    (c) => `Correct ConfigMap kube-system/${c.pool}; the pool is not used until then`,
  ),
  CONTROLLER_BAD_OPTION: entry(
    (c: { option: string; value: string; want: string }) =>
      `Cannot use ${c.option} "${c.value}": want ${c.want}`,
    (c) => `Give ${c.option} ${c.want}`,
  ),
};

/** Makes an error of the controllers' catalogue. */
export const controllersError = errorsOf(controllersErrors);
