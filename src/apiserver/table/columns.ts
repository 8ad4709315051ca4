/** The columns of each kind, as the printers of Kubernetes define them: pkg/printers/internalversion/printers.go. */
import type { ClusterNetworkPolicy } from '../../model/cluster-network-policy.ts';
import type { ConfigMap, Lease, Namespace, NetworkPolicy, ServiceCIDR } from '../../model/kubernetes.ts';
import type { NodeNetworkPolicy } from '../../model/node-network-policy.ts';
import type { KindSchema } from '../schema/index.ts';
import { labelSelectorText } from '../selectors/labels.ts';
import { columnList, type KindTable } from './column.ts';
import { ageOf } from './duration.ts';
import { eventTable } from './event.ts';
import { nodeTable } from './node.ts';
import { podTable } from './pod.ts';
import { endpointSliceTable, endpointsTable, serviceTable } from './service.ts';

/** Kinds that show nothing but their name and age. */
const plain: KindTable = {
  columns: columnList('Name', 'Age'),
  cells: (o, now) => [o.metadata.name, ageOf(o.metadata.creationTimestamp, now)],
};

const tables: Readonly<Record<string, KindTable>> = {
  Pod: podTable,
  Node: nodeTable,
  Service: serviceTable,
  EndpointSlice: endpointSliceTable,
  Endpoints: endpointsTable,
  Event: eventTable,
  Namespace: {
    columns: columnList('Name', 'Status', 'Age'),
    cells: (o, now) => [
      o.metadata.name,
      (o as Namespace).status?.phase ?? '',
      ageOf(o.metadata.creationTimestamp, now),
    ],
  },
  ConfigMap: {
    columns: columnList('Name', '#Data', 'Age'),
    cells: (o, now) => {
      const { data, binaryData } = o as ConfigMap;
      const count = Object.keys(data ?? {}).length + Object.keys(binaryData ?? {}).length;
      return [o.metadata.name, count, ageOf(o.metadata.creationTimestamp, now)];
    },
  },
  Lease: {
    columns: columnList('Name', 'Holder', 'Age'),
    cells: (o, now) => [
      o.metadata.name,
      (o as Lease).spec?.holderIdentity ?? '',
      ageOf(o.metadata.creationTimestamp, now),
    ],
  },
  NetworkPolicy: {
    columns: columnList('Name', 'Pod-Selector', 'Age'),
    cells: (o, now) => [
      o.metadata.name,
      labelSelectorText((o as NetworkPolicy).spec?.podSelector),
      ageOf(o.metadata.creationTimestamp, now),
    ],
  },
  ClusterNetworkPolicy: {
    columns: columnList('Name', 'Tier', 'Priority', 'Age'),
    cells: (o, now) => {
      const { tier, priority } = (o as ClusterNetworkPolicy).spec;
      return [o.metadata.name, tier, String(priority), ageOf(o.metadata.creationTimestamp, now)];
    },
  },
  NodeNetworkPolicy: {
    columns: columnList('Name', 'Priority', 'Ingress', 'Egress', 'Age'),
    cells: (o, now) => {
      const { priority, defaultIngress = 'Accept', defaultEgress = 'Accept' } = (o as NodeNetworkPolicy).spec;
      return [
        o.metadata.name,
        String(priority),
        defaultIngress,
        defaultEgress,
        ageOf(o.metadata.creationTimestamp, now),
      ];
    },
  },
  ServiceCIDR: {
    columns: columnList('Name', 'CIDRs', 'Age'),
    cells: (o, now) => [
      o.metadata.name,
      ((o as ServiceCIDR).spec?.cidrs ?? []).join(','),
      ageOf(o.metadata.creationTimestamp, now),
    ],
  },
};

export const columnsOf = (schema: KindSchema): KindTable => tables[schema.kind] ?? plain;
