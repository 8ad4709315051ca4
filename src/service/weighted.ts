import type { BackendPlan, PortPlan, SetName } from './types.ts';

/** The backends that a set is drawn from, as indexes of the port's: one of weight 3 is there three times. */
export function weightedMembers(port: PortPlan, set: SetName): readonly number[] {
  const { members } = port[set];
  const weights = members.map((at) => port.backends[at]!.weight);
  const divisor = weights.reduce(greatestCommonDivisor, 0) || 1;
  if (weights.every((weight) => weight === divisor)) return members;
  return members.flatMap((member, at) => new Array<number>(weights[at]! / divisor).fill(member));
}

/** Names a backend within its port. */
export function backendName({ endpoint, port }: BackendPlan): string {
  return `${endpoint.address}|${port}`;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
