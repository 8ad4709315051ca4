import { type IpAddress, parseInterfaceAddress, tryParseIp } from '../addr/index.ts';
import { cniError } from '../errors/cni.ts';
import { isNetError } from '../errors/net-error.ts';

export const COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
export type CniCommand = (typeof COMMANDS)[number];

/** What the runtime said by environment variables. Variables that a verb does not need are empty when absent. */
export interface CniEnvironment {
  readonly command: CniCommand;
  readonly containerId: string;
  readonly netns: string;
  readonly ifname: string;
  readonly args: CniArgs;
}

/** Pairs of CNI_ARGS that are understood; Kubernetes runtimes set the K8S_ ones. */
export interface CniArgs {
  readonly podNamespace: string;
  readonly podName: string;
  readonly podUid: string;
  /** Addresses asked for with IP=. */
  readonly ips: readonly IpAddress[];
}

/** Variables that each verb can't do without: CNI specification 1.1, section 2. CNI_PATH is for delegating, which we do not. */
const REQUIRED: Readonly<Record<CniCommand, readonly string[]>> = {
  ADD: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  CHECK: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  DEL: ['CNI_CONTAINERID', 'CNI_IFNAME'],
  GC: [],
  STATUS: [],
  VERSION: [],
};

/** libcni's `utils.ValidateContainerID`, also used for network names. */
export const IDENTIFIER = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** Reads and checks the environment of a call. Throws CNI_COMMAND_UNKNOWN, CNI_ENV_MISSING, CNI_ENV_INVALID. */
export function readEnvironment(env: ReadonlyMap<string, string>): CniEnvironment {
  const command = env.get('CNI_COMMAND') ?? '';
  if (!isCommand(command)) throw cniError('CNI_COMMAND_UNKNOWN', { command, known: [...COMMANDS] });
  const variables = REQUIRED[command].filter((name) => !env.get(name));
  if (variables.length > 0) throw cniError('CNI_ENV_MISSING', { command, variables });
  const containerId = env.get('CNI_CONTAINERID') ?? '';
  const ifname = env.get('CNI_IFNAME') ?? '';
  if (REQUIRED[command].length > 0) {
    checkContainerId(containerId);
    checkIfname(ifname);
  }
  // DEL must work whatever ADD was given, so it reads no arguments.
  const args = command === 'DEL' ? NO_ARGS : readArgs(env.get('CNI_ARGS') ?? '');
  return { command, containerId, netns: env.get('CNI_NETNS') ?? '', ifname, args };
}

function isCommand(text: string): text is CniCommand {
  return (COMMANDS as readonly string[]).includes(text);
}

function checkContainerId(value: string): void {
  const why =
    value.length > 256
      ? 'it is longer than 256 characters'
      : !IDENTIFIER.test(value)
        ? 'want letters, digits, "_", "." and "-", the first a letter or digit'
        : undefined;
  if (why) throw cniError('CNI_ENV_INVALID', { variable: 'CNI_CONTAINERID', value: value.slice(0, 80), why });
}

/** dev_valid_name() of the kernel, and what libcni refuses besides. */
function checkIfname(value: string): void {
  const why =
    Buffer.byteLength(value) > 15
      ? 'it is longer than 15 bytes'
      : value === '.' || value === '..'
        ? 'it is no name'
        : /[/:\s]/.test(value)
          ? 'it has a "/", ":" or space'
          : undefined;
  if (why) throw cniError('CNI_ENV_INVALID', { variable: 'CNI_IFNAME', value: value.slice(0, 80), why });
}

const NO_ARGS: CniArgs = { podNamespace: '', podName: '', podUid: '', ips: [] };

/** Reads `KEY=value;KEY=value`. Unknown keys are ignored whether or not IgnoreUnknown is set: runtimes add their own. */
export function readArgs(text: string): CniArgs {
  const invalid = (why: string) =>
    cniError('CNI_ENV_INVALID', { variable: 'CNI_ARGS', value: text.slice(0, 200), why });
  const pairs = new Map<string, string>();
  for (const pair of text.split(';')) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    if (equals < 1) throw invalid(`"${pair}" is not of the form KEY=value`);
    pairs.set(pair.slice(0, equals), pair.slice(equals + 1));
  }
  return {
    podNamespace: pairs.get('K8S_POD_NAMESPACE') ?? '',
    podName: pairs.get('K8S_POD_NAME') ?? '',
    podUid: pairs.get('K8S_POD_UID') ?? '',
    ips: readIps((pairs.get('IP') ?? '').split(',').filter(Boolean), (why) => invalid(why)),
  };
}

/** Reads addresses with or without a prefix length, which pod links do not need. */
export function readIps(texts: readonly string[], invalid: (why: string) => Error): IpAddress[] {
  return texts.map((text) => {
    const address = tryParseIp(text);
    if (address) return address;
    try {
      return parseInterfaceAddress(text).address;
    } catch (error) {
      throw invalid(isNetError(error) ? error.message : `"${text}" is no IP address`);
    }
  });
}
