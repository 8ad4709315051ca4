/** The areas of `npm run bench`, in the order in which they run. Each is loaded only in its own process. */
import type { AreaOptions, Figure } from './figure.ts';

export interface Area {
  readonly name: string;
  readonly about: string;
  readonly run: (options: AreaOptions) => Promise<Figure[]>;
}

const adapters = () => import('./adapters.ts');

export const areas: readonly Area[] = [
  {
    name: 'launcher',
    about: 'The launcher',
    run: async (options) => (await import('./launcher.ts')).benchLauncher(options),
  },
  {
    name: 'routes',
    about: 'Routes over rtnetlink',
    run: async (options) => (await import('./routes.ts')).benchRoutes(options),
  },
  {
    name: 'elements',
    about: 'Elements of nftables maps and BPF maps',
    run: async (options) => (await adapters()).elementFigures(options),
  },
  {
    name: 'cni',
    about: 'CNI ADD and DEL',
    run: async (options) => (await adapters()).cniFigures(options),
  },
  {
    name: 'podlink',
    about: 'Kinds of pod links',
    run: async (options) => (await import('./podlink.ts')).benchPodLinks(options),
  },
  {
    name: 'vxlan',
    about: 'Pod to pod across nodes: VXLAN and direct routing',
    run: async (options) => (await import('./vxlan.ts')).benchVxlan(options),
  },
  {
    name: 'overlay',
    about: 'The overlay by itself: peers, leases, repair',
    run: async (options) => (await import('./repair.ts')).benchOverlayControl(options),
  },
  {
    name: 'service',
    about: 'Service connections and programming',
    run: async (options) => (await adapters()).serviceFigures(options),
  },
  {
    name: 'service-nft',
    about: 'The nftables engine beside nft -f',
    run: async (options) => (await import('./service-nft.ts')).benchServiceNft(options),
  },
  {
    name: 'service-scale',
    about: '100,000 Services with a million endpoints',
    run: async (options) => (await import('./service-scale.ts')).benchServiceScale(options),
  },
  {
    name: 'flows',
    about: 'The table of translated flows beside an LRU hash',
    run: async (options) => (await import('./flows.ts')).benchFlows(options),
  },
  {
    name: 'flood',
    about: 'Established flows during a flood of new ones',
    run: async (options) => (await import('./flood.ts')).benchFlood(options),
  },
  {
    name: 'xdp',
    about: 'XDP load balancing, a packet',
    run: async (options) => (await import('./xdp.ts')).benchXdp(options),
  },
  {
    name: 'endpoints',
    about: 'API write to data path, with a real API server, controllers and agent',
    run: async (options) => (await import('./endpoints.ts')).benchEndpoints(options),
  },
  {
    name: 'policy',
    about: 'Network policy: API write to kernel, programming, repair, cost of a packet',
    run: async (options) => (await import('./policy.ts')).benchPolicyArea(options),
  },
  {
    name: 'api',
    about: 'The API server',
    run: async (options) => (await adapters()).apiFigures(options),
  },
  {
    name: 'pods',
    about: 'Starting pods',
    run: async (options) => (await import('./pods.ts')).benchPods(options),
  },
];
