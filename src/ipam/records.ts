/** What the database of a node holds, as attachments. What does not parse means that somebody else wrote there. */
import type { DatabaseSync } from 'node:sqlite';
import { type Cidr, type IpAddress, parseCidr, tryParseIp } from '../addr/index.ts';
import { ipamError } from '../errors/ipam.ts';
import { type Attachment, attachmentKey, type PortMapping } from './types.ts';

type Row = Record<string, string | number | null>;

export interface Records {
  /** Oldest first. */
  readonly attachments: readonly Attachment[];
  /** Text of a pool → the address given out last. */
  readonly cursors: ReadonlyMap<string, IpAddress>;
}

/** Reads everything. Throws IPAM_STORE_DAMAGED, and SQLite's own errors. */
export function readRecords(database: DatabaseSync, path: string): Records {
  const rows = (sql: string) => database.prepare(sql).all() as Row[];
  const damaged = (detail: string, cause?: unknown) =>
    ipamError('IPAM_STORE_DAMAGED', { path, detail }, cause);
  const readAddress = (text: unknown): IpAddress => {
    const address = tryParseIp(String(text));
    if (!address) throw damaged(`"${text}" is no IP address`);
    return address;
  };
  const readNetwork = (text: unknown): Cidr => {
    try {
      return parseCidr(String(text));
    } catch (error) {
      throw damaged(`"${text}" is no network`, error);
    }
  };
  const addresses = Map.groupBy(rows('SELECT * FROM addresses'), keyOf);
  const mappings = Map.groupBy(rows('SELECT * FROM port_mappings ORDER BY place'), keyOf);
  const networks = new Map(
    rows('SELECT * FROM networks').map((row) => [String(row['address']), readNetwork(row['network'])]),
  );
  const attachments = rows('SELECT * FROM attachments ORDER BY created_at_ms, container_id').map((row) => {
    const taken = (addresses.get(keyOf(row)) ?? [])
      .map(({ address }) => readAddress(address))
      .sort((a, b) => a.compare(b));
    return {
      ...attachmentOf(row),
      addresses: taken,
      networks: taken.flatMap((address) => networks.get(address.toString()) ?? []),
      portMappings: (mappings.get(keyOf(row)) ?? []).map((each) => portMappingOf(each, damaged)),
    };
  });
  const cursors = new Map(
    rows('SELECT * FROM cursors').map((row) => [String(row['pool']), readAddress(row['last'])]),
  );
  return { attachments, cursors };
}

function keyOf(row: Row): string {
  return attachmentKey({ containerId: String(row['container_id']), ifname: String(row['ifname']) });
}

function portMappingOf(row: Row, damaged: (detail: string) => Error): PortMapping {
  const protocol = String(row['protocol']);
  if (protocol !== 'TCP' && protocol !== 'UDP' && protocol !== 'SCTP')
    throw damaged(`"${protocol}" is no protocol`);
  return {
    hostPort: Number(row['host_port']),
    containerPort: Number(row['container_port']),
    protocol,
    hostIP: row['host_ip'] === null ? undefined : String(row['host_ip']),
  };
}

/** What stands in the row of an attachment itself. */
function attachmentOf(row: Row): Omit<Attachment, 'addresses' | 'networks' | 'portMappings'> {
  return {
    containerId: String(row['container_id']),
    ifname: String(row['ifname']),
    netns: String(row['netns']),
    netnsInode: BigInt(String(row['netns_inode'])),
    pod:
      row['pod_name'] === null
        ? undefined
        : {
            namespace: String(row['pod_namespace'] ?? ''),
            name: String(row['pod_name']),
            uid: String(row['pod_uid'] ?? ''),
          },
    hostLink: String(row['host_link']),
    kind: String(row['kind']),
    network: String(row['network']),
    mtuBytes: Number(row['mtu_bytes']),
    state: row['state'] === 'ready' ? 'ready' : 'pending',
    createdAtMs: Number(row['created_at_ms']),
  };
}
