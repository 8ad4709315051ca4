/** What can go wrong with the addresses of pods and the database that holds them. */
import { entry, errorsOf } from './net-error.ts';

export const ipamCatalogue = {
  IPAM_NO_POOL: entry(
    (c: { node?: string }) =>
      `Cannot allocate an address: node${c.node ? ` "${c.node}"` : ''} has no pod CIDR yet`,
    () => 'Wait until the controller has given the node spec.podCIDRs; "kubectl get node -o yaml" shows it',
  ),
  IPAM_POOL_EXHAUSTED: entry(
    (c: { pool: string; used: number }) =>
      `Cannot allocate an address from ${c.pool}: all ${c.used} usable addresses are taken`,
    () =>
      'Delete pods of this node, or give nodes larger pod CIDRs; "portolan pod list" shows who holds addresses',
  ),
  IPAM_ADDRESS_TAKEN: entry(
    (c: { address: string; containerId: string; ifname: string }) =>
      `Cannot allocate ${c.address}: container "${c.containerId}" holds it on "${c.ifname}"`,
    () => 'Request another address, or delete that container first',
  ),
  IPAM_ADDRESS_OUTSIDE: entry(
    (c: { address: string; pools: string[] }) =>
      `Cannot allocate ${c.address}: it is outside the pod CIDRs of this node (${c.pools.join(', ') || 'none'})`,
    () => 'Request an address from one of these pod CIDRs',
  ),
  IPAM_ADDRESS_RESERVED: entry(
    (c: { address: string; pool: string; role: string }) =>
      `Cannot allocate ${c.address}: it is the ${c.role} of ${c.pool}`,
    () => 'Request another address',
  ),
  IPAM_TWO_ADDRESSES: entry(
    (c: { family: number; addresses: string[] }) =>
      `Cannot allocate ${c.addresses.join(' and ')}: an attachment has one IPv${c.family} address`,
    (c) => `Request one IPv${c.family} address`,
  ),
  IPAM_ATTACHMENT_EXISTS: entry(
    (c: { containerId: string; ifname: string; addresses: string[] }) =>
      `Cannot attach "${c.ifname}" of container "${c.containerId}": it is attached with ${c.addresses.join(', ')}`,
    () => 'Run DEL for this container before ADD is repeated',
  ),
  IPAM_HOST_LINK_TAKEN: entry(
    (c: { hostLink: string; containerId: string }) =>
      `Cannot use host link name "${c.hostLink}" for container "${c.containerId}": another attachment has it`,
    () => 'Create the container again; its new id gives another name',
  ),
  IPAM_STORE_FOREIGN: entry(
    (c: { path: string; found: string }) =>
      `Cannot open address database "${c.path}": it is ${c.found}, want one of Portolan`,
    () => 'Choose another --state-dir, or move that file away',
  ),
  IPAM_STORE_NEWER: entry(
    (c: { path: string; version: number; known: number }) =>
      `Cannot open address database "${c.path}": its format is version ${c.version}, this program knows up to ${c.known}`,
    () => 'Start the newer Portolan that wrote it',
  ),
  IPAM_STORE_DAMAGED: entry(
    (c: { path: string; detail: string }) =>
      `Cannot use address database "${c.path}": it is damaged (${c.detail})`,
    (c) =>
      `Drain this node and delete its pods, then move "${c.path}" and its -wal file away; the agent makes a new one`,
  ),
  IPAM_STORE_IN_USE: entry(
    (c: { path: string }) => `Cannot open address database "${c.path}": another process holds it`,
    () => 'Stop the other agent of this state directory',
  ),
  IPAM_STORE_UNWRITABLE: entry(
    (c: { path: string; detail: string }) => `Cannot write address database "${c.path}": ${c.detail}`,
    (c) => `Make the folder of "${c.path}" writable for the agent`,
  ),
  IPAM_STORE_FULL: entry(
    (c: { path: string }) =>
      `Cannot write address database "${c.path}": the disk is full; nothing of this change was kept`,
    () => 'Free space on the file system of the state directory; the runtime repeats the call',
  ),
  IPAM_STORE_FAILED: entry(
    (c: { path: string; detail: string }) =>
      `Cannot write address database "${c.path}": ${c.detail}; nothing of this change was kept`,
    () => 'Check the disk of the state directory; the runtime repeats the call',
  ),
  IPAM_STORE_CLOSED: entry(
    (c: { path: string }) => `Cannot use address database "${c.path}": it is closed`,
    () => 'Nothing to do: the agent is stopping',
  ),
};

/** Makes an error of the address catalogue. */
export const ipamError = errorsOf(ipamCatalogue);
