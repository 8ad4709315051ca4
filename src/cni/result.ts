import { isIP } from 'node:net';
import * as v from 'valibot';
import type { CniVersion } from './versions.ts';

/** Results are kept in the form of 1.1.0, and written in the form that the caller asked for. */
const text = v.string();
const count = v.pipe(v.number(), v.integer(), v.minValue(0));

export const dnsSchema = v.looseObject({
  nameservers: v.optional(v.array(text)),
  domain: v.optional(text),
  search: v.optional(v.array(text)),
  options: v.optional(v.array(text)),
});

const interfaceSchema = v.looseObject({
  name: text,
  mac: v.optional(text),
  mtu: v.optional(count),
  sandbox: v.optional(text),
  socketPath: v.optional(text),
  pciID: v.optional(text),
});

const addressSchema = v.looseObject({
  version: v.optional(text),
  interface: v.optional(v.nullable(count)),
  address: text,
  gateway: v.optional(text),
});

const routeSchema = v.looseObject({
  dst: text,
  gw: v.optional(text),
  mtu: v.optional(count),
  advmss: v.optional(count),
  priority: v.optional(count),
  table: v.optional(v.nullable(count)),
  scope: v.optional(v.nullable(count)),
});

/** `prevResult` of a configuration: what the plugin before us made. Newer keys inside go through as they are. */
export const resultSchema = v.looseObject({
  cniVersion: v.optional(text),
  interfaces: v.optional(v.nullable(v.array(interfaceSchema))),
  ips: v.optional(v.nullable(v.array(addressSchema))),
  routes: v.optional(v.nullable(v.array(routeSchema))),
  dns: v.optional(v.nullable(dnsSchema)),
});

export type CniDns = v.InferOutput<typeof dnsSchema>;
export type CniInterface = v.InferOutput<typeof interfaceSchema>;
export type CniAddress = v.InferOutput<typeof addressSchema>;
export type CniRoute = v.InferOutput<typeof routeSchema>;
export type CniPrevResult = v.InferOutput<typeof resultSchema>;

/** What a plugin made, without a version. */
export interface CniResult {
  readonly interfaces: readonly CniInterface[];
  /** `interface` is an index into `interfaces`. */
  readonly ips: readonly CniAddress[];
  readonly routes: readonly CniRoute[];
  readonly dns: CniDns;
}

/** The previous plugins' result with ours behind it: indices into `interfaces` move up. Pure. */
export function amendResult(previous: CniPrevResult | undefined, own: CniResult): CniResult {
  if (!previous) return own;
  const interfaces = previous.interfaces ?? [];
  return {
    interfaces: [...interfaces, ...own.interfaces],
    ips: [
      ...(previous.ips ?? []),
      ...own.ips.map((ip) =>
        typeof ip.interface === 'number' ? { ...ip, interface: ip.interface + interfaces.length } : ip,
      ),
    ],
    routes: [...(previous.routes ?? []), ...own.routes],
    dns: { ...(previous.dns ?? {}), ...own.dns },
  };
}

/** Keys that 1.1.0 brought; older readers do not expect them. */
const NEW_INTERFACE_KEYS = ['mtu', 'socketPath', 'pciID'];
const NEW_ROUTE_KEYS = ['mtu', 'advmss', 'priority', 'table', 'scope'];

/**
 * The JSON value of a result in a version of the specification: 0.x wants `version` with each address, 1.x has none;
 * before 1.1.0 interfaces have name, mac and sandbox only, routes dst and gw only. Pure.
 */
export function resultFor(version: CniVersion, result: CniResult): Record<string, unknown> {
  const is11 = version === '1.1.0';
  const old = version.startsWith('0.');
  return {
    cniVersion: version,
    interfaces: result.interfaces.map((each) => (is11 ? each : without(each, NEW_INTERFACE_KEYS))),
    ips: result.ips.map((ip) => {
      const { version: _, ...rest } = ip;
      return old ? { version: String(isIP(ip.address.split('/')[0] ?? '') || 4), ...rest } : rest;
    }),
    routes: result.routes.map((route) => (is11 ? route : without(route, NEW_ROUTE_KEYS))),
    dns: result.dns,
  };
}

function without(value: Record<string, unknown>, keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key)));
}
