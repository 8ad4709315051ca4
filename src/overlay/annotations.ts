import {
  type Cidr,
  FAMILIES,
  type Family,
  type IpAddress,
  isUnicastMac,
  type Mac,
  parseCidr,
  parseMac,
  tryParseIp,
} from '../addr/index.ts';
import { overlayError } from '../errors/index.ts';
import { DEFAULT_PORT } from './names.ts';
import type { Lease, LeaseEndpoint, Vtep } from './types.ts';

/** Default prefix of flannel's annotations; flannel can be told another. */
export const ANNOTATION_PREFIX = 'flannel.alpha.coreos.com';

const PUBLIC_IP: Record<Family, string> = { 4: 'public-ip', 6: 'public-ipv6' };
const BACKEND_DATA: Record<Family, string> = { 4: 'backend-data', 6: 'backend-v6-data' };
const MAX_VNI = (1 << 24) - 1;

/** What of a Node matters to the overlay. */
export interface NodeRecord {
  readonly name: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly podCidrs: readonly string[];
}

/** A node's lease as flannel writes it into the annotations of its Node. */
export function leaseAnnotations(lease: Lease, prefix = ANNOTATION_PREFIX): Record<string, string> {
  const out: Record<string, string> = {
    [`${prefix}/kube-subnet-manager`]: 'true',
    [`${prefix}/backend-type`]: lease.backend,
  };
  for (const family of FAMILIES) {
    const endpoint = lease.endpoints[family];
    if (!endpoint) continue;
    out[`${prefix}/${PUBLIC_IP[family]}`] = String(endpoint.publicIp);
    out[`${prefix}/${BACKEND_DATA[family]}`] = encodeVtep(endpoint.vtep);
  }
  // flannel reads this key without looking whether it is there.
  out[`${prefix}/backend-data`] ??= 'null';
  return out;
}

/** flannel leaves the port to the configuration that all nodes share; it is told only when it is not the usual one. */
function encodeVtep(vtep: Vtep | undefined): string {
  if (!vtep) return 'null';
  return JSON.stringify({
    VNI: vtep.vni,
    VtepMAC: vtep.mac,
    ...(vtep.port === DEFAULT_PORT ? {} : { Port: vtep.port }),
  });
}

/**
 * Reads a node's lease. Undefined while the node has told nothing or has no pod CIDR: it is just starting. Throws
 * OVERLAY_BAD_ANNOTATION and OVERLAY_BAD_POD_CIDR, which name the node, for what no node writes.
 */
export function leaseOfNode(node: NodeRecord, prefix = ANNOTATION_PREFIX): Lease | undefined {
  const get = (key: string) => node.annotations[`${prefix}/${key}`];
  const backend = get('backend-type');
  if (backend === undefined || node.podCidrs.length === 0) return undefined;
  if (!/^[a-z0-9-]{1,32}$/.test(backend))
    throw bad(node, prefix, 'backend-type', backend, 'it is no name of a backend');
  const podCidrs = node.podCidrs.map((text) => readPodCidr(node.name, text));
  const endpoints: { [F in Family]?: LeaseEndpoint } = {};
  for (const family of FAMILIES) {
    const text = get(PUBLIC_IP[family]);
    const own = podCidrs.filter((cidr) => cidr.family === family);
    if (text === undefined || text === '' || own.length === 0) continue;
    const publicIp = readPublicIp(node, prefix, family, text);
    const data = get(BACKEND_DATA[family]);
    const vtep = data === undefined ? undefined : readVtep(node, prefix, family, data);
    if (backend === 'vxlan' && !vtep)
      throw bad(node, prefix, BACKEND_DATA[family], data ?? '', 'backend vxlan needs VNI and VtepMAC');
    endpoints[family] = { publicIp, podCidrs: own, vtep };
  }
  return endpoints[4] || endpoints[6] ? { node: node.name, backend, endpoints } : undefined;
}

function readPodCidr(node: string, text: string): Cidr {
  let cidr: Cidr;
  try {
    cidr = parseCidr(text);
  } catch (cause) {
    throw overlayError('OVERLAY_BAD_POD_CIDR', { node, cidr: text, why: 'is no CIDR' }, cause);
  }
  if (
    cidr.prefixLength < 8 ||
    cidr.address.isMulticast ||
    cidr.address.isLoopback ||
    cidr.address.isLinkLocal
  )
    throw overlayError('OVERLAY_BAD_POD_CIDR', { node, cidr: text, why: 'is no network for pods' });
  return cidr;
}

function readPublicIp(node: NodeRecord, prefix: string, family: Family, text: string): IpAddress {
  const ip = tryParseIp(text);
  const why =
    ip?.family !== family
      ? `want an IPv${family} address`
      : ip.isLoopback || ip.isUnspecified || ip.isMulticast
        ? 'no other node can reach it there'
        : undefined;
  if (!ip || why) throw bad(node, prefix, PUBLIC_IP[family], text, why ?? '');
  return ip;
}

function readVtep(node: NodeRecord, prefix: string, family: Family, text: string): Vtep | undefined {
  const fail = (why: string) => bad(node, prefix, BACKEND_DATA[family], text, why);
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    throw fail('it is no JSON');
  }
  if (data === null) return undefined;
  if (typeof data !== 'object' || Array.isArray(data)) throw fail('it is no JSON object');
  const { VNI, VtepMAC, Port } = data as Record<string, unknown>;
  if (VNI === undefined && VtepMAC === undefined) return undefined;
  if (typeof VNI !== 'number' || !Number.isInteger(VNI) || VNI < 1 || VNI > MAX_VNI)
    throw fail(`VNI must be 1 to ${MAX_VNI}`);
  let mac: Mac;
  try {
    mac = parseMac(VtepMAC as string);
  } catch {
    throw fail('VtepMAC is no MAC address');
  }
  if (!isUnicastMac(mac)) throw fail('VtepMAC is no address of one device');
  if (Port !== undefined && (typeof Port !== 'number' || !Number.isInteger(Port) || Port < 1 || Port > 65535))
    throw fail('Port must be 1 to 65535');
  return { vni: VNI, mac, port: Port ?? DEFAULT_PORT };
}

function bad(node: NodeRecord, prefix: string, key: string, value: string, why: string) {
  const shown = value.length > 200 ? `${value.slice(0, 200)}…` : value;
  return overlayError('OVERLAY_BAD_ANNOTATION', {
    node: node.name,
    key: `${prefix}/${key}`,
    value: shown,
    why,
  });
}
