import { entry, errorsOf } from './net-error.ts';

/** Network policy: reading policies, programming them, answering questions about them. */
export const policyCatalogue = {
  POLICY_NOT_PROGRAMMED: entry(
    (c: { why: string }) => `Cannot program network policies: ${c.why}`,
    () =>
      'What was programmed before stays in force, and the agent tries again; "nft list table ip portolan" shows it, "portolan status" the last error',
  ),
  POLICY_NO_ISOLATION: entry(
    (c: { pod: string; why: string }) => `Cannot isolate pod "${c.pod}" before it starts: ${c.why}`,
    () => 'The pod is not started without its policies; see that nf_tables is in the kernel',
  ),
  POLICY_NO_SUCH_ENDPOINT: entry(
    (c: { text: string }) =>
      `Cannot explain traffic of "${c.text}": no such pod or Service, and no IP address`,
    () => 'Name a pod as namespace/name, an address, or a Service as service/namespace/name',
  ),
  POLICY_NO_SUCH_SERVICE_PORT: entry(
    (c: { service: string; port: string; has: readonly string[] }) =>
      `Cannot explain traffic to Service "${c.service}" on ${c.port}: its ports are ${c.has.join(', ') || 'none'}`,
    () => "Name the Service's own port, not that of its pods",
  ),
  POLICY_BAD_PORT: entry(
    (c: { text: string }) => `Cannot explain port "${c.text}": want a number and a protocol, such as 80/tcp`,
    () => 'Protocols are tcp, udp and sctp; tcp is meant when none is given, and "icmp" has no port',
  ),
  POLICY_NO_SUCH_POLICY: entry(
    (c: { name: string }) => `Cannot show network policy "${c.name}": there is none`,
    () =>
      '"portolan policy list" names them as namespace/name; "portolan firewall status" has those of the node itself',
  ),
  POLICY_LOG_OFF: entry(
    () => 'Decisions of network policies are not recorded on this node',
    () =>
      '"portolan policy log -f" shows them from now on; an agent with --policy-log denied keeps the last ones',
  ),
  POLICY_BAD_FILE: entry(
    (c: { file: string; why: string }) => `Cannot read a policy from "${c.file}": ${c.why}`,
    () => 'Give one NodeNetworkPolicy as YAML or JSON; docs/policy.md has an example',
  ),
  POLICY_BAD_OPTION: entry(
    (c: { option: string; value: string; want: string }) =>
      `Cannot use ${c.option} "${c.value}": want ${c.want}`,
    (c) => `Give ${c.want}`,
  ),
  POLICY_TRIAL_OVER: entry(
    (c: { name: string; until: string }) => `Cannot confirm "${c.name}": its trial was over at ${c.until}`,
    () => 'Nodes no longer enforce it; "portolan firewall apply" starts anew',
  ),
  POLICY_NOT_SYNCED: entry(
    () => `Cannot answer questions about policies yet: they are not listed from the API server`,
    () => 'Wait a moment; "portolan status" tells whether the API server answers',
  ),
} as const;

export const policyError = errorsOf(policyCatalogue);
