/** The capability `portMappings`: ports of the node that lead to ports of a container, as runtimes say them. */
import * as v from 'valibot';
import { tryParseIp } from '../addr/index.ts';
import type { PortMapping } from '../ipam/index.ts';
import type { Protocol } from '../model/kubernetes.ts';

const port = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65535));

/** One call's: a runtime that publishes a whole range sends each port by itself. */
const MOST_MAPPINGS = 1024;

const KEYS = ['hostPort', 'containerPort', 'protocol', 'hostIP'] as const;

/**
 * Keys as in CONVENTIONS.md of the CNI specification, in whatever case: go-cni, which containerd and nerdctl use,
 * sends `HostPort`, and Go's decoder does not mind. Others are refused, as nobody would act on them.
 */
const portMappingsSchema = v.pipe(
  v.array(
    v.pipe(
      v.record(v.string(), v.unknown()),
      v.transform((mapping) =>
        Object.fromEntries(Object.entries(mapping).map(([key, value]) => [known(key), value])),
      ),
      v.strictObject({
        hostPort: port,
        containerPort: port,
        protocol: v.optional(v.nullable(v.string())),
        hostIP: v.optional(v.nullable(v.string())),
      }),
    ),
  ),
  v.maxLength(MOST_MAPPINGS),
);

function known(key: string): string {
  return KEYS.find((each) => each.toLowerCase() === key.toLowerCase()) ?? key;
}

const PROTOCOLS: Readonly<Record<string, Protocol>> = { '': 'TCP', tcp: 'TCP', udp: 'UDP', sctp: 'SCTP' };

/**
 * The mappings, each once. Pure. `invalid` makes the error for what is no list of mappings, a protocol that nobody
 * knows, a hostIP that is none, and two mappings of one port of the node.
 */
export function readPortMappings(given: unknown, invalid: (why: string) => Error): PortMapping[] {
  const parsed = v.safeParse(portMappingsSchema, given ?? []);
  if (!parsed.success)
    throw invalid(
      parsed.issues
        .map((issue) => `"runtimeConfig.portMappings.${v.getDotPath(issue) ?? ''}": ${issue.message}`)
        .join('; '),
    );
  const found = new Map<string, PortMapping>();
  for (const [place, { hostPort, containerPort, protocol, hostIP }] of parsed.output.entries()) {
    const key = `"runtimeConfig.portMappings.${place}`;
    const named = PROTOCOLS[(protocol ?? '').toLowerCase()];
    if (named === undefined) throw invalid(`${key}.protocol": "${protocol}" is none of tcp, udp, sctp`);
    const address = hostIP ? tryParseIp(hostIP) : undefined;
    if (hostIP && !address) throw invalid(`${key}.hostIP": "${hostIP}" is no IP address`);
    const mapping = { hostPort, containerPort, protocol: named, hostIP: address?.toString() };
    const same = found.get(frontOf(mapping));
    if (same && same.containerPort !== containerPort)
      throw invalid(
        `${key}": ${mappingText(mapping)} would lead to port ${same.containerPort} and ${containerPort} at once`,
      );
    found.set(frontOf(mapping), mapping);
  }
  return [...found.values()];
}

/** A mapping for people: `192.0.2.1:8080/TCP`. */
export function mappingText({ hostIP, hostPort, protocol }: PortMapping): string {
  const address = hostIP === undefined ? '*' : hostIP.includes(':') ? `[${hostIP}]` : hostIP;
  return `${address}:${hostPort}/${protocol}`;
}

/** What CHECK says of mappings that a runtime believes in and ADD did not record. Pure. */
export function unknownMappings(wanted: readonly PortMapping[], recorded: readonly PortMapping[]): string[] {
  return wanted
    .filter(
      (each) =>
        !recorded.some((one) => frontOf(one) === frontOf(each) && one.containerPort === each.containerPort),
    )
    .map((each) => `port mapping ${mappingText(each)} to ${each.containerPort} was not asked for at ADD`);
}

function frontOf({ hostIP, hostPort, protocol }: PortMapping): string {
  return `${hostIP ?? ''} ${hostPort} ${protocol}`;
}
