/** What can be said to `portolan lab`; apart from what it does, which is loaded when it is done. */
import type { LabOptions } from '../lab/plan.ts';

export const DEFAULT_NAME = 'portolan-lab';

export interface UpFlags extends LabOptions {
  demo: boolean;
  json: boolean;
}

export interface NamedFlags {
  name: string;
  json: boolean;
}
