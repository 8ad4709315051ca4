import { cniError } from '../errors/cni.ts';
import type { CniCommand } from './environment.ts';

/** Versions of the CNI specification, oldest first. The plugin binary answers VERSION with the same list. */
export const SUPPORTED_VERSIONS = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof SUPPORTED_VERSIONS)[number];

/** Verbs that are younger than the oldest version. */
const SINCE: Readonly<Partial<Record<CniCommand, CniVersion>>> = {
  CHECK: '0.4.0',
  GC: '1.1.0',
  STATUS: '1.1.0',
};

/** Checks the version of a configuration for a verb. Throws CNI_VERSION_UNSUPPORTED, CNI_VERSION_TOO_OLD. */
export function checkVersion(version: unknown, command: CniCommand): CniVersion {
  const at = (SUPPORTED_VERSIONS as readonly unknown[]).indexOf(version);
  if (at < 0)
    throw cniError('CNI_VERSION_UNSUPPORTED', {
      version: version === undefined ? '' : typeof version === 'string' ? version : JSON.stringify(version),
      supported: SUPPORTED_VERSIONS,
    });
  const since = SINCE[command];
  if (since && at < SUPPORTED_VERSIONS.indexOf(since))
    throw cniError('CNI_VERSION_TOO_OLD', { version: String(version), command, since });
  return SUPPORTED_VERSIONS[at]!;
}
