import type { EndpointSlice, Endpoints, Service } from '../../model/kubernetes.ts';
import { columnList, type KindTable } from './column.ts';
import { ageOf } from './duration.ts';

function externalIpOf(service: Service): string {
  const { spec, status } = service;
  const external = spec.externalIPs ?? [];
  switch (spec.type) {
    case 'ExternalName':
      return spec.externalName ?? '';
    case 'LoadBalancer': {
      const addresses = [
        ...new Set((status?.loadBalancer?.ingress ?? []).map((i) => i.ip ?? i.hostname ?? '')),
      ];
      // All of them: tables of a server are wide ones, and only those are cut that a kubectl made itself.
      const balancer = addresses.sort().join(',');
      if (external.length > 0) return [...(balancer === '' ? [] : [balancer]), ...external].join(',');
      return balancer === '' ? '<pending>' : balancer;
    }
    default:
      return external.length > 0 ? external.join(',') : '<none>';
  }
}

function portsOf(service: Service): string {
  const ports = (service.spec.ports ?? []).map(({ port, nodePort, protocol = 'TCP' }) =>
    nodePort ? `${port}:${nodePort}/${protocol}` : `${port}/${protocol}`,
  );
  return ports.length === 0 ? '<none>' : ports.join(',');
}

function selectorOf(service: Service): string {
  const pairs = Object.entries(service.spec.selector ?? {}).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? '<none>' : pairs.sort().join(',');
}

export const serviceTable: KindTable = {
  columns: columnList('Name', 'Type', 'Cluster-IP', 'External-IP', 'Port(s)', 'Age', '+Selector'),
  cells: (object, now) => {
    const service = object as Service;
    return [
      service.metadata.name,
      service.spec.type ?? '',
      service.spec.clusterIPs?.[0] || service.spec.clusterIP || '<none>',
      externalIpOf(service),
      portsOf(service),
      ageOf(service.metadata.creationTimestamp, now),
      selectorOf(service),
    ];
  },
};

/** The first three of a list, and how many more there are: printers.go, formatEndpointSliceEndpoints. */
function firstThree(items: readonly string[], none: string): string {
  if (items.length === 0) return none;
  const shown = items.slice(0, 3).join(',');
  return items.length > 3 ? `${shown} + ${items.length - 3} more...` : shown;
}

export const endpointSliceTable: KindTable = {
  columns: columnList('Name', 'AddressType', 'Ports', 'Endpoints', 'Age'),
  cells: (object, now) => {
    const slice = object as EndpointSlice;
    const ports = (slice.ports ?? []).map((p) => {
      const named = p.name ? `${p.name}=` : '';
      return p.port === undefined || p.port === null ? `${named}*` : String(p.port);
    });
    const addresses = (slice.endpoints ?? []).flatMap((endpoint) => endpoint.addresses);
    return [
      slice.metadata.name,
      slice.addressType,
      firstThree(ports, '<unset>'),
      firstThree(addresses, '<unset>'),
      ageOf(slice.metadata.creationTimestamp, now),
    ];
  },
};

export const endpointsTable: KindTable = {
  columns: columnList('Name', 'Endpoints', 'Age'),
  cells: (object, now) => {
    const { metadata, subsets = [] } = object as Endpoints;
    const all: string[] = [];
    for (const { addresses = [], ports = [] } of subsets) {
      if (ports.length === 0) all.push(...addresses.map(({ ip }) => ip));
      for (const { port } of ports)
        all.push(...addresses.map(({ ip }) => (ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`)));
    }
    return [metadata.name, firstThree(all, '<none>'), ageOf(metadata.creationTimestamp, now)];
  },
};
