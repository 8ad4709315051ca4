import type { DnsConfig, SandboxConfig } from '../types.ts';

/** /etc/hosts of a pod, as kubelet writes it: the pod's own name at its addresses. */
export function hostsFile(config: SandboxConfig, ips: readonly string[], hostsOfNode: string): string {
  const lines = config.hostNetwork
    ? [hostsOfNode.trimEnd()]
    : [
        '127.0.0.1\tlocalhost',
        '::1\tlocalhost ip6-localhost ip6-loopback',
        'fe00::0\tip6-localnet',
        'fe00::0\tip6-mcastprefix',
        'fe00::1\tip6-allnodes',
        'fe00::2\tip6-allrouters',
        ...ips.map((ip) => `${ip}\t${config.hostname}`),
      ];
  for (const alias of config.hostAliases) lines.push(`${alias.ip}\t${alias.hostnames.join('\t')}`);
  return `${lines.join('\n')}\n`;
}

/** /etc/resolv.conf of a pod; without any setting that of the node. resolv.conf(5). */
export function resolvConf(dns: DnsConfig, ofNode: string): string {
  if (dns.servers.length === 0 && dns.searches.length === 0 && dns.options.length === 0) return ofNode;
  const lines: string[] = [];
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(' ')}`);
  const servers = dns.servers.length > 0 ? dns.servers : nameserversOf(ofNode);
  for (const server of servers) lines.push(`nameserver ${server}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(' ')}`);
  return `${lines.join('\n')}\n`;
}

function nameserversOf(text: string): string[] {
  return [...text.matchAll(/^nameserver\s+(\S+)/gm)].map((match) => match[1]!);
}
