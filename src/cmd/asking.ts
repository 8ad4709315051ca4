/** What commands that ask the agent of this node have in common. */
import type { Command } from 'commander';
import { askAgent } from '../agent/socket.ts';

export interface AskFlags {
  stateDir: string;
  json: boolean;
}

/** Adds the options of a command that asks the agent. */
export function asking(command: Command): Command {
  return command
    .option(
      '--state-dir <path>',
      'folder of the agent to ask',
      process.env['PORTOLAN_STATE_DIR'] ?? '/run/portolan',
    )
    .option('--json', 'print JSON', false);
}

/** The agent's answer to GET. Throws AGENT_NOT_RUNNING, the agent's own error, AGENT_REFUSED when it is none. */
export function ask<T>(flags: AskFlags, path: string): Promise<T> {
  return askAgent<T>(`${flags.stateDir}/agent.sock`, 'GET', path);
}
