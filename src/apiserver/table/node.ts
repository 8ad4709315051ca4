import type { Node } from '../../model/kubernetes.ts';
import { columnList, type KindTable } from './column.ts';
import { ageOf } from './duration.ts';

const ROLE_PREFIX = 'node-role.kubernetes.io/';

function rolesOf(node: Node): string {
  const roles = new Set<string>();
  for (const [key, value] of Object.entries(node.metadata.labels ?? {})) {
    if (key.startsWith(ROLE_PREFIX) && key.length > ROLE_PREFIX.length)
      roles.add(key.slice(ROLE_PREFIX.length));
    else if (key === 'kubernetes.io/role' && value !== '') roles.add(value);
  }
  return roles.size === 0 ? '<none>' : [...roles].sort().join(',');
}

function statusOf(node: Node): string {
  const ready = node.status?.conditions?.find((condition) => condition.type === 'Ready');
  const words = [ready === undefined ? 'Unknown' : ready.status === 'True' ? 'Ready' : 'NotReady'];
  if (node.spec?.unschedulable) words.push('SchedulingDisabled');
  return words.join(',');
}

const addressOf = (node: Node, type: string) =>
  node.status?.addresses?.find((address) => address.type === type)?.address ?? '<none>';

export const nodeTable: KindTable = {
  columns: columnList(
    'Name',
    'Status',
    'Roles',
    'Age',
    'Version',
    '+Internal-IP',
    '+External-IP',
    '+OS-Image',
    '+Kernel-Version',
    '+Container-Runtime',
  ),
  cells: (object, now) => {
    const node = object as Node;
    const info = node.status?.nodeInfo ?? {};
    return [
      node.metadata.name,
      statusOf(node),
      rolesOf(node),
      ageOf(node.metadata.creationTimestamp, now),
      info['kubeletVersion'] ?? '',
      addressOf(node, 'InternalIP'),
      addressOf(node, 'ExternalIP'),
      info['osImage'] || '<unknown>',
      info['kernelVersion'] || '<unknown>',
      info['containerRuntimeVersion'] || '<unknown>',
    ];
  },
};
