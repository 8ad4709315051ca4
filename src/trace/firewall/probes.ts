/** The packets that a node of Portolan has to let pass, and what helps when somebody drops them. Pure. */
import { type Cidr, parseIp } from '../../addr/index.ts';
import type { Judgement } from './judge.ts';
import type { Finding, Probe } from './types.ts';

/** What the doctor has to know of a node. */
export interface NodeNetwork {
  /** Pod networks of this node, and of the whole cluster. */
  readonly podCidrs: readonly Cidr[];
  readonly clusterCidrs: readonly Cidr[];
  /** Link to the other nodes, the tunnel's, and any pod's. */
  readonly uplink: string;
  readonly tunnel: string | undefined;
  readonly podLink: string;
  /** What packets of bridged pods come in by; undefined where all are routed. */
  readonly podBridge?: string | undefined;
}

/** VXLAN's port as flannel has it, and the API server's. */
const VXLAN_PORT = 8472;
const API_PORT = 6443;
const OUTSIDE = { 4: '192.0.2.1', 6: '2001:db8::1' } as const;

const BRIDGED = 'a bridged pod, on its way in';
const FRAME = 'a frame of a bridged pod to its node';

/** `byConntrack`: Services are translated by rules, and not before conntrack. */
export function probesOf(node: NodeNetwork, byConntrack = false): Probe[] {
  const { uplink, tunnel, podLink: pod, podBridge } = node;
  const fromPod = podBridge ?? pod;
  return node.clusterCidrs.flatMap((cluster) => {
    const { family } = cluster;
    const own = node.podCidrs.find((cidr) => cidr.family === family) ?? cluster;
    const [here, beside] = [String(own.address.plus(2)), String(own.address.plus(3))];
    // An address of the cluster that is not of this node.
    const last = cluster.last.plus(-2);
    const there = String(
      own.contains(last) && !own.contains(cluster.address) ? cluster.address.plus(2) : last,
    );
    const outside = String(parseIp(OUTSIDE[family]));
    const far = tunnel ?? uplink;
    const tcp = { family, protocol: 'tcp' } as const;
    const forward = { ...tcp, hook: 'forward', dport: 80 } as const;
    const probes: Probe[] = [
      {
        ...forward,
        what: 'a pod to a pod beside it',
        iifname: fromPod,
        oifname: pod,
        saddr: here,
        daddr: beside,
      },
      {
        ...forward,
        what: 'a pod to a pod of another node',
        iifname: fromPod,
        oifname: far,
        saddr: here,
        daddr: there,
      },
      {
        ...forward,
        what: 'a pod of another node to a pod here',
        iifname: far,
        oifname: pod,
        saddr: there,
        daddr: here,
      },
      {
        ...forward,
        what: 'a pod to the outside',
        iifname: fromPod,
        oifname: uplink,
        saddr: here,
        daddr: outside,
        dport: 443,
      },
      {
        ...forward,
        what: 'the outside to a pod, by a nodePort',
        iifname: uplink,
        oifname: pod,
        saddr: outside,
        daddr: here,
        translated: byConntrack,
      },
      {
        ...tcp,
        hook: 'output',
        what: 'the node to its own pod (probes)',
        oifname: pod,
        daddr: here,
        dport: 8080,
      },
      { ...tcp, hook: 'output', what: 'the node to the API server', oifname: uplink, dport: API_PORT },
    ];
    if (podBridge !== undefined) {
      const packet = { ...tcp, saddr: here, daddr: there, dport: 80 } as const;
      probes.push(
        // Its way back leads to a port of the bridge.
        { ...packet, hook: 'prerouting', what: BRIDGED, iifname: podBridge, reversePath: false },
        // As a frame: rules of the bridge see the port.
        { ...packet, hook: 'prerouting', what: FRAME, iifname: pod, bridged: true },
        { ...packet, hook: 'input', what: FRAME, iifname: pod, bridged: true },
      );
    }
    if (tunnel !== undefined)
      probes.push(
        {
          family,
          protocol: 'udp',
          hook: 'input',
          what: 'packets of the tunnel from other nodes',
          iifname: uplink,
          dport: VXLAN_PORT,
        },
        {
          family,
          protocol: 'udp',
          hook: 'output',
          what: 'packets of the tunnel to other nodes',
          oifname: uplink,
          dport: VXLAN_PORT,
        },
      );
    return probes;
  });
}

export function findingOf(
  probe: Probe,
  { certain, chain, rule, path }: Judgement,
  node: NodeNetwork,
): Finding {
  return {
    probe: probe.what,
    family: `IPv${probe.family}`,
    says: certain ? 'drops' : 'may drop',
    tool: chain.tool,
    chain: `${chain.table} ${chain.name}`,
    rule: rule === undefined ? `policy ${chain.policy}` : rule.text,
    ...(rule?.handle === undefined ? {} : { handle: rule.handle }),
    by: path,
    remedy: remedyOf(probe, { certain, chain, rule, path }, node),
  };
}

/** What to do about it, in the words of whoever owns the chain. */
function remedyOf(probe: Probe, { chain, path }: Judgement, node: NodeNetwork): string {
  const networks = node.clusterCidrs.filter(({ family }) => family === probe.family).map(String);
  const [network = ''] = networks;
  const { tool, name, table } = chain;
  if (probe.reversePath === false)
    return /firewalld/.test(table)
      ? 'IPv6_rpfilter=loose (or no) in /etc/firewalld/firewalld.conf; firewall-cmd --reload'
      : `leave ${probe.iifname} out of it: what a bridged pod gets goes out by its port, so a strict reverse path check fails`;
  if (probe.bridged) return `nft insert rule ${table} ${name} iifname "po*" accept`;
  const isTunnel = probe.protocol === 'udp';
  if (/firewalld/.test(table))
    return isTunnel
      ? `firewall-cmd --permanent --add-port=${VXLAN_PORT}/udp && firewall-cmd --reload`
      : `firewall-cmd --permanent --zone=trusted --add-source=${network} && firewall-cmd --reload`;
  const iptables = tool.endsWith('-legacy') ? tool : probe.family === 4 ? 'iptables' : 'ip6tables';
  const docker = /DOCKER/.test([name, ...path].join(' '));
  if (docker) return `${iptables} -I DOCKER-USER -s ${network} -j ACCEPT, and the same with -d ${network}`;
  if (/^ufw6?-/.test(name)) return `ufw route allow from ${network}; ufw route allow to ${network}`;
  const chainName = [...path, ''][0]!.split(': ')[0] || name;
  if (tool !== 'nft' || /^(ip6? )?filter$/.test(table))
    return isTunnel
      ? `${iptables} -I ${chainName} -p udp --dport ${VXLAN_PORT} -j ACCEPT`
      : `${iptables} -I ${chainName} ${probe.hook === 'output' ? `-o ${probe.oifname}` : `-s ${network}`} -j ACCEPT, and the same for the other direction`;
  const ip = probe.family === 4 ? 'ip' : 'ip6';
  if (isTunnel) return `nft insert rule ${table} ${chainName} udp dport ${VXLAN_PORT} accept`;
  if (probe.hook !== 'forward')
    return `nft insert rule ${table} ${chainName} oifname ${probe.oifname} accept`;
  return `nft insert rule ${table} ${chainName} ${ip} saddr ${network} accept; nft insert rule ${table} ${chainName} ${ip} daddr ${network} accept`;
}
