/** One try to program a Service port: all of it, or nothing. */
import { serviceError } from '../../../errors/index.ts';
import type { PortPlan } from '../../types.ts';
import type { RangeAllocator } from './allocate.ts';

/** What is undone when a port cannot be programmed, and what is written when it can. */
export interface Attempt {
  readonly undo: (() => void)[];
  readonly write: (() => void)[];
}

/** Numbers one behind the other out of a space. Throws SERVICE_MAP_FULL. */
export function takeNumbers(space: RangeAllocator, length: number, plan: PortPlan, map: string): number {
  const start = space.take(length);
  if (start === undefined)
    throw serviceError('SERVICE_MAP_FULL', {
      service: plan.service,
      map,
      used: space.used,
      limit: space.limit - space.first,
      wanted: length,
    });
  return start;
}
