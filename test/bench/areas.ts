/** The areas of `npm run bench`, in the order in which they run. Each is loaded only in its own process. */
import { type AreaOptions, type Figure, figureOf } from './figure.ts';

export interface Area {
  readonly name: string;
  readonly about: string;
  readonly run: (options: AreaOptions) => Promise<Figure[]>;
}

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
    run: async () => {
      const nft = await (await import('./nft-elements.ts')).bench();
      const bpf = await (await import('./bpf.ts')).bench();
      return [...nft, ...bpf].map((row) => figureOf(row));
    },
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
    name: 'endpoints',
    about: 'API write to data path, with a real API server, controllers and agent',
    run: async (options) => (await import('./endpoints.ts')).benchEndpoints(options),
  },
];
