/** What a lab's nodes hold beside what their pods need: looked up from outside, with ip(8), bpftool(8) and folders. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { isHostLinkName } from '../../src/podlink/index.ts';
import type { Lab } from './lab.ts';

interface PodJson {
  metadata: { name: string; deletionTimestamp?: string };
  spec: { nodeName?: string; hostNetwork?: boolean };
  status: { podIPs?: { ip: string }[]; phase: string };
}

/** Everything that does not fit, as sentences; empty when nothing leaks. */
export async function leaks(lab: Lab, nodes: readonly string[]): Promise<string[]> {
  const { items } = await lab.get<{ items: PodJson[] }>('pods', '-A');
  const found: string[] = [];
  const tell = (node: string, what: string, got: Iterable<string>, want: Iterable<string>) => {
    const [a, b] = [new Set(got), new Set(want)];
    const more = [...a].filter((one) => !b.has(one));
    const less = [...b].filter((one) => !a.has(one));
    if (more.length + less.length > 0)
      found.push(`${node}: ${what}: too many [${more.join(' ')}], missing [${less.join(' ')}]`);
  };
  for (const node of nodes) {
    const pods = items.filter(({ spec }) => spec.nodeName === node && !spec.hostNetwork);
    const links = await lab.podLinks(node);
    const names = pods.map(({ metadata }) => `default/${metadata.name}`);
    tell(
      node,
      'attachments',
      links.map(({ pod }) => pod),
      names,
    );
    if (links.length !== new Set(links.map(({ pod }) => pod)).size)
      found.push(`${node}: two attachments of one pod: ${links.map(({ pod }) => pod).join(' ')}`);
    tell(
      node,
      'addresses',
      links.flatMap(({ addresses }) => addresses),
      pods.flatMap(({ status }) => (status.podIPs ?? []).map(({ ip }) => ip)),
    );
    const { podLinks } = await lab.ask<{ podLinks: { pools: { used: number }[] } }>(node, 'status');
    for (const { used } of podLinks.pools)
      if (used !== pods.length) found.push(`${node}: ${used} addresses in use, ${pods.length} pods`);
    const seen = await lab.jsonExec<{ ifname: string; ifindex: number }[]>(node, ['ip', '-j', 'link']);
    const hostLinks = seen.filter(({ ifname }) => isHostLinkName(ifname));
    tell(
      node,
      'links',
      hostLinks.map(({ ifname }) => ifname),
      links.map(({ hostLink }) => hostLink),
    );
    tell(
      node,
      'namespaces',
      readdirSync('/run/netns').filter((name) => name.startsWith(`${lab.name}-${node}-`)),
      links.map(({ netns }) => basename(netns)),
    );
    const pins = join('/sys/fs/bpf', lab.name, node, 'lb-v1');
    tell(
      node,
      'pinned links',
      readdirSync(pins).filter((name) => name.startsWith('pod_')),
      hostLinks.flatMap(({ ifindex }) => [`pod_${ifindex}_from`, `pod_${ifindex}_to`]),
    );
    const stateDir = join('/run', lab.name, node, 'pods');
    const listed = (folder: string) =>
      existsSync(join(stateDir, folder)) ? readdirSync(join(stateDir, folder)) : [];
    tell(
      node,
      'sandboxes',
      listed('sandboxes'),
      links.map(({ containerId }) => containerId),
    );
    if (listed('volumes').length > pods.length)
      found.push(`${node}: ${listed('volumes').length} volume folders of ${pods.length} pods`);
    tell(
      node,
      'cgroups',
      readdirSync(lab.cgroup(node, 'pods'), { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name),
      links.map(({ containerId }) => containerId),
    );
  }
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`/run/${lab.name}/`));
  if (mounts.length > 0) found.push(`mounts: ${mounts.join(' ')}`);
  return found;
}

/** Pods as the records of a node's runner know them, with the processes that live for each. */
export function podProcesses(lab: Lab, node: string): { pod: string; pid: number; kind: string }[] {
  const root = join('/run', lab.name, node, 'pods');
  const found: { pod: string; pid: number; kind: string }[] = [];
  const owners = new Map<string, string>();
  const list = (kind: string) => (existsSync(join(root, kind)) ? readdirSync(join(root, kind)) : []);
  const read = (path: string) => {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  };
  for (const id of list('sandboxes')) {
    const record = read(join(root, 'sandboxes', id, 'sandbox.json'));
    const pid = Number(read(join(root, 'sandboxes', id, 'pid'))?.split(' ')[0]);
    if (!record) continue;
    const { name } = (JSON.parse(record) as { config: { metadata: { name: string } } }).config.metadata;
    owners.set(id, name);
    if (pid > 0) found.push({ pod: name, pid, kind: 'sandbox' });
  }
  for (const id of list('containers')) {
    const folder = join(root, 'containers', id);
    const record = read(join(folder, 'container.json'));
    const [pid, , monitor] = (read(join(folder, 'pid')) ?? '').trim().split(' ').map(Number);
    if (!record || existsSync(join(folder, 'exit'))) continue;
    const pod = owners.get((JSON.parse(record) as { sandboxId: string }).sandboxId);
    if (!pod) continue;
    if (pid) found.push({ pod, pid, kind: 'container' });
    if (monitor) found.push({ pod, pid: monitor, kind: 'monitor' });
  }
  return found;
}
