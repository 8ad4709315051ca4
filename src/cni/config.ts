import * as v from 'valibot';
import type { IpAddress } from '../addr/index.ts';
import { cniError } from '../errors/cni.ts';
import type { AttachmentKey, PortMapping } from '../ipam/index.ts';
import { POD_LINK_KINDS, type PodLinkKind } from '../podlink/index.ts';
import { type CniCommand, IDENTIFIER, readIps } from './environment.ts';
import { readPortMappings } from './port-mappings.ts';
import { type CniDns, type CniPrevResult, dnsSchema, resultSchema } from './result.ts';
import { type CniVersion, checkVersion } from './versions.ts';

/** The network configuration that a plugin gets on its standard input. */
export interface CniConfig {
  readonly cniVersion: CniVersion;
  /** Name of the network. */
  readonly name: string;
  readonly dns: CniDns | undefined;
  /** Asked for by the capability `ips` or by `args.cni.ips`. */
  readonly ips: readonly IpAddress[];
  /** Overrides the MTU that the agent found, bytes. */
  readonly mtuBytes: number | undefined;
  /** Ports of the node that lead to the container; empty for DEL and GC, which free what was recorded. */
  readonly portMappings: readonly PortMapping[];
  /** Overrides the agent's kind of pod links. */
  readonly podLink: PodLinkKind | undefined;
  readonly prevResult: CniPrevResult | undefined;
  /** What GC must keep; undefined when the runtime sent no list. */
  readonly validAttachments: readonly AttachmentKey[] | undefined;
}

const text = v.string();
const attachmentsSchema = v.nullable(v.array(v.looseObject({ containerID: text, ifname: text })));
const empty = v.union([v.null(), v.array(v.never()), v.strictObject({})]);

/** Capabilities that we declare and take; runtimes send only what the configuration declares. */
const runtimeConfigSchema = v.looseObject({
  ips: v.optional(v.nullable(v.array(text))),
  dns: v.optional(
    v.nullable(
      v.looseObject({
        servers: v.optional(v.nullable(v.array(text))),
        searches: v.optional(v.nullable(v.array(text))),
        options: v.optional(v.nullable(v.array(text))),
      }),
    ),
  ),
  // Read by itself: DEL must not fail for what it does not need.
  portMappings: v.optional(v.unknown()),
});
const RUNTIME_CONFIG_KEYS = Object.keys(runtimeConfigSchema.entries);

/** Keys of the specification, and `mtu` and `podLink` of our own. Keys below `cni.dev/` are the specification's for the future. */
const configSchema = v.looseObject({
  cniVersion: text,
  cniVersions: v.optional(v.array(text)),
  name: v.pipe(text, v.regex(IDENTIFIER, 'want letters, digits, "_", "." and "-"')),
  type: v.pipe(text, v.minLength(1)),
  capabilities: v.optional(v.nullable(v.record(text, v.boolean()))),
  runtimeConfig: v.optional(v.nullable(runtimeConfigSchema)),
  args: v.optional(
    v.nullable(
      v.looseObject({
        cni: v.optional(v.nullable(v.looseObject({ ips: v.optional(v.nullable(v.array(text))) }))),
      }),
    ),
  ),
  prevResult: v.optional(v.nullable(resultSchema)),
  ipam: v.optional(v.nullable(v.looseObject({ type: v.optional(text) }))),
  dns: v.optional(v.nullable(dnsSchema)),
  ipMasq: v.optional(v.boolean()),
  disableCheck: v.optional(v.boolean()),
  disableGC: v.optional(v.boolean()),
  mtu: v.optional(v.pipe(v.number(), v.integer(), v.minValue(68), v.maxValue(65535))),
  podLink: v.optional(v.picklist(POD_LINK_KINDS)),
  'cni.dev/valid-attachments': v.optional(attachmentsSchema),
  'cni.dev/attachments': v.optional(attachmentsSchema),
});
const CONFIG_KEYS = Object.keys(configSchema.entries);

/**
 * Reads the configuration of a verb, in the order in which the specification numbers its complaints.
 * @throws CNI_INPUT_NOT_JSON, CNI_VERSION_UNSUPPORTED, CNI_VERSION_TOO_OLD, CNI_FIELD_UNSUPPORTED, CNI_CONFIG_INVALID
 */
export function readConfig(stdin: Uint8Array, command: CniCommand): CniConfig {
  const json = decode(stdin);
  const cniVersion = checkVersion(json['cniVersion'], command);
  // DEL and GC must free what an older configuration made, so they forgive keys that ADD would refuse.
  const frees = command === 'DEL' || command === 'GC';
  if (!frees) refuseUnsupported(json);
  const parsed = v.safeParse(configSchema, json);
  if (!parsed.success)
    throw cniError('CNI_CONFIG_INVALID', {
      problems: parsed.issues.map((issue) => `"${v.getDotPath(issue) ?? ''}": ${issue.message}`),
    });
  const config = parsed.output;
  const invalid = (why: string) => cniError('CNI_CONFIG_INVALID', { problems: [why] });
  const wanted = command === 'ADD' ? (config.runtimeConfig?.ips ?? config.args?.cni?.ips ?? []) : [];
  const attachments = config['cni.dev/valid-attachments'] ?? config['cni.dev/attachments'];
  return {
    cniVersion,
    name: config.name,
    dns: dnsOf(config),
    ips: readIps(wanted, invalid),
    mtuBytes: config.mtu,
    portMappings: frees ? [] : readPortMappings(config.runtimeConfig?.portMappings, invalid),
    podLink: config.podLink,
    prevResult: config.prevResult ?? undefined,
    validAttachments: attachments?.map(({ containerID, ifname }) => ({ containerId: containerID, ifname })),
  };
}

function decode(stdin: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(stdin));
  } catch (error) {
    const why = stdin.length === 0 ? 'standard input is empty' : (error as Error).message;
    throw cniError('CNI_INPUT_NOT_JSON', { why }, error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw cniError('CNI_INPUT_NOT_JSON', { why: 'it is no JSON object' });
  return value as Record<string, unknown>;
}

/** Names the first key that we would otherwise ignore silently. */
function refuseUnsupported(json: Record<string, unknown>): void {
  const unsupported = (key: string, value: unknown, known: readonly string[]) =>
    cniError('CNI_FIELD_UNSUPPORTED', {
      key,
      value: JSON.stringify(value)?.slice(0, 200) ?? 'undefined',
      hint: closest(key, known),
    });
  for (const [key, value] of Object.entries(json))
    if (!CONFIG_KEYS.includes(key) && !key.startsWith('cni.dev/')) throw unsupported(key, value, CONFIG_KEYS);
  for (const [key, value] of entries(json['runtimeConfig']))
    if (!RUNTIME_CONFIG_KEYS.includes(key) && !v.is(empty, value))
      throw unsupported(`runtimeConfig.${key}`, value, []);
  // Addresses come from the agent; a delegated IPAM plugin would fight it.
  for (const [key, value] of entries(json['ipam'])) throw unsupported(`ipam.${key}`, value, []);
}

function entries(value: unknown): [string, unknown][] {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
}

/** DNS settings of the runtime (the Pod's dnsConfig) win over those of the configuration. */
function dnsOf(config: v.InferOutput<typeof configSchema>): CniDns | undefined {
  const asked = config.runtimeConfig?.dns;
  if (!asked) return config.dns ?? undefined;
  return {
    ...(asked.servers ? { nameservers: asked.servers } : {}),
    ...(asked.searches ? { search: asked.searches } : {}),
    ...(asked.options ? { options: asked.options } : {}),
  };
}

/** The known key that a misspelt one is most like: at most two letters off, or only case. Pure. */
export function closest(key: string, known: readonly string[]): string | undefined {
  let best: { name: string; distance: number } | undefined;
  for (const name of known) {
    const distance = editDistance(key.toLowerCase(), name.toLowerCase());
    if (distance <= 2 && distance < name.length / 2 && (!best || distance < best.distance))
      best = { name, distance };
  }
  return best?.name;
}

/** Levenshtein's distance; keys are short. */
function editDistance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return 3;
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
