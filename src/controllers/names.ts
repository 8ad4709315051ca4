/** Controllers that can be chosen by name; apart so that the command line can list them without loading them. */
export const controllerNames = [
  'node-cidrs',
  'node-lifecycle',
  'endpoint-slices',
  'services',
  'load-balancers',
  'scheduler',
] as const;
export type ControllerName = (typeof controllerNames)[number];
