/** What policies allowed and denied, packet by packet as the kernel reports it, with names instead of addresses. */
import type { IpAddress } from '../addr/index.ts';
import { openNflog, readPacketFlow } from '../kernel/nflog/index.ts';
import type { Endpoint } from './evaluate.ts';
import { endpointText } from './explain.ts';
import { LOG_GROUP, LOG_SNAPLEN_BYTES, readLogPrefix } from './logging.ts';
import type { Direction } from './types.ts';

/** One reported packet: the first of a connection, or one that was dropped. */
export interface FlowRecord {
  /** RFC 3339, when it was read. */
  readonly time: string;
  readonly verdict: 'allowed' | 'denied';
  readonly direction: Direction;
  /** What decided. */
  readonly by: string;
  readonly from: string;
  readonly to: string;
  /** Name or number. */
  readonly protocol: string;
  readonly sourcePort: number | undefined;
  readonly port: number | undefined;
}

/** The kernel reported more than could be read. */
export interface FlowGap {
  readonly time: string;
  readonly lost: true;
}

export interface FlowLogOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly endpoint: (address: IpAddress) => Endpoint;
  readonly onRecord: (record: FlowRecord | FlowGap) => void;
}

/** Reads until closed. Throws NFLOG_BUSY, KERNEL_*. */
export function openFlowLog({ netns, endpoint, onRecord }: FlowLogOptions): { close(): void } {
  const now = () => new Date().toISOString();
  return openNflog({
    netns,
    group: LOG_GROUP,
    snaplen: LOG_SNAPLEN_BYTES,
    onLost: () => onRecord({ time: now(), lost: true }),
    onPacket: ({ prefix, payload }) => {
      const decided = readLogPrefix(prefix);
      const flow = readPacketFlow(payload);
      if (!decided || !flow) return;
      onRecord({
        time: now(),
        ...decided,
        from: endpointText(endpoint(flow.source)),
        to: endpointText(endpoint(flow.destination)),
        protocol: flow.protocolName,
        sourcePort: flow.sourcePort,
        port: flow.destinationPort,
      });
    },
  });
}

export function flowRecordText(record: FlowRecord | FlowGap): string {
  if ('lost' in record) return `${record.time} records were lost: they came faster than they could be read`;
  const { time, verdict, direction, by, from, to, protocol, port } = record;
  return `${time} ${verdict} ${from} -> ${to} ${port === undefined ? '' : `${port}/`}${protocol} ${direction}: ${by}`;
}
